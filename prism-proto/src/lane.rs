//! A lane: the delivery of the own stream to one peer region.

use core::time::Duration;

use crate::{
    ApplyCause, Instant, Position, Seq, WaitReason,
    failover::Rung,
    link::earliest,
    update_window::{UpdateSlot, UpdateWindow},
    wire::Credit,
};

/// Pause before a lane asks its own database, or a busy direct path, again.
pub(crate) const SOON: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What a lane is doing on its rung.
///
/// ```text
///          LaneHeld                 NodeUp            Welcome           Verified
///   Off ------------> Connecting ----------> Opening --------> Verifying --------> Streaming
///    ^                    |                     |  ^               |                  |
///    | LaneLost           +------- no answer, unavailable, no progress: next rung ----+
///    |                    v                        |               |
///   any               Direct <---> Parked ---------+               +--> Stopped (fork, too old)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Another node of this region holds the lane.
    Off,
    /// No session with the node; each `Connect` is a probe.
    Connecting,
    /// `Hello` said, no `Welcome` yet.
    Opening,
    /// The origin's outbox judges the position that the peer has named.
    Verifying(Position),
    /// Updates flow.
    Streaming,
    /// SQL.
    Direct,
    /// Until then.
    Parked(Instant),
    /// Fork, or too far behind: an operator has to act.
    Stopped,
}

/// See the module's documentation. `U` is the storage of the update window.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Lane<U> {
    pub(crate) phase: Phase,
    pub(crate) rung: Rung,
    /// Names the opening; entries of the packet ring and `Welcome`s of another one are stale.
    pub(crate) token: u32,
    pub(crate) acked: Position,
    /// Number of the packet that said so: what an older one says, which comes later, is not true any
    /// more if the peer's database was put back in between.
    pub(crate) acked_by: u64,
    /// No refusal at or below it remains to be told; never beyond `acked`.
    pub(crate) clean: Seq,
    /// The same of the `Welcome` that is being verified.
    pub(crate) offered: Seq,
    /// The host has to be told of `acked` and `clean`.
    pub(crate) tell_acked: bool,
    pub(crate) window: UpdateWindow<U>,
    pub(crate) credit: Credit,
    /// When `Hello` goes again although the node lives.
    pub(crate) hello_at: Option<Instant>,
    /// The receiver has to show progress from then on.
    pub(crate) progress_at: Option<Instant>,
    /// `Output::Verify` has to go out now.
    pub(crate) verify_due: bool,
    /// When the direct path, or the own database, is asked again.
    pub(crate) again_at: Option<Instant>,
    pub(crate) attempts: u8,
    pub(crate) direct_busy: bool,
    pub(crate) direct_failed: bool,
    /// The direct path has not said yet where the peer's database is.
    pub(crate) direct_ask: bool,
    pub(crate) parked: u8,
    /// A rung that has been the better choice since then (policy `fastest`).
    pub(crate) better: Option<(Rung, Instant)>,
    pub(crate) peer_waiting: Option<ApplyCause>,
    /// Its next update is not in memory.
    pub(crate) fetch: Option<Seq>,
    /// The last answer was that this one is in memory.
    pub(crate) granted: Option<Seq>,
    /// It is not asked for again before this.
    pub(crate) fetch_at: Option<Instant>,
    /// How often in a row it was not found.
    pub(crate) missed: u8,
    pub(crate) counters: Counters,
}

#[derive(Debug, Clone, Copy, Hash, Default)]
pub(crate) struct Counters {
    pub(crate) sent: u64,
    pub(crate) retransmits: u64,
    pub(crate) failovers: u64,
    pub(crate) direct_writes: u64,
    pub(crate) failover_us: u64,
    pub(crate) probes: u64,
}

impl<U: AsRef<[UpdateSlot]> + AsMut<[UpdateSlot]>> Lane<U> {
    pub(crate) const fn new(slots: U) -> Self {
        Self {
            phase: Phase::Off,
            rung: Rung::Parked,
            token: 0,
            acked: Position {
                epoch: crate::Epoch(0),
                seq: Seq::ZERO,
                tag: crate::Tag(0),
            },
            acked_by: 0,
            clean: Seq::ZERO,
            offered: Seq::ZERO,
            tell_acked: false,
            window: UpdateWindow::new(slots),
            credit: Credit {
                updates: 0,
                bytes: 0,
            },
            hello_at: None,
            progress_at: None,
            verify_due: false,
            again_at: None,
            attempts: 0,
            direct_busy: false,
            direct_failed: false,
            direct_ask: false,
            parked: 0,
            better: None,
            peer_waiting: None,
            fetch: None,
            granted: None,
            fetch_at: None,
            missed: 0,
            counters: Counters {
                sent: 0,
                retransmits: 0,
                failovers: 0,
                direct_writes: 0,
                failover_us: 0,
                probes: 0,
            },
        }
    }

