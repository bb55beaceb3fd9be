//! Awaited updates: executed in a transaction that stays open until every region has them.
//!
//! ```text
//!   held_begin (own connection, open) -> held_publish (desk) -> the loop delivers it
//!      every region has confirmed it  -> held_finish            -> applied
//!      a region refuses, or conflicts -> its undo is published,
//!                                        held_cancel            -> refused
//!      the deadline passes            -> undo, held_cancel      -> unconfirmed
//! ```
//! Who decides is the outbox row, in the database: whatever this process believes, an update is
//! final or undone, never both.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use prism_db::submit::SubmitError;
use prism_db::{Database, DbError, HeldState, RequestRow, RequestState, UndoReason, Undone};
use prism_net::platform::{self, Condvar, Instant, Mutex, MutexGuard};
use prism_proto::{RegionKey, Seq, canary};

use super::answer;
use super::board::Board;
use super::find::regions;
use super::history::GONE_BACK;
use super::publish::Publisher;
use super::queue::{Chain, IntakeQueue, Item};
use super::spool::Spool;
use super::start::StartError;
use crate::intake::{Answer, Failure};

/// Beyond the caller's deadline the server keeps the transaction for so long: time to finish or undo
/// it in order.
const MARGIN: Duration = Duration::from_secs(10);
/// The monitor looks for conflicts this often: two regions whose updates wait for each other stand
/// still until then.
const CONFLICTS: Duration = Duration::from_millis(50);
/// And every so many times at the state of each update.
const STATES: u32 = 2;
/// How long the outcome of an ambiguous commit is sought.
const SEEK: Duration = Duration::from_secs(5);

/// Updates in flight, with what the monitor has seen of each.
type Flights = BTreeMap<Seq, Option<HeldState>>;

/// See the module.
pub(super) struct Awaits {
    pub(super) queue: Arc<IntakeQueue>,
    /// Publishes, undoes and looks up for all of them.
    pub(super) desk: Mutex<Box<dyn Database>>,
    pub(super) spool: Arc<Spool>,
    pub(super) board: Arc<Board>,
    pub(super) publisher: Publisher,
    /// `await_timeout`.
    pub(super) longest: Duration,
    pub(super) flights: Mutex<Flights>,
    pub(super) begun: Condvar,
    /// Names of the regions by their keys.
    pub(super) regions: Arc<[(String, RegionKey)]>,
}

/// How the waiting ended.
enum End {
    Everywhere,
    Decided(HeldState),
    Late,
}

impl Awaits {
    /// Does the first of the chain, and gives the rest back to the queue.
    pub(super) fn run(
        &self,
        held: &mut Option<Box<dyn Database>>,
        open: impl Fn() -> Result<Box<dyn Database>, StartError>,
        mut chain: Chain,
    ) {
        if let Some(item) = chain.pop_front() {
            let answer = match held {
                Some(held) => self.execute(held.as_mut(), &item),
                None => match open() {
                    Ok(database) => self.execute(held.insert(database).as_mut(), &item),
                    Err(error) => Answer::Failed(Failure::Unavailable(error.to_string())),
                },
            };
            self.queue.finish(&item, &answer);
        }
        self.queue.give_back(chain);
    }

