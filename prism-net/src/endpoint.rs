//! Sessions, engine and the bytes of updates in one sans-IO machine.

use std::net::SocketAddr;
use std::time::Duration;

use prism_proto::{
    ApplyCause, Config, Epoch, Event, Instant, NodeConfig, NodeId, Notice, Output, PacketSlot,
    RecvSlot, RegionConfig, RegionId, RegionKey, Seq, Storage, UpdateSlot, WaitReason,
};

use crate::config::{EndpointConfig, EndpointError, Protection, Reload, check_keys};
use crate::host::{Command, Drops, Host, Snapshot};
use crate::inbox::Arena;
use crate::payloads::PayloadCache;
use crate::pool::Pool;
use crate::session::{self, Change, HEADER, SEAL, Sessions};

type Engine = prism_proto::Engine<Heap>;

/// The engine's windows, on the heap.
#[derive(Debug, Clone, Copy)]
struct Heap;

impl Storage for Heap {
    type Updates = Box<[UpdateSlot]>;
    type Packets = Box<[PacketSlot]>;
    type Received = Box<[RecvSlot]>;

    fn updates(&mut self, len: usize) -> Self::Updates {
        vec![UpdateSlot::default(); len].into()
    }
    fn packets(&mut self, len: usize) -> Self::Packets {
        vec![PacketSlot::default(); len].into()
    }
    fn received(&mut self, len: usize) -> Self::Received {
        vec![RecvSlot::default(); len].into()
    }
}

/// Pause after an apply for which the engine and the inbox disagree: a bug, reported once a second
/// rather than in a busy loop.
const DISAGREEMENT: Duration = Duration::from_secs(1);

/// Longest body that is taken from a node whose limits are larger than the own ones.
const LONGEST: usize = 2048;

/// What [`Endpoint::poll`] wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Send the first `len` bytes of the buffer, then poll again.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// Length of the datagram.
        len: usize,
    },
    /// Nothing more to do before the deadline (or the next input, if `None`).
    Wait {
        /// When to poll again.
        deadline: Option<Instant>,
        /// What the deadline is for.
        reason: WaitReason,
    },
}

/// One node's half of every conversation, without a socket, a clock or a thread:
///
/// ```text
///   datagram --> handle_datagram --+  +----------+    +--> Transmit: send this datagram
///                                  +->| sessions |----+--> calls of Host: apply, fetch, ...
///   command  --> handle_command ---+  | engine   |    +--> Wait: nothing to do until then
///   clock    --> (now, everywhere)    | updates  |
///                                     +----------+
/// ```
/// After every input, drain [`poll`](Self::poll) until it returns [`Step::Wait`]. The
/// [`Driver`](crate::Driver) does just that; so can any other packet loop, or a simulation.
pub struct Endpoint {
    engine: Engine,
    sessions: Sessions,
    inbox: Arena,
    payloads: PayloadCache,
    pool: Pool,
    epoch: Option<Epoch>,
    me: NodeId,
    protection: Protection,
    /// A body before it is sealed, or after it was opened.
    plain: Vec<u8>,
    /// Longest body that is ever sent.
    mtu: usize,
    regions: usize,
    nodes: usize,
    received: u64,
    sent: u64,
    unsent: u64,
    drops: Drops,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("received", &self.received)
            .field("sent", &self.sent)
            .field("drops", &self.drops)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint that knows its cluster and nothing else. It begins to call the other nodes with
    /// its first poll.
    ///
    /// # Errors
    /// [`EndpointError`] names what does not fit.
    pub fn new(config: &EndpointConfig) -> Result<Self, EndpointError> {
        let me = usize::from(config.me.0);
        if me >= config.nodes.len() {
            return Err(EndpointError::NoSuchNode(config.me.0, config.nodes.len()));
        }
        for (i, node) in config.nodes.iter().enumerate() {
            let same = |other: &&crate::NodeAddress| {
                session::identity(&other.name) == session::identity(&node.name)
            };
            if let Some(other) = config.nodes[..i].iter().find(same) {
                return Err(EndpointError::SameIdentity(
                    other.name.clone(),
                    node.name.clone(),
                ));
            }
        }
        check_keys(config.me, &config.nodes, &config.protection)?;
        let limits = &config.limits;
        let mtu = usize::from(limits.mtu_steps.into_iter().fold(limits.mtu, u16::max));
        Ok(Self {
            engine: engine(config)?,
            sessions: Sessions::new(config),
            inbox: Arena::new(
                config.regions.len(),
                limits.window,
                limits.window_bytes,
                limits.max_update,
            ),
            payloads: PayloadCache::new(
                config.regions.len(),
                limits.payload_bytes,
                limits.payload_count,
                limits.window,
            ),
            pool: Pool::new(),
            epoch: None,
            me: config.me,
            protection: config.protection.clone(),
            // The other nodes may have been given another limit.
            plain: vec![0; (mtu + SEAL).max(LONGEST)],
            mtu,
            regions: config.regions.len(),
            nodes: config.nodes.len(),
            received: 0,
            sent: 0,
            unsent: 0,
            drops: Drops::default(),
        })
    }

