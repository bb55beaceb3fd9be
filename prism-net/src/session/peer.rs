//! What is known of one other node.

use std::net::SocketAddr;
use std::time::Duration;

use prism_proto::Instant;

use super::crypto::TAG;
use super::freshness::Freshness;
use super::handshake::{Initiator, Remote};
use super::replay::ReplayWindow;
use super::transport::Transport;
use super::wire::{INITIATION, RESPONSE};
use super::{DEAD_AFTER, KEEP_ALIVE, Life, SUSPECT_AFTER};

/// Two handshakes that complete within this time have crossed on the way.
const CROSSED: Duration = Duration::from_secs(2);
/// An older session is forgotten when nothing has arrived on it for this long, a new one when
/// nothing ever has.
const UNUSED_FOR: Duration = Duration::from_secs(10);
/// How long a node that broke the rules is refused: the first time, and at most.
const PENALTY_FIRST: Duration = Duration::from_secs(5);
const PENALTY_LAST: Duration = Duration::from_secs(60);
/// After so long without another violation the next one is a first one again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

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
pub(super) struct Session {
    pub transport: Transport,
    /// Stands in the packets that come in.
    pub local: u32,
    /// Stands in the packets that go out.
    pub remote: u32,
    pub counter: u64,
    pub replay: ReplayWindow,
    /// The public key that the other end has proven to be its own.
    pub key: [u8; 32],
    pub incarnation: u64,
    pub catalogue: u64,
    /// Identity of the node that began the handshake.
    pub begun_by: u64,
    /// This node has other keys or statements by now: it has to be replaced.
    pub outdated: bool,
    pub established: Instant,
    pub received: Instant,
    pub sent: Instant,
}

/// Who is at the other end of a new session, and how to reach it.
pub(super) struct Ends {
    pub local: u32,
    pub remote: u32,
    pub key: [u8; 32],
    pub incarnation: u64,
    pub catalogue: u64,
    pub begun_by: u64,
}

impl Session {
    pub(super) fn new(transport: Transport, ends: Ends, now: Instant) -> Self {
        Self {
            transport,
            local: ends.local,
            remote: ends.remote,
            counter: 0,
            replay: ReplayWindow::new(),
            key: ends.key,
            incarnation: ends.incarnation,
            catalogue: ends.catalogue,
            begun_by: ends.begun_by,
            outdated: false,
            established: now,
            received: now,
            sent: now,
        }
    }

    /// When its keys have been used long enough. The end that began the session sees to it; the
    /// other one only if nothing has come of that.
    fn rekey_at(&self, me: u64, life: &Life) -> Instant {
        let grace = if self.begun_by == me {
            Duration::ZERO
        } else {
            life.ends.saturating_sub(life.rekey) / 4
        };
        self.established.after(life.rekey + grace)
    }

    fn ends_at(&self, life: &Life) -> Instant {
        self.established.after(life.ends)
    }

    /// Whether it must not be used any more.
    pub(super) fn is_over(&self, now: Instant, life: &Life) -> bool {
        now >= self.ends_at(life) || self.counter >= life.packets_end
    }
}

/// A session of which the initiator has not been heard yet.
pub(super) struct Next {
    pub session: Session,
    /// Of the initiation: another copy of it gets the same answer.
    pub mac1: [u8; TAG],
    pub from: SocketAddr,
    pub response: [u8; RESPONSE],
    /// The answer has to be sent.
    pub respond: bool,
}

/// An initiation that waits for its answer.
pub(super) struct Pending {
    pub index: u32,
    pub initiator: Initiator,
    pub packet: [u8; INITIATION],
    pub made: Instant,
    /// Where it was last sent; a cookie is of use there only.
    pub to: SocketAddr,
    /// To be used once; an answer to it is not awaited again.
    pub cookie: Option<[u8; TAG]>,
    pub cookie_expected: bool,
}

impl Pending {
    pub(super) fn mac1(&self) -> &[u8; TAG] {
        self.packet[..INITIATION - TAG]
            .last_chunk()
            .unwrap_or(&[0; TAG])
    }
}

/// A node that broke the rules is not talked to for a while.
#[derive(Debug, Clone, Copy)]
struct Penalty {
    until: Instant,
    length: Duration,
}

pub(super) struct Peer {
    pub identity: u64,
    /// The keys by which it is known.
    pub keys: Vec<Remote>,
    pub configured: SocketAddr,
    /// Where its newest packet came from.
    pub address: SocketAddr,
    /// One per accepted key: whichever is answered.
    pub pending: [Option<Box<Pending>>; 2],
    /// The key whose turn it is out of turn, because a cookie has come for it.
    pub try_key: Option<usize>,
    /// Initiations since the last session.
    pub attempts: u32,
    pub initiated: Option<Instant>,
    pub next: Option<Box<Next>>,
    pub current: Option<Session>,
    pub previous: Option<Session>,
    /// When to send an initiation; `None` while there is no need.
    pub initiate_at: Option<Instant>,
    /// The new session has to be used at once.
    pub confirm: bool,
    pub freshness: Freshness,
    pub catalogue: Option<u64>,
    pub violations: u64,
    penalty: Option<Penalty>,
}

