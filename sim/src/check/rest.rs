//! Lanes: one node of a region delivers at a time; nobody waits for ever for one that does not
//! answer; when all is well every lane is back at a node, and nothing is left over.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use prism_net::Snapshot;
use prism_proto::{LaneStats, RegionId, Target};

use super::Invariant;
use crate::cluster::{Cluster, Kind};
use crate::sched::MachineId;

/// Two may believe that they hold a lane until the older one's lease has run out by its own clock,
/// and its loop has heard of that.
const BOTH: Duration = Duration::from_secs(4);
/// Figures come once a second from a process that runs.
const FRESH: Duration = Duration::from_millis(1_600);
/// All retries of a node, on the slowest way: where ACKs get lost, a round trip may look as if it took
/// some seconds.
const SILENCE: Duration = Duration::from_secs(16);
/// How long lanes may take to climb back: nodes that have failed again and again have to be well for
/// longer each time.
pub const CLIMB: Duration = Duration::from_secs(150);

/// The last figures of a process.
#[derive(Debug, Clone)]
struct Seen {
    node: usize,
    at: Duration,
    /// Since when it has held each lane.
    since: Vec<Option<Duration>>,
    lanes: Vec<LaneStats>,
    inbox: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Lanes(RefCell<BTreeMap<MachineId, Seen>>);

impl Lanes {
    /// The last figures of a node.
    pub fn of(&self, node: usize) -> Vec<LaneStats> {
        self.last(node, |seen| seen.lanes.clone())
    }

    /// Bytes that it has received and not applied, as far as is known.
    pub fn inbox_of(&self, node: usize) -> u64 {
        self.last(node, |seen| seen.inbox)
    }

    fn last<T: Default>(&self, node: usize, of: impl FnOnce(&Seen) -> T) -> T {
        let all = self.0.borrow();
        let of_node = all.values().filter(|seen| seen.node == node);
        of_node
            .max_by_key(|seen| seen.at)
            .map(of)
            .unwrap_or_default()
    }
}

/// A loop tells its figures.
pub fn heard(cluster: &Cluster, node: usize, snapshot: &Snapshot) {
    let Some(machine) = cluster.world.here() else {
        return;
    };
    let now = cluster.world.time();
    let mut all = cluster.check.lanes.0.borrow_mut();
    // One that stood still knows nothing of what has been meanwhile.
    let before = all.get(&machine).filter(|seen| now - seen.at <= FRESH);
    let since = |(peer, lane): (usize, &LaneStats)| {
        let since = before.and_then(|seen| seen.since.get(peer).copied().flatten());
        lane.held.then(|| since.unwrap_or(now))
    };
    let seen = Seen {
        node,
        at: now,
        since: snapshot.lanes.iter().enumerate().map(since).collect(),
        lanes: snapshot.lanes.clone(),
        inbox: snapshot.inbox_bytes,
    };
    all.insert(machine, seen.clone());
    let fail = |invariant, what| cluster.check.fail(&cluster.world, invariant, what);
    let (own, name) = (cluster.region_of(node), |peer| cluster.name(peer));
    for (peer, lane) in seen
        .lanes
        .iter()
        .enumerate()
        .filter(|(peer, _)| *peer != own)
    {
        let others = all.iter().filter(|(other, _)| **other != machine);
        for (_, other) in others.filter(|(_, other)| now - other.at <= FRESH) {
            let since = seen.since[peer].zip(other.since[peer]);
            if cluster.region_of(other.node) == own
                && since.is_some_and(|(a, b)| now - a.max(b) > BOTH)
            {
                let what = format!(
                    "nodes {node} and {} both deliver {} to {}",
                    other.node,
                    name(own),
                    name(peer)
                );
                fail(Invariant::OneHolder, what);
            }
        }
        let silence = Duration::from_micros(lane.failover_us);
        if silence > SILENCE && !cluster.plan.kinds.has(Kind::Pause) {
            let what = format!(
                "the lane from {} to {} waited {silence:?} for a node that did not answer",
                name(own),
                name(peer)
            );
            fail(Invariant::Progress, what);
        }
    }
}

/// A node that has lost the number of its starts, or could not write it down, and whose clock went back, is refused by the others
/// until its clock is right; one of which a copy has run, until it is restarted. Alarms say so, and
/// SQL goes on.
fn is_refused(cluster: &Cluster) -> bool {
    let has = |kind| cluster.plan.kinds.has(kind);
    let lost = has(Kind::Wipe) || has(Kind::DiskError) || has(Kind::DiskFull);
    has(Kind::Clone) || lost && has(Kind::Clock)
}

/// Why all is not at rest although there is nothing to do any more.
pub fn unrest(cluster: &Cluster) -> Option<(Invariant, String)> {
    let now = cluster.world.time();
    let all = cluster.check.lanes.0.borrow();
    let alive: Vec<&Seen> = all.values().filter(|seen| now - seen.at <= FRESH).collect();
    for own in 0..cluster.region_count() {
        for peer in (0..cluster.region_count()).filter(|&peer| peer != own) {
            let lane = format!(
                "the lane from {} to {}",
                cluster.name(own),
                cluster.name(peer)
            );
            let holders: Vec<&LaneStats> = alive
                .iter()
                .filter(|seen| cluster.region_of(seen.node) == own)
                .map(|seen| &seen.lanes[RegionId(peer as u16).0 as usize])
                .filter(|lane| lane.held)
                .collect();
            let [held] = holders[..] else {
                return Some((
                    Invariant::OneHolder,
                    format!("{lane} has {} holders", holders.len()),
                ));
            };
            let back = matches!(held.target, Some(Target::Node(_))) && held.streaming;
            if !back && !is_refused(cluster) {
                return Some((
                    Invariant::ClimbsBack,
                    format!("{lane} is at {:?}", held.target),
                ));
            }
            if held.in_window > 0 || held.in_flight > 0 {
                let what = format!(
                    "{lane} has {} updates and {} bytes on their way",
                    held.in_window, held.in_flight
                );
                return Some((Invariant::NothingLeft, what));
            }
        }
    }
    let inbox: u64 = alive.iter().map(|seen| seen.inbox).sum();
    (inbox > 0).then(|| {
        let what = format!("{inbox} bytes that are applied are still kept");
        (Invariant::NothingLeft, what)
    })
}
