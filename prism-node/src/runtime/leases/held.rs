//! What the worker and the loop both know of this node's lanes.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prism_net::Snapshot;
use prism_net::platform::Instant;
use prism_proto::{RegionId, canary};

/// A lease outlives two renewals that went wrong; what its holder had to deliver goes on from a
/// sibling within this, a tick, and the time to open a session.
pub(in crate::runtime) const LEASE: Duration = Duration::from_millis(2_500);

/// Lanes that this node holds, with the time of the last renewal. A lease that is older than
/// [`LEASE`] is not believed in: this process was stopped, or its database does not answer, and a
/// sibling may have the lane by now.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Held(Mutex<BTreeMap<RegionId, Instant>>);

fn is_running(renewed: &Instant) -> bool {
    renewed.elapsed() < LEASE || canary!(LeaseNotFenced)
}

impl Held {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<RegionId, Instant>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this node holds the lane, as far as it can know.
    pub(in crate::runtime) fn holds(&self, peer: RegionId) -> bool {
        self.with(|held| held.get(&peer).is_some_and(is_running))
    }

    /// True if it is new: also where the one before had run out, of which the engine may have been told.
    pub(super) fn renewed(&self, peer: RegionId, at: Instant) -> bool {
        self.with(|held| !held.insert(peer, at).as_ref().is_some_and(is_running))
    }

    pub(super) fn forget(&self, peer: RegionId) -> bool {
        self.with(|held| held.remove(&peer).is_some())
    }

    pub(super) fn take(&self) -> Vec<RegionId> {
        self.with(|held| mem::take(held).into_keys().collect())
    }

    /// Lanes that the engine delivers without a lease: one that has run out, or that had when the engine
    /// was told of it. Asked again and again, not only when one ends: what was told may be overtaken.
    pub(in crate::runtime) fn unfounded(&self, snapshot: &Snapshot) -> Vec<RegionId> {
        let regions = (0..).map(RegionId).zip(&snapshot.lanes);
        let delivered = regions.filter(|(_, lane)| lane.held).map(|(peer, _)| peer);
        delivered.filter(|&peer| !self.holds(peer)).collect()
    }

    /// Takes out those that have not been renewed in time.
    pub(super) fn expired(&self) -> Vec<RegionId> {
        self.with(|held| {
            held.extract_if(.., |_, at| !is_running(at))
                .collect::<Vec<_>>()
        })
        .into_iter()
        .map(|(peer, _)| peer)
        .collect()
    }
}

/// Lanes that the engine has stopped for good.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Stopped(Mutex<BTreeSet<RegionId>>);

impl Stopped {
    pub(in crate::runtime) fn add(&self, peer: RegionId) {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        set.insert(peer);
    }

    pub(super) fn take(&self) -> BTreeSet<RegionId> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prism_proto::LaneStats;

    const EU: RegionId = RegionId(1);

    fn delivers(held: bool) -> Snapshot {
        let mut lane = LaneStats::default();
        lane.held = held;
        Snapshot {
            lanes: vec![LaneStats::default(), lane],
            ..Snapshot::default()
        }
    }

    fn long_ago() -> Instant {
        Instant::now() - LEASE
    }

    /// The lease worker read the database for so long that its lease ran out, the loop was told, and
    /// then the worker told the engine to deliver: it did, beside a sibling, until the worker came back
    /// from its next call.
    #[test]
    fn an_engine_that_delivers_without_a_lease_is_told_until_it_stops() {
        let held = Held::default();
        assert!(held.renewed(EU, Instant::now()));
        assert_eq!(held.unfounded(&delivers(true)), []);
        held.renewed(EU, long_ago());
        assert_eq!(held.unfounded(&delivers(false)), []);
        assert_eq!(held.unfounded(&delivers(true)), [EU]);
        // It was not heard (the queue was full), or overtaken by what was told before.
        assert_eq!(held.unfounded(&delivers(true)), [EU]);
        // Also when nobody knows of a lease any more.
        assert_eq!(held.expired(), [EU]);
        assert_eq!(held.unfounded(&delivers(true)), [EU]);
    }

    #[test]
    fn a_lease_renewed_after_it_ran_out_is_a_new_one() {
        let held = Held::default();
        assert!(held.renewed(EU, long_ago()));
        // The engine may have been told to stop meanwhile.
        assert!(held.renewed(EU, Instant::now()));
        assert!(!held.renewed(EU, Instant::now()));
    }
}
