//! SQLite: one file per region, one writer at a time.
//!
//! Every writing call is one `BEGIN IMMEDIATE` transaction in WAL mode with `synchronous = FULL`.
//! A process that is stopped in the middle of one blocks the file's other writers until it goes
//! on or dies: nothing here can break its lock.

mod apply;
mod check;
mod connection;
mod errors;
mod ledger;
mod migrate;
mod outbox;
mod values;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prism_proto::{Epoch, Position, Seq, Verdict};
use rusqlite::{Connection, OptionalExtension};

use crate::catalogue::{Catalogue, CatalogueError, Statement};
use crate::{
    ApplyReport, ApplyRequest, Committed, Database, DbError, Digest, Hlc, LaneRow, OpenOptions,
    RegionRow, RejectedRow, Submission,
};
use connection::{End, Open};
pub(crate) use migrate::migrate;

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
}

impl Database for Sqlite {
    fn region(&mut self) -> Result<RegionRow, DbError> {
        self.read(ledger::region)
    }

    fn submit(&mut self, batch: &[Submission]) -> Result<Vec<Committed>, DbError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        self.with(|open, options, statements| {
            open.write(|db| outbox::submit(db, options, statements, batch).map(End::Commit))
        })
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
        self.read(ledger::lanes)
    }

    fn lane_lease(&mut self, peer: &str, node: &str, ttl: Duration) -> Result<LaneRow, DbError> {
        self.write(|db| {
            ledger::lease(db, peer, node, ttl)?;
            ledger::lane(db, peer)?.ok_or_else(|| apply::unknown(peer))
        })
    }

    fn lane_release(&mut self, peer: &str, node: &str) -> Result<(), DbError> {
        self.write(|db| ledger::release(db, peer, node))
    }

    fn lane_acked(&mut self, peer: &str, position: Position) -> Result<(), DbError> {
        self.write(|db| ledger::acked(db, peer, position))
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
        self.read(ledger::rejected_count)
    }

    fn rejected(&mut self, limit: u32) -> Result<Vec<RejectedRow>, DbError> {
        self.read(|db| ledger::rejected(db, limit))
    }

    fn check(&mut self, statement: &Statement) -> Result<Vec<CatalogueError>, DbError> {
        self.read(|db| check::check(db, statement))
    }

    fn hlc(&mut self) -> Result<Hlc, DbError> {
        self.read(ledger::hlc)
    }
}