    /// Longest datagram that [`poll`](Self::poll) writes; its buffer must be this long.
    #[must_use]
    pub fn max_datagram(&self) -> usize {
        HEADER + self.mtu + SEAL
    }

    /// Whether packets are encrypted and authenticated.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        matches!(self.protection, Protection::Sealed(_))
    }

    /// A datagram has arrived. Afterwards, poll.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.received += 1;
        let mut plain = std::mem::take(&mut self.plain);
        self.judge(now, from, datagram, &mut plain);
        self.plain = plain;
    }

    fn judge(&mut self, now: Instant, from: SocketAddr, datagram: &[u8], plain: &mut [u8]) {
        let received = match self.sessions.receive(now, from, datagram, plain) {
            Ok(received) => received,
            Err(why) => return self.drops.count(why),
        };
        let node = received.from;
        match received.change {
            Change::None => {}
            Change::Up => self.event(now, Event::NodeUp { node }),
            Change::Restarted => {
                self.event(now, Event::NodeDown { node });
                self.event(now, Event::NodeUp { node });
            }
        }
        if !received.body.is_empty() {
            self.engine
                .handle_datagram(now, node, received.body, &mut self.inbox);
        }
    }

    fn event(&mut self, now: Instant, event: Event) {
        self.engine.handle_event(now, event, &mut self.inbox);
    }

    /// Something that another thread has to say. Afterwards, poll. ([`Command::Snapshot`] and
    /// [`Command::Stop`] are for whoever owns the loop and do nothing here.)
    pub fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Event(event) => {
                let event = self.prepare(event);
                self.event(now, event);
            }
            Command::Payloads(batch) => self.payloads.loaded(batch, &mut self.pool),
            Command::Committed(batch) => {
                if !batch.is_empty() {
                    let upto = Seq(batch.end() - 1);
                    self.payloads.committed(batch, &mut self.pool);
                    self.event(now, Event::Available { upto });
                }
            }
            Command::Recycle(batch) => self.pool.give(batch),
            Command::Reload(reload) => self.reload(now, &reload),
            Command::Snapshot | Command::Stop => {}
        }
    }

    fn reload(&mut self, now: Instant, reload: &Reload) {
        if let Err(error) = reload.check(self.me, &self.protection) {
            tracing::error!(%error, "the new keys are not taken, the old ones stay");
            return;
        }
        self.protection = reload.protection.clone();
        for node in self.sessions.reload(now, reload) {
            self.event(now, Event::NodeDown { node });
        }
    }

    /// Breaks off with a node that has said what it has no right to say: its session is dropped, and
    /// for a while (5 s, doubling up to 60 s) there is no other. Afterwards, poll.
    pub fn shut_out(&mut self, now: Instant, node: NodeId) {
        if self.sessions.shut_out(now, node) {
            self.event(now, Event::NodeDown { node });
        }
    }

    /// What an event means for the payloads.
    fn prepare(&mut self, event: Event) -> Event {
        match event {
            Event::Fetched { upto } => {
                let upto = self.payloads.fetch_done(upto);
                return Event::Fetched { upto };
            }
            Event::LaneHeld { peer, acked, own } => {
                if self.epoch.is_some_and(|epoch| epoch != own.epoch) {
                    self.payloads.clear(&mut self.pool);
                }
                self.epoch = Some(own.epoch);
                self.payloads.lane(peer, Some(acked), &mut self.pool);
            }
            Event::LaneLost { peer } => self.payloads.lane(peer, None, &mut self.pool),
            _ => {}
        }
        event
    }

    /// The next thing to do: calls `host`, or writes a datagram into `buffer`
    /// ([`max_datagram`](Self::max_datagram) bytes), or waits.
    pub fn poll(
        &mut self,
        now: Instant,
        host: &mut (impl Host + ?Sized),
        buffer: &mut [u8],
    ) -> Step {
        while let Some(node) = self.sessions.expire(now) {
            self.event(now, Event::NodeDown { node });
        }
        loop {
            if let Some((to, len)) = self.sessions.poll(now, buffer) {
                self.sent += 1;
                return Step::Transmit { to, len };
            }
            let body = self.plain.get_mut(..self.mtu).unwrap_or_default();
            match self.engine.poll(now, &self.payloads, body) {
                Output::Transmit { to, len } => {
                    let plain = &mut self.plain;
                    let lengths = (len, self.engine.path_mtu(to).into());
                    if let Some((to, len)) = self.sessions.seal(now, to, plain, lengths, buffer) {
                        self.sent += 1;
                        return Step::Transmit { to, len };
                    }
                    // No session (any more): the same as a lost packet.
                    self.unsent += 1;
                }
                Output::Wait { deadline, reason } => return self.wait(deadline, reason),
                output => self.hand_over(now, output, host),
            }
        }
    }

    fn wait(&self, deadline: Option<Instant>, reason: WaitReason) -> Step {
        match self.sessions.deadline() {
            Some(own) if deadline.is_none_or(|deadline| own < deadline) => Step::Wait {
                deadline: Some(own),
                reason: WaitReason::KeepAlive,
            },
            _ => Step::Wait { deadline, reason },
        }
    }

    /// Everything that is the host's business.
    fn hand_over(&mut self, now: Instant, output: Output, host: &mut (impl Host + ?Sized)) {
        match output {
            Output::Connect { to } => self.sessions.connect(now, to),
            Output::Fetch { from, to } => {
                self.payloads.want(from, to);
                host.fetch(from, to);
            }
            Output::Verify { peer, position } => host.verify(peer, position),
            Output::ReadPosition { stream } => host.read_position(stream),
            Output::Apply {
                stream,
                epoch,
                from,
                to,
            } => self.apply(now, stream, epoch, (from, to), host),
            Output::Direct { peer, after, upto } => host.direct(peer, after, upto),
            Output::Acked {
                peer,
                position,
                clean,
            } => {
                self.payloads.acked(peer, position, &mut self.pool);
                host.acked(peer, position, clean);
            }
            Output::PeerRefused { peer, refusal } => host.refused(peer, refusal),
            Output::RefusalTold { stream, epoch, seq } => host.refusal_told(stream, epoch, seq),
            Output::Notify(notice) => {
                match notice {
                    Notice::Dropped { .. } => self.drops.refused += 1,
                    Notice::Violation { from, .. } => {
                        self.drops.refused += 1;
                        self.shut_out(now, from);
                    }
                    _ => {}
                }
                host.notify(notice);
            }
            other => tracing::error!(?other, "the core asks for something unknown; ignored"),
        }
        while let Some(event) = host.overdue() {
            self.handle_command(now, Command::Event(event));
        }
    }

    fn apply(
        &mut self,
        now: Instant,
        stream: RegionId,
        epoch: Epoch,
        (from, to): (Seq, Seq),
        host: &mut (impl Host + ?Sized),
    ) {
        let mut batch = self.pool.take();
        self.inbox.read(stream, from, to, &mut batch);
        if batch.end() <= to.0 {
            tracing::error!(
                stream = stream.0,
                from = from.0,
                to = to.0,
                present = batch.len(),
                "updates to apply are missing in the inbox; this is a bug, please report it"
            );
        }
        if batch.is_empty() {
            self.pool.give(batch);
            return self.event(
                now,
                Event::ApplyFailed {
                    stream,
                    cause: ApplyCause::Busy,
                    retry_at: now.after(DISAGREEMENT),
                },
            );
        }
        host.apply(stream, epoch, batch);
    }

    /// Writes the present figures into `snapshot`, reusing its memory.
    pub fn fill(&self, snapshot: &mut Snapshot) {
        snapshot.lanes.clear();
        snapshot.inlets.clear();
        for region in 0..self.regions {
            let region = RegionId(region as u16);
            snapshot.lanes.push(self.engine.lane_stats(region));
            snapshot.inlets.push(self.engine.inlet_stats(region));
        }
        snapshot.peers.clear();
        (snapshot.peers)
            .extend((0..self.nodes).map(|node| self.sessions.info(NodeId(node as u16))));
        snapshot.received = self.received;
        snapshot.sent = self.sent;
        snapshot.unsent = self.unsent;
        snapshot.drops = self.drops;
        snapshot.dropped = self.drops.total();
        snapshot.payload_bytes = self.payloads.bytes() as u64;
        snapshot.inbox_bytes = self.inbox.bytes() as u64;
    }
}

