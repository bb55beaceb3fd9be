//! Handshakes as they come and go: initiation, response, cookie reply, keep-alive.

use std::net::SocketAddr;
use std::time::Duration;

use prism_proto::{Instant, NodeId};

use super::crypto::TAG;
use super::freshness::Old;
use super::handshake::{self, Hello, Responder, Welcome};
use super::load::Admission;
use super::peer::{Change, Ends, Next, Pending, Session};
use super::transport::Transport;
use super::wire::{self, Cookie, Initiation, Macs, Response};
use super::{Drop, KEEP_ALIVE, REPLIES, Sessions};

/// The pause after an unanswered initiation doubles from the first to the last of these: a node
/// that comes back is noticed within a second, and a dead one costs one small packet a second.
const INITIATE_FIRST: Duration = Duration::from_millis(125);
const INITIATE_LAST: Duration = Duration::from_secs(1);
/// `Connect` repeats an initiation no sooner than this.
const INITIATE_LEAST: Duration = Duration::from_millis(20);
/// An initiation is repeated as it is for so long, so that an answer to any copy of it will do.
const PENDING_FOR: Duration = Duration::from_secs(5);

impl Sessions {
    /// Send one initiation now, unless one is fresh.
    pub(crate) fn connect(&mut self, now: Instant, node: NodeId) {
        if node == self.me {
            return;
        }
        if let Some(peer) = self.peers.get_mut(usize::from(node.0)) {
            let fresh = peer
                .initiated
                .is_some_and(|at| now.since(at) < INITIATE_LEAST);
            if !fresh && !peer.is_shut_out(now) {
                peer.initiate_at = Some(now);
                self.due = Some(now);
            }
        }
    }

    /// Whether the MACs of a handshake are all right, and whether it has a cookie. A `mac2` is
    /// either right or not there at all: no bit of a packet is free.
    fn check(&mut self, now: Instant, from: SocketAddr, macs: &Macs) -> Result<bool, Drop> {
        if !self.own.macs.verify(macs) {
            return Err(Drop::WrongMac);
        }
        let cookie = *macs.mac2 != [0; TAG];
        if cookie && !self.cookies.verify(now, &mut self.entropy, from, macs) {
            return Err(Drop::WrongMac);
        }
        Ok(cookie)
    }

    pub(super) fn initiation(
        &mut self,
        now: Instant,
        from: SocketAddr,
        initiation: &Initiation,
    ) -> Result<usize, Drop> {
        let cookie = self.check(now, from, &initiation.macs)?;
        // A second copy of an initiation gets the same answer: the first may have been lost.
        for (node, peer) in self.peers.iter_mut().enumerate() {
            if let Some(next) = &mut peer.next
                && next.mac1 == *initiation.macs.mac1
            {
                if next.from != from {
                    return Err(Drop::Replayed);
                }
                next.respond = true;
                self.due = Some(now);
                return Ok(node);
            }
        }
        match self.load.admit(now, from.ip(), cookie) {
            Admission::Accept => {}
            Admission::AskForCookie => {
                if self.replies.len() < REPLIES
                    && let Some(reply) =
                        self.cookies
                            .reply(now, &mut self.entropy, &self.own.macs, from, initiation)
                {
                    self.replies.push((from, reply));
                    self.due = Some(now);
                }
                return Err(Drop::Overload);
            }
            Admission::Ignore => return Err(Drop::Overload),
        }
        let noise = initiation.noise;
        let responder = handshake::respond(&self.own, &mut self.entropy, self.identity, noise)
            .ok_or(Drop::WrongHandshake)?;
        let node = self.caller(now, &responder)?;
        self.answer(now, from, node, responder, initiation)
            .ok_or(Drop::WrongHandshake)?;
        Ok(node)
    }

