//! What a flood from outside costs those inside: updates of 128 bytes over two sealed loops on
//! loopback (see `loopback`), alone and while strangers flood both nodes.
//!
//! - `garbage`: [`GARBAGE`] packets a second of all types and sizes, none with a valid MAC.
//! - `handshakes`: [`HANDSHAKES`] a second, all different ones made beforehand, with a valid MAC:
//!   somebody has the cluster's pre-shared key, but no node's.
//! - `both`.
//!
//! From [`ADDRESSES`] source addresses, half of it to each node. The flood is sent on the same
//! machine, a system call for each packet, so its cost for the sender counts as well. Each
//! measurement runs undisturbed first, then under fire; what is printed is the ratio of the medians.

mod pair;

use std::cell::RefCell;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Clock};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pair::{AHEAD, Kind, Node, PER_WRITE, batch, config, free_addresses};
use prism_net::fuzzing::Member;
use prism_net::{Batch, Command, Protection, SessionKeys};
use prism_proto::Instant;

/// Per run: some tenths of a second.
const UPDATES: u64 = 262_144;
/// Packets a second.
const GARBAGE: u64 = 20_000;
const HANDSHAKES: u64 = 2_000;
const ADDRESSES: usize = 64;
/// Different handshakes to each node.
const CALLS: usize = 256;
/// The line is quiet for so long between two bursts.
const REST: Duration = Duration::from_millis(1);

/// Handshakes with node `to` of a process that has its name and key from nowhere.
fn calls(to: usize, at: [SocketAddr; 2]) -> Vec<Vec<u8>> {
    let mut packet = [0; 2048];
    let call = |i: usize| {
        let mut config = config(Kind::Sealed, 1 - to as u16, at);
        let mut private = [0x55; 32];
        private[..8].copy_from_slice(&(i as u64).to_le_bytes());
        config.nodes[1 - to].public_keys = vec![prism_net::public_key(&private)];
        config.seed = i as u64;
        if let Protection::Sealed(keys) = &config.protection {
            let psk = keys.psk.clone();
            let private = private.into();
            config.protection = Protection::Sealed(SessionKeys { private, psk });
        }
        let mut member = Member::new(&config).expect("a good configuration");
        let (_, len) = (member.poll(Instant::from_micros(0), &mut packet)).expect("a call");
        packet[..len].to_vec()
    };
    (0..CALLS).map(call).collect()
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
    *state >> 33
}

/// Every type in its right shape, and noise.
fn garbage() -> Vec<Vec<u8>> {
    let mut state = 7;
    let packet = |i: usize| {
        let (kind, version, len) = match i % 6 {
            0 => (1, 2, 176),
            1 => (2, 2, 116),
            2 => (3, 2, 64),
            3 => (4, 0, 1232),
            4 => (4, 0, 34 + random(&mut state) as usize % 1198),
            _ => (
                random(&mut state) as u8,
                0,
                random(&mut state) as usize % 1400,
            ),
        };
        let mut packet: Vec<u8> = (0..len).map(|_| random(&mut state) as u8).collect();
        for (byte, value) in packet.iter_mut().zip([kind, version, 0, 0]) {
            *byte = value;
        }
        packet
    };
    (0..1024).map(packet).collect()
}

/// Sends at its rate while it is told to.
struct Flood {
    on: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Each kind: packets to either node, and how many a second.
    fn new(at: [SocketAddr; 2], kinds: Vec<([Vec<Vec<u8>>; 2], u64)>) -> Self {
        let socket = |i| {
            let socket =
                UdpSocket::bind(SocketAddr::from(([127, 0, 0, 2 + i as u8], 0))).expect("loopback");
            socket.set_nonblocking(true).expect("set");
            socket
        };
        let sockets: Vec<UdpSocket> = (0..ADDRESSES).map(socket).collect();
        let on = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (is_on, stopped, count) = (on.clone(), stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            let mut done = vec![0u64; kinds.len()];
            let mut since = None;
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(REST);
                if !is_on.load(Ordering::Relaxed) {
                    since = None;
                    continue;
                }
                let since = *since.get_or_insert_with(|| {
                    done.fill(0);
                    Clock::now()
                });
                for ((packets, rate), done) in kinds.iter().zip(&mut done) {
                    let due = (since.elapsed().as_secs_f64() * *rate as f64) as u64;
                    while *done < due {
                        let i = *done as usize;
                        let packets = &packets[i % 2];
                        let packet = &packets[i / 2 % packets.len()];
                        let _ = sockets[i % ADDRESSES].send_to(packet, at[i % 2]);
                        *done += 1;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Self {
            on,
            stop,
            sent,
            thread: Some(thread),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn flood(c: &mut Criterion, name: &str, rates: [u64; 2]) {
    let at = free_addresses();
    let sender = Node::start(Kind::Sealed, 0, at, at[0]);
    let _receiver = Node::start(Kind::Sealed, 1, at, at[1]);
    let kinds = [
        ([garbage(), garbage()], rates[0]),
        ([0, 1].map(|to| calls(to, at)), rates[1]),
    ];
    let kinds = kinds.into_iter().filter(|(_, rate)| *rate > 0).collect();
    let flood = Flood::new(at, kinds);
    let mut next = 1;
    let mut run = || {
        let begun = Clock::now();
        let end = next + UPDATES;
        while next < end {
            let batch = batch(next, Batch::default());
            sender.handle.send(Command::Committed(batch));
            next += PER_WRITE;
            sender.wait(next.saturating_sub(AHEAD));
        }
        sender.wait(end - 1);
        begun.elapsed()
    };
    let times = RefCell::new((Vec::new(), Vec::new(), 0));
    let mut group = c.benchmark_group("flood_128B");
    (group
        .throughput(Throughput::Elements(UPDATES))
        .sample_size(20))
    .sampling_mode(criterion::SamplingMode::Flat);
    group.bench_function(name, |b| {
        b.iter_custom(|n| {
            let mut total = Duration::ZERO;
            for _ in 0..n {
                let quiet = run();
                let sent = flood.sent.load(Ordering::Relaxed);
                flood.on.store(true, Ordering::Relaxed);
                let loud = run();
                flood.on.store(false, Ordering::Relaxed);
                let mut times = times.borrow_mut();
                times.0.push(quiet);
                times.1.push(loud);
                times.2 += flood.sent.load(Ordering::Relaxed) - sent;
                total += loud;
            }
            total
        });
    });
    group.finish();
    let (mut quiet, mut loud, sent) = times.into_inner();
    if quiet.is_empty() {
        return;
    }
    let under_fire: Duration = loud.iter().sum();
    let ratio = median(&mut quiet).as_secs_f64() / median(&mut loud).as_secs_f64();
    println!(
        "flood_128B/{name}: {:.1} % of the undisturbed rate ({:.0} of {:.0} updates/s; {:.0} packets/s)\n",
        100.0 * ratio,
        UPDATES as f64 / median(&mut loud).as_secs_f64(),
        UPDATES as f64 / median(&mut quiet).as_secs_f64(),
        sent as f64 / under_fire.as_secs_f64()
    );
}

fn floods(c: &mut Criterion) {
    flood(c, "garbage", [GARBAGE, 0]);
    flood(c, "handshakes", [0, HANDSHAKES]);
    flood(c, "both", [GARBAGE, HANDSHAKES]);
}

criterion_group!(benches, floods);
criterion_main!(benches);
