//! Sessions with the other nodes: who sent this packet, and under which index does a node expect
//! ours.
//!
//! WireGuard's scheme. Per node at most four handshake states:
//!
//! ```text
//!   initiation sent:      pending --response--> current
//!   initiation received:  next --first data--> current       (the initiator sends data at once)
//!   a newer session:      current --> previous               (kept while reordered packets arrive)
//! ```
//! Whoever has no session initiates, again and again; when two initiations cross, both complete
//! and both ends prefer the session that the node with the lower identity began. The incarnation
//! in the handshake tells a restarted node (everything known of it is void) from a mere second
//! handshake. Packets that do not fit are dropped without a reply and without an allocation.

mod peer;
mod replay;
mod rng;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use prism_proto::{Instant, NodeId};

use crate::config::EndpointConfig;
pub(crate) use peer::Change;
use peer::{Peer, Pending, Session};
use rng::Rng;
pub(crate) use wire::{HEADER, SEAL, identity};
use wire::{Initiation, Keys, Packet, Response};

/// The pause after an unanswered initiation doubles from the first to the last of these: a node
/// that comes back is noticed within a second, and a dead one costs one small packet a second.
const INITIATE_FIRST: Duration = Duration::from_millis(125);
const INITIATE_LAST: Duration = Duration::from_secs(1);
/// `Connect` repeats an initiation no sooner than this.
const INITIATE_LEAST: Duration = Duration::from_millis(20);
/// A node that has sent nothing for so long is sent an empty packet.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// After this silence a new handshake is tried beside the session ...
const SUSPECT_AFTER: Duration = Duration::from_secs(5);
/// ... and after this one it is gone. The engine's own probes give a node up far earlier; this is
/// for nodes with which it has nothing to talk about.
const DEAD_AFTER: Duration = Duration::from_secs(12);
/// An older session is forgotten when nothing has arrived on it for this long.
const PREVIOUS_FOR: Duration = Duration::from_secs(10);

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drop {
    Malformed,
    UnknownSession,
    WrongCluster,
    UnknownNode,
    Replayed,
}

/// A packet that belongs to a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    pub from: NodeId,
    /// What it changed, to be told before the body is looked at.
    pub change: Change,
    /// Empty for handshakes and keep-alives.
    pub body: &'a [u8],
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Sessions {
    me: NodeId,
    identity: u64,
    cluster: u64,
    incarnation: u64,
    rng: Rng,
    /// Index = `NodeId`; the own entry is never used.
    peers: Vec<Peer>,
    /// The low bits of a session index name the node, the others are random: no lookup table to
    /// fill, and a packet of an earlier process does not fit by accident.
    node_bits: u32,
    full: usize,
    /// No deadline lies before this (they only move later without being noted).
    due: Option<Instant>,
}

impl Sessions {
    pub(crate) fn new(config: &EndpointConfig, mtu: usize) -> Self {
        let mut rng = Rng::new(config.seed);
        let identities: Vec<u64> = config.nodes.iter().map(|n| identity(&n.name)).collect();
        Self {
            me: config.me,
            identity: identities[usize::from(config.me.0)],
            cluster: identity(&config.cluster),
            incarnation: rng.next(),
            peers: config
                .nodes
                .iter()
                .zip(&identities)
                .map(|(node, &identity)| Peer::new(identity, node.udp))
                .collect(),
            node_bits: config.nodes.len().next_power_of_two().trailing_zeros(),
            rng,
            full: mtu,
            due: Some(Instant::from_micros(0)),
        }
    }

