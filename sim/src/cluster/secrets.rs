//! Keys of simulated nodes: no secrets, and the same in every run.

use prism_net::{Protection, SessionKeys};
use prism_node::keys::PublicKey;
use zeroize::Zeroizing;

fn private(node: usize) -> [u8; 32] {
    [node as u8 + 1; 32]
}

/// The public key of a node.
#[must_use]
pub fn public(node: usize) -> PublicKey {
    PublicKey(prism_net::public_key(&private(node)))
}

/// What a node proves itself with.
#[must_use]
pub fn protection(node: usize, sealed: bool) -> Protection {
    if !sealed {
        return Protection::Open;
    }
    Protection::Sealed(SessionKeys {
        private: Zeroizing::new(private(node)),
        psk: Zeroizing::new([0x5a; 32]),
    })
}
