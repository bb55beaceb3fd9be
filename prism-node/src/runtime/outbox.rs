//! The outbox worker: what the lanes need of the own database. It loads updates that are no longer
//! in memory, judges the peers' positions, writes what has been acknowledged, and is the backstop
//! that finds updates committed elsewhere.

use prism_net::platform::Instant;
use prism_net::platform::mpsc::{Receiver, RecvTimeoutError};
use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prism_db::{Database, DbError, LaneRow, Update};
use prism_net::{Batch, Command, Handle};
use prism_proto::{Event, Position, RegionId, Seq, Verdict, canary};

use super::alarms::name;
use super::board::Board;
use super::history::History;
use super::leases::Held;

/// The tail is looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// A lane row is only a hint for a restart (the peer's database knows better), so acknowledgements
/// are written in company.
const FLUSH: Duration = Duration::from_millis(250);
/// Bytes per answer to a fetch, and in all.
const CHUNK: usize = 1 << 20;
const FETCH: usize = 8 << 20;

/// What the loop asks of this worker.
pub(super) enum OutboxJob {
    /// Load updates.
    Fetch { from: Seq, to: Seq },
    /// Judge a position.
    Verify { peer: RegionId, position: Position },
    /// There are new positions in [`Acks`].
    Acked,
    /// Others have committed something.
    Tail,
    /// Something is wrong with the database: look now.
    Look,
    /// Write what is acknowledged and leave.
    Stop,
}

/// Acknowledged positions that are not written yet: only the newest of each peer counts.
#[derive(Debug, Default)]
pub(super) struct Acks(Mutex<BTreeMap<RegionId, Position>>);

impl Acks {
    /// Returns whether the worker has to be woken.
    pub(super) fn put(&self, peer: RegionId, position: Position) -> bool {
        let mut acks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = acks.is_empty();
        acks.insert(peer, position);
        first
    }

    fn take(&self) -> BTreeMap<RegionId, Position> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put_back(&self, peer: RegionId, position: Position) {
        let mut acks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        acks.entry(peer).or_insert(position);
    }

    fn is_empty(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }
}

/// See the module.
pub(super) struct OutboxWorker {
    pub(super) jobs: Receiver<OutboxJob>,
    pub(super) database: Box<dyn Database>,
    pub(super) handle: Handle,
    pub(super) board: Arc<Board>,
    pub(super) history: History,
    pub(super) acks: Arc<Acks>,
    pub(super) held: Arc<Held>,
    /// Tail that the engine has been told.
    pub(super) told: Seq,
}

