//! What is known of one other node.

use std::net::SocketAddr;
use std::time::Duration;

use prism_proto::Instant;

use super::replay::ReplayWindow;
use super::{DEAD_AFTER, KEEP_ALIVE, PREVIOUS_FOR, SUSPECT_AFTER};

/// Two handshakes that complete within this time have crossed on the way.
const CROSSED: Duration = Duration::from_secs(2);

/// What a packet meant for the node it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// The first session with it.
    Up,
    /// It is another process than before: down, then up.
    Restarted,
}

/// One session, seen from here.
#[derive(Debug)]
pub(super) struct Session {
    /// Stands in the packets that come in.
    pub local: u32,
    /// Stands in the packets that go out.
    pub remote: u32,
    pub counter: u64,
    pub replay: ReplayWindow,
    pub incarnation: u64,
    /// Identity of the node that began the handshake.
    pub begun_by: u64,
    pub established: Instant,
    pub received: Instant,
    pub sent: Instant,
}

impl Session {
    pub(super) fn new(
        local: u32,
        remote: u32,
        incarnation: u64,
        begun_by: u64,
        now: Instant,
    ) -> Self {
        Self {
            local,
            remote,
            counter: 0,
            replay: ReplayWindow::new(),
            incarnation,
            begun_by,
            established: now,
            received: now,
            sent: now,
        }
    }
}

/// An initiation that waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub index: u32,
    pub attempts: u32,
    pub sent: Instant,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub identity: u64,
    pub configured: SocketAddr,
    /// Where its newest packet came from.
    pub address: SocketAddr,
    pub pending: Option<Pending>,
    pub next: Option<Session>,
    pub current: Option<Session>,
    pub previous: Option<Session>,
    /// When to send an initiation; `None` while there is no need.
    pub initiate_at: Option<Instant>,
    /// An initiation from there has to be answered.
    pub respond_to: Option<SocketAddr>,
    /// The new session has to be used at once.
    pub confirm: bool,
}

impl Peer {
    pub(super) fn new(identity: u64, configured: SocketAddr) -> Self {
        Self {
            identity,
            configured,
            address: configured,
            pending: None,
            next: None,
            current: None,
            previous: None,
            initiate_at: Some(Instant::from_micros(0)),
            respond_to: None,
            confirm: false,
        }
    }

    /// The session with this local index, and whether it waits for its first packet.
    pub(super) fn session_mut(&mut self, local: u32) -> Option<(bool, &mut Session)> {
        [
            (false, &mut self.current),
            (true, &mut self.next),
            (false, &mut self.previous),
        ]
        .into_iter()
        .filter_map(|(is_next, session)| Some((is_next, session.as_mut()?)))
        .find(|(_, session)| session.local == local)
    }

    pub(super) fn uses(&self, index: u32) -> bool {
        let local = |s: &Option<Session>| s.as_ref().is_some_and(|s| s.local == index);
        self.pending.as_ref().is_some_and(|p| p.index == index)
            || local(&self.next)
            || local(&self.current)
            || local(&self.previous)
    }

    /// Takes a completed handshake into use.
    pub(super) fn adopt(&mut self, now: Instant, session: Session, me: u64) -> Change {
        self.initiate_at = None;
        if session.begun_by != me {
            // The other end was faster; an answer to the own initiation is not needed any more.
            self.pending = None;
        }
        let Some(current) = self.current.take() else {
            self.current = Some(session);
            return Change::Up;
        };
        if current.incarnation != session.incarnation {
            // Packets of the old process are void, so its session is not kept.
            self.previous = None;
            self.current = Some(session);
            return Change::Restarted;
        }
        let crossed =
            current.begun_by != session.begun_by && now.since(current.established) < CROSSED;
        let keep = crossed && current.begun_by < session.begun_by;
        let (current, previous) = if keep {
            (current, session)
        } else {
            (session, current)
        };
        self.current = Some(current);
        self.previous = Some(previous);
        Change::None
    }

    /// Its session is gone; a new one is wanted.
    pub(super) fn forget(&mut self, now: Instant) {
        self.current = None;
        self.previous = None;
        self.confirm = false;
        if self.initiate_at.is_none() {
            self.initiate_at = Some(now);
        }
    }

    /// When this node needs attention.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let current = self.current.iter().flat_map(|s| {
            let suspect = s.received.after(SUSPECT_AFTER);
            [
                Some(s.sent.after(KEEP_ALIVE)),
                Some(s.received.after(DEAD_AFTER)),
                self.initiate_at.is_none().then_some(suspect),
            ]
        });
        let previous = self.previous.iter().map(|s| s.received.after(PREVIOUS_FOR));
        current
            .flatten()
            .chain(previous)
            .chain(self.initiate_at)
            .min()
    }
}
