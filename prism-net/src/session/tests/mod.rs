//! Two or three tables of sessions and a wire made of vectors, with virtual time.

mod attacks;
mod cookies;
mod keys;
mod life;
mod rekey;
mod vectors;

use std::net::SocketAddr;
use std::time::Duration;

use prism_proto::{Instant, NodeId, RegionId, Retry};
use zeroize::Zeroizing;

use super::*;
use crate::config::{NodeAddress, RegionInfo, SessionKeys};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
/// A node of the cluster that takes part only where a test says so.
const C: NodeId = NodeId(2);

fn address(node: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + node))
}

fn private(node: u16) -> [u8; 32] {
    [node as u8 + 1; 32]
}

/// Node `me` of a cluster of three regions with a node each, the third of which is never there.
fn sealed(me: u16, seed: u64) -> EndpointConfig {
    let node = |i: u16| NodeAddress {
        name: format!("N{i}"),
        region: RegionId(i),
        udp: address(i),
        public_keys: vec![public_key(&private(i))],
    };
    let region = |i: u16| RegionInfo {
        name: format!("R{i}"),
        direct: false,
    };
    EndpointConfig {
        me: NodeId(me),
        nodes: (0..3).map(node).collect(),
        regions: (0..3).map(region).collect(),
        retry: Retry::default(),
        limits: Limits::default(),
        seed,
        cluster: "c".into(),
        protection: Protection::Sealed(SessionKeys {
            private: Zeroizing::new(private(me)),
            psk: Zeroizing::new([9; 32]),
        }),
        boot: seed,
        catalogue: 100 + u64::from(me),
    }
}

fn open(me: u16, seed: u64) -> EndpointConfig {
    EndpointConfig {
        protection: Protection::Open,
        ..sealed(me, seed)
    }
}

/// The sessions of this configuration. Only A and B call each other by themselves.
fn start(config: &EndpointConfig) -> Sessions {
    let mut sessions = Sessions::new(config);
    for i in 0..3 {
        if i == 2 || config.me == C {
            sessions.peers[i].initiate_at = None;
        }
    }
    sessions
}

fn at(ms: u64) -> Instant {
    Instant::from_micros(ms * 1000)
}

/// What it wants to send now, and where to.
fn outgoing_to(s: &mut Sessions, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut out = Vec::new();
    let mut packet = [0; 1300];
    while let Some((to, len)) = s.poll(now, &mut packet) {
        out.push((to, packet[..len].to_vec()));
        assert!(out.len() < 40, "it never stops");
    }
    out
}

fn outgoing(s: &mut Sessions, now: Instant) -> Vec<Vec<u8>> {
    let packets = outgoing_to(s, now);
    packets.into_iter().map(|(_, packet)| packet).collect()
}

fn data(s: &mut Sessions, now: Instant, to: NodeId, body: &[u8]) -> Option<Vec<u8>> {
    let mut plain = [0; 1300];
    let mut packet = [0; 1300];
    plain[..body.len()].copy_from_slice(body);
    let (_, len) = s.seal(now, to, &mut plain, (body.len(), 1198), &mut packet)?;
    Some(packet[..len].to_vec())
}

/// Hands it a packet: what changed, and the body.
fn receive(
    s: &mut Sessions,
    now: Instant,
    from: SocketAddr,
    packet: &[u8],
) -> Result<(Change, Vec<u8>), Drop> {
    let mut plain = [0; 2048];
    let received = s.receive(now, from, packet, &mut plain)?;
    Ok((received.change, received.body.to_vec()))
}

fn body(s: &mut Sessions, now: Instant, packet: &[u8]) -> Result<Vec<u8>, Drop> {
    Ok(receive(s, now, address(9), packet)?.1)
}

fn is_up(s: &Sessions, node: NodeId) -> bool {
    s.info(node).up
}

/// Carries everything both ways until both are silent; returns what changed at each end.
fn talk(a: &mut Sessions, b: &mut Sessions, now: Instant) -> (Vec<Change>, Vec<Change>) {
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    loop {
        let (from_a, from_b) = (outgoing(a, now), outgoing(b, now));
        if from_a.is_empty() && from_b.is_empty() {
            return (at_a, at_b);
        }
        let (me, other) = (address(a.me.0), address(b.me.0));
        for (packets, to, from, changes) in [
            (from_a, &mut *b, me, &mut at_b),
            (from_b, &mut *a, other, &mut at_a),
        ] {
            for packet in packets {
                if let Ok((change, _)) = receive(to, now, from, &packet)
                    && change != Change::None
                {
                    changes.push(change);
                }
            }
        }
    }
}

fn connected(a: &EndpointConfig, b: &EndpointConfig) -> (Sessions, Sessions) {
    let (mut a, mut b) = (start(a), start(b));
    let changes = talk(&mut a, &mut b, at(0));
    assert_eq!(changes, (vec![Change::Up], vec![Change::Up]));
    (a, b)
}

fn pair() -> (Sessions, Sessions) {
    connected(&sealed(0, 1), &sealed(1, 2))
}
