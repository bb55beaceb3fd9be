//! What the engine asks its host to do.

use crate::{Epoch, Instant, NodeId, Position, Refusal, RegionId, Seq};

/// One step. Drain [`Engine::poll`](crate::Engine::poll) until [`Output::Wait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Output {
    /// Send the first `len` bytes of the buffer to this node.
    Transmit {
        /// Receiver.
        to: NodeId,
        /// Length of the datagram.
        len: usize,
    },
    /// Try (again) to establish a session with this node: one handshake packet now.
    Connect {
        /// The other node.
        to: NodeId,
    },
    /// Load these updates of the own stream from the outbox into memory; answer with
    /// [`Event::Fetched`](crate::Event::Fetched). At most one is under way.
    Fetch {
        /// First wanted.
        from: Seq,
        /// Last wanted (fewer may be loaded).
        to: Seq,
    },
    /// Compare a peer's position with the own stream; answer with
    /// [`Event::Verified`](crate::Event::Verified).
    Verify {
        /// Region at the other end.
        peer: RegionId,
        /// Where its database says it is.
        position: Position,
    },
    /// Read the watermark of a stream from the own database; answer with
    /// [`Event::Position`](crate::Event::Position) or `ApplyFailed`.
    ReadPosition {
        /// Stream of that region.
        stream: RegionId,
    },
    /// Apply this range, which is complete in the [`Inbox`](crate::Inbox), in one transaction;
    /// answer with `Applied`, `ApplyFailed` or `Position`. At most one per stream is under way.
    Apply {
        /// Stream of that region.
        stream: RegionId,
        /// Numbering that the sender speaks of.
        epoch: Epoch,
        /// First.
        from: Seq,
        /// Last.
        to: Seq,
    },
    /// Write this range of the own stream into the peer's database by SQL; answer with
    /// `DirectDone` (maybe short of `upto`) or `DirectFailed`. At most one per lane is under way.
    /// With `after == upto` there is nothing to write: only refusals that the peer's database has
    /// not told may remain.
    Direct {
        /// Region at the other end.
        peer: RegionId,
        /// Acknowledged so far; the database's own watermark decides.
        after: Seq,
        /// Last wanted.
        upto: Seq,
    },
    /// The peer's database has committed up to here: remember it in the lane row, tell waiters,
    /// free memory.
    Acked {
        /// Region at the other end.
        peer: RegionId,
        /// Its position.
        position: Position,
        /// No refusal at or below it remains to be told: up to here the region not only has every
        /// update, it has executed each, or the own region has dealt with the refusal. Never beyond
        /// `position.seq`.
        clean: Seq,
    },
    /// The peer's database has refused an update of the own stream for good. Deal with it durably,
    /// then answer with [`Event::RefusalHandled`](crate::Event::RefusalHandled). Until then it
    /// comes again whenever the peer repeats it, at any node of the region: a host without room may
    /// drop it, and one that has dealt with it before answers at once.
    PeerRefused {
        /// Region that refused it.
        peer: RegionId,
        /// Which and why.
        refusal: Refusal,
    },
    /// The origin has dealt with this refusal: note that in the database, then tell the next
    /// untold ones ([`Event::Refused`](crate::Event::Refused)) and how far the stream is clean now
    /// ([`Event::Clean`](crate::Event::Clean)). If the database does not take it:
    /// [`Event::PositionOld`](crate::Event::PositionOld).
    RefusalTold {
        /// Stream of that region.
        stream: RegionId,
        /// Numbering that `seq` belongs to.
        epoch: Epoch,
        /// The refused update.
        seq: Seq,
    },
    /// Something worth a log line, a counter or an alarm.
    Notify(Notice),
    /// Nothing more to do before the deadline (or the next input, if `None`).
    Wait {
        /// When to poll again.
        deadline: Option<Instant>,
        /// What the deadline is for.
        reason: WaitReason,
    },
}

/// A rung of a lane's ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// UDP to this node.
    Node(NodeId),
    /// SQL connection to the region's database.
    Direct,
    /// Everything failed; the updates wait on disk until then.
    Parked(Instant),
}

