//! What became of a caller's request.

use std::time::Duration;

use prism_proto::Seq;
use rusqlite::{Connection, OptionalExtension, params};

use super::errors::own;
use super::{Statements, ledger};
use crate::chain::{state_from, state_text};
use crate::{
    DbError, Digest, Repeat, RequestRow, RequestState, Submission, body_digest, timestamp,
};

pub(super) fn get(db: &Connection, id: &[u8; 16]) -> Result<Option<RequestRow>, DbError> {
    db.prepare_cached(
        "SELECT body_digest, stream, seq, state, answer FROM prism_request WHERE request_id = ?1",
    )
    .and_then(|mut query| {
        query
            .query_row([id], |row| {
                let word: String = row.get(3)?;
                let answer: Option<String> = row.get(4)?;
                Ok(RequestRow {
                    request_id: *id,
                    body: Digest(row.get(0)?),
                    stream: row.get(1)?,
                    seq: row
                        .get::<_, Option<i64>>(2)?
                        .map(|seq| Seq(seq.cast_unsigned())),
                    state: state_from(&word, answer.as_deref()),
                })
            })
            .optional()
    })
    .map_err(own)
}

/// Writes a row, over an older one with the id.
pub(super) fn put(db: &Connection, row: &RequestRow) -> Result<(), DbError> {
    let (word, answer) = state_text(&row.state);
    db.prepare_cached(
        "INSERT OR REPLACE INTO prism_request
             (request_id, body_digest, stream, seq, state, answer, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )
    .and_then(|mut insert| {
        insert.execute(params![
            row.request_id,
            row.body.0,
            row.stream,
            row.seq.map(|seq| seq.0.cast_signed()),
            word,
            answer,
            timestamp::now_micros(),
        ])
    })
    .map_err(own)?;
    Ok(())
}

/// Changes the state of a row that is there.
pub(super) fn set(db: &Connection, id: &[u8; 16], state: &RequestState) -> Result<(), DbError> {
    let (word, answer) = state_text(state);
    db.prepare_cached("UPDATE prism_request SET state = ?2, answer = ?3 WHERE request_id = ?1")
        .and_then(|mut update| update.execute(params![id, word, answer]))
        .map_err(own)?;
    Ok(())
}

/// What each submission asks for.
///
/// # Errors
/// `Repeated` with all that are on record.
pub(super) fn claim(
    db: &Connection,
    statements: &Statements,
    batch: &[Submission],
) -> Result<Vec<Digest>, DbError> {
    let mut bodies = Vec::with_capacity(batch.len());
    let mut repeated = Vec::new();
    for (index, submission) in batch.iter().enumerate() {
        let statement = statements.find(db, submission.statement, index)?;
        let body = body_digest(statement.name(), statement.params(), &submission.params);
        bodies.push(body);
        if let Some(id) = &submission.request_id
            && let Some(row) = get(db, id)?
        {
            repeated.push(Repeat { index, body, row });
        }
    }
    if repeated.is_empty() {
        Ok(bodies)
    } else {
        Err(DbError::Repeated(repeated))
    }
}

/// What may be forgotten, of those at or before `?1`; own region `?2`, its next seq `?3`.
const NEEDED_BY_NOBODY: &str = "SELECT request_id FROM prism_request
    WHERE at <= ?1 AND state <> 'held' AND (stream <> ?2 OR seq IS NULL
        OR seq < coalesce((SELECT min(seq) FROM prism_outbox), ?3))";

/// Microseconds since 1970.
fn ago(age: Duration) -> i64 {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    timestamp::now_micros().saturating_sub(age)
}

/// Whether one that is older may be forgotten, and is not.
pub(super) fn reach(db: &Connection, age: Duration) -> Result<bool, DbError> {
    let region = ledger::region(db)?;
    db.prepare_cached(&format!("{NEEDED_BY_NOBODY} LIMIT 1"))
        .and_then(|mut query| {
            let next = region.next_seq.0.cast_signed();
            query.exists(params![ago(age), region.name, next])
        })
        .map_err(own)
}

/// Deletes the oldest that nobody needs.
pub(super) fn trim(db: &Connection, retention: Duration, limit: u32) -> Result<u64, DbError> {
    let region = ledger::region(db)?;
    db.prepare_cached(&format!(
        "DELETE FROM prism_request WHERE request_id IN ({NEEDED_BY_NOBODY} ORDER BY at LIMIT ?4)"
    ))
    .and_then(|mut delete| {
        delete.execute(params![
            ago(retention),
            region.name,
            region.next_seq.0.cast_signed(),
            limit
        ])
    })
    .map(|n| n as u64)
    .map_err(own)
}
