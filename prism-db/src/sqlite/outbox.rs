//! The own stream: executing submissions, numbering, reading back, trimming.

use std::time::Duration;

use prism_proto::{Position, RegionKey, Seq, Tag, Verdict};
use rusqlite::{Connection, OptionalExtension, params};

use super::errors::{Phase, convert, own};
use super::{Statements, held, lane, ledger, request, values};
use crate::chain::{self, Draft, Executed, Tail};
use crate::{
    Committed, DbError, Digest, OpenOptions, RequestRow, RequestState, Submission, Update,
    UpdateError, Value, timestamp,
};

/// How many of the newest updates [`find`] looks through.
const FIND_AMONG: u32 = 65_536;

/// A row that cannot be read any more.
pub(super) fn damaged(error: UpdateError) -> DbError {
    DbError::sql(
        "XX001",
        format!("a stored update is damaged: {error}"),
        None,
    )
}

/// What numbering needs to know.
pub(super) struct Own<'a> {
    pub(super) db: &'a Connection,
    pub(super) options: &'a OpenOptions,
    pub(super) statements: &'a Statements,
}

/// Executes a batch and gives it its numbers. The transaction is the caller's.
pub(super) fn submit(own: &Own<'_>, batch: &[Submission]) -> Result<Vec<Committed>, DbError> {
    held::wait_for_nobody(own)?;
    let bodies = request::claim(own.db, own.statements, batch)?;
    let mut drafts = Vec::with_capacity(batch.len());
    for (index, submission) in batch.iter().enumerate() {
        let executed = execute(own.db, own.statements, submission, index)?;
        drafts.push(Draft::of(submission, executed));
    }
    let committed = append(own, drafts, None)?;
    for (one, body) in committed.iter().zip(bodies) {
        record(own, one, body, RequestState::Committed)?;
    }
    Ok(committed)
}

/// Notes what became of a request of this region.
pub(super) fn record(
    own: &Own<'_>,
    one: &Committed,
    body: Digest,
    state: RequestState,
) -> Result<(), DbError> {
    let Some(request_id) = one.update.request_id else {
        return Ok(());
    };
    let row = RequestRow {
        request_id,
        body,
        stream: own.options.topology.region.clone(),
        seq: Some(one.seq),
        state,
    };
    request::put(own.db, &row)
}

/// Puts drafts at the end of the stream. `held_until`: they are held, at the latest until then.
pub(super) fn append(
    own_stream: &Own<'_>,
    drafts: Vec<Draft>,
    held_until: Option<i64>,
) -> Result<Vec<Committed>, DbError> {
    let db = own_stream.db;
    let max_update = own_stream.options.max_update;
    let region = ledger::region(db)?;
    let tail = Tail {
        next_seq: region.next_seq,
        last_tag: region.last_tag,
        hlc: ledger::hlc(db)?,
    };
    let seen: Vec<_> = ledger::watermarks(db)?
        .into_iter()
        .filter(|(_, position)| position.seq > Seq::ZERO)
        .map(|(name, position)| (RegionKey::of(&name), position.seq))
        .collect();
    let now = timestamp::now_micros();
    let (tail, numbered) = chain::number(tail, drafts, &seen, now, max_update)?;
    let mut total: i64 = db
        .query_row("SELECT bytes FROM prism_region", [], |row| row.get(0))
        .map_err(own)?;
    let mut insert = db
        .prepare_cached(
            "INSERT INTO prism_outbox (seq, tag, prev_tag, statement, body, state, held_until,
                                       total, request_id, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )
        .map_err(own)?;
    let mut committed = Vec::with_capacity(numbered.len());
    for (one, body) in numbered {
        total = total.saturating_add_unsigned(body.len() as u64);
        insert
            .execute(params![
                one.seq.0.cast_signed(),
                one.update.tag.0.cast_signed(),
                one.update.prev_tag.0.cast_signed(),
                one.update.statement.0,
                body,
                if held_until.is_some() {
                    "held"
                } else {
                    "final"
                },
                held_until,
                total,
                one.update.request_id,
                now,
            ])
            .map_err(own)?;
        committed.push(one);
    }
    db.prepare_cached("UPDATE prism_region SET next_seq = ?1, last_tag = ?2, hlc = ?3, bytes = ?4")
        .and_then(|mut update| {
            update.execute(params![
                tail.next_seq.0.cast_signed(),
                tail.last_tag.0.cast_signed(),
                tail.hlc.0.cast_signed(),
                total,
            ])
        })
        .map_err(own)?;
    Ok(committed)
}

