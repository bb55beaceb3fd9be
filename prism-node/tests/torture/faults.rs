//! What goes wrong, and when: drawn from a seed before anything runs, so that a seed tells it all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use prism_node::demo::cluster::wait_for;
use prism_node::demo::relay::Random;

use crate::world::{NODES, REGIONS, World, lock};

/// One misfortune.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of a node.
    NodeKilled(usize),
    /// SIGSTOP of a node.
    NodeStopped(usize),
    /// SIGTERM of a node.
    NodeTerminated(usize),
    /// SIGKILL of a PostgreSQL server with all its backends.
    ServerKilled(usize),
    /// SIGKILL of one process of a server; it recovers by itself.
    BackendKilled(usize),
    /// SIGSTOP of a server and its backends.
    ServerStopped(usize),
    /// No datagram gets into the region or out of it.
    RegionCut(usize),
    /// No datagram gets from one region to another.
    OneWayCut(usize, usize),
}

impl Fault {
    pub const fn kind(self) -> &'static str {
        match self {
            Self::NodeKilled(_) => "node SIGKILL",
            Self::NodeStopped(_) => "node SIGSTOP",
            Self::NodeTerminated(_) => "node SIGTERM",
            Self::ServerKilled(_) => "server SIGKILL",
            Self::BackendKilled(_) => "backend SIGKILL",
            Self::ServerStopped(_) => "server SIGSTOP",
            Self::RegionCut(_) => "region cut off",
            Self::OneWayCut(..) => "one-way cut",
        }
    }

    /// What it is done to; one misfortune at a time for each.
    const fn target(self) -> usize {
        let nodes = REGIONS.len() * NODES;
        match self {
            Self::NodeKilled(n) | Self::NodeStopped(n) | Self::NodeTerminated(n) => n,
            Self::ServerKilled(r) | Self::BackendKilled(r) | Self::ServerStopped(r) => nodes + r,
            Self::RegionCut(r) | Self::OneWayCut(r, _) => nodes + REGIONS.len() + r,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match *self {
            Self::NodeKilled(n) | Self::NodeStopped(n) | Self::NodeTerminated(n) => {
                write!(f, "{kind} {}{}", REGIONS[n / NODES], n % NODES + 1)
            }
            Self::ServerKilled(r)
            | Self::BackendKilled(r)
            | Self::ServerStopped(r)
            | Self::RegionCut(r) => write!(f, "{kind} {}", REGIONS[r]),
            Self::OneWayCut(a, b) => write!(f, "{kind} {} -> {}", REGIONS[a], REGIONS[b]),
        }
    }
}

/// A misfortune with its times.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// After the one before; zero: at the same time.
    gap: Duration,
    fault: Fault,
    /// Until it is over.
    lasts: Duration,
    /// Which of many, for what is not known before it runs.
    pick: usize,
    /// Everything heals before this one, and there is peace for a moment.
    peace: Duration,
}

fn millis(random: &mut Random, from: usize, to: usize) -> Duration {
    Duration::from_millis((from + random.below(to - from)) as u64)
}

/// `count` misfortunes.
pub fn schedule(random: &mut Random, count: usize) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::with_capacity(count);
    while steps.len() < count {
        // At times two at once, in two regions.
        let twins = if random.chance(0.15) { 2 } else { 1 };
        let first = random.below(REGIONS.len());
        let other = (first + 1 + random.below(REGIONS.len() - 1)) % REGIONS.len();
        for (i, region) in [first, other].into_iter().enumerate().take(twins) {
            let (fault, lasts) = draw(random, region);
            let peace = if i == 0 && steps.len() % 7 == 6 {
                millis(random, 500, 2_500)
            } else {
                Duration::ZERO
            };
            steps.push(Step {
                gap: if i == 0 {
                    millis(random, 200, 2_000)
                } else {
                    Duration::ZERO
                },
                fault,
                lasts,
                pick: random.below(1_000),
                peace,
            });
        }
    }
    steps.truncate(count);
    steps
}

fn draw(random: &mut Random, region: usize) -> (Fault, Duration) {
    let node = region * NODES + random.below(NODES);
    match random.below(100) {
        0..30 => (Fault::NodeKilled(node), millis(random, 0, 3_500)),
        // Shorter and longer than the lease of a lane (3 s).
        30..44 => (Fault::NodeStopped(node), millis(random, 300, 6_500)),
        44..52 => (Fault::NodeTerminated(node), millis(random, 0, 2_000)),
        52..68 => (Fault::ServerKilled(region), millis(random, 0, 3_500)),
        68..76 => (Fault::BackendKilled(region), millis(random, 0, 200)),
        76..84 => (Fault::ServerStopped(region), millis(random, 300, 6_000)),
        84..92 => (Fault::RegionCut(region), millis(random, 500, 5_000)),
        _ => {
            let to = (region + 1 + random.below(REGIONS.len() - 1)) % REGIONS.len();
            (Fault::OneWayCut(region, to), millis(random, 500, 5_000))
        }
    }
}

