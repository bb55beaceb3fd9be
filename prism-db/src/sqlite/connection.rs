//! One connection to a file: settings, identity, deadlines, transactions.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prism_proto::Epoch;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use super::errors::own;
use crate::{DbError, OpenOptions};

/// Virtual machine steps between two looks at the clock.
const STEPS: i32 = 10_000;
/// Compiled statements that a connection keeps.
const STATEMENTS: usize = 512;

thread_local! {
    /// Until when the call under way on this thread may wait for a lock: SQLite's busy handler is
    /// a plain function and knows nothing else.
    static LOCK_DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// SQLite's own handler soon sleeps 100 ms at a time; a commit takes a few.
fn wait_for_lock(attempt: i32) -> bool {
    let in_time = LOCK_DEADLINE
        .get()
        .is_some_and(|deadline| Instant::now() < deadline);
    if in_time {
        let step = u64::try_from(attempt).unwrap_or(0).saturating_add(1);
        std::thread::sleep(Duration::from_micros((step * 200).min(5_000)));
    }
    in_time
}

/// Whether a transaction is kept.
pub(super) enum End<T> {
    Commit(T),
    Rollback(T),
}

/// Which file a path names, to notice that it was replaced.
type FileId = Option<(u64, u64)>;

pub(super) struct Open {
    pub(super) db: Connection,
    pub(super) epoch: Epoch,
    file: FileId,
    start: Instant,
    /// Microseconds after `start` at which a running statement is interrupted.
    deadline: Arc<AtomicU64>,
}

impl Open {
    /// Connects to an existing database of that region. Never creates a file.
    pub(super) fn connect(path: &Path, options: &OpenOptions) -> Result<Self, DbError> {
        let file = file_id(path)?;
        LOCK_DEADLINE.set(Some(Instant::now() + options.lock_timeout));
        let mut db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let start = Instant::now();
        let deadline = Arc::new(AtomicU64::new(u64::MAX));
        let seen = Arc::clone(&deadline);
        let expired = move || micros(start) > seen.load(Ordering::Relaxed);
        db.progress_handler(STEPS, Some(expired)).map_err(own)?;
        let epoch = identity(&db, &options.topology.region)?;
        Ok(Self {
            db,
            epoch,
            file,
            start,
            deadline,
        })
    }

    /// Starts the deadlines of one call.
    pub(super) fn arm(&self, options: &OpenOptions) {
        let end = micros(self.start).saturating_add(
            u64::try_from(options.statement_timeout.as_micros()).unwrap_or(u64::MAX),
        );
        self.deadline.store(end, Ordering::Relaxed);
        LOCK_DEADLINE.set(Some(Instant::now() + options.lock_timeout));
    }

    /// Whether the path still names the file that this connection has open.
    pub(super) fn is_current(&self, path: &Path) -> Result<bool, DbError> {
        Ok(file_id(path)? == self.file)
    }

    /// Runs `work` in a transaction that has the write lock from its start: one that gets it later
    /// can fail at any statement.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<End<T>, DbError>,
    ) -> Result<T, DbError> {
        self.db.execute_batch("BEGIN IMMEDIATE").map_err(own)?;
        let end = work(&self.db);
        // The deadline is for the work; a commit that was begun is finished.
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        match end {
            Ok(End::Commit(value)) => match self.db.execute_batch("COMMIT") {
                Ok(()) => Ok(value),
                Err(error) => {
                    let unsure = matches!(
                        error.sqlite_error_code(),
                        Some(ErrorCode::SystemIoFailure | ErrorCode::OperationInterrupted)
                    );
                    self.roll_back();
                    Err(if unsure {
                        DbError::Ambiguous(error.to_string())
                    } else {
                        own(error)
                    })
                }
            },
            Ok(End::Rollback(value)) => {
                self.roll_back();
                Ok(value)
            }
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }

    /// Runs several reads on one state of the database.
    pub(super) fn snapshot<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        self.db.execute_batch("BEGIN").map_err(own)?;
        let result = work(&self.db);
        self.roll_back();
        result
    }

    fn roll_back(&self) {
        // Some errors (disk full, RAISE(ROLLBACK)) have ended the transaction already.
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "ROLLBACK failed");
        }
    }
}

/// Opens the file with the settings that every connection has.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, DbError> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags)
        .map_err(|error| DbError::Unreachable(format!("{}: {error}", path.display())))?;
    db.busy_handler(Some(wait_for_lock)).map_err(own)?;
    // FULL: in WAL mode a commit is durable only then.
    db.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        .map_err(own)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(db)
}

/// For connections that are not opened by [`Open::connect`].
pub(super) fn wait_at_most(limit: Duration) {
    LOCK_DEADLINE.set(Some(Instant::now() + limit));
}

/// Whether the database has the prism schema, in whatever version.
pub(super) fn has_schema(db: &Connection) -> Result<bool, DbError> {
    db.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'prism_region'",
        [],
        |row| row.get::<_, i64>(0),
    )
    .map(|n| n > 0)
    .map_err(own)
}

/// Checks that the file is the database of that region, in this version.
fn identity(db: &Connection, region: &str) -> Result<Epoch, DbError> {
    if !has_schema(db)? {
        return Err(DbError::Schema(format!(
            "this database has no prism schema; run: prism migrate --region {region}"
        )));
    }
    let row = db
        .query_row(
            "SELECT name, epoch, schema_version FROM prism_region",
            [],
            |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, u32>(2)?,
                ))
            },
        )
        .optional()
        .map_err(own)?;
    let Some((name, epoch, version)) = row else {
        return Err(DbError::Schema(format!(
            "the prism schema is empty; run: prism migrate --region {region}"
        )));
    };
    check_name(&name, region)?;
    check_version(version)?;
    if version < super::migrate::VERSION {
        return Err(DbError::Schema(format!(
            "the prism schema has version {version}, this node needs {}; run: prism migrate --region {region}",
            super::migrate::VERSION
        )));
    }
    Ok(Epoch(epoch.cast_unsigned()))
}

/// A database serves one region for ever.
pub(super) fn check_name(found: &str, wanted: &str) -> Result<(), DbError> {
    if found == wanted {
        return Ok(());
    }
    Err(DbError::Schema(format!(
        "this database belongs to region {found}, not to {wanted}; correct `database` (or `direct`) of region {wanted}"
    )))
}

/// Refuses what a newer Prism has made.
pub(super) fn check_version(found: u32) -> Result<(), DbError> {
    let known = super::migrate::VERSION;
    if found <= known {
        return Ok(());
    }
    Err(DbError::Schema(format!(
        "the prism schema has version {found}, this version of Prism knows {known}; upgrade this node"
    )))
}

fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn file_id(path: &Path) -> Result<FileId, DbError> {
    let metadata = std::fs::metadata(path).map_err(|error| {
        DbError::Unreachable(format!(
            "{}: {error}; if the region is new, run: prism migrate",
            path.display()
        ))
    })?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok(Some((metadata.dev(), metadata.ino())))
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        Ok(None)
    }
}
