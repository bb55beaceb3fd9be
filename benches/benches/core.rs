//! The core alone, without sockets: nanoseconds per update, per acknowledgement, per datagram.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prism_proto::failover::{Health, Rung, select};
use prism_proto::wire::{Ack, Credit, Frame, Header, Progress, Run, Writer, decode};
use prism_proto::{
    Config, Engine, Epoch, Event, Inbox, InboxFull, Instant, NodeConfig, NodeId, Output,
    PacketSlot, Payloads, Policy, Position, RecvSlot, RegionConfig, RegionId, RegionKey, Seq,
    Storage, Tag, UpdateSlot, Verdict,
};

#[derive(Clone)]
struct Heap;

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

/// Every update has the same bytes.
struct Same(Vec<u8>);

impl Payloads for Same {
    fn get(&self, _: Seq) -> Option<&[u8]> {
        Some(&self.0)
    }
}

struct Void;

impl Inbox for Void {
    fn put(&mut self, _: RegionId, _: Seq, _: usize, _: usize, b: &[u8]) -> Result<(), InboxFull> {
        black_box(b);
        Ok(())
    }
    fn release(&mut self, _: RegionId, _: Seq) {}
    fn clear(&mut self, _: RegionId) {}
}

const PEER: NodeId = NodeId(1);
const PEER_REGION: RegionId = RegionId(1);
const EPOCH: Epoch = Epoch(0x1234_5678_9abc_def0);
const THEIRS: u32 = 77;

/// An engine whose peer is played by the benchmark.
#[derive(Clone)]
struct Rig {
    engine: Box<Engine<Heap>>,
    now: u64,
    tail: u64,
    /// Incarnation and last packet number of the engine, and the peer's.
    ours: u32,
    sent_pn: u64,
    pn: u64,
    window: u32,
}

impl Rig {
    fn new(window: u32) -> Self {
        let nodes = [0, 1].map(|i| NodeConfig {
            id: NodeId(i),
            region: RegionId(i),
        });
        let regions = [0, 1].map(|i| RegionConfig {
            id: RegionId(i),
            key: RegionKey(u32::from(i)),
            direct: true,
        });
        let mut config = Config::new(NodeId(0), &nodes, &regions, 1);
        config.window = window;
        // Neither congestion window nor pacing: the work is measured, not the waiting.
        config.in_flight = 1 << 30;
        config.window_bytes = 1 << 30;
        let mut engine = Box::new(Engine::new(&config, &mut Heap).expect("config"));
        let now = Instant::from_micros(1);
        engine.handle_event(now, Event::NodeUp { node: PEER }, &mut Void);
        Self {
            engine,
            now: 1,
            tail: 0,
            ours: 0,
            sent_pn: 0,
            pn: 0,
            window,
        }
    }

    /// Opens the lane.
    fn lane(window: u32) -> Self {
        let mut rig = Self::new(window);
        let own = Position {
            epoch: EPOCH,
            ..Position::default()
        };
        let held = Event::LaneHeld {
            peer: PEER_REGION,
            acked: own,
            own,
        };
        rig.engine.handle_event(rig.at(), held, &mut Void);
        let mut buffer = [0; 1500];
        let payloads = Same(Vec::new());
        let token = loop {
            match rig.engine.poll(rig.at(), &payloads, &mut buffer) {
                Output::Transmit { len, .. } => {
                    let (header, mut frames) = decode(&buffer[..len]).expect("valid");
                    rig.ours = header.from;
                    rig.sent_pn = header.pn;
                    if let Some(Frame::Hello { token, .. }) = frames.next() {
                        break token;
                    }
                }
                Output::Wait { .. } => panic!("no Hello"),
                _ => {}
            }
        };
        rig.now += 1000;
        let credit = rig.credit();
        rig.say(&[Frame::Welcome {
            token,
            position: own,
            clean: own.seq,
            credit,
        }]);
        let verified = Event::Verified {
            peer: PEER_REGION,
            position: own,
            verdict: Verdict::Matches,
        };
        rig.drain(&payloads);
        rig.engine.handle_event(rig.at(), verified, &mut Void);
        rig.drain(&payloads);
        rig.acknowledge(0, 1, rig.sent_pn - 1);
        rig
    }

    fn at(&self) -> Instant {
        Instant::from_micros(self.now)
    }

