//! The outbox worker: what the lanes need of the own database. It loads updates that are no longer
//! in memory, judges the peers' positions, writes what has been acknowledged, holds the leases,
//! trims, and is the backstop that finds updates committed elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prism_db::{Database, DbError, LaneRow, Update};
use prism_net::{Batch, Command, Handle};
use prism_proto::{Event, Position, RegionId, Seq, Verdict};

use super::alarms::name;
use super::board::{Board, position_words};
use super::threads::Whole;

/// Leases are renewed and the tail is looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// A lease outlives two renewals that went wrong.
const LEASE: Duration = Duration::from_secs(3);
/// The first node of a region gets this head start over the second, and so on.
const HEAD_START: Duration = Duration::from_millis(1_500);
/// A lane row is only a hint for a restart (the peer's database knows better), so acknowledgements
/// are written in company.
const FLUSH: Duration = Duration::from_millis(250);
/// Rows stay at least so long, whatever is configured: what became of an ambiguous COMMIT is read
/// from them, by then acknowledged or not.
const KEEP: Duration = Duration::from_secs(60);
/// Outbox rows are trimmed this often, so many at a time.
const TRIM: Duration = Duration::from_secs(10);
const TRIM_ROWS: u32 = 5_000;
/// What a tick may spend on it: fetches wait meanwhile.
const TRIM_BUDGET: Duration = Duration::from_millis(200);
/// A lane that stopped because of a fork is tried again this often.
const RESUME: Duration = Duration::from_secs(10);
/// Bytes per answer to a fetch, and in all.
const CHUNK: usize = 1 << 20;
const FETCH: usize = 8 << 20;

const REWOUND: &str = "restart this node: it then compares itself with every region, and alarms \
    if they have what this database has lost; rebuild this database from a healthy region in that \
    case";

/// What the loop asks of this worker.
pub(super) enum OutboxJob {
    /// Load updates.
    Fetch { from: Seq, to: Seq },
    /// Judge a position.
    Verify { peer: RegionId, position: Position },
    /// There are new positions in [`Acks`].
    Acked,
    /// Something is wrong with the database: look now.
    Look,
    /// Give the leases back and leave.
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

/// Lanes that the engine has stopped for good.
#[derive(Debug, Default)]
pub(super) struct Stopped(Mutex<BTreeSet<RegionId>>);

impl Stopped {
    pub(super) fn add(&self, peer: RegionId) {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        set.insert(peer);
    }

    fn take(&self) -> BTreeSet<RegionId> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See the module.
pub(super) struct OutboxWorker {
    pub(super) jobs: Receiver<OutboxJob>,
    pub(super) database: Box<dyn Database>,
    pub(super) handle: Handle,
    pub(super) board: Arc<Board>,
    pub(super) whole: Whole,
    pub(super) acks: Arc<Acks>,
    pub(super) stopped: Arc<Stopped>,
    pub(super) retention: Duration,
    /// Lanes that this node holds.
    pub(super) held: BTreeSet<RegionId>,
    /// Tail that the engine has been told.
    pub(super) told: Seq,
    /// Where the own stream was when it was last looked at.
    pub(super) last: Option<Position>,
    pub(super) started: Instant,
    pub(super) trimmed: Instant,
    pub(super) resumed: Instant,
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
                Ok(OutboxJob::Look) => tick = Instant::now(),
                Ok(OutboxJob::Acked) | Err(RecvTimeoutError::Timeout) => {}
                Ok(OutboxJob::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.leave();
    }

    fn tell(&self, event: Event) {
        self.handle.send(Command::Event(event));
    }

