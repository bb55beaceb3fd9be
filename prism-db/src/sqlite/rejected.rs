//! Updates that were recorded instead of executed: dead letters, refusals to tell, skips.

use prism_proto::{Epoch, Seq};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::errors::own;
use super::{ledger, outbox, request};
use crate::apply::{SKIPPED, refusal_class};
use crate::{
    DbError, Digest, RefusalRow, RejectedRow, RequestRow, RequestState, Submission, Update,
    timestamp,
};

/// A new row.
pub(super) struct New<'a> {
    pub(super) stream: &'a str,
    pub(super) epoch: Epoch,
    pub(super) seq: Option<Seq>,
    pub(super) update: &'a Update,
    pub(super) sqlstate: &'a str,
    pub(super) message: &'a str,
    /// Whether nobody is to be told.
    pub(super) told: bool,
}

pub(super) fn insert(db: &Connection, new: &New<'_>) -> Result<(), DbError> {
    let now = timestamp::now_micros();
    let skipped = (new.sqlstate == SKIPPED).then_some("skipped");
    db.prepare_cached(
        "INSERT INTO prism_rejected (stream, epoch, seq, statement, body, sqlstate, message, at,
                                     told, resolution, resolved_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )
    .and_then(|mut insert| {
        insert.execute(params![
            new.stream,
            new.epoch.0.cast_signed(),
            new.seq.map(|seq| seq.0.cast_signed()),
            new.update.statement.0,
            new.update.encode(),
            new.sqlstate,
            new.message,
            now,
            new.told,
            skipped,
            skipped.map(|_| now),
        ])
    })
    .map_err(own)?;
    Ok(())
}

/// A submission of this region that its database has refused.
pub(super) fn of_request(
    db: &Connection,
    submission: &Submission,
    body: Digest,
    (sqlstate, message): (&str, &str),
    dead_letter: bool,
) -> Result<(), DbError> {
    if let Some(id) = &submission.request_id
        && request::get(db, id)?.is_some()
    {
        return Ok(());
    }
    let region = ledger::region(db)?;
    if let Some(request_id) = submission.request_id {
        let state = RequestState::Refused {
            sqlstate: sqlstate.to_owned(),
            message: message.to_owned(),
        };
        let row = RequestRow {
            request_id,
            body,
            stream: region.name.clone(),
            seq: None,
            state,
        };
        request::put(db, &row)?;
    }
    if !dead_letter {
        return Ok(());
    }
    let update = Update {
        tag: prism_proto::Tag(0),
        prev_tag: prism_proto::Tag(0),
        statement: submission.statement,
        params: submission.params.clone(),
        old: Vec::new(),
        hlc: ledger::hlc(db)?,
        rows: 0,
        seen: Vec::new(),
        undoes: None,
        held: false,
        request_id: submission.request_id,
    };
    let new = New {
        stream: &region.name,
        epoch: region.epoch,
        seq: None,
        update: &update,
        sqlstate,
        message,
        told: true,
    };
    insert(db, &new)
}

/// Whether this update was recorded instead of executed, and not executed since.
pub(super) fn is_rejected(
    db: &Connection,
    stream: &str,
    epoch: Epoch,
    seq: Seq,
) -> Result<bool, DbError> {
    db.prepare_cached(
        "SELECT 1 FROM prism_rejected WHERE stream = ?1 AND epoch = ?2 AND seq = ?3
             AND resolution IS NOT 'retried'",
    )
    .and_then(|mut query| query.exists(params![stream, epoch.0.cast_signed(), seq.0.cast_signed()]))
    .map_err(own)
}

/// Its origin has undone it.
pub(super) fn undone(db: &Connection, stream: &str, seq: Seq) -> Result<(), DbError> {
    db.prepare_cached(
        "UPDATE prism_rejected SET resolution = 'undone', resolved_at = ?3
         WHERE stream = ?1 AND seq = ?2 AND resolution IS NULL",
    )
    .and_then(|mut update| {
        update.execute(params![
            stream,
            seq.0.cast_signed(),
            timestamp::now_micros()
        ])
    })
    .map_err(own)?;
    Ok(())
}

/// Its origin need not be told any more: here it is as it should be.
pub(super) fn retried(db: &Connection, id: i64) -> Result<(), DbError> {
    resolve(db, id, "retried")?;
    db.execute("UPDATE prism_rejected SET told = 1 WHERE id = ?1", [id])
        .map(drop)
        .map_err(own)
}

/// `false` if nobody has to resolve it any more.
pub(super) fn resolve(db: &Connection, id: i64, resolution: &str) -> Result<bool, DbError> {
    db.execute(
        "UPDATE prism_rejected SET resolution = ?2, resolved_at = ?3
         WHERE id = ?1 AND resolution IS NULL",
        params![id, resolution, timestamp::now_micros()],
    )
    .map(|rows| rows > 0)
    .map_err(own)
}