    fn credit(&self) -> Credit {
        Credit {
            updates: self.window,
            bytes: 1 << 30,
        }
    }

    /// A datagram from the peer.
    fn say(&mut self, frames: &[Frame<'_>]) {
        self.pn += 1;
        let mut buffer = [0; 1500];
        let header = Header {
            from: THEIRS,
            to: self.ours,
            pn: self.pn,
        };
        let mut writer = Writer::new(&mut buffer, header).expect("room");
        assert!(frames.iter().all(|frame| writer.push(frame)));
        let len = writer.written();
        self.engine
            .handle_datagram(self.at(), PEER, &buffer[..len], &mut Void);
    }

    /// Polls to the end; how many datagrams came out.
    fn drain(&mut self, payloads: &Same) -> u64 {
        let mut buffer = [0; 1500];
        let mut sent = 0;
        loop {
            match self.engine.poll(self.at(), payloads, &mut buffer) {
                Output::Transmit { .. } => {
                    sent += 1;
                    self.sent_pn += 1;
                }
                Output::Wait { .. } => return sent,
                _ => {}
            }
        }
    }

    fn submit(&mut self, n: u64, payloads: &Same) -> u64 {
        self.tail += n;
        let upto = Seq(self.tail);
        self.engine
            .handle_event(self.at(), Event::Available { upto }, &mut Void);
        self.drain(payloads)
    }

    /// Received: packets `newest - before ..= newest`; applied: everything up to `applied`.
    fn acknowledge(&mut self, applied: u64, newest: u64, before: u64) {
        let ack = self.ack(applied, newest, before, heapless::Vec::new());
        self.say(&[Frame::Ack(ack)]);
    }

    fn ack(
        &self,
        applied: u64,
        largest: u64,
        first: u64,
        more: heapless::Vec<(u64, u64), 15>,
    ) -> Ack {
        let position = Position {
            epoch: EPOCH,
            seq: Seq(applied),
            tag: Tag(applied),
        };
        let credit = self.credit();
        Ack {
            largest,
            delay_us: 100,
            first: first.min(largest - 1),
            more,
            progress: Some(Progress {
                position,
                clean: position.seq,
                credit,
            }),
        }
    }
}

fn submit(c: &mut Criterion) {
    let mut group = c.benchmark_group("core/submit_to_transmit");
    for (size, batch) in [(128, 1), (128, 64), (1000, 64)] {
        let payloads = Same(vec![7; size]);
        let mut rig = Rig::lane(4096);
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::new(format!("{size}B"), batch), |b| {
            b.iter(|| {
                let sent = rig.submit(batch, &payloads);
                rig.now += 50;
                // One ACK for all of them, so that the window never fills.
                rig.acknowledge(rig.tail, rig.sent_pn, sent);
            });
        });
        assert_eq!(rig.engine.lane_stats(PEER_REGION).acked.seq.0, rig.tail);
    }
    group.finish();
}

/// Datagrams acknowledged per iteration.
const ACKED: u64 = 32;

