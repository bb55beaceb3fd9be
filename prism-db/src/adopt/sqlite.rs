//! Files: copied page by page, put into place in one transaction of the target file.

use std::path::Path;
use std::time::Duration;

use prism_proto::{Epoch, Position, Seq, Tag};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::{AdoptError, BEAT_SECONDS, Change, Look, Side, beside, sealed};
use crate::{DbError, Hlc, timestamp};

/// For another connection's write.
const BUSY: Duration = Duration::from_secs(20);
/// Pages at a time; 16 MiB of the usual ones.
const PAGES: i32 = 4096;
/// Pages between two words about the progress.
const TELL: i32 = 64 * PAGES;
/// Awaited writes are short.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct SqliteSide(Option<Connection>);

fn failed(error: rusqlite::Error) -> DbError {
    match &error {
        rusqlite::Error::SqliteFailure(code, _)
            if code.code == rusqlite::ErrorCode::DatabaseBusy =>
        {
            DbError::sql("55P03", "another writer holds the file", None)
        }
        rusqlite::Error::SqliteFailure(code, _)
            if code.code == rusqlite::ErrorCode::NotADatabase =>
        {
            DbError::sql(
                "XX002",
                "the file is no SQLite database: move it away",
                None,
            )
        }
        _ => DbError::sql("XX000", error.to_string(), None),
    }
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, DbError> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)
        .map_err(|error| DbError::Unreachable(format!("{}: {error}", path.display())))?;
    db.busy_timeout(BUSY).map_err(failed)?;
    db.execute_batch("PRAGMA synchronous = FULL")
        .map_err(failed)?;
    Ok(db)
}

impl SqliteSide {
    /// A file that is missing is an empty database.
    pub(super) fn open(path: &Path) -> Result<Self, DbError> {
        let there = path.try_exists();
        if there.is_ok_and(|there| !there) {
            let parent = path.parent().unwrap_or(path);
            if parent.as_os_str().is_empty() || parent.is_dir() {
                return Ok(Self(None));
            }
            let text = format!("there is no directory {}", parent.display());
            return Err(DbError::Unreachable(text));
        }
        open(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map(|db| Self(Some(db)))
    }

    fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let db = self.0.as_mut().ok_or_else(|| no_ledger("the file"))?;
        let transaction = db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let value = work(&transaction)?;
        transaction.commit().map_err(failed)?;
        Ok(value)
    }
}

fn no_ledger(what: &str) -> DbError {
    DbError::Schema(format!("{what} holds no ledger; run: prism migrate"))
}

