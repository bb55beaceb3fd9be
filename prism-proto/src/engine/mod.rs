//! The engine: lanes out, inlets in, one poll.

mod authorise;
mod canonical;
mod events;
mod inbound;
mod ladder;
mod receive;
mod timers;
mod transmit;

use heapless::{Deque, Vec};

use crate::{
    Config, ConfigError, Epoch, Event, Inbox, InletState, InletStats, Instant, LaneStats, NodeId,
    Notice, Output, Payloads, Policy, RegionId, RegionKey, Seq, Storage, Target, WaitReason, bits,
    failover::Rung,
    inlet::Inlet,
    lane::{Lane, Phase},
    link::{Link, Timing, due},
    refusals::Heard,
    rng::Rng,
    update_window::MAX_FRAGMENTS,
    wire,
};

/// Most regions of a cluster.
pub const MAX_REGIONS: usize = 16;
/// Most nodes of a cluster.
pub const MAX_NODES: usize = 64;
/// Most nodes of one region.
pub const MAX_REGION_NODES: usize = 16;
/// Notices that wait for the host; beyond that one that repeats itself is dropped, else the oldest.
const MAX_NOTICES: usize = 32;
/// Smallest datagram that every frame but the updates fits into.
const MIN_MTU: u16 = 576;
/// Smallest packet ring.
const MIN_PACKETS: u32 = 32;

#[derive(Debug, Clone, Hash)]
struct Region<U, R> {
    key: RegionKey,
    direct: bool,
    /// In failover order.
    nodes: Vec<NodeId, MAX_REGION_NODES>,
    lane: Lane<U>,
    inlet: Inlet<R>,
    /// What this region has refused of the own stream.
    heard: Heard,
    /// How far a sibling's lane to it is, and clean; the host has to be told.
    sibling: Option<(Seq, Seq)>,
}

/// Reading back what is no longer in memory: one request at a time, for whichever lane needs it.
/// The lanes take turns, and each has its own pauses: one whose updates cannot be read does not
/// keep the others from theirs.
#[derive(Debug, Clone, Hash, Default)]
struct Fetching {
    asked: Option<Seq>,
    /// The region whose turn is next.
    turn: usize,
}

/// The state machine of one node; see the crate's documentation for the loop around it.
///
/// It is large (85 KiB beside the storage handed in), so keep it in a place of its own rather than
/// on a small stack.
#[derive(Debug, Clone)]
pub struct Engine<S: Storage> {
    me: NodeId,
    region: RegionId,
    incarnation: u32,
    rng: Rng,
    timing: Timing,
    window: u32,
    max_update: u32,
    max_apply: u32,
    chunk: u16,
    climb_after: core::time::Duration,
    apply_timeout: core::time::Duration,
    park: (core::time::Duration, core::time::Duration),

    epoch: Epoch,
    tail: Seq,
    links: Vec<Link<S::Packets>, MAX_NODES>,
    regions: Vec<Region<S::Updates, S::Received>, MAX_REGIONS>,
    /// Links and regions that may have something to do, as bits.
    dirty_links: u64,
    dirty_regions: u16,
    /// The link served last, for fairness.
    served: u32,
    /// When a timer may have expired; known after every `Wait`.
    timers_at: Option<Instant>,
    fetching: Fetching,
    notices: Deque<Notice, MAX_NOTICES>,
}

impl<S: Storage> Engine<S> {
    /// Bytes that a lane, a link and an inlet take beside the storage handed in.
    pub const PART_SIZES: (usize, usize, usize) = (
        size_of::<Lane<S::Updates>>(),
        size_of::<Link<S::Packets>>(),
        size_of::<Inlet<S::Received>>(),
    );

