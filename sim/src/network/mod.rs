//! Datagrams between the nodes, and what befalls them.
//!
//! ```text
//!   loop of a node --send--> [ cut? lost? damaged? twice? ] --delay--> queue of a socket --> its loop
//! ```
//! A node is named by its index in the configuration. The links of a pair of nodes are two: one each
//! way.

mod drive;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use prism_net::platform::{Key, Simulation as _};

use crate::cluster::Kind;
use crate::rng::Rng;
use crate::sched::{MachineId, World};

pub use drive::{Loop, Watch};

/// How links treat what they carry. Rates are of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Datagrams that vanish.
    pub loss: u32,
    /// Times that the link carries nothing for a while.
    pub burst: u32,
    /// Datagrams that come twice.
    pub twice: u32,
    /// Datagrams that later ones overtake.
    pub late: u32,
    /// Datagrams that are damaged.
    pub damage: u32,
    /// Shortest way.
    pub delay: Duration,
    /// Added to it, at most.
    pub jitter: Duration,
}

impl Link {
    /// One that does what it should.
    #[must_use]
    pub const fn calm(delay: Duration) -> Self {
        Self {
            loss: 0,
            burst: 0,
            twice: 0,
            late: 0,
            damage: 0,
            delay,
            jitter: Duration::from_micros(200),
        }
    }
}

/// How long a link that has a burst of losses carries nothing.
const BURST: std::ops::Range<Duration> = Duration::from_millis(5)..Duration::from_millis(300);
/// How late a datagram is that is overtaken, or comes a second time.
const LATE: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(400);
/// What waits in a socket at most; the rest is lost, as in the kernel.
const SOCKET: usize = 512;

/// A socket. Its number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketId(usize);

impl SocketId {
    /// What whoever reads from it waits at. Odd: no address of anything is.
    const fn key(self) -> Key {
        self.0 * 2 + 1
    }
}

struct Socket {
    machine: MachineId,
    node: usize,
    /// Its address as others see it.
    outside: SocketAddr,
    arrived: VecDeque<(SocketAddr, Vec<u8>)>,
}

/// What happened to datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Given to the network.
    pub sent: u64,
    /// Came to a socket.
    pub delivered: u64,
    /// Vanished.
    pub lost: u64,
    /// Vanished because there was no way.
    pub cut: u64,
    /// Came twice.
    pub twice: u64,
    /// Came damaged.
    pub damaged: u64,
    /// Were overtaken.
    pub late: u64,
}

struct Inner {
    rng: Rng,
    nodes: usize,
    sockets: Vec<Option<Socket>>,
    /// Who gets what is sent to an address.
    at: BTreeMap<SocketAddr, SocketId>,
    /// From each node to each.
    links: Vec<Link>,
    cut: Vec<bool>,
    burst: Vec<Duration>,
    figures: Figures,
}

/// See the module.
pub struct Network {
    world: Rc<World>,
    inner: RefCell<Inner>,
    strikes: Cell<fn(Kind)>,
    checksums: Cell<bool>,
}

impl Network {
    /// Between so many nodes; every link is calm.
    #[must_use]
    pub fn new(world: &Rc<World>, seed: u64, nodes: usize) -> Rc<Self> {
        Rc::new(Self {
            world: Rc::clone(world),
            inner: RefCell::new(Inner {
                rng: Rng::new(seed, "network"),
                nodes,
                sockets: Vec::new(),
                at: BTreeMap::new(),
                links: vec![Link::calm(Duration::from_millis(1)); nodes * nodes],
                cut: vec![false; nodes * nodes],
                burst: vec![Duration::ZERO; nodes * nodes],
                figures: Figures::default(),
            }),
            strikes: Cell::new(|_| {}),
            checksums: Cell::new(false),
        })
    }

    /// Damaged datagrams are dropped on their way, as the checksum of UDP has it. Where packets are
    /// sealed that is not needed.
    pub fn check_sums(&self, check: bool) {
        self.checksums.set(check);
    }

    /// Whom to tell of what befalls a datagram.
    pub fn tell(&self, strikes: fn(Kind)) {
        self.strikes.set(strikes);
    }

    /// A socket of a node at that address. One that had it before gets nothing any more.
    pub fn bind(&self, machine: MachineId, node: usize, address: SocketAddr) -> SocketId {
        let mut inner = self.inner.borrow_mut();
        let id = SocketId(inner.sockets.len());
        inner.sockets.push(Some(Socket {
            machine,
            node,
            outside: address,
            arrived: VecDeque::new(),
        }));
        inner.at.insert(address, id);
        id
    }

    /// The sockets of a machine are gone.
    pub fn close(&self, machine: MachineId) {
        let inner = &mut *self.inner.borrow_mut();
        for socket in &mut inner.sockets {
            socket.take_if(|socket| socket.machine == machine);
        }
        let sockets = &inner.sockets;
        inner.at.retain(|_, id| sockets[id.0].is_some());
    }

