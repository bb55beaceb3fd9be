//! What encryption costs a lane, and how a lane compares with QUIC: updates of 128 bytes over UDP on
//! loopback, in the clear, encrypted, and with QUIC (quinn; rustls with ring). There are two of the
//! latter: a stream whose bytes are only counted at its end, and one that does a lane's job, where each
//! update is taken out of the bytes, applied by another thread, and acknowledged when it is.
//!
//! Two runs one after the other do not compare on a machine that others share: it may be half as fast
//! a second later. So all of them take turns, some ten milliseconds each, and what is compared is what
//! lies side by side in one round; the quartiles of all rounds say how sure that is.
//!
//! `cargo bench -p prism-benches --bench cost`; `PRISM_ROUNDS` (200) says how long.

mod pair;

use std::time::Instant;

use pair::quic::{Cipher, Quic};
use pair::quic_lane::QuicLane;
use pair::{Kind, Lane, free_addresses};

/// Per turn.
const UPDATES: u64 = 65_536;
/// Windows grow, the path MTU is found.
const WARM_UP: usize = 10;

fn lane(kind: Kind) -> Lane {
    let at = free_addresses();
    Lane::start(kind, at, [at[1], at[0]])
}

/// Millions of updates per second.
fn rate(send: &mut dyn FnMut(u64)) -> f64 {
    let start = Instant::now();
    send(UPDATES);
    UPDATES as f64 / start.elapsed().as_secs_f64() / 1e6
}

/// Quartiles.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

fn main() {
    let rounds = std::env::var("PRISM_ROUNDS").ok();
    let rounds = rounds.and_then(|n| n.parse().ok()).unwrap_or(200);
    let (mut open, mut sealed) = (lane(Kind::Open), lane(Kind::Sealed));
    let (mut aes, mut chacha) = (Quic::start(Cipher::Aes), Quic::start(Cipher::ChaCha));
    let mut lane_aes = QuicLane::start(Cipher::Aes);
    let mut lane_chacha = QuicLane::start(Cipher::ChaCha);
    let turns: [(&str, &mut dyn FnMut(u64)); 6] = [
        ("lane, in the clear", &mut |n| open.send(n)),
        ("lane, encrypted (ChaCha20)", &mut |n| sealed.send(n)),
        ("lane's job by quinn, ChaCha20", &mut |n| {
            lane_chacha.send(n)
        }),
        ("lane's job by quinn, AES-256", &mut |n| lane_aes.send(n)),
        ("bytes by quinn, ChaCha20", &mut |n| chacha.send(n)),
        ("bytes by quinn, AES-256", &mut |n| aes.send(n)),
    ];
    let mut rates: [Vec<f64>; 6] = Default::default();
    for round in 0..WARM_UP + rounds {
        // Whoever comes first is not always the same.
        for i in (0..6).map(|i| (i + round) % 6) {
            let rate = rate(turns[i].1);
            if round >= WARM_UP {
                rates[i].push(rate);
            }
        }
    }
    let figures = |name: &str, [low, middle, high]: [f64; 3]| {
        println!("{name:<36}{middle:>8.2}   ({low:.2} to {high:.2})");
    };
    println!("{rounds} rounds: median (quartiles)");
    println!("\nmillions of updates per second");
    for (i, (name, _)) in turns.iter().enumerate() {
        figures(name, spread(rates[i].clone()));
    }
    println!("\nencrypted lane, side by side with");
    for i in [0, 2, 3, 4, 5] {
        let pairs = rates[1].iter().zip(&rates[i]);
        let ratios = pairs.map(|(sealed, other)| sealed / other);
        figures(turns[i].0, spread(ratios.collect()));
    }
}
