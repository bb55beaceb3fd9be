//! The update window of a lane: what must still go, by sequence number.

use crate::{Seq, bits::Bits};

/// Pieces that one update may be cut into: the bits of [`UpdateSlot`]'s bitmap.
pub const MAX_FRAGMENTS: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum State {
    #[default]
    Free,
    /// On its way; nothing of it has to be sent now.
    InFlight,
    /// It (or pieces of it) has to be sent; its bit in `pending` is set.
    Pending,
    /// A node of the peer has it, its database has not.
    Received,
}

/// One slot of an update window. Hosts only provide room for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct UpdateSlot {
    /// Pieces that have to be sent (a large update only).
    todo: [u64; MAX_FRAGMENTS / 64],
    len: u32,
    /// Low bits of the newest packet that carried it whole.
    pn: u32,
    /// Pieces that the peer has not confirmed; 0 for an update that fits into one packet.
    left: u16,
    state: State,
    again: bool,
}

impl UpdateSlot {
    /// What every slot holds at first.
    pub const EMPTY: Self = Self {
        todo: [0; MAX_FRAGMENTS / 64],
        len: 0,
        pn: 0,
        left: 0,
        state: State::Free,
        again: false,
    };
}

/// ```text
///   applied | acked+1 ...................... next-1 | next ... tail
///    (gone) |  in flight, pending or received       | not sent yet
/// ```
#[derive(Debug, Clone, Hash)]
pub(crate) struct UpdateWindow<U> {
    slots: U,
    pending: Bits,
    acked: Seq,
    next: Seq,
    bytes: u64,
}

impl<U: AsRef<[UpdateSlot]> + AsMut<[UpdateSlot]>> UpdateWindow<U> {
    /// The number of slots is a power of two of at most [`crate::bits::CAPACITY`].
    pub(crate) const fn new(slots: U) -> Self {
        Self {
            slots,
            pending: Bits::new(),
            acked: Seq::ZERO,
            next: Seq(1),
            bytes: 0,
        }
    }

    fn capacity(&self) -> u64 {
        self.slots.as_ref().len() as u64
    }

    fn index(&self, seq: Seq) -> usize {
        (seq.0 & (self.capacity() - 1)) as usize
    }

    fn slot(&mut self, seq: Seq) -> Option<&mut UpdateSlot> {
        if seq <= self.acked || seq >= self.next {
            return None;
        }
        let at = self.index(seq);
        Some(&mut self.slots.as_mut()[at])
    }

    pub(crate) const fn acked(&self) -> Seq {
        self.acked
    }

    pub(crate) const fn next(&self) -> Seq {
        self.next
    }

    /// Whether anything has been sent that is not applied.
    pub(crate) fn is_open(&self) -> bool {
        self.next.0 > self.acked.0 + 1
    }

    /// Starts afresh behind `acked`: marks of another node or opening are void.
    pub(crate) fn reset(&mut self, acked: Seq) {
        self.pending.clear_all();
        self.bytes = 0;
        self.acked = acked;
        self.next = acked.next();
    }

    /// Whether one more update of `len` bytes fits into the window and the peer's credit.
    pub(crate) fn fits(&self, len: usize, updates: u32, bytes: u32) -> bool {
        let sent = self.next.0 - 1 - self.acked.0;
        let first = sent == 0;
        let most = self.capacity().min(u64::from(updates).max(1));
        sent < most + u64::from(canary!(WindowOffByOne))
            && (first || self.bytes + len as u64 <= u64::from(bytes))
    }

    /// The next update goes for the first time, in pieces if `fragments` is above 0; those are all
    /// pending then.
    pub(crate) fn open(&mut self, len: usize, pn: u64, fragments: u16) -> Seq {
        let seq = self.next;
        let at = self.index(seq);
        let mut todo = [0; MAX_FRAGMENTS / 64];
        for piece in 0..usize::from(fragments).min(MAX_FRAGMENTS) {
            todo[piece / 64] |= 1 << (piece % 64);
        }
        self.slots.as_mut()[at] = UpdateSlot {
            todo,
            len: len as u32,
            pn: pn as u32,
            left: fragments,
            state: if fragments > 0 {
                State::Pending
            } else {
                State::InFlight
            },
            again: false,
        };
        if fragments > 0 {
            self.pending.set(at);
        }
        self.bytes += len as u64;
        self.next = seq.next();
        seq
    }

    /// The oldest update that has something to send.
    pub(crate) fn first_pending(&self) -> Option<Seq> {
        let base = self.acked.next();
        let start = self.index(base);
        let at = self.pending.first_around(start)? as u64;
        let ahead = at.wrapping_sub(start as u64) & (self.capacity() - 1);
        Some(Seq(base.0 + ahead))
    }

    /// Whether `seq` is pending as a whole.
    pub(crate) fn is_pending_whole(&self, seq: Seq) -> bool {
        seq > self.acked && seq < self.next && {
            let slot = &self.slots.as_ref()[self.index(seq)];
            slot.state == State::Pending && slot.left == 0
        }
    }

