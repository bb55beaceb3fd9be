//! The packet ring of a link: number, time and content of what is on its way.

use core::time::Duration;

use crate::{Instant, Seq, loss, wire::AckRanges};

/// What a packet carried besides updates, as bits.
pub(crate) mod control {
    pub(crate) const PING: u8 = 1;
    pub(crate) const HELLO: u8 = 2;
    pub(crate) const WELCOME: u8 = 4;
    pub(crate) const APPENDED: u8 = 8;
    pub(crate) const ACKED: u8 = 16;
    pub(crate) const REFUSED: u8 = 32;
}

/// Which updates a packet carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Content {
    #[default]
    None,
    Run {
        first: Seq,
        count: u16,
    },
    Fragment {
        seq: Seq,
        index: u16,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum State {
    #[default]
    Done,
    Outstanding,
    /// Its content has been handed back for a probe; an answer still counts.
    Requeued,
}

/// One slot of a packet ring. Hosts only provide room for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PacketSlot {
    pub(crate) pn: u64,
    sent: Option<Instant>,
    pub(crate) content: Content,
    pub(crate) bytes: u16,
    /// Opening of the lane that `content` belongs to.
    pub(crate) opening: u32,
    pub(crate) control: u8,
    state: State,
}

impl PacketSlot {
    /// What every slot holds at first.
    pub const EMPTY: Self = Self {
        pn: 0,
        sent: None,
        content: Content::None,
        bytes: 0,
        opening: 0,
        control: 0,
        state: State::Done,
    };

    pub(crate) const fn new(
        pn: u64,
        sent: Instant,
        bytes: u16,
        content: Content,
        opening: u32,
        control: u8,
    ) -> Self {
        Self {
            pn,
            sent: Some(sent),
            content,
            bytes,
            opening,
            control,
            state: State::Outstanding,
        }
    }

    pub(crate) const fn requeued(&self) -> bool {
        matches!(self.state, State::Requeued)
    }
}

/// What an ACK says of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Received,
    Lost,
}

/// What an ACK brought on the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct AckOutcome {
    /// Packets that are acknowledged for the first time.
    pub(crate) newly: u32,
    /// When the largest number was sent, if it is among them.
    pub(crate) largest_sent: Option<Instant>,
    /// When the next packet will count as lost by time.
    pub(crate) loss_at: Option<Instant>,
}

/// A queue in order of packet numbers (with gaps: packets that want no answer are not kept).
///
/// An ACK walks from the oldest entry up to its largest number. What lies below that is then either
/// acknowledged, or lost by the packet threshold, or one of the last few below it: hence the work
/// is in proportion to what is newly acknowledged, never to the window.
#[derive(Debug, Clone, Hash)]
pub(crate) struct PacketRing<P> {
    slots: P,
    head: usize,
    len: usize,
    /// Highest number that any ACK has named.
    largest_acked: Option<u64>,
}

impl<P: AsRef<[PacketSlot]> + AsMut<[PacketSlot]>> PacketRing<P> {
    pub(crate) const fn new(slots: P) -> Self {
        Self {
            slots,
            head: 0,
            len: 0,
            largest_acked: None,
        }
    }

    fn index(&self, i: usize) -> usize {
        let n = self.slots.as_ref().len();
        let at = self.head + i;
        if at >= n { at - n } else { at }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) const fn largest_acked(&self) -> Option<u64> {
        self.largest_acked
    }

    /// Free slots.
    pub(crate) fn room(&self) -> usize {
        self.slots.as_ref().len() - self.len
    }

    /// Appends a packet. If the ring is full the oldest entry makes room and is returned, to be
    /// treated as lost.
    pub(crate) fn push(&mut self, slot: PacketSlot) -> Option<PacketSlot> {
        let mut evicted = None;
        if self.room() == 0 {
            let at = self.index(0);
            evicted = Some(self.slots.as_ref()[at]).filter(|s| s.state != State::Done);
            self.head = self.index(1);
            self.len -= 1;
        }
        let at = self.index(self.len);
        self.slots.as_mut()[at] = slot;
        self.len += 1;
        self.trim();
        evicted
    }

