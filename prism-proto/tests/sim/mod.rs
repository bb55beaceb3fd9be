//! A cluster in memory: real engines, model databases, a bad network, and a clock that jumps to
//! the next thing that happens.
#![allow(dead_code, reason = "each test file uses its part")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use prism_proto::*;

pub const MS: u64 = 1_000;
pub const SEC: u64 = 1_000_000;

pub fn at(us: u64) -> Instant {
    Instant::from_micros(us)
}

/// Storage on the heap.
#[derive(Debug, Clone)]
pub struct Heap;

impl Storage for Heap {
    type Updates = Box<[UpdateSlot]>;
    type Packets = Box<[PacketSlot]>;
    type Received = Box<[RecvSlot]>;

    fn updates(&mut self, len: usize) -> Self::Updates {
        vec![UpdateSlot::default(); len].into()
    }
    fn packets(&mut self, len: usize) -> Self::Packets {
        vec![PacketSlot::default(); len].into()
    }
    fn received(&mut self, len: usize) -> Self::Received {
        vec![RecvSlot::default(); len].into()
    }
}

#[derive(Debug, Clone)]
pub struct Net {
    pub loss: f64,
    pub duplicate: f64,
    /// One-way delay; the spread reorders.
    pub delay: (u64, u64),
    /// Extra delay on the way to these nodes.
    pub slow: HashMap<usize, u64>,
    /// Directed pairs of nodes that do not reach each other.
    pub blocked: HashSet<(usize, usize)>,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplicate: 0.0,
            delay: (500, 500),
            slow: HashMap::new(),
            blocked: HashSet::new(),
        }
    }
}

/// A region's database.
#[derive(Debug, Default)]
pub struct Db {
    pub epoch: Epoch,
    /// The own stream: tag and payload.
    pub outbox: Vec<(Tag, Vec<u8>)>,
    /// Per stream: what has been applied, in order.
    pub applied: HashMap<u16, Vec<(Tag, Vec<u8>)>>,
    pub up: bool,
    /// Reachable by SQL from other regions.
    pub direct_up: bool,
    pub apply_us: u64,
    /// If set, applies fail with this.
    pub sick: Option<ApplyCause>,
    /// Updates (stream, seq) that it refuses: recorded, then skipped.
    pub refuse: HashSet<(u16, u64)>,
    pub direct_rows: u64,
}

impl Db {
    pub fn position(&self, stream: u16, epoch: Epoch) -> Position {
        let applied = self.applied.get(&stream).map_or(&[][..], |a| a);
        match applied.last() {
            None => Position::default(),
            Some((tag, _)) => Position {
                epoch,
                seq: Seq(applied.len() as u64),
                tag: *tag,
            },
        }
    }
}

/// What a node has in memory of its own stream.
#[derive(Default)]
pub struct Memory {
    pub map: BTreeMap<u64, Vec<u8>>,
}

impl Payloads for Memory {
    fn get(&self, seq: Seq) -> Option<&[u8]> {
        self.map.get(&seq.0).map(Vec::as_slice)
    }
}

/// Length, bytes, and which of them have arrived.
type Stored = (usize, Vec<u8>, Vec<bool>);

#[derive(Default)]
pub struct Inboxes {
    map: HashMap<(u16, u64), Stored>,
    /// Bytes it refuses to go beyond.
    pub limit: usize,
    pub most: usize,
    /// Refuses the next so many.
    pub refuse: u32,
}

impl Inboxes {
    fn bytes(&self) -> usize {
        self.map.values().map(|(total, ..)| total).sum()
    }
    fn complete(&self, stream: u16, seq: u64) -> Vec<u8> {
        let (_, bytes, have) = &self.map[&(stream, seq)];
        assert!(
            have.iter().all(|b| *b),
            "asked to apply what has not arrived"
        );
        bytes.clone()
    }
}

