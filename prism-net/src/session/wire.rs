//! Packet shapes and what protects them. The only place that changes when packets are encrypted.
//!
//! ```text
//!   initiation  1 | version | 0 0 | sender index u32 | cluster u64 | sender u64 | receiver u64 | incarnation u64
//!   response    2 | version | 0 0 | sender index u32 | receiver index u32 | 0 u32
//!                                                    | cluster u64 | sender u64 | incarnation u64
//!   data        4 | 0 | padding u16 | receiver index u32 | counter u64 | body | padding | seal 16 bytes
//! ```
//! Little-endian. WireGuard's types, and its order: everything that decides whether a packet is
//! worth a second look stands in the first bytes.

/// Bytes in front of a body.
pub(crate) const HEADER: usize = 16;
/// Bytes behind a body: the room of an AEAD tag.
pub(crate) const SEAL: usize = 16;
/// Longest datagram without a body.
pub(crate) const HANDSHAKE: usize = 40;

const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const DATA: u8 = 4;
const VERSION: u8 = 1;

/// FNV-1a (64 bit) of a name.
pub(crate) fn identity(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A datagram, parsed but not yet believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Initiation(Initiation),
    Response(Response),
    Data(Data<'a>),
}

/// "Let us talk; call me `index`."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Initiation {
    pub index: u32,
    pub cluster: u64,
    pub sender: u64,
    pub receiver: u64,
    /// Random per process: tells a restart from a second handshake.
    pub incarnation: u64,
}

/// "Agreed; call me `index`."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Response {
    pub index: u32,
    pub receiver: u32,
    pub cluster: u64,
    pub sender: u64,
    pub incarnation: u64,
}

/// A packet of an established session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Data<'a> {
    pub receiver: u32,
    pub counter: u64,
    padding: u16,
    header: &'a [u8; HEADER],
    sealed: &'a [u8],
}

/// What both ends of a session know of each other. Stands for the transport keys: until packets
/// are encrypted the seal only names sender and cluster, which catches reflected and misdirected
/// packets but no attacker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys {
    pub cluster: u64,
    pub me: u64,
    pub peer: u64,
}

impl Keys {
    fn seal(&self, sender: u64, header: &[u8; HEADER]) -> [u8; SEAL] {
        let header = u128::from_le_bytes(*header);
        let folded = header as u64 ^ ((header >> 64) as u64).rotate_left(32);
        let mut seal = [0; SEAL];
        seal[..8].copy_from_slice(&sender.to_le_bytes());
        seal[8..].copy_from_slice(&(self.cluster ^ folded).to_le_bytes());
        seal
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl<'a> Packet<'a> {
    /// `None`: malformed.
    pub(crate) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let &[kind, second, third, fourth, ..] = datagram else {
            return None;
        };
        match kind {
            DATA if second == 0 => {
                let (header, sealed) = datagram.split_first_chunk::<HEADER>()?;
                let padding = u16::from_le_bytes([third, fourth]);
                if sealed.len() < SEAL + usize::from(padding) {
                    return None;
                }
                Some(Self::Data(Data {
                    receiver: word(datagram, 4)?,
                    counter: long(datagram, 8)?,
                    padding,
                    header,
                    sealed,
                }))
            }
            INITIATION | RESPONSE
                if datagram.len() != HANDSHAKE || [second, third, fourth] != [VERSION, 0, 0] =>
            {
                None
            }
            INITIATION => Some(Self::Initiation(Initiation {
                index: word(datagram, 4)?,
                cluster: long(datagram, 8)?,
                sender: long(datagram, 16)?,
                receiver: long(datagram, 24)?,
                incarnation: long(datagram, 32)?,
            })),
            RESPONSE => Some(Self::Response(Response {
                index: word(datagram, 4)?,
                receiver: word(datagram, 8)?,
                cluster: long(datagram, 16)?,
                sender: long(datagram, 24)?,
                incarnation: long(datagram, 32)?,
            })),
            _ => None,
        }
    }
}

impl Initiation {
    pub(crate) fn emit(&self) -> [u8; HANDSHAKE] {
        let mut out = [0; HANDSHAKE];
        out[..2].copy_from_slice(&[INITIATION, VERSION]);
        out[4..8].copy_from_slice(&self.index.to_le_bytes());
        out[8..16].copy_from_slice(&self.cluster.to_le_bytes());
        out[16..24].copy_from_slice(&self.sender.to_le_bytes());
        out[24..32].copy_from_slice(&self.receiver.to_le_bytes());
        out[32..].copy_from_slice(&self.incarnation.to_le_bytes());
        out
    }
}

impl Response {
    pub(crate) fn emit(&self) -> [u8; HANDSHAKE] {
        let mut out = [0; HANDSHAKE];
        out[..2].copy_from_slice(&[RESPONSE, VERSION]);
        out[4..8].copy_from_slice(&self.index.to_le_bytes());
        out[8..12].copy_from_slice(&self.receiver.to_le_bytes());
        out[16..24].copy_from_slice(&self.cluster.to_le_bytes());
        out[24..32].copy_from_slice(&self.sender.to_le_bytes());
        out[32..].copy_from_slice(&self.incarnation.to_le_bytes());
        out
    }
}

impl<'a> Data<'a> {
    /// The body, if the packet comes from the other end of this session.
    pub(crate) fn open(&self, keys: &Keys) -> Option<&'a [u8]> {
        let (body, seal) = self.sealed.split_last_chunk::<SEAL>()?;
        if *seal != keys.seal(keys.peer, self.header) {
            return None;
        }
        body.get(..body.len().checked_sub(self.padding.into())?)
    }
}

