//! Endpoints over a wire that loses, doubles and reorders, with virtual time.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{Calls, Database, Job, config, open_config, update};
use prism_net::{Command, Endpoint, EndpointError, Step};
use prism_proto::{Instant, RegionId};

struct Side {
    endpoint: Endpoint,
    calls: Calls,
    jobs: Receiver<Job>,
    database: Database,
    wake: Instant,
}

/// What happens to datagrams, of 100.
#[derive(Clone, Copy)]
struct Wire {
    lost: u64,
    doubled: u64,
    delayed: u64,
}

struct World {
    sealed: bool,
    sides: Vec<Side>,
    wire: Wire,
    now: Instant,
    rng: u64,
    /// Under way: (arrival, number) -> (receiver, sender, datagram).
    flying: BTreeMap<(Instant, u64), (usize, SocketAddr, Vec<u8>)>,
    sent: u64,
    /// A sum of all bytes sent.
    bytes: u64,
    /// Longer datagrams are lost.
    carries: usize,
    /// Length of the longest that was not.
    longest: usize,
}

fn addresses() -> Vec<SocketAddr> {
    (0..2)
        .map(|i| SocketAddr::from(([127, 0, 0, 1], 7000 + i)))
        .collect()
}

impl World {
    fn new(wire: Wire, seed: u64) -> Self {
        Self::with(wire, seed, true)
    }

    fn with(wire: Wire, seed: u64, sealed: bool) -> Self {
        let mut world = Self {
            sealed,
            sides: Vec::new(),
            wire,
            now: Instant::from_micros(0),
            rng: seed,
            flying: BTreeMap::new(),
            sent: 0,
            bytes: 0,
            carries: usize::MAX,
            longest: 0,
        };
        for i in 0..2 {
            let side = world.side(i, seed, Database::new(i, 2));
            world.sides.push(side);
        }
        for i in 0..2 {
            world.start(i);
        }
        world
    }

    fn side(&self, i: u16, seed: u64, database: Database) -> Side {
        let (calls, jobs) = channel();
        let config = if self.sealed { config } else { open_config };
        let config = config(i, &addresses(), seed * 2 + u64::from(i));
        Side {
            endpoint: Endpoint::new(&config).expect("a good configuration"),
            calls: Calls(calls),
            jobs,
            database,
            wake: self.now,
        }
    }

    fn start(&mut self, i: usize) {
        let side = &mut self.sides[i];
        for command in side.database.start(RegionId(i as u16)) {
            side.endpoint.handle_command(self.now, command);
        }
        self.drain(i);
    }

    /// A new process on the same database.
    fn restart(&mut self, i: usize, seed: u64) {
        let database = std::mem::replace(&mut self.sides[i].database, Database::new(0, 0));
        self.sides[i] = self.side(i as u16, seed, database);
        self.start(i);
    }

    fn commit(&mut self, i: usize, count: u64, len: usize) {
        let side = &mut self.sides[i];
        let next = side.database.outbox.len() as u64;
        let updates = (next..next + count).map(|n| update(i as u16, n, len));
        let batch = side.database.commit(updates);
        side.endpoint
            .handle_command(self.now, Command::Committed(batch));
        self.drain(i);
    }

    fn dice(&mut self) -> u64 {
        self.rng = self.rng.wrapping_mul(6364136223846793005).wrapping_add(1);
        (self.rng >> 33) % 100
    }

    /// Polls a side until it waits, and does what it wants.
    fn drain(&mut self, i: usize) {
        let mut buffer = vec![0; self.sides[i].endpoint.max_datagram()];
        for turn in 0.. {
            assert!(turn < 100_000, "the endpoint never comes to rest");
            let side = &mut self.sides[i];
            match side.endpoint.poll(self.now, &mut side.calls, &mut buffer) {
                Step::Transmit { to, len } => self.fly(i, to, &buffer[..len]),
                Step::Wait { deadline, .. } => {
                    side.wake = deadline.unwrap_or(self.now.after(Duration::from_secs(3600)));
                    let commands: Vec<_> = (side.jobs.try_iter())
                        .flat_map(|job| side.database.work(job))
                        .collect();
                    if commands.is_empty() {
                        return;
                    }
                    for command in commands {
                        side.endpoint.handle_command(self.now, command);
                    }
                }
            }
        }
    }

