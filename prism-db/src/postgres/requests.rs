//! Rows of `prism.request`: what became of a caller's id.

use std::time::Duration;

use postgres::Row;
use prism_proto::Seq;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::params::{Uuid, values_of_text};
use super::session::{Installed, Session, Statements, column, digest};
use super::transaction::transaction;
use super::{PgDatabase, interval};
use crate::{
    ApplyRequest, DbError, Digest, Hlc, Repeat, RequestRow, RequestState, Submission, UndoReason,
    Update, body_digest, chain,
};

/// SQLSTATE by which our own functions say that a request id of the batch is on record.
pub(super) const ON_RECORD: &str = "PR003";

/// What was submitted by SQL has no digest in the table: it follows from the update.
const FIND: &str = "SELECT uuid_send(q.request_id), q.body_digest, q.stream, q.seq, q.state::text,
        q.answer, o.statement, o.params_text
    FROM prism.request q
    LEFT JOIN prism.outbox o ON q.body_digest IS NULL AND o.seq = q.seq
        AND q.stream = (SELECT name FROM prism.region)
    WHERE q.request_id = ANY ($1)";

const KNOW: &str = "UPDATE prism.request q SET body_digest = u.body
    FROM unnest($1::uuid[], $2::bytea[]) AS u (id, body)
    WHERE q.request_id = u.id AND q.body_digest IS NULL";

const REFUSED: &str = "INSERT INTO prism.request (request_id, body_digest, stream, state, answer)
    SELECT $1, $2, r.name, 'r', $3 FROM prism.region r
    ON CONFLICT DO NOTHING";

const DEAD_LETTER: &str = "INSERT INTO prism.rejected
        (stream, epoch, statement, update, sqlstate, message, told)
    SELECT r.name, r.epoch, $1, $2, $3, $4, true FROM prism.region r";

/// Not one whose fate is open or whose update may still have to be explained.
const TRIM: &str = "DELETE FROM prism.request WHERE request_id IN (
        SELECT q.request_id FROM prism.request q
        WHERE q.at < now() - $1 * interval '1 microsecond' AND q.state <> 'h'
          AND NOT EXISTS (SELECT FROM prism.region r JOIN prism.outbox o ON o.seq = q.seq
                          WHERE r.name = q.stream)
        ORDER BY q.at LIMIT $2)";

/// The first that [`TRIM`] would take.
const REACH: &str = "SELECT EXISTS (SELECT FROM prism.request q
        WHERE q.at < now() - $1 * interval '1 microsecond' AND q.state <> 'h'
          AND NOT EXISTS (SELECT FROM prism.region r JOIN prism.outbox o ON o.seq = q.seq
                          WHERE r.name = q.stream))";

/// `answer` of a request that was refused.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    sqlstate: String,
    message: String,
}

/// Its digest is `None` where only the caller can know it.
pub(super) type Recorded = (Option<Digest>, RequestRow);

impl Installed {
    pub fn body(&self, params: &[crate::Value]) -> Digest {
        body_digest(&self.name, &self.params, params)
    }
}

fn state(code: &str, answer: Option<&str>, stream: &str) -> RequestState {
    match code {
        "h" => RequestState::Held,
        "r" => {
            let refusal: Option<Refusal> = answer.and_then(|text| serde_json::from_str(text).ok());
            let Refusal { sqlstate, message } = refusal.unwrap_or(Refusal {
                sqlstate: "XX000".to_owned(),
                message: "the reason is not known any more".to_owned(),
            });
            RequestState::Refused { sqlstate, message }
        }
        "u" => RequestState::Undone(reason(answer, stream)),
        _ => RequestState::Committed,
    }
}

/// Only its origin knows why something was undone.
pub(super) fn reason(answer: Option<&str>, stream: &str) -> UndoReason {
    answer
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_else(|| chain::undone_elsewhere(stream))
}

fn recorded(row: &Row, statements: &Statements) -> Result<Recorded, DbError> {
    let id: &[u8] = column(row, 0)?;
    let stream: String = column(row, 2)?;
    let answer: Option<String> = column(row, 5)?;
    let code: String = column(row, 4)?;
    let body = match column::<Option<&[u8]>>(row, 1)? {
        Some(bytes) => Some(digest(bytes)?),
        None => {
            let statement = column::<Option<i32>>(row, 6)?.and_then(|id| statements.digest(id));
            let installed = statement.and_then(|digest| statements.get(&digest));
            let texts: Option<Vec<Option<String>>> = column(row, 7)?;
            installed.zip(texts).and_then(|(installed, texts)| {
                let values = values_of_text(&installed.params, &texts)?;
                Some(installed.body(&values))
            })
        }
    };
    let row = RequestRow {
        request_id: id
            .try_into()
            .map_err(|_| DbError::Schema("prism.request holds no uuids".to_owned()))?,
        body: body.unwrap_or_default(),
        seq: column::<Option<i64>>(row, 3)?.map(|seq| Seq(seq.cast_unsigned())),
        state: state(&code, answer.as_deref(), &stream),
        stream,
    };
    Ok((body, row))
}

