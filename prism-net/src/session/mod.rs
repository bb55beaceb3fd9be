//! Sessions with the other nodes: who sent this packet, and under which index and key does a node
//! expect ours.
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

mod cookie;
mod crypto;
mod exchange;
mod freshness;
mod handshake;
mod load;
mod peer;
mod replay;
mod rng;
mod transport;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use prism_proto::{Instant, NodeId};

use crate::config::{EndpointConfig, Limits, Protection, Reload};
use crate::host::PeerInfo;
use cookie::Cookies;
use crypto::Entropy;
pub(crate) use crypto::is_low_order;
pub use crypto::public_key;
use handshake::Own;
use load::Load;
pub(crate) use peer::Change;
use peer::{Peer, Slot};
pub(crate) use replay::{ReplayWindow, WINDOW};
use rng::Rng;
use wire::{COOKIE, Data, Packet};
pub(crate) use wire::{HEADER, SEAL, identity};

/// A node that has sent nothing for so long is sent an empty packet.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// After this silence a new handshake is tried beside the session ...
const SUSPECT_AFTER: Duration = Duration::from_secs(5);
/// ... and after this one it is gone. The engine's own probes give a node up far earlier; this is
/// for nodes with which it has nothing to talk about.
const DEAD_AFTER: Duration = Duration::from_secs(12);
/// Cookie replies that wait to be sent; more are not made.
const REPLIES: usize = 16;
/// No session seals more packets than this (WireGuard, 6.2).
const PACKETS_END: u64 = 1 << 60;

/// How long the keys of a session are used.
#[derive(Debug, Clone, Copy)]
struct Life {
    rekey: Duration,
    packets: u64,
    ends: Duration,
    packets_end: u64,
}

impl Life {
    fn new(limits: &Limits) -> Self {
        Self {
            rekey: limits.rekey_after,
            packets: limits.rekey_packets,
            ends: limits.session_ends,
            packets_end: PACKETS_END.max(limits.rekey_packets),
        }
    }
}

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drop {
    Malformed,
    UnknownSession,
    WrongMac,
    WrongHandshake,
    UnknownNode,
    Stale,
    Replayed,
    NotAuthentic,
    Overload,
    ShutOut,
}

