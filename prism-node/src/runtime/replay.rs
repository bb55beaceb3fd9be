//! Runs what waits in the journal, in order, as soon as the database can be written.
//!
//! An entry is forgotten only when its outcome stands in the database: executed, on record already
//! (its request id says so), or a dead letter. One that a passing trouble or an operator's slip
//! stops is waited for, and so are those behind it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prism_db::catalogue::Catalogue;
use prism_db::submit::{SubmitError, submit_in_turn};
use prism_db::{Committed, Database, DbError};
use prism_net::platform::{self, Instant};
use prism_proto::canary;

use super::alarms::name;
use super::board::Board;
use super::entropy;
use super::entry::Entry;
use super::history::GONE_BACK;
use super::publish::Publisher;
use super::spool::Spool;

/// Most entries in one transaction.
const BATCH: usize = 512;
/// Pause after a failed try: first, longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// So long the oldest entry may be stopped by a database that answers, before it is an alarm.
const STUCK: Duration = Duration::from_secs(5);
/// The SQLSTATE of an entry of which nobody knows any more whether it was executed.
const FORGOTTEN: &str = "PR021";
/// What to do about a database that answers, and cannot be written.
const UNWRITABLE: &str = "see the database's message (a full disk? read-only?): updates go to the \
    journal until it can be written, and then run by themselves";
/// Clocks of nodes and database differ by less.
const SLACK: Duration = Duration::from_secs(600);
/// How often it looks whether it shall stop.
const TICK: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Replayer {
    pub(super) spool: Arc<Spool>,
    pub(super) database: Box<dyn Database>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) publisher: Publisher,
    pub(super) board: Arc<Board>,
    pub(super) stop: Arc<AtomicBool>,
    /// Requests are remembered for so long.
    pub(super) keep: Duration,
}

/// How far one step came.
struct Step {
    /// Number of the last entry that is done, and the entries up to it.
    done: Option<u64>,
    entries: Vec<Entry>,
    /// What stops the next one.
    stopped: Option<Stop>,
}

