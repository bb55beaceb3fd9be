//! Behind the encryption: nodes of two other regions, with real keys and standing sessions, say
//! anything. Nothing panics or runs for ever; what is applied of a stream is applied in order and
//! once; nothing counts as acknowledged that was not committed; memory stays within its limits. And
//! neither of them can say anything about the other's stream.

use arbitrary::Arbitrary;
use prism_net::fuzzing::Member;
use prism_proto::wire::{Header, MAX_HEADER, VERSION, Writer};
use prism_proto::{Instant, NodeId};

use crate::cluster::{self, Database, Datagram, Node};

#[derive(Debug, Arbitrary)]
enum Op {
    /// Raw plaintext.
    Raw { from: bool, bytes: Vec<u8> },
    /// Frames behind a header that fits.
    Frames { from: bool, to_me: bool, restarted: bool, pn: u16, bytes: Vec<u8> },
    /// One of the frames that carry an update.
    Updates { from: bool, pn: u16, first: u8, updates: Vec<Vec<u8>> },
    Commit(u16),
    Pass(u16),
}

struct Scene {
    us: u64,
    node: Node,
    members: [Member; 2],
    /// What the node calls itself, once it has spoken.
    incarnation: [u8; 4],
}

impl Scene {
    /// Carries handshakes, and listens to what the node says, until all are silent.
    fn talk(&mut self) {
        let now = Instant::from_micros(self.us);
        let mut packet = vec![0; 2048];
        for round in 0.. {
            assert!(round < 1000, "they never stop");
            let mut out: Vec<Datagram> = Vec::new();
            self.node.drain(now, &mut out);
            let mut silent = out.is_empty();
            for (member, me) in self.members.iter_mut().zip(1..) {
                for datagram in out.iter().filter(|d| d.to == cluster::home(me)) {
                    if let Some((_, body)) = member.receive(now, datagram.from, &datagram.bytes)
                        && let [_, a, b, c, d, ..] = *body
                    {
                        self.incarnation = [a, b, c, d];
                    }
                }
                while let Some((to, len)) = member.poll(now, &mut packet) {
                    if to == cluster::home(0) {
                        self.node.receive(now, cluster::home(me), &packet[..len]);
                        silent = false;
                    }
                }
            }
            if silent && (0..2).all(|i| self.members[i].is_up(NodeId(0))) {
                return;
            }
        }
    }

    fn say(&mut self, from: u16, body: &[u8]) {
        let now = Instant::from_micros(self.us);
        let mut packet = [0; 2048];
        let other = 3 - usize::from(from);
        let before = self.node.database.applied[other].len();
        let member = &mut self.members[usize::from(from) - 1];
        if let Some((_, len)) = member.send(now, NodeId(0), body, &mut packet) {
            self.node.receive(now, cluster::home(from), &packet[..len]);
        }
        self.node.drain(now, &mut Vec::new());
        assert_eq!(
            self.node.database.applied[other].len(),
            before,
            "a node has spoken for another region"
        );
    }

    fn framed(&self, to_me: bool, restarted: bool, from: u16, pn: u16) -> Vec<u8> {
        let mut datagram = vec![VERSION, 9, 0, u8::from(restarted), from as u8];
        datagram.extend_from_slice(if to_me { &self.incarnation } else { &[0; 4] });
        let header = Header {
            from: 0,
            to: 0,
            pn: u64::from(pn),
        };
        let mut scratch = [0; MAX_HEADER];
        let writer = Writer::new(&mut scratch, header).expect("there is room");
        let len = writer.written();
        datagram.extend_from_slice(&scratch[9..len]);
        datagram
    }
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let Some(ops) = super::structured::<Vec<Op>>(bytes) else {
        return;
    };
    let mut scene = Scene {
        us: 1_000_000,
        node: Node::start(&cluster::config(0, 1), Database::new(0)),
        members: [1, 2].map(|i| Member::new(&cluster::config(i, 1)).expect("it is fine")),
        incarnation: [0; 4],
    };
    scene.talk();
    for op in ops.iter().take(150) {
        let from = |who: &bool| 1 + u16::from(*who);
        match op {
            Op::Raw { from: who, bytes } => scene.say(from(who), bytes),
            Op::Frames { from: who, to_me, restarted, pn, bytes } => {
                let mut body = scene.framed(*to_me, *restarted, from(who), *pn);
                body.extend_from_slice(bytes);
                scene.say(from(who), &body);
            }
            Op::Updates { from: who, pn, first, updates } => {
                let mut run = Vec::new();
                for update in updates.iter().take(20).filter(|update| update.len() < 128) {
                    run.push(update.len() as u8);
                    run.extend_from_slice(update);
                }
                let mut body = scene.framed(true, false, from(who), *pn);
                body.extend_from_slice(&[6, *first % 128]);
                if run.len() < 1000 {
                    body.extend_from_slice(&[run.len() as u8 | 0x80, (run.len() >> 7) as u8]);
                    body.extend_from_slice(&run);
                    scene.say(from(who), &body);
                }
            }
            Op::Commit(len) => {
                scene.node.database.commit(usize::from(*len) % (12 << 10));
                scene.node.drain(Instant::from_micros(scene.us), &mut Vec::new());
            }
            Op::Pass(ms) => {
                scene.us += u64::from(*ms) * 1000;
                scene.node.drain(Instant::from_micros(scene.us), &mut Vec::new());
            }
        }
        scene.node.assert_bounds();
    }
}
