//! A link: what one node knows of the way to another one.

use core::time::Duration;

use heapless::Vec;

use crate::{
    Config, Epoch, Instant, RegionId, Retry, Seq, WaitReason, ack_policy,
    congestion::Congestion,
    pacing::Pacer,
    packets::{PacketRing, PacketSlot},
    path_mtu::{MTU_STEPS, PathMtu},
    pto,
    ranges::{Inserted, Ranges},
    rtt::Rtt,
};

/// What has to be sent, as bits (those of [`control`](crate::packets::control) and these).
pub(crate) mod due {
    pub(crate) use crate::packets::control::{ACKED, APPENDED, HELLO, PING, REFUSED, WELCOME};
    /// Not on the wire: ask the host for a session.
    pub(crate) const CONNECT: u8 = 128;
}

/// Most `RefusedAck`s that wait for a datagram; one that does not fit is asked for again.
const MAX_REFUSED_ACKS: usize = 8;

/// Timing parameters that every link shares.
#[derive(Debug, Clone, Copy, Hash)]
pub(crate) struct Timing {
    pub(crate) retry: Retry,
    pub(crate) max_ack_delay: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) congestion: Congestion,
    pub(crate) mtu: u16,
    pub(crate) mtu_steps: [u16; MTU_STEPS],
}

impl Timing {
    pub(crate) const fn new(config: &Config<'_>) -> Self {
        Self {
            retry: config.retry,
            max_ack_delay: config.max_ack_delay,
            keep_alive: config.keep_alive,
            congestion: Congestion::Fixed {
                window: config.in_flight,
            },
            mtu: config.mtu,
            mtu_steps: config.mtu_steps,
        }
    }
}

/// Whether a node is worth climbing to; only of nodes of peer regions.
#[derive(Debug, Clone, Hash, Default)]
pub(crate) struct Standing {
    /// Given up by the lane, not proven again.
    pub(crate) failed: bool,
    /// It lives, its database does not.
    pub(crate) unavailable: bool,
    /// Since when it has answered background probes without a break.
    pub(crate) steady_since: Option<Instant>,
    /// When the next background probe goes.
    pub(crate) probe_at: Option<Instant>,
    /// Background probes since the last answer.
    pub(crate) silent_probes: u8,
    /// How often it failed soon after the lane had climbed to it.
    pub(crate) flaps: u8,
    /// When the lane last climbed to it.
    pub(crate) climbed: Option<Instant>,
}

/// See the module's documentation. `P` is the storage of the packet ring.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Link<P> {
    pub(crate) region: RegionId,
    /// Place in the region's failover order.
    pub(crate) place: u8,
    pub(crate) sibling: bool,
    /// A session stands.
    pub(crate) up: bool,
    /// Incarnation of the other side.
    pub(crate) peer: Option<u32>,
    /// The one known before the session was renewed, and the one before that: not to come again.
    last: Option<u32>,
    retired: Option<u32>,

    // Sending.
    pub(crate) next_pn: u64,
    pub(crate) ring: PacketRing<P>,
    pub(crate) in_flight: u64,
    pub(crate) rtt: Rtt,
    pub(crate) path: PathMtu,
    pub(crate) pacer: Pacer,
    pub(crate) pace_at: Option<Instant>,
    pub(crate) loss_at: Option<Instant>,
    pub(crate) due: u8,
    /// The next datagram is a probe: it goes whatever the window says.
    pub(crate) probe: bool,
    pub(crate) unanswered: u8,
    pub(crate) jitter: u8,
    pub(crate) last_probe: Option<Instant>,
    pub(crate) last_answer: Option<Instant>,
    pub(crate) last_sent: Option<Instant>,
    /// Since when an answer has been owed.
    pub(crate) silent_since: Option<Instant>,

    // Receiving.
    pub(crate) received: Ranges,
    pub(crate) largest_at: Option<Instant>,
    pub(crate) waiting: u8,
    pub(crate) ack_at: Option<Instant>,
    /// Opening of the other side's lane: token and epoch.
    pub(crate) hello: Option<(u32, Epoch)>,
    /// The opening that was void when this side last asked for another one.
    pub(crate) void: Option<u32>,
    pub(crate) welcome_wanted: bool,
    /// It sends updates although this side knows of no (valid) opening.
    pub(crate) gap: bool,
    pub(crate) refused_acks: Vec<(Epoch, Seq), MAX_REFUSED_ACKS>,
    /// Regions whose progress this sibling has to be told, as bits.
    pub(crate) acked_due: u16,

    pub(crate) standing: Standing,
}