enum Stop {
    /// The database cannot be written. If it is away the alarm `database` says so already.
    Away(String),
    /// It answers, but the entry cannot be done yet.
    Entry(String, &'static str),
}

impl Replayer {
    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        let mut pause = PAUSE.0;
        let mut since: Option<Instant> = None;
        while !self.stop.load(Ordering::Relaxed) {
            if !self.spool.wait(TICK) {
                continue;
            }
            let step = self.step();
            if let Some(upto) = step.done {
                // An error is an alarm already. What is handed out again is found on record.
                let trimmed = self.spool.done(upto, &step.entries);
                if trimmed.is_err() {
                    self.nap(PAUSE.1);
                }
            }
            match step.stopped {
                None => {
                    (pause, since) = (PAUSE.0, None);
                    self.board.lock().alarms.clear(name::JOURNAL_STUCK, "");
                }
                Some(stop) => {
                    if step.done.is_some() {
                        (pause, since) = (PAUSE.0, None);
                    }
                    match stop {
                        Stop::Away(_) if self.board.lock().unready.is_some() => since = None,
                        Stop::Away(why) => self.stuck(&mut since, why, UNWRITABLE),
                        Stop::Entry(why, remedy) => self.stuck(&mut since, why, remedy),
                    }
                    self.publisher.look();
                    self.nap(pause);
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// The database answers, and the journal does not empty.
    fn stuck(&self, since: &mut Option<Instant>, why: String, remedy: &str) {
        if since.get_or_insert_with(Instant::now).elapsed() >= STUCK {
            self.board.raise(name::JOURNAL_STUCK, "", why, remedy);
        }
    }

    fn nap(&self, length: Duration) {
        let end = Instant::now() + length;
        while !self.stop.load(Ordering::Relaxed) && Instant::now() < end {
            platform::sleep(TICK.min(length));
        }
    }

    fn step(&mut self) -> Step {
        let mut step = Step {
            done: None,
            entries: Vec::new(),
            stopped: None,
        };
        let oldest = match self.spool.oldest(BATCH) {
            Ok(oldest) => oldest,
            Err(error) => {
                let remedy = "check the disk, then restart this node";
                self.board
                    .raise(name::JOURNAL_DAMAGED, "read", error.to_string(), remedy);
                step.stopped = Some(Stop::Entry(error.to_string(), remedy));
                return step;
            }
        };
        // It may be another server than the one that went away, and what runs in a database that has
        // gone back is not done.
        match self.publisher.trusts(self.database.as_mut()) {
            Ok(true) => {}
            Ok(false) => {
                step.stopped = Some(Stop::Away(GONE_BACK.to_owned()));
                return step;
            }
            Err(error) => {
                step.stopped = Some(Stop::Away(error.to_string()));
                return step;
            }
        }
        let (numbers, batch, unreadable) = readable(oldest);
        if batch.is_empty() {
            step.stopped = unreadable.map(|number| {
                Stop::Entry(
                    format!("entry {number} of the journal is of a version not known here"),
                    "start the newer version of Prism again that has written it",
                )
            });
            return step;
        }
        match self.forgotten(&batch[0]) {
            Ok(None) => {}
            Ok(Some(why)) => {
                match self.bury(&batch[0], FORGOTTEN, &why, false) {
                    Ok(()) => {
                        step.done = Some(numbers[0]);
                        step.entries.extend(batch.into_iter().next());
                    }
                    Err(stop) => step.stopped = Some(stop),
                }
                return step;
            }
            Err(stop) => {
                step.stopped = Some(stop);
                return step;
            }
        }
        if canary!(ForgottenBeforeRun)
            && let Some(last) = numbers.last()
        {
            let _ = self.spool.done(*last, &batch);
        }
        let submissions: Vec<_> = batch.iter().map(Entry::submission).collect();
        let before = self.publisher.before();
        let results = submit_in_turn(self.database.as_mut(), &submissions);
        let results = self.publisher.settle(before, results);
        self.board.lock().counters.submitted += results.iter().flatten().count() as u64;
        for ((number, entry), result) in numbers.into_iter().zip(batch).zip(results) {
            if result == Err(SubmitError::NotTried) && step.done.is_some() {
                // The one before it is dealt with now.
                break;
            }
            if let Err(stop) = self.settle(&entry, result) {
                step.stopped = Some(stop);
                break;
            }
            step.done = Some(number);
            step.entries.push(entry);
        }
        step
    }

    /// Why nobody can tell any more whether the oldest entry, which is this one, was executed: it is
    /// older than what is remembered of requests. (Its answer got lost, or its caller went to
    /// another node, and then this node was away for long.)
    fn forgotten(&mut self, oldest: &Entry) -> Result<Option<String>, Stop> {
        let away = |error: DbError| Stop::Away(error.to_string());
        let Some(age) = self.spool.age().filter(|age| *age + SLACK >= self.keep) else {
            return Ok(None);
        };
        if self.database.requests_reach(age + SLACK).map_err(away)?
            || self
                .database
                .request(&oldest.request_id)
                .map_err(away)?
                .is_some()
        {
            return Ok(None);
        }
        Ok(Some(format!(
            "it waited in the journal for longer ({} s) than requests are remembered (retention): \
             it may have been executed before, if its caller submitted it elsewhere or its answer \
             got lost. Look at the rows, then retry or drop it",
            age.as_secs()
        )))
    }

    /// Whether this entry is done for good.
    fn settle(
        &mut self,
        entry: &Entry,
        result: Result<Committed, SubmitError>,
    ) -> Result<(), Stop> {
        match result {
            Ok(_) | Err(SubmitError::Repeated(_)) => Ok(()),
            Err(SubmitError::Refused { sqlstate, message }) => {
                self.bury(entry, &sqlstate, &message, false)
            }
            Err(error @ SubmitError::TooLarge { .. }) => {
                self.bury(entry, "54000", &error.to_string(), false)
            }
            // Its id was used for another update meanwhile (at a sibling, say): that one stands on
            // record under the id, so this one needs another.
            Err(error @ SubmitError::Reused) => self.bury(entry, "23505", &error.to_string(), true),
            Err(SubmitError::NotReady(why)) => {
                if self.catalogue.by_digest(&entry.statement).is_none() {
                    let why = format!(
                        "its version of statement {:?} is no longer in the catalogue: {why}",
                        entry.name
                    );
                    return self.bury(entry, DbError::UNKNOWN_STATEMENT, &why, false);
                }
                Err(Stop::Entry(
                    format!("the journal's oldest update ({}) waits: {why}", entry.name),
                    "create what is missing (prism migrate, tables, grants); it goes on by itself",
                ))
            }
            Err(SubmitError::Blocked(why)) => Err(Stop::Entry(
                format!("the journal's oldest update ({}) waits: {why}", entry.name),
                "end the transaction that holds the lock; it goes on by itself",
            )),
            Err(SubmitError::Unavailable(why) | SubmitError::Unknown(why)) => Err(Stop::Away(why)),
            Err(error @ SubmitError::NotTried) => Err(Stop::Away(error.to_string())),
        }
    }

    /// Its caller was told that it would run, and it never will: somebody has to know.
    fn bury(
        &mut self,
        entry: &Entry,
        sqlstate: &str,
        message: &str,
        new_id: bool,
    ) -> Result<(), Stop> {
        let mut submission = entry.submission();
        if new_id {
            submission.request_id = Some(entropy::request_id());
        }
        let recorded = self
            .database
            .request_refused(&submission, sqlstate, message, true);
        if let Err(error) = recorded {
            return Err(match error {
                DbError::Unreachable(why) | DbError::Ambiguous(why) => Stop::Away(why),
                error => Stop::Entry(
                    format!("a refused update of the journal cannot be recorded: {error}"),
                    "see the database's message (prism migrate?); it goes on by itself",
                ),
            });
        }
        tracing::warn!(
            statement = entry.name,
            request_id = %uuid::Uuid::from_bytes(entry.request_id),
            sqlstate,
            "an update that was spooled has been refused: it is a dead letter now: {message}"
        );
        self.board.lock().counters.refused += 1;
        // The outbox worker counts the dead letters and raises the alarm `rejected`.
        self.publisher.look();
        Ok(())
    }
}

/// The entries from the front that can be put into one call: no id twice, all understood. And the
/// first that is not understood.
fn readable(oldest: Vec<(u64, Option<Entry>)>) -> (Vec<u64>, Vec<Entry>, Option<u64>) {
    let mut ids = HashSet::new();
    let (mut numbers, mut entries) = (Vec::new(), Vec::new());
    for (number, entry) in oldest {
        let Some(entry) = entry else {
            return (numbers, entries, Some(number));
        };
        if !ids.insert(entry.request_id) {
            break;
        }
        numbers.push(number);
        entries.push(entry);
    }
    (numbers, entries, None)
}