    pub(crate) const fn is_held(&self) -> bool {
        !matches!(self.phase, Phase::Off)
    }

    /// Whether it climbs, falls and probes.
    pub(crate) const fn is_active(&self) -> bool {
        !matches!(self.phase, Phase::Off | Phase::Stopped)
    }

    /// The node (by its place in the failover order) that it talks to.
    pub(crate) const fn node(&self) -> Option<u8> {
        match (self.phase, self.rung) {
            (Phase::Off | Phase::Stopped, _) => None,
            (_, Rung::Node(i)) => Some(i),
            _ => None,
        }
    }

    /// Void what the last rung left behind.
    pub(crate) fn leave(&mut self) {
        self.token = self.token.wrapping_add(1);
        let mut behind = self.acked.seq;
        if canary!(SwitchForgetsInFlight) {
            behind = behind.max(Seq(self.window.next().0 - 1));
        }
        self.window.reset(behind);
        self.hello_at = None;
        self.progress_at = None;
        self.verify_due = false;
        self.again_at = None;
        self.attempts = 0;
        self.peer_waiting = None;
        self.better = None;
        self.fetch = None;
        self.granted = None;
        self.fetch_at = None;
    }

    /// The update that has to be read back now.
    pub(crate) fn wants(&mut self, now: Instant) -> Option<Seq> {
        // What has been acknowledged since is not needed any more, and may not be there any more.
        self.fetch = self.fetch.filter(|seq| *seq > self.acked.seq);
        if self.fetch_at.is_some() {
            return None;
        }
        if self
            .granted
            .take_if(|seq| self.fetch == Some(*seq))
            .is_some()
        {
            // It was in memory a moment ago: do not turn in circles with a host short of room.
            self.fetch_at = Some(now.after(SOON.0));
            return None;
        }
        self.fetch
    }

    /// The peer's database has committed up to `position` and is clean up to `clean`; `false` if
    /// that is nothing new.
    ///
    /// A smaller `clean` is an older one: what has been told stays told. Only a database that was
    /// put back knows less, and that is [`settle_at`](Self::settle_at)'s business.
    pub(crate) fn advance(&mut self, position: Position, clean: Seq) -> bool {
        let clean = clean.min(position.seq);
        let moved = position.seq > self.acked.seq;
        if position.seq < self.acked.seq || !moved && clean <= self.clean {
            return false;
        }
        self.clean = self.clean.max(clean);
        self.tell_acked = true;
        if moved {
            self.acked = position;
            self.window.slide(position.seq);
            self.peer_waiting = None;
            self.parked = 0;
        }
        true
    }

    /// Read afresh from the peer's database, so it may be further back than before: whether it is
    /// elsewhere, and whether there is anything to tell.
    pub(crate) fn settle_at(&mut self, position: Position, clean: Seq) -> (bool, bool) {
        let clean = clean.min(position.seq);
        let moved = self.acked.seq != position.seq;
        let news = moved || self.clean != clean;
        if moved || !canary!(SwitchForgetsInFlight) {
            self.window.reset(position.seq);
        }
        self.acked = position;
        self.clean = clean;
        self.tell_acked |= news;
        (moved, news)
    }

    /// Whether a refusal that the peer has not told yet may hide among what is acknowledged.
    pub(crate) fn is_unclean(&self) -> bool {
        self.clean < self.acked.seq
    }

    pub(crate) fn deadline(&self) -> Option<(Instant, WaitReason)> {
        if !self.is_active() {
            return None;
        }
        let parked = match self.phase {
            Phase::Parked(until) => Some(until),
            _ => None,
        };
        earliest([
            (self.hello_at, WaitReason::Probe),
            (self.progress_at, WaitReason::Progress),
            (self.again_at, WaitReason::Retry),
            (self.fetch_at, WaitReason::Retry),
            (parked, WaitReason::Retry),
        ])
    }
}
