//! The Noise handshake: `IKpsk2`, as in WireGuard (Noise specification, 7.5 and 9; WireGuard, 5.4).
//!
//! ```text
//!   <- s                              the initiator knows the responder's public key
//!   -> e, es, s, ss, {hello}          who calls, and that this is not an old call
//!   <- e, ee, se, psk, {welcome}      only who has the private key and the cluster's can answer
//! ```
//! The responder believes the first message only when the first packet of the new session arrives:
//! until then somebody may just have repeated it.

use snow::{Builder, HandshakeState, StatelessTransportState};
use zeroize::Zeroizing;

use super::cookie::MacKeys;
use super::crypto::{Entropy, Key, Primitives, hash, public_key};
use super::wire::{HELLO, NOISE_1, NOISE_2, WELCOME};
use crate::config::{NodeAddress, Protection};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";

/// What this node proves itself with.
pub(super) struct Own {
    private: Key,
    pub public: [u8; 32],
    psk: Key,
    /// "prism 2", how packets are protected, the cluster: what both ends must agree on.
    context: Vec<u8>,
    /// MACs of handshakes to this node.
    pub macs: MacKeys,
}

impl Own {
    pub(super) fn new(cluster: &str, name: &str, protection: &Protection) -> Self {
        let (kind, private, psk) = match protection {
            Protection::Open => (
                "open",
                open_private(cluster, name),
                hash(&[b"prism open psk", cluster.as_bytes()]),
            ),
            Protection::Sealed(keys) => ("sealed", keys.private.clone(), keys.psk.clone()),
        };
        let context = format!("prism 2\n{kind}\n{cluster}").into_bytes();
        let public = public_key(&private);
        Self {
            macs: MacKeys::new(&context, &psk, &public),
            private,
            public,
            psk,
            context,
        }
    }

    /// The public keys by which this node is known, with the MACs of handshakes to it.
    pub(super) fn remotes(
        &self,
        cluster: &str,
        node: &NodeAddress,
        protection: &Protection,
    ) -> Vec<Remote> {
        let open = [public_key(&open_private(cluster, &node.name))];
        let keys = match protection {
            Protection::Open => &open[..],
            Protection::Sealed(_) => &node.public_keys[..],
        };
        let remote = |public: &[u8; 32]| Remote {
            public: *public,
            macs: MacKeys::new(&self.context, &self.psk, public),
        };
        keys.iter().map(remote).collect()
    }

    /// Whether handshakes with these are the same as with `other`.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.public == other.public && self.psk == other.psk
    }

    /// The prologue names whom the call is for; who calls is said (and proven) under encryption.
    fn prologue(&self, responder: u64) -> Vec<u8> {
        [&self.context[..], &responder.to_le_bytes()].concat()
    }
}

/// The key of a node of a cluster without keys: anyone can compute it.
fn open_private(cluster: &str, name: &str) -> Key {
    hash(&[b"prism open key", cluster.as_bytes(), name.as_bytes()])
}

/// One accepted public key of another node.
#[derive(Clone)]
pub(super) struct Remote {
    pub public: [u8; 32],
    /// MACs of handshakes to it.
    pub macs: MacKeys,
}

/// What the initiator says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub sender: u64,
    pub boot: u64,
    pub incarnation: u64,
    /// Number of this handshake within its process.
    pub n: u64,
    pub catalogue: u64,
}

impl Hello {
    fn emit(&self) -> [u8; HELLO] {
        let mut out = [0; HELLO];
        words(
            &mut out,
            &[
                self.sender,
                self.boot,
                self.incarnation,
                self.n,
                self.catalogue,
            ],
        );
        out
    }

    fn parse(bytes: &[u8; HELLO]) -> Self {
        let at = |i| word(bytes, i);
        Self {
            sender: at(0),
            boot: at(1),
            incarnation: at(2),
            n: at(3),
            catalogue: at(4),
        }
    }
}

/// What the responder says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Welcome {
    pub boot: u64,
    pub incarnation: u64,
    pub catalogue: u64,
}

impl Welcome {
    fn emit(&self) -> [u8; WELCOME] {
        let mut out = [0; WELCOME];
        words(&mut out, &[self.boot, self.incarnation, self.catalogue]);
        out
    }

    fn parse(bytes: &[u8; WELCOME]) -> Self {
        Self {
            boot: word(bytes, 0),
            incarnation: word(bytes, 1),
            catalogue: word(bytes, 2),
        }
    }
}