    fn fly(&mut self, from: usize, to: SocketAddr, datagram: &[u8]) {
        for &byte in datagram {
            self.bytes = (self.bytes ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let receiver = addresses().iter().position(|&a| a == to).expect("known");
        if datagram.len() > self.carries {
            return;
        }
        self.longest = self.longest.max(datagram.len());
        let copies = match self.dice() {
            dice if dice < self.wire.lost => 0,
            dice if dice >= 100 - self.wire.doubled => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let late = if self.dice() < self.wire.delayed {
                7
            } else {
                2
            };
            let arrival = self.now.after(Duration::from_millis(late));
            self.sent += 1;
            let packet = (receiver, addresses()[from], datagram.to_vec());
            self.flying.insert((arrival, self.sent), packet);
        }
    }

    /// The next thing that happens.
    fn step(&mut self) {
        let wake = (self.sides.iter().map(|side| side.wake))
            .min()
            .expect("two");
        match self.flying.first_key_value() {
            Some((&(arrival, number), _)) if arrival <= wake => {
                self.now = self.now.max(arrival);
                let (to, from, datagram) =
                    self.flying.remove(&(arrival, number)).expect("just seen");
                self.sides[to]
                    .endpoint
                    .handle_datagram(self.now, from, &datagram);
                self.drain(to);
            }
            _ => {
                self.now = self.now.max(wake);
                for i in 0..2 {
                    if self.sides[i].wake <= self.now {
                        self.drain(i);
                    }
                }
            }
        }
    }

    /// A lot to say; the longest datagram that came through.
    fn busy(&mut self) -> usize {
        self.longest = 0;
        for _ in 0..20 {
            self.commit(0, 1000, 20);
            self.converge(Duration::from_secs(60));
        }
        self.longest
    }

    fn behind(&self) -> bool {
        [(0, 1), (1, 0)].iter().any(|&(from, to): &(usize, usize)| {
            let sent = self.sides[from].database.outbox.len();
            self.sides[to].database.applied[from].len() < sent
                || self.sides[from].database.acked[to].seq.0 < sent as u64
        })
    }

    /// Runs until both databases have everything, and checks that it is right.
    fn converge(&mut self, within: Duration) {
        let end = self.now.after(within);
        while self.behind() {
            assert!(
                self.now < end,
                "not in step after {within:?}: {:?} {:?}",
                self.sides[0].database.notices,
                self.sides[1].database.notices
            );
            self.step();
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let (from_db, to_db) = (&self.sides[from].database, &self.sides[to].database);
            assert!(
                from_db.outbox == to_db.applied[from],
                "not the same updates"
            );
        }
    }
}

const CLEAN: Wire = Wire {
    lost: 0,
    doubled: 0,
    delayed: 0,
};

#[test]
fn the_first_update_needs_a_handshake_and_few_round_trips() {
    let mut world = World::new(CLEAN, 1);
    world.commit(0, 1, 64);
    world.converge(Duration::from_secs(2));
}

#[test]
fn whatever_the_wire_does_everything_arrives_once_in_order() {
    for seed in 1..20 {
        let wire = Wire {
            lost: seed % 5 * 10,
            doubled: 10,
            delayed: 20,
        };
        let mut world = World::with(wire, seed, seed % 4 != 0);
        for _ in 0..20 {
            world.commit(0, 30, 120);
            world.commit(1, 3, 2000);
            for _ in 0..20 {
                world.step();
            }
        }
        world.converge(Duration::from_secs(600));
    }
}

#[test]
fn datagrams_are_as_long_as_the_path_carries() {
    for (carries, longest) in [(1300, 1232), (1400, 1372), (1472, 1452), (9000, 8952)] {
        let mut world = World::new(CLEAN, 3);
        world.carries = carries;
        assert_eq!(world.busy(), longest, "on a path of {carries}");
        // (a window goes in 32 datagrams at least: not all of the longest is used for small updates)
        let used = world.busy();
        assert!(used == longest || used > 2000, "{used} of {longest}");
        // Another path, which is worse, and nothing says so.
        world.carries = 1250;
        assert_eq!(world.busy(), 1232, "a black hole");
    }
}

#[test]
fn a_lane_with_little_to_say_does_not_search() {
    let mut world = World::new(CLEAN, 3);
    for _ in 0..100 {
        world.commit(0, 1, 600);
        world.converge(Duration::from_secs(60));
    }
    assert!(world.longest < 1000, "{}", world.longest);
}

#[test]
fn restarts_in_the_middle_lose_and_double_nothing() {
    for seed in 1..10 {
        let wire = Wire {
            lost: 10,
            doubled: 10,
            delayed: 20,
        };
        let mut world = World::with(wire, seed, seed % 3 != 0);
        for round in 0..10u64 {
            world.commit(0, 100, 100);
            world.commit(1, 100, 100);
            for _ in 0..50 + seed {
                world.step();
            }
            world.restart((round % 2) as usize, 1000 + seed * 100 + round);
        }
        world.converge(Duration::from_secs(600));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let wire = Wire {
            lost: 20,
            doubled: 10,
            delayed: 20,
        };
        let mut world = World::with(wire, 5, false);
        world.commit(0, 500, 100);
        world.converge(Duration::from_secs(600));
        // Every byte, those of the handshakes too.
        (world.now, world.sent, world.bytes)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_configuration_that_does_not_fit_is_refused() {
    let mut bad = config(0, &addresses(), 1);
    bad.me = prism_proto::NodeId(7);
    let error = Endpoint::new(&bad).expect_err("no such node");
    assert!(matches!(error, EndpointError::NoSuchNode(7, 2)), "{error}");
    let mut bad = config(0, &addresses(), 1);
    bad.nodes[1].name = bad.nodes[0].name.clone();
    let error = Endpoint::new(&bad).expect_err("one name twice");
    assert!(error.to_string().contains("R0-1"), "{error}");
}

#[test]
fn keys_that_do_not_fit_are_refused_with_the_name_of_the_node() {
    let refused = |spoil: fn(&mut prism_net::EndpointConfig)| {
        let mut bad = config(0, &addresses(), 1);
        spoil(&mut bad);
        Endpoint::new(&bad).expect_err("it must be refused")
    };
    let error = refused(|c| c.nodes[1].public_keys.clear());
    assert!(
        matches!(&error, EndpointError::NoKey(n) if n == "R1-1"),
        "{error}"
    );
    let error = refused(|c| c.nodes[1].public_keys = vec![[5; 32]; 3]);
    assert!(
        matches!(&error, EndpointError::TooManyKeys(n, 3) if n == "R1-1"),
        "{error}"
    );
    let error = refused(|c| c.nodes[1].public_keys = c.nodes[0].public_keys.clone());
    assert!(matches!(&error, EndpointError::SameKey(a, b) if (&**a, &**b) == ("R0-1", "R1-1")));
    let error = refused(|c| c.nodes[0].public_keys = vec![[5; 32]]);
    assert!(
        matches!(&error, EndpointError::ForeignKey(n) if n == "R0-1"),
        "{error}"
    );
    // Small-order points of Curve25519 (RFC 7748, 7), and two more ways to write them.
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    let mut p = minus_one;
    p[0] = 0xed;
    for low in [[0; 32], one, minus_one, p] {
        let mut bad = config(0, &addresses(), 1);
        bad.nodes[1].public_keys.push(low);
        let error = Endpoint::new(&bad).expect_err("a weak key");
        assert!(
            matches!(&error, EndpointError::WeakKey(n) if n == "R1-1"),
            "{error}"
        );
    }
}