/// The whole window is in flight, one update per datagram, and has been acknowledged up to its
/// middle; then ACKs come for two datagrams each.
fn acknowledge(c: &mut Criterion) {
    let payloads = Same(vec![7; 1000]);
    let mut group = c.benchmark_group("core/ack");
    for window in [64u32, 1024, 4096] {
        for holes in [false, true] {
            let mut full = Rig::lane(window);
            let first = full.sent_pn + 1;
            let sent = full.submit(u64::from(window), &payloads);
            // A few ring slots are kept for probes.
            assert!(sent + 8 >= u64::from(window), "{sent}");
            full.now += 20_000;
            let part = |rig: &mut Rig, from: u64, to: u64| {
                for n in (from + 1..to).step_by(2) {
                    let newest = first + n;
                    let ack = if holes {
                        // Every eighth packet is missing, and reported so again and again.
                        let ranges = (n / 8).min(15) as usize;
                        let more = (0..ranges).map(|_| (0, 6)).collect();
                        rig.ack(0, newest, n % 8 - 1, more)
                    } else {
                        rig.ack(0, newest, n, heapless::Vec::new())
                    };
                    rig.say(&[Frame::Ack(ack)]);
                }
            };
            let middle = sent / 16 * 8;
            part(&mut full, 0, middle);
            let name = if holes { "holes" } else { "plain" };
            let to = (middle + ACKED).min(sent);
            group.throughput(Throughput::Elements(to - middle));
            group.bench_function(BenchmarkId::new(name, window), |b| {
                b.iter_batched_ref(
                    || full.clone(),
                    |rig| part(rig, middle, to),
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

/// Datagrams of nine updates of 128 bytes, in order; an apply for every 512.
fn receive(c: &mut Criterion) {
    let mut rig = Rig::new(4096);
    let hello = Frame::Hello {
        token: 1,
        epoch: EPOCH,
        tail: Seq(0),
    };
    rig.say(&[hello]);
    let nothing = Same(Vec::new());
    rig.drain(&nothing);
    let stream = PEER_REGION;
    let mut position = Position {
        epoch: EPOCH,
        ..Position::default()
    };
    rig.engine.handle_event(
        rig.at(),
        Event::Position {
            stream,
            position,
            clean: position.seq,
        },
        &mut Void,
    );
    rig.drain(&nothing);
    let mut run = Vec::new();
    for _ in 0..9 {
        run.extend_from_slice(&[0x80, 0x01]);
        run.extend_from_slice(&[7; 128]);
    }
    let mut next = 1u64;
    let mut group = c.benchmark_group("core/receive");
    group.throughput(Throughput::Elements(9 * 56));
    group.bench_function("128B", |b| {
        b.iter(|| {
            for _ in 0..56 {
                let first = Seq(next);
                rig.say(&[Frame::Updates { first, run: &run }]);
                next += 9;
                rig.drain(&nothing);
            }
            position.seq = Seq(next - 1);
            rig.engine.handle_event(
                rig.at(),
                Event::Applied {
                    stream,
                    position,
                    clean: position.seq,
                },
                &mut Void,
            );
            rig.drain(&nothing);
        });
    });
    assert_eq!(rig.engine.inlet_stats(stream).received, next - 1);
    group.finish();
}

fn codec(c: &mut Criterion) {
    let rig = Rig::new(64);
    let more = (0..15).map(|i| (i, 3 * i)).collect();
    let ack = Frame::Ack(rig.ack(1 << 40, 1 << 30, 5, more));
    let mut run = Vec::new();
    for _ in 0..8 {
        run.extend_from_slice(&[0x80, 0x01]);
        run.extend_from_slice(&[7; 128]);
    }
    let first = Seq(1 << 40);
    let updates = Frame::Updates { first, run: &run };
    let header = Header {
        from: 1,
        to: 2,
        pn: 1 << 30,
    };
    let mut group = c.benchmark_group("core/wire");
    for (name, frame) in [("ack_of_16_ranges", &ack), ("8_updates_of_128B", &updates)] {
        let mut buffer = [0; 1500];
        group.bench_function(BenchmarkId::new("encode", name), |b| {
            b.iter(|| {
                let mut writer = Writer::new(&mut buffer, header).expect("room");
                assert!(writer.push(black_box(frame)));
                writer.written()
            });
        });
        let mut writer = Writer::new(&mut buffer, header).expect("room");
        assert!(writer.push(frame));
        let len = writer.written();
        group.bench_function(BenchmarkId::new("decode", name), |b| {
            b.iter(|| {
                let (_, frames) = decode(black_box(&buffer[..len])).expect("valid");
                for frame in frames {
                    match frame {
                        Frame::Updates { run, .. } => {
                            Run::new(run).for_each(|payload| {
                                black_box(payload);
                            });
                        }
                        other => {
                            black_box(other);
                        }
                    }
                }
            });
        });
    }
    group.finish();
}

fn failover(c: &mut Criterion) {
    let nodes: Vec<Health> = (0..8)
        .map(|i| Health {
            failed: i < 3,
            srtt: Some(Duration::from_millis(10 + i)),
        })
        .collect();
    let mut group = c.benchmark_group("core/failover_select");
    for (name, policy) in [("ordered", Policy::Ordered), ("fastest", Policy::Fastest)] {
        group.bench_function(BenchmarkId::new(name, 8), |b| {
            b.iter(|| select(black_box(&nodes), true, Some(Rung::Node(4)), policy));
        });
    }
    group.finish();
}

criterion_group!(benches, submit, acknowledge, receive, codec, failover);
criterion_main!(benches);
