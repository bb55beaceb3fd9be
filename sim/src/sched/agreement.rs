//! In the place of X25519: agrees as it does, protects nothing, costs nothing.

use crate::rng::mix;

pub(super) fn public_key(private: &[u8; 32]) -> [u8; 32] {
    let mut public = private.map(|byte| byte ^ 0xa5);
    // As the real ones: below the field's prime.
    public[31] &= 0x7f;
    public
}

/// The same for both: only the two public keys count, in no order.
pub(super) fn agree(private: &[u8; 32], public: &[u8; 32]) -> [u8; 32] {
    let mut agreed = public_key(private);
    let mut mixed = 0;
    for (own, other) in agreed.chunks_exact_mut(8).zip(public.chunks_exact(8)) {
        let (a, b) = (word(own), word(other));
        mixed = mix(mixed ^ a.wrapping_add(b) ^ a.wrapping_mul(b));
        own.copy_from_slice(&mixed.to_le_bytes());
    }
    agreed
}

fn word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |word, &byte| word << 8 | u64::from(byte))
}
