//! Databases made of vectors, and nodes built on them.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Clock};

use prism_net::{
    Batch, Command, Driver, Endpoint, EndpointConfig, Handle, Host, Limits, NodeAddress,
    Protection, RegionInfo, SessionKeys, Snapshot,
};
use prism_proto::{
    DirectFailure, Epoch, Event, NodeId, Notice, Position, Refusal, RegionId, Retry, Seq, Tag,
    Verdict,
};

/// Longest that a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the loop asks of a database.
#[derive(Debug)]
pub enum Job {
    Apply(RegionId, Epoch, Batch),
    ReadPosition(RegionId),
    Fetch(Seq, Seq),
    Verify(RegionId, Position),
    Direct(RegionId),
    Acked(RegionId, Position),
    Notify(Notice),
    Refused(RegionId, Refusal),
    Snapshot(Box<Snapshot>),
    Stop,
}

/// A host that hands everything on.
pub struct Calls(pub Sender<Job>);

impl Calls {
    fn hand(&self, job: Job) {
        // Whoever works on the jobs may be gone already when a test ends.
        let _ = self.0.send(job);
    }
}

impl Host for Calls {
    fn apply(&mut self, stream: RegionId, epoch: Epoch, batch: Batch) {
        self.hand(Job::Apply(stream, epoch, batch));
    }
    fn read_position(&mut self, stream: RegionId) {
        self.hand(Job::ReadPosition(stream));
    }
    fn fetch(&mut self, from: Seq, to: Seq) {
        self.hand(Job::Fetch(from, to));
    }
    fn verify(&mut self, peer: RegionId, position: Position) {
        self.hand(Job::Verify(peer, position));
    }
    fn direct(&mut self, peer: RegionId, _after: Seq, _upto: Seq) {
        self.hand(Job::Direct(peer));
    }
    fn refused(&mut self, peer: RegionId, refusal: Refusal) {
        self.hand(Job::Refused(peer, refusal));
    }
    fn refusal_told(&mut self, _: RegionId, _: Epoch, _: Seq) {}
    fn acked(&mut self, peer: RegionId, position: Position, _: Seq) {
        self.hand(Job::Acked(peer, position));
    }
    fn notify(&mut self, notice: Notice) {
        self.hand(Job::Notify(notice));
    }
    fn snapshot(&mut self, snapshot: &Snapshot) {
        self.hand(Job::Snapshot(Box::new(snapshot.clone())));
    }
}

/// One region's database: its own stream, and what it has applied of the others.
#[derive(Debug)]
pub struct Database {
    pub epoch: Epoch,
    /// Own stream; seq 1 is at index 0.
    pub outbox: Vec<Vec<u8>>,
    /// Per region what was applied, in the order in which it was.
    pub applied: Vec<Vec<Vec<u8>>>,
    epochs: Vec<Epoch>,
    pub acked: Vec<Position>,
    pub notices: Vec<Notice>,
    pub snapshot: Option<Snapshot>,
}