    /// An engine that knows its cluster and nothing else: no session stands, no lane is held.
    ///
    /// # Errors
    /// [`ConfigError`] names what does not fit.
    pub fn new(config: &Config<'_>, storage: &mut S) -> Result<Self, ConfigError> {
        let region = check(config)?;
        let mut rng = Rng::new(config.seed);
        let incarnation = rng.incarnation();
        let window = config.window as usize;
        // Every update may travel alone, and there are pings.
        let packets = config.window.max(MIN_PACKETS) as usize;
        let mut engine = Self {
            me: config.me,
            region,
            incarnation,
            rng,
            timing: Timing::new(config),
            window: config.window,
            max_update: config.max_update,
            max_apply: config.max_apply.max(1),
            chunk: chunk(config.mtu),
            climb_after: config.climb_after,
            apply_timeout: config.apply_timeout,
            park: config.park,
            epoch: Epoch(0),
            tail: Seq::ZERO,
            links: Vec::new(),
            regions: Vec::new(),
            dirty_links: 0,
            dirty_regions: 0,
            served: 0,
            timers_at: None,
            fetching: Fetching::default(),
            notices: Deque::new(),
        };
        for r in config.regions {
            // The own region has neither lane nor inlet.
            let len = if r.id == region { 0 } else { window };
            let (updates, received) = (storage.updates(len), storage.received(len));
            if updates.as_ref().len() != len || received.as_ref().len() != len {
                return Err(ConfigError::BadWindow);
            }
            let _fits = engine.regions.push(Region {
                key: r.key,
                direct: r.direct,
                nodes: Vec::new(),
                lane: Lane::new(updates),
                inlet: Inlet::new(received, config.window_bytes),
                heard: Heard::new(),
                sibling: None,
            });
        }
        for node in config.nodes {
            let len = if node.id == config.me { 0 } else { packets };
            let slots = storage.packets(len);
            if slots.as_ref().len() != len {
                return Err(ConfigError::BadWindow);
            }
            let jitter = engine.rng.jitter();
            let siblings = node.region == region;
            let of_region = &mut engine.regions[usize::from(node.region.0)];
            let place = of_region.nodes.len() as u8;
            of_region
                .nodes
                .push(node.id)
                .map_err(|_| ConfigError::TooManyNodes)?;
            let _fits = engine.links.push(Link::new(
                node.region,
                place,
                siblings,
                slots,
                jitter,
                &engine.timing,
            ));
        }
        Ok(engine)
    }

