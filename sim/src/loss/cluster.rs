//! `NA1`, which sends, and `EU1` and `EU2`, which receive: real endpoints, virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddr};

use prism_net::{
    Batch, Command, Endpoint, EndpointConfig, Limits, NodeAddress, Protection, RegionInfo,
    SessionKeys, Snapshot, Step, public_key,
};
use prism_proto::{Epoch, Event, Instant, NodeId, Position, RegionId, Retry, Seq, Tag, Verdict};
use zeroize::Zeroizing;

use super::host::{Ask, Asks};
use super::link::{Chance, Link};

/// The sender.
pub const NA1: usize = 0;
/// The receiver that is preferred.
pub const EU1: usize = 1;
/// The one that takes its place.
pub const EU2: usize = 2;
const NODES: usize = 3;
const NA: RegionId = RegionId(0);
const EU: RegionId = RegionId(1);
const EPOCH: Epoch = Epoch(7);
/// What a transaction takes, whatever is in it.
const COMMIT: u64 = 1_000;
/// What reading a row or two takes.
const READ: u64 = 200;
/// Bytes of an update.
pub const UPDATE: usize = 100;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    /// Updates in flight.
    pub window: u32,
    /// Of 100 datagrams.
    pub loss: u64,
    /// Milliseconds there and back.
    pub rtt: u64,
}

enum What {
    Arrive {
        from: usize,
        to: usize,
        bytes: Vec<u8>,
    },
    Wake(usize),
    Tell(usize, Command),
    Commit(usize, Batch),
    Direct(Seq),
}

/// See the module.
pub struct Cluster {
    /// Microseconds.
    pub now: u64,
    path: Path,
    chance: Chance,
    endpoints: Vec<Endpoint>,
    alive: [bool; NODES],
    wake: [Option<u64>; NODES],
    links: [[Link; NODES]; NODES],
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    order: u64,
    pending: std::collections::BTreeMap<u64, What>,
    buffer: Vec<u8>,
    asks: Asks,
    /// Updates committed at the origin.
    pub tail: u64,
    /// When each was.
    pub committed: Vec<u64>,
    /// When each was known to be applied.
    pub acked: Vec<u64>,
    /// The database of EU has everything up to here.
    pub applied: u64,
    /// When it last got something through each node, and through SQL (at the place of `NA1`).
    pub through: [Option<u64>; NODES],
}

fn home(node: usize) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 7000 + node as u16).into()
}

fn private(node: usize) -> [u8; 32] {
    [node as u8 + 1; 32]
}

fn update(seq: u64) -> [u8; UPDATE] {
    let mut bytes = [seq as u8; UPDATE];
    bytes[..8].copy_from_slice(&seq.to_le_bytes());
    bytes
}

fn position(seq: u64) -> Position {
    match seq {
        0 => Position::default(),
        _ => Position {
            epoch: EPOCH,
            seq: Seq(seq),
            tag: Tag(seq),
        },
    }
}

impl Cluster {
    /// All processes start, `NA1` with the lane to EU.
    #[must_use]
    pub fn new(path: Path, seed: u64) -> Self {
        let node = |(i, name): (usize, &str)| NodeAddress {
            name: name.to_owned(),
            region: if i == NA1 { NA } else { EU },
            udp: home(i),
            public_keys: vec![public_key(&private(i))],
        };
        let nodes: Vec<_> = ["NA1", "EU1", "EU2"]
            .into_iter()
            .enumerate()
            .map(node)
            .collect();
        let region = |name: &str| RegionInfo {
            name: name.to_owned(),
            direct: true,
        };
        let endpoint = |me: usize| {
            Endpoint::new(&EndpointConfig {
                me: NodeId(me as u16),
                nodes: nodes.clone(),
                regions: vec![region("NA"), region("EU")],
                retry: Retry::default(),
                limits: Limits {
                    window: path.window,
                    ..Limits::default()
                },
                seed: seed * 4 + me as u64,
                cluster: "loss".to_owned(),
                protection: Protection::Sealed(SessionKeys {
                    private: Zeroizing::new(private(me)),
                    psk: Zeroizing::new([9; 32]),
                }),
                boot: 1,
                catalogue: 0,
            })
            .expect("the configuration is fine")
        };
        let endpoints: Vec<_> = (0..NODES).map(endpoint).collect();
        let mut cluster = Self {
            now: 1_000_000,
            path,
            chance: Chance::new(seed),
            buffer: vec![0; endpoints[0].max_datagram()],
            endpoints,
            alive: [true; NODES],
            wake: [None; NODES],
            links: Default::default(),
            queue: BinaryHeap::new(),
            order: 0,
            pending: std::collections::BTreeMap::new(),
            asks: Asks::default(),
            tail: 0,
            committed: Vec::new(),
            acked: Vec::new(),
            applied: 0,
            through: [None; NODES],
        };
        cluster.tell(
            NA1,
            Command::Event(Event::LaneHeld {
                peer: EU,
                acked: Position::default(),
                own: Position {
                    epoch: EPOCH,
                    ..Position::default()
                },
            }),
        );
        for node in 0..NODES {
            cluster.drain(node);
        }
        cluster
    }

    /// `count` updates are committed now.
    pub fn submit(&mut self, count: u64) {
        let mut batch = Batch::default();
        batch.reset(Seq(self.tail + 1));
        for _ in 0..count {
            self.tail += 1;
            self.committed.push(self.now);
            batch.push(&update(self.tail));
        }
        self.tell(NA1, Command::Committed(batch));
    }

    /// From here on the same datagrams (counted from here) are lost, whatever was before.
    pub const fn reseed(&mut self, seed: u64) {
        self.chance = Chance::new(seed);
    }

