//! Submitting a batch so that one bad update fails alone.

use crate::{Committed, Database, DbError, ErrorClass, Submission};

/// How often a batch that met a deadlock or a serialization failure is tried again at once.
const RETRIES: u32 = 3;

/// How many statements of one batch may run into a lock (or another passing trouble). Each costs
/// the lock timeout, for which everybody behind them waits.
const PATIENCE: u32 = 3;

/// Why one update was not taken. Nothing of it was written, unless it is `Unknown`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The data are refused for good.
    #[error("the database refused the update: {message} (SQLSTATE {sqlstate})")]
    Refused {
        /// Five characters.
        sqlstate: String,
        /// The server's words.
        message: String,
    },
    /// The encoded update exceeds `max_update`.
    #[error("the update is {size} bytes long, the limit (max_update) is {limit}")]
    TooLarge {
        /// Its encoded size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The database is away, read-only or full: the same again later may succeed. Nothing was
    /// written.
    #[error("the database cannot be written now: {0}")]
    Unavailable(String),
    /// A lock (or, on SQLite, a held update) did not come free in time; the database is all right.
    /// To be tried again on a connection of its own, with more patience.
    #[error("the update waits for a lock: {0}")]
    Blocked(String),
    /// The request id is on record with the same content: this is what became of it.
    #[error("the request has been submitted before")]
    Repeated(crate::RequestRow),
    /// The request id is on record with another content.
    #[error("this request_id was used before for an update with another content")]
    Reused,
    /// An operator has to act: a missing table, grant or migration.
    #[error("the database is not ready: {0}")]
    NotReady(String),
    /// The connection broke during COMMIT, and the database cannot be asked what became of it.
    /// Ask again by the request id before the update is sent once more.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
}

/// Submits a batch. One answer per submission, in order; those that are committed have ascending
/// seqs in the order of the batch.
///
/// A statement that fails, or waits too long for a lock, is left out: what stands before it is
/// committed, and it goes on behind it. So each update is executed at most about twice, however
/// many of them are bad.
pub fn submit(db: &mut dyn Database, batch: &[Submission]) -> Vec<Result<Committed, SubmitError>> {
    // Every update needs an id, by which it is found again after an ambiguous COMMIT.
    let batch: Vec<_> = batch.iter().cloned().map(identified).collect();
    let mut run = Run {
        db,
        answers: Vec::with_capacity(batch.len()),
        patience: PATIENCE,
    };
    run.all(&batch);
    run.answers
}

fn identified(mut submission: Submission) -> Submission {
    if submission.request_id.is_none() {
        submission.request_id = Some(uuid::Uuid::new_v4().into_bytes());
    }
    submission
}

struct Run<'a> {
    db: &'a mut dyn Database,
    answers: Vec<Result<Committed, SubmitError>>,
    patience: u32,
}

impl Run<'_> {
    /// Answers the whole of `batch`.
    fn all(&mut self, batch: &[Submission]) {
        let mut rest = batch;
        while !rest.is_empty() {
            let before = self.answers.len();
            self.step(rest);
            // At least one: `step` ends with an answer or with a shorter batch.
            let done = self.answers.len() - before;
            rest = &rest[done.min(rest.len())..];
        }
    }

    /// Tries the whole of `batch`; on failure answers as much of it as can be judged.
    fn step(&mut self, batch: &[Submission]) {
        let error = match attempt(self.db, batch) {
            Ok(committed) => return self.answers.extend(committed.into_iter().map(Ok)),
            Err(error) => error,
        };
        let transient = matches!(
            &error,
            DbError::Sql {
                class: ErrorClass::Transient,
                ..
            }
        );
        let offender = match &error {
            DbError::Sql {
                index: Some(index),
                class: ErrorClass::Refused | ErrorClass::Transient | ErrorClass::Operator,
                ..
            }
            | DbError::TooLarge { index, .. } => Some(*index).filter(|&i| i < batch.len()),
            // A deferred constraint speaks up at COMMIT and names nobody: halve the batch.
            DbError::Sql {
                index: None,
                class: ErrorClass::Refused,
                ..
            } if batch.len() > 1 => return self.all(&batch[..batch.len() / 2]),
            // It took too long as a whole. Under load every next batch is as large as this one, so
            // that none of them would ever be committed.
            DbError::Sql {
                index: None,
                sqlstate,
                ..
            } if sqlstate == "57014" && batch.len() > 1 && self.patience > 1 => {
                self.patience -= 1;
                return self.all(&batch[..batch.len() / 2]);
            }
            _ => None,
        };
        let Some(index) = offender else {
            // Nothing that one update could do something about.
            let answers = batch.iter().map(|_| Err(judge(&error)));
            return self.answers.extend(answers);
        };
        // What stands before it ran without an error: commit that first, for the order.
        self.all(&batch[..index]);
        self.answers.push(Err(judge(&error)));
        if transient {
            self.patience = self.patience.saturating_sub(1);
            if self.patience == 0 {
                let answers = batch[index + 1..].iter().map(|_| Err(judge(&error)));
                self.answers.extend(answers);
            }
        }
    }
}

/// One transaction, again after a deadlock, and looked for after an ambiguous COMMIT.
fn attempt(db: &mut dyn Database, batch: &[Submission]) -> Result<Vec<Committed>, DbError> {
    let mut tries = 0;
    loop {
        match db.submit(batch) {
            Err(DbError::Sql { ref sqlstate, .. })
                if tries < RETRIES && matches!(sqlstate.as_str(), "40001" | "40P01") =>
            {
                tries += 1;
            }
            Err(DbError::Ambiguous(why)) => return settle(db, batch, why),
            result => return result,
        }
    }
}

/// All or none of the batch was committed: the first one's fate is everybody's.
fn settle(
    db: &mut dyn Database,
    batch: &[Submission],
    why: String,
) -> Result<Vec<Committed>, DbError> {
    tracing::warn!(updates = batch.len(), %why, "ambiguous commit: looking for it in the outbox");
    let mut found = Vec::with_capacity(batch.len());
    for submission in batch {
        let id = submission.request_id.unwrap_or_default();
        match db.outbox_find(&id) {
            Ok(Some(committed)) => found.push(committed),
            Ok(None) => {
                return Err(DbError::Unreachable(format!(
                    "{why}; it was not committed, nothing was written"
                )));
            }
            Err(error) => {
                return Err(DbError::Ambiguous(format!("{why}; then: {error}")));
            }
        }
    }
    Ok(found)
}

fn judge(error: &DbError) -> SubmitError {
    match error {
        DbError::TooLarge { size, limit, .. } => SubmitError::TooLarge {
            size: *size,
            limit: *limit,
        },
        DbError::Sql {
            class: ErrorClass::Refused,
            sqlstate,
            message,
            ..
        } => SubmitError::Refused {
            sqlstate: sqlstate.clone(),
            message: message.clone(),
        },
        DbError::Sql {
            class: ErrorClass::Transient | ErrorClass::Unreachable,
            ..
        }
        | DbError::Unreachable(_) => SubmitError::Unavailable(error.to_string()),
        DbError::Sql { .. } | DbError::Schema(_) | DbError::Fork(_) | DbError::Repeated(_) => {
            SubmitError::NotReady(error.to_string())
        }
        DbError::Ambiguous(_) => SubmitError::Unknown(error.to_string()),
    }
}
