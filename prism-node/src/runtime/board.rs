//! What the node knows about itself: written by the loop and the workers, read by HTTP.

use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use prism_db::{LaneRow, RegionRow};
use prism_net::platform::{Condvar, Instant, Mutex, MutexGuard, wall};
use prism_net::{Command, Handle, Snapshot};
use prism_proto::{ApplyCause, InletState, Position, RegionId, Seq, Tag, Target};

use super::alarms::{Alarms, name};
use super::names::Names;
use super::peers;
use crate::metrics;
use crate::status;

/// What a status waits for the loop's figures.
const FRESH: Duration = Duration::from_millis(100);

/// What one inlet has done.
#[derive(Debug, Clone, Default)]
pub(crate) struct InletFigures {
    /// Watermark.
    pub(crate) applied: Seq,
    /// State as the engine tells it.
    pub(crate) state: Option<InletState>,
    /// Why the last apply waits, for people.
    pub(crate) waits: Option<String>,
    /// Updates executed here.
    pub(crate) executed: u64,
    /// Updates that had been applied before.
    pub(crate) skipped: u64,
    /// Row counts that differed.
    pub(crate) drift: u64,
}

/// What one peer's database has refused of the own stream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PeerRefusals {
    /// Since the start.
    pub(crate) count: u64,
    /// The newest.
    pub(crate) last: Seq,
}

/// Counters of the workers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Updates committed at this node.
    pub(crate) submitted: u64,
    /// Updates refused by the own database.
    pub(crate) refused: u64,
    /// Local transactions.
    pub(crate) submit_batches: u64,
    /// Apply transactions.
    pub(crate) apply_batches: u64,
    /// Updates undone because a region refused them.
    pub(crate) undone: u64,
    /// Failed database operations.
    pub(crate) database_errors: u64,
    /// Notices that found their queue full.
    pub(crate) notices_lost: u64,
}

/// The file spool.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JournalFigures {
    /// Updates that wait in it.
    pub(crate) entries: u64,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// When the oldest was accepted.
    pub(crate) oldest: Option<SystemTime>,
    /// A disk error has ended all appending.
    pub(crate) latched: bool,
}

/// Everything behind the lock.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The loop's figures.
    pub(crate) snapshot: Snapshot,
    /// How often they have come.
    rounds: u64,
    /// Own numbering; `None` until the database was reached.
    pub(crate) region: Option<RegionRow>,
    /// As the database knows the lanes.
    pub(crate) rows: Vec<LaneRow>,
    /// Newest committed update known of.
    pub(crate) tail: Seq,
    /// The same with its tag, of those of which that is known; `None` until the database was reached.
    pub(crate) newest: Option<Position>,
    /// The own database lacks updates that it had committed.
    pub(crate) gone_back: bool,
    /// Acknowledged per region.
    pub(crate) acked: Vec<Seq>,
    /// Per region: no refusal at or below it remains to be told (see `Output::Acked`).
    pub(crate) clean: Vec<Seq>,
    /// Commit time of the oldest unacknowledged update per region.
    pub(crate) oldest: Vec<Option<SystemTime>>,
    /// Per region.
    pub(crate) inlets: Vec<InletFigures>,
    /// Per region.
    pub(crate) refusals: Vec<PeerRefusals>,
    /// What is wrong.
    pub(crate) alarms: Alarms,
    /// Unresolved dead letters.
    pub(crate) rejected: u64,
    /// The file spool.
    pub(crate) journal: JournalFigures,
    /// Why the database takes no updates.
    pub(crate) unready: Option<String>,
    /// It is away, or read-only, or full: the journal takes the updates meanwhile.
    pub(crate) away: bool,
    /// Why this node is of no use until it is restarted: no good news later takes it back.
    pub(crate) broken: Option<String>,
    /// The part of this node that has stopped, and why: the process ends, for a supervisor to start
    /// it anew.
    pub(crate) died: Option<String>,
    /// Shutting down.
    pub(crate) draining: bool,
    /// Shutting down: whoever waits for something gives up then.
    pub(crate) drain_by: Option<Instant>,
    /// Figures.
    pub(crate) counters: Counters,
    /// Digest of the own catalogue, as peers are told it.
    pub(crate) catalogue: u64,
}