impl Inbox for Inboxes {
    fn put(
        &mut self,
        stream: RegionId,
        seq: Seq,
        total: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), InboxFull> {
        if self.refuse > 0 {
            self.refuse -= 1;
            return Err(InboxFull);
        }
        let new = !self.map.contains_key(&(stream.0, seq.0));
        if new && self.bytes() + total > self.limit {
            return Err(InboxFull);
        }
        let entry = self
            .map
            .entry((stream.0, seq.0))
            .or_insert_with(|| (total, vec![0; total], vec![false; total]));
        assert_eq!(entry.0, total);
        entry.1[offset..offset + bytes.len()].copy_from_slice(bytes);
        entry.2[offset..offset + bytes.len()].fill(true);
        self.most = self.most.max(self.bytes());
        Ok(())
    }
    fn release(&mut self, stream: RegionId, upto: Seq) {
        self.map
            .retain(|(s, seq), _| *s != stream.0 || *seq > upto.0);
    }
    fn clear(&mut self, stream: RegionId) {
        self.map.retain(|(s, _), _| *s != stream.0);
    }
}

pub struct Node {
    pub region: usize,
    pub engine: Engine<Heap>,
    pub memory: Memory,
    pub inbox: Inboxes,
    pub alive: bool,
    /// Counts restarts: what was under way for an earlier life is void.
    pub life: u64,
    /// Session with each other node.
    pub sessions: HashMap<usize, (u64, u64)>,
    pub wake: Option<u64>,
    pub reason: WaitReason,
    pub waits: u64,
    pub transmits: u64,
    pub bytes: u64,
    pub connects: u64,
    pub acked: HashMap<u16, u64>,
    pub sibling_acked: HashMap<u16, u64>,
    pub sibling_tail: u64,
    stuck: u32,
}

#[derive(Debug)]
enum Action {
    Datagram {
        from: usize,
        to: usize,
        session: (u64, u64),
        bytes: Vec<u8>,
    },
    Handshake {
        from: usize,
        to: usize,
    },
    HandshakeBack {
        from: usize,
        to: usize,
        session: (u64, u64),
    },
    Tell {
        node: usize,
        life: u64,
        event: Event,
    },
    Fetch {
        node: usize,
        life: u64,
        from: u64,
        to: u64,
    },
    Verify {
        node: usize,
        life: u64,
        peer: u16,
        position: Position,
    },
    Read {
        node: usize,
        life: u64,
        stream: u16,
    },
    Apply {
        node: usize,
        life: u64,
        stream: u16,
        epoch: Epoch,
        from: u64,
        batch: Vec<Vec<u8>>,
    },
    Direct {
        node: usize,
        life: u64,
        peer: u16,
        upto: u64,
    },
}

