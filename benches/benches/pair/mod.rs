//! Two nodes' loops with databases that only count, for the benchmarks over UDP.
#![allow(dead_code)] // Every benchmark uses another part of it.

pub mod quic;
pub mod quic_lane;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use prism_net::platform::mpsc::{Receiver, SyncSender, sync_channel};
use prism_net::{
    Batch, Command, Driver, Endpoint, EndpointConfig, Handle, Host, Limits, NodeAddress,
    Protection, RegionInfo, SessionKeys, Snapshot,
};
use prism_proto::{
    Epoch, Event, NodeId, Notice, Position, Refusal, RegionId, Retry, Seq, Tag, Verdict,
};

pub const PAYLOAD: [u8; 128] = [7; 128];
pub const PER_WRITE: u64 = 64;
/// Not acknowledged at any time: far more than a window, less than the payload cache.
pub const AHEAD: u64 = 16_384;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Open,
    Sealed,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Sealed => "sealed",
        }
    }
}

fn private(node: u16) -> [u8; 32] {
    [node as u8 + 1; 32]
}

pub fn config(kind: Kind, me: u16, addresses: [SocketAddr; 2]) -> EndpointConfig {
    let node = |(i, udp)| NodeAddress {
        name: format!("R{i}-1"),
        region: RegionId(i),
        udp,
        public_keys: vec![prism_net::public_key(&private(i))],
    };
    EndpointConfig {
        me: NodeId(me),
        nodes: (0..).zip(addresses).map(node).collect(),
        regions: (0..2)
            .map(|i| RegionInfo {
                name: format!("R{i}"),
                direct: false,
            })
            .collect(),
        retry: Retry::default(),
        limits: Limits::default(),
        seed: 1 + u64::from(me),
        cluster: "bench".into(),
        protection: match kind {
            Kind::Open => Protection::Open,
            Kind::Sealed => Protection::Sealed(SessionKeys {
                private: private(me).into(),
                psk: [7; 32].into(),
            }),
        },
        boot: 1,
        catalogue: 0,
    }
}

/// Room for one write.
pub fn room() -> Batch {
    Batch::with_capacity(PER_WRITE as usize, PAYLOAD.len() * PER_WRITE as usize)
}

pub fn batch(first: u64, mut batch: Batch) -> Batch {
    batch.reset(Seq(first));
    for _ in 0..PER_WRITE {
        batch.push(&PAYLOAD);
    }
    batch
}

pub fn held(me: u16) -> Command {
    Command::Event(Event::LaneHeld {
        peer: RegionId(1 - me),
        acked: Position::default(),
        own: Position {
            epoch: Epoch(1 + u64::from(me)),
            ..Position::default()
        },
    })
}

/// A database that only counts.
#[derive(Default)]
pub struct Counter {
    applied: Position,
}

impl Counter {
    pub fn apply(&mut self, stream: RegionId, epoch: Epoch, batch: &Batch) -> Command {
        let seq = Seq(batch.first().0 + batch.len() as u64 - 1);
        assert!(batch.first().0 <= self.applied.seq.0 + 1, "a gap");
        self.applied = Position {
            epoch,
            seq,
            tag: Tag(1),
        };
        Command::Event(Event::Applied {
            stream,
            position: self.applied,
            clean: self.applied.seq,
        })
    }
}

/// What the loop asks for, worked on by another thread as in a node.
enum Job {
    Apply(RegionId, Epoch, Batch),
    Answer(Command),
    Fetch(Seq, Seq),
    Stop,
}

struct Calls {
    jobs: SyncSender<Job>,
    acked: Arc<AtomicU64>,
}