impl State {
    /// Whether updates are taken although the database takes none: into the journal.
    fn spools(&self) -> bool {
        let full = self.alarms.stands(name::JOURNAL_FULL);
        self.away && !self.journal.latched && !full
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) names: Arc<Names>,
    state: Mutex<State>,
    progress: Condvar,
    /// Where fresh figures are asked for, once the loop is there.
    figures: OnceLock<Handle>,
}

impl Board {
    /// A board that knows nothing yet.
    pub(crate) fn new(names: Arc<Names>) -> Self {
        let n = names.regions.len();
        Self {
            state: Mutex::new(State {
                acked: vec![Seq::ZERO; n],
                clean: vec![Seq::ZERO; n],
                oldest: vec![None; n],
                inlets: vec![InletFigures::default(); n],
                refusals: vec![PeerRefusals::default(); n],
                unready: Some("the database has not been reached yet".to_owned()),
                ..State::default()
            }),
            names,
            progress: Condvar::new(),
            figures: OnceLock::new(),
        }
    }

    /// From now on figures can be asked for.
    pub(crate) fn connect(&self, handle: Handle) {
        let _ = self.figures.set(handle);
    }

    /// Has the loop tell its figures: those of the last round would be up to a second old, next to
    /// acknowledgements that are not. A loop that does not answer is not waited for.
    pub(super) fn refresh(&self) {
        let Some(handle) = self.figures.get() else {
            return;
        };
        let before = self.lock().rounds;
        if handle.try_send(Command::Snapshot).is_ok() {
            let deadline = Instant::now() + FRESH;
            self.wait_until(deadline, |state| state.rounds > before);
        }
    }

    /// Changes or reads the state; hold it briefly, the loop waits for it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises an alarm about this region, node or peer.
    pub(crate) fn raise(&self, name: &'static str, subject: &str, detail: String, remedy: &str) {
        self.lock().alarms.raise(name, subject, detail, remedy);
    }

    /// A newer tail of the own stream.
    pub(crate) fn tail(&self, tail: Seq) {
        let mut state = self.lock();
        state.tail = state.tail.max(tail);
    }

    /// This update of the own stream is committed.
    pub(crate) fn committed(&self, seq: Seq, tag: Tag) {
        let mut state = self.lock();
        state.tail = state.tail.max(seq);
        if let Some(newest) = state.newest.as_mut().filter(|newest| newest.seq < seq) {
            (newest.seq, newest.tag) = (seq, tag);
        }
    }

    /// The own stream was here.
    pub(crate) fn newest(&self, own: Position) {
        let mut state = self.lock();
        state.tail = state.tail.max(own.seq);
        if state.newest.is_none_or(|newest| newest.seq < own.seq) {
            state.newest = Some(own);
        }
    }

    /// A peer's database has committed up to here, somebody says.
    pub(crate) fn acked(&self, peer: RegionId, seq: Seq, clean: Seq) {
        self.set_acked(peer, |known, was| (known.max(seq), was.max(clean)));
    }

    /// A peer's database is here, says the own lane. It may have been put back.
    pub(crate) fn acked_by_lane(&self, peer: RegionId, seq: Seq, clean: Seq) {
        self.set_acked(peer, |_, _| (seq, clean));
    }

