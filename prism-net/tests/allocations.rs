//! Between socket and apply queue nothing is allocated per update, once the loop is warm.

mod common;

use std::alloc::System;
use std::net::SocketAddr;
use std::time::Duration;

use common::{config, update};
use prism_net::{Batch, Command, Endpoint, Host, Snapshot, Step};
use prism_proto::{Epoch, Event, Instant, Notice, Position, Refusal, RegionId, Seq, Tag, Verdict};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A host whose answers wait in preallocated room, as they would in the queues of a node.
struct Recycling {
    own: Position,
    applied: Position,
    answers: Vec<Command>,
    updates: u64,
}

impl Host for Recycling {
    fn apply(&mut self, stream: RegionId, epoch: Epoch, batch: Batch) {
        for (seq, update) in batch.iter() {
            assert_eq!(seq, self.applied.seq.next());
            assert_eq!(update[2..10], (seq.0 - 1).to_le_bytes());
            self.applied = Position {
                epoch,
                seq,
                tag: Tag(1),
            };
            self.updates += 1;
        }
        self.answers.push(Command::Event(Event::Applied {
            stream,
            position: self.applied,
            clean: self.applied.seq,
        }));
        self.answers.push(Command::Recycle(batch));
    }
    fn read_position(&mut self, stream: RegionId) {
        self.answers.push(Command::Event(Event::Position {
            stream,
            position: self.applied,
            clean: self.applied.seq,
        }));
    }
    fn fetch(&mut self, from: Seq, _to: Seq) {
        panic!("{from:?} should be in memory");
    }
    fn verify(&mut self, peer: RegionId, position: Position) {
        self.answers.push(Command::Event(Event::Verified {
            peer,
            position,
            verdict: Verdict::Matches,
        }));
    }
    fn direct(&mut self, _: RegionId, _: Seq, _: Seq) {
        panic!("the wire is fine");
    }
    fn acked(&mut self, _: RegionId, _: Position, _: Seq) {}
    fn refused(&mut self, _: RegionId, _: Refusal) {}
    fn refusal_told(&mut self, _: RegionId, _: Epoch, _: Seq) {}
    fn notify(&mut self, _: Notice) {}
    fn snapshot(&mut self, _: &Snapshot) {}
}

/// Datagrams under way in reused memory.
#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

#[test]
fn nothing_is_allocated_per_update() {
    let at = [7000, 7001].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut ends: Vec<_> = (0..2u16)
        .map(|i| {
            let endpoint = Endpoint::new(&config(i, &at, 3 + u64::from(i))).expect("a good one");
            let host = Recycling {
                own: Position {
                    epoch: Epoch(9 + u64::from(i)),
                    ..Position::default()
                },
                applied: Position::default(),
                answers: Vec::with_capacity(64),
                updates: 0,
            };
            (endpoint, host, Wire::default())
        })
        .collect();
    let mut buffer = vec![0; ends[0].0.max_datagram()];
    let mut now = Instant::from_micros(0);
    for (i, (endpoint, host, _)) in ends.iter_mut().enumerate() {
        let held = Event::LaneHeld {
            peer: RegionId(1 - i as u16),
            acked: Position::default(),
            own: host.own,
        };
        endpoint.handle_command(now, Command::Event(held));
    }
    // The submitting side makes its batches ahead of time: that part belongs to the database.
    const ROUNDS: u64 = 600;
    const EACH: u64 = 64;
    let mut commits: Vec<_> = (0..ROUNDS)
        .map(|round| {
            let mut batch = Batch::default();
            batch.reset(Seq(round * EACH + 1));
            for n in round * EACH..(round + 1) * EACH {
                batch.push(&update(0, n, 128));
            }
            batch
        })
        .rev()
        .collect();
    let mut warm = None;
    let mut rounds = 0;
    while ends[1].1.updates < ROUNDS * EACH {
        rounds += 1;
        assert!(rounds < 100_000, "it does not converge");
        now = now.after(Duration::from_micros(200));
        if ends[1].1.updates + 2000 > (ROUNDS - commits.len() as u64) * EACH
            && let Some(batch) = commits.pop()
        {
            ends[0].0.handle_command(now, Command::Committed(batch));
        }
        if warm.is_none() && ends[1].1.updates >= ROUNDS * EACH / 3 {
            warm = Some((Region::new(ALLOCATOR), ends[1].1.updates));
        }
        for i in 0..2 {
            let (endpoint, host, out) = &mut ends[i];
            out.bytes.clear();
            out.ends.clear();
            while let Step::Transmit { len, .. } = endpoint.poll(now, host, &mut buffer) {
                out.bytes.extend_from_slice(&buffer[..len]);
                out.ends.push(out.bytes.len());
            }
            for answer in host.answers.drain(..) {
                endpoint.handle_command(now, answer);
            }
            let wire = std::mem::take(out);
            let mut start = 0;
            for &end in &wire.ends {
                let datagram = &wire.bytes[start..end];
                ends[1 - i].0.handle_datagram(now, at[i], datagram);
                start = end;
            }
            ends[i].2 = wire;
        }
    }
    let (region, before) = warm.expect("a third is over");
    let stats = region.change();
    let updates = ends[1].1.updates - before;
    println!("{updates} updates: {stats:?}");
    // A table that grows once more is not a matter of updates; one in a thousand would be.
    assert!(
        stats.allocations + stats.reallocations <= 16,
        "{stats:?} for {updates} updates"
    );
}
