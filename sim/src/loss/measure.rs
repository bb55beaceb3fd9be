//! What a path carries, how long an update takes on it, and how long it takes to leave a dead node.

use super::cluster::{Cluster, EU1, EU2, NA1, Path, UPDATE};
use super::link::RATE;

const MS: u64 = 1_000;
const SEC: u64 = 1_000_000;
/// Longer than anything may take.
const NEVER: u64 = 3600 * SEC;
/// A quiet application: an update every 50 ms.
const PACE: u64 = 50 * MS;
/// So many of them are timed.
const TIMED: u64 = 1_000;
/// Deaths that are timed, each with a seed of its own.
const DEATHS: u64 = 5;

/// The figures of one row, all of them whole numbers.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Updates per second while there is always something to send.
    pub goodput: u64,
    /// Their bytes, in tenths of a percent of what the link carries.
    pub share: u64,
    /// Of 1,000 updates, those sent again (each time counts).
    pub resent: u64,
    /// Changes to a worse rung meanwhile: six datagrams in a row that went unanswered although
    /// nobody was dead.
    pub moves: u64,
    /// Microseconds from the commit at the origin until it knows that the update is applied: half of
    /// the updates take no longer ...
    pub p50: u64,
    /// ... and 99 of 100.
    pub p99: u64,
    /// Microseconds from the death of `EU1` until something is applied through `EU2`: the median.
    pub second: u64,
    /// From the death of `EU2` until something is applied by direct SQL: the median.
    pub direct: u64,
}

/// Measures one row.
#[must_use]
pub fn measure(path: Path) -> Figures {
    let mut cluster = warm(path, 1);
    let (goodput, resent, moves) = flood(&mut cluster);
    cluster.reseed(1);
    let (p50, p99) = quiet(&mut cluster);
    let mut deaths: Vec<(u64, u64)> = (0..DEATHS).map(|i| death(path, 2 + i)).collect();
    let middle = DEATHS as usize / 2;
    deaths.sort_unstable();
    let second = deaths[middle].0;
    deaths.sort_unstable_by_key(|(_, direct)| *direct);
    Figures {
        goodput,
        share: goodput * UPDATE as u64 * 1000 / RATE,
        resent,
        moves,
        p50,
        p99,
        second,
        direct: deaths[middle].1,
    }
}

/// Sessions stand, the lane flows, a first update is there.
fn warm(path: Path, seed: u64) -> Cluster {
    let mut cluster = Cluster::new(path, seed);
    cluster.submit(1);
    settle(&mut cluster);
    cluster
}

fn settle(cluster: &mut Cluster) {
    let settled = cluster.run(NEVER, |c| c.acked.len() as u64 == c.tail);
    assert!(
        settled,
        "{} of {} are acknowledged",
        cluster.acked.len(),
        cluster.tail
    );
}

/// A backlog of several windows; what the path makes of it, the slow end included.
fn flood(cluster: &mut Cluster) -> (u64, u64, u64) {
    let count = (4 * cluster.window()).clamp(2_000, 16_384) / 16 * 16;
    let (resent, moved) = cluster.troubles();
    let start = cluster.now;
    for _ in 0..count / 16 {
        cluster.submit(16);
    }
    settle(cluster);
    let (resent_now, moved_now) = cluster.troubles();
    (
        count * SEC / (cluster.now - start),
        (resent_now - resent) * 1000 / count,
        moved_now - moved,
    )
}

fn quiet(cluster: &mut Cluster) -> (u64, u64) {
    let first = cluster.acked.len();
    for _ in 0..TIMED {
        let until = cluster.now + PACE;
        cluster.submit(1);
        cluster.run(until, |_| false);
    }
    settle(cluster);
    let took = |(acked, committed): (&u64, &u64)| acked - committed;
    let pairs = cluster.acked[first..]
        .iter()
        .zip(&cluster.committed[first..]);
    let mut took: Vec<u64> = pairs.map(took).collect();
    took.sort_unstable();
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

/// Both nodes of EU die, one after the other, while an update is committed now and then.
fn death(path: Path, seed: u64) -> (u64, u64) {
    let mut cluster = warm(path, seed);
    let mut until_through = |victim: usize, way: usize| {
        for _ in 0..40 {
            pace(&mut cluster, |_| false);
        }
        // (in the middle between two updates)
        cluster.run(cluster.now + PACE / 2, |_| false);
        cluster.kill(victim);
        cluster.through = [None; 3];
        let died = cluster.now;
        cluster.run(died + PACE / 2, |_| false);
        while cluster.now < died + 600 * SEC {
            if pace(&mut cluster, |c| c.through[way].is_some()) {
                break;
            }
        }
        cluster.through[way].expect("it goes on within ten minutes") - died
    };
    (until_through(EU1, EU2), until_through(EU2, NA1))
}

fn pace(cluster: &mut Cluster, done: impl Fn(&Cluster) -> bool) -> bool {
    let until = cluster.now + PACE;
    cluster.submit(1);
    cluster.run(until, done)
}