impl Side for SqliteSide {
    fn look(&mut self) -> Result<Look, DbError> {
        let mut look = Look {
            ledger: None,
            tables: 0,
            nodes: Vec::new(),
        };
        let Some(db) = &self.0 else {
            return Ok(look);
        };
        let count = |filter: &str| {
            let sql =
                format!("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND {filter}");
            db.query_row(&sql, [], |row| row.get::<_, i64>(0))
                .map(i64::cast_unsigned)
                .map_err(failed)
        };
        look.tables = count(
            "name NOT LIKE 'prism\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        )?;
        if count("name = 'prism_region'")? > 0 {
            look.ledger = db
                .query_row("SELECT name FROM prism_region", [], |row| row.get(0))
                .optional()
                .map_err(failed)?;
        }
        if count("name = 'prism_node'")? > 0 {
            let sql = "SELECT name, beat FROM prism_node WHERE beat > ?1 ORDER BY name";
            let since = timestamp::now_micros() - BEAT_SECONDS * 1_000_000;
            look.nodes = db
                .prepare(sql)
                .and_then(|mut query| {
                    let rows = query.query_map([since], |row| Ok((row.get(0)?, row.get(1)?)))?;
                    rows.collect()
                })
                .map_err(failed)?;
        }
        Ok(look)
    }

    fn fence(
        &mut self,
        target: &str,
        epoch: Epoch,
        lane: Option<Position>,
    ) -> Result<Position, DbError> {
        self.write(|db| {
            let (applied, tag) = db
                .query_row(
                    "UPDATE prism_watermark SET epoch = ?2 WHERE region = ?1 RETURNING applied, tag",
                    params![target, epoch.0.cast_signed()],
                    |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
                )
                .optional()
                .map_err(failed)?
                .ok_or_else(|| no_ledger(target))?;
            if let Some(lane) = lane {
                db.execute(
                    "UPDATE prism_lane SET epoch = ?2, acked = ?3, tag = ?4, stale = 0
                     WHERE peer = ?1",
                    params![
                        target,
                        lane.epoch.0.cast_signed(),
                        lane.seq.0.cast_signed(),
                        lane.tag.0.cast_signed()
                    ],
                )
                .map_err(failed)?;
            }
            db.execute("UPDATE prism_rejected SET told = 1 WHERE stream = ?1", [target])
                .map_err(failed)?;
            Ok(Position {
                epoch,
                seq: Seq(applied.cast_unsigned()),
                tag: Tag(tag.cast_unsigned()),
            })
        })
    }

    fn seal(&mut self, target: &str) -> Result<(), DbError> {
        let name = sealed(target);
        self.write(|db| {
            db.execute("UPDATE prism_watermark SET epoch = ~epoch", [])
                .and_then(|_| db.execute("UPDATE prism_region SET name = ?1", [name]))
                .map_err(failed)?;
            Ok(())
        })
    }
}

/// The donor's file into one beside the target (changed there), and that one into the target's
/// place. The second step is a transaction of the target file itself: whoever has it open sees the
/// old content or the new one.
pub(super) fn copy(
    donor: &Path,
    target: &Path,
    change: &Change<'_>,
    settle: &mut dyn FnMut(),
    tell: &mut dyn FnMut(&str),
) -> Result<(), AdoptError> {
    let beside = beside(target);
    remove(&beside)?;
    let result = through(donor, &beside, target, change, settle, tell);
    remove(&beside)?;
    result
}

fn through(
    donor: &Path,
    beside: &Path,
    target: &Path,
    change: &Change<'_>,
    settle: &mut dyn FnMut(),
    tell: &mut dyn FnMut(&str),
) -> Result<(), AdoptError> {
    let create = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let fail = AdoptError::Copy;
    let from = open(donor, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(fail)?;
    let mut snapshot = None;
    for _ in 0..TRIES {
        // One read transaction over all steps: a writer in between does not begin it anew.
        from.execute_batch("BEGIN").map_err(failed).map_err(fail)?;
        if held(&from).map_err(fail)? == 0 {
            snapshot = Some(());
            break;
        }
        from.execute_batch("ROLLBACK")
            .map_err(failed)
            .map_err(fail)?;
        settle();
        std::thread::sleep(PAUSE);
    }
    snapshot.ok_or_else(|| AdoptError::Held {
        donor: change.donor.to_owned(),
    })?;
    let mut copied = open(beside, create).map_err(fail)?;
    pages(&from, &mut copied, "copied", tell).map_err(fail)?;
    from.execute_batch("ROLLBACK")
        .map_err(failed)
        .map_err(fail)?;
    // The header says "write-ahead log", as the donor's does. Thrown away after a crash.
    copied
        .execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF")
        .map_err(failed)
        .map_err(fail)?;
    become_target(&mut copied, change).map_err(fail)?;
    let mut place = open(target, create).map_err(fail)?;
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables: i64 = place
        .query_row(tables, [], |row| row.get(0))
        .map_err(failed)
        .map_err(fail)?;
    let size = |db: &Connection| db.query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0));
    let sizes = size(&copied).and_then(|new| Ok((new, size(&place)?)));
    let (new, old) = sizes.map_err(failed).map_err(fail)?;
    if new != old && tables > 0 {
        let text = format!(
            "{} has pages of {old} bytes, the donor's file of {new}: remove it, with its -wal and \
             -shm, and run this again",
            target.display()
        );
        return Err(fail(DbError::Schema(text)));
    }
    pages(&copied, &mut place, "written", tell).map_err(fail)?;
    // As small as before; not more than tidiness, and somebody may be reading.
    let _ = place.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    Ok(())
}

