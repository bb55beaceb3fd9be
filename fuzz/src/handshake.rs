//! Two nodes with keys and an attacker on the wire between them, who loses, repeats, redirects, cuts,
//! alters and mixes their packets, of handshakes and of sessions, and adds his own, while they are
//! restarted. Nothing that was altered has an effect or is answered; and as soon as he stops, they find
//! together and everything arrives once, in order and unchanged.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use arbitrary::Arbitrary;
use prism_net::fuzzing;
use prism_proto::Instant;

use crate::cluster::{self, Database, Datagram, Node};

#[derive(Debug, Arbitrary)]
enum Op {
    Deliver(u8),
    Lose(u8),
    Twice(u8),
    Flip { packet: u8, byte: u16, bit: u8 },
    Cut { packet: u8, len: u16 },
    Extend { packet: u8, bytes: Vec<u8> },
    /// The beginning of one, the rest of another.
    Mix { head: u8, tail: u8, at: u8 },
    /// One from before, from another address.
    Replay { packet: u8, port: Option<u8> },
    /// Back to where it comes from.
    Reflect(u8),
    Raw { to: bool, port: u8, bytes: Vec<u8> },
    Pass(u16),
    Restart(bool),
    Commit { node: bool, len: u16 },
    /// Everything that is under way arrives.
    Settle,
}

/// Of each node; with more he is only slower.
const COMMITS: usize = 20;
/// Packets that he remembers.
const MEMORY: usize = 256;
/// Without him they find together within this time.
const RECOVERY: u64 = 60_000_000;

struct Scene {
    us: u64,
    boots: [u64; 2],
    nodes: [Node; 2],
    flying: Vec<Datagram>,
    seen: Vec<Datagram>,
    /// Where genuine packets have come from: there an answer may go.
    genuine: BTreeSet<SocketAddr>,
}

fn start(me: u16, boot: u64, database: Database) -> Node {
    Node::start(&cluster::config(me, boot), database)
}

impl Scene {
    fn drain(&mut self) {
        let now = Instant::from_micros(self.us);
        let before = self.flying.len();
        for node in &mut self.nodes {
            node.drain(now, &mut self.flying);
            node.assert_bounds();
        }
        for sent in &self.flying[before..] {
            assert!(self.genuine.contains(&sent.to), "an answer to a stranger");
            if self.seen.len() < MEMORY {
                let (from, to, bytes) = (sent.from, sent.to, sent.bytes.clone());
                self.seen.push(Datagram { from, to, bytes });
            }
        }
        // Nobody is at home at the third node's.
        self.flying.retain(|d| d.to != cluster::home(2));
    }

    fn pick(&self, packet: u8) -> Option<usize> {
        (!self.flying.is_empty()).then(|| usize::from(packet) % self.flying.len())
    }

    /// Hands these bytes to whoever is meant, as if they came from there.
    fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        // He redirects: what was sent to a stranger's address arrives as well.
        let at = usize::from(to != cluster::home(0));
        let _ = fuzzing::parse(bytes);
        let now = Instant::from_micros(self.us);
        self.nodes[at].receive(now, from, bytes);
        self.drain();
    }

    fn deliver(&mut self, packet: Datagram) {
        self.genuine.insert(packet.from);
        // Whichever way it was addressed, it reaches the one that it is for.
        let to = cluster::home(u16::from(packet.from == cluster::home(0)));
        self.inject(packet.from, to, &packet.bytes);
    }

    /// He is gone. All that happens happens.
    fn recover(&mut self) {
        let end = self.us + RECOVERY;
        self.flying.clear();
        self.drain();
        loop {
            while !self.flying.is_empty() {
                let packet = self.flying.remove(0);
                // He no longer redirects.
                if packet.to == cluster::home(0) || packet.to == cluster::home(1) {
                    self.inject(packet.from, packet.to, &packet.bytes);
                }
            }
            if self.converged() {
                return;
            }
            let wake = self.nodes.iter().filter_map(|node| node.wake).min();
            let wake = wake.expect("something is to be done").as_micros();
            assert!(wake > self.us, "they turn in circles");
            assert!(wake < end, "they do not find together");
            self.us = wake;
            self.drain();
        }
    }

    fn converged(&self) -> bool {
        let [a, b] = [&self.nodes[0].database, &self.nodes[1].database];
        a.outbox == b.applied[0] && b.outbox == a.applied[1]
    }
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let Some(ops) = super::structured::<Vec<Op>>(bytes) else {
        return;
    };
    let mut scene = Scene {
        us: 1_000_000,
        boots: [1, 1],
        nodes: [0, 1].map(|i| start(i, 1, Database::new(i))),
        flying: Vec::new(),
        seen: Vec::new(),
        genuine: (0..3).map(cluster::home).collect(),
    };
    scene.drain();
    for op in ops.iter().take(200) {
        step(&mut scene, op);
    }
    for node in &mut scene.nodes {
        node.database.commit(30);
    }
    scene.recover();
}

