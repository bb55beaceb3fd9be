//! What the worker and the loop both know of this node's lanes.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

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

    /// True if it is new.
    pub(super) fn renewed(&self, peer: RegionId, at: Instant) -> bool {
        self.with(|held| held.insert(peer, at).is_none())
    }

    pub(super) fn forget(&self, peer: RegionId) -> bool {
        self.with(|held| held.remove(&peer).is_some())
    }

    pub(super) fn take(&self) -> Vec<RegionId> {
        self.with(|held| mem::take(held).into_keys().collect())
    }

    /// Takes out those that have not been renewed in time.
    pub(in crate::runtime) fn expired(&self) -> Vec<RegionId> {
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
