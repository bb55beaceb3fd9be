//! The receive window of an inlet: what has arrived, by sequence number.

use crate::{Seq, update_window::MAX_FRAGMENTS};

/// One slot of a receive window. Hosts only provide room for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RecvSlot {
    /// Pieces that have arrived.
    have: [u64; MAX_FRAGMENTS / 64],
    total: u32,
    /// Length of a piece; 0 while nothing of the update is here.
    chunk: u16,
    /// Pieces that have not arrived.
    left: u16,
    complete: bool,
}

impl RecvSlot {
    /// What every slot holds at first.
    pub const EMPTY: Self = Self {
        have: [0; MAX_FRAGMENTS / 64],
        total: 0,
        chunk: 0,
        left: 0,
        complete: false,
    };
}

/// A part of an update as it comes out of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) seq: Seq,
    pub(crate) total: u32,
    /// Length of a piece and which one; `None`: the whole update.
    pub(crate) piece: Option<(u16, u16)>,
}

/// What should be done with a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Store it, then [`RecvWindow::accept`] it.
    Store,
    /// It is here already, or applied.
    Duplicate,
    /// It lies beyond the window or the byte budget, or contradicts what is here: as if lost.
    Refuse,
}

/// ```text
///   applied | base ...... complete | ................. highest |
///    (gone) |  ready to be applied |  with gaps                |  base + capacity
/// ```
#[derive(Debug, Clone, Hash)]
pub(crate) struct RecvWindow<R> {
    slots: R,
    base: Seq,
    /// Everything from `base` up to here is complete (`base - 1`: nothing is).
    complete: Seq,
    highest: Seq,
    bytes: u64,
    budget: u64,
}

impl<R: AsRef<[RecvSlot]> + AsMut<[RecvSlot]>> RecvWindow<R> {
    /// The number of slots is a power of two.
    pub(crate) const fn new(slots: R, budget: u32) -> Self {
        Self {
            slots,
            base: Seq(1),
            complete: Seq::ZERO,
            highest: Seq::ZERO,
            bytes: 0,
            budget: budget as u64,
        }
    }

    fn index(&self, seq: Seq) -> usize {
        let n = self.slots.as_ref().len() as u64;
        (seq.0 & (n - 1)) as usize
    }

    pub(crate) const fn base(&self) -> Seq {
        self.base
    }

    pub(crate) const fn complete(&self) -> Seq {
        self.complete
    }

    /// The last of which anything has arrived.
    pub(crate) const fn highest(&self) -> Seq {
        self.highest
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.slots.as_ref().len() as u32
    }

    /// Forgets everything; `applied + 1` is needed next.
    pub(crate) fn reset(&mut self, applied: Seq) {
        self.slots.as_mut().fill(RecvSlot::default());
        self.base = applied.next();
        self.complete = applied;
        self.highest = applied;
        self.bytes = 0;
    }

    pub(crate) fn offer(&self, part: &Part) -> Offer {
        if part.seq < self.base {
            return Offer::Duplicate;
        }
        if part.seq.0 - self.base.0 >= self.slots.as_ref().len() as u64 {
            return Offer::Refuse;
        }
        let slot = &self.slots.as_ref()[self.index(part.seq)];
        if slot.complete {
            return Offer::Duplicate;
        }
        if let Some((chunk, index)) = part.piece {
            if pieces(part.total, chunk) > MAX_FRAGMENTS {
                return Offer::Refuse;
            }
            if slot.chunk == chunk && slot.total == part.total {
                let i = usize::from(index) % MAX_FRAGMENTS;
                if slot.have[i / 64] >> (i % 64) & 1 == 1 {
                    return Offer::Duplicate;
                }
                return Offer::Store;
            }
        }
        // What is needed next always fits, or a full window could never empty itself.
        let begun = if slot.chunk > 0 {
            u64::from(slot.total)
        } else {
            0
        };
        let needed_next = part.seq == self.complete.next();
        if !needed_next && self.bytes - begun + u64::from(part.total) > self.budget {
            return Offer::Refuse;
        }
        Offer::Store
    }

    /// Takes note of a part that was [`offer`](Self::offer)ed and stored; whether its update is
    /// complete now.
    pub(crate) fn accept(&mut self, part: &Part) -> bool {
        let at = self.index(part.seq);
        let slot = &mut self.slots.as_mut()[at];
        let begun = if slot.chunk > 0 {
            u64::from(slot.total)
        } else {
            0
        };
        match part.piece {
            None => {
                self.bytes = self.bytes - begun + u64::from(part.total);
                slot.total = part.total;
                slot.chunk = slot.chunk.max(1);
                slot.complete = true;
            }
            Some((chunk, index)) => {
                if slot.chunk != chunk || slot.total != part.total {
                    // Another node cuts it differently.
                    self.bytes = self.bytes - begun + u64::from(part.total);
                    *slot = RecvSlot {
                        have: [0; MAX_FRAGMENTS / 64],
                        total: part.total,
                        chunk,
                        left: pieces(part.total, chunk) as u16,
                        complete: false,
                    };
                }
                let i = usize::from(index) % MAX_FRAGMENTS;
                slot.have[i / 64] |= 1 << (i % 64);
                slot.left -= 1;
                slot.complete = slot.left == 0;
            }
        }
        let complete = slot.complete;
        self.highest = self.highest.max(part.seq);
        if complete && part.seq == self.complete.next() {
            self.extend();
        }
        complete
    }

    fn extend(&mut self) {
        while self.complete < self.highest {
            let seq = self.complete.next();
            if !self.slots.as_ref()[self.index(seq)].complete {
                break;
            }
            self.complete = seq;
        }
    }

    /// The database has applied up to `applied`.
    pub(crate) fn advance(&mut self, applied: Seq) {
        if applied >= self.highest {
            // Also skips what never arrived here because another node applied it.
            let mut seq = self.base;
            while seq <= self.highest {
                let at = self.index(seq);
                self.slots.as_mut()[at] = RecvSlot::default();
                seq = seq.next();
            }
            self.bytes = 0;
            self.base = self.base.max(applied.next());
            self.complete = self.complete.max(applied);
            self.highest = self.highest.max(applied);
            return;
        }
        while self.base <= applied {
            let at = self.index(self.base);
            let slot = &mut self.slots.as_mut()[at];
            if slot.chunk > 0 {
                self.bytes -= u64::from(slot.total);
            }
            *slot = RecvSlot::default();
            self.base = self.base.next();
        }
        self.complete = self.complete.max(applied);
        self.extend();
    }

    /// Nothing can be applied, and something is there: what comes before it, or the rest of it, is
    /// missing.
    pub(crate) fn waits(&self) -> bool {
        self.complete < self.base && self.highest >= self.base
    }

    /// The first run of updates that have not arrived at all although a later one has. Looks at
    /// most 64 numbers ahead.
    pub(crate) fn gap(&self) -> Option<(Seq, Seq)> {
        if self.complete >= self.highest {
            return None;
        }
        let from = self.complete.next();
        let mut to = Seq(from.0 - 1);
        for seq in (from.0..=self.highest.0).take(64).map(Seq) {
            if self.slots.as_ref()[self.index(seq)].chunk > 0 {
                break;
            }
            to = seq;
        }
        (from <= to).then_some((from, to))
    }
}

fn pieces(total: u32, chunk: u16) -> usize {
    total.div_ceil(u32::from(chunk.max(1))) as usize
}

#[cfg(test)]
mod tests;
