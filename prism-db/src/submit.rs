//! Submitting a batch so that one bad update fails alone.

use crate::{Committed, Database, DbError, ErrorClass, Submission};

/// How often a batch that met a deadlock or a serialization failure is tried again at once.
const RETRIES: u32 = 3;

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
    /// The database is away, busy or full: the same again later may succeed.
    #[error("the database cannot be written now: {0}")]
    Unavailable(String),
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
    // Every update needs an id by which it is found again after an ambiguous COMMIT.
    let batch: Vec<_> = batch.iter().cloned().map(identified).collect();
    let mut answers = Vec::with_capacity(batch.len());
    let mut rest = &batch[..];
    while !rest.is_empty() {
        // Ends the loop or makes `rest` shorter.
        let done = step(db, rest, &mut answers);
        rest = &rest[done.min(rest.len())..];
    }
    answers
}

fn identified(mut submission: Submission) -> Submission {
    if submission.request_id.is_none() {
        submission.request_id = Some(uuid::Uuid::new_v4().into_bytes());
    }
    submission
}

type Answers = Vec<Result<Committed, SubmitError>>;

/// Tries the whole of `batch`; on failure as much of it as can be judged. Returns how many
/// answers were added, at least one.
fn step(db: &mut dyn Database, batch: &[Submission], answers: &mut Answers) -> usize {
    let error = match attempt(db, batch) {
        Ok(committed) => {
            answers.extend(committed.into_iter().map(Ok));
            return batch.len();
        }
        Err(error) => error,
    };
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
        } if batch.len() > 1 => {
            let half = batch.len() / 2;
            return recurse(db, &batch[..half], answers);
        }
        _ => None,
    };
    if let Some(index) = offender {
        // What stands before it ran without an error: commit that first, for the order.
        let before = if index > 0 {
            recurse(db, &batch[..index], answers)
        } else {
            0
        };
        answers.push(Err(judge(&error)));
        return before + 1;
    }
    // Nothing that one update could do something about.
    answers.extend(batch.iter().map(|_| Err(judge(&error))));
    batch.len()
}

/// Answers the whole of `batch`.
fn recurse(db: &mut dyn Database, batch: &[Submission], answers: &mut Answers) -> usize {
    let mut done = 0;
    while done < batch.len() {
        done += step(db, &batch[done..], answers);
    }
    done
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
        DbError::Sql { .. } | DbError::Schema(_) | DbError::Fork(_) => {
            SubmitError::NotReady(error.to_string())
        }
        DbError::Ambiguous(_) => SubmitError::Unknown(error.to_string()),
    }
}
