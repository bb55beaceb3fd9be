//! The engine: lanes out, inlets in, one poll.

use crate::{
    Config, ConfigError, Event, Inbox, Instant, NodeId, Output, Payloads, Position, RegionId, Seq,
    Target,
};

/// Figures of one lane.
#[derive(Debug, Clone, Copy, Default)]
pub struct LaneStats {
    /// Whether this node holds the lane.
    pub held: bool,
    /// Where it sends now.
    pub target: Option<Target>,
    /// Highest committed update of the own stream.
    pub tail: Seq,
    /// Acknowledged (applied) by the peer's database.
    pub acked: Position,
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
}

/// Figures of one inlet.
#[derive(Debug, Clone, Copy, Default)]
pub struct InletStats {
    /// Where the database is, as far as known.
    pub applied: Position,
    /// Node that sends.
    pub from: Option<NodeId>,
    /// Updates received for the first time.
    pub received: u64,
    /// Updates received again and suppressed.
    pub duplicates: u64,
}

/// See the crate's documentation. PLACEHOLDER: storage is handed in by a type parameter.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// An engine that knows its cluster and nothing else.
    ///
    /// # Errors
    /// [`ConfigError`] names what does not fit.
    pub fn new(_config: &Config<'_>) -> Result<Self, ConfigError> {
        todo!()
    }

    /// A datagram from an authenticated node. Afterwards, poll.
    pub fn handle_datagram(
        &mut self,
        _now: Instant,
        _from: NodeId,
        _plaintext: &[u8],
        _inbox: &mut impl Inbox,
    ) {
        todo!()
    }

    /// A fact. Afterwards, poll.
    pub fn handle_event(&mut self, _now: Instant, _event: Event, _inbox: &mut impl Inbox) {
        todo!()
    }

    /// The next thing to do; call until [`Output::Wait`].
    pub fn poll(&mut self, _now: Instant, _payloads: &impl Payloads, _buffer: &mut [u8]) -> Output {
        todo!()
    }

    /// Figures of the lane to `peer`.
    #[must_use]
    pub fn lane_stats(&self, _peer: RegionId) -> LaneStats {
        todo!()
    }

    /// Figures of the inlet of `stream`.
    #[must_use]
    pub fn inlet_stats(&self, _stream: RegionId) -> InletStats {
        todo!()
    }
}