/// Misfortunes at the same time, at most: the system gets little room, but some.
const AT_ONCE: usize = 3;
/// What a drain and a recovery may take.
const LIMIT: Duration = Duration::from_secs(90);

/// Who is being tortured.
#[derive(Default)]
pub struct Tally {
    busy: Mutex<Vec<usize>>,
    pub kinds: Mutex<BTreeMap<&'static str, usize>>,
    failed: AtomicBool,
}

/// Plays the schedule; returns when everything is healed again.
pub fn play<'s>(
    scope: &'s Scope<'s, '_>,
    world: &'s World,
    tally: &'s Tally,
    steps: &[Step],
    begin: Instant,
) {
    for (i, &step) in steps.iter().enumerate() {
        if !step.peace.is_zero() {
            free(tally, |busy| busy.is_empty());
            std::thread::sleep(step.peace);
        }
        std::thread::sleep(step.gap);
        free(tally, |busy| {
            busy.len() < AT_ONCE && !busy.contains(&step.fault.target())
        });
        lock(&tally.busy).push(step.fault.target());
        *lock(&tally.kinds).entry(step.fault.kind()).or_default() += 1;
        let at = begin.elapsed().as_secs_f64();
        eprintln!(
            "{at:7.2} s  {:3}  {} for {:?}",
            i + 1,
            step.fault,
            step.lasts
        );
        scope.spawn(move || {
            let done = std::panic::AssertUnwindSafe(|| inflict(world, step));
            if std::panic::catch_unwind(done).is_err() {
                tally.failed.store(true, Ordering::Relaxed);
            }
            lock(&tally.busy).retain(|t| *t != step.fault.target());
        });
    }
    free(tally, |busy| busy.is_empty());
}

fn free(tally: &Tally, ready: impl Fn(&[usize]) -> bool) {
    let done = || tally.failed.load(Ordering::Relaxed) || ready(&lock(&tally.busy));
    wait_for(LIMIT, done).expect("a misfortune comes to its end");
    let failed = tally.failed.load(Ordering::Relaxed);
    assert!(!failed, "a misfortune could not be ended: see above");
}

fn inflict(world: &World, step: Step) {
    let pause = || std::thread::sleep(step.lasts);
    match step.fault {
        Fault::NodeKilled(n) => {
            alive(world, n);
            world.cluster().kill(n);
            pause();
            world.cluster().start(n).expect("a node starts");
        }
        Fault::NodeStopped(n) => {
            world.cluster().signal(n, Signal::SIGSTOP);
            pause();
            world.cluster().signal(n, Signal::SIGCONT);
        }
        Fault::NodeTerminated(n) => {
            alive(world, n);
            world.cluster().signal(n, Signal::SIGTERM);
            if wait_for(Duration::from_secs(40), || !world.cluster().runs(n)).is_err() {
                world.wrong(format!("{} does not end after SIGTERM", name(n)));
            }
            world.cluster().kill(n);
            pause();
            world.cluster().start(n).expect("a node starts");
        }
        Fault::ServerKilled(r) => {
            let mut server = lock(&world.servers[r]);
            server.kill9();
            pause();
            server.restart().expect("a server starts again");
        }
        Fault::BackendKilled(r) => {
            let server = lock(&world.servers[r]);
            let backends = server.backends();
            if !backends.is_empty() {
                let _ = kill(backends[step.pick % backends.len()], Signal::SIGKILL);
            }
            pause();
        }
        Fault::ServerStopped(r) => {
            let server = lock(&world.servers[r]);
            server.sigstop();
            pause();
            server.sigcont();
        }
        Fault::RegionCut(r) => {
            let others = (0..REGIONS.len()).filter(|o| *o != r);
            let links: Vec<_> = others.flat_map(|o| [(r, o), (o, r)]).collect();
            links.iter().for_each(|&(a, b)| world.cut(a, b, true));
            pause();
            links.iter().for_each(|&(a, b)| world.cut(a, b, false));
        }
        Fault::OneWayCut(a, b) => {
            world.cut(a, b, true);
            pause();
            world.cut(a, b, false);
        }
    }
}

/// A node ends only when somebody ends it.
pub fn alive(world: &World, n: usize) {
    if !world.cluster().runs(n) {
        world.wrong(format!("{} has ended by itself", name(n)));
    }
}

pub fn name(n: usize) -> String {
    format!("{}{}", REGIONS[n / NODES], n % NODES + 1)
}
