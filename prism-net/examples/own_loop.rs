//! The core in a packet loop of one's own: `prism-proto` over `std::net::UdpSocket`.
//!
//! ```text
//! cargo run -p prism-net --example own_loop
//! ```
//!
//! Two regions, NA and EU, each in a thread with a socket, a clock, an engine and a "database" in
//! memory. Both submit updates, every tenth datagram is thrown away, and in the end both databases
//! have every update once. Only `prism_proto` is used: no mio, no `Driver`, no sessions.
//!
//! To put the core into an existing loop, five things are needed, and they stand in this file in
//! this order:
//!
//! 1. memory for the engine's windows            [`Heap`] implements `Storage`
//! 2. where the bytes of own updates are         [`Outbox`] implements `Payloads`
//! 3. where received updates wait                [`Arrivals`] implements `Inbox`
//! 4. what the engine asks the database for      [`Region::perform`], one arm per `Output`
//! 5. the loop itself                            [`Region::run`]: feed, drain, wait
//!
//! What this example leaves out and a real loop must have: packets that are authenticated (here the
//! sender's address is believed, which is good enough on loopback only), a session per peer process
//! so that a restarted peer is told to the engine as `NodeDown` + `NodeUp`, and a database on
//! another thread so that a slow commit does not hold up the packets. `prism_net::Endpoint` and
//! `prism_net::Driver` are those parts, ready made.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant as Clock};

use prism_proto::{
    Config, DirectFailure, Engine, Epoch, Event, Inbox, InboxFull, Instant, NodeConfig, NodeId,
    Output, PacketSlot, Payloads, Position, RecvSlot, RegionConfig, RegionId, RegionKey, Seq,
    Storage, Tag, UpdateSlot, Verdict,
};

/// How many updates each region submits.
const UPDATES: u64 = 2000;
const NAMES: [&str; 2] = ["NA", "EU"];

// ---------------------------------------------------------------------------------------------
// 1. Memory. The engine never allocates; it asks once, at construction, for its arrays. A firmware
//    would hand out `&'static mut [T]`, everybody else uses the heap.

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

// ---------------------------------------------------------------------------------------------
// 2. Own updates. The engine remembers numbers, never bytes: while it writes a datagram it asks for
//    the bytes of update `seq`. Here all of them stay in memory. A store that forgets old ones
//    returns `None`; the engine then says `Fetch` and waits for `Fetched`.

#[derive(Default)]
struct Outbox(Vec<Vec<u8>>);

impl Payloads for Outbox {
    fn get(&self, seq: Seq) -> Option<&[u8]> {
        // Streams are numbered from 1.
        let at = usize::try_from(seq.0.checked_sub(1)?).ok()?;
        self.0.get(at).map(Vec::as_slice)
    }
}

// ---------------------------------------------------------------------------------------------
// 3. Received updates. They arrive in any order, large ones in pieces. The engine calls `put` for
//    each piece once, never beyond the credit that it has granted, and says `Apply` when a range is
//    complete. With one peer region there is one stream; with more, keep them apart.

#[derive(Default)]
struct Arrivals(BTreeMap<u64, Vec<u8>>);