    /// A datagram from an authenticated node. Afterwards, poll.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: NodeId,
        plaintext: &[u8],
        inbox: &mut impl Inbox,
    ) {
        self.receive(now, from, plaintext, inbox);
    }

    /// A fact. Afterwards, poll.
    pub fn handle_event(&mut self, now: Instant, event: Event, inbox: &mut impl Inbox) {
        self.take_event(now, event, inbox);
    }

    /// The next thing to do; call until [`Output::Wait`].
    ///
    /// `buffer` has room for a datagram of [`Config::mtu`] bytes, and for [`Config::mtu_steps`] (one
    /// that it has no room for is not tried).
    pub fn poll(&mut self, now: Instant, payloads: &impl Payloads, buffer: &mut [u8]) -> Output {
        let mut expired = self.timers_at.is_some_and(|at| at <= now);
        if expired {
            self.timers_at = None;
            self.expire(now);
        }
        let next = loop {
            if let Some(notice) = self.notices.pop_front() {
                return Output::Notify(notice);
            }
            if let Some(output) = self.poll_regions() {
                return output;
            }
            if let Some(output) = self.poll_links(now, payloads, buffer) {
                return output;
            }
            if let Some(output) = self.poll_fetch(now) {
                return output;
            }
            if !self.notices.is_empty() || self.dirty_regions != 0 || self.dirty_links != 0 {
                continue;
            }
            let next = self.deadline();
            if expired || next.is_none_or(|(at, _)| at > now) {
                break next;
            }
            // Became due since the last `Wait`.
            expired = true;
            self.expire(now);
        };
        let (deadline, reason) = match next {
            Some((at, reason)) => (Some(at), reason),
            None => (None, WaitReason::Idle),
        };
        self.timers_at = deadline;
        Output::Wait { deadline, reason }
    }

    fn poll_regions(&mut self) -> Option<Output> {
        while self.dirty_regions != 0 {
            let r = self.dirty_regions.trailing_zeros() as usize;
            let output = self.poll_region(RegionId(r as u16));
            if output.is_some() {
                return output;
            }
            self.dirty_regions &= !(1 << r);
        }
        None
    }

    fn poll_region(&mut self, id: RegionId) -> Option<Output> {
        let max_apply = self.max_apply;
        let tail = self.tail;
        let region = self.regions.get_mut(usize::from(id.0))?;
        let lane = &mut region.lane;
        if core::mem::take(&mut lane.tell_acked) && lane.is_held() {
            return Some(Output::Acked {
                peer: id,
                position: lane.acked,
                clean: lane.clean,
            });
        }
        if let Some(refusal) = region.heard.next() {
            return Some(Output::PeerRefused { peer: id, refusal });
        }
        if let Some((seq, clean)) = region.sibling.take() {
            // Somebody may wait for it, and it is not repeated: never dropped as notices may be.
            let peer = id;
            return Some(Output::Notify(Notice::SiblingAcked { peer, seq, clean }));
        }
        match lane.phase {
            Phase::Verifying(position) if lane.verify_due => {
                lane.verify_due = false;
                return Some(Output::Verify { peer: id, position });
            }
            Phase::Direct
                if !lane.direct_busy
                    && lane.again_at.is_none()
                    && (tail > lane.acked.seq || lane.is_unclean() || lane.direct_ask) =>
            {
                lane.direct_busy = true;
                lane.direct_ask = false;
                return Some(Output::Direct {
                    peer: id,
                    after: lane.acked.seq,
                    upto: tail.max(lane.acked.seq),
                });
            }
            _ => {}
        }
        region.inlet.next_output(id, max_apply)
    }

    fn poll_links(
        &mut self,
        now: Instant,
        payloads: &impl Payloads,
        buffer: &mut [u8],
    ) -> Option<Output> {
        while self.dirty_links != 0 {
            // The next one after the one served last, going round.
            let turn = self.dirty_links.rotate_right(self.served).trailing_zeros();
            let i = (self.served + turn) % 64;
            let output = self.poll_link(i as usize, now, payloads, buffer);
            self.served = (i + 1) % 64;
            if output.is_some() {
                return output;
            }
            self.dirty_links &= !(1 << i);
        }
        None
    }

    fn poll_fetch(&mut self, now: Instant) -> Option<Output> {
        if self.fetching.asked.is_some() {
            return None;
        }
        let n = self.regions.len();
        let (r, from) = (0..n)
            .map(|k| (self.fetching.turn + k) % n)
            .find_map(|r| self.regions[r].lane.wants(now).map(|from| (r, from)))?;
        self.fetching.turn = (r + 1) % n;
        self.fetching.asked = Some(from);
        let to = Seq(from.0.saturating_add(u64::from(self.window) - 1));
        Some(Output::Fetch {
            from,
            to: to.min(self.tail),
        })
    }

    fn notify(&mut self, notice: Notice) {
        if self.notices.iter().any(|told| notice.is_told_by(told)) {
            return;
        }
        if self.notices.is_full() {
            if notice.is_repeated() {
                return;
            }
            let mut room = false;
            for _ in 0..MAX_NOTICES {
                // Once round, so that the order of the others stays.
                if let Some(old) = self.notices.pop_front() {
                    if !room && old.is_repeated() {
                        room = true;
                    } else {
                        let _fits = self.notices.push_back(old);
                    }
                }
            }
            if !room {
                self.notices.pop_front();
            }
        }
        let _fits = self.notices.push_back(notice);
    }

    fn touch_link(&mut self, i: usize) {
        self.dirty_links |= 1 << (i % 64);
    }

    fn touch_region(&mut self, r: RegionId) {
        self.dirty_regions |= 1 << (r.0 % 16);
    }

    /// The region's lane may have something to send.
    fn touch_lane(&mut self, r: RegionId) {
        self.touch_region(r);
        let region = &self.regions[usize::from(r.0)];
        if let Some(node) = region
            .lane
            .node()
            .and_then(|place| region.nodes.get(usize::from(place)))
        {
            self.dirty_links |= 1 << (node.0 % 64);
        }
    }

    /// Whether a lane depends on the link right now.
    fn is_target(&self, i: usize) -> bool {
        let link = &self.links[i];
        !link.sibling && self.regions[usize::from(link.region.0)].lane.node() == Some(link.place)
    }

    /// A peer region, as far as the host's number is one.
    fn is_peer(&self, r: RegionId) -> bool {
        r != self.region && usize::from(r.0) < self.regions.len()
    }

    fn set_inlet_state(&mut self, r: RegionId, state: InletState) {
        let inlet = &mut self.regions[usize::from(r.0)].inlet;
        if inlet.state != state {
            inlet.state = state;
            let from = inlet.from;
            self.notify(Notice::Inlet {
                stream: r,
                state,
                from,
            });
        }
    }

    /// The siblings have something to be told, as the bits say.
    fn tell_siblings(&mut self, bits: u8, now: Instant) {
        for i in 0..self.links.len() {
            if !self.links[i].sibling || i == usize::from(self.me.0) {
                continue;
            }
            let link = &mut self.links[i];
            link.due |= bits;
            if !link.up && link.standing.probe_at.is_none() {
                link.standing.probe_at = Some(now);
            }
            self.touch_link(i);
        }
    }

    /// A lane has advanced: tell the host and the siblings.
    fn lane_advanced(&mut self, r: RegionId, now: Instant) {
        self.touch_region(r);
        for link in &mut self.links {
            if link.sibling {
                link.acked_due |= 1 << (r.0 % 16);
            }
        }
        self.tell_siblings(due::ACKED, now);
    }

    /// Figures of the lane to `peer`.
    #[must_use]
    pub fn lane_stats(&self, peer: RegionId) -> LaneStats {
        let Some(region) = self.regions.get(usize::from(peer.0)) else {
            return LaneStats::default();
        };
        let lane = &region.lane;
        let link = lane
            .node()
            .and_then(|place| region.nodes.get(usize::from(place)))
            .and_then(|node| self.links.get(usize::from(node.0)));
        let rtt = link.and_then(|link| link.rtt.smoothed());
        LaneStats {
            held: lane.is_held(),
            target: self.target(peer),
            streaming: lane.phase == Phase::Streaming,
            tail: self.tail,
            acked: lane.acked,
            clean: lane.clean,
            rtt_us: rtt.map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            sent: lane.counters.sent,
            retransmits: lane.counters.retransmits,
            failovers: lane.counters.failovers,
            direct_writes: lane.counters.direct_writes,
            failover_us: lane.counters.failover_us,
            probes: lane.counters.probes,
            in_window: lane.window.next().0 - 1 - lane.window.acked().0,
            in_flight: link.map_or(0, |link| link.in_flight),
        }
    }

    /// Largest datagram that the path to `node` is known to carry.
    #[must_use]
    pub fn path_mtu(&self, node: NodeId) -> u16 {
        self.links
            .get(usize::from(node.0))
            .map_or(self.timing.mtu, |link| link.path.current())
    }

    /// Figures of the inlet of `stream`.
    #[must_use]
    pub fn inlet_stats(&self, stream: RegionId) -> InletStats {
        let Some(region) = self.regions.get(usize::from(stream.0)) else {
            return InletStats::default();
        };
        let inlet = &region.inlet;
        InletStats {
            applied: inlet.position.unwrap_or_default(),
            clean: inlet.clean,
            from: inlet.from,
            received: inlet.received,
            duplicates: inlet.duplicates,
            no_room: inlet.no_room,
            complete: inlet.window.complete(),
        }
    }

    /// The rung of the lane to `peer`, as the host knows rungs.
    fn target(&self, peer: RegionId) -> Option<Target> {
        let region = self.regions.get(usize::from(peer.0))?;
        if !region.lane.is_active() {
            return None;
        }
        Some(match (region.lane.rung, region.lane.phase) {
            (Rung::Node(place), _) => Target::Node(*region.nodes.get(usize::from(place))?),
            (Rung::Direct, _) => Target::Direct,
            (Rung::Parked, Phase::Parked(until)) => Target::Parked(until),
            (Rung::Parked, _) => return None,
        })
    }

    const fn fastest(&self) -> bool {
        matches!(self.timing.retry.policy, Policy::Fastest)
    }
}

