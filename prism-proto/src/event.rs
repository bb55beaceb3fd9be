//! Facts that the host tells the engine.

use crate::{Epoch, Instant, NodeId, Position, RegionId, Seq};

/// Something that happened outside: in the database, in the session layer, on the direct path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Updates of the own stream up to `upto` are committed. The engine tells the siblings
    /// (`Appended`) and sends on the lanes that it holds.
    Available {
        /// Tail of the own stream.
        upto: Seq,
    },
    /// Answer to [`Output::Fetch`](crate::Output::Fetch): payloads from the wanted `from` up to
    /// `upto` are in [`Payloads`](crate::Payloads) now. `upto < from`: nothing could be read, ask
    /// again no sooner than after a pause.
    Fetched {
        /// Last seq in memory.
        upto: Seq,
    },
    /// This node holds the lane to `peer` now. `acked` is what the database remembers of it.
    LaneHeld {
        /// Region at the other end.
        peer: RegionId,
        /// Acknowledged position stored in the lane row.
        acked: Position,
        /// Newest of the own stream. If the lane's peer says that it has another update of this
        /// number, the lane stops.
        own: Position,
    },
    /// Another node of this region holds the lane now; stop sending.
    LaneLost {
        /// Region at the other end.
        peer: RegionId,
    },
    /// Answer to [`Output::Verify`](crate::Output::Verify).
    Verified {
        /// Region at the other end.
        peer: RegionId,
        /// The position that was judged.
        position: Position,
        /// What the own outbox says of it.
        verdict: Verdict,
    },
    /// Answer to [`Output::ReadPosition`](crate::Output::ReadPosition), read afresh from the
    /// database; or told unasked when the database turned out to be elsewhere than the engine
    /// thought (a gap, a restored backup).
    Position {
        /// Stream of that region.
        stream: RegionId,
        /// Where the database is.
        position: Position,
        /// No refusal at or below it remains to be told to the origin: the lowest untold one less
        /// one, else `position.seq`. Read it *after* the position: an update that somebody else
        /// applies, and refuses, between the two must not look clean.
        clean: Seq,
    },
    /// Nothing has come for a while: the database may be elsewhere by now (a sibling or SQL has
    /// written, a backup was restored); or it did not take [`Output::RefusalTold`](crate::Output::RefusalTold).
    /// It is read again as soon as nothing is under way. What waits for
    /// a missing update, and has done so since this was said before, is forgotten: whoever sends begins
    /// behind what is applied.
    PositionOld {
        /// Stream of that region.
        stream: RegionId,
    },
    /// The database committed the stream up to and including `position.seq` (which may be beyond
    /// the range asked for, when somebody else applied it).
    Applied {
        /// Stream of that region.
        stream: RegionId,
        /// Where the database is.
        position: Position,
        /// As in [`Event::Position`]. Tell [`Event::Refused`] first.
        clean: Seq,
    },
    /// Nothing new is applied, but refusals have been told: as in [`Event::Position`]. The origin
    /// hears of it at once.
    Clean {
        /// Stream of that region.
        stream: RegionId,
        /// No refusal at or below it remains to be told to the origin.
        clean: Seq,
    },
    /// A read of the position or an apply did not succeed; nothing was written. The engine asks
    /// again at `retry_at` and tells the peer why it waits.
    ApplyFailed {
        /// Stream of that region.
        stream: RegionId,
        /// Why.
        cause: ApplyCause,
        /// When to ask again.
        retry_at: Instant,
    },
    /// An update was refused for good by this region's database and recorded there (it counts as
    /// applied). The origin is told again and again until it has dealt with it
    /// ([`Output::RefusalTold`](crate::Output::RefusalTold)).
    ///
    /// The engine keeps the lowest 16 of a stream, the database keeps them all: tell the lowest
    /// untold ones before every `Position` and `Applied`, and after each `RefusalTold`. One that
    /// the engine knows costs nothing.
    Refused {
        /// Stream of that region.
        stream: RegionId,
        /// Which update and why.
        refusal: Refusal,
    },
    /// Answer to [`Output::PeerRefused`](crate::Output::PeerRefused): the own region has dealt with
    /// the refusal of this update (or an undo that cannot be) durably, now or earlier.
    RefusalHandled {
        /// Region that refused it.
        peer: RegionId,
        /// The update.
        seq: Seq,
    },
    /// The direct path committed up to `position.seq` in the peer's database.
    DirectDone {
        /// Region at the other end.
        peer: RegionId,
        /// Where its database is.
        position: Position,
        /// No refusal at or below it remains to be told to the own region (the direct path itself
        /// tells those that it finds).
        clean: Seq,
    },
    /// The direct path could not write.
    DirectFailed {
        /// Region at the other end.
        peer: RegionId,
        /// Why.
        why: DirectFailure,
    },
    /// A session with this node stands; what was known of an older one is void.
    NodeUp {
        /// The other node.
        node: NodeId,
    },
    /// The session with this node is gone.
    NodeDown {
        /// The other node.
        node: NodeId,
    },
}

/// What the origin finds when it compares a peer's position with its own stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The position lies on the own stream: continue behind it.
    Matches,
    /// Another epoch, another tag at that seq, or ahead of the own tail: the databases have
    /// forked. The lane stops with an alarm.
    Forked,
    /// The updates behind the position are no longer in the outbox. The lane stops with an alarm.
    TooOld,
    /// The own database cannot be asked now; the engine asks again later.
    Unknown,
}

/// Why an apply (or the reading of a position) has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ApplyCause {
    /// The database cannot be reached: the peer is told, and goes down its ladder.
    Unreachable,
    /// Transient: lock timeout, deadlock, serialization failure.
    Busy,
    /// The stream waits for another stream's update on which it depends.
    Dependency,
    /// An operator has to act: missing table, function, grant, unknown statement.
    Parked,
    /// Another epoch or another tag than expected: fork.
    Forked,
}

/// Which update was refused, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Refusal {
    /// Numbering that `seq` belongs to.
    pub epoch: Epoch,
    /// The update.
    pub seq: Seq,
    /// Kind of refusal.
    pub class: RefusalClass,
    /// SQLSTATE, five ASCII characters.
    pub sqlstate: [u8; 5],
}

/// Kind of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum RefusalClass {
    /// The data do not fit the types or domains (SQLSTATE class 22).
    Data,
    /// A constraint is violated (class 23, 44000).
    Constraint,
    /// The statement itself raised an exception (P0001).
    Raised,
    /// A held update lost against another one.
    Conflict,
}

/// Why the direct path did not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DirectFailure {
    /// No connection, connection lost, deadline passed: park and try again.
    Unreachable,
    /// Transient: try again soon.
    Busy,
    /// The stream waits for another stream's update in that database.
    Dependency,
    /// An operator has to act (missing schema, table, grant).
    Parked,
    /// Another epoch or tag: fork.
    Forked,
}