    fn fetch(&mut self, from: Seq, to: Seq) {
        let mut next = from;
        let mut total = 0;
        while next <= to && total < FETCH {
            let mut batch = Batch::default();
            batch.reset(next);
            let mut expected = next;
            let read = self
                .database
                .outbox_read(next, to, CHUNK, &mut |seq, update| {
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

    fn flush(&mut self) {
        let names = Arc::clone(&self.board.names);
        for (peer, position) in self.acks.take() {
            if let Err(error) = self.database.lane_acked(names.region(peer), position) {
                self.acks.put_back(peer, position);
                self.unhealthy(&error);
            }
        }
    }

    fn tick(&mut self) {
        if self.board.lock().broken.is_some() {
            return self.resign();
        }
        let result = self.look();
        match result {
            Ok(()) => {
                let mut state = self.board.lock();
                let was = state.unready.take();
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
        let region = self.database.region()?;
        let own = Position {
            epoch: region.epoch,
            seq: Seq(region.next_seq.0.saturating_sub(1)),
            tag: region.last_tag,
        };
        if self.rewound(own)? {
            return Ok(());
        }
        if own.seq > self.told {
            // Committed by a sibling whose word was lost, by SQL, or before this start.
            self.told = own.seq;
            self.board.tail(own.seq);
            self.tell(Event::Available { upto: own.seq });
        }
        self.board.lock().region = Some(region);
        let rows = self.leases(own)?;
        let oldest = self.oldest(&rows, own.seq)?;
        let rejected = self.database.rejected_count()?;
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
        state.rows = rows;
        state.oldest = oldest;
        state.rejected = rejected;
        if rejected > 0 {
            state.alarms.raise(
                name::REJECTED,
                "",
                format!("{rejected} updates were refused by this region's database for good"),
                "look at them in the table `rejected` of the prism schema and resolve them",
            );
        } else {
            state.alarms.clear(name::REJECTED, "");
        }
        drop(state);
        self.trim()
    }

    /// The own database may have been put back while this node runs: restored, or replaced by a
    /// standby that lacked the newest commits. Numbers are then given out a second time, which the
    /// peers' databases would notice late, and the loop has the payloads of the first.
    fn rewound(&mut self, own: Position) -> Result<bool, DbError> {
        if let Some(last) = self.last.filter(|last| *last != own)
            && self.database.outbox_verify(last)? == Verdict::Forked
        {
            let why = format!(
                "the database of this region has gone back: it had {}, now it has {}",
                position_words(last),
                position_words(own)
            );
            self.whole.broken(name::FORK, "", why, REWOUND);
            self.resign();
            return Ok(true);
        }
        self.last = Some(own);
        Ok(false)
    }

    /// This node is of no use any more: a sibling shall deliver.
    fn resign(&mut self) {
        for &peer in &self.held {
            self.tell(Event::LaneLost { peer });
        }
        self.leave();
    }

    fn leases(&mut self, own: Position) -> Result<Vec<LaneRow>, DbError> {
        if self.resumed.elapsed() >= RESUME {
            self.resumed = Instant::now();
            // Forgotten here, so that the renewal below tells the engine anew.
            for peer in self.stopped.take() {
                self.held.remove(&peer);
            }
        }
        let names = Arc::clone(&self.board.names);
        let rank = u32::try_from(names.rank).unwrap_or(u32::MAX);
        if self.started.elapsed() < HEAD_START.saturating_mul(rank) {
            return self.database.lanes();
        }
        let mut rows = Vec::new();
        let mut failed = None;
        for peer in names.peers() {
            let lane = names.region(peer);
            match self.database.lane_lease(lane, names.my_name(), LEASE) {
                Ok(row) => {
                    self.hold(peer, &row, own);
                    rows.push(row);
                }
                // One lane's row (not migrated, locked) is no reason to give up the others.
                Err(error @ (DbError::Sql { .. } | DbError::Schema(_))) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(rows), Err)
    }

    fn hold(&mut self, peer: RegionId, row: &LaneRow, own: Position) {
        let names = &self.board.names;
        let lane = names.region(peer);
        let mine = row.holder.as_deref() == Some(names.my_name());
        if mine && self.held.insert(peer) {
            tracing::info!(
                lane,
                acked = row.acked.seq.0,
                "this node holds the lane now"
            );
            self.board.acked(peer, row.acked.seq);
            self.tell(Event::LaneHeld {
                peer,
                acked: row.acked,
                own,
            });
        } else if !mine && self.held.remove(&peer) {
            let holder = row.holder.as_deref().unwrap_or("nobody");
            tracing::info!(lane, holder, "another node holds the lane now");
            self.tell(Event::LaneLost { peer });
        }
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

    fn trim(&mut self) -> Result<(), DbError> {
        if self.trimmed.elapsed() < TRIM {
            return Ok(());
        }
        let start = Instant::now();
        while start.elapsed() < TRIM_BUDGET {
            let rows = self
                .database
                .outbox_trim(self.retention.max(KEEP), TRIM_ROWS)?;
            if rows < u64::from(TRIM_ROWS) {
                self.trimmed = Instant::now();
                break;
            }
        }
        // Otherwise there is more: it goes on at the next tick.
        Ok(())
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
        state
            .alarms
            .raise(name::DATABASE, "", error.to_string(), remedy);
    }

    fn leave(&mut self) {
        self.flush();
        let names = Arc::clone(&self.board.names);
        for peer in mem::take(&mut self.held) {
            let lane = names.region(peer);
            if let Err(error) = self.database.lane_release(lane, names.my_name()) {
                tracing::warn!(
                    lane,
                    "the lease could not be given back, it will expire: {error}"
                );
            }
        }
    }
}