pub struct Sim {
    pub now: u64,
    rng: u64,
    pub net: Net,
    pub nodes: Vec<Node>,
    pub dbs: Vec<Db>,
    pub log: Vec<(u64, usize, Notice)>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    actions: HashMap<u64, Action>,
    next_action: u64,
    regions: Vec<RegionConfig>,
    node_configs: Vec<NodeConfig>,
    tune: fn(&mut Config<'_>),
    /// Wire of every datagram that somebody wants to look at.
    pub trace: bool,
    /// Fetch serves at most so many.
    pub fetch_limit: u64,
    pub fetches: u64,
    /// Updates that no fetch finds.
    pub unreadable: std::ops::Range<u64>,
    /// Direct writes asked for; and whether they are answered without writing anything.
    pub directs: u64,
    pub direct_idle: bool,
    /// Datagrams to drop deliberately: the next n matching (from, to).
    pub drop_next: HashMap<(usize, usize), u32>,
}

pub fn plain(_: &mut Config<'_>) {}

impl Sim {
    /// `shape[r]` nodes in region r.
    pub fn new(seed: u64, shape: &[usize], tune: fn(&mut Config<'_>)) -> Self {
        let regions: Vec<_> = (0..shape.len())
            .map(|r| RegionConfig {
                id: RegionId(r as u16),
                key: RegionKey::of(&format!("R{r}")),
                direct: true,
            })
            .collect();
        let mut node_configs = Vec::new();
        for (r, n) in shape.iter().enumerate() {
            for _ in 0..*n {
                node_configs.push(NodeConfig {
                    id: NodeId(node_configs.len() as u16),
                    region: RegionId(r as u16),
                });
            }
        }
        let mut sim = Self {
            now: SEC,
            rng: seed | 1,
            net: Net::default(),
            nodes: Vec::new(),
            dbs: (0..shape.len())
                .map(|r| Db {
                    epoch: Epoch(0xe0 + r as u64),
                    up: true,
                    direct_up: true,
                    apply_us: 300,
                    ..Db::default()
                })
                .collect(),
            log: Vec::new(),
            queue: BinaryHeap::new(),
            actions: HashMap::new(),
            next_action: 0,
            regions,
            node_configs,
            tune,
            trace: false,
            fetch_limit: u64::MAX,
            fetches: 0,
            unreadable: 0..0,
            directs: 0,
            direct_idle: false,
            drop_next: HashMap::new(),
        };
        for i in 0..sim.node_configs.len() {
            let node = sim.build(i, 0);
            sim.nodes.push(node);
        }
        sim
    }

    pub fn without_direct(mut self) -> Self {
        for r in &mut self.regions {
            r.direct = false;
        }
        for i in 0..self.nodes.len() {
            self.nodes[i] = self.build(i, 0);
        }
        self
    }

    fn build(&mut self, i: usize, life: u64) -> Node {
        let seed = self.random();
        let mut config = Config::new(NodeId(i as u16), &self.node_configs, &self.regions, seed);
        config.window = 64;
        config.window_bytes = 512 << 10;
        (self.tune)(&mut config);
        let limit = config.window_bytes as usize * self.regions.len() + config.max_update as usize;
        Node {
            region: usize::from(self.node_configs[i].region.0),
            engine: Engine::new(&config, &mut Heap).expect("config"),
            memory: Memory::default(),
            inbox: Inboxes {
                limit,
                ..Inboxes::default()
            },
            alive: true,
            life,
            sessions: HashMap::new(),
            wake: None,
            reason: WaitReason::Idle,
            waits: 0,
            transmits: 0,
            bytes: 0,
            connects: 0,
            acked: HashMap::new(),
            sibling_acked: HashMap::new(),
            sibling_tail: 0,
            stuck: 0,
        }
    }

    pub fn random(&mut self) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn chance(&mut self, p: f64) -> bool {
        (self.random() >> 11) as f64 / (1u64 << 53) as f64 <= p && p > 0.0
    }

    fn delay(&mut self) -> u64 {
        let (min, max) = self.net.delay;
        min + self.random() % (max - min + 1)
    }

    fn schedule(&mut self, after: u64, action: Action) {
        let id = self.next_action;
        self.next_action += 1;
        self.queue.push(Reverse((self.now + after, id)));
        self.actions.insert(id, action);
    }

    // ---- what tests do ----

    /// The first live node of every region holds all its lanes.
    pub fn hold_all(&mut self) {
        for r in 0..self.dbs.len() {
            if let Some(i) =
                (0..self.nodes.len()).find(|i| self.nodes[*i].region == r && self.nodes[*i].alive)
            {
                self.hold(i);
            }
        }
    }

    pub fn hold(&mut self, i: usize) {
        let r = self.nodes[i].region;
        for peer in 0..self.dbs.len() {
            if peer == r {
                continue;
            }
            let db = &self.dbs[r];
            let own = Position {
                epoch: db.epoch,
                seq: Seq(db.outbox.len() as u64),
                tag: db.outbox.last().map_or(Tag(0), |o| o.0),
            };
            // What the lane row would say: nothing, the peer's database knows better.
            let acked = Position::default();
            self.tell(
                i,
                Event::LaneHeld {
                    peer: RegionId(peer as u16),
                    acked,
                    own,
                },
            );
        }
    }

    /// A committed update of `len` bytes at node `i`.
    pub fn submit(&mut self, i: usize, len: usize) {
        let r = self.nodes[i].region;
        let tag = Tag(self.random() | 1);
        let seq = self.dbs[r].outbox.len() as u64 + 1;
        let mut payload = vec![0u8; len];
        for (k, b) in payload.iter_mut().enumerate() {
            *b = (seq as usize * 31 + k * 7 + r) as u8;
        }
        self.dbs[r].outbox.push((tag, payload.clone()));
        self.nodes[i].memory.map.insert(seq, payload);
        self.tell(i, Event::Available { upto: Seq(seq) });
    }

    pub fn kill(&mut self, i: usize) {
        self.nodes[i].alive = false;
        self.nodes[i].life += 1;
        self.nodes[i].wake = None;
    }

    pub fn restart(&mut self, i: usize) {
        let life = self.nodes[i].life + 1;
        self.nodes[i] = self.build(i, life);
    }

    pub fn tell(&mut self, i: usize, event: Event) {
        let now = at(self.now);
        let node = &mut self.nodes[i];
        if !node.alive {
            return;
        }
        node.engine.handle_event(now, event, &mut node.inbox);
        self.drain(i);
    }

    pub fn target(&self, i: usize, peer: usize) -> Option<Target> {
        self.nodes[i]
            .engine
            .lane_stats(RegionId(peer as u16))
            .target
    }

    pub fn applied(&self, region: usize, stream: usize) -> u64 {
        self.dbs[region]
            .applied
            .get(&(stream as u16))
            .map_or(0, |a| a.len() as u64)
    }

    pub fn converged(&self) -> bool {
        (0..self.dbs.len()).all(|r| {
            (0..self.dbs.len())
                .filter(|s| *s != r)
                .all(|s| self.applied(r, s) == self.dbs[s].outbox.len() as u64)
        })
    }

    /// Whether every lane holder has heard of everything.
    pub fn settled(&self) -> bool {
        self.converged()
            && self.nodes.iter().filter(|n| n.alive).all(|n| {
                (0..self.dbs.len()).filter(|p| *p != n.region).all(|p| {
                    let stats = n.engine.lane_stats(RegionId(p as u16));
                    !stats.held || stats.acked.seq.0 == self.dbs[n.region].outbox.len() as u64
                })
            })
    }

    /// Lets `us` pass.
    pub fn run_for(&mut self, us: u64) {
        let end = self.now + us;
        while self.step(end) {}
        self.now = end;
    }

    /// Until `done`, at most `us`; the time it took.
    #[track_caller]
    pub fn run_until(&mut self, us: u64, mut done: impl FnMut(&Self) -> bool) -> u64 {
        let (start, end) = (self.now, self.now + us);
        while !done(self) {
            assert!(self.step(end), "not within {us} us: {}", self.describe());
        }
        self.now - start
    }

    pub fn describe(&self) -> String {
        let mut s = String::new();
        for (i, n) in self.nodes.iter().enumerate() {
            s += &format!(
                "\nnode {i} (region {}) alive {} wake {:?} {:?}",
                n.region, n.alive, n.wake, n.reason
            );
            for p in (0..self.dbs.len()).filter(|p| *p != n.region) {
                s += &format!(
                    "\n   to {p}: {:?}\n   from {p}: {:?}",
                    n.engine.lane_stats(RegionId(p as u16)),
                    n.engine.inlet_stats(RegionId(p as u16))
                );
            }
        }
        for (r, db) in self.dbs.iter().enumerate() {
            s += &format!(
                "\ndb {r}: outbox {} applied {:?}",
                db.outbox.len(),
                db.applied
                    .iter()
                    .map(|(k, v)| (*k, v.len()))
                    .collect::<Vec<_>>()
            );
        }
        for (t, n, notice) in self.log.iter().rev().take(30).rev() {
            s += &format!("\n{:>10} node {n} {notice:?}", t);
        }
        s
    }

    // ---- the machinery ----

    /// The next thing that happens, if it is not after `end`.
    fn step(&mut self, end: u64) -> bool {
        let action = self.queue.peek().map(|Reverse((t, _))| *t);
        let wake = (0..self.nodes.len())
            .filter_map(|i| self.nodes[i].wake.map(|w| (w, i)))
            .min();
        let next = action.into_iter().chain(wake.map(|w| w.0)).min();
        let Some(t) = next.filter(|t| *t <= end) else {
            return false;
        };
        let moved = t > self.now;
        self.now = self.now.max(t);
        if action == Some(t) {
            let Some(Reverse((_, id))) = self.queue.pop() else {
                return false;
            };
            if let Some(action) = self.actions.remove(&id) {
                self.act(action);
            }
        } else if let Some((_, i)) = wake {
            let node = &mut self.nodes[i];
            node.stuck = if moved { 0 } else { node.stuck + 1 };
            assert!(
                node.stuck < 1000,
                "node {i} turns in circles, waiting for {:?}",
                node.reason
            );
            self.drain(i);
        }
        true
    }

    fn drain(&mut self, i: usize) {
        let mut buffer = [0u8; 2048];
        let now = at(self.now);
        let mut burst = 0;
        loop {
            let node = &mut self.nodes[i];
            let life = node.life;
            burst += 1;
            assert!(burst < 20_000, "node {i} does not come to rest");
            match node.engine.poll(now, &node.memory, &mut buffer) {
                Output::Transmit { to, len } => {
                    node.transmits += 1;
                    node.bytes += len as u64;
                    let to = usize::from(to.0);
                    let session = node.sessions.get(&to).copied().unwrap_or((0, 0));
                    let bytes = buffer[..len].to_vec();
                    self.transmit(i, to, session, bytes);
                }
                Output::Connect { to } => {
                    node.connects += 1;
                    let to = usize::from(to.0);
                    if !self.lost(i, to) {
                        let d = self.delay();
                        self.schedule(d, Action::Handshake { from: i, to });
                    }
                }
                Output::Fetch { from, to } => {
                    self.fetches += 1;
                    assert!(from <= to);
                    self.schedule(
                        400,
                        Action::Fetch {
                            node: i,
                            life,
                            from: from.0,
                            to: to.0,
                        },
                    );
                }
                Output::Verify { peer, position } => {
                    self.schedule(
                        200,
                        Action::Verify {
                            node: i,
                            life,
                            peer: peer.0,
                            position,
                        },
                    );
                }
                Output::ReadPosition { stream } => {
                    self.schedule(
                        200,
                        Action::Read {
                            node: i,
                            life,
                            stream: stream.0,
                        },
                    );
                }
                Output::Apply {
                    stream,
                    epoch,
                    from,
                    to,
                } => {
                    let batch = (from.0..=to.0)
                        .map(|seq| node.inbox.complete(stream.0, seq))
                        .collect();
                    let d = self.dbs[self.nodes[i].region].apply_us;
                    self.schedule(
                        d,
                        Action::Apply {
                            node: i,
                            life,
                            stream: stream.0,
                            epoch,
                            from: from.0,
                            batch,
                        },
                    );
                }
                Output::Direct { peer, upto, .. } => {
                    self.schedule(
                        5 * MS,
                        Action::Direct {
                            node: i,
                            life,
                            peer: peer.0,
                            upto: upto.0,
                        },
                    );
                }
                Output::Acked { peer, position } => {
                    let r = node.region;
                    node.acked.insert(peer.0, position.seq.0);
                    let applied = self.applied(usize::from(peer.0), r);
                    assert!(
                        position.seq.0 <= applied,
                        "acknowledged {position:?} but applied {applied}"
                    );
                }
                Output::Notify(notice) => {
                    match notice {
                        Notice::SiblingAcked { peer, seq } => {
                            node.sibling_acked.insert(peer.0, seq.0);
                        }
                        Notice::SiblingTail { upto } => node.sibling_tail = upto.0,
                        _ => {}
                    }
                    if self.trace {
                        println!("{:>10} node {i} {notice:?}", self.now);
                    }
                    self.log.push((self.now, i, notice));
                }
                Output::Wait { deadline, reason } => {
                    node.waits += 1;
                    node.wake = deadline.map(|d| d.as_micros().max(self.now));
                    node.reason = reason;
                    return;
                }
                other => panic!("unknown output {other:?}"),
            }
        }
    }

    fn lost(&mut self, from: usize, to: usize) -> bool {
        if let Some(n) = self.drop_next.get_mut(&(from, to))
            && *n > 0
        {
            *n -= 1;
            return true;
        }
        let loss = self.net.loss;
        self.net.blocked.contains(&(from, to)) || self.chance(loss)
    }

    fn transmit(&mut self, from: usize, to: usize, session: (u64, u64), bytes: Vec<u8>) {
        wire::decode(&bytes).expect("an engine writes what it can read");
        assert!(bytes.len() <= 1200);
        let duplicate = self.net.duplicate;
        let copies = if self.chance(duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.lost(from, to) {
                let d = self.delay() + self.net.slow.get(&to).copied().unwrap_or(0);
                self.schedule(
                    d,
                    Action::Datagram {
                        from,
                        to,
                        session,
                        bytes: bytes.clone(),
                    },
                );
            }
        }
    }

    fn act(&mut self, action: Action) {
        let now = at(self.now);
        match action {
            Action::Datagram {
                from,
                to,
                session,
                bytes,
            } => {
                let node = &mut self.nodes[to];
                // The one who opened it may be either; both lives count.
                let known = node.sessions.get(&from).copied();
                if node.alive && known == Some((session.1, session.0)) {
                    node.engine
                        .handle_datagram(now, NodeId(from as u16), &bytes, &mut node.inbox);
                    self.drain(to);
                }
            }
            Action::Handshake { from, to } => {
                if !self.nodes[to].alive {
                    return;
                }
                let session = (self.nodes[to].life, self.nodes[from].life);
                self.nodes[to].sessions.insert(from, session);
                if !self.lost(to, from) {
                    let d = self.delay();
                    self.schedule(
                        d,
                        Action::HandshakeBack {
                            from: to,
                            to: from,
                            session,
                        },
                    );
                }
                self.tell(
                    to,
                    Event::NodeUp {
                        node: NodeId(from as u16),
                    },
                );
            }
            Action::HandshakeBack { from, to, session } => {
                if self.nodes[to].alive && self.nodes[to].life == session.1 {
                    self.nodes[to].sessions.insert(from, (session.1, session.0));
                    self.tell(
                        to,
                        Event::NodeUp {
                            node: NodeId(from as u16),
                        },
                    );
                }
            }
            Action::Tell { node, life, event } => {
                if self.nodes[node].life == life {
                    self.tell(node, event);
                }
            }
            Action::Fetch {
                node,
                life,
                from,
                to,
            } => {
                if self.nodes[node].life != life {
                    return;
                }
                let db = &self.dbs[self.nodes[node].region];
                let mut upto = from - 1;
                if db.up {
                    for seq in (from..=to).take(self.fetch_limit as usize) {
                        if self.unreadable.contains(&seq) {
                            break;
                        }
                        if let Some((_, payload)) = db.outbox.get(seq as usize - 1) {
                            self.nodes[node].memory.map.insert(seq, payload.clone());
                            upto = seq;
                        }
                    }
                }
                self.tell(node, Event::Fetched { upto: Seq(upto) });
            }
            Action::Verify {
                node,
                life,
                peer,
                position,
            } => {
                if self.nodes[node].life != life {
                    return;
                }
                let db = &self.dbs[self.nodes[node].region];
                let verdict = if !db.up {
                    Verdict::Unknown
                } else if position.seq == Seq::ZERO {
                    Verdict::Matches
                } else if position.epoch != db.epoch
                    || db.outbox.get(position.seq.0 as usize - 1).map(|o| o.0) != Some(position.tag)
                {
                    Verdict::Forked
                } else {
                    Verdict::Matches
                };
                self.tell(
                    node,
                    Event::Verified {
                        peer: RegionId(peer),
                        position,
                        verdict,
                    },
                );
            }
            Action::Read { node, life, stream } => {
                if self.nodes[node].life != life {
                    return;
                }
                let epoch = self.dbs[usize::from(stream)].epoch;
                let db = &self.dbs[self.nodes[node].region];
                let stream = RegionId(stream);
                let event = if db.up {
                    Event::Position {
                        stream,
                        position: db.position(stream.0, epoch),
                    }
                } else {
                    Event::ApplyFailed {
                        stream,
                        cause: ApplyCause::Unreachable,
                        retry_at: at(self.now + SEC),
                    }
                };
                self.tell(node, event);
            }
            Action::Apply {
                node,
                life,
                stream,
                epoch,
                from,
                batch,
            } => {
                let region = self.nodes[node].region;
                let id = RegionId(stream);
                let event = self.apply(region, stream, epoch, from, &batch);
                if self.nodes[node].life != life {
                    // Committed by a process that did not live to say so.
                    return;
                }
                let refused: Vec<u64> = (from..from + batch.len() as u64)
                    .filter(|seq| self.dbs[region].refuse.contains(&(stream, *seq)))
                    .collect();
                if matches!(event, Event::Applied { .. }) {
                    for seq in refused {
                        let refusal = Refusal {
                            seq: Seq(seq),
                            class: RefusalClass::Constraint,
                            sqlstate: *b"23505",
                        };
                        self.tell(
                            node,
                            Event::Refused {
                                stream: id,
                                refusal,
                            },
                        );
                    }
                }
                self.tell(node, event);
            }
            Action::Direct {
                node,
                life,
                peer,
                upto,
            } => {
                let r = self.nodes[node].region;
                let epoch = self.dbs[r].epoch;
                let reachable =
                    self.dbs[usize::from(peer)].up && self.dbs[usize::from(peer)].direct_up;
                let id = RegionId(peer);
                if !reachable {
                    if self.nodes[node].life == life {
                        self.tell(
                            node,
                            Event::DirectFailed {
                                peer: id,
                                why: DirectFailure::Unreachable,
                            },
                        );
                    }
                    return;
                }
                let done = self.applied(usize::from(peer), r);
                self.directs += 1;
                let upto = if self.direct_idle { done } else { upto };
                let batch: Vec<Vec<u8>> = (done + 1..=upto)
                    .take(100)
                    .map(|seq| self.dbs[r].outbox[seq as usize - 1].1.clone())
                    .collect();
                self.dbs[usize::from(peer)].direct_rows += batch.len() as u64;
                let event = self.apply(usize::from(peer), r as u16, epoch, done + 1, &batch);
                let event = match event {
                    Event::Applied { position, .. } => Event::DirectDone { peer: id, position },
                    _ => Event::DirectFailed {
                        peer: id,
                        why: DirectFailure::Busy,
                    },
                };
                if self.nodes[node].life == life {
                    self.tell(node, event);
                }
            }
        }
    }

    /// One transaction: the watermark decides.
    fn apply(
        &mut self,
        region: usize,
        stream: u16,
        epoch: Epoch,
        from: u64,
        batch: &[Vec<u8>],
    ) -> Event {
        let id = RegionId(stream);
        if !self.dbs[region].up {
            return Event::ApplyFailed {
                stream: id,
                cause: ApplyCause::Unreachable,
                retry_at: at(self.now + SEC),
            };
        }
        if let Some(cause) = self.dbs[region].sick {
            return Event::ApplyFailed {
                stream: id,
                cause,
                retry_at: at(self.now + 500 * MS),
            };
        }
        let done = self.applied(region, usize::from(stream));
        if from > done + 1 {
            return Event::Position {
                stream: id,
                position: self.dbs[region].position(stream, epoch),
            };
        }
        for (seq, payload) in (from..).zip(batch) {
            if seq <= done {
                continue;
            }
            let (tag, original) = &self.dbs[usize::from(stream)].outbox[seq as usize - 1];
            assert_eq!(
                original, payload,
                "update {seq} of {stream} arrived changed"
            );
            let row = (*tag, payload.clone());
            self.dbs[region]
                .applied
                .entry(stream)
                .or_default()
                .push(row);
        }
        Event::Applied {
            stream: id,
            position: self.dbs[region].position(stream, epoch),
        }
    }
}