    fn set_acked(&self, peer: RegionId, next: impl FnOnce(Seq, Seq) -> (Seq, Seq)) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let i = usize::from(peer.0);
        if let (Some(acked), Some(clean)) = (state.acked.get_mut(i), state.clean.get_mut(i)) {
            let before = *acked;
            (*acked, *clean) = next(*acked, *clean);
            if *acked > before {
                clear_lane_alarms(state, self.names.region(peer));
            }
        }
        drop(guard);
        self.progress.notify_all();
    }

    /// Nothing is said about any lane or stream any more.
    pub(crate) fn clear_streams(&self) {
        let mut state = self.lock();
        for peer in self.names.peers() {
            clear_lane_alarms(&mut state, self.names.region(peer));
            clear_inlet_alarms(&mut state, self.names.region(peer));
        }
    }

    /// New figures of the loop.
    pub(crate) fn snapshot(&self, snapshot: &Snapshot) {
        let mut state = self.lock();
        peers::judge(&mut state, &self.names, snapshot);
        state.snapshot.clone_from(snapshot);
        state.rounds += 1;
        for peer in self.names.peers() {
            let Some(lane) = snapshot.lanes.get(usize::from(peer.0)) else {
                continue;
            };
            if !lane.held || lane.acked.seq < lane.tail {
                continue;
            }
            let region = self.names.region(peer);
            // A lane that only tries again proves nothing: what is acknowledged is then what the
            // own database remembers, and that may have been restored.
            if lane.streaming {
                clear_lane_alarms(&mut state, region);
            } else if lane.target == Some(Target::Direct) {
                state.alarms.clear(name::PARKED, &lane_subject(region));
            }
        }
        drop(state);
        self.progress.notify_all();
    }

    /// Waits until `done` says so or the deadline passes; looks again whenever something moves.
    pub(crate) fn wait_until(&self, deadline: Instant, done: impl Fn(&State) -> bool) -> bool {
        let mut state = self.lock();
        loop {
            if done(&state) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // Not every change notifies (an inlet's figures, for example).
            let nap = left.min(Duration::from_millis(100));
            state = self
                .progress
                .wait_timeout(state, nap)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Up to here a peer's database has committed the own stream, and nothing of it is refused
    /// there that is not known here.
    pub(crate) fn confirmed(&self, state: &State, peer: RegionId) -> Seq {
        let clean = state.clean.get(usize::from(peer.0)).copied();
        acked(state, &self.names, peer).min(clean.unwrap_or_default())
    }

    /// Lanes of the region with what remains for each: `(peer, updates)`.
    pub(crate) fn remaining(&self, state: &State) -> Vec<(String, u64)> {
        self.names
            .peers()
            .filter_map(|peer| {
                let acked = acked(state, &self.names, peer);
                let lag = tail(state).0.saturating_sub(acked.0);
                (lag > 0).then(|| (self.names.region(peer).to_owned(), lag))
            })
            .collect()
    }

    /// Whether this node has something to deliver. A lane that a sibling holds is the sibling's.
    ///
    /// By the database's rows, not by the loop's snapshot: that one may be older than the newest
    /// commit.
    pub(crate) fn delivering(&self, state: &State) -> bool {
        state.broken.is_none()
            && self.names.peers().any(|peer| {
                let name = self.names.region(peer);
                let row = state.rows.iter().find(|row| row.peer == name);
                let holder = row.and_then(|row| row.holder.as_deref());
                let mine = holder.is_none_or(|holder| holder == self.names.my_name());
                mine && acked(state, &self.names, peer) < tail(state)
            })
    }
}

/// The lane gets through: nothing is wrong with it any more.
fn clear_lane_alarms(state: &mut State, peer: &str) {
    for name in [
        name::PARKED,
        name::FORK,
        name::STALE,
        name::PEER_WAITING,
        name::ROWS_MISSING,
        name::DIRECT,
    ] {
        state.alarms.clear(name, &lane_subject(peer));
    }
}

/// A stream is applied again, or by others.
pub(crate) fn clear_inlet_alarms(state: &mut State, stream: &str) {
    for name in [
        name::STREAM_PARKED,
        name::DEPENDENCY,
        name::STUCK,
        name::FORK,
    ] {
        state.alarms.clear(name, stream);
    }
}

/// What an alarm about a lane is filed under (an inlet of the same region has its own).
pub(crate) fn lane_subject(peer: &str) -> String {
    format!("lane {peer}")
}

fn tail(state: &State) -> Seq {
    let stored = state
        .region
        .as_ref()
        .map_or(0, |r| r.next_seq.0.saturating_sub(1));
    let engine = state.snapshot.lanes.iter().map(|l| l.tail.0).max();
    Seq(stored.max(state.tail.0).max(engine.unwrap_or(0)))
}

/// What the own lane says; of another node's the newest that anybody knows: engine, siblings, lane
/// row.
fn acked(state: &State, names: &Names, peer: RegionId) -> Seq {
    let i = usize::from(peer.0);
    let known = state.acked.get(i).map_or(0, |s| s.0);
    if state.snapshot.lanes.get(i).is_some_and(|lane| lane.held) {
        return Seq(known);
    }
    let engine = state.snapshot.lanes.get(i).map_or(0, |l| l.acked.seq.0);
    let name = names.region(peer);
    let row = state.rows.iter().find(|row| row.peer == name);
    Seq(known.max(engine).max(row.map_or(0, |r| r.acked.seq.0)))
}

fn inlet_state(inlet: &InletFigures) -> String {
    match (&inlet.waits, inlet.state) {
        (Some(why), _) => format!("waiting: {why}"),
        (None, Some(InletState::Waiting(cause))) => format!("waiting: {}", cause_word(cause)),
        (None, Some(InletState::Running)) => "running".to_owned(),
        (None, Some(InletState::Opening)) => "opening".to_owned(),
        (None, Some(InletState::Idle) | None) => "idle".to_owned(),
    }
}

/// A cause in words.
pub(crate) fn cause_word(cause: ApplyCause) -> &'static str {
    match cause {
        ApplyCause::Unreachable => "the database cannot be reached",
        ApplyCause::Busy => "the database is busy",
        ApplyCause::Dependency => "another stream's update has to come first",
        ApplyCause::Parked => "an operator has to act",
        ApplyCause::Forked => "the databases have forked",
    }
}

