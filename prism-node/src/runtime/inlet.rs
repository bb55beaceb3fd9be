//! The apply worker of one inlet: received updates into the own database.

use prism_net::platform::Instant;
use prism_net::platform::mpsc::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

use prism_db::apply::{Applier, ApplyOutcome, Wait};
use prism_db::{Database, DbError, ErrorClass, RefusalRow};
use prism_net::{Batch, Command, Handle};
use prism_proto::{ApplyCause, Epoch, Event, Position, Refusal, RegionId, Seq};

use super::alarms::name;
use super::board::{Board, cause_word, clear_inlet_alarms};

/// A dependency is an alarm when it does not come by itself in this time.
const DEPENDENCY_ALARM: Duration = Duration::from_millis(500);
/// A transient error is an alarm when it repeats for this long.
const STUCK_ALARM: Duration = Duration::from_secs(10);

/// Refusals that are read at a time; the engine keeps fewer.
const REFUSALS: u32 = 32;

/// After a read of the position that did not succeed.
const REREAD: Duration = Duration::from_millis(500);

/// When nothing has come for so long it is looked whether the database is still where it was.
const IDLE: Duration = Duration::from_secs(30);

/// What the loop asks of this worker.
pub(super) enum InletJob {
    /// Apply this batch.
    Apply { epoch: Epoch, batch: Batch },
    /// Read the watermark.
    ReadPosition,
    /// The origin has dealt with the refusal of this update.
    Told { epoch: Epoch, seq: Seq },
}

/// See the module.
pub(super) struct InletWorker {
    pub(super) stream: RegionId,
    pub(super) jobs: Receiver<InletJob>,
    pub(super) database: Box<dyn Database>,
    pub(super) applier: Applier,
    pub(super) handle: Handle,
    pub(super) board: Arc<Board>,
    pub(super) failing: Option<Failing>,
    /// Up to here the origin knows of every refusal.
    pub(super) clean: Position,
}

/// The same thing has been failing for a while.
pub(super) struct Failing {
    cause: ApplyCause,
    since: Instant,
    /// The first update that could not be applied.
    at: Option<Seq>,
}