/// The core, with the configuration in its own terms.
fn engine(config: &EndpointConfig) -> Result<Engine, EndpointError> {
    let nodes: Vec<NodeConfig> = (config.nodes.iter().enumerate())
        .map(|(i, node)| NodeConfig {
            id: NodeId(i as u16),
            region: node.region,
        })
        .collect();
    let regions: Vec<RegionConfig> = (config.regions.iter().enumerate())
        .map(|(i, region)| RegionConfig {
            id: RegionId(i as u16),
            key: RegionKey::of(&region.name),
            direct: region.direct,
        })
        .collect();
    let limits = &config.limits;
    let core = Config {
        retry: config.retry,
        mtu: limits.mtu,
        mtu_steps: limits.mtu_steps,
        window: limits.window,
        in_flight: limits.in_flight,
        window_bytes: limits.window_bytes,
        max_update: limits.max_update,
        max_apply: limits.max_apply,
        ..Config::new(config.me, &nodes, &regions, config.seed)
    };
    Ok(Engine::new(&core, &mut Heap)?)
}

impl Drops {
    fn count(&mut self, why: session::Drop) {
        *match why {
            session::Drop::Malformed => &mut self.malformed,
            session::Drop::UnknownSession => &mut self.unknown_session,
            session::Drop::WrongMac => &mut self.wrong_mac,
            session::Drop::WrongHandshake => &mut self.wrong_handshake,
            session::Drop::UnknownNode => &mut self.unknown_node,
            session::Drop::Stale => &mut self.stale,
            session::Drop::Replayed => &mut self.replayed,
            session::Drop::NotAuthentic => &mut self.not_authentic,
            session::Drop::Overload => &mut self.overload,
            session::Drop::ShutOut => &mut self.shut_out,
        } += 1;
    }
}