impl<P: AsRef<[PacketSlot]> + AsMut<[PacketSlot]>> Link<P> {
    pub(crate) fn new(
        region: RegionId,
        place: u8,
        sibling: bool,
        packets: P,
        jitter: u8,
        timing: &Timing,
    ) -> Self {
        Self {
            region,
            place,
            sibling,
            up: false,
            peer: None,
            last: None,
            retired: None,
            next_pn: 1,
            ring: PacketRing::new(packets),
            in_flight: 0,
            rtt: Rtt::default(),
            path: PathMtu::new(timing.mtu, timing.mtu_steps),
            pacer: Pacer::default(),
            pace_at: None,
            loss_at: None,
            due: 0,
            probe: false,
            unanswered: 0,
            jitter,
            last_probe: None,
            last_answer: None,
            last_sent: None,
            silent_since: None,
            received: Ranges::new(),
            largest_at: None,
            waiting: 0,
            ack_at: None,
            hello: None,
            void: None,
            welcome_wanted: false,
            gap: false,
            refused_acks: Vec::new(),
            acked_due: 0,
            standing: Standing::default(),
        }
    }

    /// What was known of the other side is void. Packet numbers go on: they are never reused.
    pub(crate) fn reset(&mut self) {
        self.last = self.peer.or(self.last);
        self.peer = None;
        self.ring.reset();
        self.in_flight = 0;
        self.path.reset();
        self.pacer = Pacer::default();
        self.pace_at = None;
        self.loss_at = None;
        self.due = 0;
        self.probe = false;
        self.received = Ranges::new();
        self.largest_at = None;
        self.waiting = 0;
        self.ack_at = None;
        self.hello = None;
        self.void = None;
        self.welcome_wanted = false;
        self.gap = false;
        self.refused_acks.clear();
    }

    /// Whether a datagram of incarnation `from` may speak; `opening`: it introduces itself;
    /// `knows_us`: it names this side's incarnation. `Some(true)`: the link has to be reset first.
    pub(crate) fn judge(&self, from: u32, opening: bool, knows_us: bool) -> Option<bool> {
        if self.peer == Some(from) {
            return Some(false);
        }
        if self.retired == Some(from) {
            return None;
        }
        match self.peer {
            None => (opening || knows_us).then_some(false),
            Some(_) => opening.then_some(true),
        }
    }

    pub(crate) fn adopt(&mut self, from: u32) {
        if self.last != Some(from) {
            self.retired = self.last;
        }
        self.peer = Some(from);
        self.last = Some(from);
    }

    /// How long to wait for an answer now.
    pub(crate) fn timeout(&self, timing: &Timing) -> Duration {
        pto::timeout(
            &self.rtt,
            self.unanswered,
            &timing.retry,
            timing.max_ack_delay,
            self.jitter,
        )
    }

    /// When the silence is long enough for a probe. `target`: a lane depends on this link, so a
    /// missing session is silence as well.
    ///
    /// New packets do not move the deadline (as RFC 9002 6.2.1 would): a lane with a lot to say
    /// must not take longer to notice that nobody listens.
    pub(crate) fn probe_deadline(&self, target: bool, timing: &Timing) -> Option<Instant> {
        let asked = self.last_probe?;
        if canary!(PtoNotRearmed) && self.unanswered > 0 {
            return None;
        }
        let base = if self.up {
            let oldest = self.ring.oldest_sent()?;
            // Once an answer is overdue only probes move the deadline, not what else is sent (for
            // instance after the session has been renewed).
            if self.unanswered > 0 {
                asked
            } else {
                asked.max(oldest)
            }
        } else {
            target.then_some(asked)?
        };
        let base = self.last_answer.map_or(base, |answer| answer.max(base));
        Some(base.after(self.timeout(timing)))
    }