    /// What a node sends comes from another address from now on (a router has forgotten it); what is
    /// sent to the old one gets lost. The configured one leads to it still.
    pub fn readdress(&self, node: usize) {
        let inner = &mut *self.inner.borrow_mut();
        for (i, socket) in inner.sockets.iter_mut().enumerate() {
            let Some(socket) = socket.as_mut().filter(|socket| socket.node == node) else {
                continue;
            };
            let old = socket.outside;
            let configured = old.port() < 20_000;
            let mut new = old;
            new.set_port(20_000 + (old.port() % 10_000 + 37) % 10_000);
            socket.outside = new;
            if !configured {
                inner.at.remove(&old);
            }
            inner.at.insert(new, SocketId(i));
        }
    }

    /// How the link from one node to another is from now on.
    pub fn set(&self, from: usize, to: usize, link: Link) {
        let mut inner = self.inner.borrow_mut();
        let at = from * inner.nodes + to;
        inner.links[at] = link;
    }

    /// Whether it carries anything at all.
    pub fn cut(&self, from: usize, to: usize, cut: bool) {
        let mut inner = self.inner.borrow_mut();
        let at = from * inner.nodes + to;
        inner.cut[at] = cut;
    }

    /// What happened so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.inner.borrow().figures
    }

    /// Sends a datagram.
    pub fn send(self: &Rc<Self>, from: SocketId, to: SocketAddr, datagram: &[u8]) {
        let (now, strikes) = (self.world.time(), self.strikes.get());
        let inner = &mut *self.inner.borrow_mut();
        inner.figures.sent += 1;
        self.world.trace.mix_bytes(2, datagram);
        let Some(socket) = &inner.sockets[from.0] else {
            return;
        };
        let (source, node) = (socket.outside, socket.node);
        let Some(&target) = inner.at.get(&to) else {
            inner.figures.cut += 1;
            return;
        };
        let Some(other) = inner.sockets[target.0].as_ref().map(|socket| socket.node) else {
            inner.figures.cut += 1;
            return;
        };
        let at = node * inner.nodes + other;
        let (link, rng) = (inner.links[at], &mut inner.rng);
        if inner.cut[at] {
            inner.figures.cut += 1;
            return;
        }
        if rng.permille(link.burst) {
            inner.burst[at] = now + rng.time(BURST);
            strikes(Kind::Burst);
        }
        if inner.burst[at] > now || rng.permille(link.loss) {
            inner.figures.lost += 1;
            strikes(Kind::Loss);
            return;
        }
        let mut bytes = datagram.to_vec();
        if rng.permille(link.damage) && !bytes.is_empty() {
            inner.figures.damaged += 1;
            strikes(Kind::Corrupt);
            if self.checksums.get() {
                return;
            }
            match rng.below(4) {
                0 => bytes.truncate(rng.index(bytes.len())),
                _ => {
                    let at = rng.index(bytes.len());
                    bytes[at] ^= 1 << rng.below(8);
                }
            }
        }
        let mut copies = 1;
        if rng.permille(link.twice) {
            inner.figures.twice += 1;
            strikes(Kind::Duplicate);
            copies = 2;
        }
        for copy in 0..copies {
            let mut delay = link.delay + rng.time(Duration::ZERO..link.jitter);
            if copy > 0 || rng.permille(link.late) {
                inner.figures.late += u64::from(copy == 0);
                strikes(Kind::Reorder);
                delay += rng.time(LATE);
            }
            let network = Rc::clone(self);
            let bytes = if copy + 1 < copies {
                bytes.clone()
            } else {
                std::mem::take(&mut bytes)
            };
            let arrive = move || network.arrive(target, source, bytes);
            self.world.at(now + delay, arrive);
        }
    }

    fn arrive(&self, target: SocketId, from: SocketAddr, bytes: Vec<u8>) {
        {
            let inner = &mut *self.inner.borrow_mut();
            let Some(socket) = &mut inner.sockets[target.0] else {
                return;
            };
            if socket.arrived.len() >= SOCKET {
                inner.figures.lost += 1;
                return;
            }
            inner.figures.delivered += 1;
            socket.arrived.push_back((from, bytes));
        }
        self.world.wake(target.key(), true);
    }

    /// The next datagram that has arrived.
    fn receive(&self, socket: SocketId) -> Option<(SocketAddr, Vec<u8>)> {
        let mut inner = self.inner.borrow_mut();
        inner.sockets[socket.0].as_mut()?.arrived.pop_front()
    }

    fn has_arrived(&self, socket: SocketId) -> bool {
        let inner = self.inner.borrow();
        let socket = &inner.sockets[socket.0];
        socket
            .as_ref()
            .is_some_and(|socket| !socket.arrived.is_empty())
    }
}
