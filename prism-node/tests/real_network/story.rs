//! What happens to the network, one thing after the other, while callers submit at all nodes.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::callers::call;
use crate::network::Fault;
use crate::world::{AS, EU, NA, NODES, REGIONS, World, hosts, name, node_host, nodes};

const ALL: [usize; 3] = [NA, EU, AS];
const EU1: usize = EU * NODES;
const EU2: usize = EU1 + 1;

/// How long the idle network is listened to.
const LISTEN: Duration = Duration::from_secs(3);
/// Packets a second between the regions when there is nothing to say: twelve pairs of nodes tell
/// each other that they live, which makes 20.
const IDLE: f64 = 60.0;

type Chapter = fn(&World);

pub fn tell() {
    let begin = Instant::now();
    let world = World::start();
    let w = &world;
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(w);
        for node in 0..REGIONS.len() * NODES {
            scope.spawn(move || call(w, node));
        }
        let chapters: [(&str, Chapter); 6] = [
            ("no fault", |w| w.converge(&ALL)),
            ("loss of 1, 10 and 30 %", loss),
            ("AS is cut off", partition),
            ("nobody in NA hears EU1", mute_node),
            ("NA does not hear EU", mute_region),
            ("EU1 is killed at 30 % loss, EU2 at 10 %", killed),
        ];
        for (what, chapter) in chapters {
            say(begin, what);
            chapter(w);
            // A little is always lost.
            w.network.faults(&lossy(10));
            for region in ALL {
                for peer in ALL.into_iter().filter(|p| *p != region) {
                    back_on_udp(w, region, peer);
                }
            }
        }
    });
    say(begin, "no fault and no caller");
    world.network.faults(&[]);
    world.converge(&ALL);
    world.wait("the databases are level", || world.is_level());
    idle(w);
    world.wait("no alarm is left", || {
        (0..REGIONS.len() * NODES).all(|n| w.status(n).is_some_and(|s| s.alarms.is_empty()))
    });
    world.assert_exactly_once();
    let (carried, lost) = world.network.packets();
    say(
        begin,
        &format!("the end; {carried} packets were carried, {lost} lost"),
    );
}

fn say(begin: Instant, what: &str) {
    eprintln!("{:7.2} s  {what}", begin.elapsed().as_secs_f64());
}

/// The callers end when the story does, also when it fails.
struct StopAtEnd<'w>(&'w World);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        let failed = std::thread::panicking();
        self.0.failed.store(failed, Ordering::Relaxed);
    }
}

fn one_way(from: usize, to: usize, lost: u32) -> Fault {
    Fault {
        from: hosts(from),
        to: hosts(to),
        lost,
    }
}

/// So many of a thousand packets are lost between any two regions, each way.
fn lossy(lost: u32) -> Vec<Fault> {
    let pairs = ALL
        .into_iter()
        .flat_map(|a| ALL.into_iter().map(move |b| (a, b)));
    let pairs = pairs.filter(|(a, b)| a != b);
    pairs.map(|(a, b)| one_way(a, b, lost)).collect()
}

/// Waits until a lane delivers to a node of its region again, and nobody says anything else.
fn back_on_udp(w: &World, region: usize, peer: usize) {
    let what = format!(
        "{} delivers to a node of {}",
        REGIONS[region], REGIONS[peer]
    );
    w.wait(&what, || {
        let target = w.target(region, peer);
        nodes(peer).any(|n| target == name(n)) && !w.alarm(region, "parked", peer)
    });
}

/// Waits until an operator of a region sees that another one cannot be reached.
fn unreachable(w: &World, region: usize, peer: usize) {
    let what = format!("{} says that {} is away", REGIONS[region], REGIONS[peer]);
    w.wait(&what, || w.alarm(region, "parked", peer));
}

fn loss(w: &World) {
    for lost in [10, 100, 300] {
        w.network.faults(&lossy(lost));
        for _ in 0..3 {
            w.converge(&ALL);
        }
    }
}

