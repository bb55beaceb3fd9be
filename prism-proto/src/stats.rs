//! Figures for status pages and metrics.

use crate::{NodeId, Position, Seq, Target};

/// Figures of one lane.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct LaneStats {
    /// Whether this node holds the lane.
    pub held: bool,
    /// Where it sends now; `None` also for a lane that has stopped.
    pub target: Option<Target>,
    /// The peer's position has been found on the own stream, and updates flow to a node.
    pub streaming: bool,
    /// Highest committed update of the own stream.
    pub tail: Seq,
    /// Acknowledged (applied) by the peer's database.
    pub acked: Position,
    /// No refusal at or below it remains to be told.
    pub clean: Seq,
    /// Smoothed round-trip time to the target, microseconds; 0 without a sample.
    pub rtt_us: u64,
    /// Updates sent for the first time over UDP.
    pub sent: u64,
    /// Updates sent again over UDP.
    pub retransmits: u64,
    /// Changes to a worse rung.
    pub failovers: u64,
    /// Updates written by direct SQL.
    pub direct_writes: u64,
    /// Longest silence before a failover, microseconds.
    pub failover_us: u64,
    /// Probe timeouts: nothing was heard for too long.
    pub probes: u64,
    /// Updates sent that the peer's database has not applied.
    pub in_window: u64,
    /// Bytes on their way to the target, as far as is known.
    pub in_flight: u64,
}

/// Figures of one inlet.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct InletStats {
    /// Where the database is, as far as known.
    pub applied: Position,
    /// No refusal at or below it remains to be told to the origin.
    pub clean: Seq,
    /// Node that sends.
    pub from: Option<NodeId>,
    /// Updates received for the first time.
    pub received: u64,
    /// Updates received again and suppressed.
    pub duplicates: u64,
    /// Updates (or pieces) that found no room; they are sent again.
    pub no_room: u64,
    /// Highest update up to which everything has arrived.
    pub complete: Seq,
}
