//! Somebody with the keys of a node, who says whatever he likes in its name.

use std::net::UdpSocket;
use std::time::{Duration, Instant as Clock};

use prism_net::fuzzing::Member;
use prism_node::keys::SecretKey;
use prism_proto::wire::{Ack, Frame, Header, Progress, Writer, decode};
use prism_proto::{Epoch, Instant, NodeId, Seq};

use crate::common::LIMIT;
use crate::common::files::Files;
use crate::target::{as_node, key, udp};

/// Bodies that are kept.
const KEPT: usize = 512;

/// Has the node's keys, and its address.
pub struct Insider {
    pub member: Member,
    socket: UdpSocket,
    start: Clock,
    incarnation: u32,
    pub number: u64,
    /// Incarnation of every other node's core, and number of its newest packet.
    peers: Vec<(u32, u64)>,
    heard: Vec<(NodeId, Vec<u8>)>,
}

impl Insider {
    /// In the place of a node that does not run; started after it.
    pub fn new(w: &Files, node: &str) -> Self {
        let data = &w.cluster.nodes[w.cluster.node(node)].data;
        let boot = std::fs::read_to_string(data.join("boot")).expect("it has run");
        let boot: u64 = boot.trim().parse().expect("a number");
        Self::with(w, node, &key(w, node), boot + 1)
    }

    /// The same with another key and number of starts.
    pub fn with(w: &Files, node: &str, key: &SecretKey, boot: u64) -> Self {
        let socket = UdpSocket::bind(udp(w, node)).expect("its address is free");
        socket.set_nonblocking(true).expect("set");
        Self {
            member: Member::new(&as_node(w, node, key, boot)).expect("keys that fit"),
            socket,
            start: Clock::now(),
            incarnation: 0x0bad_0bad,
            number: 0,
            peers: vec![(0, 0); w.cluster.nodes.len()],
            heard: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.start.elapsed().as_micros() as u64)
    }

    /// Does what keeps the sessions up, and listens.
    pub fn pump(&mut self) {
        let now = self.now();
        let mut packet = [0; 2048];
        while let Some((to, len)) = self.member.poll(now, &mut packet) {
            let _ = self.socket.send_to(&packet[..len], to);
        }
        let mut buffer = [0; 65_536];
        while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
            let Some((node, body)) = self.member.receive(now, from, &buffer[..len]) else {
                continue;
            };
            if let Ok((header, _)) = decode(body) {
                let peer = &mut self.peers[usize::from(node.0)];
                let newest = if peer.0 == header.from { peer.1 } else { 0 };
                *peer = (header.from, newest.max(header.pn));
                if self.heard.len() == KEPT {
                    self.heard.remove(0);
                }
                self.heard.push((node, body.to_vec()));
            }
        }
    }

    /// Goes on until a condition holds.
    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Clock::now() + LIMIT;
        loop {
            self.pump();
            if done(self) {
                return;
            }
            assert!(Clock::now() < deadline, "not within {LIMIT:?}: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Until the node talks.
    pub fn meet(&mut self, node: NodeId) {
        self.peers[usize::from(node.0)] = (0, 0);
        let mut at = None::<Clock>;
        self.wait("the node talks", |me| {
            let again = at.is_none_or(|at| at.elapsed() > Duration::from_millis(50));
            if again && me.member.is_up(node) {
                at = Some(Clock::now());
                me.say(node, &[Frame::Ping]);
            }
            me.peers[usize::from(node.0)].0 != 0
        });
    }

    /// An authentic packet with these frames. False without a session.
    pub fn say(&mut self, to: NodeId, frames: &[Frame<'_>]) -> bool {
        self.number = self.number.saturating_add(1);
        let header = Header {
            from: self.incarnation,
            to: self.peers[usize::from(to.0)].0,
            pn: self.number,
        };
        let mut body = [0; 1198];
        let mut writer = Writer::new(&mut body, header).expect("room");
        for frame in frames {
            assert!(writer.push(frame), "too long: {frame:?}");
        }
        let len = writer.written();
        self.say_bytes(to, &body[..len])
    }

    /// An authentic packet with anything in it.
    pub fn say_bytes(&mut self, to: NodeId, body: &[u8]) -> bool {
        let mut packet = [0; 2048];
        let sealed = self.member.send(self.now(), to, body, &mut packet);
        if let Some((to, len)) = sealed {
            let _ = self.socket.send_to(&packet[..len], to);
        }
        sealed.is_some()
    }

    /// An acknowledgement of the newest packet of a node.
    pub fn ack(&mut self, of: NodeId, progress: Option<Progress>) -> Ack {
        Ack {
            largest: self.peers[usize::from(of.0)].1,
            delay_us: 0,
            first: 0,
            more: Default::default(),
            progress,
        }
    }

    /// The newest opening of a node's lane: token, epoch, tail.
    pub fn hello(&self, of: NodeId) -> Option<(u32, Epoch, Seq)> {
        self.newest(of, |frame| match frame {
            Frame::Hello { token, epoch, tail } => Some((*token, *epoch, *tail)),
            _ => None,
        })
    }

    /// The newest frame of a node that `find` takes.
    pub fn newest<T>(&self, of: NodeId, find: impl Fn(&Frame<'_>) -> Option<T>) -> Option<T> {
        let bodies = self.heard.iter().rev().filter(|(node, _)| *node == of);
        bodies
            .filter_map(|(_, body)| decode(body).ok())
            .find_map(|(_, mut frames)| frames.find_map(|frame| find(&frame)))
    }

    /// Numbers its packets afresh, as a new process would.
    pub fn begin_anew(&mut self) {
        self.incarnation += 1;
        self.number = 0;
        self.heard.clear();
    }
}