    /// Who has sent this first message, if it may and if it is a new one.
    fn caller(&mut self, now: Instant, responder: &Responder) -> Result<usize, Drop> {
        let Responder { hello, remote, .. } = responder;
        let node = (self.peers.iter())
            .position(|peer| peer.identity == hello.sender)
            .filter(|&node| node != usize::from(self.me.0))
            .ok_or(Drop::UnknownNode)?;
        let peer = &mut self.peers[node];
        // The key decides, the name only has to agree with it.
        if !peer.keys.iter().any(|key| key.public == *remote) {
            return Err(Drop::UnknownNode);
        }
        if peer.is_shut_out(now) {
            return Err(Drop::ShutOut);
        }
        let alive = peer.is_alive(now);
        peer.freshness
            .judge((hello.boot, hello.incarnation), Some(hello.n), alive)?;
        Ok(node)
    }

    fn answer(
        &mut self,
        now: Instant,
        from: SocketAddr,
        node: usize,
        responder: Responder,
        initiation: &Initiation,
    ) -> Option<()> {
        let Responder { hello, remote, .. } = responder;
        let ends = Ends {
            local: self.index(node),
            remote: initiation.index,
            key: remote,
            incarnation: hello.incarnation,
            catalogue: hello.catalogue,
            begun_by: hello.sender,
        };
        let (message, agreed) = responder.answer(&self.welcome())?;
        let mut response = wire::response(ends.local, ends.remote, &message);
        let peer = &mut self.peers[node];
        let macs = &(peer.keys.iter()).find(|key| key.public == remote)?.macs;
        macs.sign(&mut response, None);
        let session = Session::new(Transport::new(agreed, self.sealed), ends, now);
        peer.next = Some(Box::new(Next {
            session,
            mac1: *initiation.macs.mac1,
            from,
            response,
            respond: true,
        }));
        self.due = Some(now);
        Some(())
    }

    fn welcome(&self) -> Welcome {
        Welcome {
            boot: self.boot,
            incarnation: self.incarnation,
            catalogue: self.catalogue,
        }
    }

    pub(super) fn response(
        &mut self,
        now: Instant,
        from: SocketAddr,
        response: &Response,
    ) -> Result<(usize, Change), Drop> {
        // Nobody asks for a cookie from whoever answers.
        if self.check(now, from, &response.macs)? {
            return Err(Drop::WrongMac);
        }
        let node = self.node_of(response.receiver);
        let peer = self.peers.get_mut(node).ok_or(Drop::UnknownSession)?;
        let which = (peer.pending.iter().position(|pending| {
            (pending.as_ref()).is_some_and(|pending| pending.index == response.receiver)
        }))
        .ok_or(Drop::UnknownSession)?;
        let welcome = (peer.pending[which].as_mut())
            .and_then(|pending| pending.initiator.read(response.noise))
            .ok_or(Drop::WrongHandshake)?;
        let pending = peer.pending[which].take().ok_or(Drop::UnknownSession)?;
        let key = peer.keys.get(which).ok_or(Drop::UnknownNode)?.public;
        let alive = peer.is_alive(now);
        peer.freshness
            .judge((welcome.boot, welcome.incarnation), None, alive)?;
        let agreed = pending.initiator.finish().ok_or(Drop::WrongHandshake)?;
        let ends = Ends {
            local: response.receiver,
            remote: response.index,
            key,
            incarnation: welcome.incarnation,
            catalogue: welcome.catalogue,
            begun_by: self.identity,
        };
        let session = Session::new(Transport::new(agreed, self.sealed), ends, now);
        peer.address = from;
        // Tells the other end that its answer has arrived: it may use the session now.
        peer.confirm = true;
        let change = peer.adopt(now, session);
        self.due = Some(now);
        Ok((node, change))
    }