impl OutboxWorker {
    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        let mut tick = Instant::now();
        let mut flush = Instant::now();
        loop {
            let now = Instant::now();
            if now >= tick {
                self.tick();
                tick = Instant::now() + TICK;
            }
            let dirty = !self.acks.is_empty();
            if dirty && now >= flush {
                self.flush();
                flush = Instant::now() + FLUSH;
            }
            let next = if dirty { tick.min(flush) } else { tick };
            let nap = next.saturating_duration_since(Instant::now());
            match self.jobs.recv_timeout(nap) {
                Ok(OutboxJob::Fetch { from, to }) => self.fetch(from, to),
                Ok(OutboxJob::Verify { peer, position }) => self.verify(peer, position),
                Ok(OutboxJob::Tail) => self.tail(),
                Ok(OutboxJob::Look) => tick = Instant::now(),
                Ok(OutboxJob::Acked) | Err(RecvTimeoutError::Timeout) => {}
                Ok(OutboxJob::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.flush();
    }

    fn tell(&self, event: Event) {
        self.handle.send(Command::Event(event));
    }

    fn fetch(&mut self, from: Seq, to: Seq) {
        let mut next = from;
        let mut total = 0;
        // What peers lack must come from the stream that they have.
        let upto = match self.history.check(self.database.as_mut()) {
            Ok(Some(_)) => to,
            Ok(None) => Seq::ZERO,
            Err(error) => {
                self.unhealthy(&error);
                Seq::ZERO
            }
        };
        while next <= upto && total < FETCH {
            let mut batch = Batch::default();
            batch.reset(next);
            let mut expected = next;
            let read = self
                .database
                .outbox_read(next, upto, CHUNK, &mut |seq, update| {
                    // A row that is not there any more must not shift the others' numbers.
                    if seq == expected {
                        batch.push(update);
                        expected = expected.next();
                    }
                });
            match read {
                Ok(_) if batch.is_empty() => break,
                Ok(_) => {
                    total += batch.bytes();
                    next = expected;
                    self.handle.send(Command::Payloads(batch));
                }
                Err(error) => {
                    self.unhealthy(&error);
                    break;
                }
            }
        }
        self.tell(Event::Fetched {
            upto: Seq(next.0.saturating_sub(1)),
        });
    }

    fn verify(&mut self, peer: RegionId, position: Position) {
        let verdict = match self.database.outbox_verify(position) {
            Ok(verdict) => verdict,
            Err(error) => {
                self.unhealthy(&error);
                Verdict::Unknown
            }
        };
        self.tell(Event::Verified {
            peer,
            position,
            verdict,
        });
    }

    /// The payloads are fetched when a lane wants them.
    fn tail(&mut self) {
        match self.history.check(self.database.as_mut()) {
            Ok(None) => {}
            Ok(Some(region)) => self.tell_tail(Seq(region.next_seq.0.saturating_sub(1))),
            Err(error) => self.unhealthy(&error),
        }
    }

    fn tell_tail(&mut self, tail: Seq) {
        if tail > self.told && !canary!(TailNotPolled) {
            self.told = tail;
            self.board.tail(tail);
            self.tell(Event::Available { upto: tail });
        }
    }

    fn flush(&mut self) {
        let names = Arc::clone(&self.board.names);
        for (peer, mut position) in self.acks.take() {
            if canary!(LaneRowAhead) {
                position.seq = self.board.lock().tail;
            }
            // The word of one that was stopped, or cut off, may be older than its successor's.
            if !self.held.holds(peer) {
                continue;
            }
            if let Err(error) = self.database.lane_acked(names.region(peer), position) {
                self.acks.put_back(peer, position);
                self.unhealthy(&error);
            }
        }
    }

    fn tick(&mut self) {
        if self.board.lock().broken.is_some() {
            return;
        }
        let result = self.look();
        match result {
            Ok(()) => {
                let mut state = self.board.lock();
                let was = state.unready.take();
                state.away = false;
                state.alarms.clear(name::DATABASE, "");
                drop(state);
                if was.is_some() {
                    tracing::info!("the database answers, updates are accepted");
                }
            }
            Err(error) => self.unhealthy(&error),
        }
    }

    /// Everything that is done once a tick.
    fn look(&mut self) -> Result<(), DbError> {
        let Some(region) = self.history.check(self.database.as_mut())? else {
            return Ok(());
        };
        let tail = Seq(region.next_seq.0.saturating_sub(1));
        // Committed by a sibling whose word was lost, by SQL, or before this start.
        self.tell_tail(tail);
        self.board.lock().region = Some(region);
        let rows = self.board.lock().rows.clone();
        let oldest = self.oldest(&rows, tail)?;
        let positions = self.database.positions()?;
        let mut state = self.board.lock();
        for (stream, position) in positions {
            // Also what a sibling or direct SQL has applied: the watermark is the region's.
            if let Some(stream) = self.board.names.find(&stream)
                && let Some(inlet) = state.inlets.get_mut(usize::from(stream.0))
            {
                inlet.applied = inlet.applied.max(position.seq);
            }
        }
        state.oldest = oldest;
        Ok(())
    }

    /// When the oldest unacknowledged update of each lane was committed.
    fn oldest(&mut self, rows: &[LaneRow], tail: Seq) -> Result<Vec<Option<SystemTime>>, DbError> {
        let names = Arc::clone(&self.board.names);
        let mut oldest = vec![None; names.regions.len()];
        for row in rows {
            let Some(peer) = names.find(&row.peer) else {
                continue;
            };
            let i = usize::from(peer.0);
            let acked = self.board.lock().acked.get(i).copied().unwrap_or_default();
            let first = acked.max(row.acked.seq).next();
            if first > tail {
                continue;
            }
            let mut at = None;
            self.database
                .outbox_read(first, first, 1, &mut |_, bytes| {
                    at = Update::decode(bytes).ok().map(|update| update.hlc);
                })?;
            oldest[i] = at.map(|hlc| {
                // The clock's upper 48 bits are milliseconds.
                SystemTime::UNIX_EPOCH + Duration::from_millis(hlc.0 >> 16)
            });
        }
        Ok(oldest)
    }

    fn unhealthy(&self, error: &DbError) {
        let remedy = match error {
            DbError::Schema(_) => "run `prism migrate`",
            DbError::Unreachable(_) | DbError::Ambiguous(_) => {
                "start the database or mend the way to it; this node goes on by itself"
            }
            _ => "see the database's message; this node goes on by itself",
        };
        let mut state = self.board.lock();
        state.counters.database_errors += 1;
        state.unready = Some(format!("{error}; {remedy}"));
        state.away = error.is_away();
        state
            .alarms
            .raise(name::DATABASE, "", error.to_string(), remedy);
    }
}
