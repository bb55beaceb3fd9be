//! The submit worker: everything that waits becomes one local transaction.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use prism_db::submit::{SubmitError, submit_chains};
use prism_db::{Committed, Database, Submission};
use prism_proto::canary;

use super::answer;
use super::board::Board;
use super::pool::Pool;
use super::publish::Publisher;
use super::queue::{Chain, IntakeQueue, Item};
use super::slow::Rows;
use super::spool::Spool;
use crate::intake::{Answer, Failure, Mode};

/// Most updates in one transaction: beyond this the cost per update falls no further, and a
/// failing one costs the whole batch a second try.
const MAX_BATCH: usize = 512;

/// See the module.
pub(super) struct SubmitWorker {
    pub(super) queue: Arc<IntakeQueue>,
    pub(super) database: Box<dyn Database>,
    pub(super) spool: Arc<Spool>,
    pub(super) board: Arc<Board>,
    pub(super) publisher: Publisher,
    /// For those that wait for a lock.
    pub(super) slow: Arc<Pool<Chain>>,
    /// What they wait for.
    pub(super) rows: Arc<Rows>,
    /// For awaited ones.
    pub(super) awaits: Arc<Pool<Chain>>,
}

impl Drop for SubmitWorker {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

impl SubmitWorker {
    /// Until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let mut chains: VecDeque<Chain> = VecDeque::new();
        while self.queue.take(&mut chains) {
            let batch = self.collect(&mut chains);
            self.work(batch, &mut chains);
            chains.retain(|chain| !chain.is_empty());
        }
    }

    /// The front of every chain, as much as fits, with the place of its chain. An awaited update is
    /// never among them: it goes to its own threads, and what stands behind it with it.
    fn collect(&self, chains: &mut VecDeque<Chain>) -> Vec<(usize, Item)> {
        let mut batch = Vec::new();
        for (place, chain) in chains.iter_mut().enumerate() {
            let first = batch.len();
            while batch.len() < MAX_BATCH {
                match chain.front() {
                    // What stands before it has to be answered first.
                    Some(item) if item.mode == Mode::Await && batch.len() > first => break,
                    Some(item) if !item.begin() => {
                        self.queue.finish(item, &Answer::Failed(Failure::NotBegun));
                        chain.pop_front();
                    }
                    Some(item) if item.mode == Mode::Await => {
                        self.hand(&self.awaits, chain);
                    }
                    // It would most likely wait for the same lock as others do already. Behind
                    // what waits in the journal it waits there.
                    Some(item) if self.rows.locked(item.row) && self.spool.is_empty() => {
                        if batch.len() > first {
                            break;
                        }
                        self.hand_slow(chain);
                    }
                    _ => match chain.pop_front() {
                        Some(item) => batch.push((place, item)),
                        None => break,
                    },
                }
            }
            if batch.len() == MAX_BATCH {
                break;
            }
        }
        batch
    }

    /// The whole chain is worked on elsewhere. False if that is full: its first one is refused, and
    /// the others stay.
    fn hand(&self, pool: &Arc<Pool<Chain>>, chain: &mut Chain) -> bool {
        self.queue.lend();
        let Err(mut refused) = pool.push(std::mem::take(chain)) else {
            return true;
        };
        if let Some(item) = refused.pop_front() {
            self.queue.finish(&item, &Answer::Failed(Failure::Busy));
        }
        self.queue.give_back(Chain::new());
        *chain = refused;
        false
    }

    fn hand_slow(&self, chain: &mut Chain) {
        let Some(row) = chain.front().map(|item| item.row) else {
            return;
        };
        let news = self.rows.add(row);
        if !self.hand(&self.slow, chain) && news {
            self.rows.remove(row);
        }
    }

