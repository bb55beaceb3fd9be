//! Updates of 128 bytes between two regions on loopback, next to a QUIC stream in the same run; with
//! encryption (`sealed`) and without (`open`).
//!
//! - `endpoints`: two endpoints in one thread, datagrams handed over in memory: the work of the
//!   core, the sessions and the payload handling of *both* sides, without the kernel.
//! - `drivers`: two real loops over UDP. The databases are counters, so this is the ceiling of the
//!   network side. With loss, a relay between the two drops datagrams (it costs a third thread).
//! - `quinn`: one QUIC stream, 64 messages of 128 bytes per write (rustls with ring), same pattern.
//!
//! In each iteration the sender commits [`UPDATES`] updates in batches of 64 and waits until all of
//! them have been acknowledged as applied (QUIC: read by the other side).

mod pair;

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pair::quic::{Cipher, Quic};
use pair::{AHEAD, Counter, Kind, Lane, PER_WRITE, batch, config, free_addresses, held, verified};
use prism_net::{Batch, Command, Endpoint, Host, Snapshot, Step};
use prism_proto::{Epoch, Event, Instant, Notice, Position, Refusal, RegionId, Seq};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};

const UPDATES: u64 = 65_536;

/// Splits a run of datagrams, loses some, and passes the rest on in runs.
struct Relay {
    ends: [SocketAddr; 2],
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    fn start(nodes: [SocketAddr; 2], lost: u64) -> Self {
        let sockets = [0, 1].map(|_| {
            let io = UdpSocket::bind("127.0.0.1:0").expect("loopback");
            let state = UdpSocketState::new(UdpSockRef::from(&io)).expect("options");
            let _ = state.set_recv_buffer_size(UdpSockRef::from(&io), 4 << 20);
            io.set_nonblocking(false).expect("blocking");
            io.set_read_timeout(Some(Duration::from_millis(100)))
                .expect("timeout");
            Arc::new((io, state))
        });
        let ends = [0, 1].map(|i: usize| sockets[i].0.local_addr().expect("bound"));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [0, 1].map(|i: usize| {
            let (from, to) = (sockets[i].clone(), sockets[1 - i].clone());
            let (destination, stop) = (nodes[1 - i], stop.clone());
            std::thread::spawn(move || pass_on(&from, &to, destination, lost, &stop))
        });
        Self {
            ends,
            stop,
            threads: threads.into(),
        }
    }
}

