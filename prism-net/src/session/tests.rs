//! Two or three tables of sessions and a wire made of vectors, with virtual time.

use std::net::SocketAddr;
use std::time::Duration;

use prism_proto::{Instant, NodeId, RegionId, Retry};

use super::*;
use crate::config::{Limits, NodeAddress, Protection, RegionInfo};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);

fn address(node: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + node))
}

fn sessions(me: u16, seed: u64, cluster: &str) -> Sessions {
    let node = |i: u16| NodeAddress {
        name: format!("N{i}"),
        region: RegionId(i),
        udp: address(i),
        public_keys: Vec::new(),
    };
    let region = |i: u16| RegionInfo {
        name: format!("R{i}"),
        direct: false,
    };
    Sessions::new(
        &EndpointConfig {
            me: NodeId(me),
            nodes: (0..2).map(node).collect(),
            regions: (0..2).map(region).collect(),
            retry: Retry::default(),
            limits: Limits::default(),
            seed,
            cluster: cluster.into(),
            protection: Protection::Open,
            boot: 1,
            catalogue: 0,
        },
        1200,
    )
}

fn at(ms: u64) -> Instant {
    Instant::from_micros(ms * 1000)
}

/// What it wants to send now.
fn outgoing(s: &mut Sessions, now: Instant) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut packet = [0; 1300];
    while let Some((_, len)) = s.poll(now, &mut packet) {
        out.push(packet[..len].to_vec());
        assert!(out.len() < 10, "it never stops");
    }
    out
}

fn data(s: &mut Sessions, now: Instant, to: NodeId, body: &[u8]) -> Option<Vec<u8>> {
    let mut packet = [0; 1300];
    packet[HEADER..HEADER + body.len()].copy_from_slice(body);
    let (_, len) = s.seal(now, to, &mut packet, body.len())?;
    Some(packet[..len].to_vec())
}

fn body(s: &mut Sessions, now: Instant, packet: &[u8]) -> Result<Vec<u8>, Drop> {
    Ok(s.receive(now, address(9), packet)?.body.to_vec())
}

/// Carries everything both ways until both are silent; returns what changed at each end.
fn talk(a: &mut Sessions, b: &mut Sessions, now: Instant) -> (Vec<Change>, Vec<Change>) {
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    loop {
        let (from_a, from_b) = (outgoing(a, now), outgoing(b, now));
        if from_a.is_empty() && from_b.is_empty() {
            return (at_a, at_b);
        }
        for (packets, to, from, changes) in [
            (from_a, &mut *b, address(0), &mut at_b),
            (from_b, &mut *a, address(1), &mut at_a),
        ] {
            for packet in packets {
                if let Ok(received) = to.receive(now, from, &packet)
                    && received.change != Change::None
                {
                    changes.push(received.change);
                }
            }
        }
    }
}

fn pair() -> (Sessions, Sessions) {
    let (mut a, mut b) = (sessions(0, 1, "c"), sessions(1, 2, "c"));
    let changes = talk(&mut a, &mut b, at(0));
    assert_eq!(changes, (vec![Change::Up], vec![Change::Up]));
    (a, b)
}

#[test]
fn crossed_initiations_end_in_one_session_that_both_use() {
    // Both call at the same moment: `pair` has them cross.
    let (mut a, mut b) = pair();
    let (from_a, from_b) = (
        data(&mut a, at(1), B, b"hello").unwrap(),
        data(&mut b, at(1), A, b"world").unwrap(),
    );
    assert_eq!(body(&mut b, at(1), &from_a), Ok(b"hello".to_vec()));
    assert_eq!(body(&mut a, at(1), &from_b), Ok(b"world".to_vec()));
    let current = |s: &Sessions, n: usize| s.peers[n].current.as_ref().map(|c| (c.local, c.remote));
    let (local, remote) = current(&a, 1).unwrap();
    assert_eq!(current(&b, 0), Some((remote, local)));
}