    /// Updates in flight, at most.
    #[must_use]
    pub const fn window(&self) -> u64 {
        self.path.window as u64
    }

    /// The process is gone.
    pub fn kill(&mut self, node: usize) {
        self.alive[node] = false;
        self.wake[node] = None;
    }

    /// Updates sent again over UDP so far, and changes to a worse rung.
    #[must_use]
    pub fn troubles(&self) -> (u64, u64) {
        let mut snapshot = Snapshot::default();
        self.endpoints[NA1].fill(&mut snapshot);
        let lane = &snapshot.lanes[usize::from(EU.0)];
        (lane.retransmits, lane.failovers)
    }

    /// Goes on until `done` holds or `until` has come; whether it holds.
    pub fn run(&mut self, until: u64, done: impl Fn(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            match self.queue.peek() {
                Some(Reverse((at, _))) if *at <= until => {}
                _ => {
                    self.now = until;
                    return false;
                }
            }
            if let Some(Reverse((at, order))) = self.queue.pop() {
                self.now = at;
                if let Some(what) = self.pending.remove(&order) {
                    self.happen(what);
                }
            }
        }
    }

    fn schedule(&mut self, at: u64, what: What) {
        self.order += 1;
        self.queue.push(Reverse((at, self.order)));
        self.pending.insert(self.order, what);
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Arrive { from, to, bytes } => {
                if self.alive[to] {
                    let now = Instant::from_micros(self.now);
                    self.endpoints[to].handle_datagram(now, home(from), &bytes);
                    self.drain(to);
                }
            }
            What::Wake(node) => {
                if self.alive[node] && self.wake[node] == Some(self.now) {
                    self.drain(node);
                }
            }
            What::Tell(node, command) => self.tell(node, command),
            What::Commit(node, batch) => {
                let before = self.applied;
                for (seq, bytes) in batch.iter() {
                    assert!(seq.0 <= self.applied + 1, "a gap before {seq:?}");
                    assert_eq!(bytes, update(seq.0), "{seq:?} has changed on its way");
                    self.applied = self.applied.max(seq.0);
                }
                if self.applied > before {
                    self.through[node] = Some(self.now);
                }
                let event = Event::Applied {
                    stream: NA,
                    position: position(self.applied),
                    clean: Seq(self.applied),
                };
                self.tell(node, Command::Recycle(batch));
                self.tell(node, Command::Event(event));
            }
            What::Direct(upto) => {
                if upto.0 > self.applied {
                    self.applied = upto.0;
                    self.through[NA1] = Some(self.now);
                }
                let event = Event::DirectDone {
                    peer: EU,
                    position: position(self.applied),
                    clean: Seq(self.applied),
                };
                // The answer has half the way to go.
                let back = self.now + self.path.rtt * 500;
                self.schedule(back, What::Tell(NA1, Command::Event(event)));
            }
        }
    }

    fn tell(&mut self, node: usize, command: Command) {
        if self.alive[node] {
            self.endpoints[node].handle_command(Instant::from_micros(self.now), command);
            self.drain(node);
        }
    }

    fn drain(&mut self, node: usize) {
        let now = Instant::from_micros(self.now);
        loop {
            let endpoint = &mut self.endpoints[node];
            match endpoint.poll(now, &mut self.asks, &mut self.buffer) {
                Step::Transmit { to, len } => self.transmit(node, to, len),
                Step::Wait { deadline, .. } => {
                    let deadline = deadline.map(Instant::as_micros);
                    assert!(deadline.is_none_or(|at| at > self.now), "a busy loop");
                    if self.wake[node] != deadline {
                        self.wake[node] = deadline;
                        if let Some(at) = deadline {
                            self.schedule(at, What::Wake(node));
                        }
                    }
                    break;
                }
            }
        }
        for ask in std::mem::take(&mut self.asks.0) {
            self.grant(node, ask);
        }
    }

    fn transmit(&mut self, from: usize, to: SocketAddr, len: usize) {
        let to = usize::from(to.port()) - 7000;
        let arrives = self.links[from][to].send(self.now, len, self.path.rtt * 500);
        let lost = self.chance.hits(self.path.loss);
        if let Some(at) = arrives.filter(|_| !lost) {
            let bytes = self.buffer[..len].to_vec();
            self.schedule(at, What::Arrive { from, to, bytes });
        }
    }

    fn grant(&mut self, node: usize, ask: Ask) {
        let answer = |event| What::Tell(node, Command::Event(event));
        match ask {
            Ask::Apply(batch) => self.schedule(self.now + COMMIT, What::Commit(node, batch)),
            Ask::Read => {
                let event = Event::Position {
                    stream: NA,
                    position: position(self.applied),
                    clean: Seq(self.applied),
                };
                self.schedule(self.now + READ, answer(event));
            }
            Ask::Verify(position) => {
                let event = Event::Verified {
                    peer: EU,
                    position,
                    verdict: Verdict::Matches,
                };
                self.schedule(self.now + READ, answer(event));
            }
            Ask::Fetch(from, to) => {
                let mut batch = Batch::default();
                batch.reset(from);
                for seq in from.0..=to.0 {
                    batch.push(&update(seq));
                }
                let at = self.now + READ;
                self.schedule(at, What::Tell(node, Command::Payloads(batch)));
                self.schedule(at, answer(Event::Fetched { upto: to }));
            }
            // To connect, to write and to commit takes a few times the way there and back.
            Ask::Direct(upto) => {
                let at = self.now + self.path.rtt * 2500 + COMMIT;
                self.schedule(at, What::Direct(upto));
            }
            Ask::Acked(seq) => {
                while (self.acked.len() as u64) < seq.0 {
                    self.acked.push(self.now);
                }
            }
        }
    }
}