impl InletWorker {
    /// Until the loop is gone.
    pub(super) fn run(mut self) {
        loop {
            match self.jobs.recv_timeout(IDLE) {
                Ok(InletJob::ReadPosition) => self.read_position(),
                Ok(InletJob::Told { epoch, seq }) => self.told(epoch, seq),
                Ok(InletJob::Apply { epoch, batch }) => {
                    self.apply(epoch, &batch);
                    self.handle.send(Command::Recycle(batch));
                }
                Err(RecvTimeoutError::Timeout) => self.tell(Event::PositionOld {
                    stream: self.stream,
                }),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    }

    fn name(&self) -> String {
        self.board.names.region(self.stream).to_owned()
    }

    fn tell(&self, event: Event) {
        self.handle.send(Command::Event(event));
    }

    fn read_position(&mut self) {
        let name = self.name();
        // The position first: what somebody else applies, and refuses, in between is not clean.
        let read = self.database.position(&name).and_then(|position| {
            let clean = self.refusals(position)?;
            Ok((position, clean))
        });
        match read {
            Ok((position, clean)) => {
                // A database that can be read says nothing about the update that it did not take,
                // unless somebody else has brought it in (a sibling, direct SQL).
                let over = self.failing.as_ref().is_some_and(|failing| {
                    // Nor does a fork: whoever sends has its own outbox judge.
                    failing.cause == ApplyCause::Forked
                        || failing.at.is_none_or(|at| position.seq >= at)
                });
                if over {
                    self.succeeded(position);
                }
                self.note_position(position);
                self.tell(Event::Position {
                    stream: self.stream,
                    position,
                    clean,
                });
            }
            Err(error) => self.unread(&error),
        }
    }

    fn unread(&mut self, error: &DbError) {
        let wait = Wait {
            cause: cause(error),
            seq: None,
            detail: error.to_string(),
            remedy: String::new(),
            retry_after: REREAD,
        };
        self.failed(&wait, None);
    }

    /// Tells the engine of the lowest refusals that the origin does not know; returns up to where
    /// it knows them all.
    fn refusals(&mut self, position: Position) -> Result<Seq, DbError> {
        let name = self.name();
        let rows = self.database.refusals(&name, REFUSALS)?;
        for row in &rows {
            self.tell(Event::Refused {
                stream: self.stream,
                refusal: refusal(row),
            });
        }
        let lowest = rows
            .iter()
            .filter(|row| row.epoch == position.epoch)
            .map(|row| row.seq)
            .min();
        let seq = match lowest {
            Some(seq) => position.seq.min(Seq(seq.0.saturating_sub(1))),
            // Only those of earlier epochs, and there are more.
            None if rows.len() >= REFUSALS as usize => Seq::ZERO,
            None => position.seq,
        };
        self.clean = Position { seq, ..position };
        Ok(seq)
    }

    fn told(&mut self, epoch: Epoch, seq: Seq) {
        let name = self.name();
        let noted = self
            .database
            .refusals_told(&name, epoch, &[seq])
            .and_then(|()| self.database.position(&name))
            .and_then(|position| self.refusals(position));
        match noted {
            Ok(clean) => self.tell(Event::Clean {
                stream: self.stream,
                clean,
            }),
            // With the position, which is read until the database answers, the engine hears of it once
            // more; it is told again, and answered again.
            Err(error) => {
                tracing::debug!(stream = name, "a refusal stays untold: {error}");
                self.tell(Event::PositionOld {
                    stream: self.stream,
                });
            }
        }
    }

    /// As [`Self::refusals`]; the database is not asked if this node has just applied all of it
    /// itself and nothing was refused.
    fn clean_after(
        &mut self,
        outcome: &ApplyOutcome,
        position: Position,
        batch: &Batch,
    ) -> Result<Seq, DbError> {
        let before = Seq(batch.first().0.saturating_sub(1));
        let alone = outcome.rejected.is_empty()
            && outcome.skipped == 0
            && outcome.executed == position.seq.0.saturating_sub(before.0)
            && self.clean.epoch == position.epoch
            && self.clean.seq == before;
        if alone {
            self.clean = position;
            return Ok(position.seq);
        }
        self.refusals(position)
    }

    fn apply(&mut self, epoch: Epoch, batch: &Batch) {
        let name = self.name();
        let updates: Vec<(Seq, &[u8])> = batch.iter().collect();
        let outcome = self
            .applier
            .apply(self.database.as_mut(), &name, epoch, &updates);
        self.account(&outcome);
        for rejection in &outcome.rejected {
            tracing::warn!(
                stream = name,
                seq = rejection.seq.0,
                statement = rejection.statement,
                sqlstate = rejection.sqlstate,
                "the database has refused an update for good, it is kept as a dead letter: {}",
                rejection.message
            );
        }
        let before = Seq(batch.first().0.saturating_sub(1));
        match (outcome.position, &outcome.wait) {
            // What was committed counts; what waits is asked for again at once and fails alone.
            (Some(position), _) if position.seq > before => {
                match self.clean_after(&outcome, position, batch) {
                    Ok(clean) => {
                        self.succeeded(position);
                        self.tell(Event::Applied {
                            stream: self.stream,
                            position,
                            clean,
                        });
                    }
                    // Committed; the engine asks again, and hears of it then.
                    Err(error) => self.unread(&error),
                }
            }
            (_, Some(wait)) => self.failed(wait, Some(batch.first())),
            // The database is behind what the engine thought (a gap), or the applier does not know.
            (_, None) => self.read_position(),
        }
    }

    fn note_position(&self, position: Position) {
        let mut state = self.board.lock();
        if let Some(inlet) = state.inlets.get_mut(usize::from(self.stream.0)) {
            inlet.applied = position.seq;
        }
    }

    fn account(&self, outcome: &ApplyOutcome) {
        let name = self.name();
        let mut state = self.board.lock();
        state.counters.apply_batches += 1;
        state.rejected += outcome.rejected.len() as u64;
        let drift = outcome.drift.len() as u64;
        let Some(inlet) = state.inlets.get_mut(usize::from(self.stream.0)) else {
            return;
        };
        inlet.executed += outcome.executed;
        inlet.skipped += outcome.skipped;
        inlet.drift += drift;
        let total = inlet.drift;
        if let Some(last) = outcome.drift.last() {
            let detail = format!(
                "{total} updates of {name} affected another number of rows here than at their \
                 origin; last: seq {}, {} instead of {}",
                last.seq.0, last.actual, last.expected
            );
            state.alarms.raise(
                name::DRIFT,
                &name,
                detail,
                "the tables of the two regions differ: compare them and mend the rows",
            );
        }
    }

    fn succeeded(&mut self, position: Position) {
        self.note_position(position);
        if self.failing.take().is_some() {
            let name = self.name();
            let mut state = self.board.lock();
            if let Some(inlet) = state.inlets.get_mut(usize::from(self.stream.0)) {
                inlet.waits = None;
            }
            clear_inlet_alarms(&mut state, &name);
        }
    }

    fn failed(&mut self, wait: &Wait, at: Option<Seq>) {
        let now = Instant::now();
        let failing = match self.failing.take() {
            Some(old) if old.cause == wait.cause => Failing {
                at: at.or(old.at),
                ..old
            },
            old => Failing {
                cause: wait.cause,
                since: now,
                at: at.or(old.and_then(|old| old.at)),
            },
        };
        self.alarm(wait, now - failing.since);
        self.failing = Some(failing);
        self.tell(Event::ApplyFailed {
            stream: self.stream,
            cause: wait.cause,
            retry_at: self.handle.now().after(wait.retry_after),
        });
    }

    fn alarm(&self, wait: &Wait, lasting: Duration) {
        let stream = self.name();
        let cause = wait.cause;
        let at = match wait.seq {
            Some(seq) => format!(" at seq {}", seq.0),
            None => String::new(),
        };
        let what = format!("{}: {}", cause_word(cause), wait.detail);
        let mut state = self.board.lock();
        state.counters.database_errors += 1;
        if let Some(inlet) = state.inlets.get_mut(usize::from(self.stream.0)) {
            inlet.waits = Some(what.clone());
        }
        let detail = format!("stream {stream} waits{at}: {what}");
        let (name, usual) = match cause {
            ApplyCause::Parked => (
                name::STREAM_PARKED,
                "mend what the database complains about (table, function, grant, catalogue); the \
                 stream goes on by itself, nothing is lost",
            ),
            ApplyCause::Forked => (
                name::FORK,
                "one of the two databases was restored from a backup or replaced; rebuild it from \
                 a healthy region: prism adopt REGION --from OTHER",
            ),
            ApplyCause::Dependency if lasting >= DEPENDENCY_ALARM => (
                name::DEPENDENCY,
                "look at the stream it waits for: it goes on when that one does",
            ),
            ApplyCause::Busy if lasting >= STUCK_ALARM => (
                name::STUCK,
                "look for a transaction that holds locks on the rows or tables of this stream",
            ),
            ApplyCause::Unreachable if lasting >= STUCK_ALARM => (
                name::STUCK,
                "start the database or mend the way to it; if it runs, look in its log whether \
                 this update makes it fail",
            ),
            _ => return,
        };
        let remedy = if wait.remedy.is_empty() {
            usual
        } else {
            &wait.remedy
        };
        state.alarms.raise(name, &stream, detail, remedy);
    }
}

/// What an error of the database means for an inlet.
fn cause(error: &DbError) -> ApplyCause {
    match error {
        DbError::Sql { class, .. } => match class {
            ErrorClass::Unreachable => ApplyCause::Unreachable,
            ErrorClass::Transient | ErrorClass::Refused => ApplyCause::Busy,
            ErrorClass::Operator => ApplyCause::Parked,
        },
        DbError::Ambiguous(_) => ApplyCause::Busy,
        DbError::Unreachable(_) => ApplyCause::Unreachable,
        DbError::Schema(_) | DbError::TooLarge { .. } | DbError::Repeated(_) => ApplyCause::Parked,
        DbError::Fork(_) => ApplyCause::Forked,
    }
}

/// As the origin is told.
fn refusal(row: &RefusalRow) -> Refusal {
    let mut sqlstate = [b' '; 5];
    for (to, from) in sqlstate.iter_mut().zip(row.sqlstate.bytes()) {
        *to = from;
    }
    Refusal {
        epoch: row.epoch,
        seq: row.seq,
        class: row.class,
        sqlstate,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use prism_db::{OpenOptions, Topology};
    use prism_net::Wake;
    use prism_net::platform::mpsc;
    use prism_proto::NodeId;
    use rusqlite::Connection;

    use super::*;
    use crate::runtime::names::Names;
    use crate::runtime::tests::cluster;

    #[derive(Debug)]
    struct Awake;

    impl Wake for Awake {
        fn wake(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The engine has struck it off its list; whoever awaits it would wait until the stream had been
    /// idle for half a minute.
    #[test]
    fn what_the_database_could_not_note_is_looked_at_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let (config, path) = cluster(dir.path());
        let regions: Arc<[_]> = config
            .regions
            .iter()
            .map(|r| (r.name.clone(), r.key))
            .collect();
        let topology = Topology {
            region: "NA".into(),
            regions: Arc::clone(&regions),
        };
        let mut options = OpenOptions::new(topology, Arc::clone(&config.catalogue));
        options.lock_timeout = Duration::from_millis(10);
        let names = Names {
            me: NodeId(0),
            own: RegionId(0),
            rank: 0,
            siblings: 2,
            nodes: vec![("NA1".into(), RegionId(0))],
            regions: vec!["NA".into(), "EU".into()],
        };
        let (commands, handle) = prism_net::commands(8, Box::new(Awake));
        let (sender, jobs) = mpsc::sync_channel(1);
        let mut worker = InletWorker {
            stream: RegionId(1),
            jobs,
            database: prism_db::open(&config.regions[0].database, options).expect("opens"),
            applier: Applier::new(Arc::clone(&config.catalogue), regions),
            handle,
            board: Arc::new(Board::new(Arc::new(names))),
            failing: None,
            clean: Position::default(),
        };
        drop(sender);
        let other = Connection::open(&path).expect("opens");
        other.execute_batch("BEGIN EXCLUSIVE").expect("locked");
        worker.told(Epoch(1), Seq(3));
        let said = commands.next();
        let stream = RegionId(1);
        assert!(
            matches!(said, Some(Command::Event(Event::PositionOld { stream: s })) if s == stream),
            "{said:?}"
        );
        other.execute_batch("ROLLBACK").expect("free");
        worker.told(Epoch(1), Seq(3));
        let said = commands.next();
        assert!(
            matches!(said, Some(Command::Event(Event::Clean { stream: s, .. })) if s == stream),
            "{said:?}"
        );
    }
}