    pub(super) fn cookie(&mut self, now: Instant, cookie: &Cookie) -> Result<usize, Drop> {
        let node = self.node_of(cookie.receiver);
        let peer = self.peers.get_mut(node).ok_or(Drop::UnknownSession)?;
        let keys = &peer.keys;
        let (which, pending) = (peer.pending.iter_mut().enumerate())
            .filter_map(|(i, pending)| Some((i, pending.as_mut()?)))
            .find(|(_, pending)| pending.index == cookie.receiver && pending.cookie_expected)
            .ok_or(Drop::UnknownSession)?;
        let value = (keys.get(which))
            .and_then(|key| key.macs.open(cookie, pending.mac1()))
            .ok_or(Drop::NotAuthentic)?;
        pending.cookie = Some(value);
        pending.cookie_expected = false;
        peer.initiate_at = Some(now);
        peer.try_key = Some(which);
        self.due = Some(now);
        Ok(node)
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

    /// The next handshake packet or keep-alive to send; call until `None`, after
    /// [`expire`](Self::expire).
    pub(crate) fn poll(&mut self, now: Instant, packet: &mut [u8]) -> Option<(SocketAddr, usize)> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        if let Some((to, reply)) = self.replies.pop() {
            return put(packet, &reply, to);
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
            .filter_map(|(_, peer)| peer.deadline(self.identity, &self.life))
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
        if let Some(next) = &mut peer.next
            && std::mem::take(&mut next.respond)
        {
            return put(packet, &next.response, next.from);
        }
        if let Some(current) = &peer.current
            && (peer.confirm || now.since(current.sent) >= KEEP_ALIVE)
        {
            peer.confirm = false;
            return self.seal(
                now,
                NodeId(node as u16),
                &mut [0; wire::SEAL],
                (0, 0),
                packet,
            );
        }
        if peer.initiate_at.is_none() && peer.wants_handshake(now, self.identity, &self.life) {
            peer.initiate_at = Some(now);
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
        let peer = &mut self.peers[node];
        let attempts = peer.attempts;
        peer.attempts = attempts.saturating_add(1);
        peer.initiated = Some(now);
        let pause = INITIATE_FIRST
            .saturating_mul(1 << attempts.min(8))
            .min(INITIATE_LAST);
        // Jitter downward by up to a quarter: two nodes that started together drift apart.
        let pause = pause - pause.mul_f64((self.rng.next() % 256) as f64 / 1024.0);
        peer.initiate_at = Some(now.after(pause));
        // While its key is rotated it is called by both in turn.
        let keys = peer.keys.len().clamp(1, peer.pending.len());
        let turn = attempts as usize % keys;
        let which = peer.try_key.take().unwrap_or(turn);
        // A restarted node may have moved back to where the configuration says it is.
        let to = if (attempts as usize / keys).is_multiple_of(2) {
            peer.configured
        } else {
            peer.address
        };
        if (peer.pending[which].as_ref())
            .is_none_or(|pending| now.since(pending.made) >= PENDING_FOR)
        {
            self.peers[node].pending[which] = self.call(now, node, which);
        }
        let peer = &mut self.peers[node];
        let pending = peer.pending[which].as_mut()?;
        let cookie = pending.cookie.take();
        pending.cookie_expected = cookie.is_none();
        if cookie.is_none() {
            pending.to = to;
        }
        let to = pending.to;
        let macs = &peer.keys.get(which)?.macs;
        macs.sign(&mut pending.packet, cookie.as_ref());
        put(packet, &pending.packet, to)
    }

    /// A new initiation for this key of this node.
    fn call(&mut self, now: Instant, node: usize, which: usize) -> Option<Box<Pending>> {
        self.handshakes += 1;
        let hello = Hello {
            sender: self.identity,
            boot: self.boot,
            incarnation: self.incarnation,
            n: self.handshakes,
            catalogue: self.catalogue,
        };
        let index = self.index(node);
        let peer = &self.peers[node];
        let (initiator, message) = handshake::initiate(
            &self.own,
            &mut self.entropy,
            &peer.keys.get(which)?.public,
            peer.identity,
            &hello,
        )?;
        Some(Box::new(Pending {
            index,
            initiator,
            packet: wire::initiation(index, &message),
            made: now,
            to: peer.configured,
            cookie: None,
            cookie_expected: true,
        }))
    }
}

impl From<Old> for Drop {
    fn from(old: Old) -> Self {
        match old {
            Old::Repeated => Self::Replayed,
            Old::Stale => Self::Stale,
        }
    }
}

fn put(packet: &mut [u8], bytes: &[u8], to: SocketAddr) -> Option<(SocketAddr, usize)> {
    packet.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some((to, bytes.len()))
}
