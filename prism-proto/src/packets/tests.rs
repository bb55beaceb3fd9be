//! The ring against a naive list.

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{loss::PACKET_THRESHOLD, ranges::Ranges, wire::Ack};

#[derive(Debug, Clone)]
enum Op {
    /// Send, after skipping some numbers.
    Send {
        skip: u64,
    },
    /// Acknowledge these of what was sent, counted from the newest.
    Ack {
        back: Vec<usize>,
    },
    Probe,
    Pass {
        us: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u64..3).prop_map(|skip| Op::Send { skip }),
        2 => proptest::collection::vec(0usize..12, 1..6).prop_map(|back| Op::Ack { back }),
        1 => Just(Op::Probe),
        1 => (0u64..4000).prop_map(|us| Op::Pass { us }),
    ]
}

proptest! {
    #[test]
    fn settles_every_packet_once(ops in proptest::collection::vec(op(), 0..120)) {
        const N: usize = 16;
        let delay = Duration::from_millis(5);
        let mut ring = PacketRing::new(vec![PacketSlot::EMPTY; N]);
        // Number and time of what is on its way.
        let mut model: Vec<(u64, u64)> = Vec::new();
        let (mut next, mut now, mut largest) = (1u64, 1u64, None::<u64>);
        let mut sent = Vec::new();
        for op in ops {
            match op {
                Op::Send { skip } => {
                    next += skip;
                    let slot = PacketSlot::new(next, Instant::from_micros(now), 1, Content::None, 0, control::PING);
                    let evicted = ring.push(slot);
                    sent.push(next);
                    model.push((next, now));
                    next += 1;
                    if let Some(evicted) = evicted {
                        prop_assert_eq!(model.remove(0).0, evicted.pn);
                    }
                }
                Op::Ack { back } => {
                    let mut ranges = Ranges::new();
                    for b in back {
                        if b < sent.len() { ranges.insert(sent[sent.len() - 1 - b]); }
                    }
                    let Some(ack) = Ack::new(&ranges, 0, None) else { continue };
                    largest = largest.max(ranges.largest());
                    let (mut received, mut lost) = (Vec::new(), Vec::new());
                    let outcome = ring.acknowledge(&ack.ranges().expect("valid"), delay, Instant::from_micros(now), |v, s| {
                        if v == Verdict::Received { received.push(s.pn) } else { lost.push(s.pn) }
                    });
                    let acked = |pn: u64| ranges.contains(pn);
                    let top = largest.unwrap_or(0);
                    let late = |pn: u64, at: u64| !acked(pn) && pn < top && (top - pn >= PACKET_THRESHOLD || at + 5000 <= now);
                    prop_assert_eq!(&received, &model.iter().filter(|m| acked(m.0)).map(|m| m.0).collect::<Vec<_>>());
                    prop_assert_eq!(&lost, &model.iter().filter(|m| late(m.0, m.1)).map(|m| m.0).collect::<Vec<_>>());
                    prop_assert_eq!(outcome.newly as usize, received.len());
                    model.retain(|m| !acked(m.0) && !late(m.0, m.1));
                    let next_loss = model.iter().filter(|m| m.0 < top).map(|m| m.1 + 5000).min();
                    prop_assert_eq!(outcome.loss_at.map(Instant::as_micros), next_loss);
                }
                Op::Probe => { ring.requeue_oldest(); }
                Op::Pass { us } => now += us,
            }
            prop_assert_eq!(ring.is_empty(), model.is_empty());
            prop_assert_eq!(ring.oldest_sent().map(Instant::as_micros), model.first().map(|m| m.1));
        }
    }
}

/// However long the window and however often its holes are reported, an ACK looks at what it
/// settles and a handful more.
#[test]
fn an_ack_costs_what_it_acknowledges() {
    const N: u64 = 4096;
    let mut ring = PacketRing::new(vec![PacketSlot::EMPTY; N as usize]);
    for pn in 1..=N {
        let now = Instant::from_micros(pn);
        ring.push(PacketSlot::new(pn, now, 1, Content::None, 0, control::PING));
    }
    let mut ranges = Ranges::new();
    let now = Instant::from_micros(N);
    for pn in (2..=N).step_by(2) {
        ranges.insert(pn);
        let ack = Ack::new(&ranges, 0, None).expect("something");
        let before = ring.len;
        ring.acknowledge(
            &ack.ranges().expect("valid"),
            Duration::from_secs(9),
            now,
            |_, _| {},
        );
        // What lies below the largest and is not settled is never more than the threshold.
        if pn % 64 != 0 {
            continue;
        }
        let below = (0..ring.len)
            .filter(|i| ring.slots[ring.index(*i)].pn <= pn)
            .count();
        assert!(
            below as u64 <= PACKET_THRESHOLD + 1,
            "{below} left to look at, {before} before"
        );
    }
}
