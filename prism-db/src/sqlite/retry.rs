//! Running a dead letter once more.

use prism_proto::Seq;
use rusqlite::params;

use super::errors::own;
use super::outbox::{self, Own};
use super::{held, rejected, request, undo};
use crate::chain::{self, Draft};
use crate::{
    Committed, DbError, RejectedRow, Repeat, RequestRow, RequestState, Retried, Submission,
    UndoReason, body_digest,
};

pub(super) fn retry(own: &Own<'_>, id: i64) -> Result<Retried, DbError> {
    let Some(row) = rejected::get(own.db, id)?.filter(|row| row.resolution.is_none()) else {
        return Ok(Retried::Unknown);
    };
    rejected::retried(own.db, id)?;
    let is_own = row.stream == own.options.topology.region;
    match (row.update.notice().is_some(), is_own) {
        (true, true) => undo_again(own, &row).map(Retried::Submitted),
        (true, false) => Err(DbError::sql(
            "0A000",
            format!(
                "region {} tells that it could not undo an update: retry it there, or drop it here",
                row.stream
            ),
            None,
        )),
        (false, true) => submit(own, &row).map(Retried::Submitted),
        (false, false) => run(own, &row).map(Retried::Applied),
    }
}

/// One of the journal.
fn submit(own: &Own<'_>, row: &RejectedRow) -> Result<Committed, DbError> {
    held::wait_for_nobody(own)?;
    let update = &row.update;
    let submission = Submission {
        statement: update.statement,
        params: update.params.clone(),
        request_id: update.request_id,
    };
    let statement = own.statements.find(own.db, update.statement, 0)?;
    let body = body_digest(statement.name(), statement.params(), &update.params);
    // Its client may have submitted it in another region since.
    if let Some(id) = &update.request_id
        && let Some(row) = request::get(own.db, id)?
        && row.seq.is_some()
    {
        return Err(DbError::Repeated(vec![Repeat {
            index: 0,
            body,
            row,
        }]));
    }
    let executed = outbox::execute(own.db, own.statements, &submission, 0)?;
    let committed = outbox::append(own, vec![Draft::of(&submission, executed)], None)?.pop();
    let committed = committed.ok_or_else(|| DbError::sql("XX000", "nothing was numbered", None))?;
    // Over the refusal that is on record.
    outbox::record(own, &committed, body, RequestState::Committed)?;
    Ok(committed)
}

/// The undo that this region had refused.
fn undo_again(own_stream: &Own<'_>, row: &RejectedRow) -> Result<Committed, DbError> {
    held::wait_for_nobody(own_stream)?;
    let seq = row.update.undoes.unwrap_or(Seq::ZERO);
    let gone = || {
        let text = format!("update {} is not in the outbox any more", seq.0);
        DbError::sql("0A000", text, None)
    };
    let original = outbox::get(own_stream.db, seq)?.ok_or_else(gone)?;
    let update = &original.update;
    let statement = own_stream
        .statements
        .find(own_stream.db, update.statement, 0)?;
    let sql = statement.undo().ok_or_else(gone)?;
    let rows = outbox::run(own_stream.db, sql, &update.params, &update.old, 0)?;
    own_stream
        .db
        .execute(
            "UPDATE prism_outbox SET undone = NULL WHERE seq = ?1",
            params![seq.0.cast_signed()],
        )
        .map_err(own)?;
    let reason = UndoReason::Refused {
        region: String::new(),
        sqlstate: String::new(),
        message: "undone after all, by an operator".to_owned(),
    };
    undo::publish(own_stream, seq, &original, rows, &reason)
}

/// One of a peer's stream: here only, where it is missing.
fn run(own: &Own<'_>, row: &RejectedRow) -> Result<u64, DbError> {
    let update = &row.update;
    let statement = own.statements.find(own.db, update.statement, 0)?;
    let (sql, state) = match update.undoes {
        None => (Some(statement.sql()), RequestState::Committed),
        Some(_) => (
            statement.undo(),
            RequestState::Undone(chain::undone_elsewhere(&row.stream)),
        ),
    };
    let sql = sql.ok_or_else(|| DbError::sql("42601", "its statement has no undo", Some(0)))?;
    let body = body_digest(statement.name(), statement.params(), &update.params);
    let known = match &update.request_id {
        Some(id) => request::get(own.db, id)?,
        None => None,
    };
    if update.undoes.is_some()
        && let Some(known) = &known
        && known.body == body
        && matches!(known.state, RequestState::Undone(_))
    {
        // By the undo of its copy in another stream.
        return Ok(0);
    }
    let rows = outbox::run(own.db, sql, &update.params, &update.old, 0)?;
    if let Some(request_id) = update.request_id
        && known.is_none_or(|known| known.body == body)
    {
        let row = RequestRow {
            request_id,
            body,
            stream: row.stream.clone(),
            seq: update.undoes.or(row.seq),
            state,
        };
        request::put(own.db, &row)?;
    }
    Ok(rows)
}