impl Peer {
    pub(super) fn new(identity: u64, keys: Vec<Remote>, configured: SocketAddr) -> Self {
        Self {
            identity,
            keys,
            configured,
            address: configured,
            pending: [None, None],
            try_key: None,
            attempts: 0,
            initiated: None,
            next: None,
            current: None,
            previous: None,
            initiate_at: Some(Instant::from_micros(0)),
            confirm: false,
            freshness: Freshness::default(),
            catalogue: None,
            violations: 0,
            penalty: None,
        }
    }

    /// The session with this local index, and which one it is.
    pub(super) fn session_mut(&mut self, local: u32) -> Option<(Slot, &mut Session)> {
        [
            (Slot::Current, self.current.as_mut()),
            (Slot::Next, self.next.as_mut().map(|next| &mut next.session)),
            (Slot::Previous, self.previous.as_mut()),
        ]
        .into_iter()
        .filter_map(|(slot, session)| Some((slot, session?)))
        .find(|(_, session)| session.local == local)
    }

    pub(super) fn uses(&self, index: u32) -> bool {
        let local = |s: &Option<Session>| s.as_ref().is_some_and(|s| s.local == index);
        self.pending.iter().flatten().any(|p| p.index == index)
            || self.next.as_ref().is_some_and(|n| n.session.local == index)
            || local(&self.current)
            || local(&self.previous)
    }

    /// Whether its session has been heard of lately: by whom a second process with its identity is
    /// measured.
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        (self.current.as_ref()).is_some_and(|s| now.since(s.received) < SUSPECT_AFTER)
    }

    /// Takes a completed handshake into use.
    pub(super) fn adopt(&mut self, now: Instant, session: Session) -> Change {
        self.initiate_at = None;
        self.attempts = 0;
        // Not before: what an initiation says may be an old story.
        self.catalogue = Some(session.catalogue);
        // The other end was faster, or this is an answer: none is awaited any more.
        self.pending = [None, None];
        self.freshness.prove(session.incarnation);
        // A late packet of a dead process must not bring that back.
        let incarnation = session.incarnation;
        (self.next).take_if(|next| next.session.incarnation != incarnation);
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
        let keep = crossed && !current.outdated && current.begun_by < session.begun_by;
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

    /// It broke the rules: everything with it is over for a while.
    pub(super) fn shut_out(&mut self, now: Instant) {
        self.violations += 1;
        let length = match self.penalty {
            // Several of its datagrams had come in before the first was judged.
            Some(penalty) if now < penalty.until => return,
            Some(penalty) if now.since(penalty.until) < FORGIVEN_AFTER => {
                (2 * penalty.length).min(PENALTY_LAST)
            }
            _ => PENALTY_FIRST,
        };
        let until = now.after(length);
        self.penalty = Some(Penalty { until, length });
        self.forget(now);
        self.next = None;
        self.pending = [None, None];
        self.initiate_at = Some(until);
    }

    /// A key by which it was known, or one of this node, is void now. What was done with that may
    /// have been the work of a thief.
    pub(super) fn start_anew(&mut self, now: Instant) {
        self.freshness.forget();
        if self
            .penalty
            .take_if(|penalty| now < penalty.until)
            .is_some()
        {
            self.initiate_at = Some(now);
        }
    }

    pub(super) fn is_shut_out(&self, now: Instant) -> bool {
        self.penalty.is_some_and(|penalty| now < penalty.until)
    }

    /// Drops what is no longer of use. True: the session in use was among that.
    pub(super) fn tidy(&mut self, now: Instant, life: &Life) -> bool {
        let useless = |s: &Session| now.since(s.received) >= UNUSED_FOR || s.is_over(now, life);
        self.previous.take_if(|s| useless(s));
        self.next.take_if(|next| useless(&next.session));
        let over = self
            .current
            .as_ref()
            .is_some_and(|s| now.since(s.received) >= DEAD_AFTER || s.is_over(now, life));
        if over {
            self.forget(now);
        }
        over
    }

    /// Whether a handshake is due beside the session.
    pub(super) fn wants_handshake(&self, now: Instant, me: u64, life: &Life) -> bool {
        self.current.as_ref().is_some_and(|s| {
            now.since(s.received) >= SUSPECT_AFTER
                || now >= s.rekey_at(me, life)
                || s.counter >= life.packets
        })
    }

    /// When this node needs attention.
    pub(super) fn deadline(&self, me: u64, life: &Life) -> Option<Instant> {
        let current = self.current.iter().flat_map(|s| {
            let handshake = s.received.after(SUSPECT_AFTER).min(s.rekey_at(me, life));
            [
                Some(s.sent.after(KEEP_ALIVE)),
                Some(s.received.after(DEAD_AFTER)),
                Some(s.ends_at(life)),
                self.initiate_at.is_none().then_some(handshake),
            ]
        });
        let others = (self.previous.iter())
            .chain(self.next.iter().map(|next| &next.session))
            .map(|s| s.received.after(UNUSED_FOR).min(s.ends_at(life)));
        (current.flatten())
            .chain(others)
            .chain(self.initiate_at)
            .min()
    }
}

/// Which of a peer's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Current,
    Next,
    Previous,
}
