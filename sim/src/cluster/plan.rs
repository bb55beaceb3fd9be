//! What a case comes to: the cluster, its clients, and everything that goes wrong, by time.
//!
//! Each part is drawn with a generator of its own, so that a kind of fault that is left out changes
//! nothing in the others, and a failing case can be made smaller.

use std::time::Duration;

use super::case::{Case, Kind, Kinds, Size};
use crate::network::Link;
use crate::rng::Rng;

/// Something that happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incident {
    /// When.
    pub at: Duration,
    /// What.
    pub kind: Kind,
    /// For how long.
    pub lasting: Duration,
    /// To whom: any number, of which whoever carries it out takes the remainder.
    pub whom: usize,
    /// And another one.
    pub other: usize,
}

/// Rates of what befalls calls of a database, of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trouble {
    /// Transient errors.
    pub transient: u32,
    /// Connections that break.
    pub broken: u32,
    /// Calls that take long.
    pub slow: u32,
    /// Calls that hang beyond the client's deadline.
    pub hang: u32,
}

/// Rates of what befalls writes to a disk, of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wear {
    /// Errors.
    pub error: u32,
    /// No room.
    pub full: u32,
    /// Less is taken than was given.
    pub short: u32,
}

/// A client: somebody who submits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its region.
    pub region: usize,
    /// How many updates.
    pub updates: u32,
    /// Longest pause between two of them.
    pub pause: Duration,
    /// How long it waits for an answer before it asks again.
    pub patience: Duration,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What it was drawn from.
    pub case: Case,
    /// What is on.
    pub kinds: Kinds,
    /// Number of nodes of each region.
    pub nodes: Vec<usize>,
    /// Whether packets are sealed.
    pub sealed: bool,
    /// When everything heals.
    pub length: Duration,
    /// Rows that everybody writes to, and rows that one region does.
    pub rows: usize,
    /// Who submits.
    pub clients: Vec<Client>,
    /// Shortest way between two nodes of different regions, by pair of regions.
    pub delays: Vec<Vec<Duration>>,
    /// What links do until everything heals.
    pub link: Link,
    /// By time.
    pub incidents: Vec<Incident>,
    /// What befalls databases.
    pub trouble: Trouble,
    /// What befalls disks.
    pub wear: Wear,
}

const MS: Duration = Duration::from_millis(1);

/// How often a kind is on, of a thousand, in a run that has half of everything.
const fn often(kind: Kind) -> u32 {
    match kind {
        // What makes all else rare or late.
        Kind::LoseNewest | Kind::Restore | Kind::Stale | Kind::Adopt => 100,
        Kind::Clone | Kind::Wipe => 150,
        Kind::Blocked | Kind::Overload | Kind::Upgrade | Kind::Elsewhere => 200,
        Kind::DiskError | Kind::DiskFull => 200,
        _ => 400,
    }
}

impl Plan {
    /// What the case comes to.
    #[must_use]
    pub fn draw(case: Case) -> Self {
        let full = case.size == Size::Full;
        let mut rng = Rng::new(case.seed, "plan");
        let regions = if full { rng.of(2..6) } else { 2 } as usize;
        let most = if full { 4 } else { 3 };
        let nodes: Vec<usize> = (0..regions).map(|_| rng.of(1..most) as usize).collect();
        // Much of everything in some runs, one or two things in others.
        let density = *rng.pick(&[200u32, 600, 1000, 1600]);
        let sealed = rng.permille(if full { 250 } else { 80 });
        let drawn = if full {
            rng.of(6000..25_000)
        } else {
            rng.of(1500..5000)
        };
        let length = MS * (drawn as u32).min(case.millis);
        let rows = rng.of(1..if full { 6 } else { 3 }) as usize;

        let mut rng = Rng::new(case.seed, "kinds");
        let kinds = Kind::ALL.iter().fold(Kinds::NONE, |kinds, &kind| {
            let on = rng.permille(often(kind) * density / 1000) && case.only.has(kind);
            if on { kinds.with(kind) } else { kinds }
        });
        // A link that damages what it carries tells nothing where everything has a checksum.
        let sealed = sealed || kinds.has(Kind::Corrupt) && case.seed.is_multiple_of(2);
        let mut rng = Rng::new(case.seed, "clients");
        let mut left = case.updates;
        let mut clients = Vec::new();
        for region in 0..regions {
            for _ in 0..rng.of(1..if full { 4 } else { 2 }) {
                let crowd = if kinds.has(Kind::Overload) { 8 } else { 1 };
                let updates = rng.of(1..if full { 25 } else { 8 }) as u32 * crowd;
                let updates = updates.min(left);
                left -= updates;
                clients.push(Client {
                    region,
                    updates,
                    pause: length / updates.max(1),
                    patience: MS * rng.of(300..6000) as u32,
                });
            }
        }
        let mut rng = Rng::new(case.seed, "links");
        let delays = (0..regions)
            .map(|_| (0..regions).map(|_| MS * rng.of(1..80) as u32).collect())
            .collect();
        let mut rate = |kind: Kind, most: u64| {
            let drawn = rng.of(1..most) as u32;
            if kinds.has(kind) { drawn } else { 0 }
        };
        let link = Link {
            loss: rate(Kind::Loss, 400),
            burst: rate(Kind::Burst, 20),
            twice: rate(Kind::Duplicate, 200),
            late: rate(Kind::Reorder, 300),
            damage: rate(Kind::Corrupt, 100),
            ..Link::calm(MS)
        };
        let trouble = Trouble {
            transient: rate(Kind::Transient, 60),
            broken: rate(Kind::Ambiguous, 40),
            hang: rate(Kind::Hang, 6),
            slow: 30,
        };
        let wear = Wear {
            error: rate(Kind::DiskError, 60),
            full: rate(Kind::DiskFull, 100),
            short: rate(Kind::ShortWrite, 300),
        };
        let mut plan = Self {
            case,
            kinds,
            nodes,
            sealed,
            length,
            rows,
            clients,
            delays,
            link,
            incidents: Vec::new(),
            trouble,
            wear,
        };
        plan.incidents();
        plan
    }

