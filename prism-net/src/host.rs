//! The border between the loop thread and everybody else.

use crate::config::Reload;
use prism_proto::{Epoch, Event, InletStats, LaneStats, Notice, Position, Refusal, RegionId, Seq};

/// A run of encoded updates with consecutive seqs, in one allocation that is reused.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    first: u64,
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Batch {
    /// One that takes so many updates, of so many bytes together, without allocating again.
    #[must_use]
    pub fn with_capacity(updates: usize, bytes: usize) -> Self {
        Self {
            first: 0,
            bytes: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(updates),
        }
    }

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

    /// Appends a part of the next update, which [`finish`](Self::finish) completes.
    pub(crate) fn extend(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    pub(crate) fn finish(&mut self) {
        self.push(&[]);
    }

    /// The update with this seq.
    pub(crate) fn get(&self, seq: Seq) -> Option<&[u8]> {
        let at = usize::try_from(seq.0.checked_sub(self.first)?).ok()?;
        let end = *self.ends.get(at)? as usize;
        let start = match at.checked_sub(1) {
            Some(before) => self.ends[before] as usize,
            None => 0,
        };
        self.bytes.get(start..end)
    }

    /// One above the seq of the last update.
    pub(crate) fn end(&self) -> u64 {
        self.first.saturating_add(self.ends.len() as u64)
    }

    /// Bytes of memory that it holds.
    pub(crate) fn footprint(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<u32>() + size_of::<Self>()
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
/// [`Command::Event`] through the [`Handle`](crate::Handle); one that cannot even be handed over is
/// answered by [`overdue`](Self::overdue), since the engine waits for an answer.
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
    /// The peer's database has committed up to here, and no refusal at or below `clean` remains to
    /// be told (see `Output::Acked`).
    fn acked(&mut self, peer: RegionId, position: Position, clean: Seq);
    /// The peer's database has refused an update of the own stream. Deal with it durably, then
    /// answer `RefusalHandled`, also if it was dealt with before. It comes again until then, so one
    /// for which there is no room may be dropped.
    fn refused(&mut self, peer: RegionId, refusal: Refusal);
    /// The origin has dealt with the refusal of this update: note that in the database. Answer:
    /// `Refused` for the next untold ones, then `Clean`. One that is dropped comes again, when the
    /// refusal is told again.
    fn refusal_told(&mut self, stream: RegionId, epoch: Epoch, seq: Seq);
    /// Answers to calls that could not be handed over (a full queue), taken until `None` right
    /// after each call. Not through the `Handle`: its queue may be full as well, and an answer that
    /// is lost is waited for for ever.
    fn overdue(&mut self) -> Option<Event> {
        None
    }
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
    /// New keys, addresses or catalogue.
    Reload(Box<Reload>),
    /// Call [`Host::snapshot`] now.
    Snapshot,
    /// Leave the loop.
    Stop,
}

/// The queue into the loop is full; the command is given back.
#[derive(Debug)]
pub struct Full(pub Command);

/// Datagrams that were dropped without an answer, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops {
    /// Not a packet of Prism, or damaged.
    pub malformed: u64,
    /// Of no session that stands here (an earlier process's, or a stranger's).
    pub unknown_session: u64,
    /// A handshake of a node that the configuration does not have, or not with this key.
    pub unknown_node: u64,
    /// Seen before, or too old to tell.
    pub replayed: u64,
    /// A handshake whose MAC shows that its sender does not know the cluster's key or name, or means
    /// another node.
    pub wrong_mac: u64,
    /// A handshake with a valid MAC that is not authentic (another key, damaged).
    pub wrong_handshake: u64,
    /// A handshake of an earlier process of the node, or of a second one.
    pub stale: u64,
    /// A packet of a session that stands here which is not authentic.
    pub not_authentic: u64,
    /// A handshake that was answered with a cookie, or dropped, because there were too many.
    pub overload: u64,
    /// From a node that is shut out for a while because it broke the rules.
    pub shut_out: u64,
    /// From a known node, but the core could make no sense of it.
    pub refused: u64,
}

impl Drops {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.malformed
            + self.unknown_session
            + self.unknown_node
            + self.replayed
            + self.wrong_mac
            + self.wrong_handshake
            + self.stale
            + self.not_authentic
            + self.overload
            + self.shut_out
            + self.refused
    }
}

/// What the sessions know of another node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// Whether a session stands.
    pub up: bool,
    /// Digest of its catalogue, once it has told it.
    pub catalogue: Option<u64>,
    /// Authentic handshakes that were older than one seen before: replayed, or the node lost its
    /// boot counter.
    pub stale: u64,
    /// Authentic handshakes of a second process with the same identity.
    pub twin: u64,
    /// Authenticated datagrams that said what only nodes of another region may say.
    pub violations: u64,
}

/// Figures of the loop.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Per region (index = `RegionId`); the own region's entry is meaningless.
    pub lanes: Vec<LaneStats>,
    /// Per region (index = `RegionId`); the own region's entry is meaningless.
    pub inlets: Vec<InletStats>,
    /// Per node (index = `NodeId`); the own entry is meaningless.
    pub peers: Vec<PeerInfo>,
    /// Datagrams received.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams dropped: malformed, unknown sender, wrong session.
    pub dropped: u64,
    /// The same by reason.
    pub drops: Drops,
    /// Datagrams for which there was no session.
    pub unsent: u64,
    /// Datagrams that the kernel did not take (no route, refused, too large, no buffers).
    pub send_errors: u64,
    /// System calls that sent or received datagrams.
    pub syscalls: u64,
    /// Times the loop went to sleep. An idle node sleeps a few times per second.
    pub polls: u64,
    /// Bytes of payloads held in memory for the lanes.
    pub payload_bytes: u64,
    /// Bytes of received updates that wait to be applied.
    pub inbox_bytes: u64,
}