    /// Whether a session with this node stands.
    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.peer(node).is_some_and(|peer| peer.current.is_some())
    }

    fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(usize::from(node.0))
    }

    fn keys(&self, peer: u64) -> Keys {
        Keys {
            cluster: self.cluster,
            me: self.identity,
            peer,
        }
    }

    /// Send one initiation now, unless one is fresh.
    pub(crate) fn connect(&mut self, now: Instant, node: NodeId) {
        if node == self.me {
            return;
        }
        if let Some(peer) = self.peers.get_mut(usize::from(node.0)) {
            let fresh = peer
                .pending
                .as_ref()
                .is_some_and(|p| now.since(p.sent) < INITIATE_LEAST);
            if !fresh {
                peer.initiate_at = Some(now);
                self.due = Some(now);
            }
        }
    }

    /// Judges a datagram.
    pub(crate) fn receive<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &'a [u8],
    ) -> Result<Received<'a>, Drop> {
        match Packet::parse(datagram).ok_or(Drop::Malformed)? {
            Packet::Data(data) => {
                let node = data.receiver & ((1 << self.node_bits) - 1);
                let keys = self.keys(
                    self.peers
                        .get(node as usize)
                        .ok_or(Drop::UnknownSession)?
                        .identity,
                );
                let peer = &mut self.peers[node as usize];
                let (is_next, session) = peer
                    .session_mut(data.receiver)
                    .ok_or(Drop::UnknownSession)?;
                let body = data.open(&keys).ok_or(Drop::Malformed)?;
                let newest = session.replay.is_newest(data.counter);
                if !session.replay.accept(data.counter) {
                    return Err(Drop::Replayed);
                }
                session.received = now;
                if newest {
                    // Roaming: the address follows the newest valid packet.
                    peer.address = from;
                }
                let mut change = Change::None;
                if is_next && let Some(next) = peer.next.take() {
                    change = peer.adopt(now, next, self.identity);
                    self.due = Some(now);
                }
                Ok(Received {
                    from: NodeId(node as u16),
                    change,
                    body,
                })
            }
            Packet::Initiation(initiation) => self.initiation(now, from, &initiation),
            Packet::Response(response) => self.response(now, from, &response),
        }
    }

    /// Checks a handshake's sender; the identity is believed until packets are encrypted.
    fn sender(&self, cluster: u64, sender: u64) -> Result<usize, Drop> {
        if cluster != self.cluster {
            return Err(Drop::WrongCluster);
        }
        self.peers
            .iter()
            .position(|peer| peer.identity == sender)
            .filter(|&node| node != usize::from(self.me.0))
            .ok_or(Drop::UnknownNode)
    }

    fn initiation<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        initiation: &Initiation,
    ) -> Result<Received<'a>, Drop> {
        let node = self.sender(initiation.cluster, initiation.sender)?;
        if initiation.receiver != self.identity {
            return Err(Drop::UnknownNode);
        }
        let of = |s: &Option<Session>| {
            s.as_ref().is_some_and(|s| {
                s.remote == initiation.index && s.incarnation == initiation.incarnation
            })
        };
        let peer = &self.peers[node];
        if of(&peer.current) || of(&peer.previous) {
            // A late copy of an initiation that has done its work.
            return Err(Drop::Replayed);
        }
        // A second copy of the same initiation gets the same answer: the first may be under way.
        if !of(&peer.next) {
            let session = Session::new(
                self.index(node),
                initiation.index,
                initiation.incarnation,
                initiation.sender,
                now,
            );
            self.peers[node].next = Some(session);
        }
        self.peers[node].respond_to = Some(from);
        self.due = Some(now);
        Ok(Received {
            from: NodeId(node as u16),
            change: Change::None,
            body: &[],
        })
    }

    fn response<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        response: &Response,
    ) -> Result<Received<'a>, Drop> {
        let node = self.sender(response.cluster, response.sender)?;
        let me = self.identity;
        let peer = &mut self.peers[node];
        if peer
            .pending
            .as_ref()
            .is_none_or(|p| p.index != response.receiver)
        {
            return Err(Drop::UnknownSession);
        }
        peer.pending = None;
        peer.address = from;
        // Tells the other end that its answer has arrived: it may use the session now.
        peer.confirm = true;
        let session = Session::new(
            response.receiver,
            response.index,
            response.incarnation,
            me,
            now,
        );
        let change = peer.adopt(now, session, me);
        self.due = Some(now);
        Ok(Received {
            from: NodeId(node as u16),
            change,
            body: &[],
        })
    }

    /// A session index that names `node` and is not in use.
    fn index(&mut self, node: usize) -> u32 {
        loop {
            let index = ((self.rng.next() as u32) << self.node_bits) | node as u32;
            if !self.peers[node].uses(index) {
                return index;
            }
        }
    }

    /// Turns the body at `packet[HEADER..HEADER + len]` into a packet for `node`; `None` without a
    /// session.
    pub(crate) fn seal(
        &mut self,
        now: Instant,
        node: NodeId,
        packet: &mut [u8],
        len: usize,
    ) -> Option<(SocketAddr, usize)> {
        let keys = self.keys(self.peer(node)?.identity);
        // Nearly full packets are filled up: packets of equal length share a system call (GSO).
        let padded = if len < self.full && len >= self.full - self.full / 16 {
            self.full
        } else {
            len
        };
        let peer = self.peers.get_mut(usize::from(node.0))?;
        let address = peer.address;
        let session = peer.current.as_mut()?;
        let total = wire::seal(packet, len, padded, session.remote, session.counter, &keys)?;
        session.counter += 1;
        session.sent = now;
        Some((address, total))
    }

    /// A node whose session has died of silence; call until `None`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<NodeId> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        let node = self.peers.iter_mut().position(|peer| {
            let dead = peer
                .current
                .as_ref()
                .is_some_and(|s| now.since(s.received) >= DEAD_AFTER);
            if dead {
                peer.forget(now);
            }
            dead
        })?;
        Some(NodeId(node as u16))
    }

    /// The next handshake packet or keep-alive to send; call until `None`, after
    /// [`expire`](Self::expire).
    pub(crate) fn poll(&mut self, now: Instant, packet: &mut [u8]) -> Option<(SocketAddr, usize)> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        for node in 0..self.peers.len() {
            if node != usize::from(self.me.0)
                && let Some(sent) = self.poll_peer(now, node, packet)
            {
                return Some(sent);
            }
        }
        self.due = (self.peers.iter().enumerate())
            .filter(|&(node, _)| node != usize::from(self.me.0))
            .filter_map(|(_, peer)| peer.deadline())
            .min();
        None
    }

    fn poll_peer(
        &mut self,
        now: Instant,
        node: usize,
        packet: &mut [u8],
    ) -> Option<(SocketAddr, usize)> {
        let peer = &mut self.peers[node];
        if let Some(to) = peer.respond_to.take()
            && let Some(next) = &peer.next
        {
            let response = Response {
                index: next.local,
                receiver: next.remote,
                cluster: self.cluster,
                sender: self.identity,
                incarnation: self.incarnation,
            };
            return put(packet, &response.emit(), to);
        }
        if let Some(current) = &peer.current {
            if peer.confirm || now.since(current.sent) >= KEEP_ALIVE {
                peer.confirm = false;
                return self.seal(now, NodeId(node as u16), packet, 0);
            }
            if peer.initiate_at.is_none() && now.since(current.received) >= SUSPECT_AFTER {
                peer.initiate_at = Some(now);
            }
        }
        if peer
            .previous
            .as_ref()
            .is_some_and(|s| now.since(s.received) >= PREVIOUS_FOR)
        {
            peer.previous = None;
        }
        if peer.initiate_at.is_some_and(|at| at <= now) {
            return self.initiate(now, node, packet);
        }
        None
    }

    fn initiate(
        &mut self,
        now: Instant,
        node: usize,
        packet: &mut [u8],
    ) -> Option<(SocketAddr, usize)> {
        // A repeated initiation keeps its index, so an answer to any copy of it will do.
        let (index, attempts) = match &self.peers[node].pending {
            Some(pending) => (pending.index, pending.attempts.saturating_add(1)),
            None => (self.index(node), 0),
        };
        let pause = INITIATE_FIRST
            .saturating_mul(1 << attempts.min(8))
            .min(INITIATE_LAST);
        // Jitter downward by up to a quarter: two nodes that started together drift apart.
        let pause = pause - pause.mul_f64((self.rng.next() % 256) as f64 / 1024.0);
        let peer = &mut self.peers[node];
        peer.pending = Some(Pending {
            index,
            attempts,
            sent: now,
        });
        peer.initiate_at = Some(now.after(pause));
        // A restarted node may have moved back to where the configuration says it is.
        let to = if attempts % 2 == 0 {
            peer.configured
        } else {
            peer.address
        };
        let initiation = Initiation {
            index,
            cluster: self.cluster,
            sender: self.identity,
            receiver: peer.identity,
            incarnation: self.incarnation,
        };
        put(packet, &initiation.emit(), to)
    }

    /// When [`expire`](Self::expire) and [`poll`](Self::poll) have something to do again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

fn put(packet: &mut [u8], bytes: &[u8], to: SocketAddr) -> Option<(SocketAddr, usize)> {
    packet.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some((to, bytes.len()))
}

#[cfg(test)]
mod tests;