impl Inbox for Arrivals {
    fn put(
        &mut self,
        _stream: RegionId,
        seq: Seq,
        total: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), InboxFull> {
        let update = self.0.entry(seq.0).or_insert_with(|| vec![0; total]);
        // `InboxFull` makes the packet count as lost: it will be sent again.
        if update.len() != total {
            return Err(InboxFull);
        }
        let place = update
            .get_mut(offset..offset + bytes.len())
            .ok_or(InboxFull)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn release(&mut self, _stream: RegionId, upto: Seq) {
        self.0 = self.0.split_off(&(upto.0 + 1));
    }

    fn clear(&mut self, _stream: RegionId) {
        self.0.clear();
    }
}

// ---------------------------------------------------------------------------------------------
// The "database" of a region: what it has applied of the other region's stream, and how far. In a
// real one the watermark and the updates are committed in *one* transaction: that, and nothing in
// the network, is what makes an update happen exactly once.

#[derive(Default)]
struct Database {
    sum: u64,
    watermark: Position,
}

impl Database {
    /// One transaction.
    fn apply(&mut self, epoch: Epoch, updates: impl Iterator<Item = (u64, Vec<u8>)>) {
        for (seq, update) in updates {
            // Somebody else may have applied it already: skip. (Two nodes of a region, or the peer
            // itself by direct SQL.) A gap, however, can never be.
            if seq <= self.watermark.seq.0 {
                continue;
            }
            assert_eq!(
                seq,
                self.watermark.seq.0 + 1,
                "the engine has promised order"
            );
            // The update: "add this number". Twice would be wrong, and so would be never.
            self.sum += u64::from_le_bytes(update[..8].try_into().expect("eight bytes"));
            self.watermark = Position {
                epoch,
                seq: Seq(seq),
                tag: tag(seq),
            };
        }
    }
}

/// Which update was `seq`: a random number in a real outbox, so that a restored backup is noticed.
fn tag(seq: u64) -> Tag {
    Tag(seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
}

// ---------------------------------------------------------------------------------------------

struct Region {
    me: usize,
    engine: Engine<Heap>,
    outbox: Outbox,
    arrivals: Arrivals,
    database: Database,
    epoch: Epoch,
    acked: u64,
    socket: UdpSocket,
    peers: [SocketAddr; 2],
    start: Clock,
    sent: u64,
    received: u64,
    thrown_away: u64,
}

impl Region {
    fn new(me: usize, socket: UdpSocket, peers: [SocketAddr; 2]) -> Self {
        // Everybody is named by a small number: the place in these lists, which are the same on
        // every node.
        let nodes = [0, 1].map(|i| NodeConfig {
            id: NodeId(i),
            region: RegionId(i),
        });
        let regions = [0, 1].map(|i| RegionConfig {
            id: RegionId(i),
            key: RegionKey::of(NAMES[usize::from(i)]),
            // There is no SQL here, so the ladder has no `Direct` rung.
            direct: false,
        });
        // The seed must differ at every start (here the clock will do): it also tells the peer that
        // this is another process than before.
        let seed = std::time::UNIX_EPOCH
            .elapsed()
            .map_or(1, |t| t.as_nanos() as u64);
        let config = Config::new(NodeId(me as u16), &nodes, &regions, seed + me as u64);
        Self {
            me,
            engine: Engine::new(&config, &mut Heap).expect("two regions fit"),
            outbox: Outbox::default(),
            arrivals: Arrivals::default(),
            database: Database::default(),
            epoch: Epoch(1000 + me as u64),
            acked: 0,
            socket,
            peers,
            start: Clock::now(),
            sent: 0,
            received: 0,
            thrown_away: 0,
        }
    }

    /// The engine has no clock: time is an argument, microseconds from any beginning.
    fn now(&self) -> Instant {
        Instant::from_micros(self.start.elapsed().as_micros() as u64)
    }

    fn tell(&mut self, event: Event) {
        let now = self.now();
        self.engine.handle_event(now, event, &mut self.arrivals);
    }

    /// Commits `count` updates in the own "database" and tells the engine the new tail. Nothing is
    /// copied into the engine.
    fn submit(&mut self, count: u64) {
        for _ in 0..count {
            let n = self.outbox.0.len() as u64 + 1;
            self.outbox.0.push(n.to_le_bytes().repeat(8));
        }
        let upto = Seq(self.outbox.0.len() as u64);
        self.tell(Event::Available { upto });
    }

    // 4. Everything that the engine may ask for. Each request has its answer, sooner or later; the
    //    engine never asks twice before it has it.
    fn perform(&mut self, output: Output) {
        match output {
            Output::ReadPosition { stream } => {
                let position = self.database.watermark;
                // Nothing is ever refused here, so all that is applied is clean.
                let clean = position.seq;
                self.tell(Event::Position {
                    stream,
                    position,
                    clean,
                });
            }
            Output::Apply {
                stream,
                epoch,
                from,
                to,
            } => {
                let range = self.arrivals.0.range(from.0..=to.0);
                let updates: Vec<_> = range.map(|(&seq, bytes)| (seq, bytes.clone())).collect();
                self.database.apply(epoch, updates.into_iter());
                let position = self.database.watermark;
                let clean = position.seq;
                self.tell(Event::Applied {
                    stream,
                    position,
                    clean,
                });
            }
            Output::Verify { peer, position } => {
                // The peer says how far its database is. Does that lie on this stream?
                let known = position.seq <= Seq(self.outbox.0.len() as u64)
                    && (position.seq == Seq(0)
                        || position.epoch == self.epoch && position.tag == tag(position.seq.0));
                let verdict = if known {
                    Verdict::Matches
                } else {
                    Verdict::Forked
                };
                self.tell(Event::Verified {
                    peer,
                    position,
                    verdict,
                });
            }
            Output::Fetch { to, .. } => self.tell(Event::Fetched { upto: to }),
            Output::Direct { peer, .. } => self.tell(Event::DirectFailed {
                peer,
                why: DirectFailure::Unreachable,
            }),
            Output::Acked { position, .. } => self.acked = position.seq.0,
            Output::Connect { .. } => { /* a handshake packet, if there were handshakes */ }
            Output::Notify(notice) => println!("{}: {notice:?}", NAMES[self.me]),
            _ => {}
        }
    }

    // 5. The loop: feed what has come in, drain `poll` until it says `Wait`, sleep until a datagram
    //    comes or the deadline has passed.
    fn run(mut self, finished: &AtomicUsize) -> Self {
        let peer = 1 - self.me;
        let (node, region) = (NodeId(peer as u16), RegionId(peer as u16));
        // What a node tells its engine at the start: which lanes are its own (with what the
        // database remembers of them), and which peers can be reached.
        self.tell(Event::LaneHeld {
            peer: region,
            acked: Position::default(),
            own: Position {
                epoch: self.epoch,
                ..Position::default()
            },
        });
        self.tell(Event::NodeUp { node });

        let mut incoming = [0; 2048];
        let mut outgoing = [0; 1200];
        let mut done = false;
        loop {
            // Some new work in every round, as if clients were submitting.
            let submitted = self.outbox.0.len() as u64;
            if submitted < UPDATES {
                self.submit(25.min(UPDATES - submitted));
            }

            let deadline = loop {
                let now = self.now();
                match self.engine.poll(now, &self.outbox, &mut outgoing) {
                    Output::Transmit { to, len } => {
                        self.sent += 1;
                        let to = self.peers[usize::from(to.0)];
                        // A failed send is a lost packet; the engine copes with those.
                        let _ = self.socket.send_to(&outgoing[..len], to);
                    }
                    Output::Wait { deadline, .. } => break deadline,
                    other => self.perform(other),
                }
            };

            // Finished with the own updates and with the peer's. Stay until the peer is, too: it
            // may still need an acknowledgement.
            if !done && self.acked == UPDATES && self.database.watermark.seq.0 == UPDATES {
                done = true;
                finished.fetch_add(1, Ordering::SeqCst);
            }
            if finished.load(Ordering::SeqCst) == 2 {
                return self;
            }

            // Never sleep longer than a round of new work is away; never zero, which would mean
            // "for ever" to the socket.
            let longest = Duration::from_millis(if submitted < UPDATES { 1 } else { 20 });
            let sleep = deadline.map_or(longest, |at| at.since(self.now()).min(longest));
            let sleep = sleep.max(Duration::from_micros(100));
            self.socket
                .set_read_timeout(Some(sleep))
                .expect("a timeout that is not zero");
            match self.socket.recv_from(&mut incoming) {
                Ok((len, from)) => {
                    self.received += 1;
                    if from != self.peers[peer] {
                        // A stranger: no reply, no state.
                    } else if self.received.is_multiple_of(10) {
                        // The network of this example loses one datagram in ten.
                        self.thrown_away += 1;
                    } else {
                        let now = self.now();
                        let datagram = &incoming[..len];
                        self.engine
                            .handle_datagram(now, node, datagram, &mut self.arrivals);
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                // E.g. "connection refused", an answer to a datagram sent before the peer was up.
                Err(_) => {}
            }
        }
    }
}

fn main() {
    let sockets = NAMES.map(|_| UdpSocket::bind("127.0.0.1:0").expect("loopback"));
    let addresses = [0, 1].map(|i: usize| sockets[i].local_addr().expect("bound"));
    let finished = AtomicUsize::new(0);
    let mut me = 0..2;
    let regions = sockets.map(|socket| Region::new(me.next().unwrap_or(0), socket, addresses));
    let regions = std::thread::scope(|scope| {
        let running = regions.map(|region| scope.spawn(|| region.run(&finished)));
        running.map(|thread| thread.join().expect("the loop came to its end"))
    });

    let expected = UPDATES * (UPDATES + 1) / 2;
    for (region, name) in regions.iter().zip(NAMES) {
        let stats = region.engine.lane_stats(RegionId(1 - region.me as u16));
        println!(
            "{name}: {} updates applied, sum {} (expected {expected}); sent {} datagrams, {} updates \
             again; threw {} datagrams away",
            region.database.watermark.seq.0,
            region.database.sum,
            region.sent,
            stats.retransmits,
            region.thrown_away,
        );
        assert_eq!(region.database.sum, expected, "lost or doubled");
    }
    println!("both databases have every update exactly once");
}
