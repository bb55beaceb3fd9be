//! Submissions of nodes, and of applications that write by SQL.

use std::sync::Arc;

use prism_db::{Committed, DbError, Digest, RequestRow, RequestState, Submission, Update, Value};
use prism_proto::{Seq, Tag};

use super::client::{Client, End, Kind};
use super::numbering::{self, Draft, append, check_size, log_own, new_tag, region, settle};
use super::requests;
use super::rows::Installed;
use super::store::Effect;
use super::trouble::Point;
use super::work::{Fail, Work, sql};

/// Submissions that fit their statements.
pub(super) struct Batch {
    pub submissions: Vec<Submission>,
    pub installed: Vec<Arc<Installed>>,
    pub bodies: Vec<Digest>,
    pub tags: Vec<Tag>,
    pub max_update: usize,
}

/// What the execution of one of them gave.
pub(super) struct Executed {
    pub rows: u64,
    pub old: Vec<Value>,
}

/// Whether complete parameters can be bound.
pub(super) fn fits(installed: &Installed, params: &[Value], index: usize) -> Result<(), DbError> {
    if installed.statement.params().len() != params.len() {
        let text = "another number of parameters";
        return Err(DbError::sql("42804", text, Some(index)));
    }
    if !params.iter().all(Value::is_valid) {
        let text = "a value that cannot be stored";
        return Err(DbError::sql("22021", text, Some(index)));
    }
    if !installed.statement.accepts(params) {
        let text = "parameters of other types";
        return Err(DbError::sql("42804", text, Some(index)));
    }
    Ok(())
}

impl Client {
    /// Looks the statements up.
    pub(super) fn batch(&self, submissions: &[Submission]) -> Result<Batch, DbError> {
        let mut batch = Batch {
            submissions: submissions.to_vec(),
            installed: Vec::new(),
            bodies: Vec::new(),
            tags: Vec::new(),
            max_update: self.options.max_update,
        };
        for (index, submission) in submissions.iter().enumerate() {
            let installed = self
                .installed(submission.statement)
                .ok_or_else(|| DbError::unknown_statement(submission.statement, index))?;
            fits(&installed, &submission.params, index)?;
            batch.bodies.push(installed.body(&submission.params));
            batch.installed.push(installed);
            batch.tags.push(new_tag());
        }
        Ok(batch)
    }

    pub(super) fn submit_batch(
        &mut self,
        submissions: &[Submission],
    ) -> Result<Vec<Committed>, DbError> {
        if submissions.is_empty() {
            return Ok(Vec::new());
        }
        let batch = self.batch(submissions)?;
        self.call("submit", Kind::Steps, |work| {
            batch.run(work).map(End::Commit)
        })
    }
}

impl Batch {
    /// Executes one; what fails because it is a repetition is one.
    pub fn execute(&self, work: &mut Work<'_>, index: usize) -> Result<Executed, Fail> {
        let params = &self.submissions[index].params;
        let program = self.installed[index].program;
        let executed = work.step(Point::Statement).and_then(|()| {
            let old = program.old(work, params)?;
            let rows = program.run(work, params)?;
            Ok(Executed { rows, old })
        });
        executed.map_err(|fail| match (fail, self.on_record(work)) {
            (Fail::Db(_), Some(repeated)) => repeated,
            (fail, _) => fail.at(index),
        })
    }

    fn on_record(&self, work: &mut Work<'_>) -> Option<Fail> {
        requests::check(work, &self.submissions, &self.bodies).err()
    }

    /// Executes, numbers and records all of them.
    pub fn run(&self, work: &mut Work<'_>) -> Result<Vec<Committed>, Fail> {
        let mut drafts = Vec::with_capacity(self.submissions.len());
        for (index, submission) in self.submissions.iter().enumerate() {
            let Executed { rows, old } = self.execute(work, index)?;
            drafts.push(Draft {
                tag: self.tags[index],
                statement: submission.statement,
                params: submission.params.clone(),
                old,
                rows,
                undoes: None,
                held: None,
                request_id: submission.request_id,
            });
        }
        work.step(Point::Statement)?;
        settle(work)?;
        let committed = append(work, drafts)?;
        self.record(work, &committed, &RequestState::Committed)?;
        for (index, one) in committed.iter().enumerate() {
            check_size(index, &one.update, self.max_update)?;
            log_own(work, one.seq, &one.update, Effect::Ran, one.update.rows);
        }
        Ok(committed)
    }

    /// Puts the requests on record, unless one of them is.
    pub fn record(
        &self,
        work: &mut Work<'_>,
        committed: &[Committed],
        state: &RequestState,
    ) -> Result<(), Fail> {
        let stream = region(work).name.clone();
        for (one, body) in committed.iter().zip(&self.bodies) {
            let Some(request_id) = one.update.request_id else {
                continue;
            };
            requests::lock(work, &request_id)?;
            if let Some(known) = requests::get(work, &request_id) {
                // Twice in one batch: nobody is on record once that is rolled back.
                let own = known.row.stream == stream && known.row.seq >= Some(committed[0].seq);
                return Err(if own {
                    sql("40001", "a request with the same id was in the way")
                } else {
                    work.restart();
                    self.on_record(work)
                        .unwrap_or_else(|| sql("40001", "a request was in the way"))
                });
            }
            requests::put(
                work,
                RequestRow {
                    request_id,
                    body: *body,
                    stream: stream.clone(),
                    seq: Some(one.seq),
                    state: state.clone(),
                },
            );
        }
        Ok(())
    }

    /// An application's own transaction: it has written itself, and calls `prism.submit` for each.
    pub fn application(&self, work: &mut Work<'_>) -> Result<Vec<Committed>, Fail> {
        let mut drafts = Vec::with_capacity(self.submissions.len());
        for (index, submission) in self.submissions.iter().enumerate() {
            let Executed { old, .. } = self.execute(work, index)?;
            drafts.push(Draft {
                tag: self.tags[index],
                statement: submission.statement,
                params: submission.params.clone(),
                old,
                rows: u64::MAX,
                undoes: None,
                held: None,
                request_id: submission.request_id,
            });
        }
        // At COMMIT.
        work.step(Point::Statement)?;
        settle(work)?;
        let committed = append(work, drafts)?;
        let recorded = self.record(work, &committed, &RequestState::Committed);
        recorded.map_err(|fail| match fail {
            Fail::Db(DbError::Repeated(_)) => sql("23505", "the request was submitted before"),
            other => other,
        })?;
        for one in &committed {
            log_own(work, one.seq, &one.update, Effect::Ran, one.update.rows);
        }
        numbering::notify(work);
        Ok(committed)
    }
}

/// An update of the own stream as a transaction sees it.
pub(super) fn stored(work: &mut Work<'_>, seq: Seq) -> Option<Arc<Update>> {
    let row = work.get(&super::rows::Key::Outbox(seq))?;
    Some(Arc::clone(&row.outbox().update))
}
