//! The trait that both backends implement: each verb is one whole transaction.

use std::sync::Arc;
use std::time::Duration;

use prism_proto::{Epoch, Position, RegionKey, Seq, Verdict};

use crate::catalogue::{CatalogueError, Statement};
use crate::{
    DbError, Digest, HeldConflict, HeldState, HeldWrite, Hlc, NodeRow, OutboxFigures, RefusalRow,
    RequestRow, Retried, UndoReason, Undone, Update, Value,
};

/// Longest lease or wish for a lane. By the wall clock: one that ends later was written before the
/// clock went back, and counts as ended, or a node that is dead would keep its lane until then.
pub const MAX_LEASE: Duration = Duration::from_secs(30);

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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneRow {
    /// Name of the peer region.
    pub peer: String,
    /// Acknowledged by the peer's database.
    pub acked: Position,
    /// Node that holds the lane, if the lease is running.
    pub holder: Option<String>,
    /// Another node of the region that has asked for the lane lately ([`Database::lane_want`]).
    pub wanted: Option<String>,
    /// The region has been away for too long: its rows may go, it has to be adopted.
    pub stale: bool,
    /// Encoded bytes of the stream behind `acked`, about.
    pub backlog: u64,
    /// Age of the oldest update behind `acked`, by the database's clock.
    pub waiting: Option<Duration>,
}

