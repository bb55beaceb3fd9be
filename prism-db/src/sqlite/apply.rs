//! Applying a peer's stream: everything in the transaction that moves the watermark.

use std::collections::HashMap;

use prism_proto::{RegionKey, Seq};
use rusqlite::Connection;

use super::connection::End;
use super::{Statements, ledger, outbox, rejected, request};
use crate::catalogue::Kind;
use crate::chain::{self, Course, Plan};
use crate::{
    ApplyItem, ApplyReport, ApplyRequest, DbError, Digest, Drift, ItemAction, RequestRow,
    RequestState, body_digest,
};

/// SQLSTATE of a missing referenced row.
const MISSING_REFERENCE: &str = "23503";

/// Runs a request. The transaction is the caller's.
pub(super) fn apply(
    db: &Connection,
    statements: &Statements,
    request: &ApplyRequest<'_>,
) -> Result<End<ApplyReport>, DbError> {
    let position = ledger::watermark(db, request.stream)?.ok_or_else(|| unknown(request.stream))?;
    let first = match chain::plan(position, request)? {
        Plan::Run(first) => first,
        Plan::Nothing => {
            return Ok(End::Rollback(ApplyReport::Done {
                position,
                executed: 0,
                skipped: request.items.len() as u64,
                drift: Vec::new(),
            }));
        }
        Plan::Gap => return Ok(End::Rollback(ApplyReport::Gap { position })),
    };
    let items = &request.items[first..];
    let Some(last) = items.last() else {
        return Ok(End::Rollback(ApplyReport::Gap { position }));
    };
    // Read only if something looks wrong.
    let mut here = None;
    let mut drift = Vec::new();
    for (index, item) in (first..).zip(items) {
        match &item.action {
            ItemAction::Skip => {}
            ItemAction::Reject { sqlstate, message } => {
                reject(db, statements, request, item, (sqlstate, message))?;
            }
            ItemAction::Run => match run(db, statements, request, item, index) {
                Ok(None) => {}
                Ok(Some(rows)) => {
                    if let Some(report) = behind(db, request, item, &mut here)? {
                        return Ok(End::Rollback(report));
                    }
                    drift.push(Drift {
                        seq: item.seq,
                        expected: item.update.rows,
                        actual: rows,
                    });
                }
                Err(error) => {
                    if is_missing_reference(&error)
                        && let Some(report) = behind(db, request, item, &mut here)?
                    {
                        return Ok(End::Rollback(report));
                    }
                    return Err(error);
                }
            },
        }
    }
    rejected::forget_skips(db, request.stream, last.seq)?;
    Ok(End::Commit(ApplyReport::Done {
        position: ledger::advance(db, request, last)?,
        executed: items.len() as u64,
        skipped: first as u64,
        drift,
    }))
}

/// For a request of one update, which is how an offender at COMMIT is found: what it would wait
/// for. Looked up in the transaction, so that what arrives later does not make a missing reference
/// a refusal.
pub(super) fn alone_and_behind(
    db: &Connection,
    request: &ApplyRequest<'_>,
) -> Result<Option<ApplyReport>, DbError> {
    match request.items {
        [item] if item.action == ItemAction::Run => behind(db, request, item, &mut None),
        _ => Ok(None),
    }
}

pub(super) fn is_missing_reference(error: &DbError) -> bool {
    matches!(error, DbError::Sql { sqlstate, .. } if sqlstate == MISSING_REFERENCE)
}

pub(super) fn unknown(region: &str) -> DbError {
    DbError::Schema(format!(
        "region {region} is not known to this database; run: prism migrate"
    ))
}

