//! The frames. Their order in the enums is their number on the wire: append, never reorder.

use heapless::Vec;
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    ApplyCause, Epoch, Position, Refusal, RegionKey, Seq,
    ranges::{MAX_RANGES, Range, Ranges},
};

/// Ranges of an [`Ack`] after its first.
pub const MORE_RANGES: usize = MAX_RANGES - 1;

/// One statement within a datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "no heap to put the ranges on; it lives briefly"
)]
pub enum Frame<'a> {
    /// Are you there? Answered by an `Ack` at once.
    Ping,
    /// A lane opens: the sender is about to send its region's stream.
    Hello {
        /// Names this opening; the `Welcome` repeats it.
        token: u32,
        /// Numbering of the stream.
        epoch: Epoch,
        /// How much of it exists.
        tail: Seq,
    },
    /// Answer to `Hello`: where the receiver's database is, read afresh.
    Welcome {
        /// Of the `Hello` that is answered.
        token: u32,
        /// Where the database is.
        position: Position,
        /// No refusal at or below it remains to be told.
        clean: Seq,
        /// What may be sent beyond it.
        credit: Credit,
    },
    /// Packets received, and how far the receiver's database is in the stream of this frame's
    /// addressee.
    Ack(Ack),
    /// What is wrong with the addressee's stream.
    Nack(Nack),
    /// The origin has dealt with `Nack::Refused` durably; it need not be repeated.
    RefusedAck {
        /// Numbering that `seq` belongs to.
        epoch: Epoch,
        /// The refused update.
        seq: Seq,
    },
    /// Whole updates with consecutive numbers.
    Updates {
        /// Number of the first.
        first: Seq,
        /// Their payloads, see [`Run`](super::Run).
        #[serde(borrow, serialize_with = "as_bytes")]
        run: &'a [u8],
    },
    /// A piece of an update that does not fit into one datagram. Pieces are `chunk` bytes long but
    /// for the last.
    Fragment {
        /// The update.
        seq: Seq,
        /// Its length.
        total: u32,
        /// Length of every piece but the last.
        chunk: u16,
        /// Which piece: it starts at `chunk * index`.
        index: u16,
        /// The piece.
        #[serde(borrow, serialize_with = "as_bytes")]
        bytes: &'a [u8],
    },
    /// To a sibling: our stream exists up to here.
    Appended {
        /// Highest committed update.
        tail: Seq,
    },
    /// To a sibling: that region's database has applied our stream up to here.
    Acked {
        /// The other region.
        region: RegionKey,
        /// How far.
        seq: Seq,
        /// No refusal at or below it remains to be told.
        clean: Seq,
    },
}

/// What a receiver lets its sender have unapplied, counted from the position it is sent with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Credit {
    /// Updates.
    pub updates: u32,
    /// Bytes; one update may always go.
    pub bytes: u32,
}

/// How far the receiver's database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Applied, committed.
    pub position: Position,
    /// No refusal at or below it remains to be told.
    pub clean: Seq,
    /// What may be sent beyond it.
    pub credit: Credit,
}

/// Packets received, as ranges from the newest down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Newest packet received.
    pub largest: u64,
    /// How long the acknowledgement of `largest` was held back, in microseconds.
    pub delay_us: u32,
    /// Packets before `largest` in the same range.
    pub first: u64,
    /// Further ranges: packets missing before the range, and packets before its newest in it, both
    /// less one.
    pub more: Vec<(u64, u64), MORE_RANGES>,
    /// `None` while the receiver has not read its database.
    pub progress: Option<Progress>,
}

/// A negative answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Nack {
    /// These updates have not arrived although later ones have.
    Missing {
        /// First missing.
        from: Seq,
        /// Last missing.
        to: Seq,
    },
    /// Refused for good and recorded (it counts as applied). Repeated until `RefusedAck`.
    Refused(Refusal),
    /// The database cannot be reached.
    Unavailable {
        /// It is tried again after this long.
        retry_ms: u32,
    },
    /// The receiver is elsewhere than the sender thinks, or knows nothing of a `Hello`: say `Hello`
    /// again.
    Gap {
        /// Needed next; 0 if not known.
        need: Seq,
    },
    /// Received, but the database cannot apply it yet.
    Waiting {
        /// Why.
        cause: ApplyCause,
    },
}

/// Absolute ranges of an [`Ack`], oldest first.
pub(crate) type AckRanges = Vec<Range, MAX_RANGES>;

impl Ack {
    /// `None` if nothing has been received yet.
    pub(crate) fn new(ranges: &Ranges, delay_us: u32, progress: Option<Progress>) -> Option<Self> {
        let (newest, rest) = ranges.as_slice().split_first()?;
        let mut more = Vec::new();
        let mut below = newest.start;
        for r in rest {
            // Ranges never touch, so there is at least one number between them.
            let _fits = more.push((below - r.end - 2, r.end - r.start));
            below = r.start;
        }
        Some(Self {
            largest: newest.end,
            delay_us,
            first: newest.end - newest.start,
            more,
            progress,
        })
    }

    /// `None` if the numbers run below zero.
    pub(crate) fn ranges(&self) -> Option<AckRanges> {
        let mut list = AckRanges::new();
        let mut start = self.largest.checked_sub(self.first)?;
        list.push(Range {
            start,
            end: self.largest,
        })
        .ok()?;
        for (gap, before) in &self.more {
            let end = start.checked_sub(gap.checked_add(2)?)?;
            start = end.checked_sub(*before)?;
            list.push(Range { start, end }).ok()?;
        }
        list.reverse();
        Some(list)
    }
}

impl Frame<'_> {
    /// What the types alone do not rule out.
    pub(super) fn is_consistent(&self) -> bool {
        match self {
            Self::Ack(ack) => {
                ack.ranges().is_some() && ack.progress.is_none_or(|p| p.clean <= p.position.seq)
            }
            Self::Welcome {
                position, clean, ..
            } => *clean <= position.seq,
            Self::Acked { seq, clean, .. } => clean <= seq,
            Self::Nack(Nack::Missing { from, to }) => from <= to,
            Self::Nack(Nack::Refused(refusal)) => {
                refusal.seq.0 > 0 && refusal.sqlstate.iter().all(|c| matches!(c, b' '..=b'~'))
            }
            Self::Updates { first, run } => {
                first.0 > 0
                    && super::Run::count(run).is_some_and(|n| first.0.checked_add(n).is_some())
            }
            Self::Fragment {
                seq,
                total,
                chunk,
                index,
                bytes,
            } => {
                let offset = u64::from(*chunk) * u64::from(*index);
                let left = u64::from(*total).checked_sub(offset);
                seq.0 > 0
                    && seq.0 < u64::MAX
                    && *chunk > 0
                    && left.is_some_and(|left| {
                        left > 0 && bytes.len() as u64 == left.min(u64::from(*chunk))
                    })
            }
            _ => true,
        }
    }
}

/// Postcard would write a byte slice one element at a time.
fn as_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}