fn tag(bytes: &[u8]) -> Tag {
    Tag(bytes
        .iter()
        .fold(1, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
}

impl Database {
    pub fn new(region: u16, regions: usize) -> Self {
        Self {
            epoch: Epoch(1000 + u64::from(region)),
            outbox: Vec::new(),
            applied: vec![Vec::new(); regions],
            epochs: vec![Epoch(0); regions],
            acked: vec![Position::default(); regions],
            notices: Vec::new(),
            snapshot: None,
        }
    }

    pub fn own(&self) -> Position {
        Position {
            epoch: self.epoch,
            seq: Seq(self.outbox.len() as u64),
            tag: self.outbox.last().map_or(Tag(0), |bytes| tag(bytes)),
        }
    }

    fn position(&self, stream: RegionId) -> Position {
        let stream = usize::from(stream.0);
        Position {
            epoch: self.epochs[stream],
            seq: Seq(self.applied[stream].len() as u64),
            tag: self.applied[stream].last().map_or(Tag(0), |b| tag(b)),
        }
    }

    /// Commits locally; the batch is what the loop has to be told.
    pub fn commit(&mut self, updates: impl IntoIterator<Item = Vec<u8>>) -> Batch {
        let mut batch = Batch::default();
        batch.reset(self.own().seq.next());
        for update in updates {
            batch.push(&update);
            self.outbox.push(update);
        }
        batch
    }

    /// Does the job; what the loop is to be told.
    pub fn work(&mut self, job: Job) -> Vec<Command> {
        match job {
            Job::Apply(stream, epoch, batch) => {
                let region = usize::from(stream.0);
                let known = &mut self.epochs[region];
                if *known == Epoch(0) {
                    *known = epoch;
                }
                assert_eq!(*known, epoch, "another epoch reached the database");
                for (seq, update) in batch.iter() {
                    let applied = &mut self.applied[region];
                    if seq.0 == applied.len() as u64 + 1 {
                        applied.push(update.to_vec());
                    }
                    assert!(seq.0 <= applied.len() as u64, "a gap before {seq:?}");
                }
                let position = self.position(stream);
                vec![
                    Command::Recycle(batch),
                    Command::Event(Event::Applied {
                        stream,
                        position,
                        clean: position.seq,
                    }),
                ]
            }
            Job::ReadPosition(stream) => {
                let position = self.position(stream);
                vec![Command::Event(Event::Position {
                    stream,
                    position,
                    clean: position.seq,
                })]
            }
            Job::Fetch(from, to) => {
                let to = to.0.min(self.outbox.len() as u64);
                let mut commands = Vec::new();
                for first in (from.0..=to).step_by(64) {
                    let mut batch = Batch::default();
                    batch.reset(Seq(first));
                    for seq in first..=to.min(first + 63) {
                        batch.push(&self.outbox[seq as usize - 1]);
                    }
                    commands.push(Command::Payloads(batch));
                }
                commands.push(Command::Event(Event::Fetched { upto: Seq(to) }));
                commands
            }
            Job::Verify(peer, position) => {
                let known = match position.seq.0 {
                    0 => true,
                    seq => self.outbox.get(seq as usize - 1).is_some_and(|bytes| {
                        tag(bytes) == position.tag && position.epoch == self.epoch
                    }),
                };
                let verdict = if known {
                    Verdict::Matches
                } else {
                    Verdict::Forked
                };
                vec![Command::Event(Event::Verified {
                    peer,
                    position,
                    verdict,
                })]
            }
            Job::Direct(peer) => vec![Command::Event(Event::DirectFailed {
                peer,
                why: DirectFailure::Unreachable,
            })],
            Job::Acked(peer, position) => {
                let acked = &mut self.acked[usize::from(peer.0)];
                assert!(acked.seq <= position.seq, "an acknowledgement moved back");
                *acked = position;
                vec![]
            }
            Job::Refused(peer, refusal) => vec![Command::Event(Event::RefusalHandled {
                peer,
                seq: refusal.seq,
            })],
            Job::Notify(notice) => {
                self.notices.push(notice);
                vec![]
            }
            Job::Snapshot(snapshot) => {
                self.snapshot = Some(*snapshot);
                vec![]
            }
            Job::Stop => vec![],
        }
    }

    /// What a node tells its engine when it starts.
    pub fn start(&self, me: RegionId) -> Vec<Command> {
        (0..self.applied.len() as u16)
            .map(RegionId)
            .filter(|&peer| peer != me)
            .map(|peer| {
                Command::Event(Event::LaneHeld {
                    peer,
                    acked: self.acked[usize::from(peer.0)],
                    own: self.own(),
                })
            })
            .chain([Command::Event(Event::Available {
                upto: self.own().seq,
            })])
            .collect()
    }
}

/// The private key of a node.
pub fn private(node: u16) -> [u8; 32] {
    [node as u8 + 1; 32]
}

/// A cluster with keys, of regions with one node each, at these addresses. A later start needs a
/// greater seed.
pub fn config(me: u16, addresses: &[SocketAddr], seed: u64) -> EndpointConfig {
    EndpointConfig {
        me: NodeId(me),
        nodes: (addresses.iter().enumerate())
            .map(|(i, &udp)| NodeAddress {
                name: format!("R{i}-1"),
                region: RegionId(i as u16),
                udp,
                public_keys: vec![prism_net::public_key(&private(i as u16))],
            })
            .collect(),
        regions: (0..addresses.len())
            .map(|i| RegionInfo {
                name: format!("R{i}"),
                direct: false,
            })
            .collect(),
        retry: Retry::default(),
        limits: Limits::default(),
        seed,
        cluster: "test".into(),
        protection: Protection::Sealed(SessionKeys {
            private: private(me).into(),
            psk: [7; 32].into(),
        }),
        boot: seed,
        catalogue: 0,
    }
}

/// The same without keys.
pub fn open_config(me: u16, addresses: &[SocketAddr], seed: u64) -> EndpointConfig {
    EndpointConfig {
        protection: Protection::Open,
        ..config(me, addresses, seed)
    }
}

/// The `n`-th update of a region: no two are alike.
pub fn update(region: u16, n: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![n as u8; len.max(10)];
    bytes[..2].copy_from_slice(&region.to_le_bytes());
    bytes[2..10].copy_from_slice(&n.to_le_bytes());
    bytes
}

/// Addresses that nobody uses at the moment.
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let sockets: Vec<_> = (0..count)
        .map(|_| UdpSocket::bind("127.0.0.1:0").expect("loopback"))
        .collect();
    sockets
        .iter()
        .map(|s| s.local_addr().expect("bound"))
        .collect()
}

/// A real node on loopback: a loop thread and a database thread.
pub struct Node {
    pub region: RegionId,
    pub handle: Handle,
    database: Arc<Mutex<Database>>,
    jobs: Sender<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl Node {
    /// `bind`: its own socket, when the others reach it elsewhere (through a relay).
    pub fn start(config: &EndpointConfig, bind: SocketAddr, database: Database) -> Self {
        let region = RegionId(config.me.0);
        let endpoint = Endpoint::new(config).expect("a good configuration");
        let (driver, handle) = Driver::bind(endpoint, bind, 64).expect("a free address");
        let (jobs, todo) = channel();
        let mut calls = Calls(jobs.clone());
        let looping = std::thread::spawn(move || driver.run(&mut calls).expect("the loop"));
        for command in database.start(region) {
            handle.send(command);
        }
        let database = Arc::new(Mutex::new(database));
        let (shared, answers) = (database.clone(), handle.clone());
        let working = std::thread::spawn(move || work(&todo, &shared, &answers));
        Self {
            region,
            handle,
            database,
            jobs,
            threads: vec![looping, working],
        }
    }

    pub fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().expect("no thread has panicked")
    }

    pub fn commit(&self, updates: impl IntoIterator<Item = Vec<u8>>) {
        let batch = self.database().commit(updates);
        self.handle.send(Command::Committed(batch));
    }

    /// Waits until the database looks like that.
    pub fn wait(&self, what: &str, mut condition: impl FnMut(&Database) -> bool) {
        let end = Clock::now() + PATIENCE;
        loop {
            let database = self.database();
            if condition(&database) {
                return;
            }
            let seen = (Clock::now() >= end)
                .then(|| format!("{:?}\n{:?}", database.notices, database.snapshot));
            drop(database);
            if let Some(seen) = seen {
                panic!("waited in vain for: {what}\n{seen}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Figures of this moment.
    pub fn snapshot(&self) -> Snapshot {
        self.database().snapshot = None;
        self.handle.send(Command::Snapshot);
        self.wait("a snapshot", |db| db.snapshot.is_some());
        self.database().snapshot.clone().unwrap_or_default()
    }

    /// Waits until the figures look like that.
    pub fn wait_figures(&self, what: &str, condition: impl Fn(&Snapshot) -> bool) {
        let end = Clock::now() + PATIENCE;
        loop {
            let figures = self.snapshot();
            if condition(&figures) {
                return;
            }
            assert!(
                Clock::now() < end,
                "waited in vain for: {what}\n{figures:?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it like a crash: what it has in memory is lost.
    pub fn stop(mut self) -> Database {
        self.end();
        let database = Database::new(0, 0);
        std::mem::replace(&mut self.database(), database)
    }

    fn end(&mut self) {
        self.handle.send(Command::Stop);
        let _ = self.jobs.send(Job::Stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !std::thread::panicking() {
                panic!("a thread of node {:?} has panicked", self.region);
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

fn work(todo: &Receiver<Job>, database: &Mutex<Database>, answers: &Handle) {
    while let Ok(job) = todo.recv() {
        if matches!(job, Job::Stop) {
            return;
        }
        let commands = database.lock().expect("no panic").work(job);
        for command in commands {
            answers.send(command);
        }
    }
}

/// Carries datagrams between two addresses and loses, doubles and delays some.
pub struct Relay {
    /// Where the first node reaches the second, and the other way round.
    pub ends: [SocketAddr; 2],
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// `nodes` are the real addresses; of 100 datagrams `lost` are lost.
    pub fn start(nodes: [SocketAddr; 2], lost: u64) -> Self {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
            socket.set_nonblocking(true).expect("nonblocking");
            socket
        };
        // Socket i is what node i talks to; it stands for node 1 - i.
        let sockets = [socket(), socket()];
        let ends = [0, 1].map(|i: usize| sockets[i].local_addr().expect("bound"));
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut rng = 7u64;
            let mut buffer = [0; 2048];
            let mut held: Option<(usize, Vec<u8>)> = None;
            while stopped.recv_timeout(Duration::from_micros(200)) == Err(RecvTimeoutError::Timeout)
            {
                for (i, socket) in sockets.iter().enumerate() {
                    while let Ok((len, _)) = socket.recv_from(&mut buffer) {
                        rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1);
                        let dice = (rng >> 33) % 100;
                        let (from, to) = (&sockets[1 - i], nodes[1 - i]);
                        if dice < lost {
                            continue;
                        }
                        if lost > 0 && dice >= 95 && held.is_none() {
                            held = Some((i, buffer[..len].to_vec()));
                            continue;
                        }
                        let _ = from.send_to(&buffer[..len], to);
                        if lost > 0 && (90..95).contains(&dice) {
                            let _ = from.send_to(&buffer[..len], to);
                        }
                    }
                }
                if let Some((i, datagram)) = held.take() {
                    let _ = sockets[1 - i].send_to(&datagram, nodes[1 - i]);
                }
            }
        });
        Self {
            ends,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
