//! A cluster in memory: real engines, model databases, a bad network, and a clock that jumps to
//! the next thing that happens.
#![allow(dead_code, reason = "each test file uses its part")]

mod act;
mod host;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use prism_proto::*;

pub use host::*;

pub const MS: u64 = 1_000;
pub const SEC: u64 = 1_000_000;

pub fn at(us: u64) -> Instant {
    Instant::from_micros(us)
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
    pub clean: HashMap<u16, u64>,
    pub sibling_acked: HashMap<u16, u64>,
    pub sibling_clean: HashMap<u16, u64>,
    pub sibling_tail: u64,
    stuck: u32,
    woken: u64,
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
    /// The origin's host deals with a refusal.
    Handle {
        node: usize,
        life: u64,
        peer: u16,
        seq: u64,
    },
    /// The region that refused notes that the origin has done so.
    Told {
        node: usize,
        life: u64,
        stream: u16,
        seq: u64,
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
    /// An origin's history was lost, and another one begun: what differs is of the lost one.
    pub rewritten: bool,
    /// Updates that no fetch finds.
    pub unreadable: std::ops::Range<u64>,
    /// Direct writes asked for; and whether they are answered without writing anything.
    pub directs: u64,
    pub direct_idle: bool,
    /// `PeerRefused` as hosts have heard it: when, node, peer, seq.
    pub refused: Vec<(u64, usize, u16, u64)>,
    /// Refusals that were told to a region that had dealt with them, at whichever node.
    pub handled_again: u64,
    /// What dealing with one takes; and how many of the next a host has no room for.
    pub handle_us: u64,
    pub handle_drop: u32,
    /// Header of the newest datagram (from, to), for those who forge the next one.
    pub headers: HashMap<(usize, usize), wire::Header>,
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
            rewritten: false,
            unreadable: 0..0,
            directs: 0,
            direct_idle: false,
            refused: Vec::new(),
            handled_again: 0,
            handle_us: 500,
            handle_drop: 0,
            headers: HashMap::new(),
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
            clean: HashMap::new(),
            sibling_acked: HashMap::new(),
            sibling_clean: HashMap::new(),
            sibling_tail: 0,
            stuck: 0,
            woken: 0,
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

    /// Whether every lane holder has heard of everything, and that it is clean.
    pub fn settled(&self) -> bool {
        self.converged()
            && self.nodes.iter().filter(|n| n.alive).all(|n| {
                (0..self.dbs.len()).filter(|p| *p != n.region).all(|p| {
                    let stats = n.engine.lane_stats(RegionId(p as u16));
                    let tail = self.dbs[n.region].outbox.len() as u64;
                    !stats.held || (stats.acked.seq.0, stats.clean.0) == (tail, tail)
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
            // (Another node may have moved the time.)
            node.stuck = if node.woken == t { node.stuck + 1 } else { 0 };
            node.woken = t;
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
                Output::PeerRefused { peer, refusal } => {
                    let seq = refusal.seq.0;
                    self.refused.push((self.now, i, peer.0, seq));
                    if self.handle_drop > 0 {
                        self.handle_drop -= 1;
                        continue;
                    }
                    let action = Action::Handle {
                        node: i,
                        life,
                        peer: peer.0,
                        seq,
                    };
                    self.schedule(self.handle_us, action);
                }
                Output::RefusalTold { stream, seq, .. } => {
                    let action = Action::Told {
                        node: i,
                        life,
                        stream: stream.0,
                        seq: seq.0,
                    };
                    self.schedule(200, action);
                }
                Output::Acked {
                    peer,
                    position,
                    clean,
                } => {
                    let r = node.region;
                    node.acked.insert(peer.0, position.seq.0);
                    node.clean.insert(peer.0, clean.0);
                    assert!(clean <= position.seq);
                    self.judge_clean(r, peer.0, clean);
                    let applied = self.applied(usize::from(peer.0), r);
                    assert!(
                        position.seq.0 <= applied,
                        "acknowledged {position:?} but applied {applied}"
                    );
                }
                Output::Notify(notice) => {
                    match notice {
                        Notice::SiblingAcked { peer, seq, clean } => {
                            node.sibling_acked.insert(peer.0, seq.0);
                            node.sibling_clean.insert(peer.0, clean.0);
                            let r = node.region;
                            self.judge_clean(r, peer.0, clean);
                        }
                        Notice::SiblingTail { upto } => {
                            self.nodes[i].sibling_tail = upto.0;
                        }
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

    /// An update counts as executed at the peer, or its refusal as dealt with: is that so?
    fn judge_clean(&self, r: usize, peer: u16, clean: Seq) {
        for (stream, seq) in self.dbs[usize::from(peer)].rejected.keys() {
            let known = usize::from(*stream) != r
                || *seq > clean.0
                || self.dbs[r].handled.contains(&(peer, *seq));
            assert!(
                known,
                "{seq} counts as clean at {peer}, which has refused it"
            );
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
        let (header, _) = wire::decode(&bytes).expect("an engine writes what it can read");
        self.headers.insert((from, to), header);
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
}
