//! Payloads of consecutive updates: each a varint length and its bytes, one after the other.

use crate::Seq;

/// Iterates over the payloads of a [`Frame::Updates`](super::Frame::Updates).
#[derive(Debug, Clone)]
pub struct Run<'a> {
    rest: &'a [u8],
}

impl<'a> Run<'a> {
    /// Of the frame's bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many payloads; `None` if they do not fill the bytes exactly.
    #[must_use]
    pub fn count(bytes: &'a [u8]) -> Option<u64> {
        let mut run = Self::new(bytes);
        let mut n = 0;
        while run.next().is_some() {
            n += 1;
        }
        run.rest.is_empty().then_some(n)
    }
}

impl<'a> Iterator for Run<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = length(self.rest)?;
        let (payload, rest) = rest.split_at_checked(len as usize)?;
        self.rest = rest;
        Some(payload)
    }
}

/// The length in front of a payload: a varint, nearly always of one or two bytes.
fn length(bytes: &[u8]) -> Option<(u32, &[u8])> {
    match bytes {
        [low @ 0..0x80, rest @ ..] => Some((u32::from(*low), rest)),
        [low, high @ 0..0x80, rest @ ..] => {
            Some((u32::from(low & 0x7f) | u32::from(*high) << 7, rest))
        }
        _ => postcard::take_from_bytes(bytes).ok(),
    }
}

/// Number of the `Updates` frame, see the order of [`Frame`](super::Frame).
pub(super) const UPDATES: u8 = 6;
/// Room kept for the run's length until it is known.
const RESERVED: usize = 2;

/// Writes a whole `Updates` frame in one pass, without knowing beforehand how many fit.
pub(crate) struct RunWriter<'b> {
    buffer: &'b mut [u8],
    body: usize,
    len: usize,
}

impl<'b> RunWriter<'b> {
    /// `None` if not even the head fits.
    pub(crate) fn new(buffer: &'b mut [u8], first: Seq) -> Option<Self> {
        let (tag, rest) = buffer.split_first_mut()?;
        *tag = UPDATES;
        let body = 1 + postcard::to_slice(&first, rest).ok()?.len() + RESERVED;
        // Two bytes of varint hold 14 bits; no datagram is longer.
        let limit = buffer.len().min(body + (1 << 14) - 1);
        let buffer = &mut buffer[..limit];
        (body <= buffer.len()).then_some(Self {
            buffer,
            body,
            len: body,
        })
    }

    /// Appends a payload; `false` (and nothing written) if it does not fit.
    pub(crate) fn push(&mut self, payload: &[u8]) -> bool {
        // A varint of one or two bytes: no datagram is longer.
        let head = 1 + usize::from(payload.len() >= 1 << 7);
        let end = self.len + head + payload.len();
        let Some(room) = self.buffer.get_mut(self.len..end) else {
            return false;
        };
        let (length, room) = room.split_at_mut(head);
        length[0] = payload.len() as u8;
        if let Some(high) = length.get_mut(1) {
            *high = (payload.len() >> 7) as u8;
            length[0] |= 0x80;
        }
        room.copy_from_slice(payload);
        self.len = end;
        true
    }

    /// Length of the frame so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts the run's length in its place; the frame's length.
    pub(crate) fn finish(self) -> usize {
        let run = self.len - self.body;
        let at = self.body - RESERVED;
        if run < 1 << 7 {
            self.buffer[at] = run as u8;
            self.buffer.copy_within(self.body..self.len, at + 1);
            self.len - 1
        } else {
            self.buffer[at] = (run & 0x7f) as u8 | 0x80;
            self.buffer[at + 1] = (run >> 7) as u8;
            self.len
        }
    }
}
