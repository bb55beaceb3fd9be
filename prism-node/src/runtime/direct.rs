//! The direct worker of one lane: the own stream into a peer's database by SQL, the last rung that
//! writes. Connections are opened for the first job and closed when none has come for a while.

use prism_net::platform::Instant;
use prism_net::platform::mpsc::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

use prism_db::direct::{DirectError, DirectOutcome, DirectWriter, REFUSALS};
use prism_db::{Database, RefusalRow};
use prism_net::{Command, Handle};
use prism_proto::{DirectFailure, Event, Position, RegionId, Seq};

use super::alarms::name;
use super::board::{Board, lane_subject};
use super::refusals::Refusals;
use super::start::StartError;

/// Connections to a peer's database are not kept for nothing; but for longer than a parked lane
/// pauses, since they count what hangs at a server that does not answer, and so bound it.
const IDLE: Duration = Duration::from_secs(120);
/// The engine hears of progress this often.
const BUDGET: Duration = Duration::from_millis(500);

/// What should pass by itself (a lock, a full disk, a server that is read-only) is an alarm when it
/// does not: such a lane stays on this rung and is never parked.
const STUCK_ALARM: Duration = Duration::from_secs(10);

/// What the loop asks of this worker.
pub(super) struct DirectJob {
    pub(super) after: Seq,
    pub(super) upto: Seq,
}

/// Own database (the outbox) and the peer's.
pub(super) type Connections = (Box<dyn Database>, DirectWriter);

/// See the module.
pub(super) struct DirectWorker {
    pub(super) peer: RegionId,
    pub(super) jobs: Receiver<DirectJob>,
    /// Opens both databases.
    pub(super) open: Box<dyn Fn() -> Result<Connections, StartError> + Send>,
    pub(super) handle: Handle,
    pub(super) refusals: Refusals,
    pub(super) board: Arc<Board>,
    /// Since when nothing gets through.
    pub(super) failing: Option<Instant>,
}

impl DirectWorker {
    /// Until the loop is gone.
    pub(super) fn run(mut self) {
        let mut connections: Option<Connections> = None;
        loop {
            let job = match self.jobs.recv_timeout(IDLE) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => {
                    connections = None;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let event = self.write(&mut connections, &job);
            self.handle.send(Command::Event(event));
        }
    }

    fn write(&mut self, connections: &mut Option<Connections>, job: &DirectJob) -> Event {
        let peer = self.peer;
        let names = Arc::clone(&self.board.names);
        let lane = names.region(peer);
        let (own, writer) = match connections {
            Some(connections) => connections,
            None => match (self.open)() {
                Ok(new) => connections.insert(new),
                Err(error) => {
                    tracing::error!(lane, "direct SQL: {error}");
                    return Event::DirectFailed {
                        peer,
                        why: DirectFailure::Parked,
                    };
                }
            },
        };
        let start = Instant::now();
        let enough = || start.elapsed() >= BUDGET;
        let outcome = writer.write(own.as_mut(), job.upto, enough);
        let untold = bring_home(&self.refusals, own.as_mut(), writer, peer, &outcome);
        self.account(lane, &outcome);
        let parked = |error: &DirectError| error.failure == DirectFailure::Parked;
        if outcome.failure.as_ref().is_some_and(parked) {
            // The database may have been replaced meanwhile (`prism adopt`), with what the connection
            // knows of it. Nothing hangs there: it has answered.
            *connections = None;
        }
        let done = |position: Position| Event::DirectDone {
            peer,
            position,
            clean: untold.map_or(position.seq, |seq| {
                position.seq.min(Seq(seq.0.saturating_sub(1)))
            }),
        };
        match (outcome.position, outcome.failure) {
            // What was committed counts; the failure is met again by the next job.
            (Some(position), _) if position.seq > job.after => done(position),
            (_, Some(error)) => Event::DirectFailed {
                peer,
                why: error.failure,
            },
            (Some(position), None) => done(position),
            (None, None) => Event::DirectFailed {
                peer,
                why: DirectFailure::Busy,
            },
        }
    }

    fn account(&mut self, lane: &str, outcome: &DirectOutcome) {
        for rejection in &outcome.rejected {
            tracing::warn!(
                lane,
                seq = rejection.seq.0,
                statement = rejection.statement,
                sqlstate = rejection.sqlstate,
                "the region's database has refused an update of this region for good, it is kept \
                 there as a dead letter: {}",
                rejection.message
            );
        }
        let subject = lane_subject(lane);
        if outcome.failure.is_none() || outcome.executed > 0 {
            self.failing = None;
        }
        let mut state = self.board.lock();
        if let Some(last) = outcome.drift.last() {
            let detail = format!(
                "seq {} affected {} rows in the database of {lane}, {} at its origin",
                last.seq.0, last.actual, last.expected
            );
            let remedy = "the tables of the two regions differ: compare them and mend the rows";
            state.alarms.raise(name::DRIFT, &subject, detail, remedy);
        }
        match &outcome.failure {
            Some(error) => {
                state.counters.database_errors += 1;
                tracing::info!(lane, "direct SQL: {error}");
                let since = *self.failing.get_or_insert_with(Instant::now);
                let urgent = match error.failure {
                    DirectFailure::Parked | DirectFailure::Forked => true,
                    // The lane's own alarm, once it is parked.
                    DirectFailure::Unreachable => false,
                    DirectFailure::Busy | DirectFailure::Dependency => {
                        since.elapsed() >= STUCK_ALARM
                    }
                };
                if urgent {
                    let detail = format!("direct SQL into the database of {lane}: {error}");
                    let remedy = match error.remedy.as_str() {
                        "" => "see the database's message; the lane goes on by itself",
                        remedy => remedy,
                    };
                    state.alarms.raise(name::DIRECT, &subject, detail, remedy);
                }
            }
            None => state.alarms.clear(name::DIRECT, &subject),
        }
    }
}

/// Deals with the refusals that wait in the peer's database, of which no node of its region may be
/// left to tell, and only then notes there that they are known. Returns the lowest that may remain.
fn bring_home(
    refusals: &Refusals,
    own: &mut dyn Database,
    writer: &mut DirectWriter,
    peer: RegionId,
    outcome: &DirectOutcome,
) -> Option<Seq> {
    // There may be more behind the last one.
    let mut untold = match outcome.refusals.as_slice() {
        rows if rows.len() >= REFUSALS as usize => rows.last().map(|row| row.seq.next()),
        _ => None,
    };
    let mut known: Vec<&RefusalRow> = Vec::new();
    for row in &outcome.refusals {
        if let Err(error) = refusals.handle(own, peer, row) {
            tracing::warn!(
                seq = row.seq.0,
                "a refused update could not be dealt with yet: {error}"
            );
            untold = Some(row.seq);
            break;
        }
        known.push(row);
    }
    for rows in known.chunk_by(|a, b| a.epoch == b.epoch) {
        let seqs: Vec<Seq> = rows.iter().map(|row| row.seq).collect();
        if let Err(error) = writer.refusals_told(rows[0].epoch, &seqs) {
            // Dealt with; noted at the next occasion.
            tracing::info!("direct SQL: {error}");
        }
    }
    untold
}