/// The others go on as if nothing had happened; status says what has.
fn partition(w: &World) {
    let mut faults = lossy(10);
    faults.extend(
        [NA, EU]
            .into_iter()
            .flat_map(|r| [one_way(r, AS, 1000), one_way(AS, r, 1000)]),
    );
    w.network.faults(&faults);
    let cut = [NA, AS].map(|r| w.probe(r));
    for _ in 0..3 {
        w.converge(&[NA, EU]);
    }
    for (region, peer) in [(NA, AS), (EU, AS), (AS, NA), (AS, EU)] {
        unreachable(w, region, peer);
    }
    w.converge(&[NA, EU]);
    assert!(w.alarm(NA, "parked", AS), "it still is");
    assert!(
        !w.has(AS, &cut[0]) && !w.has(NA, &cut[1]) && !w.has(EU, &cut[1]),
        "it was no partition"
    );
    w.network.faults(&lossy(10));
    w.converge(&ALL);
}

/// EU1 hears NA, but neither NA's nodes nor its database hear EU1: both ways lead through EU2.
fn mute_node(w: &World) {
    let mut faults = lossy(10);
    faults.push(Fault {
        from: vec![node_host(EU1)],
        to: hosts(NA),
        lost: 1000,
    });
    w.network.faults(&faults);
    w.wait("NA delivers to EU2", || w.target(NA, EU) == name(EU2));
    for _ in 0..3 {
        w.converge(&ALL);
    }
    w.network.faults(&lossy(10));
    w.wait("NA delivers to EU1", || w.target(NA, EU) == name(EU1));
}

/// What NA sends arrives, and no answer does; AS is not concerned.
fn mute_region(w: &World) {
    let mut faults = lossy(10);
    faults.push(one_way(EU, NA, 1000));
    w.network.faults(&faults);
    unreachable(w, NA, EU);
    unreachable(w, EU, NA);
    w.converge(&[NA, AS]);
    w.converge(&[EU, AS]);
    w.network.faults(&lossy(10));
    w.converge(&ALL);
}

/// Down the whole ladder on a bad network, and up again. (At 30 % loss it is the kernel's TCP that
/// makes direct SQL wait for half a minute.)
fn killed(w: &World) {
    w.network.faults(&lossy(300));
    w.kill(EU1);
    w.wait("NA delivers to EU2", || w.target(NA, EU) == name(EU2));
    w.converge(&ALL);
    let before: u64 = direct_writes(w, NA);
    let last = w.probe(EU);
    w.network.faults(&lossy(100));
    w.kill(EU2);
    w.flows(NA, EU);
    w.flows(AS, EU);
    // (A node's figures are a moment behind what its lane has done.)
    w.wait("NA's nodes say that they wrote to EU by SQL", || {
        direct_writes(w, NA) > before
    });
    w.start_nodes(&[EU1, EU2]);
    w.wait("what EU committed last gets to NA", || w.has(NA, &last));
    w.converge(&ALL);
}

/// Updates that a region's nodes have written to EU by SQL.
fn direct_writes(w: &World, region: usize) -> u64 {
    let all = nodes(region).filter_map(|n| w.status(n));
    let lanes = all
        .flat_map(|s| s.lanes)
        .filter(|l| l.region == REGIONS[EU]);
    lanes.map(|l| l.direct_writes).sum()
}

/// Nothing is sent again and again when there is nothing to send.
fn idle(w: &World) {
    let what = format!("fewer than {IDLE} packets a second between the regions");
    w.wait(&what, || {
        let (before, since) = (w.network.packets().0, Instant::now());
        std::thread::sleep(LISTEN);
        let packets = w.network.packets().0 - before;
        let rate = packets as f64 / since.elapsed().as_secs_f64();
        eprintln!("{rate:.1} packets a second between the regions when idle");
        rate < IDLE
    });
}