#[test]
fn lost_handshakes_are_repeated_until_they_arrive() {
    for lost in 0..12u32 {
        let (mut a, mut b) = (sessions(0, 1, "c"), sessions(1, 2, "c"));
        let mut count = 0;
        let mut now = at(0);
        while !(a.is_up(B) && b.is_up(A)) {
            for (from, to) in [(true, false), (false, true)] {
                let packets = outgoing(if from { &mut a } else { &mut b }, now);
                for packet in packets {
                    count += 1;
                    if count > lost {
                        let _ =
                            (if to { &mut a } else { &mut b }).receive(now, address(9), &packet);
                    }
                }
            }
            now = now.after(Duration::from_millis(25));
            assert!(
                now < at(15_000),
                "{lost} lost packets and no session after 15 s"
            );
        }
    }
}

#[test]
fn a_copy_of_an_initiation_does_not_spoil_the_handshake() {
    let (mut a, mut b) = (sessions(0, 1, "c"), sessions(1, 2, "c"));
    let initiation = outgoing(&mut a, at(0)).remove(0);
    b.peers[0].initiate_at = None;
    let mut responses = Vec::new();
    for _ in 0..2 {
        b.receive(at(0), address(0), &initiation).unwrap();
        responses.append(&mut outgoing(&mut b, at(0)));
    }
    assert_eq!(responses[0], responses[1], "one session for one initiation");
    a.receive(at(0), address(1), &responses[0]).unwrap();
    assert_eq!(
        a.receive(at(0), address(1), &responses[1]),
        Err(Drop::UnknownSession)
    );
    let confirm = outgoing(&mut a, at(0)).remove(0);
    assert_eq!(
        b.receive(at(0), address(0), &confirm).unwrap().change,
        Change::Up
    );
    // A copy that comes later still is no reason for anything.
    assert_eq!(
        b.receive(at(5), address(0), &initiation),
        Err(Drop::Replayed)
    );
    assert!(outgoing(&mut b, at(5)).is_empty());
}

#[test]
fn a_restarted_node_is_recognised_and_its_old_packets_are_void() {
    let (mut a, mut b) = pair();
    let old = data(&mut a, at(10), B, b"old").unwrap();
    let mut a = sessions(0, 77, "c");
    let changes = talk(&mut a, &mut b, at(20));
    assert_eq!(changes, (vec![Change::Up], vec![Change::Restarted]));
    assert_eq!(body(&mut b, at(21), &old), Err(Drop::UnknownSession));
    let new = data(&mut a, at(22), B, b"new").unwrap();
    assert_eq!(body(&mut b, at(22), &new), Ok(b"new".to_vec()));
}

#[test]
fn a_second_handshake_of_the_same_process_changes_nothing_and_late_packets_still_count() {
    let (mut a, mut b) = pair();
    let late = data(&mut a, at(3000), B, b"late").unwrap();
    a.connect(at(4000), B);
    let changes = talk(&mut a, &mut b, at(4000));
    assert_eq!(changes, (vec![], vec![]));
    let new = data(&mut a, at(4001), B, b"new").unwrap();
    assert_eq!(body(&mut b, at(4001), &new), Ok(b"new".to_vec()));
    assert_eq!(body(&mut b, at(4002), &late), Ok(b"late".to_vec()));
}

#[test]
fn every_packet_is_taken_once() {
    let (mut a, mut b) = pair();
    let one = data(&mut a, at(1), B, b"1").unwrap();
    let two = data(&mut a, at(1), B, b"2").unwrap();
    assert_eq!(body(&mut b, at(1), &two), Ok(b"2".to_vec()));
    assert_eq!(body(&mut b, at(1), &one), Ok(b"1".to_vec()));
    for packet in [&one, &two] {
        assert_eq!(body(&mut b, at(1), packet), Err(Drop::Replayed));
    }
}

#[test]
fn the_address_follows_the_newest_packet_only() {
    let (mut a, mut b) = pair();
    let older = data(&mut a, at(1), B, b"1").unwrap();
    let newer = data(&mut a, at(1), B, b"2").unwrap();
    let (home, away) = (address(50), address(51));
    b.receive(at(1), away, &newer).unwrap();
    assert_eq!(b.peers[0].address, away);
    b.receive(at(1), home, &older).unwrap();
    assert_eq!(
        b.peers[0].address, away,
        "a reordered packet must not turn it back"
    );
    let mut forged = newer.clone();
    forged[HEADER + 2] ^= 1;
    assert!(b.receive(at(1), home, &forged).is_err());
    assert_eq!(b.peers[0].address, away);
}