    fn desk(&self) -> MutexGuard<'_, Box<dyn Database>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn execute(&self, held: &mut dyn Database, item: &Item) -> Answer {
        // A chain that was handed over a while ago: the database may have gone away meanwhile.
        if !self.spool.is_empty() {
            return Answer::Failed(Failure::Spooling);
        }
        let deadline = Instant::now() + item.timeout.unwrap_or(self.longest).min(self.longest);
        let limit = deadline.saturating_duration_since(Instant::now()) + MARGIN;
        let write = match held.held_begin(&item.submission, limit) {
            Ok(write) => write,
            Err(error) => return self.refused_here(item, error, deadline),
        };
        let before = self.publisher.before();
        let published = self.desk().held_publish(&write);
        let committed = match published {
            Ok(committed) => committed,
            Err(error) => {
                // If it was published all the same (an ambiguous commit), its transaction has ended
                // without becoming final: whoever takes numbers next publishes its undo.
                let _ = held.held_cancel();
                return match error {
                    DbError::Ambiguous(why) => Answer::Failed(Failure::Unavailable(format!(
                        "{why}; it is rolled back, and undone wherever it may have arrived"
                    ))),
                    error => self.refused_here(item, error, deadline),
                };
            }
        };
        if !self.publisher.publish(before, [&committed]) {
            let _ = held.held_cancel();
            return Answer::Failed(Failure::NotReady(GONE_BACK.to_owned()));
        }
        let seq = committed.seq;
        self.flights().insert(seq, None);
        self.begun.notify_all();
        let end = self.wait(seq, deadline);
        let answer = match end {
            End::Everywhere => self.finish(held, seq),
            End::Decided(state) => {
                let _ = held.held_cancel();
                self.decided(seq, state)
            }
            End::Late => self.late(held, seq),
        };
        self.flights().remove(&seq);
        if matches!(answer, Answer::Applied { .. }) {
            self.board.lock().counters.submitted += 1;
        }
        answer
    }

    /// Until every region has confirmed it, or it is decided otherwise, or the time is over.
    fn wait(&self, seq: Seq, deadline: Instant) -> End {
        let everywhere = std::cell::Cell::new(false);
        let decided = std::cell::RefCell::new(None);
        // The board wakes at every acknowledgement, and looks ten times a second.
        loop {
            let by = self.board.lock().drain_by;
            let deadline = by.map_or(deadline, |by| by.min(deadline));
            let look = deadline.min(Instant::now() + Duration::from_secs(1));
            self.board.wait_until(look, |state| {
                let mut peers = self.board.names.peers();
                let has = |peer| self.board.confirmed(state, peer) >= seq;
                everywhere.set(if canary!(AwaitAnyRegion) {
                    peers.any(has)
                } else {
                    peers.all(has)
                });
                decided.replace(self.flights().get(&seq).cloned().flatten());
                everywhere.get() || decided.borrow().is_some()
            });
            if let Some(state) = decided.take() {
                return End::Decided(state);
            }
            if everywhere.get() {
                return End::Everywhere;
            }
            if Instant::now() >= deadline {
                return End::Late;
            }
        }
    }

    fn finish(&self, held: &mut dyn Database, seq: Seq) -> Answer {
        match held.held_finish(seq) {
            Ok(true) => self.applied(seq),
            Ok(false) => self.sought(seq, &UndoReason::Crashed),
            Err(error) => {
                tracing::warn!(seq = seq.0, %error, "an awaited update could not be made final: looking for what became of it");
                let _ = held.held_cancel();
                let reason = match error {
                    // The server's word that it is not final. (Otherwise it may be, and a reason of
                    // this kind would undo it even then.)
                    DbError::Sql {
                        sqlstate, message, ..
                    } => UndoReason::Refused {
                        region: self.board.names.my_region().to_owned(),
                        sqlstate,
                        message,
                    },
                    _ => UndoReason::Crashed,
                };
                self.sought(seq, &reason)
            }
        }
    }

    /// It could not be made final, or perhaps it was: the database knows. If it was not, it is
    /// undone now, for that reason: a backend without an open transaction would hold it until its
    /// deadline.
    fn sought(&self, seq: Seq, reason: &UndoReason) -> Answer {
        let start = Instant::now();
        let mut why = String::new();
        while start.elapsed() < SEEK {
            let state = self.desk().held_state(seq);
            match state {
                Ok(HeldState::Held) => {
                    let before = self.publisher.before();
                    let undone = self.desk().undo(seq, reason);
                    match undone {
                        Ok(Undone::Published(committed)) => {
                            self.publisher.publish(before, [&committed]);
                        }
                        Ok(_) => {}
                        Err(error) => why = error.to_string(),
                    }
                }
                Ok(state) => return self.decided(seq, state),
                Err(error) => why = error.to_string(),
            }
            platform::sleep(CONFLICTS);
        }
        Answer::Failed(Failure::Unknown(format!(
            "the database went away while the update became final ({why}); ask again by its \
             request_id"
        )))
    }

    fn late(&self, held: &mut dyn Database, seq: Seq) -> Answer {
        let regions = regions(&self.board, seq);
        let missing = regions.iter().filter(|(_, has)| !has);
        let reason = UndoReason::Unconfirmed {
            regions: missing.map(|(region, _)| region.clone()).collect(),
        };
        let before = self.publisher.before();
        let undone = self.desk().undo(seq, &reason);
        // Published first: nothing can come between it and the end of the transaction.
        let _ = held.held_cancel();
        match undone {
            Ok(Undone::Published(committed)) => {
                self.publisher.publish(before, [&committed]);
            }
            Ok(Undone::Before) => return self.sought(seq, &reason),
            Ok(Undone::Refused { notice, .. }) => {
                self.publisher.publish(before, [&notice]);
            }
            Ok(Undone::Impossible(why)) => {
                tracing::error!(seq = seq.0, %why, "an awaited update cannot be undone");
                return self.sought(seq, &reason);
            }
            // It was never made final and never will be: its transaction is gone, and whoever takes
            // numbers next publishes the undo.
            Err(error) => {
                tracing::warn!(seq = seq.0, %error, "the undo of an awaited update could not be published yet");
            }
        }
        Answer::Undone {
            seq: Some(seq),
            regions: answer::but_for_refused(&reason, regions),
            reason,
        }
    }

    fn applied(&self, seq: Seq) -> Answer {
        let names = &self.board.names;
        Answer::Applied {
            seq,
            regions: names.peers().map(|p| names.region(p).to_owned()).collect(),
        }
    }

    fn decided(&self, seq: Seq, state: HeldState) -> Answer {
        match state {
            HeldState::Final => self.applied(seq),
            HeldState::Undone(reason) => Answer::Undone {
                seq: Some(seq),
                regions: answer::but_for_refused(&reason, regions(&self.board, seq)),
                reason,
            },
            HeldState::Held | HeldState::Unknown => Answer::Failed(Failure::Unknown(
                "the update is no longer in the outbox; ask again by its request_id".to_owned(),
            )),
        }
    }

    /// The own database did not take it.
    fn refused_here(&self, item: &Item, error: DbError, deadline: Instant) -> Answer {
        match SubmitError::from(error) {
            SubmitError::Repeated(row) => self.repeated(row, deadline),
            SubmitError::Refused { sqlstate, message } => {
                let recorded =
                    self.desk()
                        .request_refused(&item.submission, &sqlstate, &message, false);
                self.board.lock().counters.refused += 1;
                let error = match recorded {
                    Ok(()) => SubmitError::Refused { sqlstate, message },
                    Err(error) => SubmitError::Unavailable(error.to_string()),
                };
                answer::of(&self.board, Err(error))
            }
            error => {
                if matches!(
                    error,
                    SubmitError::Unavailable(_) | SubmitError::NotReady(_)
                ) {
                    self.publisher.look();
                }
                answer::of(&self.board, Err(error))
            }
        }
    }

    /// The same request was submitted before: what became of it, as far as that is known within the
    /// caller's patience.
    fn repeated(&self, mut row: RequestRow, deadline: Instant) -> Answer {
        // Another node carries it out, or an earlier life of this one did.
        while row.state == RequestState::Held && Instant::now() < deadline {
            platform::sleep(CONFLICTS);
            let found = self.desk().request(&row.request_id);
            match found {
                Ok(Some(newer)) => row = newer,
                Ok(None) => {}
                Err(error) => return Answer::Failed(Failure::Unknown(error.to_string())),
            }
        }
        if row.state == RequestState::Committed
            && row.stream == self.board.names.my_region()
            && let Some(seq) = row.seq
            && matches!(self.wait(seq, deadline), End::Everywhere)
        {
            return self.applied(seq);
        }
        answer::repeated(&self.board, &row)
    }

    /// The monitor: what is undone by others, and what has to give way to another region.
    pub(super) fn watch(&self, database: &mut dyn Database, stop: &AtomicBool) {
        let mut round = 0u32;
        while !stop.load(Ordering::Relaxed) {
            let waiting = self.flights();
            // One whose end is known may stay for long, while its connection hangs.
            let waited = (self.begun).wait_timeout_while(waiting, 2 * CONFLICTS, |flights| {
                flights.values().all(Option::is_some)
            });
            let flights = waited.unwrap_or_else(PoisonError::into_inner).0;
            let seqs: Vec<Seq> = flights
                .iter()
                .filter_map(|(seq, known)| known.is_none().then_some(*seq))
                .collect();
            drop(flights);
            if seqs.is_empty() {
                continue;
            }
            round += 1;
            self.conflicts(database);
            if round.is_multiple_of(STATES) {
                for seq in seqs {
                    match database.held_state(seq) {
                        Ok(HeldState::Held) | Err(_) => {}
                        Ok(state) => self.note(seq, state),
                    }
                }
            }
            platform::sleep(CONFLICTS);
        }
    }

    fn note(&self, seq: Seq, state: HeldState) {
        if let Some(known) = self.flights().get_mut(&seq) {
            *known = Some(state);
        }
    }

    fn conflicts(&self, database: &mut dyn Database) {
        for conflict in database.held_conflicts().unwrap_or_default() {
            let region = self.regions.iter().find(|(_, key)| *key == conflict.stream);
            let reason = UndoReason::Conflict {
                region: region.map_or_else(String::new, |(name, _)| name.clone()),
            };
            let before = self.publisher.before();
            match database.undo(conflict.seq, &reason) {
                Ok(Undone::Published(committed)) => {
                    tracing::info!(seq = conflict.seq.0, ?reason, "an awaited update gives way");
                    self.publisher.publish(before, [&committed]);
                    self.note(conflict.seq, HeldState::Undone(reason));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(seq = conflict.seq.0, %error, "an awaited update that must give way could not be undone yet");
                }
            }
        }
    }
}
