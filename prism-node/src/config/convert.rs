//! The configuration as the other crates want it.

use std::sync::Arc;

use prism_db::Topology;
use prism_proto::{NodeConfig, RegionConfig, RegionId};

use super::Config;

impl Config {
    /// Nodes for an engine.
    #[must_use]
    pub fn proto_nodes(&self) -> Vec<NodeConfig> {
        self.nodes
            .iter()
            .map(|n| NodeConfig {
                id: n.id,
                region: n.region,
            })
            .collect()
    }

    /// Regions for an engine. Every region can be reached by direct SQL: `direct` has a default.
    #[must_use]
    pub fn proto_regions(&self) -> Vec<RegionConfig> {
        self.regions
            .iter()
            .map(|r| RegionConfig {
                id: r.id,
                key: r.key,
                direct: true,
            })
            .collect()
    }

    /// Names for the database of `region`.
    #[must_use]
    pub fn topology(&self, region: RegionId) -> Topology {
        Topology {
            region: self.region(region).name.clone(),
            regions: Arc::from_iter(self.regions.iter().map(|r| (r.name.clone(), r.key))),
        }
    }
}
