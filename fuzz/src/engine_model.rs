//! Engines with honest databases around them, on a network and with failures that the fuzzer picks:
//! the databases (`prism-proto/tests/sim`) assert with every row that each update is applied once, in
//! order and unchanged, and with every acknowledgement that it is true. Once everything is repaired,
//! everything arrives.

use arbitrary::Arbitrary;
use prism_proto::{ApplyCause, Event, RegionId};

use crate::sim::{MS, SEC, Sim, plain};

#[derive(Debug, Arbitrary)]
struct Story {
    seed: u64,
    shape: u8,
    /// Of 256.
    loss: u8,
    duplicate: u8,
    delay: u8,
    spread: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Submit { node: u8, count: u8, len: u16 },
    Pass { ms: u16 },
    Kill(u8),
    Restart(u8),
    Cut(u8, u8),
    Heal,
    Drop { from: u8, to: u8, count: u8 },
    DatabaseDown(u8),
    DatabaseUp(u8),
    DirectDown(u8),
    DirectIdle(bool),
    Sick(u8, u8),
    /// Two nodes of a region believe that they hold its lanes.
    Overlap(u8),
    Lose(u8),
    /// What is in memory of the own stream is pushed out.
    Forget(u8),
    Refuse { region: u8, stream: u8, count: u8 },
    NoRoom(u8),
    InboxFull { node: u8, count: u8 },
}

const SHAPES: &[&[usize]] = &[&[1, 1], &[1, 2], &[2, 2], &[2, 1, 2]];
const STEPS: usize = 24;

/// The lanes of a region are held by its first live node.
fn lease(sim: &mut Sim, region: usize) {
    let holder = |i: &usize| sim.nodes[*i].region == region && sim.nodes[*i].alive;
    if let Some(i) = (0..sim.nodes.len()).find(holder) {
        sim.hold(i);
    }
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let Some(story) = super::structured::<Story>(bytes) else {
        return;
    };
    let mut sim = Sim::new(story.seed, SHAPES[usize::from(story.shape) % SHAPES.len()], plain);
    sim.net.loss = f64::from(story.loss) / 512.0;
    sim.net.duplicate = f64::from(story.duplicate) / 256.0;
    let least = 100 + u64::from(story.delay) * 150;
    sim.net.delay = (least, least + u64::from(story.spread) * 150);
    sim.hold_all();
    for one in story.steps.iter().take(STEPS) {
        step(&mut sim, one);
    }
    repair(&mut sim);
    sim.run_until(300 * SEC, Sim::settled);
}

fn step(sim: &mut Sim, step: &Step) {
    let (nodes, regions) = (sim.nodes.len(), sim.dbs.len());
    let node = |n: u8| usize::from(n) % nodes;
    let region = |r: u8| usize::from(r) % regions;
    match *step {
        Step::Submit { node: n, count, len } => {
            let i = node(n);
            if sim.nodes[i].alive && sim.dbs[sim.nodes[i].region].up {
                let most = if len > 1000 { 3 } else { 40 };
                for _ in 0..count.min(most) {
                    sim.submit(i, usize::from(len) % 20_000);
                }
            }
        }
        Step::Pass { ms } => sim.run_for(u64::from(ms % 4000) * MS),
        Step::Kill(n) => {
            let i = node(n);
            if sim.nodes[i].alive {
                sim.kill(i);
                lease(sim, sim.nodes[i].region);
            }
        }
        Step::Restart(n) => {
            sim.restart(node(n));
            lease(sim, sim.nodes[node(n)].region);
        }
        Step::Cut(from, to) => {
            sim.net.blocked.insert((node(from), node(to)));
        }
        Step::Heal => sim.net.blocked.clear(),
        Step::Drop { from, to, count } => {
            sim.drop_next.insert((node(from), node(to)), count.into());
        }
        Step::DatabaseDown(r) => sim.dbs[region(r)].up = false,
        Step::DatabaseUp(r) => {
            sim.dbs[region(r)].up = true;
            sim.dbs[region(r)].sick = None;
        }
        Step::DirectDown(r) => sim.dbs[region(r)].direct_up = false,
        Step::DirectIdle(idle) => sim.direct_idle = idle,
        Step::Sick(r, cause) => {
            let causes = [ApplyCause::Busy, ApplyCause::Dependency, ApplyCause::Parked];
            sim.dbs[region(r)].sick = Some(causes[usize::from(cause) % causes.len()]);
        }
        Step::Overlap(n) => sim.hold(node(n)),
        Step::Lose(n) => {
            for peer in 0..regions as u16 {
                let peer = RegionId(peer);
                sim.tell(node(n), Event::LaneLost { peer });
            }
        }
        Step::Forget(n) => {
            sim.nodes[node(n)].memory.map.clear();
            sim.fetch_limit = 1 + u64::from(n);
        }
        Step::Refuse { region: r, stream, count } => {
            let (r, s) = (region(r), region(stream));
            let next = sim.dbs[s].outbox.len() as u64 + 1;
            let seqs = (next..next + u64::from(count)).step_by(3);
            sim.dbs[r].refuse.extend(seqs.map(|seq| (s as u16, seq)));
        }
        Step::NoRoom(count) => sim.handle_drop = count.into(),
        Step::InboxFull { node: n, count } => sim.nodes[node(n)].inbox.refuse = count.into(),
    }
}

fn repair(sim: &mut Sim) {
    sim.net.blocked.clear();
    sim.net.loss = 0.0;
    sim.drop_next.clear();
    sim.direct_idle = false;
    sim.handle_drop = 0;
    for i in 0..sim.nodes.len() {
        if !sim.nodes[i].alive {
            sim.restart(i);
        }
    }
    for r in 0..sim.dbs.len() {
        sim.dbs[r].up = true;
        sim.dbs[r].direct_up = true;
        sim.dbs[r].sick = None;
        lease(sim, r);
    }
}
