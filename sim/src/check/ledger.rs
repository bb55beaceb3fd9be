//! The ledgers: every update once, in order; watermarks that only go forward.

use std::cell::RefCell;

use prism_proto::{Epoch, Seq};

use super::Invariant;
use crate::cluster::Cluster;

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
        streams.push((own.name, own.epoch, own.next_seq));
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
        seen.generation = generation;
        seen.streams = streams;
    }
}