/// Why a lane changed its rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SwitchReason {
    /// The lane starts (or was taken over from a sibling).
    Start,
    /// All retries to the node went unanswered.
    Unanswered {
        /// How many datagrams were sent without an answer.
        attempts: u8,
    },
    /// The node says that it cannot reach its database.
    Unavailable,
    /// The node received but applied nothing for `apply_timeout`.
    NoProgress,
    /// The direct path failed.
    Direct(crate::DirectFailure),
    /// The pause of a parked lane is over.
    Retry,
    /// A better rung has answered long enough.
    ClimbBack,
}

/// State of an inlet, for status and alarms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InletState {
    /// No sender yet.
    Idle,
    /// Reading the position.
    Opening,
    /// Receiving and applying.
    Running,
    /// Waiting, and why.
    Waiting(crate::ApplyCause),
}

/// Something worth telling people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Notice {
    /// A lane changed its rung. To [`Target::Parked`]: its ladder is exhausted, and a host that
    /// knows a sibling may answer with [`Event::LaneLost`](crate::Event::LaneLost).
    Switched {
        /// Region at the other end.
        peer: RegionId,
        /// Old rung.
        from: Target,
        /// New rung.
        to: Target,
        /// Why.
        reason: SwitchReason,
        /// How long the old rung had been silent when it was given up (time to fail over).
        silent: core::time::Duration,
    },
    /// A lane stopped for good: fork or too old. It goes on after `LaneHeld` is told again.
    LaneStopped {
        /// Region at the other end.
        peer: RegionId,
        /// What the peer's database says.
        position: Position,
        /// Why.
        verdict: crate::Verdict,
    },
    /// A peer's node reports that its apply waits.
    PeerWaiting {
        /// Region at the other end.
        peer: RegionId,
        /// Why.
        cause: crate::ApplyCause,
    },
    /// The lane needs this update and the host has not found it for more than a second; told once
    /// until rows are found again. The lane goes on asking.
    RowsMissing {
        /// Region at the other end.
        peer: RegionId,
        /// First missing.
        from: Seq,
    },
    /// An inlet changed its state.
    Inlet {
        /// Stream of that region.
        stream: RegionId,
        /// New state.
        state: InletState,
        /// Node that sends, if known.
        from: Option<NodeId>,
    },
    /// A sibling committed up to here (the engine has already taken note).
    SiblingTail {
        /// Tail of the own stream.
        upto: Seq,
    },
    /// A sibling's lane has been acknowledged up to here.
    SiblingAcked {
        /// Region at the other end.
        peer: RegionId,
        /// Its position.
        seq: Seq,
        /// As in [`Output::Acked`].
        clean: Seq,
    },
    /// A datagram was dropped: it is malformed.
    Dropped {
        /// Sender.
        from: NodeId,
    },
    /// A datagram was dropped: its sender has no right to say that. It knows the node's key, so it
    /// is either broken or in the wrong hands.
    Violation {
        /// Sender.
        from: NodeId,
        /// What it has said.
        what: Violation,
    },
}

/// What an authenticated node has no right to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Violation {
    /// A node of the own region sends updates, or opens a lane: it has no stream of its own.
    Stream,
    /// A node of the own region acknowledges or refuses updates: it speaks for no other region.
    Judgement,
    /// A node of another region tells what siblings tell each other of the own stream.
    News,
    /// A sibling tells what the own region has acknowledged of its own stream.
    OwnRegion,
    /// It acknowledges packets that were never sent to it.
    NeverSent,
}

impl Notice {
    /// Whether `other` has said all that this one says: one offence of a node is enough.
    pub(crate) fn is_told_by(&self, other: &Self) -> bool {
        matches!(
            (self, other),
            (Self::Violation { from, .. }, Self::Violation { from: culprit, .. }) if from == culprit
        )
    }

    /// The same is told again and again; one that is lost is not missed.
    pub(crate) const fn is_repeated(&self) -> bool {
        matches!(
            self,
            Self::Dropped { .. } | Self::SiblingTail { .. } | Self::SiblingAcked { .. }
        )
    }
}

/// What a [`Output::Wait`] waits for, so that a busy loop explains itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitReason {
    /// Nothing is pending.
    Idle,
    /// A delayed ACK.
    AckDelay,
    /// Pacing.
    Pacing,
    /// Loss detection by time.
    Loss,
    /// Probe timeout.
    Probe,
    /// Keep-alive or a background probe of a better rung.
    KeepAlive,
    /// A parked lane's pause, or a receiver's wait before it tries again.
    Retry,
    /// A receiver's time to show progress.
    Progress,
}
