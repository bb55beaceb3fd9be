//! One node of the search: the real engine, the host's memory beside it, and its own clock.

use std::time::Duration;

use prism_proto::wire::{Frame, decode};
use prism_proto::{
    ApplyCause, Config, DirectFailure, Engine, Epoch, Event, Inbox, InboxFull, Instant, NodeConfig,
    NodeId, Notice, Output, PacketSlot, Payloads, Position, RecvSlot, RegionConfig, RegionId,
    RegionKey, Retry, Seq, Storage, Tag, UpdateSlot, Verdict,
};

use super::setup::Setup;

/// `NA1`, the origin, and the two nodes of the peer region.
pub const NODES: usize = 3;
/// The nodes' names.
pub const NAMES: [&str; NODES] = ["NA1", "EU1", "EU2"];
const ORIGIN: RegionId = RegionId(0);
const PEER: RegionId = RegionId(1);
const EPOCH: Epoch = Epoch(0xe0);
/// More outputs to one input are a loop that does not end.
const OUTPUTS: usize = 64;

/// The engine's windows, on the heap.
#[derive(Debug, Clone, Copy)]
pub struct Heap;

impl Storage for Heap {
    type Updates = Box<[UpdateSlot]>;
    type Packets = Box<[PacketSlot]>;
    type Received = Box<[RecvSlot]>;

    fn updates(&mut self, len: usize) -> Self::Updates {
        vec![UpdateSlot::EMPTY; len].into()
    }
    fn packets(&mut self, len: usize) -> Self::Packets {
        vec![PacketSlot::EMPTY; len].into()
    }
    fn received(&mut self, len: usize) -> Self::Received {
        vec![RecvSlot::EMPTY; len].into()
    }
}

/// What happens to a node. Updates are counted from 1, whatever number the stream begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Input {
    /// Time passes, in microseconds.
    Pass(u64),
    /// A datagram of that node; which one, by its number among all bodies.
    Datagram(u8, u32),
    /// A session with that node stands.
    Up(u8),
    /// That node was restarted, and a session with the new process stands.
    Renewed(u8),
    /// The process has started and holds the lane; what the lane row and the outbox say.
    Held {
        /// Acknowledged according to the lane row.
        row: u8,
        /// Tail of the outbox.
        tail: u8,
    },
    /// An update was committed here.
    Submit(u8),
    /// Updates up to this one were read back from the outbox.
    Fetched(u8, u8),
    /// The outbox's verdict on a peer's position: whether that lies on the stream.
    Verified(u8, bool),
    /// The watermark was read.
    Position(u8),
    /// The database committed up to here.
    Applied(u8),
    /// The database could not be reached.
    Unreachable,
    /// The direct path committed up to here.
    DirectDone(u8),
    /// The direct path failed.
    DirectFailed,
}

/// What a node wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A datagram for that node.
    Send(u8, u32),
    /// A handshake with that node.
    Call(u8),
    /// The watermark.
    Read,
    /// These updates applied.
    Apply(u8, u8),
    /// A position judged.
    Verify(u8),
    /// Updates in memory.
    Fetch(u8, u8),
    /// Direct SQL: acknowledged so far, and last wanted.
    Direct(u8, u8),
    /// The lane row.
    Acked(u8),
    /// A line for people.
    Note(Notice),
}

/// The bytes of datagrams, each numbered once.
#[derive(Debug, Default)]
pub struct Bodies {
    list: Vec<Box<[u8]>>,
    numbers: std::collections::HashMap<Box<[u8]>, u32>,
}

impl Bodies {
    fn number(&mut self, bytes: &[u8]) -> u32 {
        if let Some(known) = self.numbers.get(bytes) {
            return *known;
        }
        let number = self.list.len() as u32;
        self.list.push(bytes.into());
        self.numbers.insert(bytes.into(), number);
        number
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The bytes of this number.
    #[must_use]
    pub fn get(&self, number: u32) -> &[u8] {
        &self.list[number as usize]
    }
}

/// Own updates in memory, and received ones: which pieces are here. Their bytes are a function of
/// their number.
#[derive(Debug, Clone)]
struct Memory {
    own: u8,
    arrived: [u8; 4],
    /// Something that must not happen has.
    wrong: Option<&'static str>,
}

/// The update's bytes.
fn payload(setup: &Setup, update: u8) -> &'static [u8] {
    const BYTES: [[u8; 700]; 4] = [[0; 700], [11; 700], [22; 700], [33; 700]];
    static ALL: [[u8; 700]; 4] = BYTES;
    let len = if setup.large == Some(update) { 700 } else { 8 };
    &ALL[usize::from(update)][..len]
}

struct Host<'a> {
    memory: &'a mut Memory,
    setup: &'a Setup,
}

impl Payloads for Host<'_> {
    fn get(&self, seq: Seq) -> Option<&[u8]> {
        let update = self.setup.update(seq)?;
        (self.memory.own >> update & 1 == 1).then(|| payload(self.setup, update))
    }
}