/// Bytes of a large update that fit into one datagram.
const fn chunk(mtu: u16) -> u16 {
    mtu - (wire::MAX_HEADER + wire::FRAGMENT_OVERHEAD) as u16
}

/// The own region, if the configuration holds together.
fn check(config: &Config<'_>) -> Result<RegionId, ConfigError> {
    if config.regions.len() > MAX_REGIONS {
        return Err(ConfigError::TooManyRegions);
    }
    if config.nodes.len() > MAX_NODES {
        return Err(ConfigError::TooManyNodes);
    }
    let indexed = config
        .regions
        .iter()
        .enumerate()
        .all(|(i, r)| usize::from(r.id.0) == i)
        && config.nodes.iter().enumerate().all(|(i, n)| {
            usize::from(n.id.0) == i && usize::from(n.region.0) < config.regions.len()
        });
    let me = config.nodes.get(usize::from(config.me.0));
    let (true, Some(me)) = (indexed, me) else {
        return Err(ConfigError::BadIndex);
    };
    for (i, r) in config.regions.iter().enumerate() {
        if config.regions[..i].iter().any(|other| other.key == r.key) {
            return Err(ConfigError::KeyCollision);
        }
    }
    if !config.window.is_power_of_two()
        || config.window < 2
        || config.window as usize > bits::CAPACITY
    {
        return Err(ConfigError::BadWindow);
    }
    if config.mtu < MIN_MTU
        || config.max_update > config.window_bytes
        || u64::from(config.max_update) > MAX_FRAGMENTS as u64 * u64::from(chunk(config.mtu))
        || config.in_flight < u32::from(config.mtu)
    {
        return Err(ConfigError::BadSize);
    }
    Ok(me.region)
}
