//! An idle cluster is quiet: keep-alives, leases, looks at the database; no more.

use std::time::Duration;

use super::Invariant;
use crate::cluster::Cluster;

/// How long one looks.
pub const WINDOW: Duration = Duration::from_secs(6);
/// Datagrams a second between two nodes, both ways together.
const DATAGRAMS: f64 = 20.0;
/// Calls of databases a second by a node.
const CALLS: f64 = 50.0;

/// Figures at the beginning.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    datagrams: u64,
    calls: u64,
}

/// Begins to look.
#[must_use]
pub fn begin(cluster: &Cluster) -> Before {
    Before {
        datagrams: cluster.network.figures().sent,
        calls: cluster.database_calls(),
    }
}

/// After [`WINDOW`].
pub fn end(cluster: &Cluster, before: Before) {
    let nodes = cluster.plan.node_count() as f64;
    let seconds = WINDOW.as_secs_f64();
    let datagrams = (cluster.network.figures().sent - before.datagrams) as f64 / seconds;
    let pairs = (nodes * (nodes - 1.0) / 2.0).max(1.0);
    if datagrams / pairs > DATAGRAMS {
        let what = format!(
            "{:.1} datagrams a second between two nodes",
            datagrams / pairs
        );
        cluster.check.fail(&cluster.world, Invariant::Quiet, what);
    }
    let calls = (cluster.database_calls() - before.calls) as f64 / seconds / nodes;
    if calls > CALLS {
        let what = format!("{calls:.1} calls of the database a second by a node");
        cluster.check.fail(&cluster.world, Invariant::Quiet, what);
    }
}