fn pass_on(
    (from, receiving): &(UdpSocket, UdpSocketState),
    (to, sending): &(UdpSocket, UdpSocketState),
    destination: SocketAddr,
    lost: u64,
    stop: &AtomicBool,
) {
    let mut rng = 7u64;
    let mut buffer = vec![0; 1 << 16];
    let mut out = Vec::with_capacity(1 << 16);
    while !stop.load(Ordering::Relaxed) {
        let mut meta = [RecvMeta::default()];
        let mut buffers = [IoSliceMut::new(&mut buffer)];
        if receiving
            .recv(from.into(), &mut buffers, &mut meta)
            .is_err()
        {
            continue;
        }
        out.clear();
        for datagram in buffer[..meta[0].len].chunks(meta[0].stride.max(1)) {
            rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1);
            if (rng >> 33) % 100 >= lost {
                out.extend_from_slice(datagram);
            }
        }
        if !out.is_empty() {
            let transmit = Transmit {
                destination,
                ecn: None,
                contents: &out,
                segment_size: Some(meta[0].stride),
                src_ip: None,
            };
            let _ = sending.try_send(to.into(), &transmit);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn drivers(c: &mut Criterion, kind: Kind, lost: u64) {
    let at = free_addresses();
    let relay = (lost > 0).then(|| Relay::start(at, lost));
    let ends = relay.as_ref().map_or([at[1], at[0]], |relay| relay.ends);
    let mut lane = Lane::start(kind, at, ends);
    let mut group = c.benchmark_group("loopback_128B");
    group
        .throughput(Throughput::Elements(UPDATES))
        .sample_size(20);
    group.bench_function(format!("drivers_{}/loss_{lost}", kind.name()), |b| {
        b.iter(|| lane.send(UPDATES));
    });
    group.finish();
}

/// A host in the same thread.
#[derive(Default)]
struct Inline {
    database: Counter,
    answers: Vec<Command>,
    acked: u64,
}

impl Host for Inline {
    fn apply(&mut self, stream: RegionId, epoch: Epoch, batch: Batch) {
        let applied = self.database.apply(stream, epoch, &batch);
        self.answers.extend([applied, Command::Recycle(batch)]);
    }
    fn read_position(&mut self, stream: RegionId) {
        let position = Position::default();
        self.answers.push(Command::Event(Event::Position {
            stream,
            position,
            clean: position.seq,
        }));
    }
    fn fetch(&mut self, _: Seq, _: Seq) {
        panic!("everything is in memory");
    }
    fn verify(&mut self, peer: RegionId, position: Position) {
        self.answers.push(verified(peer, position));
    }
    fn direct(&mut self, _: RegionId, _: Seq, _: Seq) {}
    fn refused(&mut self, _: RegionId, _: Refusal) {}
    fn refusal_told(&mut self, _: RegionId, _: Epoch, _: Seq) {}
    fn acked(&mut self, _: RegionId, position: Position, _: Seq) {
        self.acked = position.seq.0;
    }
    fn notify(&mut self, _: Notice) {}
    fn snapshot(&mut self, _: &Snapshot) {}
}

fn endpoints(c: &mut Criterion, kind: Kind, lost: u64) {
    let at = [7000, 7001].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut now = Instant::from_micros(0);
    let mut sides = [0, 1].map(|i| {
        let mut endpoint = Endpoint::new(&config(kind, i, at)).expect("a good configuration");
        endpoint.handle_command(now, held(i));
        (endpoint, Inline::default())
    });
    let mut wire = vec![0; 64 * 2048];
    let mut lengths: VecDeque<usize> = VecDeque::with_capacity(64);
    let mut spare: Vec<Batch> = Vec::new();
    let mut rng = 7u64;
    let mut next = 1;
    let mut group = c.benchmark_group("loopback_128B");
    group
        .throughput(Throughput::Elements(UPDATES))
        .sample_size(20);
    group.bench_function(format!("endpoints_{}/loss_{lost}", kind.name()), |b| {
        b.iter(|| {
            let end = next + UPDATES;
            while sides[0].1.acked < end - 1 {
                // 100 us there and back; up to 64 datagrams in one go.
                now = now.after(Duration::from_micros(50));
                while next < end && next < sides[0].1.acked + AHEAD {
                    let batch = batch(next, spare.pop().unwrap_or_default());
                    sides[0].0.handle_command(now, Command::Committed(batch));
                    next += PER_WRITE;
                }
                for i in 0..2 {
                    let (endpoint, host) = &mut sides[i];
                    while lengths.len() < 64 {
                        let buffer = &mut wire[lengths.len() * 2048..][..2048];
                        match endpoint.poll(now, host, buffer) {
                            Step::Transmit { len, .. } => lengths.push_back(len),
                            Step::Wait { .. } if host.answers.is_empty() => break,
                            Step::Wait { .. } => {
                                for answer in host.answers.drain(..) {
                                    endpoint.handle_command(now, answer);
                                }
                            }
                        }
                    }
                    for (n, len) in lengths.drain(..).enumerate() {
                        rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1);
                        if (rng >> 33) % 100 >= lost {
                            let datagram = &wire[n * 2048..][..len];
                            sides[1 - i].0.handle_datagram(now, at[i], datagram);
                        }
                    }
                }
            }
        });
    });
    group.finish();
}

fn quinn(c: &mut Criterion, cipher: Cipher) {
    let mut quic = Quic::start(cipher);
    let mut group = c.benchmark_group("loopback_128B");
    group
        .throughput(Throughput::Elements(UPDATES))
        .sample_size(20);
    let name = match cipher {
        Cipher::Aes => "quinn",
        Cipher::ChaCha => "quinn_chacha",
    };
    group.bench_function(format!("{name}/loss_0"), |b| b.iter(|| quic.send(UPDATES)));
    group.finish();
}

fn loopback(c: &mut Criterion) {
    for lost in [0, 5] {
        endpoints(c, Kind::Open, lost);
        endpoints(c, Kind::Sealed, lost);
    }
    // Next to each other, so that whatever else the machine does is the same for all of them.
    drivers(c, Kind::Open, 0);
    drivers(c, Kind::Sealed, 0);
    quinn(c, Cipher::Aes);
    quinn(c, Cipher::ChaCha);
    drivers(c, Kind::Open, 5);
    drivers(c, Kind::Sealed, 5);
}

criterion_group!(benches, loopback);
criterion_main!(benches);
