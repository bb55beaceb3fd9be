//! Endpoints with keys, a database made of vectors behind each, and the datagrams between them: what
//! the targets `endpoint`, `handshake` and `sealed_body` play with.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use prism_net::{
    Batch, Command, Endpoint, EndpointConfig, Host, Limits, NodeAddress, Protection, RegionInfo,
    SessionKeys, Snapshot, Step, public_key,
};
use prism_proto::{
    ApplyCause, DirectFailure, Epoch, Event, Instant, NodeId, Notice, Position, Refusal, RegionId,
    Retry, Seq, Tag, Verdict,
};
use zeroize::Zeroizing;

/// `NA1 | EU1 | AS1`: the node's number is its region's.
const NAMES: [&str; 3] = ["NA1", "EU1", "AS1"];
const REGIONS: [&str; 3] = ["NA", "EU", "AS"];

/// Limits small enough to be reached.
pub fn limits() -> Limits {
    Limits {
        window: 16,
        window_bytes: 64 << 10,
        max_update: 16 << 10,
        payload_bytes: 64 << 10,
        payload_count: 64,
        ..Limits::default()
    }
}

/// Where a node is.
pub fn home(node: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 7000 + node).into()
}

/// Where somebody else is.
pub fn elsewhere(port: u8) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 9000 + u16::from(port)).into()
}

/// Where nobody is from whom anything genuine ever comes.
pub fn outside(port: u8) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 9500 + u16::from(port)).into()
}

fn private(node: u16) -> [u8; 32] {
    [node as u8 + 1; 32]
}

/// Of node `me`, at its `boot`th start: with keys.
pub fn config(me: u16, boot: u64) -> EndpointConfig {
    static NODES: LazyLock<Vec<NodeAddress>> = LazyLock::new(|| {
        (0..)
            .zip(NAMES)
            .map(|(i, name)| NodeAddress {
                name: name.to_owned(),
                region: RegionId(i),
                udp: home(i),
                public_keys: vec![public_key(&private(i))],
            })
            .collect()
    });
    EndpointConfig {
        me: NodeId(me),
        nodes: NODES.clone(),
        regions: REGIONS
            .map(|name| RegionInfo {
                name: name.to_owned(),
                direct: true,
            })
            .into(),
        retry: Retry::default(),
        limits: limits(),
        seed: boot * 16 + u64::from(me),
        cluster: "fuzz".to_owned(),
        protection: Protection::Sealed(SessionKeys {
            private: Zeroizing::new(private(me)),
            psk: Zeroizing::new([9; 32]),
        }),
        boot,
        catalogue: 0,
    }
}

/// A region's database, which checks what it is told to do.
pub struct Database {
    region: u16,
    pub outbox: Vec<Vec<u8>>,
    pub applied: [Vec<Vec<u8>>; 3],
    epochs: [Epoch; 3],
    answers: VecDeque<Command>,
}

fn tag(bytes: Option<&Vec<u8>>) -> Tag {
    let Some(bytes) = bytes else { return Tag(0) };
    Tag((bytes.iter()).fold(1, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)))
}

impl Database {
    pub fn new(region: u16) -> Self {
        Self {
            region,
            outbox: Vec::new(),
            applied: Default::default(),
            epochs: [Epoch(0); 3],
            answers: VecDeque::new(),
        }
    }

    fn own(&self, seq: u64) -> Option<Position> {
        let last = match seq.checked_sub(1) {
            None => None,
            Some(at) => Some(self.outbox.get(usize::try_from(at).ok()?)?),
        };
        Some(Position {
            epoch: Epoch(100 + u64::from(self.region)),
            seq: Seq(seq),
            tag: tag(last),
        })
    }

    fn tail(&self) -> Position {
        self.own(self.outbox.len() as u64).expect("it is there")
    }

    fn position(&self, stream: RegionId) -> Position {
        let applied = &self.applied[usize::from(stream.0)];
        Position {
            epoch: self.epochs[usize::from(stream.0)],
            seq: Seq(applied.len() as u64),
            tag: tag(applied.last()),
        }
    }

    fn answer(&mut self, event: Event) {
        self.answers.push_back(Command::Event(event));
    }

    /// What a node tells its loop when it starts.
    fn start(&mut self) {
        let (own, me) = (self.tail(), self.region);
        for peer in (0..3).filter(|peer| *peer != me) {
            let (peer, acked) = (RegionId(peer), Position::default());
            self.answer(Event::LaneHeld { peer, acked, own });
        }
        self.answer(Event::Available { upto: own.seq });
    }

    /// An update of the own stream.
    pub fn commit(&mut self, len: usize) {
        let seq = self.outbox.len() as u64 + 1;
        let mut bytes = vec![seq as u8; len.max(10)];
        bytes[..2].copy_from_slice(&self.region.to_le_bytes());
        bytes[2..10].copy_from_slice(&seq.to_le_bytes());
        let mut batch = Batch::default();
        batch.reset(Seq(seq));
        batch.push(&bytes);
        self.outbox.push(bytes);
        self.answers.push_back(Command::Committed(batch));
    }
}