/// Whether a datagram has the shape of a packet.
pub(crate) fn parses(datagram: &[u8]) -> bool {
    Packet::parse(datagram).is_some()
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
pub(crate) struct Sessions {
    me: NodeId,
    identity: u64,
    cluster: String,
    name: String,
    sealed: bool,
    own: Own,
    boot: u64,
    incarnation: u64,
    catalogue: u64,
    /// Number of the last handshake that was begun here.
    handshakes: u64,
    rng: Rng,
    entropy: Entropy,
    cookies: Cookies,
    load: Load,
    /// Room for [`REPLIES`].
    replies: Vec<(SocketAddr, [u8; COOKIE])>,
    /// Index = `NodeId`; the own entry is never used.
    peers: Vec<Peer>,
    /// The low bits of a session index name the node, the others are random: no lookup table to
    /// fill, and a packet of an earlier process does not fit by accident.
    node_bits: u32,
    life: Life,
    /// No deadline lies before this (they only move later without being noted).
    due: Option<Instant>,
}

impl Sessions {
    /// For a configuration that has been checked.
    pub(crate) fn new(config: &EndpointConfig) -> Self {
        let mut rng = Rng::new(config.seed);
        let name = &config.nodes[usize::from(config.me.0)].name;
        let own = Own::new(&config.cluster, name, &config.protection);
        let sealed = matches!(config.protection, Protection::Sealed(_));
        let peer = |node: &crate::NodeAddress| {
            let keys = own.remotes(&config.cluster, node, &config.protection);
            Peer::new(identity(&node.name), keys, node.udp)
        };
        Self {
            me: config.me,
            identity: identity(name),
            cluster: config.cluster.clone(),
            name: name.clone(),
            sealed,
            boot: config.boot,
            incarnation: rng.next(),
            catalogue: config.catalogue,
            handshakes: 0,
            entropy: if sealed {
                Entropy::System
            } else {
                Entropy::Seeded(Rng::new(rng.next()))
            },
            cookies: Cookies::new(),
            load: Load::new(rng.next()),
            replies: Vec::with_capacity(REPLIES),
            peers: config.nodes.iter().map(peer).collect(),
            own,
            node_bits: config.nodes.len().next_power_of_two().trailing_zeros(),
            rng,
            life: Life::new(&config.limits),
            due: Some(Instant::from_micros(0)),
        }
    }

    /// What is known of this node.
    pub(crate) fn info(&self, node: NodeId) -> PeerInfo {
        self.peer(node)
            .map_or_else(PeerInfo::default, |peer| PeerInfo {
                up: peer.current.is_some(),
                catalogue: peer.catalogue,
                stale: peer.freshness.stale,
                twin: peer.freshness.twin,
                violations: peer.violations,
            })
    }

    fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(usize::from(node.0))
    }

    /// Takes new keys, addresses and catalogue. Returns the nodes whose session is gone because its
    /// key is not accepted any more.
    pub(crate) fn reload(&mut self, now: Instant, reload: &Reload) -> Vec<NodeId> {
        let own = Own::new(&self.cluster, &self.name, &reload.protection);
        let renew = !own.is(&self.own) || reload.catalogue != self.catalogue;
        let own_key = own.public != self.own.public;
        self.own = own;
        self.catalogue = reload.catalogue;
        self.due = Some(now);
        let mut gone = Vec::new();
        for (i, (peer, node)) in self.peers.iter_mut().zip(&reload.nodes).enumerate() {
            if i == usize::from(self.me.0) {
                continue;
            }
            let keys = self.own.remotes(&self.cluster, node, &reload.protection);
            let before = std::mem::replace(&mut peer.keys, keys);
            let keys = &peer.keys;
            let accepted = |public| keys.iter().any(|key| key.public == public);
            let void = |s: &mut peer::Session| !accepted(s.key);
            let lost = before.iter().any(|key| !accepted(key.public));
            let same = before.iter().map(|key| key.public);
            let same = same.eq(keys.iter().map(|key| key.public));
            if peer.configured != node.udp {
                peer.configured = node.udp;
                peer.address = node.udp;
            }
            if renew || !same {
                // Made with what is void now.
                peer.pending = [None, None];
            }
            // The other end may use it already.
            peer.next.take_if(|next| void(&mut next.session));
            let next = peer.next.iter_mut().map(|next| &mut next.session);
            for session in peer.current.iter_mut().chain(next) {
                session.outdated |= renew;
            }
            peer.previous.take_if(void);
            if peer.current.take_if(void).is_some() {
                peer.forget(now);
                gone.push(NodeId(i as u16));
            }
            if lost || own_key {
                peer.start_anew(now);
            }
            if renew && !peer.is_shut_out(now) {
                peer.attempts = 0;
                peer.initiate_at = Some(now);
            }
        }
        gone
    }

    /// A node has said what it has no right to say: its session is dropped, and it is not talked to
    /// for a while. True if it had a session.
    pub(crate) fn shut_out(&mut self, now: Instant, node: NodeId) -> bool {
        let Some(peer) = self.peers.get_mut(usize::from(node.0)) else {
            return false;
        };
        let up = peer.current.is_some();
        peer.shut_out(now);
        self.due = Some(now);
        up
    }

    /// Judges a datagram. `plain` is where it is decrypted to: as long as a datagram.
    pub(crate) fn receive<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &'a [u8],
        plain: &'a mut [u8],
    ) -> Result<Received<'a>, Drop> {
        let (node, change, body) = match Packet::parse(datagram).ok_or(Drop::Malformed)? {
            Packet::Data(data) => self.data(now, from, &data, plain)?,
            Packet::Initiation(initiation) => {
                let node = self.initiation(now, from, &initiation)?;
                (node, Change::None, &[][..])
            }
            Packet::Response(response) => {
                let (node, change) = self.response(now, from, &response)?;
                (node, change, &[][..])
            }
            Packet::Cookie(cookie) => {
                let node = self.cookie(now, &cookie)?;
                (node, Change::None, &[][..])
            }
        };
        Ok(Received {
            from: NodeId(node as u16),
            change,
            body,
        })
    }

    /// The node whose number is in the low bits of a session index.
    fn node_of(&self, index: u32) -> usize {
        (index & ((1 << self.node_bits) - 1)) as usize
    }

    fn data<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &Data<'a>,
        plain: &'a mut [u8],
    ) -> Result<(usize, Change, &'a [u8]), Drop> {
        let node = self.node_of(data.receiver);
        let peer = self.peers.get_mut(node).ok_or(Drop::UnknownSession)?;
        let (slot, session) = peer
            .session_mut(data.receiver)
            .filter(|(_, session)| !session.is_over(now, &self.life))
            .ok_or(Drop::UnknownSession)?;
        // Cheaper than finding out whether it is authentic; noted only after that.
        if !session.replay.is_fresh(data.counter) {
            return Err(Drop::Replayed);
        }
        let body = session
            .transport
            .open(data, plain)
            .ok_or(Drop::NotAuthentic)?;
        let newest = session.replay.is_newest(data.counter);
        if !session.replay.accept(data.counter) {
            return Err(Drop::Replayed);
        }
        session.received = now;
        if newest && slot != Slot::Previous {
            // Roaming: the address follows the newest authentic packet.
            peer.address = from;
        }
        let mut change = Change::None;
        if slot == Slot::Next
            && let Some(next) = peer.next.take()
        {
            change = peer.adopt(now, next.session);
            if peer.current.as_ref().is_some_and(|s| s.outdated) {
                peer.initiate_at = Some(now);
            }
            self.due = Some(now);
        }
        Ok((node, change, body))
    }

    /// Turns the first `len` bytes of `plain` into a packet for `node`; `None` without a session.
    /// `full` is the length of a full body on the way there, for which, and for [`SEAL`], `plain` has
    /// room.
    pub(crate) fn seal(
        &mut self,
        now: Instant,
        node: NodeId,
        plain: &mut [u8],
        (len, full): (usize, usize),
        packet: &mut [u8],
    ) -> Option<(SocketAddr, usize)> {
        // Nearly full packets are filled up: packets of equal length share a system call (GSO).
        let padded = if len < full && len >= full - full / 16 {
            full
        } else {
            len
        };
        let peer = self.peers.get_mut(usize::from(node.0))?;
        let address = peer.address;
        let session = peer.current.as_mut()?;
        if session.is_over(now, &self.life) {
            return None;
        }
        let total = (session.transport).seal(
            (session.remote, session.counter),
            plain,
            (len, padded),
            packet,
        )?;
        session.counter += 1;
        session.sent = now;
        if session.counter == self.life.packets {
            self.due = Some(now);
        }
        Some((address, total))
    }

    /// For [`fuzzing`](crate::fuzzing).
    pub(crate) fn skip_to(&mut self, node: NodeId, counter: u64) {
        let peer = self.peers.get_mut(usize::from(node.0));
        if let Some(current) = peer.and_then(|peer| peer.current.as_mut()) {
            current.counter = counter;
        }
    }

    /// A node whose session has died of silence or age; call until `None`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<NodeId> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        let life = self.life;
        let node = (self.peers.iter_mut()).position(|peer| peer.tidy(now, &life))?;
        Some(NodeId(node as u16))
    }

    /// When [`expire`](Self::expire) and [`poll`](Self::poll) have something to do again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests;