/// What is on record of these ids.
pub(super) fn find(
    session: &mut Session,
    statements: &Statements,
    ids: &[Uuid],
) -> Result<Vec<Recorded>, Fault> {
    let rows = session.query(FIND, &[&ids])?;
    let read = |row| recorded(row, statements);
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}

/// The error that lists all submissions whose ids are on record.
pub(super) fn repeated(
    session: &mut Session,
    statements: &Statements,
    submissions: &[Submission],
) -> Fault {
    let ids = submissions.iter().filter_map(|s| s.request_id).map(Uuid);
    let found = match find(session, statements, &ids.collect::<Vec<_>>()) {
        Ok(found) => found,
        Err(fault) => return fault,
    };
    let mut repeats = Vec::new();
    for (index, submission) in submissions.iter().enumerate() {
        let on_record = found
            .iter()
            .find(|(_, row)| Some(row.request_id) == submission.request_id);
        if let Some((known, row)) = on_record {
            let mut row = row.clone();
            let installed = statements.get(&submission.statement);
            let body = installed.map_or(row.body, |i| i.body(&submission.params));
            if known.is_none() {
                row.body = body;
            }
            repeats.push(Repeat { index, body, row });
        }
    }
    Fault::Db(if repeats.is_empty() {
        // Undone by a rollback or forgotten by a trim in between, or twice in one batch.
        DbError::sql("40001", "a request with the same id was in the way", None)
    } else {
        DbError::Repeated(repeats)
    })
}

impl PgDatabase {
    pub(super) fn find_request(&mut self, id: [u8; 16]) -> Result<Option<RequestRow>, DbError> {
        self.connected()?;
        let statements = self.statements.clone();
        self.call(move |session| {
            let found = find(session, &statements, &[Uuid(id)])?;
            Ok(found.into_iter().next().map(|(_, row)| row))
        })
    }

    /// Whether an update that bears a request id of the application's SQL asks for the same is seen
    /// by its digest.
    pub(super) fn know_bodies(&mut self, request: &ApplyRequest<'_>) -> Result<(), DbError> {
        let ids = request.items.iter().filter_map(|i| i.update.request_id);
        let ids: Vec<_> = ids.map(Uuid).collect();
        let statements = self.statements.clone();
        self.call(move |session| {
            let found = find(session, &statements, &ids)?.into_iter();
            let (ids, bodies): (Vec<_>, Vec<_>) = found
                .filter_map(|(body, row)| Some((Uuid(row.request_id), body?.0.to_vec())))
                .unzip();
            session.execute(KNOW, &[&ids, &bodies])?;
            Ok(())
        })
    }

    pub(super) fn record_refused(
        &mut self,
        submission: &Submission,
        sqlstate: &str,
        message: &str,
        dead_letter: bool,
    ) -> Result<(), DbError> {
        self.connected()?;
        if self.statements.get(&submission.statement).is_none() {
            self.reload_statements()?;
        }
        let installed = self.statements.get(&submission.statement);
        let body = installed.map_or(Digest::default(), |i| i.body(&submission.params));
        // The server cannot store NUL.
        let message = message.replace('\0', "");
        let refusal = Refusal {
            sqlstate: sqlstate.to_owned(),
            message: message.clone(),
        };
        let answer = serde_json::to_string(&refusal).unwrap_or_default();
        let update = Update {
            tag: prism_proto::Tag(0),
            prev_tag: prism_proto::Tag(0),
            statement: submission.statement,
            params: submission.params.clone(),
            old: Vec::new(),
            hlc: Hlc(0),
            rows: u64::MAX,
            seen: Vec::new(),
            undoes: None,
            held: false,
            request_id: submission.request_id,
        };
        let (id, sqlstate) = (submission.request_id, sqlstate.to_owned());
        self.call_once(move |session, gate| {
            transaction(session, gate, |session| {
                let new = match id {
                    Some(id) => {
                        session.execute(REFUSED, &[&Uuid(id), &body.0.as_slice(), &answer])?
                    }
                    None => 1,
                };
                if new > 0 && dead_letter {
                    session.execute(
                        DEAD_LETTER,
                        &[
                            &update.statement.0.as_slice(),
                            &update.encode(),
                            &sqlstate,
                            &message,
                        ],
                    )?;
                }
                Ok(())
            })
        })
    }

    pub(super) fn oldest_request_before(&mut self, age: Duration) -> Result<bool, DbError> {
        let micros = interval(age);
        self.call(move |session| {
            let rows = session.query(REACH, &[&micros])?;
            Ok(match rows.first() {
                Some(row) => column(row, 0)?,
                None => false,
            })
        })
    }

    pub(super) fn trim_requests(
        &mut self,
        retention: Duration,
        limit: u32,
    ) -> Result<u64, DbError> {
        let micros = interval(retention);
        self.call(move |session| Ok(session.execute(TRIM, &[&micros, &i64::from(limit)])?))
    }
}
