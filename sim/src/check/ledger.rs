//! The ledgers: every update once, in order; watermarks that only go forward.

use std::cell::RefCell;

use prism_db::RegionRow;
use prism_proto::{Epoch, Seq};

use super::Invariant;
use crate::cluster::{Cluster, Kind};

/// What was seen last, by region: generation, and how far each stream is.
#[derive(Debug, Default)]
pub struct Watermarks {
    last: RefCell<Vec<Seen>>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    generation: u64,
    findings: usize,
    streams: Vec<(String, Epoch, Seq)>,
}

/// What is written down as acknowledged by a region is applied there, and what is not is kept.
fn lanes(cluster: &Cluster, origin: usize, region: &RegionRow) {
    let check = &cluster.check;
    if check.has_adopted() {
        return;
    }
    let own = cluster.name(origin);
    let kept = cluster.servers[origin].oldest_kept();
    for (name, acked, is_stale) in cluster.servers[origin].lanes() {
        let peer = (0..cluster.region_count()).find(|&peer| cluster.name(peer) == name);
        let Some(peer) = peer.filter(|&peer| !check.had_disaster_at(peer)) else {
            continue;
        };
        let at = cluster.servers[peer].positions();
        let at = at.iter().find(|(stream, _)| stream == own);
        let at = at.map_or(Seq::ZERO, |(_, at)| at.seq);
        let next = if acked.epoch == region.epoch {
            acked.seq.next()
        } else {
            Seq(1)
        };
        // What was written down before may be written once more, late, by a server that hung.
        let next = if cluster.plan.kinds.has(Kind::Hang) {
            next.max(at.next())
        } else {
            next
        };
        if name != own && !is_stale && next < region.next_seq && kept.is_none_or(|k| k > next) {
            let what = format!(
                "{own} keeps its updates from {kept:?} on, and {name} has acknowledged up to {}",
                acked.seq.0
            );
            check.fail(&cluster.world, Invariant::NothingLost, what);
        }
        if acked.epoch == region.epoch && at < acked.seq {
            let what = format!(
                "{own} has written down that {name} has applied it up to {}; that is at {}",
                acked.seq.0, at.0
            );
            check.fail(&cluster.world, Invariant::AckAfterCommit, what);
        }
    }
}

/// Looks at all databases.
pub fn look(cluster: &Cluster, watermarks: &Watermarks) {
    let mut last = watermarks.last.borrow_mut();
    last.resize(cluster.region_count(), Seen::default());
    for (region, (server, seen)) in cluster.servers.iter().zip(last.iter_mut()).enumerate() {
        let findings = server.findings();
        for finding in findings.iter().skip(seen.findings) {
            let what = format!("{}: {finding}", cluster.name(region));
            cluster
                .check
                .fail(&cluster.world, Invariant::ExactlyOnceInOrder, what);
        }
        seen.findings = findings.len();
        let generation = server.generation();
        let own = server.region();
        let mut streams: Vec<_> = (server.positions().into_iter())
            .map(|(stream, at)| (stream, at.epoch, at.seq))
            .collect();
        streams.push((own.name.clone(), own.epoch, own.next_seq));
        if generation == seen.generation {
            for (stream, epoch, seq) in &streams {
                let before = seen.streams.iter().find(|(name, ..)| name == stream);
                if let Some((_, old_epoch, old)) = before
                    && old_epoch == epoch
                    && old > seq
                {
                    let what = format!(
                        "{}: {stream} went from {} back to {}",
                        cluster.name(region),
                        old.0,
                        seq.0
                    );
                    cluster
                        .check
                        .fail(&cluster.world, Invariant::WatermarkMonotone, what);
                }
            }
        }
        lanes(cluster, region, &own);
        seen.generation = generation;
        seen.streams = streams;
    }
}
