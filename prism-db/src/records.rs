//! Rows and answers of the ledger beside the streams: requests, refusals, held updates, nodes.

use std::time::Duration;

use prism_proto::{Epoch, RefusalClass, RegionKey, Seq};

use crate::{Committed, Digest, Hlc, Submission, Value};

/// What became of a caller's request, as this database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRow {
    /// The caller's id.
    pub request_id: [u8; 16],
    /// What was asked for: [`crate::body_digest`].
    pub body: Digest,
    /// Region at which it was submitted.
    pub stream: String,
    /// Its number there; `None` if it never got one.
    pub seq: Option<Seq>,
    /// What became of it.
    pub state: RequestState,
}

/// A submission whose id is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeat {
    /// Its position in the batch.
    pub index: usize,
    /// What is asked for now: [`crate::body_digest`]. Another one than on record: the id was used
    /// for something else.
    pub body: Digest,
    /// What is on record.
    pub row: RequestRow,
}

/// See [`RequestRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestState {
    /// Executed in this database.
    Committed,
    /// Published, and executed here only when every region has it.
    Held,
    /// Refused by this database (at the origin: nothing else happened; at a peer: see `rejected`).
    Refused {
        /// Five characters.
        sqlstate: String,
        /// The server's words.
        message: String,
    },
    /// Undone.
    Undone(UndoReason),
}

/// Why an update is undone.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum UndoReason {
    /// A region's database refused it.
    Refused {
        /// Which.
        region: String,
        /// Five characters.
        sqlstate: String,
        /// The server's words, as far as they are known here.
        message: String,
    },
    /// A held update stood in the way of another region's.
    Conflict {
        /// Which region's.
        region: String,
    },
    /// A held update was not confirmed by these regions in time.
    Unconfirmed {
        /// Which.
        regions: Vec<String>,
    },
    /// The transaction of a held update has ended: its node or the server crashed.
    Crashed,
}

/// What [`crate::Database::undo`] did.
#[derive(Debug, Clone, PartialEq)]
pub enum Undone {
    /// The undo is an update of the own stream now.
    Published(Committed),
    /// It has been undone before.
    Before,
    /// The undo statement was refused by this database. Every region is told, by an update that
    /// each of them records as a dead letter; here it is recorded too.
    Refused {
        /// The update that tells.
        notice: Committed,
        /// Five characters.
        sqlstate: String,
        /// The server's words.
        message: String,
    },
    /// It cannot be undone: no `undo` in its statement, or it is no longer in the outbox.
    Impossible(String),
}

/// A refusal that its origin has not been told yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalRow {
    /// Numbering.
    pub epoch: Epoch,
    /// The refused update.
    pub seq: Seq,
    /// Kind.
    pub class: RefusalClass,
    /// Five characters.
    pub sqlstate: String,
    /// The server's words.
    pub message: String,
}

/// What `held_begin` has executed.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldWrite {
    /// What was asked for (its request id is always there).
    pub submission: Submission,
    /// Rows affected.
    pub rows: u64,
    /// What the `old` query gave.
    pub old: Vec<Value>,
    /// The open transaction (0 on SQLite).
    pub xid: u64,
    /// Server process that holds it (0 on SQLite).
    pub backend: i32,
    /// When it ends at the latest.
    pub limit: Duration,
}

/// What an update that was published as held is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldState {
    /// Still held.
    Held,
    /// Final.
    Final,
    /// Undone.
    Undone(UndoReason),
    /// No such update in the outbox.
    Unknown,
}

/// A held update that has to give way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldConflict {
    /// The held update of the own stream.
    pub seq: Seq,
    /// The region whose update waits for it.
    pub stream: RegionKey,
}

/// What `rejected_retry` did.
#[derive(Debug, Clone, PartialEq)]
pub enum Retried {
    /// Executed here; rows affected.
    Applied(u64),
    /// Submitted to the own stream.
    Submitted(Committed),
    /// No row with that id that nobody has resolved.
    Unknown,
}

/// Size of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutboxFigures {
    /// Rows.
    pub rows: u64,
    /// Encoded bytes, about.
    pub bytes: u64,
    /// Rows of `prism.request`, about.
    pub requests: u64,
}

/// A process that serves, or has served, as a node of the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRow {
    /// Drawn at its start.
    pub incarnation: u64,
    /// Identity of its journal.
    pub journal: u64,
    /// How long ago it was last heard of, by the database's clock.
    pub silent: Duration,
}

/// The latest of some clocks, lowest first by region: the order in which held updates win.
#[must_use]
pub fn wins(held: (Hlc, &str), other: (Hlc, &str)) -> bool {
    held < other
}
