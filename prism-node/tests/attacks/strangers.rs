//! Floods from outside: garbage, and handshakes of somebody who has the cluster's pre-shared key
//! but no node's.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prism_net::fuzzing::Member;
use prism_net::{EndpointConfig, NodeAddress, Protection, RegionInfo, SessionKeys};
use prism_node::demo::relay::Random;
use prism_node::keys::SecretKey;
use prism_proto::{Instant as Moment, NodeId, RegionId};

use crate::common::files::Files;
use crate::target::{
    Strangers, alarms, as_node, count_up, dropped, log, memory, psk, udp, wait_kills,
};

/// Source addresses.
const ADDRESSES: u8 = 64;
/// So many at once, then the line rests: without that a debug build would see one in ten.
const BURST: usize = 100;
const REST: Duration = Duration::from_millis(5);
/// A flood is over after so many packets or so long.
const PACKETS: u64 = 40_000;
const LASTS: Duration = Duration::from_secs(6);
/// A node that kept one byte in eight of a flood (some 25 MB) would show. What grows without any:
/// caches of the database and of payloads, for the updates that are submitted meanwhile.
const GROWTH: u64 = 3 << 20;
/// Log lines of a minute of normal life are shorter.
const WORDS: usize = 8 << 10;

/// Sends until it is told to stop, or has had enough.
fn flood(
    strangers: &mut Strangers,
    to: SocketAddr,
    stop: &AtomicBool,
    mut packet: impl FnMut(&mut Vec<u8>),
) {
    let (begun, mut bytes) = (Instant::now(), Vec::new());
    let first = strangers.packets;
    while strangers.packets - first < PACKETS
        && begun.elapsed() < LASTS
        && !stop.load(Ordering::Relaxed)
    {
        for _ in 0..BURST {
            bytes.clear();
            packet(&mut bytes);
            strangers.send(to, &bytes);
        }
        std::thread::sleep(REST);
    }
}

/// Updates in both directions while NA1 is flooded; every one arrives once. Returns what has come
/// back to the strangers.
fn under_fire(
    w: &Files,
    strangers: &mut Strangers,
    already: usize,
    packet: impl FnMut(&mut Vec<u8>) + Send,
) -> Vec<Vec<u8>> {
    let (stop, to) = (AtomicBool::new(false), udp(w, "NA1"));
    std::thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            flood(strangers, to, &stop, packet);
        });
        let mut n = already;
        while !attacker.is_finished() {
            count_up(w, "NA1", 1);
            count_up(w, "EU1", 1);
            n += 2;
            if n >= already + 200 {
                stop.store(true, Ordering::Relaxed);
            }
        }
        assert!(n > already, "nothing was submitted under fire");
        wait_kills(w, &["NA", "EU"], n);
    });
    strangers.answers()
}

fn steve(w: &Files) -> usize {
    w.kills(&["NA"], "steve")[0].parse().expect("a number")
}

/// Every type, every length, whole and cut, and noise.
fn garbage(random: &mut Random, calls: &[Vec<u8>], out: &mut Vec<u8>) {
    let noise = |random: &mut Random, out: &mut Vec<u8>, len: usize| {
        out.extend(std::iter::repeat_with(|| random.bits() as u8).take(len));
    };
    let kind = random.below(8) as u8;
    match kind {
        0 => {
            let len = random.below(2000);
            noise(random, out, len);
        }
        // The right shape of every type: 1 initiation, 2 response, 3 cookie, 4 data.
        1..=4 => {
            let shape = [0, 0xb0, 0x74, 0x40, 16 + random.below(1216)];
            let len = shape_of(kind, shape[usize::from(kind)]);
            out.extend([kind, if kind == 4 { 0 } else { 2 }, 0, 0]);
            noise(random, out, len - 4);
        }
        5 => {
            out.extend([random.bits() as u8, random.bits() as u8, 0, 0]);
            let len = random.below(300);
            noise(random, out, len);
        }
        // A good call: cut, or with something behind it.
        6 => {
            let call = &calls[random.below(calls.len())];
            out.extend(&call[..random.below(call.len())]);
        }
        _ => {
            let call = &calls[random.below(calls.len())];
            out.extend(call);
            let at = random.below(call.len());
            out[at] ^= 1 << random.below(8);
        }
    }
}

/// Lengths of packets (docs/protocol.md); data has any from 34 up.
fn shape_of(kind: u8, data: usize) -> usize {
    match kind {
        1 => INITIATION,
        2 => 8 + 4 + 32 + 24 + 16 + 32,
        3 => 8 + 24 + 32,
        _ => data.max(34),
    }
}

const INITIATION: usize = 8 + 32 + 48 + 40 + 16 + 32;

