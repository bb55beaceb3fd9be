//! Figures of all nodes, also of those that were killed on the way.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cluster::LocalCluster;
use crate::status::Status;

/// One row of the table.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RegionFigures {
    /// The region.
    pub region: String,
    /// Updates of its stream.
    pub originated: u64,
    /// Updates of other regions that its nodes wrote into its database.
    pub applied_by_node: u64,
    /// Updates that other regions wrote into its database by SQL.
    pub applied_by_direct_sql: u64,
    /// Updates of its stream that were sent again.
    pub retransmitted: u64,
    /// Updates that its nodes received again and did not apply again.
    pub duplicates_suppressed: u64,
    /// Changes of its lanes to a worse rung.
    pub failovers: u64,
    /// The longest silence before one of them, milliseconds.
    pub failover_ms: f64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tally {
    regions: BTreeMap<String, RegionFigures>,
    order: Vec<String>,
}

impl Tally {
    pub(super) fn new(regions: &[&str]) -> Self {
        let order: Vec<String> = regions.iter().map(|&r| r.to_owned()).collect();
        let empty = |region: &String| {
            let figures = RegionFigures {
                region: region.clone(),
                ..RegionFigures::default()
            };
            (region.clone(), figures)
        };
        Self {
            regions: order.iter().map(empty).collect(),
            order,
        }
    }

    /// Takes the figures of a node: just before it is killed (its counters die with it), and of
    /// all nodes at the end.
    pub(super) fn take(&mut self, cluster: &LocalCluster, i: usize) {
        if let Ok(status) = cluster.status(i) {
            self.add(&status);
        }
    }

    fn add(&mut self, status: &Status) {
        for lane in &status.lanes {
            if let Some(peer) = self.regions.get_mut(&lane.region) {
                peer.applied_by_direct_sql += lane.direct_writes;
            }
        }
        let Some(own) = self.regions.get_mut(&status.region) else {
            return;
        };
        own.originated = own.originated.max(status.next_seq.saturating_sub(1));
        for lane in &status.lanes {
            own.retransmitted += lane.retransmits;
            own.failovers += lane.failovers;
            own.failover_ms = own.failover_ms.max(lane.failover_ms);
        }
        for inlet in &status.inlets {
            own.applied_by_node += inlet.executed;
            own.duplicates_suppressed += inlet.duplicates;
        }
    }

    /// In the order of the configuration.
    pub(super) fn figures(&self) -> Vec<RegionFigures> {
        let rows = self.order.iter();
        rows.filter_map(|region| self.regions.get(region).cloned())
            .collect()
    }
}
