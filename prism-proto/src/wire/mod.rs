//! The wire: what a datagram's plaintext looks like.
//!
//! ```text
//!   version u8 | from u32 LE | to u32 LE | packet number varint | frame | frame | ...
//! ```
//!
//! `from` is the sender's incarnation, `to` the receiver's as far as the sender knows it (0:
//! unknown). Frames are postcard (varints, no padding) and fill the datagram to its end; anything
//! left over is an error.
//!
//! No frame says whose stream it speaks of. `Updates` are of the sender's region, an `Ack` or
//! `Nack` is about the receiver's own stream. So a node cannot even express a claim about a region
//! that is not its own: authorisation by construction.

mod frame;
mod run;

use core::fmt;

pub(crate) use frame::AckRanges;
pub use frame::{Ack, Credit, Frame, MORE_RANGES, Nack, Progress};
pub use run::Run;
pub(crate) use run::RunWriter;

/// Version of the format; a datagram of another one is refused.
pub const VERSION: u8 = 1;
/// A whole [`Frame::Ping`]: datagrams are filled up with it.
pub(crate) const PING: u8 = 0;
/// Longest header.
pub const MAX_HEADER: usize = 1 + 4 + 4 + 10;
/// What a [`Frame::Fragment`] takes beside its bytes, at most.
pub const FRAGMENT_OVERHEAD: usize = 1 + 10 + 5 + 3 + 3 + 3;

/// What stands before the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Sender's incarnation.
    pub from: u32,
    /// Receiver's incarnation as the sender knows it; 0: unknown.
    pub to: u32,
    /// Number of this packet; never reused by one incarnation towards one node.
    pub pn: u64,
}

/// Why a datagram was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// It ends before its header does.
    Short,
    /// Another version of the format.
    Version(u8),
    /// A frame is unknown, cut off, or contradicts itself.
    Frame,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("the datagram ends inside its header"),
            Self::Version(v) => write!(f, "wire version {v}, this node speaks {VERSION}"),
            Self::Frame => f.write_str("a frame is unknown, cut off, or contradicts itself"),
        }
    }
}

impl core::error::Error for WireError {}

/// Reads a datagram: its header, and its frames, all of which are valid.
///
/// # Errors
/// [`WireError`]; nothing of a bad datagram should be acted on.
pub fn decode(datagram: &[u8]) -> Result<(Header, Frames<'_>), WireError> {
    let (&version, rest) = datagram.split_first().ok_or(WireError::Short)?;
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let (from, rest) = rest.split_first_chunk::<4>().ok_or(WireError::Short)?;
    let (to, rest) = rest.split_first_chunk::<4>().ok_or(WireError::Short)?;
    let (pn, rest) = postcard::take_from_bytes::<u64>(rest).map_err(|_| WireError::Short)?;
    let header = Header {
        from: u32::from_le_bytes(*from),
        to: u32::from_le_bytes(*to),
        pn,
    };
    let frames = Frames { rest };
    // Checked whole before any of it takes effect.
    let mut check = frames.clone();
    while !check.rest.is_empty() {
        let (frame, rest) = read(check.rest).ok_or(WireError::Frame)?;
        if !frame.is_consistent() {
            return Err(WireError::Frame);
        }
        check.rest = rest;
    }
    Ok((header, frames))
}

/// One frame, and what follows it. `Updates`, which is nearly every byte that arrives, goes past
/// serde: its way through the enum costs as much as the updates themselves.
fn read(bytes: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    if let [run::UPDATES, rest @ ..] = bytes {
        let (first, rest) = postcard::take_from_bytes(rest).ok()?;
        let (run, rest) = postcard::take_from_bytes(rest).ok()?;
        return Some((Frame::Updates { first, run }, rest));
    }
    postcard::take_from_bytes(bytes).ok()
}

/// The frames of a datagram that [`decode`] has found valid.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (frame, rest) = read(self.rest)?;
        self.rest = rest;
        Some(frame)
    }
}

/// Fills a buffer: header first, then frames while there is room.
#[derive(Debug)]
pub struct Writer<'b> {
    buffer: &'b mut [u8],
    len: usize,
}

impl<'b> Writer<'b> {
    /// Starts a datagram; `None` if the buffer is shorter than [`MAX_HEADER`].
    pub fn new(buffer: &'b mut [u8], header: Header) -> Option<Self> {
        if buffer.len() < MAX_HEADER {
            return None;
        }
        buffer[0] = VERSION;
        buffer[1..5].copy_from_slice(&header.from.to_le_bytes());
        buffer[5..9].copy_from_slice(&header.to.to_le_bytes());
        let pn = postcard::to_slice(&header.pn, &mut buffer[9..]).ok()?.len();
        Some(Self {
            buffer,
            len: 9 + pn,
        })
    }

    /// Appends a frame; `false` (and nothing written) if it does not fit.
    #[must_use]
    pub fn push(&mut self, frame: &Frame<'_>) -> bool {
        match postcard::to_slice(frame, &mut self.buffer[self.len..]) {
            Ok(written) => {
                self.len += written.len();
                true
            }
            Err(_) => false,
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn written(&self) -> usize {
        self.len
    }

    /// The room left.
    pub(crate) fn rest(&mut self) -> &mut [u8] {
        &mut self.buffer[self.len..]
    }

    pub(crate) fn advance(&mut self, n: usize) {
        self.len += n;
    }
}

#[cfg(test)]
mod tests;
