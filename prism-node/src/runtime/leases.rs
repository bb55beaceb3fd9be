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

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prism_db::{Database, DbError, LaneRow};
use prism_net::{Command, Handle};
use prism_proto::{Event, LaneStats, Position, RegionId, Seq, Target};

use super::alarms::name;
use super::board::{Board, lane_subject};
use super::identity::Identity;
use super::threads::Whole;

/// Leases are renewed this often.
const TICK: Duration = Duration::from_millis(750);
/// A lease outlives two renewals that went wrong; what its holder had to deliver goes on from a
/// sibling within this, a tick, and the time to open a session.
pub(super) const LEASE: Duration = Duration::from_millis(2_500);
/// The tick while a lane is about to change hands.
const HURRY: Duration = Duration::from_millis(150);
/// At its start a node leaves a lane to those before it in the order for this time each.
const HEAD_START: Duration = Duration::from_millis(1_500);
/// A node asks for its lanes when it has been up and well for so long.
const WELL: Duration = Duration::from_secs(5);
/// Such a question is forgotten after this, if it is not repeated.
const WANT: Duration = Duration::from_secs(3);
/// A lane that a node has given up is left to the others for this time.
const PAUSE: Duration = Duration::from_secs(2);
/// A lane that was given up is asked for again no sooner than this, doubled each time.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// A parked lane is given up when nothing has got through for this time, a lane that writes by SQL
/// when it has written nothing; doubled each time, so that a region that is down does not keep its
/// lane going to and fro.
const PARKED: Duration = Duration::from_millis(1_500);
const DIRECT: Duration = Duration::from_secs(2);
/// Every other node says something at least every three seconds, and the lane's target more often.
/// Who hears nobody is cut off, and does not need to go through all of its ladder to know.
const SILENCE: Duration = Duration::from_secs(3);
/// After this much of it the node looks more often.
const QUIET: Duration = Duration::from_secs(1);
/// Doublings.
const MAX_DOUBLINGS: u32 = 7;
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

/// Lanes that this node holds, with the time of the last renewal. A lease that is older than
/// [`LEASE`] is not believed in: this process was stopped, or its database does not answer, and a
/// sibling may have the lane by now.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<BTreeMap<RegionId, Instant>>);

impl Held {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<RegionId, Instant>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this node holds the lane, as far as it can know.
    pub(super) fn holds(&self, peer: RegionId) -> bool {
        self.with(|held| held.get(&peer).is_some_and(|at| at.elapsed() < LEASE))
    }

    /// True if it is new.
    fn renewed(&self, peer: RegionId, at: Instant) -> bool {
        self.with(|held| held.insert(peer, at).is_none())
    }

    fn forget(&self, peer: RegionId) -> bool {
        self.with(|held| held.remove(&peer).is_some())
    }

    fn take(&self) -> Vec<RegionId> {
        self.with(|held| mem::take(held).into_keys().collect())
    }