pub(super) fn execute(
    db: &Connection,
    statements: &Statements,
    submission: &Submission,
    index: usize,
) -> Result<Executed, DbError> {
    let statement = statements.find(db, submission.statement, index)?;
    // SQLite binds anything: NaN and what is missing as NULL. No peer would take such an update, and
    // the stream would stand still everywhere.
    if !submission.params.iter().all(Value::is_valid) {
        let text = "a value that cannot be stored";
        return Err(DbError::sql("22021", text, Some(index)));
    }
    if !statement.accepts(&submission.params) {
        let text = format!("the parameters do not fit statement {:?}", statement.name());
        return Err(DbError::sql("42804", text, Some(index)));
    }
    let mut old = Vec::new();
    if let Some(query) = statement.old() {
        let mut query = db
            .prepare_cached(query)
            .map_err(|e| convert(e, Phase::Prepare, Some(index)))?;
        let run = |e| convert(e, Phase::Run, Some(index));
        values::bind(&mut query, "$", &submission.params).map_err(run)?;
        let mut rows = query.raw_query();
        old = match rows.next().map_err(run)? {
            None => vec![Value::Null; statement.old_columns()],
            Some(row) => values::read(row, statement.old_columns())
                .map_err(run)?
                .ok_or_else(|| {
                    DbError::sql(
                        "22000",
                        "`old` gives a value that cannot be carried (infinite, NUL or not UTF-8)",
                        Some(index),
                    )
                })?,
        };
    }
    let rows = run(db, statement.sql(), &submission.params, &[], index)?;
    Ok(Executed { rows, old })
}

/// Runs one statement; gives the rows affected.
pub(super) fn run(
    db: &Connection,
    sql: &str,
    params: &[Value],
    old: &[Value],
    index: usize,
) -> Result<u64, DbError> {
    let mut statement = db
        .prepare_cached(sql)
        .map_err(|e| convert(e, Phase::Prepare, Some(index)))?;
    values::bind(&mut statement, "$", params)
        .and_then(|()| values::bind(&mut statement, "$old", old))
        .and_then(|()| statement.raw_execute())
        .map(|rows| rows as u64)
        .map_err(|e| convert(e, Phase::Run, Some(index)))
}

/// Rows from `from` to `to` in order; the sink says whether it wants another.
pub(super) fn read(
    db: &Connection,
    from: Seq,
    to: Seq,
    max_bytes: usize,
    sink: &mut dyn FnMut(Seq, &[u8]),
) -> Result<Seq, DbError> {
    let mut last = Seq(from.0.saturating_sub(1));
    let mut query = db
        .prepare_cached(
            "SELECT seq, body FROM prism_outbox WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq",
        )
        .map_err(own)?;
    let limit = |seq: Seq| i64::try_from(seq.0).unwrap_or(i64::MAX);
    let mut rows = query.query([limit(from), limit(to)]).map_err(own)?;
    let mut bytes = 0usize;
    while let Some(row) = rows.next().map_err(own)? {
        let seq = Seq(row.get::<_, i64>(0).map_err(own)?.cast_unsigned());
        let body = row
            .get_ref(1)
            .and_then(|value| Ok(value.as_blob()?))
            .map_err(own)?;
        bytes = bytes.saturating_add(body.len());
        // Trimmed at its beginning: a stream is never given out with a gap.
        if seq != last.next() || (bytes > max_bytes && last >= from) {
            break;
        }
        sink(seq, body);
        last = seq;
    }
    Ok(last)
}

