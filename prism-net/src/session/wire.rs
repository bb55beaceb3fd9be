//! Packet shapes.
//!
//! ```text
//!   initiation  1 | version | 0 0 | sender index u32 | e 32 | s 48 | payload 40 + 16 | mac1 16 | mac2 16
//!   response    2 | version | 0 0 | sender index u32 | receiver index u32 | e 32 | payload 24 + 16 | mac1 16 | mac2 16
//!   cookie      3 | version | 0 0 | receiver index u32 | nonce 24 | cookie 16 + 16
//!   data        4 | 0 0 0 | receiver index u32 | counter u64 | body, padding, padding length u16 | tag 16
//! ```
//! Little-endian. WireGuard's types, and its order: everything that decides whether a packet is
//! worth a second look stands in the first bytes. All that is not covered by a MAC or a tag is
//! either fixed, or picks the key that has to fit.

use super::crypto::TAG;

/// Bytes in front of a body.
pub(crate) const HEADER: usize = 16;
/// Bytes behind a body: the length of the padding, and the tag.
pub(crate) const SEAL: usize = 2 + TAG;

/// What the first message says under encryption (`handshake::Hello`), and the second.
pub(super) const HELLO: usize = 40;
pub(super) const WELCOME: usize = 24;
pub(super) const NOISE_1: usize = 32 + 48 + HELLO + TAG;
pub(super) const NOISE_2: usize = 32 + WELCOME + TAG;
pub(super) const INITIATION: usize = 8 + NOISE_1 + 2 * TAG;
pub(super) const RESPONSE: usize = 12 + NOISE_2 + 2 * TAG;
pub(super) const COOKIE_NONCE: usize = 24;
pub(super) const COOKIE: usize = 8 + COOKIE_NONCE + 2 * TAG;

/// A stranger gets no more bytes than it has sent.
const _: () = assert!(RESPONSE <= INITIATION && COOKIE <= INITIATION);

const INITIATE: u8 = 1;
const RESPOND: u8 = 2;
const COOKIE_REPLY: u8 = 3;
const DATA: u8 = 4;
const VERSION: u8 = 2;

/// FNV-1a (64 bit) of a name.
pub(crate) fn identity(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A datagram, parsed but not yet believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    Initiation(Initiation<'a>),
    Response(Response<'a>),
    Cookie(Cookie<'a>),
    Data(Data<'a>),
}

/// "Let us talk; call me `index`."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Initiation<'a> {
    pub index: u32,
    pub noise: &'a [u8; NOISE_1],
    pub macs: Macs<'a>,
}

/// "Agreed; call me `index`."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Response<'a> {
    pub index: u32,
    pub receiver: u32,
    pub noise: &'a [u8; NOISE_2],
    pub macs: Macs<'a>,
}

/// "Say that again with this in your mac2."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cookie<'a> {
    pub receiver: u32,
    pub nonce: &'a [u8; COOKIE_NONCE],
    pub sealed: &'a [u8; 2 * TAG],
}

/// A packet of an established session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Data<'a> {
    pub receiver: u32,
    pub counter: u64,
    pub header: &'a [u8; HEADER],
    pub sealed: &'a [u8],
}

/// The end of a handshake packet (WireGuard, 5.4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Macs<'a> {
    /// What `mac1` covers.
    pub before: &'a [u8],
    pub mac1: &'a [u8; TAG],
    /// What `mac2` covers.
    pub before2: &'a [u8],
    pub mac2: &'a [u8; TAG],
}

