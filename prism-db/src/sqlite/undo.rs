//! Undoing an update of the own stream.

use prism_proto::Seq;
use rusqlite::params;

use super::errors::own;
use super::outbox::{self, Own, Stored};
use super::{held, rejected, request};
use crate::chain::Draft;
use crate::{Committed, DbError, ErrorClass, RequestState, UndoReason, Undone};

/// Why the own database did not take the undo.
pub(super) struct Refusal {
    sqlstate: String,
    message: String,
}

impl Refusal {
    pub(super) fn of(error: &DbError) -> Option<Self> {
        match error {
            DbError::Sql {
                class: ErrorClass::Refused,
                sqlstate,
                message,
                ..
            } => Some(Self {
                sqlstate: sqlstate.clone(),
                message: message.clone(),
            }),
            _ => None,
        }
    }
}

/// Undoes `seq`. A refusal of the undo by this database is an error here; the caller comes again
/// with it, in another transaction, since a deferred constraint speaks up at COMMIT only.
pub(super) fn undo(
    own: &Own<'_>,
    seq: Seq,
    reason: &UndoReason,
    refused: Option<&Refusal>,
) -> Result<Undone, DbError> {
    let impossible = |why: &str| Ok(Undone::Impossible(format!("update {}: {why}", seq.0)));
    let Some(original) = outbox::get(own.db, seq)? else {
        return impossible("it is not in the outbox any more");
    };
    if original.update.undoes.is_some() {
        return impossible("an undo is never undone");
    }
    if original.undone.is_some() || is_undone(own, &original)? {
        return Ok(Undone::Before);
    }
    if original.state == "held" {
        return publish_held(own, seq, &original, reason).map(Undone::Published);
    }
    if original.update.held && !matches!(reason, UndoReason::Refused { .. }) {
        // Its client has been told that it is final; the reason has crossed with that.
        return impossible("it has become final");
    }
    // What its client was told when it became final holds: nobody waits for it any more.
    if !matches!(reason, UndoReason::Refused { .. }) {
        return impossible("it has become final");
    }
    // It runs here: not between an update that is held and its execution.
    held::wait_for_nobody(own)?;
    if let Some(refusal) = refused {
        return notice(own, seq, refusal);
    }
    let statement = own.statements.find(own.db, original.update.statement, 0)?;
    let Some(sql) = statement.undo() else {
        return impossible("its statement has no undo");
    };
    let update = &original.update;
    let rows = outbox::run(own.db, sql, &update.params, &update.old, 0)?;
    publish(own, seq, &original, rows, reason).map(Undone::Published)
}

/// A copy of it, submitted in another region, has been undone.
fn is_undone(own: &Own<'_>, original: &Stored) -> Result<bool, DbError> {
    let Some(id) = &original.update.request_id else {
        return Ok(false);
    };
    let row = request::get(own.db, id)?;
    Ok(row.is_some_and(|row| matches!(row.state, RequestState::Undone(_))))
}

/// Of a held update nothing was executed here.
pub(super) fn publish_held(
    own_stream: &Own<'_>,
    seq: Seq,
    original: &Stored,
    reason: &UndoReason,
) -> Result<Committed, DbError> {
    own_stream
        .db
        .prepare_cached("UPDATE prism_outbox SET state = 'undone' WHERE seq = ?1")
        .and_then(|mut update| update.execute([seq.0.cast_signed()]))
        .map_err(own)?;
    publish(own_stream, seq, original, u64::MAX, reason)
}

pub(super) fn publish(
    own: &Own<'_>,
    seq: Seq,
    original: &Stored,
    rows: u64,
    reason: &UndoReason,
) -> Result<Committed, DbError> {
    let committed = append(own, seq, Draft::undo(seq, &original.update, rows))?;
    if let Some(id) = &original.update.request_id {
        request::set(own.db, id, &RequestState::Undone(reason.clone()))?;
    }
    Ok(committed)
}

fn append(own_stream: &Own<'_>, seq: Seq, draft: Draft) -> Result<Committed, DbError> {
    let mut committed = outbox::append(own_stream, vec![draft], None)?;
    let committed = committed
        .pop()
        .ok_or_else(|| DbError::sql("XX000", "nothing was numbered", None))?;
    own_stream
        .db
        .prepare_cached("UPDATE prism_outbox SET undone = ?2 WHERE seq = ?1")
        .and_then(|mut update| {
            update.execute(params![seq.0.cast_signed(), committed.seq.0.cast_signed()])
        })
        .map_err(own)?;
    Ok(committed)
}

/// Nothing is undone, and everybody is told, this region too.
fn notice(own: &Own<'_>, seq: Seq, refusal: &Refusal) -> Result<Undone, DbError> {
    let draft = Draft::notice(seq, &refusal.sqlstate, &refusal.message);
    let notice = append(own, seq, draft)?;
    let region = super::ledger::region(own.db)?;
    let new = rejected::New {
        stream: &region.name,
        epoch: region.epoch,
        seq: Some(notice.seq),
        update: &notice.update,
        sqlstate: &refusal.sqlstate,
        message: &refusal.message,
        told: true,
    };
    rejected::insert(own.db, &new)?;
    Ok(Undone::Refused {
        notice,
        sqlstate: refusal.sqlstate.clone(),
        message: refusal.message.clone(),
    })
}
