//! What authenticated nodes have no right to say: nothing of the datagram takes effect, and the host
//! hears who it was.

mod sim;

use prism_proto::*;
use sim::*;
use wire::{Ack, Credit, Frame, Header, Nack, Progress, Writer};

/// NA1 and NA2 (nodes 0, 1), EU1 (node 2), AS1 (node 3).
const NA1: usize = 0;
const NA2: usize = 1;
const EU1: usize = 2;
const AS1: usize = 3;

const EU: RegionId = RegionId(1);
const AS: RegionId = RegionId(2);

/// Lanes to both regions have carried updates, and both regions have sent some.
fn warm(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, &[2, 1, 1], plain);
    sim.hold_all();
    for i in [NA1, EU1, AS1] {
        for _ in 0..10 {
            sim.submit(i, 100);
        }
    }
    sim.run_until(10 * SEC, Sim::settled);
    // Also what siblings tell each other.
    sim.run_for(SEC);
    sim
}

/// The next datagram of `from` to NA1, with these frames.
fn forge(sim: &Sim, from: usize, frames: &[Frame<'_>]) -> Vec<u8> {
    let last = sim.headers[&(from, NA1)];
    let header = Header {
        pn: last.pn + 1000,
        ..last
    };
    let mut buffer = [0u8; 1200];
    let mut writer = Writer::new(&mut buffer, header).expect("room");
    for frame in frames {
        assert!(writer.push(frame));
    }
    let len = writer.written();
    buffer[..len].to_vec()
}

/// Feeds it to NA1's engine; what it then wants, down to its rest.
fn feed(sim: &mut Sim, from: usize, datagram: &[u8]) -> Vec<Output> {
    let now = at(sim.now);
    let node = &mut sim.nodes[NA1];
    let mut buffer = [0u8; 2048];
    node.engine
        .handle_datagram(now, NodeId(from as u16), datagram, &mut node.inbox);
    let mut outputs = Vec::new();
    loop {
        match node.engine.poll(now, &node.memory, &mut buffer) {
            Output::Wait { .. } => return outputs,
            output => outputs.push(output),
        }
    }
}

fn ack(progress: Option<Progress>) -> Frame<'static> {
    Frame::Ack(Ack {
        largest: 1,
        delay_us: 0,
        first: 0,
        more: heapless::Vec::new(),
        progress,
    })
}

fn progress(seq: u64) -> Progress {
    Progress {
        position: Position {
            epoch: Epoch(0xe0),
            seq: Seq(seq),
            tag: Tag(0),
        },
        clean: Seq(seq),
        credit: Credit {
            updates: 1000,
            bytes: 1 << 20,
        },
    }
}

fn refusal() -> Refusal {
    Refusal {
        epoch: Epoch(0xe0),
        seq: Seq(3),
        class: RefusalClass::Data,
        sqlstate: *b"22000",
    }
}

/// Every frame that a node may not send, with what it is called.
fn forbidden() -> Vec<(usize, Violation, Frame<'static>)> {
    let welcome = Frame::Welcome {
        token: 1,
        position: progress(10).position,
        clean: Seq(10),
        credit: progress(10).credit,
    };
    let acked = |region: &str| Frame::Acked {
        region: RegionKey::of(region),
        seq: Seq(10),
        clean: Seq(10),
    };
    let unsent = Frame::Ack(Ack {
        largest: 1 << 40,
        delay_us: 0,
        first: 1 << 30,
        more: heapless::Vec::new(),
        progress: None,
    });
    vec![
        // A sibling has no stream of its own ...
        (
            NA2,
            Violation::Stream,
            Frame::Hello {
                token: 1,
                epoch: Epoch(0xe0),
                tail: Seq(99),
            },
        ),
        (
            NA2,
            Violation::Stream,
            Frame::Updates {
                first: Seq(11),
                run: &[1, 7],
            },
        ),
        (
            NA2,
            Violation::Stream,
            Frame::Fragment {
                seq: Seq(11),
                total: 2,
                chunk: 1,
                index: 0,
                bytes: &[7],
            },
        ),
        (
            NA2,
            Violation::Stream,
            Frame::RefusedAck {
                epoch: Epoch(0xe1),
                seq: Seq(3),
            },
        ),
        // ... and speaks for no database of another region.
        (NA2, Violation::Judgement, welcome),
        (NA2, Violation::Judgement, ack(Some(progress(10)))),
        (
            NA2,
            Violation::Judgement,
            Frame::Nack(Nack::Refused(refusal())),
        ),
        (
            NA2,
            Violation::Judgement,
            Frame::Nack(Nack::Unavailable { retry_ms: 1 }),
        ),
        (
            NA2,
            Violation::Judgement,
            Frame::Nack(Nack::Gap { need: Seq(1) }),
        ),
        (NA2, Violation::OwnRegion, acked("R0")),
        // Other regions' nodes have no say in what is siblings' business.
        (EU1, Violation::News, Frame::Appended { tail: Seq(99) }),
        (EU1, Violation::News, acked("R1")),
        (EU1, Violation::News, acked("R2")),
        (AS1, Violation::News, acked("R0")),
        // Nobody acknowledges what was not sent.
        (EU1, Violation::NeverSent, unsent.clone()),
        (NA2, Violation::NeverSent, unsent),
    ]
}