/// Calls to NA1 whose MAC is valid, of a node that is not in its configuration: its name is
/// unknown, or its key.
fn calls(w: &Files, count: usize) -> Vec<Vec<u8>> {
    let mut packet = [0; 2048];
    let na = &w.cluster.nodes[w.cluster.node("NA1")];
    let mut calls: Vec<Vec<u8>> = Vec::new();
    while calls.len() < count {
        let stranger = SecretKey::generate().expect("random bytes");
        let node = |name: &str, region, key: [u8; 32]| NodeAddress {
            name: name.to_owned(),
            region: RegionId(region),
            udp: na.udp,
            public_keys: vec![key],
        };
        let name = if calls.len().is_multiple_of(2) {
            "XX1"
        } else {
            "EU1"
        };
        let na_key = na.public_key.expect("it has one").0;
        let config = EndpointConfig {
            me: NodeId(1),
            nodes: vec![node("NA1", 0, na_key), node(name, 1, stranger.public().0)],
            regions: ["NA", "XX"]
                .map(|name| RegionInfo {
                    name: name.to_owned(),
                    direct: false,
                })
                .into(),
            protection: Protection::Sealed(SessionKeys {
                private: stranger.bytes().clone(),
                psk: psk(w).bytes().clone(),
            }),
            ..as_node(w, "EU1", &stranger, 1)
        };
        // One after the other: a call is repeated for five seconds, then it is another one.
        let mut member = Member::new(&config).expect("a good configuration");
        for second in 0..10 {
            let now = Moment::from_micros(second * 6_000_000);
            while let Some((_, len)) = member.poll(now, &mut packet) {
                assert_eq!(len, INITIATION);
                calls.push(packet[..len].to_vec());
            }
        }
        calls.dedup();
    }
    calls
}

#[test]
fn floods_of_strangers_change_nothing() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1)], "");
    w.start(&["NA1", "EU1"]);
    // Everything that grows once has grown.
    count_up(&w, "NA1", 50);
    count_up(&w, "EU1", 50);
    wait_kills(&w, &["NA", "EU"], 100);
    let calls = calls(&w, 300);
    let mut strangers = Strangers::new(ADDRESSES);
    let mut random = Random(4);
    let before = (memory(&w, "NA1"), log(&w, "NA1").len(), alarms(&w, "NA1"));
    let session = dropped(&w, "NA1", "not_authentic") + dropped(&w, "NA1", "replayed");

    let answers = under_fire(&w, &mut strangers, 100, |out| {
        garbage(&mut random, &calls, out)
    });
    assert_eq!(answers, [[0u8; 0]; 0], "answers to garbage");
    for reason in ["malformed", "unknown_session", "wrong_mac"] {
        w.wait(&format!("{reason} is counted"), || {
            dropped(&w, "NA1", reason) > 100
        });
    }
    let now = dropped(&w, "NA1", "not_authentic") + dropped(&w, "NA1", "replayed");
    assert_eq!(now, session, "garbage has passed for packets of a session");
    let garbage = (strangers.packets, strangers.bytes, memory(&w, "NA1"));

    let mut next = 0;
    let answers = under_fire(&w, &mut strangers, steve(&w), |out| {
        next += 1;
        out.extend(&calls[next % calls.len()]);
    });
    // Under load it asks for cookies: shorter than a call, at most one for each, and nothing else.
    let sent = strangers.packets - garbage.0;
    assert!(
        answers.len() as u64 <= sent,
        "{} answers to {sent} calls",
        answers.len()
    );
    assert!(
        answers
            .iter()
            .all(|answer| answer[0] == 3 && answer.len() < INITIATION)
    );
    assert!(
        !answers.is_empty(),
        "no cookie was asked for: was it no flood?"
    );
    for reason in ["unknown_node", "overload"] {
        w.wait(&format!("{reason} is counted"), || {
            dropped(&w, "NA1", reason) > 30
        });
    }

    let after = (memory(&w, "NA1"), log(&w, "NA1").len(), alarms(&w, "NA1"));
    println!(
        "{} packets of garbage ({} bytes), {sent} handshakes, {} cookies asked for; \
         memory {} -> {} -> {} KiB, log {} -> {} bytes",
        garbage.0,
        garbage.1,
        answers.len(),
        before.0 >> 10,
        garbage.2 >> 10,
        after.0 >> 10,
        before.1,
        after.1
    );
    assert!(
        after.0 < before.0 + GROWTH,
        "memory has grown from {} to {}",
        before.0,
        after.0
    );
    assert!(
        after.1 < before.1 + WORDS,
        "the log has grown from {} to {}",
        before.1,
        after.1
    );
    assert_eq!(after.2, before.2, "alarms");
}
