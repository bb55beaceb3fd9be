//! For the fuzz targets and for tests that attack a node from inside its cluster. Not part of the
//! interface: it changes without notice.

use std::net::SocketAddr;

use prism_proto::{Instant, NodeId};

use crate::config::{EndpointConfig, EndpointError, check_keys};
use crate::session::{self, ReplayWindow, SEAL, Sessions};

/// Whether a datagram has the shape of a packet.
#[must_use]
pub fn parse(datagram: &[u8]) -> bool {
    session::parses(datagram)
}

/// Which counters of a session have been seen.
#[derive(Debug, Clone)]
pub struct Window(ReplayWindow);

impl Window {
    /// Counters behind the newest one that are still told apart.
    pub const LENGTH: u64 = session::WINDOW;

    /// None has been seen.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "a default window says nothing")]
    pub fn new() -> Self {
        Self(ReplayWindow::new())
    }

    /// Whether [`accept`](Self::accept) would be true; changes nothing.
    #[must_use]
    pub fn is_fresh(&self, counter: u64) -> bool {
        self.0.is_fresh(counter)
    }

    /// Notes it; false if it was seen before, is too old to tell, or is the last one there is.
    #[must_use]
    pub fn accept(&mut self, counter: u64) -> bool {
        self.0.accept(counter)
    }
}

/// A node of the cluster that has its keys and says whatever it is told to say.
pub struct Member {
    sessions: Sessions,
    plain: Vec<u8>,
    mtu: usize,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Member(..)")
    }
}

impl Member {
    /// Node `config.me` of the cluster.
    ///
    /// # Errors
    /// As [`Endpoint::new`](crate::Endpoint::new).
    pub fn new(config: &EndpointConfig) -> Result<Self, EndpointError> {
        let nodes = config.nodes.len();
        if usize::from(config.me.0) >= nodes {
            return Err(EndpointError::NoSuchNode(config.me.0, nodes));
        }
        check_keys(config.me, &config.nodes, &config.protection)?;
        let mtu = usize::from(config.limits.mtu);
        Ok(Self {
            sessions: Sessions::new(config),
            plain: vec![0; 65536],
            mtu,
        })
    }

    /// Takes a datagram: who has sent it, and the body, if it belongs to a session.
    pub fn receive<'a>(
        &'a mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &'a [u8],
    ) -> Option<(NodeId, &'a [u8])> {
        let plain = &mut self.plain;
        let received = self.sessions.receive(now, from, datagram, plain).ok()?;
        Some((received.from, received.body))
    }

    /// The next handshake packet or keep-alive to send; call until `None`.
    pub fn poll(&mut self, now: Instant, packet: &mut [u8]) -> Option<(SocketAddr, usize)> {
        while self.sessions.expire(now).is_some() {}
        self.sessions.poll(now, packet)
    }

    /// Makes an authentic packet with this body for `to`: where it goes, and its length. `None`
    /// without a session, or if the body is longer than a datagram's.
    pub fn send(
        &mut self,
        now: Instant,
        to: NodeId,
        body: &[u8],
        packet: &mut [u8],
    ) -> Option<(SocketAddr, usize)> {
        if body.len() > self.mtu {
            return None;
        }
        let plain = self.plain.get_mut(..self.mtu + SEAL)?;
        plain[..body.len()].copy_from_slice(body);
        self.sessions
            .seal(now, to, plain, (body.len(), self.mtu), packet)
    }

    /// The next packet for `to` has this counter. (Needs `rekey_packets` beyond it.)
    pub fn skip_to(&mut self, to: NodeId, counter: u64) {
        self.sessions.skip_to(to, counter);
    }

    /// Whether a session with this node stands.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.sessions.info(node).up
    }
}
