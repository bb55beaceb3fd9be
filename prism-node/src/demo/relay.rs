//! A bad network on loopback: a UDP relay between nodes that loses, duplicates, damages, delays and
//! reorders, as a seed says. It can also listen, and repeat what it has heard.
//!
//! ```text
//!   NA1 (bind_udp 7101) --> [udp of EU1] relay [udp of NA1] --> EU1 (bind_udp 7201)
//! ```
//! Every node has a socket here, whose address the others know as that node's. A datagram that
//! arrives at EU1's socket is sent on from its sender's socket, so EU1 sees the address that it
//! expects, and its answer passes the relay as well.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};

/// Largest datagram that UDP carries.
const DATAGRAM: usize = 65_535;
/// Datagrams taken from one socket before the others have their turn.
const TURN: usize = 64;
/// Datagrams that are kept while somebody listens.
const TAPE: usize = 16_384;
/// What a reordered datagram is late by, at most.
const LATE: Duration = Duration::from_millis(8);

/// What happens to datagrams from one node to another.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Link {
    /// Share that is lost; 1.0 is a cut cable.
    pub loss: f64,
    /// Share that arrives twice.
    pub duplicate: f64,
    /// Share that is overtaken by later ones.
    pub reorder: f64,
    /// Share of which one bit is flipped.
    pub damage: f64,
    /// What every datagram takes.
    pub delay: Duration,
}

impl Link {
    /// Nothing gets through.
    pub const CUT: Self = Self {
        loss: 1.0,
        duplicate: 0.0,
        reorder: 0.0,
        damage: 0.0,
        delay: Duration::ZERO,
    };

    /// Loses this share, and duplicates and reorders a part of it.
    #[must_use]
    pub fn lossy(loss: f64) -> Self {
        Self {
            loss,
            duplicate: (loss / 2.0).min(0.05),
            reorder: (loss / 2.0).min(0.05),
            ..Self::default()
        }
    }
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed on, duplicates included.
    pub forwarded: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Sent late.
    pub reordered: u64,
    /// Sent with a flipped bit.
    pub damaged: u64,
}

/// A datagram as it was passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The node that it came from.
    pub from: usize,
    /// The node that it was for.
    pub to: usize,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    forwarded: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
    damaged: AtomicU64,
    /// What is heard while somebody listens.
    tape: Mutex<Option<Vec<Heard>>>,
    /// `links[from][to]`.
    links: Mutex<Vec<Vec<Link>>>,
}

