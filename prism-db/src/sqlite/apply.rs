//! Applying a peer's stream: everything in the transaction that moves the watermark.

use std::collections::HashMap;

use prism_proto::{RegionKey, Seq};
use rusqlite::Connection;

use super::connection::End;
use super::{Statements, ledger, outbox};
use crate::chain::{self, Plan};
use crate::{ApplyItem, ApplyReport, ApplyRequest, DbError, Drift, ItemAction};

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
                ledger::reject(db, request, item, sqlstate, message)?;
            }
            ItemAction::Run => match run(db, statements, item, index) {
                Ok(rows) if rows == item.update.rows => {}
                Ok(rows) => {
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

fn run(
    db: &Connection,
    statements: &Statements,
    item: &ApplyItem,
    index: usize,
) -> Result<u64, DbError> {
    let statement = statements.find(db, item.update.statement, index)?;
    outbox::run(db, statement.sql(), &item.update.params, index)
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
