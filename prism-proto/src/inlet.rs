//! An inlet: the receiving end of one peer region's stream.

use core::time::Duration;

use crate::{
    ApplyCause, Epoch, Inbox, InletState, Instant, NodeId, Output, Position, RegionId, Seq,
    WaitReason,
    link::earliest,
    recv_window::{RecvSlot, RecvWindow},
    refusals::Untold,
    wire::{Credit, Nack, Progress},
};

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
    /// No refusal at or below it remains to be told to the origin.
    pub(crate) clean: Seq,
    pub(crate) window: RecvWindow<R>,
    pub(crate) window_bytes: u32,
    pub(crate) busy: Option<Busy>,
    pub(crate) read_wanted: bool,
    /// Something has come since it was last said that the position is old.
    pub(crate) fresh: bool,
    /// Nothing has: what still waits for something before it waits in vain.
    pub(crate) quiet: bool,
    /// It has started over because of a fork, and nothing has been applied since.
    pub(crate) doubted: bool,
    pub(crate) retry_at: Option<Instant>,
    pub(crate) untold: Untold,
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
            clean: Seq::ZERO,
            window: RecvWindow::new(slots, window_bytes),
            window_bytes,
            busy: None,
            read_wanted: false,
            fresh: false,
            quiet: false,
            doubted: false,
            retry_at: None,
            untold: Untold::new(),
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
        let mut position = self.position?;
        let mut clean = self.clean;
        if canary!(AckBeforeCommit) {
            position.seq = self.window.complete();
        }
        if canary!(CleanTooEarly) {
            clean = position.seq;
        }
        Some(Progress {
            position,
            clean: clean.min(position.seq),
            credit: self.credit(),
        })
    }

    /// Nothing of it has arrived any more; `after + 1` is needed next.
    pub(crate) fn start_over(&mut self, stream: RegionId, after: Seq, inbox: &mut impl Inbox) {
        inbox.clear(stream);
        self.window.reset(after);
        self.gap_since = None;
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
        if let Some((epoch, seq)) = self.untold.next_told() {
            return Some(Output::RefusalTold { stream, epoch, seq });
        }
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

    pub(crate) fn deadline(&self) -> Option<(Instant, WaitReason)> {
        earliest([
            (self.retry_at, WaitReason::Retry),
            (self.untold.at, WaitReason::Retry),
        ])
    }
}