fn step(scene: &mut Scene, op: &Op) {
    let stranger = cluster::elsewhere(0);
    match op {
        Op::Deliver(packet) => {
            if let Some(at) = scene.pick(*packet) {
                let packet = scene.flying.remove(at);
                scene.deliver(packet);
            }
        }
        Op::Lose(packet) => {
            if let Some(at) = scene.pick(*packet) {
                scene.flying.remove(at);
            }
        }
        Op::Twice(packet) => {
            if let Some(at) = scene.pick(*packet) {
                let packet = scene.flying.remove(at);
                let again = Datagram {
                    bytes: packet.bytes.clone(),
                    ..packet
                };
                scene.deliver(packet);
                scene.deliver(again);
            }
        }
        Op::Flip { packet, byte, bit } => alter(scene, *packet, |bytes| {
            let at = usize::from(*byte) % bytes.len();
            bytes[at] ^= 1 << (bit % 8);
        }),
        Op::Cut { packet, len } => alter(scene, *packet, |bytes| {
            bytes.truncate(usize::from(*len) % bytes.len());
        }),
        Op::Extend { packet, bytes: more } => {
            if !more.is_empty() {
                alter(scene, *packet, |bytes| bytes.extend_from_slice(more));
            }
        }
        Op::Mix { head, tail, at } => {
            if let (Some(head), Some(tail)) = (scene.pick(*head), scene.pick(*tail)) {
                let tail = scene.flying[tail].bytes.clone();
                alter(scene, head as u8, |bytes| {
                    let at = usize::from(*at).min(bytes.len()).min(tail.len());
                    bytes.truncate(at);
                    bytes.extend_from_slice(&tail[at..]);
                });
            }
        }
        Op::Replay { packet, port } => {
            if !scene.seen.is_empty() {
                let packet = &scene.seen[usize::from(*packet) % scene.seen.len()];
                let from = port.map_or(packet.from, cluster::elsewhere);
                // Genuine it is: if it is the first that arrives, the node may have moved.
                scene.genuine.insert(from);
                let to = cluster::home(u16::from(packet.from == cluster::home(0)));
                let bytes = packet.bytes.clone();
                scene.inject(from, to, &bytes);
            }
        }
        Op::Reflect(packet) => {
            if let Some(at) = scene.pick(*packet) {
                let packet = scene.flying.remove(at);
                scene.inject(stranger, packet.from, &packet.bytes);
            }
        }
        Op::Raw { to, port, bytes } => {
            let to = cluster::home(u16::from(*to));
            // A port to which nothing genuine is ever moved.
            scene.inject(cluster::outside(*port), to, bytes);
        }
        Op::Pass(ms) => {
            scene.us += u64::from(*ms) * 1000;
            scene.drain();
        }
        Op::Restart(who) => {
            let at = usize::from(*who);
            scene.boots[at] += 1;
            let database = std::mem::replace(&mut scene.nodes[at].database, Database::new(0));
            scene.nodes[at] = start(at as u16, scene.boots[at], database);
            scene.drain();
        }
        Op::Commit { node, len } => {
            let database = &mut scene.nodes[usize::from(*node)].database;
            if database.outbox.len() < COMMITS {
                database.commit(usize::from(*len) % 4000);
                scene.drain();
            }
        }
        Op::Settle => {
            for _ in 0..500 {
                if scene.flying.is_empty() {
                    break;
                }
                let packet = scene.flying.remove(0);
                scene.deliver(packet);
            }
        }
    }
    if scene.flying.len() > MEMORY {
        scene.flying.drain(..MEMORY / 2);
    }
}

/// A packet that is not what its sender has written comes from an address of its own.
fn alter(scene: &mut Scene, packet: u8, change: impl FnOnce(&mut Vec<u8>)) {
    let Some(at) = scene.pick(packet) else { return };
    let original = &scene.flying[at];
    let mut bytes = original.bytes.clone();
    let to = cluster::home(u16::from(original.from == cluster::home(0)));
    if bytes.is_empty() {
        return;
    }
    change(&mut bytes);
    // It may have become another genuine one.
    let genuine = |d: &Datagram| d.bytes == bytes;
    if !scene.flying.iter().any(genuine) && !scene.seen.iter().any(genuine) {
        scene.inject(cluster::outside(0), to, &bytes);
    }
}
