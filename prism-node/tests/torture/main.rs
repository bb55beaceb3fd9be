//! The torture: nodes and servers are killed, stopped, restarted and cut off at random, while a
//! fifth of all datagrams is lost and callers submit in every mode. In the end, plain SQL has to
//! show that every update which was acknowledged took effect once in every region, that those with
//! an unknown outcome did so once or not at all, but everywhere the same, and that nothing was
//! left half-done.
//!
//! `PRISM_KILLS=500` makes it longer, `PRISM_SEED=...` plays the printed schedule again.

mod check;
mod clients;
mod faults;
mod ops;
mod settle;
mod watcher;
mod world;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prism_node::demo::cluster::wait_for;
use prism_node::demo::relay::Random;
use uuid::Uuid;

use clients::{Caller, Running};
use faults::Tally;
use ops::{Kind, Op, Outcome};
use world::{EndOnPanic, NODES, REGIONS, World, lock};

/// A client ends within its tries.
const CLIENTS_END: Duration = Duration::from_secs(120);

#[derive(Clone, Copy)]
enum Role {
    Background,
    Awaiting,
    Transactions,
}

/// The callers of each region.
const ROLES: [Role; 5] = [
    Role::Background,
    Role::Background,
    Role::Awaiting,
    Role::Awaiting,
    Role::Transactions,
];

/// Broken promises that are shown.
const SHOWN: usize = 30;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|e| panic!("{name} is {text:?}: {e}"))
    })
}

#[test]
fn torture_nothing_lost_nothing_twice_nothing_half_done() {
    let kills = usize::try_from(setting("PRISM_KILLS", 30)).expect("a number of kills");
    let seed = setting("PRISM_SEED", Uuid::new_v4().as_u64_pair().0);
    eprintln!("torture: PRISM_KILLS={kills} PRISM_SEED={seed}");
    let mut world = World::start(seed);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run(&world, seed, kills);
    }));
    let wrong = std::mem::take(&mut *lock(&world.wrong));
    if let Err(panic) = result {
        eprintln!("the logs are in {}", world.keep());
        std::panic::resume_unwind(panic);
    }
    if !wrong.is_empty() {
        let kept = world.keep();
        let first = &wrong[..wrong.len().min(SHOWN)].join("\n");
        panic!(
            "{} promises broken (PRISM_KILLS={kills} PRISM_SEED={seed}; logs in {kept}):\n{first}",
            wrong.len()
        );
    }
}

/// What the watchers have seen.
#[derive(Default)]
struct Seen {
    looks: u64,
    awaited: u64,
}

fn run(world: &World, seed: u64, kills: usize) {
    let begin = Instant::now();
    let tally = Tally::default();
    let steps = faults::schedule(&mut Random(seed), kills);
    let mut seen = Seen::default();
    let mut figures = Figures::default();
    let mut tortured = Duration::ZERO;
    let ops = std::thread::scope(|scope| {
        let _guard = EndOnPanic(world);
        let mut streams = Vec::new();
        let mut rows = Vec::new();
        for origin in 0..REGIONS.len() {
            rows.push(scope.spawn(move || watcher::awaited(world, origin)));
            for peer in (0..REGIONS.len()).filter(|p| *p != origin) {
                streams.push(scope.spawn(move || watcher::stream(world, origin, peer)));
            }
        }
        let mut callers = Vec::new();
        for region in 0..REGIONS.len() {
            for role in ROLES {
                let caller = Caller::new(world, seed, region, callers.len());
                let running = Running::new(world);
                callers.push(scope.spawn(move || {
                    let _running = running;
                    match role {
                        Role::Background => caller.background(),
                        Role::Awaiting => caller.awaiting(),
                        Role::Transactions => caller.transactions(),
                    }
                }));
            }
        }
        let collector = scope.spawn(|| figures.collect(world));
        faults::play(scope, world, &tally, &steps, begin);
        tortured = begin.elapsed();
        world.stop.store(true, Ordering::Relaxed);
        let ended = || world.clients.load(Ordering::Relaxed) == 0;
        wait_for(CLIENTS_END, ended).expect("the clients end");
        let ops: Vec<Op> = callers
            .into_iter()
            .flat_map(|c| c.join().expect("a client"))
            .collect();
        eprintln!(
            "{:7.2} s  peace, {} updates",
            begin.elapsed().as_secs_f64(),
            ops.len()
        );
        settle::level(world);
        world.watched.store(true, Ordering::Relaxed);
        seen.looks = streams
            .into_iter()
            .map(|s| s.join().expect("a watcher"))
            .sum();
        seen.awaited = rows.into_iter().map(|s| s.join().expect("a watcher")).sum();
        collector.join().expect("the collector");
        ops
    });
    eprintln!("{:7.2} s  level", begin.elapsed().as_secs_f64());
    for n in 0..REGIONS.len() * NODES {
        faults::alive(world, n);
    }
    judge(world, &ops);
    summary(&ops, &tally, &seen, &figures, tortured, begin.elapsed());
}