impl Host for Calls {
    fn apply(&mut self, stream: RegionId, epoch: Epoch, batch: Batch) {
        let _ = self.jobs.send(Job::Apply(stream, epoch, batch));
    }
    fn read_position(&mut self, stream: RegionId) {
        let position = Position::default();
        let answer = Command::Event(Event::Position {
            stream,
            position,
            clean: position.seq,
        });
        let _ = self.jobs.send(Job::Answer(answer));
    }
    fn fetch(&mut self, from: Seq, to: Seq) {
        let _ = self.jobs.send(Job::Fetch(from, to));
    }
    fn verify(&mut self, peer: RegionId, position: Position) {
        let _ = self.jobs.send(Job::Answer(verified(peer, position)));
    }
    fn direct(&mut self, _: RegionId, _: Seq, _: Seq) {}
    fn refused(&mut self, _: RegionId, _: Refusal) {}
    fn refusal_told(&mut self, _: RegionId, _: Epoch, _: Seq) {}
    fn acked(&mut self, _: RegionId, position: Position, _: Seq) {
        self.acked.store(position.seq.0, Ordering::Release);
    }
    fn notify(&mut self, _: Notice) {}
    fn snapshot(&mut self, snapshot: &Snapshot) {
        if std::env::var_os("PRISM_BENCH_FIGURES").is_some() {
            let lane = &snapshot.lanes;
            println!("{snapshot:?} {lane:?}");
        }
    }
}

pub fn verified(peer: RegionId, position: Position) -> Command {
    Command::Event(Event::Verified {
        peer,
        position,
        verdict: Verdict::Matches,
    })
}

fn work(jobs: &Receiver<Job>, handle: &Handle) {
    let mut database = Counter::default();
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Apply(stream, epoch, batch) => {
                handle.send(database.apply(stream, epoch, &batch));
                handle.send(Command::Recycle(batch));
            }
            Job::Answer(answer) => handle.send(answer),
            Job::Fetch(from, to) => {
                let mut first = from.0;
                while first <= to.0 {
                    handle.send(Command::Payloads(batch(first, room())));
                    first += PER_WRITE;
                }
                handle.send(Command::Event(Event::Fetched { upto: to }));
            }
            Job::Stop => return,
        }
    }
}

pub struct Node {
    pub handle: Handle,
    jobs: SyncSender<Job>,
    acked: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Node {
    pub fn start(kind: Kind, me: u16, addresses: [SocketAddr; 2], bind: SocketAddr) -> Self {
        let endpoint = Endpoint::new(&config(kind, me, addresses)).expect("a good configuration");
        let (driver, handle) = Driver::bind(endpoint, bind, 256).expect("a free address");
        let (jobs, todo) = sync_channel(64);
        let acked = Arc::new(AtomicU64::new(0));
        let mut calls = Calls {
            jobs: jobs.clone(),
            acked: acked.clone(),
        };
        let answers = handle.clone();
        let threads = vec![
            std::thread::spawn(move || driver.run(&mut calls).expect("the loop")),
            std::thread::spawn(move || work(&todo, &answers)),
        ];
        handle.send(held(me));
        Self {
            handle,
            jobs,
            acked,
            threads,
        }
    }

    pub fn wait(&self, seq: u64) {
        while self.acked.load(Ordering::Acquire) < seq {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.send(Command::Stop);
        let _ = self.jobs.send(Job::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A lane between two nodes.
pub struct Lane {
    sender: Node,
    next: u64,
    _receiver: Node,
}

impl Lane {
    /// `ends`: where each of them is reached.
    pub fn start(kind: Kind, at: [SocketAddr; 2], ends: [SocketAddr; 2]) -> Self {
        Self {
            sender: Node::start(kind, 0, [at[0], ends[0]], at[0]),
            next: 1,
            _receiver: Node::start(kind, 1, [ends[1], at[1]], at[1]),
        }
    }

    /// Commits so many updates and waits until all of them are acknowledged.
    pub fn send(&mut self, count: u64) {
        let end = self.next + count;
        while self.next < end {
            let batch = batch(self.next, room());
            self.sender.handle.send(Command::Committed(batch));
            self.next += PER_WRITE;
            self.sender.wait(self.next.saturating_sub(AHEAD));
        }
        self.sender.wait(end - 1);
    }
}

pub fn free_addresses() -> [SocketAddr; 2] {
    let sockets = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").expect("loopback"));
    sockets.map(|s| s.local_addr().expect("bound"))
}
