//! Submit: BEGIN, one call of `prism.submit_batch`, COMMIT.
//!
//! Unlike an apply, a submit must not happen twice, so the COMMIT is a step of its own.

use std::sync::Arc;

use postgres::error::SqlState;
use postgres::types::ToSql;
use prism_proto::{RegionKey, Seq, Tag};

use super::apply::from_one;
use super::fault::{self, Fault};
use super::params::{Params, Uuid};
use super::requests::{self, ON_RECORD};
use super::session::{Session, Statements, column};
use super::transaction::transaction;
use super::{PgDatabase, old, unsigned};
use crate::{Committed, DbError, Hlc, MAX_UPDATE, Submission, Update, chain};

const SUBMIT: &str = "SELECT r_item, r_state, r_message, r_detail, r_first, r_prev_tag, r_hlc,
        r_rows, r_old, r_seen
    FROM prism.submit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

/// Submissions, ready to be sent.
#[derive(Debug)]
pub(super) struct Batch {
    pub submissions: Vec<Submission>,
    pub statements: Arc<Statements>,
    pub ids: Vec<i32>,
    pub tags: Vec<i64>,
    pub encoded: Vec<Vec<u8>>,
    pub requests: Vec<Option<Uuid>>,
    pub bodies: Vec<Vec<u8>>,
    pub old_columns: Vec<usize>,
    pub params: Params,
    max_update: usize,
}

impl PgDatabase {
    pub(super) fn submit_batch(
        &mut self,
        submissions: &[Submission],
    ) -> Result<Vec<Committed>, DbError> {
        if submissions.is_empty() {
            return Ok(Vec::new());
        }
        let batch = self.batch(submissions)?;
        self.call_once(move |session, gate| {
            let result = transaction(session, gate, |session| execute(session, &batch));
            batch.judge(session, result)
        })
        .map_err(|error| self.name_submission(submissions, error))
    }

    /// Checks and encodes.
    pub(super) fn batch(&mut self, submissions: &[Submission]) -> Result<Batch, DbError> {
        self.connected()?;
        let known = |db: &Self, s: &Submission| db.statements.get(&s.statement).is_some();
        if !submissions.iter().all(|s| known(self, s)) {
            self.reload_statements()?;
        }
        let mut batch = Batch {
            submissions: submissions.to_vec(),
            statements: Arc::clone(&self.statements),
            ids: Vec::new(),
            tags: Vec::new(),
            encoded: Vec::new(),
            requests: Vec::new(),
            bodies: Vec::new(),
            old_columns: Vec::new(),
            params: Params::default(),
            max_update: self.options.max_update.min(MAX_UPDATE - chain::UNDO_ROOM),
        };
        for (index, submission) in submissions.iter().enumerate() {
            let installed = self
                .statements
                .get(&submission.statement)
                .ok_or_else(|| DbError::unknown_statement(submission.statement, index))?;
            batch.ids.push(installed.id);
            batch.tags.push(chain::random_u64()?.cast_signed());
            batch.encoded.push(encode(submission)?);
            batch.requests.push(submission.request_id.map(Uuid));
            let body = installed.body(&submission.params);
            batch.bodies.push(body.0.to_vec());
            batch.old_columns.push(installed.old_columns);
            batch
                .params
                .push(index, &installed.params, &submission.params)?;
        }
        Ok(batch)
    }

    /// The error with the name of its statement.
    pub(super) fn name_submission(&self, submissions: &[Submission], error: DbError) -> DbError {
        match error {
            DbError::Sql {
                class,
                sqlstate,
                message,
                index,
            } => DbError::Sql {
                class,
                message: match index.and_then(|i| submissions.get(i)) {
                    Some(submission) => self.named(&submission.statement, &message),
                    None => message,
                },
                sqlstate,
                index,
            },
            other => other,
        }
    }
}

impl Batch {
    /// # Errors
    /// `TooLarge`: peers would not take it, or not its undo.
    pub fn check_size(&self, index: usize, update: &Update) -> Result<(), DbError> {
        let (size, limit) = (update.encode().len(), self.max_update);
        if size > limit {
            return Err(DbError::TooLarge { index, size, limit });
        }
        Ok(())
    }