/// Those of the stream's present numbering; of another one nobody could be told.
pub(super) fn refusals(
    db: &Connection,
    stream: &str,
    limit: u32,
) -> Result<Vec<RefusalRow>, DbError> {
    db.prepare_cached(
        "SELECT r.epoch, r.seq, r.sqlstate, r.message FROM prism_rejected r
         JOIN prism_watermark w ON w.region = r.stream AND w.epoch = r.epoch
         WHERE r.stream = ?1 AND r.told = 0 ORDER BY r.seq LIMIT ?2",
    )
    .and_then(|mut query| {
        query
            .query_map(params![stream, limit], |row| {
                let sqlstate: String = row.get(2)?;
                Ok(RefusalRow {
                    epoch: Epoch(row.get::<_, i64>(0)?.cast_unsigned()),
                    seq: Seq(row.get::<_, i64>(1)?.cast_unsigned()),
                    class: refusal_class(&sqlstate),
                    sqlstate,
                    message: row.get(3)?,
                })
            })?
            .collect()
    })
    .map_err(own)
}

pub(super) fn told(
    db: &Connection,
    stream: &str,
    epoch: Epoch,
    seqs: &[Seq],
) -> Result<(), DbError> {
    let mut update = db
        .prepare_cached(
            "UPDATE prism_rejected SET told = 1 WHERE stream = ?1 AND epoch = ?2 AND seq = ?3",
        )
        .map_err(own)?;
    for seq in seqs {
        update
            .execute(params![stream, epoch.0.cast_signed(), seq.0.cast_signed()])
            .map_err(own)?;
    }
    Ok(())
}

pub(super) fn count(db: &Connection) -> Result<u64, DbError> {
    db.query_row(
        "SELECT count(*) FROM prism_rejected WHERE resolution IS NULL",
        [],
        |row| row.get::<_, i64>(0),
    )
    .map(i64::cast_unsigned)
    .map_err(own)
}

const ROW: &str = "SELECT id, stream, epoch, seq, body, sqlstate, message, at, resolution
    FROM prism_rejected";

/// A row whose update is still encoded.
type Encoded = (Vec<u8>, Box<dyn FnOnce(Update) -> RejectedRow>);

fn read(row: &Row<'_>) -> rusqlite::Result<Encoded> {
    let id = row.get(0)?;
    let stream = row.get(1)?;
    let epoch = Epoch(row.get::<_, i64>(2)?.cast_unsigned());
    let seq: Option<i64> = row.get(3)?;
    let (sqlstate, message) = (row.get(5)?, row.get(6)?);
    let (at, resolution) = (row.get(7)?, row.get(8)?);
    let complete = move |update| RejectedRow {
        id,
        stream,
        epoch,
        seq: seq.map(|seq| Seq(seq.cast_unsigned())),
        update,
        sqlstate,
        message,
        at,
        resolution,
    };
    Ok((row.get(4)?, Box::new(complete)))
}

fn complete((body, row): Encoded) -> Result<RejectedRow, DbError> {
    Ok(row(Update::decode(&body).map_err(outbox::damaged)?))
}

/// Those that nobody has resolved, oldest first.
pub(super) fn list(db: &Connection, limit: u32) -> Result<Vec<RejectedRow>, DbError> {
    let rows: Vec<_> = db
        .prepare_cached(&format!(
            "{ROW} WHERE resolution IS NULL ORDER BY id LIMIT ?1"
        ))
        .and_then(|mut query| query.query_map([limit], read)?.collect())
        .map_err(own)?;
    rows.into_iter().map(complete).collect()
}

pub(super) fn get(db: &Connection, id: i64) -> Result<Option<RejectedRow>, DbError> {
    let row = db
        .prepare_cached(&format!("{ROW} WHERE id = ?1"))
        .and_then(|mut query| query.query_row([id], read).optional())
        .map_err(own)?;
    row.map(complete).transpose()
}

/// `false` if the database is past it.
pub(super) fn skip(db: &Connection, stream: &str, seq: Seq) -> Result<bool, DbError> {
    let position = ledger::watermark(db, stream)?.ok_or_else(|| super::apply::unknown(stream))?;
    if seq <= position.seq {
        return Ok(false);
    }
    db.execute(
        "INSERT OR IGNORE INTO prism_skip (stream, seq, at) VALUES (?1, ?2, ?3)",
        params![stream, seq.0.cast_signed(), timestamp::now_micros()],
    )
    .map_err(own)?;
    Ok(true)
}

pub(super) fn skips(db: &Connection, stream: &str) -> Result<Vec<Seq>, DbError> {
    db.prepare_cached("SELECT seq FROM prism_skip WHERE stream = ?1 ORDER BY seq")
        .and_then(|mut query| {
            query
                .query_map([stream], |row| {
                    Ok(Seq(row.get::<_, i64>(0)?.cast_unsigned()))
                })?
                .collect()
        })
        .map_err(own)
}

/// The stream is past them.
pub(super) fn forget_skips(db: &Connection, stream: &str, upto: Seq) -> Result<(), DbError> {
    db.prepare_cached("DELETE FROM prism_skip WHERE stream = ?1 AND seq <= ?2")
        .and_then(|mut delete| delete.execute(params![stream, upto.0.cast_signed()]))
        .map_err(own)?;
    Ok(())
}