impl Inbox for Host<'_> {
    fn put(
        &mut self,
        stream: RegionId,
        seq: Seq,
        total: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), InboxFull> {
        let update = self.setup.update(seq).unwrap_or(0);
        let want = payload(self.setup, update);
        if stream != ORIGIN || update == 0 || total != want.len() {
            self.memory.wrong = Some("an update that nobody has submitted is kept");
        } else if want.get(offset..offset + bytes.len()) != Some(bytes) {
            self.memory.wrong = Some("an update has changed on its way");
        } else {
            let piece = if offset == 0 { 1 } else { 2 };
            self.memory.arrived[usize::from(update)] |= piece;
            if bytes.len() == total {
                self.memory.arrived[usize::from(update)] = 3;
            }
        }
        Ok(())
    }

    fn release(&mut self, _: RegionId, upto: Seq) {
        for update in 1..=self.setup.update(upto).unwrap_or(0) {
            self.memory.arrived[usize::from(update)] = 0;
        }
    }

    fn clear(&mut self, _: RegionId) {
        self.memory.arrived = [0; 4];
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Node {
    engine: Box<Engine<Heap>>,
    memory: Memory,
    now: u64,
    deadline: Option<u64>,
}

impl Node {
    /// A process that has just started, for the `life`th time.
    #[must_use]
    pub fn start(setup: &Setup, me: u8, life: u8) -> Self {
        let node = |id, region| NodeConfig {
            id: NodeId(id),
            region,
        };
        let region = |id: RegionId, name| RegionConfig {
            id,
            key: RegionKey::of(name),
            direct: true,
        };
        let nodes = [node(0, ORIGIN), node(1, PEER), node(2, PEER)];
        let regions = [region(ORIGIN, "NA"), region(PEER, "EU")];
        let seed = u64::from(me) * 8 + u64::from(life) + 1;
        let config = Config {
            retry: Retry {
                max_retries: setup.max_retries,
                ..Retry::default()
            },
            mtu: 576,
            window: setup.window.into(),
            window_bytes: 4096,
            max_update: 1024,
            in_flight: 64 << 10,
            ..Config::new(NodeId(me.into()), &nodes, &regions, seed)
        };
        let mut engine = Box::new(Engine::new(&config, &mut Heap).expect("it fits"));
        engine.without_jitter();
        engine.number_from(setup.packets, setup.openings);
        Self {
            engine,
            memory: Memory {
                own: 0,
                arrived: [0; 4],
                wrong: None,
            },
            now: setup.time,
            deadline: None,
        }
    }

    /// Takes an input; what the node wants done in the end, in order.
    ///
    /// # Errors
    /// What a node must never do.
    pub fn step(
        &mut self,
        setup: &Setup,
        input: Input,
        bodies: &mut Bodies,
    ) -> Result<Vec<Want>, String> {
        if let Input::Pass(us) = input {
            self.now = self.now.saturating_add(us);
            if self.deadline.is_none_or(|at| at > self.now) {
                return Ok(Vec::new());
            }
        }
        let now = Instant::from_micros(self.now);
        let mut host = Host {
            memory: &mut self.memory,
            setup,
        };
        let at = |update| setup.position(update);
        let event = match input {
            Input::Pass(_) => None,
            Input::Datagram(from, body) => {
                let from = NodeId(from.into());
                (self.engine).handle_datagram(now, from, bodies.get(body), &mut host);
                None
            }
            Input::Up(node) => Some(Event::NodeUp {
                node: NodeId(node.into()),
            }),
            Input::Renewed(node) => {
                let node = NodeId(node.into());
                (self.engine).handle_event(now, Event::NodeDown { node }, &mut host);
                Some(Event::NodeUp { node })
            }
            Input::Held { row, tail } => Some(Event::LaneHeld {
                peer: PEER,
                acked: at(row),
                own: Position {
                    epoch: EPOCH,
                    ..at(tail)
                },
            }),
            Input::Submit(update) => {
                host.memory.own |= 1 << update;
                let upto = setup.seq(update);
                Some(Event::Available { upto })
            }
            Input::Fetched(from, upto) => {
                for update in from..=upto {
                    host.memory.own |= 1 << update;
                }
                let upto = setup.seq(upto);
                Some(Event::Fetched { upto })
            }
            Input::Verified(update, matches) => Some(Event::Verified {
                peer: PEER,
                position: at(update),
                verdict: match matches {
                    true => Verdict::Matches,
                    false => Verdict::Forked,
                },
            }),
            Input::Position(update) => Some(Event::Position {
                stream: ORIGIN,
                position: at(update),
                clean: at(update).seq,
            }),
            Input::Applied(update) => Some(Event::Applied {
                stream: ORIGIN,
                position: at(update),
                clean: at(update).seq,
            }),
            Input::Unreachable => Some(Event::ApplyFailed {
                stream: ORIGIN,
                cause: ApplyCause::Unreachable,
                retry_at: now.after(Duration::from_secs(1)),
            }),
            Input::DirectDone(update) => Some(Event::DirectDone {
                peer: PEER,
                position: at(update),
                clean: at(update).seq,
            }),
            Input::DirectFailed => Some(Event::DirectFailed {
                peer: PEER,
                why: DirectFailure::Unreachable,
            }),
        };
        if let Some(event) = event {
            self.engine.handle_event(now, event, &mut host);
        }
        self.drain(setup, bodies)
    }

    fn drain(&mut self, setup: &Setup, bodies: &mut Bodies) -> Result<Vec<Want>, String> {
        let now = Instant::from_micros(self.now);
        let mut wants = Vec::new();
        let mut buffer = [0; 576];
        let update = |seq: Seq| {
            let update = setup.update(seq);
            update.ok_or_else(|| format!("it speaks of {seq:?}, which does not exist"))
        };
        for _ in 0..OUTPUTS {
            let host = Host {
                memory: &mut self.memory,
                setup,
            };
            let output = self.engine.poll(now, &host, &mut buffer);
            if let Some(wrong) = self.memory.wrong.take() {
                return Err(wrong.to_owned());
            }
            wants.push(match output {
                Output::Transmit { to, len } => {
                    Want::Send(to.0 as u8, bodies.number(&buffer[..len]))
                }
                Output::Connect { to } => Want::Call(to.0 as u8),
                Output::ReadPosition { .. } => Want::Read,
                Output::Verify { position, .. } => Want::Verify(update(position.seq)?),
                Output::Fetch { from, to } => Want::Fetch(update(from)?, update(to)?),
                Output::Direct { after, upto, .. } => Want::Direct(update(after)?, update(upto)?),
                Output::Acked {
                    position, clean, ..
                } if clean <= position.seq => Want::Acked(update(position.seq)?),
                Output::Apply {
                    epoch, from, to, ..
                } if epoch == EPOCH => {
                    let (from, to) = (update(from)?, update(to)?);
                    for update in from..=to {
                        if self.memory.arrived[usize::from(update)] != 3 {
                            return Err(format!("it applies {update}, which has not arrived"));
                        }
                    }
                    Want::Apply(from, to)
                }
                Output::Notify(
                    notice @ (Notice::LaneStopped { .. }
                    | Notice::Dropped { .. }
                    | Notice::Violation { .. }
                    | Notice::RowsMissing { .. }),
                ) => return Err(format!("{notice:?}, without any reason")),
                Output::Notify(notice) => Want::Note(notice),
                Output::Wait { deadline, reason } => {
                    if deadline.is_some_and(|at| at <= now && self.now < u64::MAX - 1) {
                        return Err(format!("a busy loop: it waits for {reason:?} in the past"));
                    }
                    if self.lane().2 > u64::from(setup.window) {
                        return Err("more in flight than the window holds".to_owned());
                    }
                    self.deadline = deadline.map(Instant::as_micros);
                    return Ok(wants);
                }
                other => return Err(format!("{other:?}, which nobody can want")),
            });
        }
        Err("poll does not come to a wait".to_owned())
    }

    /// Microseconds until it wants to be polled again.
    #[must_use]
    pub fn rest(&self) -> Option<u64> {
        self.deadline.map(|at| at.saturating_sub(self.now))
    }

    /// What the lane to the peer region has been told: applied and clean up to here, and how many are
    /// in the window.
    #[must_use]
    pub fn lane(&self) -> (Seq, Seq, u64) {
        let stats = self.engine.lane_stats(PEER);
        (stats.acked.seq, stats.clean, stats.in_window)
    }

    /// Feeds everything that decides what it will do into `state`.
    pub fn fingerprint(&self, state: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        let mut engine = self.engine.clone();
        engine.canonical(Instant::from_micros(self.now));
        engine.hash(state);
        (self.memory.own, self.memory.arrived, self.rest()).hash(state);
    }
}

impl Setup {
    /// The number of an update in the stream.
    #[must_use]
    pub const fn seq(&self, update: u8) -> Seq {
        Seq(self.before + update as u64)
    }

    /// The update with this number; 0 is the one before the first.
    #[must_use]
    pub fn update(&self, seq: Seq) -> Option<u8> {
        let ahead = seq.0.checked_sub(self.before)?;
        u8::try_from(ahead).ok().filter(|update| *update <= 3)
    }

    fn position(&self, update: u8) -> Position {
        let seq = self.seq(update);
        if seq == Seq::ZERO {
            // What the ledger holds of a stream of which nothing was ever applied.
            return Position::default();
        }
        Position {
            epoch: EPOCH,
            seq,
            tag: Tag(0x7a6_0000 + u64::from(update)),
        }
    }
}

/// A datagram's packet number, and the furthest position of the peer's database that it tells of.
#[must_use]
pub fn label(bytes: &[u8]) -> (u64, Option<Seq>) {
    let Ok((header, frames)) = decode(bytes) else {
        return (0, None);
    };
    let claims = frames.filter_map(|frame| match frame {
        Frame::Ack(ack) => ack.progress.map(|progress| progress.position.seq),
        Frame::Welcome { position, .. } => Some(position.seq),
        _ => None,
    });
    (header.pn, claims.max())
}