    /// When an idle target is asked whether it lives; `every`: see `Engine::keep_alive`.
    pub(crate) fn keep_alive_deadline(&self, every: Option<Duration>) -> Option<Instant> {
        if !self.up || !self.ring.is_empty() || self.due & due::PING != 0 {
            return None;
        }
        let base = self.last_answer.max(self.last_sent)?;
        Some(base.after(every?))
    }

    /// Notes a packet that came in; `prompt`: it asks for haste.
    pub(crate) fn note_received(
        &mut self,
        pn: u64,
        eliciting: bool,
        prompt: bool,
        now: Instant,
        timing: &Timing,
    ) {
        let inserted = self.received.insert(pn);
        if self.received.largest() == Some(pn) {
            self.largest_at = Some(now);
        }
        if eliciting {
            self.waiting = self.waiting.saturating_add(1);
            let prompt = prompt || inserted != Inserted::InOrder;
            let at = ack_policy::due(self.waiting, prompt, now, timing.max_ack_delay);
            self.ack_at = Some(self.ack_at.map_or(at, |other| other.min(at)));
        }
    }

    /// An ACK has gone out.
    pub(crate) fn ack_sent(&mut self) {
        self.waiting = 0;
        self.ack_at = None;
    }

    /// A packet that wants an answer has gone out.
    pub(crate) fn note_sent(&mut self, slot: PacketSlot, now: Instant) -> Option<PacketSlot> {
        if self.silent_since.is_none() {
            self.silent_since = Some(now);
        }
        if self.ring.is_empty() && self.unanswered == 0 || self.last_probe.is_none() {
            self.last_probe = Some(now);
        }
        self.last_sent = Some(now);
        self.in_flight += u64::from(slot.bytes);
        self.pacer.spend(usize::from(slot.bytes));
        let evicted = self.ring.push(slot)?;
        self.settle(&evicted);
        // What a probe has taken over is in a newer packet, or pending: counted once only.
        (!evicted.requeued()).then_some(evicted)
    }

    /// A packet is no longer on its way.
    pub(crate) fn settle(&mut self, slot: &PacketSlot) {
        if !slot.requeued() {
            self.in_flight = self.in_flight.saturating_sub(u64::from(slot.bytes));
        }
    }

    /// The other side has answered something.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.unanswered = 0;
        self.last_answer = Some(now);
        self.silent_since = (!self.ring.is_empty()).then_some(now);
    }

    /// How long an answer has been owed.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        self.silent_since.map_or(Duration::ZERO, |at| now.since(at))
    }

    /// The earliest thing that this link waits for, whatever its role.
    pub(crate) fn deadline(
        &self,
        keep_alive: Option<Duration>,
        timing: &Timing,
    ) -> Option<(Instant, WaitReason)> {
        let candidates = [
            (self.ack_at.filter(|_| self.up), WaitReason::AckDelay),
            (self.pace_at, WaitReason::Pacing),
            (self.loss_at, WaitReason::Loss),
            (
                self.probe_deadline(keep_alive.is_some(), timing),
                WaitReason::Probe,
            ),
            (self.keep_alive_deadline(keep_alive), WaitReason::KeepAlive),
            (self.standing.probe_at, WaitReason::KeepAlive),
        ];
        earliest(candidates)
    }
}

/// The earliest of some deadlines, with its reason.
pub(crate) fn earliest(
    candidates: impl IntoIterator<Item = (Option<Instant>, WaitReason)>,
) -> Option<(Instant, WaitReason)> {
    candidates
        .into_iter()
        .filter_map(|(at, reason)| at.map(|at| (at, reason)))
        .min_by_key(|(at, _)| *at)
}