fn judge(world: &World, ops: &[Op]) {
    // Those who gave up ask now; a sample of the others has to hear what it was told.
    let open: Vec<&Op> = ops
        .iter()
        .enumerate()
        .filter(|(i, op)| op.stays().is_none() || i % 20 == 0)
        .map(|(_, op)| op)
        .collect();
    let answers = settle::ask(world, &open);
    let mut found = HashMap::new();
    for (op, answer) in open.into_iter().zip(answers) {
        // What was never taken may be unknown; a refusal that wrote nothing as well.
        if op.stays() == Some(false) && answer == "unknown" {
            continue;
        }
        match settle::settled(op, &answer) {
            Ok(stays) => {
                if op.stays().is_some_and(|told| told != stays) {
                    world.wrong(format!("{op}: GET says {answer}"));
                }
                if op.stays().is_none() {
                    found.insert(op.request, stays);
                }
            }
            Err(what) => world.wrong(what),
        }
    }
    check::equal(world).expect("the regions can be compared");
    let content: Vec<check::Content> = (0..REGIONS.len())
        .map(|r| check::Content::read(world, r).expect("the tables can be read"))
        .collect();
    check::told(world, ops, &found, &content);
    if let Err(alarms) = settle::alarms(world) {
        world.wrong(alarms);
    }
}

/// Counters of the nodes, which begin at zero with each process: summed over all of them.
#[derive(Default)]
struct Figures {
    total: [u64; 4],
}

const FIGURES: [&str; 4] = ["retransmits", "failovers", "direct writes", "spooled"];

impl Figures {
    fn collect(&mut self, world: &World) {
        let http = clients::agent();
        let mut last = vec![[0u64; 4]; world.http.len()];
        while !world.watched.load(Ordering::Relaxed) {
            for (node, last) in world.http.iter().zip(&mut last) {
                let Some(now) = read(&http, *node) else {
                    continue;
                };
                for i in 0..now.len() {
                    // Less than before: another process.
                    let before = if now[i] < last[i] { 0 } else { last[i] };
                    self.total[i] += now[i] - before;
                }
                *last = now;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

fn read(http: &ureq::Agent, node: std::net::SocketAddr) -> Option<[u64; 4]> {
    let url = format!("http://{node}/v1/status");
    let mut answer = http.get(&url).call().ok()?;
    let text = answer.body_mut().read_to_string().ok()?;
    let status: prism_node::status::Status = serde_json::from_str(&text).ok()?;
    let sum = |f: fn(&prism_node::status::Lane) -> u64| status.lanes.iter().map(f).sum();
    Some([
        sum(|l| l.retransmits),
        sum(|l| l.failovers),
        sum(|l| l.direct_writes),
        status.journal.entries,
    ])
}

fn summary(
    ops: &[Op],
    tally: &Tally,
    seen: &Seen,
    figures: &Figures,
    tortured: Duration,
    all: Duration,
) {
    let mut lines = Vec::new();
    let kinds = lock(&tally.kinds);
    let total: usize = kinds.values().sum();
    let words: Vec<String> = kinds.iter().map(|(k, n)| format!("{n} {k}")).collect();
    lines.push(format!("{total} kills: {}", words.join(", ")));
    let mut outcomes: BTreeMap<(Kind, Outcome), usize> = BTreeMap::new();
    for op in ops {
        *outcomes.entry((op.kind, op.outcome)).or_default() += 1;
    }
    for awaited in [false, true] {
        let mut sums: BTreeMap<Outcome, usize> = BTreeMap::new();
        for ((_, outcome), n) in outcomes.iter().filter(|((k, _), _)| k.awaited() == awaited) {
            *sums.entry(*outcome).or_default() += n;
        }
        let words: Vec<String> = sums.iter().map(|(o, n)| format!("{n} {o:?}")).collect();
        let what = if awaited { "awaited" } else { "background" };
        lines.push(format!("{what}: {}", words.join(", ").to_lowercase()));
    }
    let crossed = ops.iter().filter(|op| op.crossed).count();
    let sql = ops.iter().filter(|op| op.sql).count();
    lines.push(format!(
        "{crossed} in two regions, {sql} in own transactions"
    ));
    let words: Vec<String> = FIGURES
        .iter()
        .zip(figures.total)
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    lines.push(format!(
        "{} (at least); {} looks at watermarks, {} awaited rows watched",
        words.join(", "),
        seen.looks,
        seen.awaited
    ));
    lines.push(format!("{tortured:.1?} of torture, {all:.1?} in all"));
    eprintln!("torture: {}", lines.join("\n         "));
}