    /// The first piece of `seq` that has to be sent, if it is one that goes in pieces.
    pub(crate) fn next_piece(&self, seq: Seq) -> Option<u16> {
        if seq <= self.acked || seq >= self.next {
            return None;
        }
        let slot = &self.slots.as_ref()[self.index(seq)];
        if slot.left == 0 {
            return None;
        }
        let word = slot.todo.iter().position(|w| *w != 0)?;
        Some((word * 64) as u16 + slot.todo[word].trailing_zeros() as u16)
    }

    /// A pending update goes again as a whole.
    pub(crate) fn resend(&mut self, seq: Seq, pn: u64) {
        let at = self.index(seq);
        if let Some(slot) = self.slot(seq) {
            slot.state = State::InFlight;
            slot.pn = pn as u32;
            if !canary!(PendingNotCleared) {
                self.pending.clear(at);
            }
        }
    }

    /// A piece goes; whether it, or another one of this update, had gone before.
    pub(crate) fn send_piece(&mut self, seq: Seq, index: u16) -> bool {
        let at = self.index(seq);
        let Some(slot) = self.slot(seq) else {
            return false;
        };
        let again = slot.again;
        let i = usize::from(index) % MAX_FRAGMENTS;
        slot.todo[i / 64] &= !(1 << (i % 64));
        if slot.todo == [0; MAX_FRAGMENTS / 64] {
            slot.state = State::InFlight;
            self.pending.clear(at);
        }
        again
    }

    /// The peer has these updates, which packet `pn` carried.
    pub(crate) fn received(&mut self, first: Seq, count: u16) {
        for seq in (first.0..).take(usize::from(count)).map(Seq) {
            let at = self.index(seq);
            if let Some(slot) = self.slot(seq)
                && slot.left == 0
                && slot.state != State::Received
            {
                slot.state = State::Received;
                self.pending.clear(at);
            }
        }
    }

    /// The packet that carried these updates is lost (or given up for a probe). Updates that have
    /// gone again in another packet since are not concerned.
    pub(crate) fn lost(&mut self, first: Seq, count: u16, pn: u64) {
        for seq in (first.0..).take(usize::from(count)).map(Seq) {
            let at = self.index(seq);
            if let Some(slot) = self.slot(seq)
                && slot.state == State::InFlight
                && slot.left == 0
                && slot.pn == pn as u32
            {
                slot.state = State::Pending;
                slot.again = true;
                self.pending.set(at);
            }
        }
    }

    /// The peer has this piece. `requeued`: the packet had been given up for a probe, so that the
    /// piece may have gone again; then only the newer packet counts, because pieces are counted.
    pub(crate) fn received_piece(&mut self, seq: Seq, index: u16, requeued: bool) {
        let at = self.index(seq);
        let Some(slot) = self.slot(seq) else { return };
        if slot.left == 0 {
            return;
        }
        let i = usize::from(index) % MAX_FRAGMENTS;
        let bit = 1 << (i % 64);
        if requeued && slot.todo[i / 64] & bit == 0 {
            return;
        }
        slot.todo[i / 64] &= !bit;
        slot.left -= 1;
        if slot.left == 0 {
            slot.state = State::Received;
        } else if slot.todo == [0; MAX_FRAGMENTS / 64] {
            slot.state = State::InFlight;
        }
        if slot.state != State::Pending {
            self.pending.clear(at);
        }
    }

    /// The packet that carried this piece is lost or given up.
    pub(crate) fn lost_piece(&mut self, seq: Seq, index: u16) {
        let at = self.index(seq);
        if let Some(slot) = self.slot(seq)
            && slot.left > 0
        {
            let i = usize::from(index) % MAX_FRAGMENTS;
            slot.todo[i / 64] |= 1 << (i % 64);
            slot.state = State::Pending;
            slot.again = true;
            self.pending.set(at);
        }
    }

    /// The peer names updates that have not arrived; those whose newest packet is older than what
    /// it has acknowledged are lost.
    pub(crate) fn missing(&mut self, from: Seq, to: Seq, largest_acked: u64) {
        let from = from.max(self.acked.next());
        let mut seq = from;
        while seq <= to && seq < self.next {
            let at = self.index(seq);
            if let Some(slot) = self.slot(seq)
                && slot.state == State::InFlight
                && slot.left == 0
                && (largest_acked as u32).wrapping_sub(slot.pn) as i32 > 0
            {
                slot.state = State::Pending;
                slot.again = true;
                self.pending.set(at);
            }
            seq = seq.next();
        }
    }

    /// The same window with nothing in void slots.
    pub(crate) fn canonical(&mut self) {
        for ahead in 0..self.capacity() {
            let seq = Seq(self.acked.0.wrapping_add(1 + ahead));
            if seq <= self.acked || seq >= self.next {
                let at = self.index(seq);
                self.slots.as_mut()[at] = UpdateSlot::EMPTY;
            }
        }
    }

    /// The peer's database has applied up to `acked`.
    pub(crate) fn slide(&mut self, acked: Seq) {
        if acked >= self.next {
            return self.reset(acked);
        }
        while self.acked < acked {
            let seq = self.acked.next();
            let at = self.index(seq);
            let slot = &mut self.slots.as_mut()[at];
            self.bytes -= u64::from(slot.len);
            if slot.state == State::Pending {
                self.pending.clear(at);
            }
            slot.state = State::Free;
            self.acked = seq;
        }
    }
}

#[cfg(test)]
mod tests;
