//! SQLite: one file per region, one writer at a time.
//!
//! Every writing call is one `BEGIN IMMEDIATE` transaction in WAL mode with `synchronous = FULL`.
//! A process that is stopped in the middle of one blocks the file's other writers until it goes
//! on or dies: nothing here can break its lock.

mod apply;
mod check;
mod connection;
mod errors;
mod held;
mod lane;
mod ledger;
mod migrate;
mod node;
mod outbox;
mod rejected;
mod request;
mod retry;
mod undo;
mod values;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prism_proto::{Epoch, Position, Seq, Verdict};
use rusqlite::{Connection, OptionalExtension};

use crate::catalogue::{Catalogue, CatalogueError, Statement};
use crate::{
    ApplyReport, ApplyRequest, Committed, Database, DbError, Digest, HeldState, HeldWrite, Hlc,
    LaneRow, NodeRow, OpenOptions, OutboxFigures, RefusalRow, RegionRow, RejectedRow, RequestRow,
    Retried, Submission, UndoReason, Undone, body_digest,
};
use connection::{End, Open};
pub(crate) use migrate::migrate;
use outbox::Own;

/// How often a waiting connection looks at the file.
const LOOK: Duration = Duration::from_millis(20);

/// The statements: those of the configuration, and older versions that the database remembers.
struct Statements {
    catalogue: Arc<Catalogue>,
    older: RefCell<HashMap<Digest, Arc<Statement>>>,
}

impl Statements {
    fn find(
        &self,
        db: &Connection,
        digest: Digest,
        index: usize,
    ) -> Result<Arc<Statement>, DbError> {
        if let Some(known) = self.catalogue.by_digest(&digest) {
            return Ok(Arc::clone(known));
        }
        if let Some(known) = self.older.borrow().get(&digest) {
            return Ok(Arc::clone(known));
        }
        let definition = db
            .query_row(
                "SELECT definition FROM prism_statement WHERE digest = ?1",
                [digest.0],
                |row| row.get::<_, String>(0),
            )
            .optional()
            .map_err(errors::own)?;
        let statement = definition
            .and_then(|json| Statement::from_definition(&json).ok())
            .filter(|statement| statement.digest() == digest)
            .ok_or_else(|| DbError::unknown_statement(digest, index))?;
        let statement = Arc::new(statement);
        self.older
            .borrow_mut()
            .insert(digest, Arc::clone(&statement));
        Ok(statement)
    }
}

/// A lazy connection to a region's file.
pub(crate) struct Sqlite {
    path: PathBuf,
    options: OpenOptions,
    statements: Statements,
    open: Option<Open>,
    /// The end of the stream as `wait_for_outbox` has seen it last.
    heard: Option<Seq>,
    /// Of the first connection: a file of another numbering in its place is noticed.
    epoch: Option<Epoch>,
}

impl Sqlite {
    pub(crate) fn new(path: &Path, options: OpenOptions) -> Self {
        Self {
            path: path.to_owned(),
            statements: Statements {
                catalogue: Arc::clone(&options.catalogue),
                older: RefCell::new(HashMap::new()),
            },
            options,
            open: None,
            heard: None,
            epoch: None,
        }
    }

    /// Connects if need be, starts the deadlines, does one thing.
    fn with<T>(
        &mut self,
        work: impl FnOnce(&Open, &OpenOptions, &Statements) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let current = match &self.open {
            Some(open) => open.is_current(&self.path),
            None => Ok(false),
        };
        if !matches!(current, Ok(true)) {
            self.open = None;
            current?;
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => Open::connect(&self.path, &self.options)?,
        };
        let known = *self.epoch.get_or_insert(open.epoch);
        if known != open.epoch {
            return Err(DbError::Schema(format!(
                "{} was replaced: its epoch is {:016x}, it was {:016x}; restart this node",
                self.path.display(),
                open.epoch.0,
                known.0
            )));
        }
        open.arm(&self.options);
        let result = work(&open, &self.options, &self.statements);
        let broken = match &result {
            Ok(_) => false,
            // Not only the statement is at fault: a fresh connection next time.
            Err(DbError::Sql { sqlstate, .. }) => {
                sqlstate.starts_with("58") || sqlstate.starts_with("XX")
            }
            Err(DbError::Unreachable(_) | DbError::Ambiguous(_)) => true,
            Err(_) => false,
        };
        if !broken {
            self.open = Some(open);
        }
        result
    }

