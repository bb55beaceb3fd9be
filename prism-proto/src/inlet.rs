//! An inlet: the receiving end of one peer region's stream.

use core::time::Duration;

use heapless::Vec;

use crate::{
    ApplyCause, Epoch, InletState, Instant, NodeId, Output, Position, Refusal, RegionId, Seq,
    WaitReason, backoff,
    link::earliest,
    recv_window::{RecvSlot, RecvWindow},
    wire::{Credit, Nack, Progress},
};

/// Refusals that the origin has not confirmed yet. They are on record in the database, so one that
/// falls out is not lost, only not told by this node.
const MAX_REFUSALS: usize = 16;
/// A refusal is repeated after this long, and doubling up to that long.
const REPEAT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What the host is doing for this stream; one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Busy {
    Reading,
    Applying,
}

/// See the module's documentation. `R` is the storage of the receive window.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Inlet<R> {
    pub(crate) state: InletState,
    /// Numbering that the sender speaks of.
    pub(crate) epoch: Epoch,
    pub(crate) from: Option<NodeId>,
    /// `None` until the database has been read.
    pub(crate) position: Option<Position>,
    pub(crate) window: RecvWindow<R>,
    pub(crate) window_bytes: u32,
    pub(crate) busy: Option<Busy>,
    pub(crate) read_wanted: bool,
    pub(crate) retry_at: Option<Instant>,
    pub(crate) refusals: Vec<Refusal, MAX_REFUSALS>,
    pub(crate) refusal_at: Option<Instant>,
    refusal_attempt: u8,
    pub(crate) gap_since: Option<Instant>,
    pub(crate) received: u64,
    pub(crate) duplicates: u64,
    pub(crate) no_room: u64,
}

impl<R: AsRef<[RecvSlot]> + AsMut<[RecvSlot]>> Inlet<R> {
    pub(crate) const fn new(slots: R, window_bytes: u32) -> Self {
        Self {
            state: InletState::Idle,
            epoch: Epoch(0),
            from: None,
            position: None,
            window: RecvWindow::new(slots, window_bytes),
            window_bytes,
            busy: None,
            read_wanted: false,
            retry_at: None,
            refusals: Vec::new(),
            refusal_at: None,
            refusal_attempt: 0,
            gap_since: None,
            received: 0,
            duplicates: 0,
            no_room: 0,
        }
    }

    pub(crate) fn credit(&self) -> Credit {
        Credit {
            updates: self.window.capacity(),
            bytes: self.window_bytes,
        }
    }

    pub(crate) fn progress(&self) -> Option<Progress> {
        self.position.map(|position| Progress {
            position,
            credit: self.credit(),
        })
    }

    /// Why the sender has to wait, to go with every ACK.
    pub(crate) fn complaint(&self, now: Instant) -> Option<Nack> {
        match self.state {
            InletState::Waiting(ApplyCause::Unreachable) => {
                let wait = self.retry_at.map_or(Duration::ZERO, |at| at.since(now));
                Some(Nack::Unavailable {
                    retry_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
                })
            }
            InletState::Waiting(cause) => Some(Nack::Waiting { cause }),
            _ => None,
        }
    }

    /// What the host should do next for this stream.
    pub(crate) fn next_output(&mut self, stream: RegionId, max_apply: u32) -> Option<Output> {
        if self.busy.is_some() || self.retry_at.is_some() {
            return None;
        }
        if self.read_wanted {
            self.busy = Some(Busy::Reading);
            return Some(Output::ReadPosition { stream });
        }
        self.position?;
        let from = self.window.base();
        let to = self
            .window
            .complete()
            .min(Seq(from.0.saturating_add(u64::from(max_apply.max(1)) - 1)));
        if to < from {
            return None;
        }
        self.busy = Some(Busy::Applying);
        Some(Output::Apply {
            stream,
            epoch: self.epoch,
            from,
            to,
        })
    }

    /// Remembers a refusal until the origin has confirmed it.
    pub(crate) fn refuse(&mut self, refusal: Refusal, now: Instant) {
        if self.refusals.iter().any(|r| r.seq == refusal.seq) {
            return;
        }
        if self.refusals.is_full() {
            self.refusals.remove(0);
        }
        let _fits = self.refusals.push(refusal);
        self.refusal_attempt = 0;
        self.refusal_at = Some(now);
    }

    /// The refusals are told now; when to repeat them.
    pub(crate) fn refusals_told(&mut self, now: Instant) {
        self.refusal_at = (!self.refusals.is_empty())
            .then(|| now.after(backoff::next(self.refusal_attempt, REPEAT.0, REPEAT.1, 0)));
        self.refusal_attempt = self.refusal_attempt.saturating_add(1);
    }

    pub(crate) fn refusal_confirmed(&mut self, seq: Seq) {
        self.refusals.retain(|r| r.seq != seq);
        if self.refusals.is_empty() {
            self.refusal_at = None;
        }
    }

    pub(crate) fn deadline(&self) -> Option<(Instant, WaitReason)> {
        earliest([
            (self.retry_at, WaitReason::Retry),
            (self.refusal_at, WaitReason::Retry),
        ])
    }
}