fn held(db: &Connection) -> Result<i64, DbError> {
    let sql = "SELECT count(*) FROM prism_outbox WHERE state = 'held'";
    db.query_row(sql, [], |row| row.get(0)).map_err(failed)
}

fn pages(
    from: &Connection,
    to: &mut Connection,
    what: &str,
    tell: &mut dyn FnMut(&str),
) -> Result<(), DbError> {
    let backup = Backup::new(from, to).map_err(failed)?;
    let mut waited = Duration::ZERO;
    let mut told = 0;
    loop {
        match backup.step(PAGES).map_err(failed)? {
            StepResult::Done => return Ok(()),
            StepResult::More => waited = Duration::ZERO,
            // The busy handler does not work for a backup.
            _ if waited < BUSY => {
                std::thread::sleep(PAUSE);
                waited += PAUSE;
            }
            _ => {
                let text = "somebody keeps the file locked: stop what has it open";
                return Err(DbError::sql("55P03", text, None));
            }
        }
        let progress = backup.progress();
        let done = progress.pagecount - progress.remaining;
        if done - told >= TELL {
            told = done;
            tell(&format!("{done} of {} pages {what}", progress.pagecount));
        }
    }
}

/// The donor's row of the target's stream becomes the row of the donor's own stream.
fn become_target(db: &mut Connection, change: &Change<'_>) -> Result<(), DbError> {
    let transaction = db.transaction().map_err(failed)?;
    let epoch = change.epoch.0.cast_signed();
    let numbers = transaction
        .query_row(
            "SELECT applied, tag, (SELECT max(hlc) FROM (SELECT hlc FROM prism_region
                                   UNION ALL SELECT min(hlc, ?3) FROM prism_watermark))
             FROM prism_watermark WHERE region = ?1 AND epoch = ?2",
            params![change.target, epoch, Hlc::FOLLOWED.0.cast_signed()],
            |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, i64>(2)?,
                ))
            },
        )
        .optional()
        .map_err(failed)?;
    let (applied, tag, hlc) = numbers.ok_or_else(|| {
        DbError::Schema(format!(
            "the copy of {} does not know the new numbering; run this again",
            change.donor
        ))
    })?;
    transaction
        .execute(
            "UPDATE prism_watermark SET (region, epoch, applied, tag, hlc) =
                 (SELECT ?2, epoch, next_seq - 1, last_tag, hlc FROM prism_region)
             WHERE region = ?1",
            [change.target, change.donor],
        )
        .map_err(failed)?;
    transaction
        .execute(
            "UPDATE prism_region
             SET name = ?1, epoch = ?2, next_seq = ?3 + 1, last_tag = ?4, hlc = ?5",
            params![change.target, epoch, applied, tag, hlc],
        )
        .map_err(failed)?;
    transaction
        .execute("DELETE FROM prism_outbox", [])
        .and_then(|_| {
            transaction.execute(
                "UPDATE prism_lane SET peer = ?2 WHERE peer = ?1",
                [change.target, change.donor],
            )
        })
        .and_then(|_| {
            transaction.execute(
                "UPDATE prism_lane
                 SET epoch = ?1, acked = ?2, tag = ?3, holder = NULL, lease_until = 0,
                     wanted = NULL, wanted_until = 0, stale = 0",
                params![epoch, applied, tag],
            )
        })
        .and_then(|_| {
            // Refusals of its own updates: the regions that refused have them on record. And what
            // the donor's journal held is the donor's.
            transaction.execute(
                "DELETE FROM prism_rejected WHERE stream = ?1 OR seq IS NULL",
                [change.target],
            )
        })
        .and_then(|_| transaction.execute("DELETE FROM prism_skip", []))
        .and_then(|_| transaction.execute("DELETE FROM prism_node", []))
        .map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn remove(beside: &Path) -> Result<(), AdoptError> {
    for end in ["", "-journal", "-wal", "-shm"] {
        let mut name = beside.as_os_str().to_owned();
        name.push(end);
        match std::fs::remove_file(Path::new(&name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                let name = Path::new(&name).display();
                return Err(AdoptError::Io(format!("cannot remove {name}"), e));
            }
            _ => {}
        }
    }
    Ok(())
}
