//! The MACs at the end of handshake packets, and the cookies (WireGuard, 5.3 and 5.4.7).
//!
//! `mac1` shows that the sender knows the cluster's pre-shared key and whom it calls: without it a
//! packet is not even looked at. `mac2` shows that the sender receives what is sent to its address:
//! asked for only when there are too many handshakes, because packets with a valid `mac1` can be
//! recorded and repeated from forged addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use prism_proto::Instant;
use subtle::ConstantTimeEq;

use super::crypto::{Entropy, Key, TAG, derive, hash, mac, open, seal};
use super::wire::{self, COOKIE, COOKIE_NONCE, Cookie, Initiation, Macs};

/// A cookie is good for one to two of these.
pub(super) const SECRET_FOR: Duration = Duration::from_secs(120);

/// Keys for the MACs of handshakes to one public key.
#[derive(Clone)]
pub(super) struct MacKeys {
    mac1: Key,
    cookie: Key,
}

impl MacKeys {
    pub(super) fn new(context: &[u8], psk: &Key, public: &[u8; 32]) -> Self {
        let key = |label: &[u8]| hash(&[label, context, public, &**psk]);
        Self {
            mac1: key(b"prism mac1"),
            cookie: key(b"prism cookie"),
        }
    }

    /// Writes both MACs at the end of a handshake packet.
    pub(super) fn sign(&self, packet: &mut [u8], cookie: Option<&[u8; TAG]>) {
        let Some(at) = packet.len().checked_sub(2 * TAG) else {
            return;
        };
        let mac1 = mac(&self.mac1, &packet[..at]);
        packet[at..at + TAG].copy_from_slice(&mac1);
        let mac2 = cookie.map_or([0; TAG], |cookie| with_cookie(cookie, &packet[..at + TAG]));
        packet[at + TAG..].copy_from_slice(&mac2);
    }

    /// Whether `mac1` was made with these keys.
    pub(super) fn verify(&self, macs: &Macs) -> bool {
        mac(&self.mac1, macs.before).ct_eq(macs.mac1).into()
    }

    /// The cookie in a reply to the initiation with this `mac1`.
    pub(super) fn open(&self, reply: &Cookie, mac1: &[u8; TAG]) -> Option<[u8; TAG]> {
        let mut cookie = [0; TAG];
        let key = derive(&self.cookie, reply.nonce);
        open(&key, 0, mac1, reply.sealed, &mut cookie)?;
        Some(cookie)
    }
}

fn with_cookie(cookie: &[u8; TAG], message: &[u8]) -> [u8; TAG] {
    let mut key = Key::default();
    key[..TAG].copy_from_slice(cookie);
    mac(&key, message)
}

/// Makes and checks the cookies of this node. It remembers none: a cookie is a MAC of the address.
pub(super) struct Cookies {
    /// The present secret and the one before it.
    secrets: [Key; 2],
    since: Option<Instant>,
}

impl Cookies {
    pub(super) fn new() -> Self {
        Self {
            secrets: Default::default(),
            since: None,
        }
    }

    /// False if there is no secret to be had: then there are no cookies.
    fn rotate(&mut self, now: Instant, entropy: &mut Entropy) -> bool {
        let old = self.since.map(|since| now.since(since));
        if old.is_some_and(|old| old < SECRET_FOR) {
            return true;
        }
        let mut fresh = Key::default();
        let mut before = Key::default();
        if !entropy.fill(&mut *fresh) || !entropy.fill(&mut *before) {
            return false;
        }
        if old.is_some_and(|old| old < 2 * SECRET_FOR) {
            before = self.secrets[0].clone();
        }
        self.secrets = [fresh, before];
        self.since = Some(now);
        true
    }

    fn of(secret: &Key, from: SocketAddr) -> [u8; TAG] {
        let mut address = [0; 18];
        let ip = match from.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        address[..16].copy_from_slice(&ip.octets());
        address[16..].copy_from_slice(&from.port().to_le_bytes());
        mac(secret, &address)
    }

    /// Whether `mac2` was made with a cookie that went to this address.
    pub(super) fn verify(
        &mut self,
        now: Instant,
        entropy: &mut Entropy,
        from: SocketAddr,
        macs: &Macs,
    ) -> bool {
        if self.since.is_none() || !self.rotate(now, entropy) {
            return false;
        }
        let fits = self
            .secrets
            .each_ref()
            .map(|secret| with_cookie(&Self::of(secret, from), macs.before2).ct_eq(macs.mac2));
        (fits[0] | fits[1]).into()
    }

    /// The reply that asks for a `mac2`.
    pub(super) fn reply(
        &mut self,
        now: Instant,
        entropy: &mut Entropy,
        keys: &MacKeys,
        from: SocketAddr,
        initiation: &Initiation,
    ) -> Option<[u8; COOKIE]> {
        let mut nonce = [0; COOKIE_NONCE];
        if !self.rotate(now, entropy) || !entropy.fill(&mut nonce) {
            return None;
        }
        let cookie = Self::of(&self.secrets[0], from);
        // XChaCha20's way to a long nonce (a key per nonce), with BLAKE2s in the place of HChaCha20.
        let key = derive(&keys.cookie, &nonce);
        let mut sealed = [0; 2 * TAG];
        let len = seal(&key, 0, initiation.macs.mac1, &cookie, &mut sealed);
        (len == sealed.len()).then(|| wire::cookie(initiation.index, &nonce, &sealed))
    }
}
