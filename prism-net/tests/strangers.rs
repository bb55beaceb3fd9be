//! What a stranger's packets cost: nothing but a look.

mod common;

use std::alloc::System;
use std::net::SocketAddr;
use std::sync::mpsc::channel;

use common::{Calls, config};
use prism_net::{Endpoint, Snapshot, Step};
use prism_proto::Instant;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Everything that a stranger can send, and what a member's packets look like when they are damaged.
#[test]
fn nothing_is_allocated_for_packets_that_are_not_authentic() {
    let at = [7000, 7001].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut ends: Vec<_> = (0..2)
        .map(|i| Endpoint::new(&config(i, &at, 3)).expect("a good one"))
        .collect();
    let (calls, _jobs) = channel();
    let mut host = Calls(calls);
    let mut buffer = vec![0; ends[0].max_datagram()];
    let now = Instant::from_micros(1);
    // All that is said until a session stands, and a data packet.
    let mut said: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut read = 0;
    loop {
        for (i, end) in ends.iter_mut().enumerate() {
            while let Step::Transmit { len, .. } = end.poll(now, &mut host, &mut buffer) {
                said.push((i, buffer[..len].to_vec()));
            }
        }
        let Some((from, packet)) = said.get(read) else {
            break;
        };
        ends[1 - from].handle_datagram(now, at[*from], packet);
        read += 1;
    }
    assert!(said.iter().any(|(_, packet)| packet[0] == 4), "no session");
    let mut figures = Snapshot::default();
    ends[1].fill(&mut figures);
    let before = figures.dropped;
    let stranger = SocketAddr::from(([192, 0, 2, 1], 9));
    let region = Region::new(ALLOCATOR);
    let mut count = 0;
    for (from, packet) in &mut said {
        for byte in 0..packet.len() {
            packet[byte] ^= 0x40;
            for source in [at[*from], stranger] {
                ends[1].handle_datagram(now, source, packet);
                count += 1;
            }
            packet[byte] ^= 0x40;
            ends[1].handle_datagram(now, stranger, &packet[..byte]);
            count += 1;
        }
    }
    let stats = region.change();
    assert_eq!(
        (stats.allocations, stats.reallocations),
        (0, 0),
        "{stats:?}"
    );
    ends[1].fill(&mut figures);
    assert_eq!(figures.dropped - before, count, "{:?}", figures.drops);
    let step = ends[1].poll(now, &mut host, &mut buffer);
    assert!(matches!(step, Step::Wait { .. }), "an answer: {step:?}");
}
