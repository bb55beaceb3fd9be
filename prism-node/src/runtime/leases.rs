//! The leases worker: which lanes this node holds.
//!
//! Lanes belong to the region. The lease of a lane runs by the database's clock; whoever holds it
//! delivers. The lanes are spread: lane `i` prefers the node at place `i mod n` of the failover
//! order. A free lane is taken by the preferred node at once and by the others after a head start;
//! a preferred node that comes back asks for its lane, and the holder gives way. A node that gets
//! nothing through gives the lane up for a while: a sibling may reach what it cannot.
//!
//! It has a thread and a connection of its own: a lease must not end because something else takes
//! long.

mod decide;
mod held;

use prism_net::platform::Instant;
use prism_net::platform::mpsc::{Receiver, RecvTimeoutError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prism_db::{Database, DbError, LaneRow};
use prism_net::{Command, Handle};
use prism_proto::{Event, LaneStats, Position, RegionId, Seq};

use super::alarms::name;
use super::board::{Board, lane_subject};
use super::identity::Identity;
use super::threads::Whole;
use decide::{ASK_AGAIN, Memory, Parting, QUIET, Step, View, contradicts, decide};
pub(super) use held::{Held, LEASE, Stopped};

/// Leases are renewed this often.
const TICK: Duration = Duration::from_millis(750);
/// The tick while a lane is about to change hands.
const HURRY: Duration = Duration::from_millis(150);
/// Such a question is forgotten after this, if it is not repeated.
const WANT: Duration = Duration::from_secs(3);
/// Every other node says something at least every three seconds, and the lane's target more often.
/// Who hears nobody is cut off, and does not need to go through all of its ladder to know.
const SILENCE: Duration = Duration::from_secs(3);
/// A lane that stopped because of a fork is tried again this often.
const RESUME: Duration = Duration::from_secs(10);
/// The engine should know by then of a lane that it has been told to hold.
const TOLD: Duration = Duration::from_secs(2);

/// What others ask of this worker.
pub(super) enum LeaseJob {
    /// Something has changed: look now.
    Look,
    /// Give the leases back and leave.
    Stop,
}

/// See the module.
pub(super) struct LeaseWorker {
    jobs: Receiver<LeaseJob>,
    database: Box<dyn Database>,
    handle: Handle,
    board: Arc<Board>,
    whole: Whole,
    identity: Identity,
    held: Arc<Held>,
    stopped: Arc<Stopped>,
    started: Instant,
    /// Since when nothing has been wrong.
    well: Instant,
    resumed: Instant,
    /// Datagrams received, and when that changed.
    heard: (u64, Instant),
    memory: BTreeMap<RegionId, Memory>,
}

impl LeaseWorker {
    pub(super) fn new(
        jobs: Receiver<LeaseJob>,
        database: Box<dyn Database>,
        handle: Handle,
        whole: Whole,
        identity: Identity,
        held: Arc<Held>,
        stopped: Arc<Stopped>,
    ) -> Self {
        let now = Instant::now();
        Self {
            jobs,
            database,
            handle,
            board: Arc::clone(&whole.board),
            whole,
            identity,
            held,
            stopped,
            started: now,
            well: now,
            resumed: now,
            heard: (0, now),
            memory: BTreeMap::new(),
        }
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        loop {
            let nap = self.tick();
            match self.jobs.recv_timeout(nap) {
                Ok(LeaseJob::Look) | Err(RecvTimeoutError::Timeout) => {}
                Ok(LeaseJob::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.resign();
    }

    fn tell(&self, event: Event) {
        self.handle.send(Command::Event(event));
    }

    fn tick(&mut self) -> Duration {
        for peer in self.held.expired() {
            self.well = Instant::now();
            self.announce(peer, Parting::Late);
        }
        if self.board.lock().broken.is_some() {
            self.resign();
            // Of no stream does this node know anything any more: those who serve say what is wrong.
            self.board.clear_streams();
            return TICK;
        }
        self.board.refresh();
        match self.look() {
            Ok(hurry) => {
                let mut state = self.board.lock();
                state.alarms.clear(name::DATABASE, "leases");
                if state.unready.is_some() {
                    self.well = Instant::now();
                }
                if hurry { HURRY } else { TICK }
            }
            Err(error) => {
                self.well = Instant::now();
                let detail = format!("the leases of the lanes cannot be renewed: {error}");
                let remedy = match error {
                    DbError::Schema(_) => "run `prism migrate`",
                    _ => "see the database's message; a sibling delivers meanwhile, if it can",
                };
                let mut state = self.board.lock();
                state.counters.database_errors += 1;
                state.alarms.raise(name::DATABASE, "leases", detail, remedy);
                TICK
            }
        }
    }

    /// Looks at every lane; true if one is about to change hands.
    fn look(&mut self) -> Result<bool, DbError> {
        if self.resumed.elapsed() >= RESUME {
            self.resumed = Instant::now();
            // Forgotten here, so that the renewal below tells the engine anew.
            for peer in self.stopped.take() {
                self.held.forget(peer);
            }
        }
        if !self.identity.keep(self.database.as_mut(), &self.whole)? {
            self.resign();
            return Ok(false);
        }
        let names = Arc::clone(&self.board.names);
        let mut known = self.database.lanes()?;
        let mut rows = Vec::new();
        let mut hurry = false;
        let mut failed = None;
        for peer in names.peers() {
            let lane = names.region(peer);
            let row = match known.iter().position(|row| row.peer == lane) {
                Some(i) => known.swap_remove(i),
                None => LaneRow {
                    peer: lane.to_owned(),
                    ..LaneRow::default()
                },
            };
            self.follow(peer, &row);
            let step = decide(&self.view(peer, &row));
            let quiet = self.heard.1.elapsed() >= QUIET && names.siblings() > 1;
            let waits = |memory: &Memory| memory.waits(Instant::now());
            hurry |= step == Step::Want
                || step == Step::Hold && quiet && self.memory.get(&peer).is_some_and(waits);
            match self.act(peer, step, &row) {
                Ok(new) => rows.push(new.unwrap_or(row)),
                // One lane's row (not migrated, locked) is no reason to give up the others.
                Err(error @ (DbError::Sql { .. } | DbError::Schema(_))) => {
                    failed = Some(error);
                    rows.push(row);
                }
                Err(error) => return Err(error),
            }
        }
        self.board.lock().rows = rows;
        failed.map_or(Ok(hurry), Err)
    }

    fn view(&mut self, peer: RegionId, row: &LaneRow) -> View {
        let names = Arc::clone(&self.board.names);
        let now = Instant::now();
        let me = names.my_name();
        let mine = row.holder.as_deref() == Some(me);
        let (stats, received) = {
            let state = self.board.lock();
            let lane = state.snapshot.lanes.get(usize::from(peer.0));
            (lane.copied().unwrap_or_default(), state.snapshot.received)
        };
        if received != self.heard.0 {
            self.heard = (received, now);
        }
        let silence = now - self.heard.1 >= SILENCE;
        let memory = self.memory.entry(peer).or_insert_with(|| Memory::new(now));
        if mine && stats.held {
            memory.note(&stats, now);
        }
        View {
            place: names.place(peer),
            alone: names.siblings() < 2,
            mine,
            free: row.holder.is_none(),
            wanted: row.wanted.as_deref().is_some_and(|node| node != me),
            stale: row.stale,
            gets_through: !stats.held || memory.gets_through(&stats, silence, now),
            up: now - self.started,
            well: now - self.well,
            given_up: memory.given_up_at.map(|at| now - at),
            ask_again: memory.doubled(ASK_AGAIN),
        }
    }

    /// Returns the row if it has changed.
    fn act(
        &mut self,
        peer: RegionId,
        step: Step,
        row: &LaneRow,
    ) -> Result<Option<LaneRow>, DbError> {
        let names = Arc::clone(&self.board.names);
        let (lane, me) = (names.region(peer), names.my_name());
        match step {
            Step::Hold => {
                // By the time at which it was asked for: the answer may take long.
                let at = Instant::now();
                let row = self.database.lane_lease(lane, me, LEASE)?;
                if at.elapsed() >= LEASE {
                    // The answer took so long that it is over by this node's own clock.
                    self.lost(peer, Parting::Late);
                } else if row.holder.as_deref() == Some(me) {
                    self.hold(peer, at, &row)?;
                } else {
                    self.lost(peer, Parting::Taken);
                }
                Ok(Some(row))
            }
            Step::Want => {
                self.lost(peer, Parting::Taken);
                self.database.lane_want(lane, me, WANT)?;
                Ok(None)
            }
            Step::Yield => self.release(peer, Parting::Asked, row),
            Step::GiveUp => {
                let now = Instant::now();
                let memory = self.memory.entry(peer).or_insert_with(|| Memory::new(now));
                memory.given_up = memory.given_up.saturating_add(1);
                memory.given_up_at = Some(now);
                self.release(peer, Parting::Stuck, row)
            }
            Step::Retire => self.release(peer, Parting::Stale, row),
            Step::Leave => {
                self.lost(peer, Parting::Taken);
                Ok(None)
            }
        }
    }

    /// A lane that another node has, or nobody: further than this node knew is not parked any more.
    /// (Of a lane of its own the row says later what the node knows already.)
    fn follow(&self, peer: RegionId, row: &LaneRow) {
        let names = &self.board.names;
        if row.holder.as_deref() == Some(names.my_name()) {
            return;
        }
        self.board.acked(peer, row.acked.seq, Seq::ZERO);
        if row.stale {
            let subject = lane_subject(names.region(peer));
            self.board.lock().alarms.clear(name::PARKED, &subject);
        }
    }

    fn hold(&mut self, peer: RegionId, at: Instant, row: &LaneRow) -> Result<(), DbError> {
        let now = Instant::now();
        let lane = self.engine_lane(peer);
        let newest = self.board.lock().newest;
        let memory = self.memory.entry(peer).or_insert_with(|| Memory::new(now));
        let fresh = self.held.renewed(peer, at);
        if fresh {
            memory.held_since = now;
            memory.progress = now;
            memory.direct = None;
        } else if now - memory.held_since < TOLD
            || lane.is_some_and(|lane| {
                !memory.row_stays_behind(row.acked, lane.acked) && !contradicts(&lane, newest)
            })
        {
            return Ok(());
        }
        let region = self.database.region()?;
        if !self.held.holds(peer) {
            // It has run out meanwhile.
            self.lost(peer, Parting::Late);
            return Ok(());
        }
        let own = Position {
            epoch: region.epoch,
            seq: Seq(region.next_seq.0.saturating_sub(1)),
            tag: region.last_tag,
        };
        if fresh {
            let (lane, acked) = (self.board.names.region(peer), row.acked.seq.0);
            tracing::info!(lane, acked, "this node holds the lane now");
        }
        self.board.acked(peer, row.acked.seq, Seq::ZERO);
        self.tell(Event::LaneHeld {
            peer,
            acked: row.acked,
            own,
        });
        Ok(())
    }

    /// The lane, if the engine holds it, by the last figures.
    fn engine_lane(&self, peer: RegionId) -> Option<LaneStats> {
        let state = self.board.lock();
        let lane = state.snapshot.lanes.get(usize::from(peer.0));
        lane.filter(|lane| lane.held).copied()
    }

    fn lost(&self, peer: RegionId, why: Parting) {
        if self.held.forget(peer) || self.engine_lane(peer).is_some() {
            self.announce(peer, why);
        }
    }

    fn announce(&self, peer: RegionId, why: Parting) {
        let lane = self.board.names.region(peer);
        let words = why.words();
        tracing::info!(lane, "this node does not hold the lane any more: {words}");
        self.let_go(peer, why == Parting::Stuck);
    }

    /// The engine stops sending; what is wrong with the lane is its new holder's business. But that
    /// nothing got through from here stays said until something does: siblings that hand a lane to
    /// and fro would otherwise be content for as long as each of them tries.
    fn let_go(&self, peer: RegionId, stuck: bool) {
        self.tell(Event::LaneLost { peer });
        let subject = lane_subject(self.board.names.region(peer));
        let mut state = self.board.lock();
        for alarm in [name::DIRECT, name::PEER_WAITING, name::ROWS_MISSING] {
            state.alarms.clear(alarm, &subject);
        }
        if !stuck {
            state.alarms.clear(name::PARKED, &subject);
        }
    }

    fn release(
        &mut self,
        peer: RegionId,
        why: Parting,
        row: &LaneRow,
    ) -> Result<Option<LaneRow>, DbError> {
        self.lost(peer, why);
        let names = Arc::clone(&self.board.names);
        self.database
            .lane_release(names.region(peer), names.my_name())?;
        Ok(Some(LaneRow {
            holder: None,
            ..row.clone()
        }))
    }

    /// This node is of no use any more: a sibling shall deliver.
    fn resign(&mut self) {
        let names = Arc::clone(&self.board.names);
        let mut held = self.held.take();
        // One that ran out while the engine was being told of it.
        let told = |peer: &RegionId| self.engine_lane(*peer).is_some() && !held.contains(peer);
        let told: Vec<_> = names.peers().filter(told).collect();
        held.extend(told);
        for peer in held {
            let lane = names.region(peer);
            tracing::info!(lane, "this node gives the lane back");
            self.let_go(peer, false);
            // By its name a lease is the other process's now.
            if self.identity.is_lost() {
                continue;
            }
            if let Err(error) = self.database.lane_release(lane, names.my_name()) {
                tracing::warn!(
                    lane,
                    "the lease could not be given back, it will expire: {error}"
                );
            }
        }
    }
}
