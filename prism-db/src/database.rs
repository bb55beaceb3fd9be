//! The trait that both backends implement: each verb is one whole transaction.

use std::sync::Arc;
use std::time::Duration;

use prism_proto::{Epoch, Position, RegionKey, Seq, Verdict};

use crate::catalogue::{CatalogueError, Statement};
use crate::{DbError, Digest, Hlc, Update, Value};

/// Names of the regions, as every database knows them.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Region that the opened database belongs to.
    pub region: String,
    /// All regions of the cluster.
    pub regions: Arc<[(String, RegionKey)]>,
}

/// The row `prism.region`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionRow {
    /// Its name.
    pub name: String,
    /// Identity of its numbering.
    pub epoch: Epoch,
    /// The seq that the next update gets.
    pub next_seq: Seq,
    /// Tag of the newest update.
    pub last_tag: prism_proto::Tag,
}

/// One update to execute at its origin: parameters are complete and typed.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Version of the statement.
    pub statement: Digest,
    /// All parameters, generated ones included.
    pub params: Vec<Value>,
    /// The caller's id.
    pub request_id: Option<[u8; 16]>,
}

/// A submission that is durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// Its number.
    pub seq: Seq,
    /// As it goes to the peers.
    pub update: Update,
}

/// What to do with one update of an apply batch.
#[derive(Debug, Clone, PartialEq)]
pub enum ItemAction {
    /// Execute it.
    Run,
    /// Record it in `rejected` instead.
    Reject {
        /// Five characters.
        sqlstate: String,
        /// The server's words.
        message: String,
    },
    /// Neither execute nor record (an operator's `skip`, the undo of something refused here).
    Skip,
}

/// One update to apply.
#[derive(Debug, Clone, PartialEq)]
pub struct ApplyItem {
    /// Its number.
    pub seq: Seq,
    /// The update.
    pub update: Update,
    /// What to do.
    pub action: ItemAction,
}

/// Consecutive updates of one stream, applied in one transaction.
#[derive(Debug)]
pub struct ApplyRequest<'a> {
    /// Name of the stream's region.
    pub stream: &'a str,
    /// Its numbering.
    pub epoch: Epoch,
    /// Ascending without gaps.
    pub items: &'a [ApplyItem],
    /// A row count that differs from the origin's, or a missing referenced row, is accepted even
    /// though this database is behind what the origin had seen (the wait was given up: never by
    /// default).
    pub ignore_dependencies: bool,
}

/// A row count that differs from the origin's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Which update.
    pub seq: Seq,
    /// Rows affected at the origin.
    pub expected: u64,
    /// Rows affected here.
    pub actual: u64,
}

/// What an apply did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyReport {
    /// Committed. `position` may be beyond the request when somebody else was faster.
    Done {
        /// Where the database is now.
        position: Position,
        /// Updates of the request that were executed (or recorded as rejected) by this call.
        executed: u64,
        /// Updates of the request that had been applied before.
        skipped: u64,
        /// Row counts that differ.
        drift: Vec<Drift>,
    },
    /// Nothing written: the request starts behind a gap; the database is here.
    Gap {
        /// Where the database is.
        position: Position,
    },
    /// Nothing written: update `seq` depends on another stream's update that is not here yet.
    Behind {
        /// The update that waits.
        seq: Seq,
        /// The stream that it waits for, and how far that must come.
        needs: (RegionKey, Seq),
    },
}

impl ApplyReport {
    /// Nothing had to be done.
    #[must_use]
    pub const fn at(position: Position) -> Self {
        Self::Done {
            position,
            executed: 0,
            skipped: 0,
            drift: Vec::new(),
        }
    }
}

/// A row of `prism.lane`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneRow {
    /// Name of the peer region.
    pub peer: String,
    /// Acknowledged by the peer's database.
    pub acked: Position,
    /// Node that holds the lane, if the lease is running.
    pub holder: Option<String>,
}

/// A row of `prism.rejected`.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedRow {
    /// Name of the stream's region.
    pub stream: String,
    /// Its number.
    pub seq: Seq,
    /// The update.
    pub update: Update,
    /// Five characters.
    pub sqlstate: String,
    /// The server's words.
    pub message: String,
}

/// One connection to one region's database, of which each worker thread has its own.
///
/// After an error other than a plain SQL error the connection is re-established by the next call;
/// every call keeps the connect and statement deadlines given when it was opened.
pub trait Database: Send {
    /// Own identity and numbering.
    ///
    /// # Errors
    /// [`DbError`].
    fn region(&mut self) -> Result<RegionRow, DbError>;

