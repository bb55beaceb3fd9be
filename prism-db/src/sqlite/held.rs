//! Held updates: published first, executed here for good when every region has them.
//!
//! SQLite has one writer, so nothing stays open meanwhile: the statement is tried and rolled back,
//! and other submits of the region wait until the row is final, undone or past its deadline.

use std::time::Duration;

use prism_proto::Seq;
use rusqlite::{OptionalExtension, params};

use super::errors::own;
use super::outbox::{self, Own};
use super::{request, undo};
use crate::chain::{Draft, Executed};
use crate::{
    Committed, DbError, HeldState, HeldWrite, RequestState, Submission, UndoReason, timestamp,
};

/// The held update, if there is one.
fn current(own_stream: &Own<'_>) -> Result<Option<Seq>, DbError> {
    own_stream
        .db
        .prepare_cached("SELECT seq FROM prism_outbox WHERE state = 'held' ORDER BY seq LIMIT 1")
        .and_then(|mut query| query.query_row([], |row| row.get::<_, i64>(0)).optional())
        .map(|seq| seq.map(|seq| Seq(seq.cast_unsigned())))
        .map_err(own)
}

/// Publishes the undo of those past their deadline: whoever held them has crashed, or forgotten
/// them. A row from the future was published before the clock went back.
pub(super) fn settle(own_stream: &Own<'_>) -> Result<Vec<Committed>, DbError> {
    let now = timestamp::now_micros();
    let overdue: Vec<i64> = own_stream
        .db
        .prepare_cached(
            "SELECT seq FROM prism_outbox
             WHERE state = 'held' AND (held_until <= ?1 OR at > ?1 + 1000000) ORDER BY seq",
        )
        .and_then(|mut query| query.query_map([now], |row| row.get(0))?.collect())
        .map_err(own)?;
    let mut published = Vec::new();
    for seq in overdue {
        let seq = Seq(seq.cast_unsigned());
        if let Some(original) = outbox::get(own_stream.db, seq)? {
            let reason = UndoReason::Crashed;
            published.push(undo::publish_held(own_stream, seq, &original, &reason)?);
        }
    }
    Ok(published)
}

/// Settles what is overdue; an error while an update is held.
pub(super) fn wait_for_nobody(own: &Own<'_>) -> Result<(), DbError> {
    settle(own)?;
    match current(own)? {
        None => Ok(()),
        Some(seq) => Err(DbError::sql(
            "55P03",
            format!(
                "update {} is held until every region has it; a SQLite database takes no other \
                 write of its own region meanwhile",
                seq.0
            ),
            None,
        )),
    }
}

/// Tries a submission. The caller rolls back.
pub(super) fn try_out(
    own: &Own<'_>,
    submission: Submission,
    limit: Duration,
) -> Result<HeldWrite, DbError> {
    wait_for_nobody(own)?;
    let batch = [submission];
    request::claim(own.db, own.statements, &batch)?;
    let executed = outbox::execute(own.db, own.statements, &batch[0], 0)?;
    let [submission] = batch;
    Ok(HeldWrite {
        submission,
        rows: executed.rows,
        old: executed.old,
        xid: 0,
        backend: 0,
        limit,
    })
}

pub(super) fn publish(own: &Own<'_>, held: &HeldWrite) -> Result<Committed, DbError> {
    wait_for_nobody(own)?;
    let batch = std::slice::from_ref(&held.submission);
    let bodies = request::claim(own.db, own.statements, batch)?;
    let executed = Executed {
        rows: held.rows,
        old: held.old.clone(),
    };
    let draft = Draft {
        held: true,
        ..Draft::of(&held.submission, executed)
    };
    let limit = i64::try_from(held.limit.as_micros()).unwrap_or(i64::MAX / 2);
    let until = timestamp::now_micros().saturating_add(limit);
    let mut committed = outbox::append(own, vec![draft], Some(until))?;
    match (committed.pop(), bodies.first()) {
        (Some(committed), Some(body)) => {
            outbox::record(own, &committed, *body, RequestState::Held)?;
            Ok(committed)
        }
        _ => Err(DbError::sql("XX000", "nothing was numbered", None)),
    }
}

/// Executes it for good. `false` if it has been undone.
pub(super) fn finish(own_stream: &Own<'_>, seq: Seq) -> Result<bool, DbError> {
    let db = own_stream.db;
    let Some(held) = outbox::get(db, seq)?.filter(|row| row.state == "held") else {
        return Ok(false);
    };
    let update = &held.update;
    let submission = Submission {
        statement: update.statement,
        params: update.params.clone(),
        request_id: update.request_id,
    };
    let executed = outbox::execute(db, own_stream.statements, &submission, 0)?;
    if executed.rows != update.rows || executed.old != update.old {
        return Err(DbError::sql(
            "40001",
            format!(
                "an update of another region has changed what held update {} was tried on",
                seq.0
            ),
            Some(0),
        ));
    }
    db.prepare_cached("UPDATE prism_outbox SET state = 'final', held_until = NULL WHERE seq = ?1")
        .and_then(|mut update| update.execute(params![seq.0.cast_signed()]))
        .map_err(own)?;
    if let Some(id) = &update.request_id {
        request::set(db, id, &RequestState::Committed)?;
    }
    Ok(true)
}

pub(super) fn state(own: &Own<'_>, seq: Seq) -> Result<HeldState, DbError> {
    let Some(row) = outbox::get(own.db, seq)? else {
        return Ok(HeldState::Unknown);
    };
    let request = match &row.update.request_id {
        Some(id) => request::get(own.db, id)?,
        None => None,
    };
    let reason = match request.map(|row| row.state) {
        Some(RequestState::Undone(reason)) => Some(reason),
        _ => None,
    };
    Ok(match (row.state.as_str(), reason) {
        ("held", _) => HeldState::Held,
        (_, Some(reason)) => HeldState::Undone(reason),
        ("undone", None) => HeldState::Undone(UndoReason::Crashed),
        _ => HeldState::Final,
    })
}