fn words(out: &mut [u8], words: &[u64]) {
    for (chunk, word) in out.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
}

fn word(bytes: &[u8], i: usize) -> u64 {
    bytes
        .as_chunks()
        .0
        .get(i)
        .map_or(0, |b| u64::from_le_bytes(*b))
}

/// A handshake under way. `snow` does not overwrite what it is dropped with: the private keys are
/// ours (`crypto`), the pre-shared key is replaced here.
struct Noise(Option<Box<HandshakeState>>);

impl Noise {
    fn begin(
        own: &Own,
        entropy: &mut Entropy,
        to: Option<&[u8; 32]>,
        responder: u64,
    ) -> Option<Self> {
        let prologue = own.prologue(responder);
        let builder = Builder::with_resolver(PATTERN.parse().ok()?, Primitives::new(entropy))
            .local_private_key(&*own.private)
            .and_then(|builder| builder.psk(2, &own.psk))
            .and_then(|builder| builder.prologue(&prologue))
            .ok()?;
        let state = match to {
            Some(public) => builder.remote_public_key(public).ok()?.build_initiator(),
            None => builder.build_responder(),
        };
        Some(Self(Some(Box::new(state.ok()?))))
    }

    fn state(&mut self) -> Option<&mut HandshakeState> {
        self.0.as_deref_mut()
    }

    /// The keys of the session, and a hash that both ends have in common.
    fn finish(mut self) -> Option<Agreed> {
        let mut state = self.0.take()?;
        let _ = state.set_psk(2, &[0; 32]);
        let mut hash = [0; 32];
        hash.copy_from_slice(state.get_handshake_hash().get(..32)?);
        Some(Agreed {
            hash,
            keys: (*state).into_stateless_transport_mode().ok()?,
        })
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        if let Some(state) = self.state() {
            let _ = state.set_psk(2, &[0; 32]);
        }
    }
}

/// What a completed handshake leaves.
pub(super) struct Agreed {
    pub hash: [u8; 32],
    pub keys: StatelessTransportState,
}

/// The initiator's half: waits for the response.
pub(super) struct Initiator(Noise);

/// The first message to the node with this public key and identity.
pub(super) fn initiate(
    own: &Own,
    entropy: &mut Entropy,
    to: &[u8; 32],
    responder: u64,
    hello: &Hello,
) -> Option<(Initiator, [u8; NOISE_1])> {
    let mut noise = Noise::begin(own, entropy, Some(to), responder)?;
    let mut message = [0; NOISE_1];
    let len = noise.state()?.write_message(&hello.emit(), &mut message);
    (len.ok()? == NOISE_1).then_some((Initiator(noise), message))
}

impl Initiator {
    /// What the responder says. A message that is not authentic changes nothing: the true one may
    /// still come.
    pub(super) fn read(&mut self, message: &[u8; NOISE_2]) -> Option<Welcome> {
        let mut payload = [0; WELCOME];
        let len = self.0.state()?.read_message(message, &mut payload).ok()?;
        (len == WELCOME).then(|| Welcome::parse(&payload))
    }

    pub(super) fn finish(self) -> Option<Agreed> {
        self.0.finish()
    }
}

/// The responder's half, after the first message.
pub(super) struct Responder {
    noise: Noise,
    pub hello: Hello,
    /// The public key that the sender has proven to be its own.
    pub remote: [u8; 32],
}

/// Reads a first message; `None` if it is not authentic.
pub(super) fn respond(
    own: &Own,
    entropy: &mut Entropy,
    me: u64,
    message: &[u8; NOISE_1],
) -> Option<Responder> {
    let mut noise = Noise::begin(own, entropy, None, me)?;
    let state = noise.state()?;
    let mut payload = Zeroizing::new([0; HELLO]);
    if state.read_message(message, &mut *payload).ok()? != HELLO {
        return None;
    }
    let remote = *state.get_remote_static()?.first_chunk()?;
    Some(Responder {
        hello: Hello::parse(&payload),
        remote,
        noise,
    })
}

impl Responder {
    /// The second message, and the session that begins with it.
    pub(super) fn answer(mut self, welcome: &Welcome) -> Option<([u8; NOISE_2], Agreed)> {
        let mut message = [0; NOISE_2];
        let state = self.noise.state()?;
        let len = state.write_message(&welcome.emit(), &mut message).ok()?;
        Some((message, self.noise.finish().filter(|_| len == NOISE_2)?))
    }
}