/// Seals the body that stands at `packet[HEADER..HEADER + len]` in place, with zeroes behind it
/// up to `padded` bytes. Returns the length of the datagram, or `None` if `packet` is too short.
pub(crate) fn seal(
    packet: &mut [u8],
    len: usize,
    padded: usize,
    receiver: u32,
    counter: u64,
    keys: &Keys,
) -> Option<usize> {
    let padding = u16::try_from(padded.checked_sub(len)?).ok()?;
    let total = HEADER + padded + SEAL;
    let packet = packet.get_mut(..total)?;
    packet[..2].copy_from_slice(&[DATA, 0]);
    packet[2..4].copy_from_slice(&padding.to_le_bytes());
    packet[4..8].copy_from_slice(&receiver.to_le_bytes());
    packet[8..16].copy_from_slice(&counter.to_le_bytes());
    packet[HEADER + len..HEADER + padded].fill(0);
    let seal = keys.seal(keys.me, packet.first_chunk()?);
    packet[HEADER + padded..].copy_from_slice(&seal);
    Some(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: Keys = Keys {
        cluster: 1,
        me: 2,
        peer: 3,
    };
    const MIRRORED: Keys = Keys {
        cluster: 1,
        me: 3,
        peer: 2,
    };

    #[test]
    fn handshakes_round_trip() {
        let initiation = Initiation {
            index: 7,
            cluster: 8,
            sender: 9,
            receiver: 10,
            incarnation: 11,
        };
        assert_eq!(
            Packet::parse(&initiation.emit()),
            Some(Packet::Initiation(initiation))
        );
        let response = Response {
            index: 7,
            receiver: 6,
            cluster: 8,
            sender: 9,
            incarnation: 11,
        };
        assert_eq!(
            Packet::parse(&response.emit()),
            Some(Packet::Response(response))
        );
        for cut in 0..HANDSHAKE {
            assert_eq!(Packet::parse(&initiation.emit()[..cut]), None);
            assert_eq!(Packet::parse(&response.emit()[..cut]), None);
        }
    }

    proptest! {
        #[test]
        fn data_round_trips(body in proptest::collection::vec(any::<u8>(), 0..1200), pad in 0usize..64) {
            let mut packet = vec![0xff; HEADER + body.len() + pad + SEAL];
            packet[HEADER..HEADER + body.len()].copy_from_slice(&body);
            let len = seal(&mut packet, body.len(), body.len() + pad, 5, 6, &KEYS).unwrap();
            let Some(Packet::Data(data)) = Packet::parse(&packet[..len]) else {
                panic!("not data")
            };
            prop_assert_eq!((data.receiver, data.counter), (5, 6));
            prop_assert_eq!(data.open(&MIRRORED), Some(&body[..]));
            prop_assert_eq!(data.open(&KEYS), None, "a reflected packet");
        }

        #[test]
        fn parsing_anything_is_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in 0u8..6) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            if let Some(Packet::Data(data)) = Packet::parse(&bytes) {
                let _ = data.open(&KEYS);
            }
        }
    }
}