#[test]
fn a_datagram_with_a_forbidden_frame_changes_nothing() {
    for (from, what, frame) in forbidden() {
        // Alone, and behind a frame that is allowed and would have an effect.
        for frames in [vec![frame.clone()], vec![Frame::Ping, frame.clone()]] {
            let mut sim = warm(31);
            let _at_rest = feed(&mut sim, from, &[]);
            let before = format!("{:?}", sim.nodes[NA1].engine);
            let datagram = forge(&sim, from, &frames);
            let outputs = feed(&mut sim, from, &datagram);
            let from = NodeId(from as u16);
            let told = Output::Notify(Notice::Violation { from, what });
            assert_eq!(outputs, [told], "{frames:?}");
            assert_eq!(before, format!("{:?}", sim.nodes[NA1].engine), "{frames:?}");
        }
    }
}

/// The same, from whom it is allowed: the forgeries above are refused for what they say.
#[test]
fn the_same_frames_are_heard_from_those_who_may_send_them() {
    for (from, what, frame) in forbidden() {
        let other = match what {
            Violation::Stream | Violation::Judgement => EU1,
            Violation::News => NA2,
            _ => continue,
        };
        // Never of the own region.
        if what == Violation::News && from == AS1 {
            continue;
        }
        let mut sim = warm(32);
        let datagram = forge(&sim, other, std::slice::from_ref(&frame));
        let outputs = feed(&mut sim, other, &datagram);
        let refused = |o: &Output| {
            matches!(
                o,
                Output::Notify(Notice::Violation { .. } | Notice::Dropped { .. })
            )
        };
        assert!(!outputs.iter().any(refused), "{frame:?}: {outputs:?}");
    }
}

/// Frames carry no name of a region: an ACK or a refusal of AS's node is about AS, whatever it says.
#[test]
fn an_ack_of_one_region_says_nothing_for_another() {
    let mut sim = warm(33);
    // EU is away, AS is not.
    sim.kill(EU1);
    sim.dbs[1].direct_up = false;
    for _ in 0..5 {
        sim.submit(NA1, 100);
    }
    sim.run_until(10 * SEC, |s| s.applied(2, 0) == 15);
    let eu = sim.nodes[NA1].engine.lane_stats(EU).acked;
    assert_eq!(eu.seq, Seq(10));
    let mut all = progress(15);
    all.position.tag = sim.dbs[0].outbox[14].0;
    let frames = [ack(Some(all)), Frame::Nack(Nack::Refused(refusal()))];
    let datagram = forge(&sim, AS1, &frames);
    for output in feed(&mut sim, AS1, &datagram) {
        let peer = match output {
            Output::Acked { peer, .. } | Output::PeerRefused { peer, .. } => peer,
            _ => continue,
        };
        assert_eq!(peer, AS);
    }
    assert_eq!(sim.nodes[NA1].engine.lane_stats(EU).acked, eu);
}

#[test]
fn a_flood_of_violations_is_told_and_nothing_else_suffers() {
    let mut sim = warm(34);
    for round in 0..10_000u64 {
        let (from, _, frame) = forbidden().swap_remove(round as usize % 16);
        let datagram = forge(&sim, from, &[frame]);
        let now = at(sim.now);
        let node = &mut sim.nodes[NA1];
        node.engine
            .handle_datagram(now, NodeId(from as u16), &datagram, &mut node.inbox);
    }
    for i in [NA1, EU1, AS1] {
        sim.submit(i, 100);
    }
    sim.run_until(10 * SEC, Sim::settled);
    let told = |(_, _, notice): &&(u64, usize, Notice)| matches!(notice, Notice::Violation { .. });
    assert!(sim.log.iter().filter(told).count() > 0);
}

/// Found with a live node: a run that begins at the last number there is stopped its loop.
#[test]
fn the_last_numbers_there_are_harm_nobody() {
    let refused = |seq| {
        let seq = Seq(seq);
        Frame::Nack(Nack::Refused(Refusal { seq, ..refusal() }))
    };
    let first = Seq(u64::MAX - 1);
    for frame in [
        Frame::Updates { first, run: &[0] },
        Frame::Fragment {
            seq: first,
            total: 2,
            chunk: 1,
            index: 0,
            bytes: &[7],
        },
        Frame::Nack(Nack::Missing {
            from: Seq(0),
            to: Seq(u64::MAX),
        }),
        // Updates that have never been.
        refused(0),
        refused(11),
        refused(u64::MAX),
    ] {
        let mut sim = warm(35);
        let datagram = forge(&sim, EU1, std::slice::from_ref(&frame));
        let outputs = feed(&mut sim, EU1, &datagram);
        let told = |output: &Output| matches!(output, Output::PeerRefused { .. });
        assert!(!outputs.iter().any(told), "{frame:?}: {outputs:?}");
        for i in [NA1, EU1, AS1] {
            sim.submit(i, 100);
        }
        sim.run_until(10 * SEC, Sim::settled);
    }
}

#[test]
fn a_violation_is_not_lost_behind_a_crowd_of_other_mistakes() {
    let mut sim = warm(5);
    let now = at(sim.now);
    let (from, what, frame) = forbidden().remove(0);
    let offence = forge(&sim, from, &[frame]);
    let node = &mut sim.nodes[NA1];
    for _ in 0..200 {
        node.engine
            .handle_datagram(now, NodeId(from as u16), b"rubbish", &mut node.inbox);
    }
    for _ in 0..3 {
        node.engine
            .handle_datagram(now, NodeId(from as u16), &offence, &mut node.inbox);
    }
    let outputs = feed(&mut sim, from, b"rubbish");
    let told = Output::Notify(Notice::Violation {
        from: NodeId(from as u16),
        what,
    });
    let times = outputs.iter().filter(|output| **output == told).count();
    assert_eq!(times, 1, "{outputs:?}");
}