    fn work(&mut self, batch: Vec<(usize, Item)>, chains: &mut VecDeque<Chain>) {
        if batch.is_empty() {
            return;
        }
        let (places, items): (Vec<usize>, Vec<Item>) = batch.into_iter().unzip();
        // The order in which they were accepted: what waits in the journal comes first.
        if !self.spool.is_empty() && !canary!(SpoolOvertaken) {
            return self.spool_all(&items, &[]);
        }
        let submissions: Vec<Submission> = items.iter().map(|i| i.submission.clone()).collect();
        let before = self.publisher.before();
        let results = submit_chains(self.database.as_mut(), &submissions, &places);
        let results = self.publisher.settle(before, results);
        let results = record(self.database.as_mut(), &submissions, results);
        self.account(&results);
        let (mut away, mut why) = (Vec::new(), Vec::new());
        let mut again: BTreeMap<usize, (bool, Chain)> = BTreeMap::new();
        for ((place, item), result) in places.into_iter().zip(items).zip(results) {
            match result {
                Err(error @ (SubmitError::Unavailable(_) | SubmitError::Unknown(_))) => {
                    away.push(item);
                    why.push(error);
                }
                Err(error @ (SubmitError::Blocked(_) | SubmitError::NotTried)) => {
                    let (blocked, waiting) = again.entry(place).or_default();
                    *blocked |= matches!(error, SubmitError::Blocked(_));
                    waiting.push_back(item);
                }
                result => {
                    let answer = answer::of(&self.board, result);
                    self.queue.finish(&item, &answer);
                }
            }
        }
        for (place, (blocked, mut waiting)) in again {
            let Some(chain) = chains.get_mut(place) else {
                continue;
            };
            waiting.append(chain);
            *chain = waiting;
            if blocked {
                self.hand_slow(chain);
            }
        }
        if !away.is_empty() {
            self.publisher.look();
            self.spool_all(&away, &why);
        }
    }

    /// `why` not into the database, each; empty if nothing was tried.
    fn spool_all(&self, items: &[Item], why: &[SubmitError]) {
        let written = self.spool.append(&items.iter().collect::<Vec<_>>());
        for (index, (item, result)) in items.iter().zip(written).enumerate() {
            self.queue
                .finish(item, &answer::spooled(result, why.get(index)));
        }
    }

    fn account(&mut self, results: &[Result<Committed, SubmitError>]) {
        let mut refused = 0;
        let mut wrong = false;
        for result in results {
            match result {
                Err(SubmitError::Refused { .. } | SubmitError::TooLarge { .. }) => refused += 1,
                Err(
                    SubmitError::Unavailable(_)
                    | SubmitError::NotReady(_)
                    | SubmitError::Unknown(_),
                ) => wrong = true,
                Ok(_)
                | Err(
                    SubmitError::Blocked(_)
                    | SubmitError::NotTried
                    | SubmitError::Repeated(_)
                    | SubmitError::Reused,
                ) => {}
            }
        }
        let mut state = self.board.lock();
        state.counters.submit_batches += 1;
        state.counters.refused += refused;
        state.counters.submitted += results.iter().flatten().count() as u64;
        if wrong {
            state.counters.database_errors += 1;
        }
        drop(state);
        if wrong {
            self.publisher.look();
        }
    }
}

/// Puts refusals on record, so that the same request gets the same answer again. One that cannot be
/// recorded is not answered as refused: asked again, the database judges it anew. Nor is it for the
/// journal: what its caller sent behind it may be committed already, and if it is on record after
/// all, nobody would be told.
pub(super) fn record(
    database: &mut dyn Database,
    submissions: &[Submission],
    mut results: Vec<Result<Committed, SubmitError>>,
) -> Vec<Result<Committed, SubmitError>> {
    for (submission, result) in submissions.iter().zip(&mut results) {
        if let Err(SubmitError::Refused { sqlstate, message }) = result
            && let Err(error) = database.request_refused(submission, sqlstate, message, false)
        {
            *result = Err(SubmitError::NotReady(format!(
                "it refused the update, and that could not be put on record: {error}; nothing was \
                 written, submit it again"
            )));
        }
    }
    results
}