    fn incidents(&mut self) {
        for kind in self.kinds.iter() {
            let mut rng = Rng::new(self.case.seed, kind.name());
            let (most, lasting) = match kind {
                Kind::OneWay | Kind::Partition | Kind::NoWay => (3, MS * 300..MS * 9000),
                Kind::Blocked => (2, MS * 500..MS * 9000),
                Kind::Pause => (3, MS * 50..MS * 8000),
                Kind::Crash | Kind::PowerLoss | Kind::Restart => (3, MS * 10..MS * 4000),
                Kind::Wipe => (2, MS * 10..MS * 3000),
                Kind::Clone => (2, MS * 500..MS * 6000),
                Kind::Address | Kind::Clock => (4, MS..MS * 2),
                Kind::DbCrash => (3, MS * 10..MS * 5000),
                Kind::DbAway => (3, MS * 100..MS * 8000),
                Kind::LoseNewest | Kind::Restore => (2, MS * 10..MS * 2000),
                Kind::Upgrade | Kind::Stale | Kind::Adopt => (2, MS * 500..MS * 3000),
                // Rates, or what clients do.
                _ => continue,
            };
            let once = matches!(kind, Kind::Upgrade | Kind::Stale | Kind::Adopt);
            for _ in 0..rng.of(1..most + 1).min(if once { 1 } else { most }) {
                let incident = Incident {
                    at: rng.time(MS * 200..self.length.max(MS * 201)),
                    kind,
                    lasting: rng.time(lasting.clone()),
                    whom: rng.index(1 << 16),
                    other: rng.index(1 << 16),
                };
                self.incidents.push(incident);
                let before = rng.time(MS * 20..MS * 1500);
                let away = before + rng.time(MS * 200..MS * 5000);
                // Where the power fails, the database is often gone as well: the journal is in use.
                if kind == Kind::PowerLoss && self.kinds.has(Kind::DbAway) && rng.permille(600) {
                    self.incidents.push(Incident {
                        at: incident.at.saturating_sub(before).max(MS * 200),
                        kind: Kind::DbAway,
                        lasting: away,
                        whom: self.region_of(incident.whom % self.node_count()),
                        ..incident
                    });
                }
            }
        }
        self.incidents.sort_by_key(|incident| incident.at);
    }

    /// Whether there is little room for much.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.kinds.has(Kind::Overload)
    }

    /// Whether a region is stale for what waits for it, and not for how long it waits; what all
    /// have is not kept for long then.
    #[must_use]
    pub fn has_small_backlog(&self) -> bool {
        self.kinds.has(Kind::Stale) && self.case.seed.is_multiple_of(2)
    }

    /// The region of a node.
    fn region_of(&self, node: usize) -> usize {
        let mut ends = self.nodes.iter().scan(0, |end, nodes| {
            *end += nodes;
            Some(*end)
        });
        ends.position(|end| node < end).unwrap_or_default()
    }

    /// Number of nodes.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.iter().sum()
    }
}