impl status::Board for Board {
    fn status(&self) -> status::Status {
        self.refresh();
        let state = self.lock();
        let names = &self.names;
        let tail = tail(&state);
        let lanes = names.peers().map(|peer| {
            let i = usize::from(peer.0);
            let stats = state.snapshot.lanes.get(i).copied().unwrap_or_default();
            let row = state.rows.iter().find(|r| r.peer == names.region(peer));
            let acked = acked(&state, names, peer);
            let lag = tail.0.saturating_sub(acked.0);
            let age = state.oldest.get(i).copied().flatten();
            let age = age.and_then(|at| wall().duration_since(at).ok());
            let holder = if stats.held {
                Some(names.my_name().to_owned())
            } else {
                row.and_then(|r| r.holder.clone())
            };
            status::Lane {
                region: names.region(peer).to_owned(),
                holder,
                target: stats
                    .held
                    .then_some(stats.target)
                    .flatten()
                    .map(|t| names.target(t).to_owned()),
                tail: tail.0,
                acked: acked.0,
                lag_updates: lag,
                lag_seconds: age.filter(|_| lag > 0).map_or(0.0, |a| a.as_secs_f64()),
                rtt_ms: (stats.rtt_us > 0).then_some(stats.rtt_us as f64 / 1e3),
                retransmits: stats.retransmits,
                failovers: stats.failovers,
                direct_writes: stats.direct_writes,
                failover_ms: stats.failover_us as f64 / 1e3,
                refused: state.refusals.get(i).map_or(0, |r| r.count),
            }
        });
        let inlets = names.peers().map(|peer| {
            let i = usize::from(peer.0);
            let stats = state.snapshot.inlets.get(i).copied().unwrap_or_default();
            let figures = state.inlets.get(i).cloned().unwrap_or_default();
            status::Inlet {
                region: names.region(peer).to_owned(),
                applied: stats.applied.seq.0.max(figures.applied.0),
                from: stats.from.map(|n| names.node(n).to_owned()),
                state: inlet_state(&figures),
                executed: figures.executed,
                duplicates: stats.duplicates + figures.skipped,
            }
        });
        status::Status {
            node: names.my_name().to_owned(),
            region: names.my_region().to_owned(),
            epoch: state.region.as_ref().map_or(0, |r| r.epoch.0),
            next_seq: tail.0 + 1,
            lanes: lanes.collect(),
            inlets: inlets.collect(),
            alarms: state.alarms.list(),
            journal: status::Journal {
                entries: state.journal.entries,
                bytes: state.journal.bytes,
            },
            rejected: state.rejected,
        }
    }