#[test]
fn silence_ends_a_session_and_the_node_is_called_again() {
    let (mut a, _) = pair();
    let mut now = at(0);
    let mut initiations = 0;
    let mut down = None;
    while now < at(60_000) {
        if let Some(node) = a.expire(now) {
            assert_eq!((node, down), (B, None));
            down = Some(now);
        }
        initiations += outgoing(&mut a, now).iter().filter(|p| p[0] == 1).count();
        let deadline = a.deadline().expect("it never gives up");
        assert!(deadline > now, "a busy loop");
        now = deadline;
    }
    assert_eq!(down, Some(at(12_000)));
    assert!(
        (50..=80).contains(&initiations),
        "{initiations} in a minute"
    );
    assert!(data(&mut a, now, B, b"x").is_none());
    let mut b = sessions(1, 3, "c");
    assert_eq!(talk(&mut a, &mut b, now).0, [Change::Up]);
}

#[test]
fn an_idle_session_stays_up() {
    let (mut a, mut b) = pair();
    let mut now = at(0);
    let mut packets = 0;
    while now < at(600_000) {
        assert_eq!((a.expire(now), b.expire(now)), (None, None));
        for packet in outgoing(&mut a, now) {
            packets += 1;
            b.receive(now, address(0), &packet).unwrap();
        }
        for packet in outgoing(&mut b, now) {
            packets += 1;
            a.receive(now, address(1), &packet).unwrap();
        }
        now = a
            .deadline()
            .min(b.deadline())
            .unwrap()
            .max(now.after(Duration::from_millis(1)));
    }
    assert!(packets <= 410, "{packets} keep-alives in ten minutes");
}

#[test]
fn strangers_are_dropped_without_an_answer() {
    let (mut a, mut b) = pair();
    let good = data(&mut a, at(1), B, b"x").unwrap();
    let mut stranger = sessions(0, 5, "other");
    let hello = outgoing(&mut stranger, at(1)).remove(0);
    assert_eq!(
        b.receive(at(1), address(0), &hello),
        Err(Drop::WrongCluster)
    );
    let mut unknown = hello.clone();
    unknown[8..16].copy_from_slice(&identity("c").to_le_bytes());
    unknown[16..24].fill(7);
    assert_eq!(
        b.receive(at(1), address(0), &unknown),
        Err(Drop::UnknownNode)
    );
    assert_eq!(
        a.receive(at(1), address(1), &good),
        Err(Drop::UnknownSession),
        "reflected"
    );
    for len in 0..good.len() {
        assert!(b.receive(at(1), address(0), &good[..len]).is_err(), "{len}");
    }
    for bit in 0..8 * HEADER {
        let mut wrong = good.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(b.receive(at(1), address(0), &wrong).is_err(), "bit {bit}");
    }
    assert!(outgoing(&mut b, at(1)).is_empty());
    assert_eq!(body(&mut b, at(1), &good), Ok(b"x".to_vec()));
}

#[test]
fn own_initiations_reflected_are_dropped() {
    let mut a = sessions(0, 1, "c");
    let initiation = outgoing(&mut a, at(0)).remove(0);
    assert_eq!(
        a.receive(at(0), address(1), &initiation),
        Err(Drop::UnknownNode)
    );
    assert!(outgoing(&mut a, at(1)).is_empty());
}

#[test]
fn nearly_full_packets_have_one_length() {
    let (mut a, mut b) = pair();
    let lengths = [1200, 1180, 1130, 1100, 10].map(|len| {
        let packet = data(&mut a, at(1), B, &vec![7; len]).unwrap();
        assert_eq!(body(&mut b, at(1), &packet), Ok(vec![7; len]));
        packet.len()
    });
    assert_eq!(lengths, [1232, 1232, 1232, 1132, 42]);
}