    /// Takes out those that have not been renewed in time.
    pub(super) fn expired(&self) -> Vec<RegionId> {
        self.with(|held| {
            held.extract_if(.., |_, at| at.elapsed() >= LEASE)
                .collect::<Vec<_>>()
        })
        .into_iter()
        .map(|(peer, _)| peer)
        .collect()
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

/// What this node remembers of a lane.
#[derive(Debug, Clone, Copy)]
struct Memory {
    /// How often it was given up without anything getting through in between.
    given_up: u32,
    given_up_at: Option<Instant>,
    held_since: Instant,
    acked: Seq,
    /// When something got through, or nothing was waiting.
    progress: Instant,
    /// Since when the lane writes by SQL.
    direct: Option<Instant>,
}

impl Memory {
    fn new(now: Instant) -> Self {
        Self {
            given_up: 0,
            given_up_at: None,
            held_since: now,
            acked: Seq::ZERO,
            progress: now,
            direct: None,
        }
    }

    fn doubled(&self, time: Duration) -> Duration {
        time.saturating_mul(1 << self.given_up.min(MAX_DOUBLINGS))
    }

    /// What the loop says of a lane that is held.
    fn note(&mut self, lane: &LaneStats, now: Instant) {
        if lane.acked.seq > self.acked {
            self.given_up = 0;
        }
        if lane.acked.seq != self.acked || lane.acked.seq >= lane.tail {
            self.progress = now;
            self.direct = None;
        }
        self.acked = lane.acked.seq;
        match lane.target {
            Some(Target::Direct) => {
                self.direct.get_or_insert(now);
            }
            _ => self.direct = None,
        }
    }

    fn waits(&self, now: Instant) -> bool {
        now - self.progress >= QUIET
    }

    fn gets_through(&self, lane: &LaneStats, alone: bool, now: Instant) -> bool {
        match lane.target {
            Some(Target::Parked(_)) => now - self.progress < self.doubled(PARKED),
            Some(_) if alone => now - self.progress < self.doubled(PARKED),
            Some(Target::Direct) => self
                .direct
                .is_none_or(|since| now - since < self.doubled(DIRECT)),
            _ => true,
        }
    }
}

/// One lane as a node of the region sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct View {
    /// Of this node in the order in which the nodes should have this lane; 0: it is preferred.
    place: u32,
    alone: bool,
    mine: bool,
    free: bool,
    /// Another node asks for it.
    wanted: bool,
    stale: bool,
    gets_through: bool,
    up: Duration,
    well: Duration,
    /// Since when it has been given up, if it has.
    given_up: Option<Duration>,
    ask_again: Duration,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Take or renew the lease.
    Hold,
    /// Ask whoever holds it.
    Want,
    /// Give it to the node that asks for it.
    Yield,
    /// Give it up: another one may do better.
    GiveUp,
    /// Nobody shall have it.
    Retire,
    /// Nothing.
    Leave,
}

fn decide(view: &View) -> Step {
    let preferred = view.place == 0;
    if view.stale {
        return if view.mine { Step::Retire } else { Step::Leave };
    }
    if view.mine {
        // Two nodes that read different files must not play ball.
        return match (view.wanted && !preferred, view.alone || view.gets_through) {
            (true, _) => Step::Yield,
            (false, true) => Step::Hold,
            (false, false) => Step::GiveUp,
        };
    }
    if view.free {
        let others_first = view.wanted && !preferred
            || view.up < HEAD_START.saturating_mul(view.place)
            || view.given_up.is_some_and(|ago| ago < PAUSE);
        return if others_first {
            Step::Leave
        } else {
            Step::Hold
        };
    }
    let asks = preferred
        && view.up >= WELL
        && view.well >= WELL
        && view.given_up.is_none_or(|ago| ago >= view.ask_again);
    if asks { Step::Want } else { Step::Leave }
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
            self.announce(peer, "it was not renewed in time");
        }
        if self.board.lock().broken.is_some() {
            self.resign();
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
                if row.holder.as_deref() == Some(me) {
                    self.hold(peer, at, &row)?;
                } else {
                    self.lost(peer, "another node has it");
                }
                Ok(Some(row))
            }
            Step::Want => {
                self.lost(peer, "another node has it");
                self.database.lane_want(lane, me, WANT)?;
                Ok(None)
            }
            Step::Yield => self.release(peer, "another node asks for it", row),
            Step::GiveUp => {
                let now = Instant::now();
                let memory = self.memory.entry(peer).or_insert_with(|| Memory::new(now));
                memory.given_up = memory.given_up.saturating_add(1);
                memory.given_up_at = Some(now);
                self.release(peer, "nothing gets through from here", row)
            }
            Step::Retire => self.release(peer, "its region is stale", row),
            Step::Leave => {
                self.lost(peer, "another node has it");
                Ok(None)
            }
        }
    }

    fn hold(&mut self, peer: RegionId, at: Instant, row: &LaneRow) -> Result<(), DbError> {
        let now = Instant::now();
        let memory = self.memory.entry(peer).or_insert_with(|| Memory::new(now));
        let fresh = self.held.renewed(peer, at);
        if fresh {
            memory.held_since = now;
            memory.progress = now;
            memory.direct = None;
        } else if now - memory.held_since < TOLD || self.engine_holds(peer) {
            return Ok(());
        }
        let region = self.database.region()?;
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

    /// By the last figures.
    fn engine_holds(&self, peer: RegionId) -> bool {
        let state = self.board.lock();
        let lane = state.snapshot.lanes.get(usize::from(peer.0));
        lane.is_some_and(|lane| lane.held)
    }

    fn lost(&self, peer: RegionId, why: &str) {
        if self.held.forget(peer) || self.engine_holds(peer) {
            self.announce(peer, why);
        }
    }

    /// The engine stops sending; what is wrong with the lane is its new holder's business.
    fn announce(&self, peer: RegionId, why: &str) {
        let lane = self.board.names.region(peer);
        tracing::info!(lane, "this node does not hold the lane any more: {why}");
        self.tell(Event::LaneLost { peer });
        let mut state = self.board.lock();
        for alarm in [name::PARKED, name::DIRECT, name::PEER_WAITING] {
            state.alarms.clear(alarm, &lane_subject(lane));
        }
    }

    fn release(
        &mut self,
        peer: RegionId,
        why: &str,
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
        for peer in self.held.take() {
            let lane = names.region(peer);
            self.tell(Event::LaneLost { peer });
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

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View {
        place: 0,
        alone: false,
        mine: false,
        free: false,
        wanted: false,
        stale: false,
        gets_through: true,
        up: Duration::from_secs(60),
        well: Duration::from_secs(60),
        given_up: None,
        ask_again: ASK_AGAIN,
    };

    #[test]
    fn a_lane_goes_to_its_preferred_node_and_stays_there() {
        let free = View { free: true, ..VIEW };
        let new = View {
            up: Duration::ZERO,
            well: Duration::ZERO,
            ..free
        };
        assert_eq!(decide(&new), Step::Hold);
        assert_eq!(decide(&View { place: 1, ..new }), Step::Leave);
        assert_eq!(decide(&View { place: 1, ..free }), Step::Hold);
        // Held by another one: asked for when this node has proven itself, by this node alone.
        assert_eq!(decide(&VIEW), Step::Want);
        assert_eq!(decide(&View { place: 1, ..VIEW }), Step::Leave);
        let well = Duration::from_secs(4);
        assert_eq!(decide(&View { well, ..VIEW }), Step::Leave);
        // The holder gives way, and does not take it before the one that asked.
        let mine = View {
            mine: true,
            wanted: true,
            ..VIEW
        };
        assert_eq!(decide(&View { place: 1, ..mine }), Step::Yield);
        assert_eq!(decide(&mine), Step::Hold);
        let asked = View {
            wanted: true,
            place: 1,
            ..free
        };
        assert_eq!(decide(&asked), Step::Leave);
    }

    #[test]
    fn a_lane_that_gets_nothing_through_is_given_up_for_a_while() {
        let stuck = View {
            mine: true,
            gets_through: false,
            ..VIEW
        };
        assert_eq!(decide(&stuck), Step::GiveUp);
        // Nobody else could do it.
        let alone = View {
            alone: true,
            ..stuck
        };
        assert_eq!(decide(&alone), Step::Hold);
        let given_up = |seconds| View {
            given_up: Some(Duration::from_secs(seconds)),
            ..VIEW
        };
        // Free: somebody else first, but not for ever.
        let free = |view| View { free: true, ..view };
        assert_eq!(decide(&free(given_up(1))), Step::Leave);
        assert_eq!(decide(&free(given_up(3))), Step::Hold);
        // Held by another one, who may get it through.
        assert_eq!(decide(&given_up(3)), Step::Leave);
        assert_eq!(decide(&given_up(11)), Step::Want);
    }

    #[test]
    fn patience_doubles_until_something_gets_through() {
        let start = Instant::now();
        let mut memory = Memory::new(start);
        let mut lane = LaneStats::default();
        lane.held = true;
        lane.tail = Seq(5);
        lane.target = Some(Target::Parked(prism_proto::Instant::from_micros(1)));
        let after = |ms| start + Duration::from_millis(ms);
        memory.note(&lane, after(1_000));
        assert!(memory.gets_through(&lane, false, after(1_000)));
        assert!(!memory.gets_through(&lane, false, after(1_600)));
        memory.given_up = 1;
        assert!(memory.gets_through(&lane, false, after(1_600)));
        assert!(!memory.gets_through(&lane, false, after(3_100)));
        lane.acked.seq = Seq(1);
        memory.note(&lane, after(3_100));
        assert_eq!(memory.given_up, 0);
        // A node that hears nobody does not wait for its ladder.
        lane.target = Some(Target::Node(prism_proto::NodeId(0)));
        assert!(memory.gets_through(&lane, false, after(9_000)));
        assert!(!memory.gets_through(&lane, true, after(9_000)));
        // SQL that writes is as good as a node.
        lane.target = Some(Target::Direct);
        memory.note(&lane, after(4_000));
        assert!(memory.gets_through(&lane, false, after(5_900)));
        assert!(!memory.gets_through(&lane, false, after(6_100)));
    }
}
