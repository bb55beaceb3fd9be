//! An engine with a lane and an inlet is fed with any mix of datagrams, facts and time. It must not
//! panic, must come to a `Wait` in bounded steps, must apply in order, and must never claim that the
//! peer has what nobody acknowledged. (With honest databases around it: see `engine_model`.)

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use prism_proto::{
    ApplyCause, Config, DirectFailure, Engine, Epoch, Event, Inbox, InboxFull, Instant, NodeConfig,
    NodeId, Output, Payloads, Position, Refusal, RefusalClass, RegionConfig, RegionId, RegionKey, Seq,
    Tag, Verdict,
    wire::{Header, MAX_HEADER, VERSION},
};

use crate::sim::Heap;

const WINDOW: u32 = 16;
const WINDOW_BYTES: u32 = 64 << 10;
const MAX_UPDATE: u32 = 16 << 10;
const EPOCH: Epoch = Epoch(7);
const TAIL: u64 = 40;

#[derive(Debug, Arbitrary)]
enum Op {
    /// Raw plaintext.
    Raw {
        from: u8,
        bytes: Vec<u8>,
    },
    /// Frames behind a valid header.
    Frames {
        from: u8,
        to_me: bool,
        pn: u16,
        bytes: Vec<u8>,
    },
    Up(u8),
    Down(u8),
    Available(u8),
    Fetched(u8),
    Held(u8, u8),
    Lost(u8),
    Verified(u8, u8, u8),
    Position(u8, u8, bool),
    Applied(u8, u8, u8),
    Clean(u8, u8),
    Refused(u8, u8, bool),
    Handled(u8, u8),
    Failed(u8, u8, u16),
    DirectDone(u8, u8, u8),
    DirectFailed(u8, u8),
    Time(u32),
}

#[derive(Default)]
struct Received {
    updates: BTreeMap<(RegionId, Seq), (usize, usize)>,
}

impl Inbox for Received {
    fn put(
        &mut self,
        stream: RegionId,
        seq: Seq,
        total: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), InboxFull> {
        assert!(
            offset + bytes.len() <= total,
            "a fragment lies inside its update"
        );
        let entry = self.updates.entry((stream, seq)).or_insert((total, 0));
        if entry.0 != total {
            return Err(InboxFull);
        }
        entry.1 += bytes.len();
        let of_stream = || self.updates.iter().filter(|((r, _), _)| *r == stream);
        assert!(
            of_stream().count() <= WINDOW as usize
                && of_stream().map(|(_, (total, _))| *total).sum::<usize>()
                    <= (WINDOW_BYTES + MAX_UPDATE) as usize,
            "more is kept than the credit allows"
        );
        Ok(())
    }
    fn release(&mut self, stream: RegionId, upto: Seq) {
        self.updates
            .retain(|(r, seq), _| *r != stream || *seq > upto);
    }
    fn clear(&mut self, stream: RegionId) {
        self.updates.retain(|(r, _), _| *r != stream);
    }
}

struct Outbox;

impl Payloads for Outbox {
    fn get(&self, seq: Seq) -> Option<&[u8]> {
        // Some are large, some are not in memory.
        match seq.0 % 7 {
            0 => Some(&[3; 5000]),
            1 => None,
            n => Some(&[1; 64][..n as usize * 8]),
        }
    }
}

