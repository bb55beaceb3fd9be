//! Submitting a batch so that one bad update fails alone.

use std::collections::{HashMap, HashSet};

use prism_proto::canary;

use crate::{Committed, Database, DbError, ErrorClass, Repeat, RequestState, Submission};

/// How often a batch that met a deadlock or a serialization failure is tried again at once.
const RETRIES: u32 = 3;

/// How many statements of one batch may run into a lock. Each costs the lock timeout, for which
/// everybody behind them waits; then whoever is left is better off on a connection of its own.
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
    /// One before it is blocked, and it must not overtake that one; or so many are blocked that
    /// the rest of the batch was not tried. The same again.
    #[error("an update before this one waits for a lock; this one was not tried")]
    NotTried,
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
/// many of them are bad. Requests that are on record are answered with what became of them.
pub fn submit(db: &mut dyn Database, batch: &[Submission]) -> Vec<Answer> {
    let chains: Vec<usize> = (0..batch.len()).collect();
    submit_chains(db, batch, &chains)
}

/// The same for updates of which some must not overtake others: those with the same number in
/// `chains` (one for each of `batch`). Behind one that is [`SubmitError::Blocked`] the others of
/// its chain are [`SubmitError::NotTried`].
pub fn submit_chains(db: &mut dyn Database, batch: &[Submission], chains: &[usize]) -> Vec<Answer> {
    parts(db, batch, chains, false)
}

/// The same for one chain of updates that wait, of which each has to be dealt with before the next one
/// is executed, also one that is refused: behind the first that is neither committed nor
/// [`SubmitError::Repeated`] all are [`SubmitError::NotTried`]. Otherwise a refusal that gets lost
/// before it is on record, and is none when the update is tried again, would let it run behind them.
pub fn submit_in_turn(db: &mut dyn Database, batch: &[Submission]) -> Vec<Answer> {
    parts(db, batch, &vec![0; batch.len()], true)
}

fn parts(
    db: &mut dyn Database,
    batch: &[Submission],
    chains: &[usize],
    in_turn: bool,
) -> Vec<Answer> {
    // Every update needs an id, by which it is found again after an ambiguous COMMIT.
    let batch: Vec<_> = batch.iter().cloned().map(identified).collect();
    let mut run = Run {
        db,
        answers: Vec::with_capacity(batch.len()),
        patience: PATIENCE,
        in_turn,
        blocked: HashSet::new(),
        away: None,
    };
    let mut chains = chains;
    for part in distinct(&batch) {
        let (these, later) = chains.split_at(part.len().min(chains.len()));
        run.all(part, these);
        chains = later;
    }
    run.answers
}

/// What became of one submission.
type Answer = Result<Committed, SubmitError>;

fn identified(mut submission: Submission) -> Submission {
    if submission.request_id.is_none() {
        submission.request_id = Some(crate::new_request_id());
    }
    submission
}

/// Runs of the batch in which no id comes twice: the second one finds the first on record.
fn distinct(batch: &[Submission]) -> Vec<&[Submission]> {
    let mut parts = Vec::new();
    let mut ids = HashSet::with_capacity(batch.len());
    let mut start = 0;
    for (index, submission) in batch.iter().enumerate() {
        if !ids.insert(submission.request_id) {
            parts.push(&batch[start..index]);
            start = index;
            ids.clear();
            ids.insert(submission.request_id);
        }
    }
    parts.push(&batch[start..]);
    parts
}

struct Run<'a> {
    db: &'a mut dyn Database,
    answers: Vec<Answer>,
    patience: u32,
    /// Behind one that is not taken nothing of its chain is tried, for whatever reason.
    in_turn: bool,
    /// Chains of which one is blocked, or not tried.
    blocked: HashSet<usize>,
    /// One was not written because the database is away, or nobody knows: then none behind it is,
    /// even if the database is back. It is run later, and they must not overtake it.
    away: Option<SubmitError>,
}

/// What a failure leaves to be tried.
enum Next {
    /// Nothing that one update could do something about: everybody is answered alike.
    Nothing,
    /// This one alone is at fault.
    Without(usize),
    /// The same for one that waits: each costs the time for which it may.
    Blocked(usize),
    /// It and what stands behind it cannot be written now.
    Before(usize),
    /// One of them is at fault, or all together are too slow.
    Half,
}

