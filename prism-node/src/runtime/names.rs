//! From the indices of the core to the names that people know.

use prism_proto::{NodeId, RegionId, Target};

/// The cluster as one node sees it.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// This node.
    pub(crate) me: NodeId,
    /// Its region.
    pub(crate) own: RegionId,
    /// Position of this node in its region's failover order.
    pub(crate) rank: usize,
    /// Number of nodes in its region.
    pub(crate) siblings: usize,
    /// Name and region per node.
    pub(crate) nodes: Vec<(String, RegionId)>,
    /// Name per region.
    pub(crate) regions: Vec<String>,
}

impl Names {
    /// Name of a node.
    pub(crate) fn node(&self, node: NodeId) -> &str {
        self.nodes
            .get(usize::from(node.0))
            .map_or("?", |(name, _)| name)
    }

    /// Name of a region.
    pub(crate) fn region(&self, region: RegionId) -> &str {
        self.regions
            .get(usize::from(region.0))
            .map_or("?", String::as_str)
    }

    /// This node's name.
    pub(crate) fn my_name(&self) -> &str {
        self.node(self.me)
    }

    /// This node's region's name.
    pub(crate) fn my_region(&self) -> &str {
        self.region(self.own)
    }

    /// All regions but the own one.
    pub(crate) fn peers(&self) -> impl Iterator<Item = RegionId> + '_ {
        (0..self.regions.len())
            .filter_map(|i| u16::try_from(i).ok().map(RegionId))
            .filter(|&r| r != self.own)
    }

    /// The region of that name.
    pub(crate) fn find(&self, region: &str) -> Option<RegionId> {
        let i = self.regions.iter().position(|name| name == region)?;
        u16::try_from(i).ok().map(RegionId)
    }

    /// Number of nodes of the own region, this one included.
    pub(crate) const fn siblings(&self) -> usize {
        self.siblings
    }

    /// Place of this node in the order in which the nodes of the region should have the lane to
    /// `peer`; the lanes are spread over them.
    pub(crate) fn place(&self, peer: RegionId) -> u32 {
        let n = self.siblings.max(1);
        let first = self.peers().position(|p| p == peer).unwrap_or(0) % n;
        u32::try_from((self.rank % n + n - first) % n).unwrap_or(u32::MAX)
    }

    /// A rung as in `GET /v1/status`.
    pub(crate) fn target(&self, target: Target) -> &str {
        match target {
            Target::Node(node) => self.node(node),
            Target::Direct => "direct",
            Target::Parked(_) => "parked",
        }
    }
}