    /// After the transaction: a repetition is looked up.
    ///
    /// # Errors
    /// Those of `result`; `Repeated`.
    pub fn judge<T>(&self, session: &mut Session, result: Result<T, Fault>) -> Result<T, Fault> {
        match result {
            Err(Fault::Db(DbError::Sql { sqlstate, .. })) if sqlstate == ON_RECORD => Err(
                requests::repeated(session, &self.statements, &self.submissions),
            ),
            other => other,
        }
    }
}

/// A request id met itself in the index.
pub(super) fn on_record(error: &postgres::Error) -> bool {
    error.as_db_error().is_some_and(|e| {
        *e.code() == SqlState::UNIQUE_VIOLATION
            && e.schema() == Some("prism")
            && e.table() == Some("request")
    })
}

/// An error of a function that puts requests on record.
pub(super) fn of_requests(error: postgres::Error) -> Fault {
    if on_record(&error) {
        DbError::sql(ON_RECORD, "the request is on record", None).into()
    } else {
        error.into()
    }
}

/// The failure that four columns from `first` on tell of: item, SQLSTATE, message, detail.
pub(super) fn failure(row: &postgres::Row, first: usize) -> Result<Option<DbError>, DbError> {
    let Some(item) = column::<Option<i32>>(row, first)? else {
        return Ok(None);
    };
    let state: Option<String> = column(row, first + 1)?;
    let message: Option<String> = column(row, first + 2)?;
    let detail: Option<String> = column(row, first + 3)?;
    let message = fault::words(&message.unwrap_or_default(), detail.as_deref(), None);
    let state = state.unwrap_or_default();
    Ok(Some(DbError::sql(&state, message, Some(from_one(item)))))
}

fn encode(submission: &Submission) -> Result<Vec<u8>, DbError> {
    postcard::to_stdvec(&submission.params).map_err(|e| DbError::sql("XX000", e.to_string(), None))
}

/// Runs and numbers the batch, inside a transaction.
pub(super) fn execute(session: &mut Session, batch: &Batch) -> Result<Vec<Committed>, Fault> {
    let statement = session.prepared(SUBMIT)?;
    let [text, int, float, bool, bytes, uuid, time] = batch.params.columns();
    let params: [&(dyn ToSql + Sync); 12] = [
        &batch.ids,
        &batch.tags,
        &batch.encoded,
        &batch.requests,
        &batch.bodies,
        text,
        int,
        float,
        bool,
        bytes,
        uuid,
        time,
    ];
    let row = session
        .client
        .query_one(&statement, &params)
        .map_err(of_requests)?;
    if let Some(error) = failure(&row, 0)? {
        return Err(error.into());
    }
    let first = unsigned(&row, 4)?;
    let mut prev_tag = Tag(unsigned(&row, 5)?);
    let hlc = unsigned(&row, 6)?;
    let rows: Vec<i64> = column(&row, 7)?;
    let olds: Vec<Option<String>> = column(&row, 8)?;
    let seen = seen(&column::<Vec<i64>>(&row, 9)?);
    let mut committed = Vec::with_capacity(batch.submissions.len());
    for (index, submission) in batch.submissions.iter().enumerate() {
        let olds = olds.get(index).and_then(Option::as_deref);
        let update = Update {
            tag: Tag(batch.tags[index].cast_unsigned()),
            prev_tag,
            statement: submission.statement,
            params: submission.params.clone(),
            old: old::values(olds, batch.old_columns[index])?,
            hlc: Hlc(hlc + index as u64),
            rows: rows.get(index).copied().unwrap_or_default().cast_unsigned(),
            seen: seen.clone(),
            undoes: None,
            held: false,
            request_id: submission.request_id,
        };
        batch.check_size(index, &update)?;
        prev_tag = update.tag;
        let seq = Seq(first + index as u64);
        committed.push(Committed { seq, update });
    }
    Ok(committed)
}

/// Pairs of key and seq, as they lie in the outbox.
pub(super) fn seen(flat: &[i64]) -> Vec<(RegionKey, Seq)> {
    flat.chunks_exact(2)
        .map(|pair| {
            // Keys are hashes of 32 bits; stored as 64 because SQL has no unsigned.
            let key = u32::try_from(pair[0]).unwrap_or_default();
            (RegionKey(key), Seq(pair[1].cast_unsigned()))
        })
        .collect()
}
