//! Submit: BEGIN, one call of `prism.submit_batch`, COMMIT.
//!
//! Unlike an apply, a submit must not happen twice, so the COMMIT is a step of its own: up to it,
//! whoever gives up knows that nothing was written.

use postgres::types::ToSql;
use prism_proto::{RegionKey, Seq, Tag};

use super::apply::from_one;
use super::fault::{self, Fault};
use super::link::Gate;
use super::params::{Params, Uuid};
use super::session::{Session, column};
use super::{PgDatabase, old, unsigned};
use crate::{Committed, DbError, Hlc, Submission, Update, chain};

const SUBMIT: &str = "SELECT r_item, r_state, r_message, r_detail, r_first, r_prev_tag, r_hlc,
        r_rows, r_old, r_seen
    FROM prism.submit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

#[derive(Debug)]
struct Batch {
    submissions: Vec<Submission>,
    ids: Vec<i32>,
    tags: Vec<i64>,
    encoded: Vec<Vec<u8>>,
    requests: Vec<Option<Uuid>>,
    old_columns: Vec<usize>,
    params: Params,
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
        self.connected()?;
        let unknown = |db: &Self| {
            submissions
                .iter()
                .position(|s| db.statements.get(&s.statement).is_none())
        };
        if unknown(self).is_some() {
            self.reload_statements()?;
        }
        let mut batch = Batch {
            submissions: submissions.to_vec(),
            ids: Vec::new(),
            tags: Vec::new(),
            encoded: Vec::new(),
            requests: Vec::new(),
            old_columns: Vec::new(),
            params: Params::default(),
            max_update: self.options.max_update,
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
            batch.old_columns.push(installed.old_columns);
            batch
                .params
                .push(index, &installed.params, &submission.params)?;
        }
        self.call_once(move |session, gate| run(session, gate, &batch))
            .map_err(|error| match error {
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
            })
    }
}

fn encode(submission: &Submission) -> Result<Vec<u8>, DbError> {
    postcard::to_stdvec(&submission.params).map_err(|e| DbError::sql("XX000", e.to_string(), None))
}

fn run(session: &mut Session, gate: &Gate, batch: &Batch) -> Result<Vec<Committed>, Fault> {
    session.begin()?;
    let result = execute(session, batch);
    // Judged by the results of the statements: COMMIT of a failed transaction "succeeds" as well,
    // but a transaction whose last call gave a result has not failed.
    let committed = match result {
        Ok(committed) if gate.may_commit() => committed,
        Ok(_) => {
            let _ = session.client.batch_execute("ROLLBACK");
            return Err(DbError::Unreachable("the call was given up".to_owned()).into());
        }
        Err(fault) => {
            session
                .client
                .batch_execute("ROLLBACK")
                .map_err(|error| DbError::Unreachable(fault::plain(&error).to_string()))?;
            return Err(fault);
        }
    };
    session
        .client
        .batch_execute("COMMIT")
        .map_err(|error| fault::committing(&error))?;
    Ok(committed)
}

fn execute(session: &mut Session, batch: &Batch) -> Result<Vec<Committed>, Fault> {
    let statement = session.prepared(SUBMIT)?;
    let [text, int, float, bool, bytes, uuid, time] = batch.params.columns();
    let params: [&(dyn ToSql + Sync); 11] = [
        &batch.ids,
        &batch.tags,
        &batch.encoded,
        &batch.requests,
        text,
        int,
        float,
        bool,
        bytes,
        uuid,
        time,
    ];
    let row = session.client.query_one(&statement, &params)?;
    if let Some(item) = column::<Option<i32>>(&row, 0)? {
        let state: Option<String> = column(&row, 1)?;
        let message: Option<String> = column(&row, 2)?;
        let detail: Option<String> = column(&row, 3)?;
        let message = fault::words(&message.unwrap_or_default(), detail.as_deref(), None);
        let error = DbError::sql(&state.unwrap_or_default(), message, Some(from_one(item)));
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
        let size = update.encode().len();
        if size > batch.max_update {
            let limit = batch.max_update;
            return Err(DbError::TooLarge { index, size, limit }.into());
        }
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