/// A row of `prism.rejected`.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedRow {
    /// Names the row.
    pub id: i64,
    /// Name of the stream's region.
    pub stream: String,
    /// Numbering.
    pub epoch: Epoch,
    /// Its number; `None` for one that was refused at its origin, from the journal.
    pub seq: Option<Seq>,
    /// The update.
    pub update: Update,
    /// Five characters.
    pub sqlstate: String,
    /// The server's words.
    pub message: String,
    /// When, microseconds since 1970, by the database's clock.
    pub at: i64,
    /// What a person, or Prism, has done about it: `retried`, `dropped`, `undone`, `skipped`.
    pub resolution: Option<String>,
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
    /// A submission whose `request_id` has been seen before (here, at a sibling, or applied here
    /// from another region) is never executed again: then nothing of the batch is written, and
    /// [`DbError::Repeated`] lists all such submissions with what is on record. Two at once with one
    /// id: the later waits for the earlier. Within one batch the second one is `Repeated` too once
    /// the first is committed; the caller does not put both into one call.
    ///
    /// Before it takes its numbers, it publishes the undo of every held update whose transaction
    /// has ended without becoming final (see [`Database::settle_held`]); those are not in the result.
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
    /// `Ambiguous` the answer is final: after `None`, and if [`Database::request`] then knows nothing
    /// of it either, it was not and will not be committed.
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
    /// expired or already `node`'s. Returns the row as it is afterwards. `ttl`: [`MAX_LEASE`] at
    /// most.
    ///
    /// # Errors
    /// [`DbError`].
    fn lane_lease(&mut self, peer: &str, node: &str, ttl: Duration) -> Result<LaneRow, DbError>;

    /// Gives the lease back.
    ///
    /// # Errors
    /// [`DbError`].
    fn lane_release(&mut self, peer: &str, node: &str) -> Result<(), DbError>;

    /// The peer's database is at this position: the newest word of whoever holds the lane, also
    /// backwards (the peer's database was restored, and is refilled from the rows that are kept).
    ///
    /// # Errors
    /// [`DbError`].
    fn lane_acked(&mut self, peer: &str, position: Position) -> Result<(), DbError>;

    /// Deletes outbox rows that every configured peer, stale ones excepted, has acknowledged and
    /// that are older than `retention`; at most `limit`. Returns how many. Never a held row.
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

    // ---- requests: what became of a caller's id

    /// What is on record of a request id, at its origin or wherever it has been applied.
    ///
    /// # Errors
    /// [`DbError`].
    fn request(&mut self, request_id: &[u8; 16]) -> Result<Option<RequestRow>, DbError> {
        let _ = request_id;
        Err(DbError::not_built())
    }

    /// Records that this database has refused a submission, so that the same id gets the same
    /// answer again. `dead_letter`: its caller was told that it would be executed (it comes from
    /// the journal), so it is also put into `rejected` (stream: the own region, no seq). Does
    /// nothing if the id is on record already.
    ///
    /// # Errors
    /// [`DbError`].
    fn request_refused(
        &mut self,
        submission: &Submission,
        sqlstate: &str,
        message: &str,
        dead_letter: bool,
    ) -> Result<(), DbError> {
        let _ = (submission, sqlstate, message, dead_letter);
        Err(DbError::not_built())
    }

    /// Forgets requests that are older than `retention`, at most `limit`; returns how many. Never
    /// one that is held, or whose update is still in the outbox.
    ///
    /// # Errors
    /// [`DbError`].
    fn request_trim(&mut self, retention: Duration, limit: u32) -> Result<u64, DbError> {
        let _ = (retention, limit);
        Err(DbError::not_built())
    }

    /// Whether one that is older than this is on record still, though it might be forgotten. They
    /// are forgotten in the order of their age, so nothing younger has been then.
    ///
    /// # Errors
    /// [`DbError`].
    fn requests_reach(&mut self, age: Duration) -> Result<bool, DbError> {
        let _ = age;
        Err(DbError::not_built())
    }

    // ---- refusals: from the region that refused to the origin, and the undo

    /// Refusals of a stream that its origin has not been told yet, ascending. They are kept in
    /// `rejected` until [`Database::refusals_told`], so that no crash forgets one.
    ///
    /// # Errors
    /// [`DbError`].
    fn refusals(&mut self, stream: &str, limit: u32) -> Result<Vec<RefusalRow>, DbError> {
        let _ = (stream, limit);
        Err(DbError::not_built())
    }

    /// The origin knows of these now, durably.
    ///
    /// # Errors
    /// [`DbError`].
    fn refusals_told(&mut self, stream: &str, epoch: Epoch, seqs: &[Seq]) -> Result<(), DbError> {
        let _ = (stream, epoch, seqs);
        Err(DbError::not_built())
    }

    /// Undoes an update of the own stream, once, however often and by whomever it is asked for: in
    /// one transaction the statement's `undo` runs here and is numbered as a new update that names
    /// `seq`. Of a held update nothing runs here; its undo is numbered, and it can never become
    /// final any more. One that has become final is undone only because a region has refused it:
    /// the other reasons concern held ones and may have crossed with its end.
    ///
    /// # Errors
    /// [`DbError`]; what the undo statement's own refusal means is in [`Undone`].
    fn undo(&mut self, seq: Seq, reason: &UndoReason) -> Result<Undone, DbError> {
        let _ = (seq, reason);
        Err(DbError::not_built())
    }

    // ---- held updates: writes that await all regions

    /// Executes one submission in a transaction that stays open on this connection until
    /// [`Database::held_finish`] or [`Database::held_cancel`]; no other call is allowed on it
    /// meanwhile. The transaction ends by itself when the connection breaks, and on the server after
    /// `limit` at the latest. (SQLite: executed and rolled back; nothing is open.)
    ///
    /// # Errors
    /// [`DbError`]: nothing is open then. [`DbError::Repeated`] as with `submit`.
    fn held_begin(
        &mut self,
        submission: &Submission,
        limit: Duration,
    ) -> Result<HeldWrite, DbError> {
        let _ = (submission, limit);
        Err(DbError::not_built())
    }

    /// On another connection: numbers and publishes what `held_begin` has executed, as `held`.
    ///
    /// # Errors
    /// [`DbError`].
    fn held_publish(&mut self, held: &HeldWrite) -> Result<Committed, DbError> {
        let _ = held;
        Err(DbError::not_built())
    }

    /// On the connection of `held_begin`: every region has it, so it becomes final in the held
    /// transaction's own commit. `false`: it has been undone meanwhile; the transaction is rolled
    /// back.
    ///
    /// # Errors
    /// [`DbError`]; after `Ambiguous` [`Database::held_state`] on another connection tells.
    fn held_finish(&mut self, seq: Seq) -> Result<bool, DbError> {
        let _ = seq;
        Err(DbError::not_built())
    }

    /// On the connection of `held_begin`: rolls back. The undo must have been published before.
    ///
    /// # Errors
    /// [`DbError`].
    fn held_cancel(&mut self) -> Result<(), DbError> {
        Err(DbError::not_built())
    }

    /// What an update of the own stream is now.
    ///
    /// # Errors
    /// [`DbError`].
    fn held_state(&mut self, seq: Seq) -> Result<HeldState, DbError> {
        let _ = seq;
        Err(DbError::not_built())
    }

    /// Held updates of this region that keep an apply waiting right now, and lose against it: the
    /// applied update is final, or held with a lower (clock, region). Whoever holds them undoes them.
    ///
    /// # Errors
    /// [`DbError`].
    fn held_conflicts(&mut self) -> Result<Vec<HeldConflict>, DbError> {
        Ok(Vec::new())
    }

    /// Publishes the undo of every held update whose transaction has ended without becoming final
    /// (its node or the server crashed). Cheap when there is none. Returns what was published.
    ///
    /// # Errors
    /// [`DbError`].
    fn settle_held(&mut self) -> Result<Vec<Committed>, DbError> {
        Ok(Vec::new())
    }

    // ---- dead letters

    /// One rejected update, resolved or not.
    ///
    /// # Errors
    /// [`DbError`].
    fn rejected_get(&mut self, id: i64) -> Result<Option<RejectedRow>, DbError> {
        let _ = id;
        Err(DbError::not_built())
    }

    /// Runs a rejected update once more, in one transaction with marking it `retried`. One of a
    /// peer's stream runs here only, as it should have in its place; one of the own region's
    /// journal is submitted.
    ///
    /// # Errors
    /// [`DbError::Sql`] if it is refused again (it stays as it was).
    fn rejected_retry(&mut self, id: i64) -> Result<Retried, DbError> {
        let _ = id;
        Err(DbError::not_built())
    }

    /// Marks a rejected update as `dropped`: somebody has decided to live without it. `false` if
    /// there is none with that id that nobody has resolved.
    ///
    /// # Errors
    /// [`DbError`].
    fn rejected_drop(&mut self, id: i64) -> Result<bool, DbError> {
        let _ = id;
        Err(DbError::not_built())
    }

    /// An operator's word: update `seq` of `stream`, which is the next one to apply here, is to be
    /// recorded as rejected instead of executed. `false` if the database is past it already.
    ///
    /// # Errors
    /// [`DbError`].
    fn skip(&mut self, stream: &str, seq: Seq) -> Result<bool, DbError> {
        let _ = (stream, seq);
        Err(DbError::not_built())
    }

    /// Updates of `stream` that an operator wants skipped.
    ///
    /// # Errors
    /// [`DbError`].
    fn skips(&mut self, stream: &str) -> Result<Vec<Seq>, DbError> {
        let _ = stream;
        Ok(Vec::new())
    }

    // ---- lanes, backlog, nodes

    /// `node` would like to hold this lane: its holder sees it and gives way. Forgotten after
    /// `ttl` ([`MAX_LEASE`] at most).
    ///
    /// # Errors
    /// [`DbError`].
    fn lane_want(&mut self, peer: &str, node: &str, ttl: Duration) -> Result<(), DbError> {
        let _ = (peer, node, ttl);
        Err(DbError::not_built())
    }

    /// Marks a lane stale: its region has been away for too long.
    ///
    /// # Errors
    /// [`DbError`].
    fn lane_stale(&mut self, peer: &str) -> Result<(), DbError> {
        let _ = peer;
        Err(DbError::not_built())
    }

    /// Takes the mark back, unless something that the region needs is gone (nothing is deleted
    /// meanwhile). Whether the lane is not stale any more.
    ///
    /// # Errors
    /// [`DbError`].
    fn lane_back(&mut self, peer: &str) -> Result<bool, DbError> {
        let _ = peer;
        Err(DbError::not_built())
    }

    /// How large the outbox is.
    ///
    /// # Errors
    /// [`DbError`].
    fn outbox_figures(&mut self) -> Result<OutboxFigures, DbError> {
        Err(DbError::not_built())
    }

    /// This process serves as `node` from now on. Returns what was on record before.
    ///
    /// # Errors
    /// [`DbError`].
    fn node_claim(
        &mut self,
        node: &str,
        incarnation: u64,
        journal: u64,
    ) -> Result<Option<NodeRow>, DbError> {
        let _ = (node, incarnation, journal);
        Err(DbError::not_built())
    }

    /// Still there. `false`: another process has claimed the name since.
    ///
    /// # Errors
    /// [`DbError`].
    fn node_beat(&mut self, node: &str, incarnation: u64) -> Result<bool, DbError> {
        let _ = (node, incarnation);
        Err(DbError::not_built())
    }

    /// Waits until something new is committed to the own stream by others (SQL, siblings), at most
    /// `timeout`; `true` if so, as far as is known. On a connection that does nothing else.
    ///
    /// # Errors
    /// [`DbError`].
    fn wait_for_outbox(&mut self, timeout: Duration) -> Result<bool, DbError> {
        std::thread::sleep(timeout);
        Ok(false)
    }
}