fn position(seq: u64) -> Position {
    Position {
        epoch: EPOCH,
        seq: Seq(seq),
        tag: Tag(seq),
    }
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let Some((seed, ops)) = super::structured::<(u64, Vec<Op>)>(bytes) else {
        return;
    };
    // NA1 NA2 | EU1 EU2 | AS1
    let nodes: Vec<_> = [0, 0, 1, 1, 2]
        .iter()
        .enumerate()
        .map(|(i, r)| NodeConfig {
            id: NodeId(i as u16),
            region: RegionId(*r),
        })
        .collect();
    let regions: Vec<_> = ["NA", "EU", "AS"]
        .iter()
        .enumerate()
        .map(|(i, name)| RegionConfig {
            id: RegionId(i as u16),
            key: RegionKey::of(name),
            direct: i != 2,
        })
        .collect();
    let mut config = Config::new(NodeId(0), &nodes, &regions, seed);
    config.window = WINDOW;
    config.window_bytes = WINDOW_BYTES;
    config.max_update = MAX_UPDATE;
    let Ok(mut engine) = Engine::new(&config, &mut Heap) else {
        panic!("the configuration is fine");
    };
    let mut inbox = Received::default();
    let mut buffer = [0; 1500];
    let mut us: u64 = 1;
    let mut incarnation = [0; 4];
    let region = |r: u8| RegionId(u16::from(r) % 4);
    for op in ops.iter().take(200) {
        let now = Instant::from_micros(us);
        let event = match op {
            Op::Raw { from, bytes } => {
                engine.handle_datagram(now, NodeId(u16::from(*from) % 6), bytes, &mut inbox);
                None
            }
            Op::Frames {
                from,
                to_me,
                pn,
                bytes,
            } => {
                let mut datagram = vec![VERSION, 9, 0, 0, *from];
                datagram.extend_from_slice(if *to_me { &incarnation } else { &[0; 4] });
                let header = Header {
                    from: 0,
                    to: 0,
                    pn: u64::from(*pn),
                };
                let mut scratch = [0; MAX_HEADER];
                let len = prism_proto::wire::Writer::new(&mut scratch, header)
                    .map_or(0, |writer| writer.written());
                datagram.extend_from_slice(&scratch[9..len]);
                datagram.extend_from_slice(bytes);
                engine.handle_datagram(now, NodeId(u16::from(*from) % 6), &datagram, &mut inbox);
                None
            }
            Op::Up(n) => Some(Event::NodeUp {
                node: NodeId(u16::from(*n) % 6),
            }),
            Op::Down(n) => Some(Event::NodeDown {
                node: NodeId(u16::from(*n) % 6),
            }),
            Op::Available(n) => Some(Event::Available {
                upto: Seq(u64::from(*n) % TAIL),
            }),
            Op::Fetched(n) => Some(Event::Fetched {
                upto: Seq(u64::from(*n) % TAIL),
            }),
            Op::Held(r, n) => Some(Event::LaneHeld {
                peer: region(*r),
                acked: position(u64::from(*n) % TAIL),
                own: position(TAIL),
            }),
            Op::Lost(r) => Some(Event::LaneLost { peer: region(*r) }),
            Op::Verified(r, n, v) => Some(Event::Verified {
                peer: region(*r),
                position: position(u64::from(*n) % TAIL),
                verdict: [
                    Verdict::Matches,
                    Verdict::Forked,
                    Verdict::TooOld,
                    Verdict::Unknown,
                ][usize::from(*v) % 4],
            }),
            Op::Position(r, n, known) => Some(Event::Position {
                stream: region(*r),
                position: if *known {
                    position(u64::from(*n))
                } else {
                    Position::default()
                },
                clean: Seq(u64::from(*n)),
            }),
            Op::Applied(r, n, clean) => Some(Event::Applied {
                stream: region(*r),
                position: position(u64::from(*n)),
                clean: Seq(u64::from(*clean)),
            }),
            Op::Clean(r, n) => Some(Event::Clean {
                stream: region(*r),
                clean: Seq(u64::from(*n)),
            }),
            Op::Refused(r, n, same) => Some(Event::Refused {
                stream: region(*r),
                refusal: Refusal {
                    epoch: if *same { EPOCH } else { Epoch(9) },
                    seq: Seq(u64::from(*n)),
                    class: RefusalClass::Data,
                    sqlstate: *b"22000",
                },
            }),
            Op::Handled(r, n) => Some(Event::RefusalHandled {
                peer: region(*r),
                seq: Seq(u64::from(*n)),
            }),
            Op::Failed(r, c, ms) => Some(Event::ApplyFailed {
                stream: region(*r),
                cause: [
                    ApplyCause::Unreachable,
                    ApplyCause::Busy,
                    ApplyCause::Dependency,
                    ApplyCause::Parked,
                    ApplyCause::Forked,
                ][usize::from(*c) % 5],
                retry_at: now.after(core::time::Duration::from_millis(u64::from(*ms))),
            }),
            Op::DirectDone(r, n, clean) => Some(Event::DirectDone {
                peer: region(*r),
                position: position(u64::from(*n) % TAIL),
                clean: Seq(u64::from(*clean)),
            }),
            Op::DirectFailed(r, w) => Some(Event::DirectFailed {
                peer: region(*r),
                why: [
                    DirectFailure::Unreachable,
                    DirectFailure::Busy,
                    DirectFailure::Dependency,
                    DirectFailure::Parked,
                    DirectFailure::Forked,
                ][usize::from(*w) % 5],
            }),
            Op::Time(d) => {
                us += u64::from(*d);
                None
            }
        };
        let now = Instant::from_micros(us);
        if let Some(event) = event {
            engine.handle_event(now, event, &mut inbox);
        }
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 20_000, "poll does not come to a Wait");
            match engine.poll(now, &Outbox, &mut buffer) {
                Output::Wait { deadline, .. } => {
                    assert!(
                        deadline.is_none_or(|at| at > now),
                        "a deadline that has passed is work, not a wait"
                    );
                    break;
                }
                Output::Transmit { len, .. } => {
                    assert!(len <= usize::from(config.mtu));
                    incarnation.copy_from_slice(&buffer[1..5]);
                }
                Output::Apply {
                    stream, from, to, ..
                } => {
                    assert!(from <= to && to.0 - from.0 < u64::from(WINDOW));
                    for seq in from.0..=to.0 {
                        let (total, have) = inbox.updates[&(stream, Seq(seq))];
                        assert!(have >= total, "an incomplete update is handed over");
                    }
                }
                Output::Acked {
                    position, clean, ..
                } => assert!(clean <= position.seq, "clean beyond what is acknowledged"),
                _ => {}
            }
        }
    }
}