    /// Executes the submissions in order, writes their outbox rows and takes their numbers as the
    /// last act, all in one transaction: all or none. If one of them fails, `DbError::Sql` names
    /// its index. `Committed` is in the order of `batch`, with consecutive seqs.
    ///
    /// # Errors
    /// [`DbError`]; after `Ambiguous` the caller asks [`Database::outbox_find`].
    /// `TooLarge`: nothing was written either.
    fn submit(&mut self, batch: &[Submission]) -> Result<Vec<Committed>, DbError>;

    /// The watermark of a stream. Epoch 0 and seq 0 when nothing was ever applied.
    ///
    /// # Errors
    /// [`DbError`].
    fn position(&mut self, stream: &str) -> Result<Position, DbError>;

    /// All watermarks.
    ///
    /// # Errors
    /// [`DbError`].
    fn positions(&mut self) -> Result<Vec<(String, Position)>, DbError>;

    /// Locks the stream's watermark row, skips what is applied, refuses a gap, another epoch, a
    /// batch whose predecessor's tag is not the watermark's; runs the rest in order, advances the
    /// watermark, commits. All or nothing.
    ///
    /// # Errors
    /// `DbError::Sql` with the index of the offender; `Fork`; `Ambiguous`: look at the position.
    /// After `Unreachable` at the deadline a stopped server may apply it still when it goes on: the
    /// watermark makes a repetition harmless.
    fn apply(&mut self, request: &ApplyRequest<'_>) -> Result<ApplyReport, DbError>;

    /// Updates of the own stream from `from` up to `to`, until `max_bytes` (encoded) are exceeded;
    /// `sink` gets seq and encoded update. Returns the last seq read, or `from - 1`.
    ///
    /// # Errors
    /// [`DbError`].
    fn outbox_read(
        &mut self,
        from: Seq,
        to: Seq,
        max_bytes: usize,
        sink: &mut dyn FnMut(Seq, &[u8]),
    ) -> Result<Seq, DbError>;

    /// The update of the own stream that carries this request id, if it is among the newest
    /// (some ten thousand). Waits for a transaction that holds the numbering, so that after
    /// `Ambiguous` the answer is final: `None` means that it was not and will not be committed.
    ///
    /// # Errors
    /// [`DbError`].
    fn outbox_find(&mut self, request_id: &[u8; 16]) -> Result<Option<Committed>, DbError>;

    /// What the own stream says of a peer's position.
    ///
    /// # Errors
    /// [`DbError`].
    fn outbox_verify(&mut self, position: Position) -> Result<Verdict, DbError>;

    /// Lane rows.
    ///
    /// # Errors
    /// [`DbError`].
    fn lanes(&mut self) -> Result<Vec<LaneRow>, DbError>;

    /// Takes or renews the lease of a lane for `node`, by the database's clock, if it is free,
    /// expired or already `node`'s. Returns the row as it is afterwards.
    ///
    /// # Errors
    /// [`DbError`].
    fn lane_lease(&mut self, peer: &str, node: &str, ttl: Duration) -> Result<LaneRow, DbError>;

    /// Gives the lease back.
    ///
    /// # Errors
    /// [`DbError`].
    fn lane_release(&mut self, peer: &str, node: &str) -> Result<(), DbError>;

    /// The peer's database is at this position (never moves the row back within an epoch).
    ///
    /// # Errors
    /// [`DbError`].
    fn lane_acked(&mut self, peer: &str, position: Position) -> Result<(), DbError>;

    /// Deletes outbox rows that every configured peer has acknowledged and that are older than
    /// `retention`; at most `limit`. Returns how many.
    ///
    /// # Errors
    /// [`DbError`].
    fn outbox_trim(&mut self, retention: Duration, limit: u32) -> Result<u64, DbError>;

    /// Number of rejected updates that nobody has resolved.
    ///
    /// # Errors
    /// [`DbError`].
    fn rejected_count(&mut self) -> Result<u64, DbError>;

    /// Unresolved rejected updates, oldest first.
    ///
    /// # Errors
    /// [`DbError`].
    fn rejected(&mut self, limit: u32) -> Result<Vec<RejectedRow>, DbError>;

    /// What keeps a statement from running in this database: missing tables and columns, columns
    /// that an INSERT leaves to a sequence or a clock. Runs nothing.
    ///
    /// # Errors
    /// [`DbError`].
    fn check(&mut self, statement: &Statement) -> Result<Vec<CatalogueError>, DbError> {
        let _ = statement;
        Ok(Vec::new())
    }

    /// The database's hybrid clock now (for tests and status).
    ///
    /// # Errors
    /// [`DbError`].
    fn hlc(&mut self) -> Result<Hlc, DbError>;
}