    /// The oldest packet's time.
    pub(crate) fn oldest_sent(&self) -> Option<Instant> {
        (self.len > 0)
            .then(|| self.slots.as_ref()[self.head].sent)
            .flatten()
    }

    /// Applies the ranges of an ACK, oldest first; `each` hears of every packet that is settled.
    pub(crate) fn acknowledge(
        &mut self,
        ranges: &AckRanges,
        loss_delay: Duration,
        now: Instant,
        each: impl FnMut(Verdict, &PacketSlot),
    ) -> AckOutcome {
        if let Some(newest) = ranges.last() {
            self.largest_acked = self.largest_acked.max(Some(newest.end));
        }
        self.walk(ranges, loss_delay, now, each)
    }

    /// Looks for packets that count as lost by time.
    pub(crate) fn expire(
        &mut self,
        loss_delay: Duration,
        now: Instant,
        each: impl FnMut(Verdict, &PacketSlot),
    ) -> Option<Instant> {
        self.walk(&AckRanges::new(), loss_delay, now, each).loss_at
    }

    fn walk(
        &mut self,
        ranges: &AckRanges,
        loss_delay: Duration,
        now: Instant,
        mut each: impl FnMut(Verdict, &PacketSlot),
    ) -> AckOutcome {
        let mut outcome = AckOutcome::default();
        let Some(largest) = self.largest_acked else {
            return outcome;
        };
        let newest = ranges.last().map(|r| r.end);
        let mut ranges = ranges.iter().peekable();
        for i in 0..self.len {
            let at = self.index(i);
            let slot = &mut self.slots.as_mut()[at];
            if slot.pn > largest {
                break;
            }
            let (State::Outstanding | State::Requeued, Some(sent)) = (slot.state, slot.sent) else {
                continue;
            };
            while ranges.peek().is_some_and(|r| r.end < slot.pn) {
                ranges.next();
            }
            if ranges.peek().is_some_and(|r| r.start <= slot.pn) {
                outcome.newly += 1;
                if Some(slot.pn) == newest {
                    outcome.largest_sent = Some(sent);
                }
                each(Verdict::Received, slot);
                slot.state = State::Done;
                continue;
            }
            match loss::detect(slot.pn, sent, largest, loss_delay, now) {
                loss::Outcome::Lost => {
                    each(Verdict::Lost, slot);
                    slot.state = State::Done;
                }
                loss::Outcome::LostAt(at) => {
                    outcome.loss_at = Some(outcome.loss_at.map_or(at, |other| other.min(at)));
                }
            }
        }
        self.trim();
        outcome
    }

    /// Hands the oldest content that has not been handed back yet to a probe.
    pub(crate) fn requeue_oldest(&mut self) -> Option<PacketSlot> {
        for i in 0..self.len {
            let at = self.index(i);
            let slot = &mut self.slots.as_mut()[at];
            if slot.state == State::Outstanding {
                let copy = *slot;
                slot.state = State::Requeued;
                return Some(copy);
            }
        }
        None
    }

    /// Whether anything but pings is on its way.
    pub(crate) fn carries_content(&self) -> bool {
        (0..self.len).any(|i| {
            let slot = &self.slots.as_ref()[self.index(i)];
            slot.state != State::Done
                && (slot.control & !control::PING != 0 || slot.content != Content::None)
        })
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.head = 0;
        self.len = 0;
    }

    /// Also forgets what the other side has acknowledged: it is another incarnation.
    pub(crate) fn reset(&mut self) {
        self.clear();
        self.largest_acked = None;
    }

    /// The same ring, its oldest entry at the front and nothing in void slots; times as `each` says.
    pub(crate) fn canonical(&mut self, mut each: impl FnMut(&mut Option<Instant>)) {
        let slots = self.slots.as_mut();
        slots.rotate_left(self.head);
        self.head = 0;
        slots[self.len..].fill(PacketSlot::EMPTY);
        for slot in &mut slots[..self.len] {
            if slot.state == State::Done {
                *slot = PacketSlot {
                    pn: slot.pn,
                    ..PacketSlot::EMPTY
                };
            }
            each(&mut slot.sent);
        }
    }

    fn trim(&mut self) {
        while self.len > 0 && self.slots.as_ref()[self.head].state == State::Done {
            self.head = self.index(1);
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
