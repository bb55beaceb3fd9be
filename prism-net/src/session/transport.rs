//! Packets of an established session.

use snow::StatelessTransportState;

use super::crypto::{TAG, hash};
use super::handshake::Agreed;
use super::wire::{self, Data, HEADER, SEAL};

/// What a handshake has agreed on.
pub(super) enum Transport {
    /// Nothing is hidden, and only the header is checked: that catches packets of other sessions,
    /// reflected and misdirected ones, but no attacker.
    Open { to_peer: u64, to_me: u64, sum: u64 },
    /// Encrypted and authenticated.
    Sealed(StatelessTransportState),
}

/// The marks of a packet in the clear: those that depend on header and direction, where the tag
/// would be.
fn marks(sender: u64, sum: u64, header: &[u8; HEADER]) -> [u8; TAG] {
    let header = u128::from_le_bytes(*header);
    let folded = header as u64 ^ ((header >> 64) as u64).rotate_left(32);
    let mut marks = [0; TAG];
    marks[..8].copy_from_slice(&sender.to_le_bytes());
    marks[8..].copy_from_slice(&(sum ^ folded).to_le_bytes());
    marks
}

impl Transport {
    pub(super) fn new(agreed: Agreed, sealed: bool) -> Self {
        if sealed {
            return Self::Sealed(agreed.keys);
        }
        let word = |label: &[u8]| {
            let hash = hash(&[label, &agreed.hash]);
            hash.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
        };
        let (initiator, responder) = (word(b"initiator"), word(b"responder"));
        let (to_peer, to_me) = if agreed.keys.is_initiator() {
            (initiator, responder)
        } else {
            (responder, initiator)
        };
        Self::Open {
            to_peer,
            to_me,
            sum: word(b"sum"),
        }
    }

    /// Makes a packet of the first `len` bytes of `plain`, with zeroes behind them up to `padded`
    /// bytes. `plain` needs room for the padding and its length. Returns the length of the packet,
    /// or `None` if there is too little room.
    pub(super) fn seal(
        &self,
        (receiver, counter): (u32, u64),
        plain: &mut [u8],
        (len, padded): (usize, usize),
        packet: &mut [u8],
    ) -> Option<usize> {
        let padding = u16::try_from(padded.checked_sub(len)?).ok()?;
        let plain = plain.get_mut(..padded + 2)?;
        plain[len..padded].fill(0);
        plain[padded..].copy_from_slice(&padding.to_le_bytes());
        let total = HEADER + padded + SEAL;
        let (header, sealed) = packet.get_mut(..total)?.split_first_chunk_mut::<HEADER>()?;
        *header = wire::data(receiver, counter);
        match self {
            Self::Open { to_peer, sum, .. } => {
                let (text, tag) = sealed.split_at_mut(padded + 2);
                text.copy_from_slice(plain);
                tag.copy_from_slice(&marks(*to_peer, *sum, header));
            }
            Self::Sealed(keys) => {
                if keys.write_message(counter, plain, sealed).ok()? != sealed.len() {
                    return None;
                }
            }
        }
        Some(total)
    }

    /// The body, if the packet comes from the other end of this session. `plain` is where it is
    /// decrypted to.
    pub(super) fn open<'a>(&self, data: &Data<'a>, plain: &'a mut [u8]) -> Option<&'a [u8]> {
        let text = match self {
            Self::Open { to_me, sum, .. } => {
                let (text, tag) = data.sealed.split_last_chunk::<TAG>()?;
                (*tag == marks(*to_me, *sum, data.header)).then_some(text)?
            }
            Self::Sealed(keys) => {
                let len = keys.read_message(data.counter, data.sealed, plain).ok()?;
                plain.get(..len)?
            }
        };
        let (body, padding) = text.split_last_chunk()?;
        body.get(
            ..body
                .len()
                .checked_sub(u16::from_le_bytes(*padding).into())?,
        )
    }
}