impl<'a> Macs<'a> {
    fn of(packet: &'a [u8]) -> Option<Self> {
        let (before2, mac2) = packet.split_last_chunk()?;
        let (before, mac1) = before2.split_last_chunk()?;
        Some(Self {
            before,
            mac1,
            before2,
            mac2,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl<'a> Packet<'a> {
    /// `None`: malformed.
    pub(super) fn parse(datagram: &'a [u8]) -> Option<Self> {
        match (datagram.first_chunk()?, datagram.len()) {
            ([DATA, 0, 0, 0], _) => {
                let (header, sealed) = datagram.split_first_chunk::<HEADER>()?;
                if sealed.len() < SEAL {
                    return None;
                }
                Some(Self::Data(Data {
                    receiver: word(datagram, 4)?,
                    counter: u64::from_le_bytes(*header.last_chunk()?),
                    header,
                    sealed,
                }))
            }
            ([INITIATE, VERSION, 0, 0], INITIATION) => Some(Self::Initiation(Initiation {
                index: word(datagram, 4)?,
                noise: datagram.get(8..)?.first_chunk()?,
                macs: Macs::of(datagram)?,
            })),
            ([RESPOND, VERSION, 0, 0], RESPONSE) => Some(Self::Response(Response {
                index: word(datagram, 4)?,
                receiver: word(datagram, 8)?,
                noise: datagram.get(12..)?.first_chunk()?,
                macs: Macs::of(datagram)?,
            })),
            ([COOKIE_REPLY, VERSION, 0, 0], COOKIE) => Some(Self::Cookie(Cookie {
                receiver: word(datagram, 4)?,
                nonce: datagram.get(8..)?.first_chunk()?,
                sealed: datagram.last_chunk()?,
            })),
            _ => None,
        }
    }
}

/// An initiation without its MACs.
pub(super) fn initiation(index: u32, noise: &[u8; NOISE_1]) -> [u8; INITIATION] {
    let mut out = [0; INITIATION];
    out[..2].copy_from_slice(&[INITIATE, VERSION]);
    out[4..8].copy_from_slice(&index.to_le_bytes());
    out[8..8 + NOISE_1].copy_from_slice(noise);
    out
}

/// A response without its MACs.
pub(super) fn response(index: u32, receiver: u32, noise: &[u8; NOISE_2]) -> [u8; RESPONSE] {
    let mut out = [0; RESPONSE];
    out[..2].copy_from_slice(&[RESPOND, VERSION]);
    out[4..8].copy_from_slice(&index.to_le_bytes());
    out[8..12].copy_from_slice(&receiver.to_le_bytes());
    out[12..12 + NOISE_2].copy_from_slice(noise);
    out
}

pub(super) fn cookie(
    receiver: u32,
    nonce: &[u8; COOKIE_NONCE],
    sealed: &[u8; 2 * TAG],
) -> [u8; COOKIE] {
    let mut out = [0; COOKIE];
    out[..2].copy_from_slice(&[COOKIE_REPLY, VERSION]);
    out[4..8].copy_from_slice(&receiver.to_le_bytes());
    out[8..8 + COOKIE_NONCE].copy_from_slice(nonce);
    out[8 + COOKIE_NONCE..].copy_from_slice(sealed);
    out
}

pub(super) fn data(receiver: u32, counter: u64) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[0] = DATA;
    out[4..8].copy_from_slice(&receiver.to_le_bytes());
    out[8..].copy_from_slice(&counter.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn handshakes_have_one_length() {
        let whole = [
            initiation(7, &[1; NOISE_1]).to_vec(),
            response(7, 8, &[2; NOISE_2]).to_vec(),
            cookie(8, &[3; COOKIE_NONCE], &[4; 2 * TAG]).to_vec(),
        ];
        for packet in whole {
            assert!(Packet::parse(&packet).is_some());
            for cut in 0..packet.len() {
                assert_eq!(Packet::parse(&packet[..cut]), None);
            }
            let longer = [&packet[..], &[0]].concat();
            assert_eq!(Packet::parse(&longer), None);
        }
    }

    proptest! {
        #[test]
        fn parsing_anything_is_harmless(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            kind in 0u8..6,
            version in 0u8..3,
        ) {
            if let Some(first) = bytes.first_chunk_mut::<4>() {
                *first = [kind, version, 0, 0];
            }
            if let Some(Packet::Data(data)) = Packet::parse(&bytes) {
                prop_assert_eq!(data.header.len() + data.sealed.len(), bytes.len());
            }
        }
    }
}