/// The update with that request id, of the newest. (Its undo bears the same id, and comes behind it.)
/// The caller holds the write lock.
pub(super) fn find(db: &Connection, request_id: &[u8; 16]) -> Result<Option<Committed>, DbError> {
    let row = db
        .prepare_cached(
            "SELECT seq, body FROM (SELECT seq, body, request_id FROM prism_outbox
                                    ORDER BY seq DESC LIMIT ?2)
             WHERE request_id = ?1 ORDER BY seq LIMIT 1",
        )
        .and_then(|mut query| {
            query
                .query_row(params![request_id, FIND_AMONG], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
                })
                .optional()
        })
        .map_err(own)?;
    let found = row.map(|(seq, body)| {
        Ok(Committed {
            seq: Seq(seq.cast_unsigned()),
            update: Update::decode(&body).map_err(damaged)?,
        })
    });
    let found = found.transpose()?;
    Ok(found.filter(|found| found.update.undoes.is_none()))
}

/// Compares a peer's position with the own stream.
pub(super) fn verify(db: &Connection, position: Position) -> Result<Verdict, DbError> {
    let own_row = ledger::region(db)?;
    let next = i64::try_from(position.seq.next().0).unwrap_or(i64::MAX);
    let prev_tag = db
        .prepare_cached("SELECT prev_tag FROM prism_outbox WHERE seq = ?1")
        .and_then(|mut query| {
            query
                .query_row([next], |row| row.get::<_, i64>(0))
                .optional()
        })
        .map_err(own)?;
    let prev_tag = prev_tag.map(|tag| Tag(tag.cast_unsigned()));
    Ok(chain::verdict(&own_row, position, prev_tag))
}

/// Deletes the oldest rows that every one of `peers` has and that are older than `retention`.
pub(super) fn trim(
    db: &Connection,
    peers: &[&str],
    retention: Duration,
    limit: u32,
) -> Result<u64, DbError> {
    let epoch = ledger::region(db)?.epoch;
    let lanes = lane::all(db)?;
    let acked = |peer: &&str| match lanes.iter().find(|lane| lane.peer == *peer) {
        Some(lane) if lane.stale => None,
        Some(lane) if lane.acked.epoch == epoch => Some(lane.acked.seq.0),
        _ => Some(0),
    };
    // Without peers nobody needs the rows; a stale one needs more than them.
    let bound = peers.iter().filter_map(acked).min();
    let bound = i64::try_from(bound.unwrap_or(u64::MAX)).unwrap_or(i64::MAX);
    let retention = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
    let cutoff = timestamp::now_micros().saturating_sub(retention);
    let mut query = db
        .prepare_cached(
            "SELECT seq, at, state = 'held' FROM prism_outbox WHERE seq <= ?1 ORDER BY seq LIMIT ?2",
        )
        .map_err(own)?;
    let mut rows = query.query(params![bound, limit]).map_err(own)?;
    let mut last = None;
    while let Some(row) = rows.next().map_err(own)? {
        // Only from the front, so that what remains has no holes.
        if row.get::<_, i64>(1).map_err(own)? > cutoff || row.get(2).map_err(own)? {
            break;
        }
        last = Some(row.get::<_, i64>(0).map_err(own)?);
    }
    drop(rows);
    match last {
        None => Ok(0),
        Some(last) => db
            .execute("DELETE FROM prism_outbox WHERE seq <= ?1", [last])
            .map(|n| n as u64)
            .map_err(own),
    }
}

/// What is known of an update of the own stream.
pub(super) struct Stored {
    pub(super) update: Update,
    pub(super) state: String,
    /// The update that undoes it, or says why not.
    pub(super) undone: Option<Seq>,
}

pub(super) fn get(db: &Connection, seq: Seq) -> Result<Option<Stored>, DbError> {
    let row = db
        .prepare_cached("SELECT body, state, undone FROM prism_outbox WHERE seq = ?1")
        .and_then(|mut query| {
            query
                .query_row([seq.0.cast_signed()], |row| {
                    let undone: Option<i64> = row.get(2)?;
                    Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?, undone))
                })
                .optional()
        })
        .map_err(own)?;
    row.map(|(body, state, undone)| {
        Ok(Stored {
            update: Update::decode(&body).map_err(damaged)?,
            state,
            undone: undone.map(|seq| Seq(seq.cast_unsigned())),
        })
    })
    .transpose()
}
