//! Undoing an update of the own stream, and running a dead letter once more.

use postgres::types::ToSql;
use prism_proto::Seq;

use super::PgDatabase;
use super::fault::Fault;
use super::outbox::{self, Stored};
use super::params::Params;
use super::rejected;
use super::session::{Session, column};
use super::submit::{self, failure};
use super::transaction::transaction;
use crate::{
    Committed, DbError, ErrorClass, RejectedRow, Retried, Submission, UndoReason, Undone, Update,
    chain,
};

const UNDO: &str = "SELECT r_outcome, r_seq, r_item, r_state, r_message, r_detail
    FROM prism.undo_update($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

const NOTICE: &str = "SELECT prism.publish_notice($1, $2, $3)";

const RECORD: &str = "INSERT INTO prism.rejected
        (stream, epoch, seq, statement, update, sqlstate, message, told)
    SELECT r.name, r.epoch, $1, $2, $3, $4, $5, true FROM prism.region r";

/// Not while anything is applied: it may be the undo of the dead letter, or of its copy of another
/// stream.
const APART: &str = "SELECT FROM prism.watermark ORDER BY stream FOR NO KEY UPDATE";

const LOCK: &str = "SELECT FROM prism.rejected WHERE id = $1 AND resolution IS NULL FOR UPDATE";

const RETRY: &str = "SELECT r_item, r_state, r_message, r_detail, r_drift_rows[1]
    FROM prism.run_batch(false, ARRAY[$1::integer], ARRAY[9223372036854775807], NULL, NULL,
            $2, $3, $4, $5, $6, $7, $8)";

/// Told as well: here it is as it should be.
const RETRIED: &str = "UPDATE prism.rejected SET resolution = 'retried', told = true WHERE id = $1";

const EXECUTED: &str = "UPDATE prism.request SET state = 'c', answer = NULL
    WHERE request_id = $1 AND stream = $2 AND seq = $3 AND state = 'r'";

/// Whichever of its copies is the one on record.
const UNDONE: &str = "UPDATE prism.request SET state = 'u', answer = NULL
    WHERE request_id = $1 AND coalesce(body_digest = $2, true) AND state = 'c'";

const IS_UNDONE: &str = "SELECT state = 'u' AND coalesce(body_digest = $2, true)
    FROM prism.request WHERE request_id = $1 FOR NO KEY UPDATE";

const FORGET: &str =
    "DELETE FROM prism.request WHERE request_id = $1 AND state = 'r' AND seq IS NULL";

/// What the transaction of an undo did; the rows still name statements by number.
enum Done {
    Published(Stored),
    Refused(Stored, String, String),
    Not(String),
}

/// What an undo is asked for with.
struct Ask {
    seq: Seq,
    reason: String,
    of_held: bool,
    again: bool,
    tags: [u64; 2],
    id: i32,
    params: Params,
}

impl Ask {
    fn run(&self, session: &mut Session) -> Result<Done, Fault> {
        let (seq, tag) = (self.seq.0.cast_signed(), self.tags[0].cast_signed());
        let [text, int, float, bool, bytes, uuid, time] = self.params.columns();
        let arguments: [&(dyn ToSql + Sync); 13] = [
            &seq,
            &self.reason,
            &self.of_held,
            &self.again,
            &tag,
            &self.id,
            text,
            int,
            float,
            bool,
            bytes,
            uuid,
            time,
        ];
        let rows = session.query(UNDO, &arguments)?;
        let row = rows.first().ok_or_else(no_row)?;
        let outcome: String = column(row, 0)?;
        match failure(row, 2)? {
            Some(DbError::Sql {
                class: ErrorClass::Refused,
                sqlstate,
                message,
                ..
            }) if !self.again => {
                let tag = self.tags[1].cast_signed();
                let stored = publish_notice(session, self.seq, tag, &sqlstate, &message)?;
                Ok(Done::Refused(stored, sqlstate, message))
            }
            Some(error) => Err(error.into()),
            None if outcome == "published" => {
                Ok(Done::Published(stored(session, column(row, 1)?)?))
            }
            None => Ok(Done::Not(outcome)),
        }
    }
}

impl PgDatabase {
    /// Also the update, if it is still there.
    fn ask(&mut self, seq: Seq, reason: &UndoReason) -> Result<(Ask, Option<Update>), DbError> {
        let original = self.outbox_row(seq)?.map(|committed| committed.update);
        let mut ask = Ask {
            seq,
            reason: serde_json::to_string(reason).unwrap_or_default(),
            // Once such a one is final, its client has been told so.
            of_held: !matches!(reason, UndoReason::Refused { .. }),
            again: false,
            tags: [chain::random_u64()?, chain::random_u64()?],
            id: 0,
            params: Params::default(),
        };
        if let Some(update) = &original
            && update.undoes.is_none()
            && let Some(installed) = self.statements.get(&update.statement)
            && installed.has_undo
        {
            ask.id = -installed.id;
            ask.params.push(0, &installed.params, &update.params)?;
            ask.params.push_old(0, installed.old_columns, &update.old)?;
        }
        Ok((ask, original))
    }

    pub(super) fn undo_update(&mut self, seq: Seq, reason: &UndoReason) -> Result<Undone, DbError> {
        let (ask, original) = self.ask(seq, reason)?;
        let done = self
            .call_once(move |session, gate| transaction(session, gate, |session| ask.run(session)))
            .map_err(|error| match &original {
                Some(update) => self.name_undo(update, error),
                None => error,
            })?;
        Ok(match done {
            Done::Published(stored) => Undone::Published(self.complete(stored)?),
            Done::Refused(stored, sqlstate, message) => Undone::Refused {
                notice: self.complete(stored)?,
                sqlstate,
                message,
            },
            Done::Not(outcome) if outcome == "before" => Undone::Before,
            Done::Not(outcome) => Undone::Impossible(why_not(seq, &outcome)),
        })
    }

    fn name_undo(&self, update: &Update, error: DbError) -> DbError {
        error
            .reworded(|_, message| self.named(&update.statement, &format!("undo: {message}")))
            .of_no_update()
    }

    pub(super) fn retry_rejected(&mut self, id: i64) -> Result<Retried, DbError> {
        let found = self.call(move |session| rejected::get(session, id))?;
        let Some(row) = found.filter(|row| row.resolution.is_none()) else {
            return Ok(Retried::Unknown);
        };
        if row.update.notice().is_some() {
            return if row.stream == self.options.topology.region {
                self.retry_undo(&row)
            } else {
                let text = format!(
                    "region {} tells that it could not undo an update: retry it there, or drop it \
                     here",
                    row.stream
                );
                Err(DbError::sql("55000", text, None))
            };
        }
        match row.seq {
            Some(_) => self.retry_applied(row),
            None => self.retry_submitted(&row),
        }
    }

    /// The undo that this database had refused.
    fn retry_undo(&mut self, row: &RejectedRow) -> Result<Retried, DbError> {
        let seq = row.update.undoes.unwrap_or(Seq::ZERO);
        let reason = UndoReason::Refused {
            region: String::new(),
            sqlstate: row.sqlstate.clone(),
            message: "undone after all, by an operator".to_owned(),
        };
        let (mut ask, original) = self.ask(seq, &reason)?;
        ask.again = true;
        let id = row.id;
        let done = self
            .call_once(move |session, gate| {
                transaction(session, gate, |session| {
                    if session.query(LOCK, &[&id])?.is_empty() {
                        return Ok(None);
                    }
                    let done = ask.run(session)?;
                    if let Done::Not(outcome) = done {
                        let text = why_not(seq, &outcome);
                        return Err(DbError::sql("55000", text, None).into());
                    }
                    session.execute(RETRIED, &[&id])?;
                    Ok(Some(done))
                })
            })
            .map_err(|error| match &original {
                Some(update) => self.name_undo(update, error),
                None => error,
            })?;
        match done {
            Some(Done::Published(stored) | Done::Refused(stored, ..)) => {
                self.complete(stored).map(Retried::Submitted)
            }
            _ => Ok(Retried::Unknown),
        }
    }

    /// Of a peer's stream: as it should have run in its place.
    fn retry_applied(&mut self, row: RejectedRow) -> Result<Retried, DbError> {
        let update = &row.update;
        if self.statements.get(&update.statement).is_none() {
            self.reload_statements()?;
        }
        let installed = self
            .statements
            .get(&update.statement)
            .ok_or_else(|| DbError::unknown_statement(update.statement, 0))?;
        let mut params = Params::default();
        params.push(0, &installed.params, &update.params)?;
        let mut number = installed.id;
        if update.undoes.is_some() {
            number = -number;
            params.push_old(0, installed.old_columns, &update.old)?;
        }
        let statement = update.statement;
        let request = update.request_id.map(super::params::Uuid);
        let body = installed.body(&update.params).0.to_vec();
        self.call_once(move |session, gate| {
            transaction(session, gate, |session| {
                session.query(APART, &[])?;
                if session.query(LOCK, &[&row.id])?.is_empty() {
                    return Ok(Retried::Unknown);
                }
                if row.update.undoes.is_some() {
                    let known = session.query(IS_UNDONE, &[&request, &body])?;
                    if let Some(known) = known.first()
                        && column(known, 0)?
                    {
                        // By the undo of its copy in another stream.
                        session.execute(RETRIED, &[&row.id])?;
                        return Ok(Retried::Applied(0));
                    }
                }
                session.client.batch_execute(
                    "SET CONSTRAINTS ALL IMMEDIATE;
                     SELECT set_config('prism.applying', 'on', true)",
                )?;
                let [text, int, float, bool, bytes, uuid, time] = params.columns();
                let arguments: [&(dyn ToSql + Sync); 8] =
                    [&number, text, int, float, bool, bytes, uuid, time];
                let answer = session.query(RETRY, &arguments)?;
                let answer = answer.first().ok_or_else(no_row)?;
                if let Some(error) = failure(answer, 0)? {
                    return Err(error.into());
                }
                let rows: Option<i64> = column(answer, 4)?;
                session.execute(RETRIED, &[&row.id])?;
                match (row.update.undoes, row.seq) {
                    (Some(_), _) => session.execute(UNDONE, &[&request, &body])?,
                    (None, seq) => {
                        let seq = seq.map(|seq| seq.0.cast_signed());
                        session.execute(EXECUTED, &[&request, &row.stream, &seq])?
                    }
                };
                Ok(Retried::Applied(rows.unwrap_or_default().cast_unsigned()))
            })
        })
        .map_err(|error| {
            error
                .reworded(|_, message| self.named(&statement, message))
                .of_no_update()
        })
    }

    /// Of the own region's journal: a submit, for which its id is free again.
    fn retry_submitted(&mut self, row: &RejectedRow) -> Result<Retried, DbError> {
        let submissions = [Submission {
            statement: row.update.statement,
            params: row.update.params.clone(),
            request_id: row.update.request_id,
        }];
        let batch = self.batch(&submissions)?;
        let id = row.id;
        self.call_once(move |session, gate| {
            let result = transaction(session, gate, |session| {
                if session.query(LOCK, &[&id])?.is_empty() {
                    return Ok(None);
                }
                for request in &batch.requests {
                    session.execute(FORGET, &[request])?;
                }
                let committed = submit::execute(session, &batch)?;
                session.execute(RETRIED, &[&id])?;
                Ok(committed.into_iter().next())
            });
            batch.judge(session, result)
        })
        .map(|committed: Option<Committed>| committed.map_or(Retried::Unknown, Retried::Submitted))
        .map_err(|error| self.name_submission(&submissions, error))
    }
}

/// What `prism.undo_update` says instead of publishing, for people.
fn why_not(seq: Seq, outcome: &str) -> String {
    let seq = seq.0;
    match outcome {
        "before" => format!("update {seq} has been undone before"),
        "gone" => format!("update {seq} is not in the outbox any more"),
        "an undo" => format!("update {seq} is an undo itself"),
        "final" => format!("update {seq} has become final"),
        _ => format!("the statement of update {seq} has no undo"),
    }
}

fn no_row() -> DbError {
    DbError::sql("XX000", "a function of the schema prism gave no row", None)
}

/// An update of the own stream as this transaction sees it.
pub(super) fn stored(session: &mut Session, seq: i64) -> Result<Stored, Fault> {
    let rows = session.query(outbox::ONE, &[&seq])?;
    let row = rows.first().ok_or_else(no_row)?;
    Ok(outbox::stored(row)?)
}

/// The notice is a dead letter here as well.
fn publish_notice(
    session: &mut Session,
    seq: Seq,
    tag: i64,
    sqlstate: &str,
    message: &str,
) -> Result<Stored, Fault> {
    let draft = chain::Draft::notice(seq, sqlstate, message);
    let params = postcard::to_stdvec(&draft.params)
        .map_err(|e| DbError::sql("XX000", e.to_string(), None))?;
    let rows = session.query(NOTICE, &[&seq.0.cast_signed(), &tag, &params])?;
    let row = rows.first().ok_or_else(no_row)?;
    let number: i64 = column(row, 0)?;
    let stored = stored(session, number)?;
    session.execute(
        RECORD,
        &[
            &number,
            &draft.statement.0.as_slice(),
            &stored.update().encode(),
            &sqlstate,
            &message,
        ],
    )?;
    Ok(stored)
}
