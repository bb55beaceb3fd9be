//! The primitives behind the handshake and the packets.
//!
//! `snow` is given these instead of its own: ring's ChaCha20-Poly1305 seals a packet of 1200 bytes
//! four to five times faster than the portable implementation, x25519-dalek tells us about
//! low-order points, and every key is overwritten when dropped.

use blake2::digest::consts::{U16, U32};
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::rng::Rng;
use crate::platform::simulation;

/// Bytes of an AEAD tag and of a MAC.
pub(super) const TAG: usize = 16;
/// A key, a public key, a hash.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// BLAKE2s of the parts, each with its length in front so that none can run into the next.
pub(super) fn hash(parts: &[&[u8]]) -> Key {
    let mut hasher = Blake2s256::default();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Zeroizing::new(hasher.finalize_fixed().into())
}

/// Keyed BLAKE2s, 128 bits.
pub(super) fn mac(key: &Key, message: &[u8]) -> [u8; TAG] {
    Blake2sMac::<U16>::new((&**key).into())
        .chain(message)
        .finalize_fixed()
        .into()
}

/// Keyed BLAKE2s, 256 bits: a key for one nonce.
pub(super) fn derive(key: &Key, nonce: &[u8]) -> Key {
    let mac = Blake2sMac::<U32>::new((&**key).into()).chain(nonce);
    Zeroizing::new(mac.finalize_fixed().into())
}

/// The X25519 public key that belongs to a private key.
#[must_use]
pub fn public_key(private: &[u8; 32]) -> [u8; 32] {
    simulation::with(|simulation| simulation.public_key(private))
        .unwrap_or_else(|| PublicKey::from(&StaticSecret::from(*private)).to_bytes())
}

/// X25519; `None` if everybody knows the result (RFC 7748, 6.1: the point has a low order).
fn agree(private: &[u8; 32], public: &[u8; 32]) -> Option<Key> {
    if let Some(agreed) = simulation::with(|simulation| simulation.agree(private, public)) {
        return Some(Zeroizing::new(agreed));
    }
    let shared = StaticSecret::from(*private).diffie_hellman(&PublicKey::from(*public));
    shared
        .was_contributory()
        .then(|| Zeroizing::new(shared.to_bytes()))
}

/// Whether an agreement with this public key would have a result that everybody knows.
pub(crate) fn is_low_order(public: &[u8; 32]) -> bool {
    agree(&[1; 32], public).is_none()
}

/// Where secrets come from: the operating system, or (for packets in the clear, where they are
/// none) the seed, so that a simulation can be repeated.
#[derive(Clone)]
pub(super) enum Entropy {
    System,
    Seeded(Rng),
}

impl Entropy {
    /// False if the system has none to give.
    #[must_use]
    pub(super) fn fill(&mut self, out: &mut [u8]) -> bool {
        match self {
            Self::System => crate::platform::fill(out).is_ok(),
            Self::Seeded(rng) => {
                for chunk in out.chunks_mut(8) {
                    chunk.copy_from_slice(&rng.next().to_le_bytes()[..chunk.len()]);
                }
                true
            }
        }
    }

    fn fork(&mut self) -> Self {
        match self {
            Self::System => Self::System,
            Self::Seeded(rng) => Self::Seeded(Rng::new(rng.next())),
        }
    }
}

impl Random for Entropy {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.fill(dest).then_some(()).ok_or(Error::Rng)
    }
}

/// Hands the primitives to `snow`.
pub(super) struct Primitives(Entropy);

impl Primitives {
    pub(super) fn new(entropy: &mut Entropy) -> Box<Self> {
        Box::new(Self(entropy.fork()))
    }
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(self.0.clone()))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::<X25519>::default() as Box<dyn Dh>)
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::Blake2s).then(|| Box::<Blake2s>::default() as Box<dyn Hash>)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly)
            .then(|| Box::new(ChaChaPoly(Key::default())) as Box<dyn Cipher>)
    }
}

#[derive(Default)]
struct X25519 {
    private: Key,
    public: [u8; 32],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }
    fn pub_len(&self) -> usize {
        32
    }
    fn priv_len(&self) -> usize {
        32
    }
    fn set(&mut self, private: &[u8]) {
        // Its only caller passes the 32 bytes of a `SessionKeys`.
        if let Ok(private) = private.try_into() {
            *self.private = private;
            self.public = public_key(&self.private);
        }
    }
    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        rng.try_fill_bytes(&mut *self.private)?;
        self.public = public_key(&self.private);
        Ok(())
    }
    fn pubkey(&self) -> &[u8] {
        &self.public
    }
    fn privkey(&self) -> &[u8] {
        &*self.private
    }
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let public = public.first_chunk().ok_or(Error::Dh)?;
        // Noise leaves points of low order to the application (12.1).
        let shared = agree(&self.private, public).ok_or(Error::Dh)?;
        out.get_mut(..32)
            .ok_or(Error::Dh)?
            .copy_from_slice(&*shared);
        Ok(())
    }
}

#[derive(Default)]
struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }
    fn block_len(&self) -> usize {
        64
    }
    fn hash_len(&self) -> usize {
        32
    }
    fn reset(&mut self) {
        self.0 = Blake2s256::default();
    }
    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }
    fn result(&mut self, out: &mut [u8]) {
        let digest = std::mem::take(&mut self.0).finalize_fixed();
        out[..32].copy_from_slice(&digest);
    }
}

/// Keeps the bytes of the key, not ring's form of it, because only they can be overwritten; the
/// form is a copy of them, made per packet.
struct ChaChaPoly(Key);

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }
    fn set(&mut self, key: &[u8; 32]) {
        *self.0 = *key;
    }
    fn encrypt(&self, nonce: u64, ad: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        seal(&self.0, nonce, ad, plaintext, out)
    }
    fn decrypt(
        &self,
        nonce: u64,
        ad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        open(&self.0, nonce, ad, sealed, out).ok_or(Error::Decrypt)
    }
}

fn cipher(key: &Key) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(
        UnboundKey::new(&CHACHA20_POLY1305, &**key).ok()?,
    ))
}

/// Noise, 12.3: 32 bits of zeroes, then the counter in little-endian.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Writes ciphertext and tag to `out`; their length, or 0 (which no reader takes for a packet) if
/// that cannot be, because there is no room.
pub(super) fn seal(key: &Key, counter: u64, ad: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
    let total = plain.len() + TAG;
    let sealed = (|| {
        let (text, tag) = out.get_mut(..total)?.split_at_mut(plain.len());
        text.copy_from_slice(plain);
        let key = cipher(key)?;
        let made = key.seal_in_place_separate_tag(nonce(counter), Aad::from(ad), text);
        tag.copy_from_slice(made.ok()?.as_ref());
        Some(total)
    })();
    sealed.unwrap_or(0)
}

/// Writes the plaintext to `out`; its length, or `None` if it is not authentic.
pub(super) fn open(
    key: &Key,
    counter: u64,
    ad: &[u8],
    sealed: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let (text, tag) = sealed.split_last_chunk::<TAG>()?;
    let out = out.get_mut(..text.len())?;
    out.copy_from_slice(text);
    let (tag, ad) = (Tag::from(*tag), Aad::from(ad));
    let opened = cipher(key)?.open_in_place_separate_tag(nonce(counter), ad, tag, out, 0..);
    Some(opened.ok()?.len())
}