impl Host for Database {
    fn apply(&mut self, stream: RegionId, epoch: Epoch, batch: Batch) {
        let at = usize::from(stream.0);
        assert_ne!(stream.0, self.region, "its own stream comes back");
        if self.epochs[at] == Epoch(0) {
            self.epochs[at] = epoch;
        }
        if self.epochs[at] == epoch {
            for (seq, update) in batch.iter() {
                let applied = &mut self.applied[at];
                assert!(seq.0 <= applied.len() as u64 + 1, "a gap before {seq:?}");
                if seq.0 == applied.len() as u64 + 1 {
                    applied.push(update.to_vec());
                }
            }
            let position = self.position(stream);
            let clean = position.seq;
            self.answer(Event::Applied {
                stream,
                position,
                clean,
            });
        } else {
            let (cause, retry_at) = (ApplyCause::Forked, Instant::from_micros(u64::MAX / 2));
            self.answer(Event::ApplyFailed {
                stream,
                cause,
                retry_at,
            });
        }
        self.answers.push_back(Command::Recycle(batch));
    }

    fn read_position(&mut self, stream: RegionId) {
        let position = self.position(stream);
        let clean = position.seq;
        self.answer(Event::Position {
            stream,
            position,
            clean,
        });
    }

    fn fetch(&mut self, from: Seq, to: Seq) {
        let tail = self.outbox.len() as u64;
        assert!(from.0 >= 1 && from <= to, "{from:?} {to:?}");
        assert!(to.0 <= tail, "what nobody has committed is not asked for");
        let mut batch = Batch::default();
        batch.reset(from);
        let mut upto = from.0 - 1;
        for update in self
            .outbox
            .iter()
            .take(to.0 as usize)
            .skip(from.0 as usize - 1)
            .take(8)
        {
            batch.push(update);
            upto += 1;
        }
        self.answers.push_back(Command::Payloads(batch));
        self.answer(Event::Fetched { upto: Seq(upto) });
    }

    fn verify(&mut self, peer: RegionId, position: Position) {
        let known = position.seq.0 == 0 || self.own(position.seq.0) == Some(position);
        let verdict = if known {
            Verdict::Matches
        } else {
            Verdict::Forked
        };
        self.answer(Event::Verified {
            peer,
            position,
            verdict,
        });
    }

    fn direct(&mut self, peer: RegionId, _: Seq, _: Seq) {
        let why = DirectFailure::Unreachable;
        self.answer(Event::DirectFailed { peer, why });
    }

    fn acked(&mut self, _: RegionId, position: Position, clean: Seq) {
        assert!(clean <= position.seq);
        assert!(
            position.seq.0 <= self.outbox.len() as u64,
            "acknowledged up to {:?}, but there are {}",
            position.seq,
            self.outbox.len()
        );
    }

    fn refused(&mut self, peer: RegionId, refusal: Refusal) {
        let seq = refusal.seq;
        self.answer(Event::RefusalHandled { peer, seq });
    }

    fn refusal_told(&mut self, stream: RegionId, _: Epoch, seq: Seq) {
        let clean = seq.min(self.position(stream).seq);
        self.answer(Event::Clean { stream, clean });
    }

    fn notify(&mut self, _: Notice) {}

    fn snapshot(&mut self, _: &Snapshot) {}
}

/// One that is under way.
pub struct Datagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// A node without a socket.
pub struct Node {
    pub me: u16,
    pub endpoint: Box<Endpoint>,
    pub database: Database,
    buffer: Vec<u8>,
    /// When it wants to be polled again.
    pub wake: Option<Instant>,
}

impl Node {
    pub fn start(config: &EndpointConfig, mut database: Database) -> Self {
        let endpoint = Box::new(Endpoint::new(config).expect("the configuration is fine"));
        database.answers.clear();
        database.start();
        Self {
            me: config.me.0,
            buffer: vec![0; endpoint.max_datagram()],
            endpoint,
            database,
            wake: None,
        }
    }

    pub fn receive(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.endpoint.handle_datagram(now, from, bytes);
    }

    /// Polls until it and its database have nothing more to do.
    pub fn drain(&mut self, now: Instant, out: &mut Vec<Datagram>) {
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 20_000, "poll does not come to a wait");
            match self
                .endpoint
                .poll(now, &mut self.database, &mut self.buffer)
            {
                Step::Transmit { to, len } => out.push(Datagram {
                    from: home(self.me),
                    to,
                    bytes: self.buffer[..len].to_vec(),
                }),
                Step::Wait { deadline, .. } => match self.database.answers.pop_front() {
                    Some(answer) => self.endpoint.handle_command(now, answer),
                    None => {
                        assert!(
                            deadline.is_none_or(|at| at > now),
                            "a deadline that has passed is work, not a wait"
                        );
                        self.wake = deadline;
                        return;
                    }
                },
            }
        }
    }

    /// Memory is bounded, whoever says whatever.
    pub fn assert_bounds(&self) {
        let mut figures = Snapshot::default();
        self.endpoint.fill(&mut figures);
        let limits = limits();
        let inbox = REGIONS.len() as u64 * u64::from(limits.window_bytes + limits.max_update);
        assert!(
            figures.inbox_bytes <= inbox,
            "{} in the inbox",
            figures.inbox_bytes
        );
        let payloads = 2 * limits.payload_bytes as u64 + (1 << 20);
        assert!(
            figures.payload_bytes <= payloads,
            "{} of payloads",
            figures.payload_bytes
        );
    }
}