    fn ready(&self) -> Result<(), String> {
        let state = self.lock();
        if state.draining {
            return Err("this node is shutting down".to_owned());
        }
        if let Some(why) = &state.broken {
            return Err(why.clone());
        }
        match &state.unready {
            Some(_) if state.spools() => Ok(()),
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }

    fn metrics(&self) -> String {
        let status = self.status();
        let ready = self.ready().is_ok();
        let state = self.lock();
        let figures = metrics::Figures {
            counters: state.counters,
            datagrams_received: state.snapshot.received,
            datagrams_sent: state.snapshot.sent,
            drops: state.snapshot.drops,
            peers: (self.names.nodes.iter().enumerate())
                .filter(|(i, _)| *i != usize::from(self.names.me.0))
                .filter_map(|(i, (node, _))| Some((node.clone(), *state.snapshot.peers.get(i)?)))
                .collect(),
            payload_bytes: state.snapshot.payload_bytes,
            inbox_bytes: state.snapshot.inbox_bytes,
            sessions: state.snapshot.peers.iter().filter(|p| p.up).count() as u64,
            drift: state.inlets.iter().map(|i| i.drift).sum(),
            ready,
            journal: state.journal,
        };
        drop(state);
        metrics::encode(&status, &figures)
    }
}

/// A position as people read it.
pub(crate) fn position_words(position: Position) -> String {
    format!(
        "seq {}, tag {:016x}, epoch {:016x}",
        position.seq.0, position.tag.0, position.epoch.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Board as _;
    use prism_proto::{Epoch, LaneStats, NodeId, Tag};

    fn board() -> Board {
        Board::new(Arc::new(Names {
            me: NodeId(0),
            own: RegionId(0),
            rank: 0,
            siblings: 1,
            nodes: vec![("NA1".into(), RegionId(0)), ("EU1".into(), RegionId(1))],
            regions: vec!["NA".into(), "EU".into()],
        }))
    }

    /// A restored database remembers a position that the peer has long passed; while the lane tries
    /// again it looks level.
    #[test]
    fn the_alarm_of_a_fork_stays_until_updates_flow_again() {
        let board = board();
        board.raise(
            name::FORK,
            &lane_subject("EU"),
            "another history".into(),
            "adopt",
        );
        let mut snapshot = Snapshot::default();
        let mut lane = LaneStats::default();
        lane.held = true;
        for target in [Target::Node(NodeId(1)), Target::Direct] {
            lane.target = Some(target);
            snapshot.lanes = vec![LaneStats::default(), lane];
            board.snapshot(&snapshot);
            assert_eq!(board.status().alarms.len(), 1, "{target:?}");
        }
        lane.streaming = true;
        snapshot.lanes = vec![LaneStats::default(), lane];
        board.snapshot(&snapshot);
        assert_eq!(board.status().alarms.len(), 0);
    }

    #[test]
    fn a_peer_that_was_put_back_is_not_shown_as_up_to_date() {
        let board = board();
        let mut snapshot = Snapshot::default();
        let mut lane = LaneStats::default();
        lane.held = true;
        snapshot.lanes = vec![LaneStats::default(), lane];
        board.snapshot(&snapshot);
        board.tail(Seq(100));
        board.lock().rows = vec![LaneRow {
            peer: "EU".into(),
            acked: Position {
                epoch: Epoch(1),
                seq: Seq(100),
                tag: Tag(1),
            },
            holder: Some("NA1".into()),
            ..LaneRow::default()
        }];
        board.acked_by_lane(RegionId(1), Seq(100), Seq(100));
        board.acked_by_lane(RegionId(1), Seq(50), Seq(50));
        // What a sibling or the lane's row remembers is older.
        let lane = board.status().lanes.remove(0);
        assert_eq!((lane.acked, lane.lag_updates), (50, 50));
        assert_eq!(board.remaining(&board.lock()), [("EU".to_owned(), 50)]);
    }

    #[test]
    fn a_node_of_no_use_says_nothing_of_streams_and_keeps_the_rest() {
        let board = board();
        let raise = |name, subject: &str| board.raise(name, subject, "so".into(), "mend");
        for name in [
            name::PARKED,
            name::FORK,
            name::STALE,
            name::PEER_WAITING,
            name::ROWS_MISSING,
            name::DIRECT,
        ] {
            raise(name, &lane_subject("EU"));
        }
        for name in [
            name::STREAM_PARKED,
            name::DEPENDENCY,
            name::STUCK,
            name::FORK,
        ] {
            raise(name, "EU");
        }
        // Why it is of no use, and what has happened: these are of this region.
        raise(name::FORK, "");
        raise(name::UNDO_REFUSED, "EU 5");
        board.clear_streams();
        let mut left: Vec<_> = (board.status().alarms.into_iter())
            .map(|alarm| alarm.name)
            .collect();
        left.sort_unstable();
        assert_eq!(left, [name::FORK, name::UNDO_REFUSED]);
    }
}