/// See the module. Stops when it is dropped.
#[derive(Debug)]
pub struct Relay {
    public: Vec<SocketAddr>,
    real: Vec<SocketAddr>,
    /// The thread's sockets, for [`Relay::inject`].
    sockets: Vec<std::net::UdpSocket>,
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// A relay between the nodes that are bound to these addresses. All links are good at first.
    ///
    /// # Errors
    /// What the system says to sockets and threads.
    pub fn start(real: Vec<SocketAddr>, seed: u64) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), Token(real.len()))?;
        let mut sockets = Vec::new();
        let mut clones = Vec::new();
        let mut public = Vec::new();
        for i in 0..real.len() {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true)?;
            clones.push(socket.try_clone()?);
            let mut socket = UdpSocket::from_std(socket);
            poll.registry()
                .register(&mut socket, Token(i), Interest::READABLE)?;
            public.push(socket.local_addr()?);
            sockets.push(socket);
        }
        let shared = Arc::new(Shared {
            links: Mutex::new(vec![vec![Link::default(); real.len()]; real.len()]),
            ..Shared::default()
        });
        let mut work = Work {
            real: real.clone(),
            sockets,
            shared: Arc::clone(&shared),
            random: Random(seed),
            late: BinaryHeap::new(),
            order: 0,
        };
        let thread = std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || work.run(poll))?;
        Ok(Self {
            public,
            real,
            sockets: clones,
            shared,
            waker,
            thread: Some(thread),
        })
    }

    /// The address that others know node `i` by.
    #[must_use]
    pub fn public(&self, i: usize) -> SocketAddr {
        self.public[i]
    }

    /// Changes the link from one node to another (one direction).
    pub fn set(&self, from: usize, to: usize, link: Link) {
        let mut links = self.links();
        links[from][to] = link;
    }

    /// Changes all links.
    pub fn set_all(&self, link: Link) {
        let mut links = self.links();
        links.iter_mut().flatten().for_each(|l| *l = link);
    }

    fn links(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Link>>> {
        self.shared
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            forwarded: get(&self.shared.forwarded),
            lost: get(&self.shared.lost),
            duplicated: get(&self.shared.duplicated),
            reordered: get(&self.shared.reordered),
            damaged: get(&self.shared.damaged),
        }
    }

    /// Begins to keep what is passed on, up to `TAPE` datagrams.
    pub fn listen(&self) {
        *self.tape() = Some(Vec::new());
    }

    /// What has been heard since [`listen`](Self::listen); goes on listening.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        self.tape().clone().unwrap_or_default()
    }

    fn tape(&self) -> std::sync::MutexGuard<'_, Option<Vec<Heard>>> {
        let tape = &self.shared.tape;
        tape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a datagram to node `to` that seems to come from node `from`.
    ///
    /// # Errors
    /// What the system says.
    pub fn inject(&self, from: usize, to: usize, datagram: &[u8]) -> io::Result<()> {
        self.sockets[from].send_to(datagram, self.real[to])?;
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A datagram on its way: due time and order (so that equal times keep their order), route, bytes.
type Late = Reverse<(Instant, u64, usize, usize, Vec<u8>)>;

/// What the thread owns.
struct Work {
    real: Vec<SocketAddr>,
    sockets: Vec<UdpSocket>,
    shared: Arc<Shared>,
    random: Random,
    late: BinaryHeap<Late>,
    order: u64,
}

impl Work {
    fn run(&mut self, mut poll: Poll) {
        let mut events = Events::with_capacity(64);
        let mut buffer = vec![0; DATAGRAM];
        // Edge-triggered: a socket stays on the list until it has said that there is no more.
        let mut readable = vec![true; self.sockets.len()];
        while !self.shared.stop.load(Ordering::Relaxed) {
            for (i, readable) in readable.iter_mut().enumerate() {
                if *readable {
                    *readable = self.receive(i, &mut buffer);
                }
            }
            self.deliver_late();
            let due = self.late.peek().map(|Reverse((at, ..))| *at);
            let timeout = if readable.contains(&true) {
                Some(Duration::ZERO)
            } else {
                due.map(|at| at.saturating_duration_since(Instant::now()))
            };
            if let Err(error) = poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!("the relay cannot wait for events: {error}");
                return;
            }
            for event in &events {
                if let Some(readable) = readable.get_mut(event.token().0) {
                    *readable = true;
                }
            }
        }
    }

    /// A turn of one socket; true if there may be more.
    fn receive(&mut self, to: usize, buffer: &mut [u8]) -> bool {
        for _ in 0..TURN {
            match self.sockets[to].recv_from(buffer) {
                Ok((len, source)) => {
                    // Strangers do not get a way in through here.
                    if let Some(from) = self.real.iter().position(|real| *real == source) {
                        self.pass(from, to, &mut buffer[..len]);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // An earlier datagram found nobody (ICMP): that node is down, and that is no
                // concern of this one.
                Err(_) => {}
            }
        }
        true
    }

    fn pass(&mut self, from: usize, to: usize, datagram: &mut [u8]) {
        let link = self
            .shared
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner)[from][to];
        if self.random.chance(link.loss) {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.random.chance(link.damage) && !datagram.is_empty() {
            self.shared.damaged.fetch_add(1, Ordering::Relaxed);
            let bit = self.random.below(8 * datagram.len());
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
        let copies = if self.random.chance(link.duplicate) {
            self.shared.duplicated.fetch_add(1, Ordering::Relaxed);
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut delay = link.delay;
            if self.random.chance(link.reorder) {
                self.shared.reordered.fetch_add(1, Ordering::Relaxed);
                delay += LATE.mul_f64(self.random.share());
            }
            if delay.is_zero() {
                self.send(from, to, datagram);
            } else {
                self.order += 1;
                let at = Instant::now() + delay;
                let late = (at, self.order, from, to, datagram.to_vec());
                self.late.push(Reverse(late));
            }
        }
    }

    fn deliver_late(&mut self) {
        let now = Instant::now();
        while self.late.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            if let Some(Reverse((_, _, from, to, datagram))) = self.late.pop() {
                self.send(from, to, &datagram);
            }
        }
    }

    fn send(&self, from: usize, to: usize, datagram: &[u8]) {
        let tape = &self.shared.tape;
        if let Some(tape) = &mut *tape.lock().unwrap_or_else(PoisonError::into_inner)
            && tape.len() < TAPE
        {
            let bytes = datagram.to_vec();
            tape.push(Heard { from, to, bytes });
        }
        // What the kernel does not take is lost, as on any network.
        if self.sockets[from].send_to(datagram, self.real[to]).is_ok() {
            self.shared.forwarded.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// SplitMix64: small, and good enough to lose packets by.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// From 0 up to but not including 1.
    pub fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// All 64.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to but not including `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.share() * end as f64) as usize).min(end - 1)
    }

    /// True with this probability.
    pub fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.share() < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket as Std;

    fn node() -> Std {
        let socket = Std::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let wait = Some(Duration::from_secs(10));
        socket.set_read_timeout(wait).expect("timeout");
        socket
    }

    fn pair() -> (Std, Std, Relay) {
        let (a, b) = (node(), node());
        let real = vec![a.local_addr().expect("a"), b.local_addr().expect("b")];
        let relay = Relay::start(real, 7).expect("relay");
        (a, b, relay)
    }

    #[test]
    fn the_receiver_sees_the_sender_under_its_public_address() {
        let (a, b, relay) = pair();
        let mut buffer = [0; 16];
        a.send_to(b"ping", relay.public(1)).expect("send");
        let (len, from) = b.recv_from(&mut buffer).expect("arrives");
        assert_eq!((&buffer[..len], from), (&b"ping"[..], relay.public(0)));
        b.send_to(b"pong", from).expect("send");
        let (len, from) = a.recv_from(&mut buffer).expect("arrives");
        assert_eq!((&buffer[..len], from), (&b"pong"[..], relay.public(1)));
    }

    #[test]
    fn a_cut_is_one_way_and_heals() {
        let (a, b, relay) = pair();
        relay.set(0, 1, Link::CUT);
        a.send_to(b"lost", relay.public(1)).expect("send");
        let deadline = Instant::now() + Duration::from_secs(10);
        while relay.counts().lost < 1 {
            assert!(Instant::now() < deadline, "the datagram was not lost");
            std::thread::yield_now();
        }
        b.send_to(b"back", relay.public(0)).expect("send");
        let mut buffer = [0; 16];
        let (len, _) = a.recv_from(&mut buffer).expect("arrives");
        assert_eq!(&buffer[..len], b"back");
        relay.set(0, 1, Link::default());
        a.send_to(b"healed", relay.public(1)).expect("send");
        let (len, _) = b.recv_from(&mut buffer).expect("arrives");
        assert_eq!(&buffer[..len], b"healed");
    }

    #[test]
    fn a_listener_hears_and_repeats() {
        let (a, b, relay) = pair();
        let mut buffer = [0; 16];
        relay.listen();
        a.send_to(b"secret", relay.public(1)).expect("send");
        b.recv_from(&mut buffer).expect("arrives");
        let heard = relay.heard();
        assert_eq!(heard[0].bytes, b"secret");
        relay.inject(0, 1, &heard[0].bytes).expect("send");
        let (len, from) = b.recv_from(&mut buffer).expect("arrives");
        assert_eq!((&buffer[..len], from), (&b"secret"[..], relay.public(0)));
    }

    #[test]
    fn damage_is_one_bit() {
        let (a, b, relay) = pair();
        relay.set(
            0,
            1,
            Link {
                damage: 1.0,
                ..Link::default()
            },
        );
        a.send_to(&[0; 16], relay.public(1)).expect("send");
        let mut buffer = [0; 16];
        b.recv_from(&mut buffer).expect("arrives");
        assert_eq!(u128::from_le_bytes(buffer).count_ones(), 1);
        assert_eq!(relay.counts().damaged, 1);
    }

    #[test]
    fn loss_comes_as_often_as_asked_and_the_same_again_for_a_seed() {
        let run = |seed| {
            let mut random = Random(seed);
            (0..10_000).filter(|_| random.chance(0.2)).count()
        };
        assert_eq!(run(3), run(3));
        assert!((1_800..2_200).contains(&run(3)), "{}", run(3));
    }
}
