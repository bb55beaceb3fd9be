//! The border between the loop thread and everybody else.

use prism_proto::{Epoch, Event, InletStats, LaneStats, Notice, Position, RegionId, Seq};

/// A run of encoded updates with consecutive seqs, in one allocation that is reused.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    first: u64,
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Batch {
    /// Empties it (capacity stays) and sets the seq of the next pushed update.
    pub fn reset(&mut self, first: Seq) {
        self.first = first.0;
        self.bytes.clear();
        self.ends.clear();
    }

    /// Appends the next update.
    pub fn push(&mut self, update: &[u8]) {
        self.bytes.extend_from_slice(update);
        self.ends
            .push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
    }

    /// Seq of the first update.
    #[must_use]
    pub fn first(&self) -> Seq {
        Seq(self.first)
    }

    /// Number of updates.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all updates.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The updates with their seqs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Seq, &[u8])> {
        let mut start = 0;
        self.ends.iter().enumerate().map(move |(i, &end)| {
            let range = start..end as usize;
            start = end as usize;
            (Seq(self.first + i as u64), &self.bytes[range])
        })
    }
}

/// What the loop asks of the rest of the node. Called on the loop thread: hand over and return at
/// once, never block. Every call but `acked`, `notify` and `snapshot` is answered later by
/// [`Command::Event`] through the [`Handle`](crate::Handle).
pub trait Host {
    /// Apply this batch of `stream` in one transaction. When done give the batch back with
    /// [`Command::Recycle`]. Answer: `Applied`, `ApplyFailed` or `Position`.
    fn apply(&mut self, stream: RegionId, epoch: Epoch, batch: Batch);
    /// Read the stream's watermark from the own database. Answer: `Position` or `ApplyFailed`.
    fn read_position(&mut self, stream: RegionId);
    /// Load updates of the own stream from the outbox. Answer: [`Command::Payloads`] (several if
    /// large), then `Fetched`.
    fn fetch(&mut self, from: Seq, to: Seq);
    /// Compare a peer's position with the outbox. Answer: `Verified`.
    fn verify(&mut self, peer: RegionId, position: Position);
    /// Write the own stream behind `after` up to `upto` into the peer's database. Answer:
    /// `DirectDone` or `DirectFailed`.
    fn direct(&mut self, peer: RegionId, after: Seq, upto: Seq);
    /// The peer's database has committed up to here.
    fn acked(&mut self, peer: RegionId, position: Position);
    /// A change worth a log line.
    fn notify(&mut self, notice: Notice);
    /// Figures, about once a second and after every [`Command::Snapshot`].
    fn snapshot(&mut self, snapshot: &Snapshot);
}

/// What other threads tell the loop.
#[derive(Debug)]
pub enum Command {
    /// A fact for the engine.
    Event(Event),
    /// Encoded updates of the own stream for the payload cache (after a commit, or an answer to
    /// `fetch`).
    Payloads(Batch),
    /// Committed just now at this node: payloads and `Available` in one.
    Committed(Batch),
    /// A batch whose memory can be used again.
    Recycle(Batch),
    /// Call [`Host::snapshot`] now.
    Snapshot,
    /// Leave the loop.
    Stop,
}

/// The queue into the loop is full; the command is given back.
#[derive(Debug)]
pub struct Full(pub Command);

/// Figures of the loop.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Per region (index = `RegionId`); the own region's entry is meaningless.
    pub lanes: Vec<LaneStats>,
    /// Per region (index = `RegionId`); the own region's entry is meaningless.
    pub inlets: Vec<InletStats>,
    /// Whether a session stands, per node (index = `NodeId`).
    pub sessions: Vec<bool>,
    /// Datagrams received.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams dropped: malformed, unknown sender, wrong session.
    pub dropped: u64,
    /// Bytes of payloads held in memory for the lanes.
    pub payload_bytes: u64,
    /// Bytes of received updates that wait to be applied.
    pub inbox_bytes: u64,
}
