//! Updates that wait for a lock: each on a connection of its own, as long as its caller waits.
//! What its caller has sent behind it waits too, in order; everybody else goes on.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prism_db::Database;
use prism_db::submit::{SubmitError, submit};
use prism_net::platform::{self, Instant};

use super::answer;
use super::board::Board;
use super::publish::Publisher;
use super::queue::{Chain, IntakeQueue, Item};
use super::spool::Spool;
use super::start::StartError;
use super::submit::record;
use crate::intake::{Answer, Failure};

/// Threads, and with them connections.
pub(super) const THREADS: usize = 8;
/// Callers that wait for a thread.
pub(super) const WAITING: usize = 256;
/// How long a caller waits that has set no timeout.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait of one try; the connection's own deadline is longer.
const TRY: Duration = Duration::from_secs(8);
/// Between two tries (a whole database that is held answers at once).
const PAUSE: Duration = Duration::from_millis(20);

/// Rows that somebody waits for here, and nobody has got since: the next one who wants them need not
/// find out anew, at everybody's cost, that they are locked.
#[derive(Debug, Default)]
pub(super) struct Rows(Mutex<HashSet<u64>>);

impl Rows {
    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is locked, as far as is known.
    pub(super) fn locked(&self, row: u64) -> bool {
        self.lock().contains(&row)
    }

    /// Somebody waits for it; whether that is news.
    pub(super) fn add(&self, row: u64) -> bool {
        self.lock().insert(row)
    }

    /// Somebody has got it, or has given up.
    pub(super) fn remove(&self, row: u64) {
        self.lock().remove(&row);
    }
}

/// Opens the own database with this limit on waiting for a lock.
pub(super) type Open = dyn Fn(Duration) -> Result<Box<dyn Database>, StartError> + Send + Sync;

/// See the module.
#[derive(Clone)]
pub(super) struct Slow {
    pub(super) queue: Arc<IntakeQueue>,
    pub(super) open: Arc<Open>,
    pub(super) spool: Arc<Spool>,
    pub(super) board: Arc<Board>,
    pub(super) publisher: Publisher,
    pub(super) rows: Arc<Rows>,
}

impl Slow {
    /// Does the first of the chain, and gives the rest back to the queue.
    pub(super) fn run(&self, mut chain: Chain) {
        if let Some(item) = chain.pop_front() {
            let answer = self.execute(&item);
            self.rows.remove(item.row);
            self.queue.finish(&item, &answer);
        }
        self.queue.give_back(chain);
    }

    fn execute(&self, item: &Item) -> Answer {
        let deadline = item.deadline(PATIENCE);
        let mut why = String::new();
        loop {
            let by = self.board.lock().drain_by;
            let deadline = by.map_or(deadline, |by| by.min(deadline));
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Answer::Failed(Failure::Locked(why));
            }
            let mut database = match (self.open)(left.min(TRY)) {
                Ok(database) => database,
                Err(error) => return Answer::Failed(Failure::Unavailable(error.to_string())),
            };
            let submissions = std::slice::from_ref(&item.submission);
            let before = self.publisher.before();
            let results = submit(database.as_mut(), submissions);
            let results = self.publisher.settle(before, results);
            self.board.lock().counters.submitted += results.iter().flatten().count() as u64;
            let result = record(database.as_mut(), submissions, results).pop();
            match result {
                Some(Err(SubmitError::Blocked(blocked))) => why = blocked,
                Some(Err(SubmitError::NotTried)) | None => {}
                Some(Err(error @ (SubmitError::Unavailable(_) | SubmitError::Unknown(_)))) => {
                    self.publisher.look();
                    let written = self.spool.append(&[item]).pop().unwrap_or(Ok(()));
                    return answer::spooled(written, Some(&error));
                }
                Some(result) => return answer::of(&self.board, result),
            }
            platform::sleep(PAUSE);
        }
    }
}