    fn read<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        self.with(|open, _, _| work(&open.db))
    }

    fn write<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        self.with(|open, _, _| open.write(|db| work(db).map(End::Commit)))
    }

    /// For what may put something at the end of the own stream.
    fn number<T>(
        &mut self,
        work: impl FnOnce(&Own<'_>) -> Result<End<T>, DbError>,
    ) -> Result<T, DbError> {
        self.with(|open, options, statements| {
            open.write(|db| {
                work(&Own {
                    db,
                    options,
                    statements,
                })
            })
        })
    }
}

impl Database for Sqlite {
    fn region(&mut self) -> Result<RegionRow, DbError> {
        self.read(ledger::region)
    }

    fn submit(&mut self, batch: &[Submission]) -> Result<Vec<Committed>, DbError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        self.number(|own| outbox::submit(own, batch).map(End::Commit))
    }

    fn position(&mut self, stream: &str) -> Result<Position, DbError> {
        self.read(|db| ledger::watermark(db, stream)?.ok_or_else(|| apply::unknown(stream)))
    }

    fn positions(&mut self) -> Result<Vec<(String, Position)>, DbError> {
        self.read(ledger::watermarks)
    }

    fn apply(&mut self, request: &ApplyRequest<'_>) -> Result<ApplyReport, DbError> {
        self.with(|open, _, statements| {
            let mut waits = None;
            let result = open.write(|db| {
                waits = apply::alone_and_behind(db, request)?;
                apply::apply(db, statements, request)
            });
            match (result, waits) {
                // A deferred reference speaks up at COMMIT.
                (Err(error), Some(report)) if apply::is_missing_reference(&error) => Ok(report),
                (result, _) => result,
            }
        })
    }

    fn outbox_read(
        &mut self,
        from: Seq,
        to: Seq,
        max_bytes: usize,
        sink: &mut dyn FnMut(Seq, &[u8]),
    ) -> Result<Seq, DbError> {
        self.read(|db| outbox::read(db, from, to, max_bytes, sink))
    }

    fn outbox_find(&mut self, request_id: &[u8; 16]) -> Result<Option<Committed>, DbError> {
        self.with(|open, _, _| open.write(|db| outbox::find(db, request_id).map(End::Rollback)))
    }

    fn outbox_verify(&mut self, position: Position) -> Result<Verdict, DbError> {
        // One snapshot: the tail and the row must be of the same moment.
        self.with(|open, _, _| open.snapshot(|db| outbox::verify(db, position)))
    }

    fn lanes(&mut self) -> Result<Vec<LaneRow>, DbError> {
        self.read(lane::all)
    }

    fn lane_lease(&mut self, peer: &str, node: &str, ttl: Duration) -> Result<LaneRow, DbError> {
        self.write(|db| {
            lane::lease(db, peer, node, ttl)?;
            lane::get(db, peer)?.ok_or_else(|| apply::unknown(peer))
        })
    }

    fn lane_release(&mut self, peer: &str, node: &str) -> Result<(), DbError> {
        self.write(|db| lane::release(db, peer, node))
    }

    fn lane_acked(&mut self, peer: &str, position: Position) -> Result<(), DbError> {
        self.write(|db| lane::acked(db, peer, position))
    }

    fn outbox_trim(&mut self, retention: Duration, limit: u32) -> Result<u64, DbError> {
        self.with(|open, options, _| {
            let topology = &options.topology;
            let names = topology.regions.iter().map(|(name, _)| name.as_str());
            let peers: Vec<_> = names.filter(|name| *name != topology.region).collect();
            open.write(|db| outbox::trim(db, &peers, retention, limit).map(End::Commit))
        })
    }

    fn rejected_count(&mut self) -> Result<u64, DbError> {
        self.read(rejected::count)
    }

    fn rejected(&mut self, limit: u32) -> Result<Vec<RejectedRow>, DbError> {
        self.read(|db| rejected::list(db, limit))
    }

    fn check(&mut self, statement: &Statement) -> Result<Vec<CatalogueError>, DbError> {
        self.read(|db| check::check(db, statement))
    }

    fn hlc(&mut self) -> Result<Hlc, DbError> {
        self.read(ledger::hlc)
    }

    fn request(&mut self, request_id: &[u8; 16]) -> Result<Option<RequestRow>, DbError> {
        self.with(|open, _, _| open.write(|db| request::get(db, request_id).map(End::Rollback)))
    }

    fn request_refused(
        &mut self,
        submission: &Submission,
        sqlstate: &str,
        message: &str,
        dead_letter: bool,
    ) -> Result<(), DbError> {
        self.number(|own| {
            let statement = own.statements.find(own.db, submission.statement, 0)?;
            let body = body_digest(statement.name(), statement.params(), &submission.params);
            rejected::of_request(own.db, submission, body, (sqlstate, message), dead_letter)
                .map(End::Commit)
        })
    }

    fn request_trim(&mut self, retention: Duration, limit: u32) -> Result<u64, DbError> {
        self.write(|db| request::trim(db, retention, limit))
    }

    fn requests_reach(&mut self, age: Duration) -> Result<bool, DbError> {
        self.read(|db| request::reach(db, age))
    }

    fn refusals(&mut self, stream: &str, limit: u32) -> Result<Vec<RefusalRow>, DbError> {
        self.read(|db| rejected::refusals(db, stream, limit))
    }

    fn refusals_told(&mut self, stream: &str, epoch: Epoch, seqs: &[Seq]) -> Result<(), DbError> {
        self.write(|db| rejected::told(db, stream, epoch, seqs))
    }

    fn undo(&mut self, seq: Seq, reason: &UndoReason) -> Result<Undone, DbError> {
        let attempt = self.number(|own| undo::undo(own, seq, reason, None).map(End::Commit));
        match attempt.as_ref().err().and_then(undo::Refusal::of) {
            None => attempt,
            Some(refusal) => {
                self.number(|own| undo::undo(own, seq, reason, Some(&refusal)).map(End::Commit))
            }
        }
    }

    fn held_begin(
        &mut self,
        submission: &Submission,
        limit: Duration,
    ) -> Result<HeldWrite, DbError> {
        let mut submission = submission.clone();
        submission
            .request_id
            .get_or_insert_with(crate::new_request_id);
        self.number(|own| held::try_out(own, submission, limit).map(End::Rollback))
    }

    fn held_publish(&mut self, held: &HeldWrite) -> Result<Committed, DbError> {
        self.number(|own| held::publish(own, held).map(End::Commit))
    }

    fn held_finish(&mut self, seq: Seq) -> Result<bool, DbError> {
        self.number(|own| held::finish(own, seq).map(End::Commit))
    }

    fn held_cancel(&mut self) -> Result<(), DbError> {
        Ok(())
    }

    fn held_state(&mut self, seq: Seq) -> Result<HeldState, DbError> {
        self.number(|own| held::state(own, seq).map(End::Rollback))
    }

    fn settle_held(&mut self) -> Result<Vec<Committed>, DbError> {
        self.number(|own| held::settle(own).map(End::Commit))
    }

    fn rejected_get(&mut self, id: i64) -> Result<Option<RejectedRow>, DbError> {
        self.read(|db| rejected::get(db, id))
    }

    fn rejected_retry(&mut self, id: i64) -> Result<Retried, DbError> {
        self.number(|own| retry::retry(own, id).map(End::Commit))
    }

    fn rejected_drop(&mut self, id: i64) -> Result<bool, DbError> {
        self.write(|db| rejected::resolve(db, id, "dropped"))
    }

    fn skip(&mut self, stream: &str, seq: Seq) -> Result<bool, DbError> {
        self.write(|db| rejected::skip(db, stream, seq))
    }

    fn skips(&mut self, stream: &str) -> Result<Vec<Seq>, DbError> {
        self.read(|db| rejected::skips(db, stream))
    }

    fn lane_want(&mut self, peer: &str, node: &str, ttl: Duration) -> Result<(), DbError> {
        self.write(|db| lane::want(db, peer, node, ttl))
    }

    fn lane_stale(&mut self, peer: &str) -> Result<(), DbError> {
        self.write(|db| lane::mark(db, peer, true))
    }

    fn lane_back(&mut self, peer: &str) -> Result<bool, DbError> {
        self.write(|db| lane::back(db, peer))
    }

    fn outbox_figures(&mut self) -> Result<OutboxFigures, DbError> {
        self.with(|open, _, _| open.snapshot(lane::figures))
    }

    fn node_claim(
        &mut self,
        node: &str,
        incarnation: u64,
        journal: u64,
    ) -> Result<Option<NodeRow>, DbError> {
        self.write(|db| node::claim(db, node, incarnation, journal))
    }

    fn node_beat(&mut self, node: &str, incarnation: u64) -> Result<bool, DbError> {
        self.write(|db| node::beat(db, node, incarnation))
    }

    /// A file tells nobody: it is looked at now and then.
    fn wait_for_outbox(&mut self, timeout: Duration) -> Result<bool, DbError> {
        let until = Instant::now() + timeout;
        loop {
            let now = self.read(ledger::region)?.next_seq;
            let news = self.heard.replace(now).is_some_and(|before| before != now);
            let left = until.saturating_duration_since(Instant::now());
            if news || left.is_zero() {
                return Ok(news);
            }
            std::thread::sleep(left.min(LOOK));
        }
    }
}
