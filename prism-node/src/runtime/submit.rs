//! The submit worker: everything that waits becomes one local transaction.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use prism_db::catalogue::Catalogue;
use prism_db::submit::{SubmitError, submit};
use prism_db::{Committed, Database, Submission};
use prism_net::{Batch, Command, Handle};

use super::board::Board;
use super::outbox::OutboxJob;
use super::queue::{IntakeQueue, Job};
use crate::intake::{Answer, Failure, NewUpdate};

/// Most updates in one transaction: beyond this the cost per update falls no further, and a
/// failing one costs the whole batch a second try.
const MAX_BATCH: usize = 512;

/// The outbox worker is asked to look at the database this often. Updates that cannot be taken may
/// come by the thousand (a missing table), and its queue is there for the lanes.
const LOOK: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct SubmitWorker {
    pub(super) queue: Arc<IntakeQueue>,
    pub(super) database: Box<dyn Database>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) handle: Handle,
    pub(super) board: Arc<Board>,
    pub(super) outbox: SyncSender<OutboxJob>,
    /// When the outbox worker was last asked to look.
    pub(super) looked: Option<Instant>,
}

impl Drop for SubmitWorker {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

/// One update on its way: whose it is, and its place in the transaction.
struct Slot {
    job: usize,
    place: Result<usize, Failure>,
}

impl SubmitWorker {
    /// Until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let mut jobs: VecDeque<Job> = VecDeque::new();
        while self.queue.take(&mut jobs) {
            let (slots, batch, bytes) = self.collect(&mut jobs);
            let results = self.write(&batch);
            self.queue.done(slots.len(), bytes);
            for slot in slots {
                let answer = match slot.place {
                    Ok(place) => results
                        .get(place)
                        .cloned()
                        .unwrap_or(Answer::Failed(Failure::Busy)),
                    Err(failure) => Answer::Failed(failure),
                };
                if let Some(job) = jobs.get_mut(slot.job) {
                    job.answers.push(answer);
                }
            }
            while jobs.front().is_some_and(|job| job.waiting.is_empty()) {
                if let Some(job) = jobs.pop_front() {
                    // The caller may have hung up; its updates are committed all the same.
                    let _ = job.caller.send(job.answers);
                }
            }
        }
    }

    fn collect(&self, jobs: &mut VecDeque<Job>) -> (Vec<Slot>, Vec<Submission>, usize) {
        let mut bytes = 0;
        let mut slots = Vec::new();
        let mut batch = Vec::new();
        for (i, job) in jobs.iter_mut().enumerate() {
            while batch.len() < MAX_BATCH {
                let Some(update) = job.waiting.pop_front() else {
                    break;
                };
                bytes += update.weight();
                let place = self.submission(update).map(|submission| {
                    batch.push(submission);
                    batch.len() - 1
                });
                slots.push(Slot { job: i, place });
            }
            if batch.len() == MAX_BATCH {
                break;
            }
        }
        (slots, batch, bytes)
    }

    fn submission(&self, update: NewUpdate) -> Result<Submission, Failure> {
        let Some(statement) = self.catalogue.get(&update.statement) else {
            let known = format!("no statement {} in the catalogue", update.statement);
            return Err(Failure::Refused(known));
        };
        Ok(Submission {
            statement: statement.digest(),
            params: update.params,
            request_id: Some(*update.request_id.as_bytes()),
        })
    }

    fn write(&mut self, batch: &[Submission]) -> Vec<Answer> {
        if batch.is_empty() {
            return Vec::new();
        }
        let results = submit(self.database.as_mut(), batch);
        self.publish(&results);
        self.account(&results);
        results
            .into_iter()
            .map(|result| match result {
                Ok(committed) => Answer::Committed { seq: committed.seq },
                Err(error) => Answer::Failed(failure(error)),
            })
            .collect()
    }

    /// Hands what is committed to the loop, in runs of consecutive numbers (a sibling may have
    /// taken some in between).
    fn publish(&self, results: &[Result<Committed, SubmitError>]) {
        let mut committed: Vec<&Committed> = results.iter().flatten().collect();
        committed.sort_unstable_by_key(|c| c.seq);
        if let Some(last) = committed.last() {
            self.board.tail(last.seq);
        }
        for run in committed.chunk_by(|a, b| b.seq == a.seq.next()) {
            let mut payloads = Batch::default();
            payloads.reset(run[0].seq);
            for committed in run {
                payloads.push(&committed.update.encode());
            }
            self.handle.send(Command::Committed(payloads));
        }
    }

    fn account(&mut self, results: &[Result<Committed, SubmitError>]) {
        let mut refused = 0;
        let mut away = false;
        for result in results {
            match result {
                Err(SubmitError::Refused { .. } | SubmitError::TooLarge { .. }) => refused += 1,
                Err(_) => away = true,
                Ok(_) => {}
            }
        }
        let mut state = self.board.lock();
        state.counters.submit_batches += 1;
        state.counters.refused += refused;
        state.counters.submitted += results.iter().flatten().count() as u64;
        if away {
            state.counters.database_errors += 1;
        }
        drop(state);
        if away && self.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            // It looks at the database, finds out what it is and says so.
            let _ = self.outbox.try_send(OutboxJob::Look);
        }
    }
}

/// What a caller is told.
fn failure(error: SubmitError) -> Failure {
    match error {
        SubmitError::Refused { .. } => Failure::Refused(error.to_string()),
        SubmitError::TooLarge { size, limit } => Failure::TooLarge { size, limit },
        SubmitError::Unavailable(why) | SubmitError::Blocked(why) => Failure::Unavailable(why),
        SubmitError::Repeated(_) | SubmitError::Reused => Failure::RequestReused,
        SubmitError::NotReady(why) => Failure::NotReady(why),
        SubmitError::Unknown(why) => Failure::Unknown(why),
    }
}