/// Gives the rows affected if they differ from the origin's.
fn run(
    db: &Connection,
    statements: &Statements,
    request: &ApplyRequest<'_>,
    item: &ApplyItem,
    index: usize,
) -> Result<Option<u64>, DbError> {
    let update = &item.update;
    let statement = statements.find(db, update.statement, index)?;
    let body = body_digest(statement.name(), statement.params(), &update.params);
    let known = match &update.request_id {
        Some(id) => request::get(db, id)?,
        None => None,
    };
    let refused = match update.undoes {
        Some(seq) => rejected::is_rejected(db, request.stream, request.epoch, seq)?,
        None => false,
    };
    let place = (request.stream, item.seq);
    let (sql, state) = match chain::course(place, update, body, known.as_ref(), refused) {
        Course::Wait => return Err(chain::held_here(index)),
        Course::Double => return Ok(None),
        Course::NothingToUndo => {
            if let Some(seq) = update.undoes {
                rejected::undone(db, request.stream, seq)?;
            }
            if let Some(row) = known
                && let Some(seq) = row.seq
            {
                // Its copy of another stream is what was refused here.
                rejected::undone(db, &row.stream, seq)?;
            }
            return Ok(None);
        }
        Course::Run => (Some(statement.sql()), RequestState::Committed),
        Course::Undo => {
            let reason = chain::undone_elsewhere(request.stream);
            (statement.undo(), RequestState::Undone(reason))
        }
    };
    let sql = sql.ok_or_else(|| DbError::sql("42601", "its statement has no undo", Some(index)))?;
    let rows = outbox::run(db, sql, &update.params, &update.old, index)?;
    record(db, request, item, body, known, state)?;
    let differs = rows != update.rows && chain::counts(update, statement.kind() == Kind::Absolute);
    Ok(differs.then_some(rows))
}

/// Notes what became of an update's request here, unless the id belongs to another one.
fn record(
    db: &Connection,
    apply: &ApplyRequest<'_>,
    item: &ApplyItem,
    body: Digest,
    known: Option<RequestRow>,
    state: RequestState,
) -> Result<(), DbError> {
    let Some(request_id) = item.update.request_id else {
        return Ok(());
    };
    let known = match known {
        Some(row) if row.body != body => return Ok(()),
        // Of an undo the original's place stays.
        Some(row) if item.update.undoes.is_some() => Some(row),
        _ => None,
    };
    let row = RequestRow {
        request_id,
        body,
        stream: known
            .as_ref()
            .map_or_else(|| apply.stream.to_owned(), |row| row.stream.clone()),
        seq: match known {
            Some(row) => row.seq,
            None => item.update.undoes.or(Some(item.seq)),
        },
        state,
    };
    request::put(db, &row)
}

fn reject(
    db: &Connection,
    statements: &Statements,
    apply: &ApplyRequest<'_>,
    item: &ApplyItem,
    (sqlstate, message): (&str, &str),
) -> Result<(), DbError> {
    let update = &item.update;
    let new = rejected::New {
        stream: apply.stream,
        epoch: apply.epoch,
        seq: Some(item.seq),
        update,
        sqlstate,
        message,
        // A notice comes from its origin.
        told: update.notice().is_some(),
    };
    rejected::insert(db, &new)?;
    let (Some(id), None) = (&update.request_id, update.undoes) else {
        return Ok(());
    };
    // What it asked for is not known without its statement: a double is then no double either.
    let Ok(statement) = statements.find(db, update.statement, 0) else {
        return Ok(());
    };
    let body = body_digest(statement.name(), statement.params(), &update.params);
    let known = request::get(db, id)?;
    // Its copy of another stream has an effect here.
    if known.as_ref().is_some_and(|row| row.seq.is_some()) {
        return Ok(());
    }
    let state = RequestState::Refused {
        sqlstate: sqlstate.to_owned(),
        message: message.to_owned(),
    };
    record(db, apply, item, body, known, state)
}

/// Whether what looks wrong may come from another stream that has not arrived here yet.
fn behind(
    db: &Connection,
    request: &ApplyRequest<'_>,
    item: &ApplyItem,
    here: &mut Option<HashMap<RegionKey, Seq>>,
) -> Result<Option<ApplyReport>, DbError> {
    if request.ignore_dependencies {
        return Ok(None);
    }
    if here.is_none() {
        let all = ledger::watermarks(db)?.into_iter();
        *here = Some(
            all.map(|(name, position)| (RegionKey::of(&name), position.seq))
                .collect(),
        );
    }
    let map = here.as_ref();
    let needs = chain::behind(&item.update, |key| map.and_then(|m| m.get(&key).copied()));
    Ok(needs.map(|needs| ApplyReport::Behind {
        seq: item.seq,
        needs,
    }))
}