impl Run<'_> {
    /// Answers the whole of `batch`.
    fn all(&mut self, batch: &[Submission], chains: &[usize]) {
        let (mut batch, mut chains) = (batch, chains);
        while !batch.is_empty() {
            if let Some(away) = &self.away {
                let answers = std::iter::repeat_n(Err(away.clone()), batch.len());
                return self.answers.extend(answers);
            }
            let before = self.answers.len();
            self.step(batch, chains);
            // At least one: `step` ends with an answer or with a shorter batch.
            let done = (self.answers.len() - before).min(batch.len());
            (batch, chains) = (&batch[done..], &chains[done.min(chains.len())..]);
        }
    }

    /// Tries the whole of `batch`; on failure answers as much of it as can be judged.
    fn step(&mut self, batch: &[Submission], chains: &[usize]) {
        let behind = |(index, chain)| {
            let behind = self.blocked.contains(chain);
            behind.then_some((index, Err(SubmitError::NotTried)))
        };
        let behind: HashMap<usize, Answer> = chains.iter().enumerate().filter_map(behind).collect();
        if !behind.is_empty() {
            return self.all_but(batch, chains, behind);
        }
        let error = match attempt(self.db, batch) {
            Ok(committed) => return self.answers.extend(committed.into_iter().map(Ok)),
            Err(DbError::Repeated(known)) if !known.is_empty() => {
                let reused = known.iter().find(|k| k.body != k.row.body).cloned();
                if let Some(reused) = reused.filter(|_| self.in_turn) {
                    let index = reused.index.min(batch.len() - 1);
                    self.all(&batch[..index], &chains[..index]);
                    return self.judged(chains[index], on_record(reused));
                }
                let known = known.into_iter().map(|k| (k.index, Err(on_record(k))));
                return self.all_but(batch, chains, known.collect());
            }
            Err(error) => error,
        };
        match self.next(&error, batch.len()) {
            Next::Nothing => match judge(&error) {
                blocked @ SubmitError::Blocked(_) => {
                    self.answer(&chains[..1], &blocked);
                    self.answer(&chains[1..], &SubmitError::NotTried);
                }
                all => self.answer(chains, &all),
            },
            Next::Without(index) => {
                // What stands before it ran without an error: commit that first, for the order.
                self.all(&batch[..index], &chains[..index]);
                self.judged(chains[index], judge(&error));
            }
            Next::Blocked(index) => {
                self.all(&batch[..index], &chains[..index]);
                self.judged(chains[index], judge(&error));
                self.patience = self.patience.saturating_sub(1);
                if self.patience == 0 && self.away.is_none() {
                    self.answer(&chains[index + 1..], &SubmitError::NotTried);
                }
            }
            Next::Before(index) => {
                self.all(&batch[..index], &chains[..index]);
                self.answer(&chains[index..], &judge(&error));
            }
            Next::Half => {
                let half = batch.len() / 2;
                self.all(&batch[..half], &chains[..half]);
            }
        }
    }

    fn next(&mut self, error: &DbError, len: usize) -> Next {
        match error {
            DbError::TooLarge { index, .. } if *index < len => Next::Without(*index),
            DbError::Sql {
                index: Some(index),
                class,
                sqlstate,
                ..
            } if *index < len => match class {
                _ if is_away(sqlstate) => Next::Before(*index),
                ErrorClass::Refused | ErrorClass::Operator => Next::Without(*index),
                ErrorClass::Transient => Next::Blocked(*index),
                ErrorClass::Unreachable => Next::Nothing,
            },
            // A deferred constraint speaks up at COMMIT and names nobody: halve the batch.
            DbError::Sql {
                index: None,
                class: ErrorClass::Refused,
                ..
            } if len > 1 => Next::Half,
            // It took too long as a whole. Under load every next batch is as large as this one, so
            // that none of them would ever be committed.
            DbError::Sql {
                index: None,
                sqlstate,
                ..
            } if sqlstate == "57014" && len > 1 && self.patience > 1 => {
                self.patience -= 1;
                Next::Half
            }
            _ => Next::Nothing,
        }
    }

    /// The verdict on one that ran behind others, which were to be committed meanwhile. If they
    /// were not, it says nothing: it may have come from what they had written.
    fn judged(&mut self, chain: usize, verdict: SubmitError) {
        let verdict = match &self.away {
            Some(away) => away.clone(),
            None if self.blocked.contains(&chain) => SubmitError::NotTried,
            None => verdict,
        };
        self.answer(&[chain], &verdict);
    }

    /// The same for one of each of these chains.
    fn answer(&mut self, chains: &[usize], error: &SubmitError) {
        match error {
            SubmitError::Blocked(_) | SubmitError::NotTried => self.blocked.extend(chains),
            SubmitError::Unavailable(_) | SubmitError::Unknown(_) if !chains.is_empty() => {
                self.away.get_or_insert_with(|| error.clone());
            }
            SubmitError::Repeated(_) => {}
            _ if self.in_turn => self.blocked.extend(chains),
            _ => {}
        }
        let answers = std::iter::repeat_n(Err(error.clone()), chains.len());
        self.answers.extend(answers);
    }

    /// Answers those of which the answer is known, and tries the others.
    fn all_but(
        &mut self,
        batch: &[Submission],
        chains: &[usize],
        mut known: HashMap<usize, Answer>,
    ) {
        let rest: Vec<usize> = (0..batch.len())
            .filter(|index| !known.contains_key(index))
            .collect();
        let mut run = Run {
            db: &mut *self.db,
            answers: Vec::with_capacity(rest.len()),
            patience: self.patience,
            in_turn: self.in_turn,
            blocked: std::mem::take(&mut self.blocked),
            away: self.away.take(),
        };
        let others: Vec<_> = rest.iter().map(|&index| batch[index].clone()).collect();
        let their_chains: Vec<_> = rest.iter().map(|&index| chains[index]).collect();
        run.all(&others, &their_chains);
        (self.patience, self.blocked, self.away) = (run.patience, run.blocked, run.away);
        let mut others = run.answers.into_iter();
        for index in 0..batch.len() {
            match known.remove(&index) {
                Some(answer) => self.answers.push(answer),
                None => self.answers.extend(others.next()),
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
            Err(DbError::Ambiguous(why)) if canary!(AmbiguousIsFailure) => {
                return Err(DbError::Unreachable(why));
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
    let mut on_record = false;
    for submission in batch {
        let id = submission.request_id.unwrap_or_default();
        // First the outbox: what it says is final.
        let known = db
            .outbox_find(&id)
            .and_then(|found| Ok((found, db.request(&id)?)));
        match known {
            Ok((Some(committed), row)) => {
                on_record |= row.is_some_and(|row| matches!(row.state, RequestState::Undone(_)));
                found.push(committed);
            }
            // (Many came after it, or all have it and it was trimmed.)
            Ok((None, Some(_))) => on_record = true,
            Ok((None, None)) => {
                return Err(DbError::Unreachable(format!(
                    "{why}; it was not committed, nothing was written"
                )));
            }
            Err(error) => {
                return Err(DbError::Ambiguous(format!("{why}; then: {error}")));
            }
        }
    }
    if on_record {
        // All of them are, and each is told what has become of it.
        return db.submit(batch).map_err(|error| match error {
            DbError::Repeated(_) => error,
            // (They are committed, whatever hinders the look at them.)
            other => DbError::Ambiguous(format!("{why}; then: {other}")),
        });
    }
    Ok(found)
}

/// Read-only, out of some resource, or its disk fails: nothing can be written, whatever it is.
fn is_away(sqlstate: &str) -> bool {
    sqlstate == "25006" || matches!(sqlstate.get(..2), Some("53" | "58"))
}

fn on_record(known: Repeat) -> SubmitError {
    if known.body == known.row.body {
        SubmitError::Repeated(known.row)
    } else {
        SubmitError::Reused
    }
}

impl From<DbError> for SubmitError {
    /// What a failure of one submission alone means for it.
    fn from(error: DbError) -> Self {
        match error {
            DbError::Repeated(mut known) if known.len() == 1 => match known.pop() {
                Some(known) => on_record(known),
                None => Self::NotTried,
            },
            error => judge(&error),
        }
    }
}

fn judge(error: &DbError) -> SubmitError {
    match error {
        DbError::TooLarge { size, limit, .. } => SubmitError::TooLarge {
            size: *size,
            limit: *limit,
        },
        DbError::Sql { sqlstate, .. } if is_away(sqlstate) => {
            SubmitError::Unavailable(error.to_string())
        }
        DbError::Sql {
            class,
            sqlstate,
            message,
            ..
        } => match class {
            ErrorClass::Refused => SubmitError::Refused {
                sqlstate: sqlstate.clone(),
                message: message.clone(),
            },
            ErrorClass::Transient => SubmitError::Blocked(error.to_string()),
            ErrorClass::Unreachable => SubmitError::Unavailable(error.to_string()),
            ErrorClass::Operator => SubmitError::NotReady(error.to_string()),
        },
        DbError::Unreachable(_) => SubmitError::Unavailable(error.to_string()),
        DbError::Schema(_) | DbError::Fork(_) | DbError::Repeated(_) => {
            SubmitError::NotReady(error.to_string())
        }
        DbError::Ambiguous(_) => SubmitError::Unknown(error.to_string()),
    }
}
