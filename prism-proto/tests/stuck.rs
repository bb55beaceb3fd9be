//! States in which nothing would ever have happened again, or the wrong thing for ever.

mod sim;

use prism_proto::wire::{Frame, Header, Nack, Writer};
use prism_proto::*;
use sim::*;

const EU: RegionId = RegionId(1);

fn node(i: u16) -> Option<Target> {
    Some(Target::Node(NodeId(i)))
}

fn quick(config: &mut Config<'_>) {
    config.apply_timeout = core::time::Duration::from_secs(5);
}

/// A doubled datagram is answered with the next poll, not after one more turn of the host's loop.
#[test]
fn a_doubled_datagram_makes_nobody_turn_in_circles() {
    let mut sim = Sim::new(9_959_436_342_824_651_900, &[2, 1, 2], plain);
    sim.net.duplicate = 0.5;
    sim.net.delay = (100, 1374);
    sim.hold_all();
    sim.dbs[0].sick = Some(ApplyCause::Busy);
    for _ in 0..8 {
        sim.submit(2, 26_589);
    }
    sim.run_for(50 * MS);
    sim.dbs[0].sick = None;
    sim.run_until(10 * SEC, Sim::settled);
}

/// The primary comes back behind a longer path than before: its answers to probes arrive when their
/// timeout has long passed.
#[test]
fn a_node_that_has_become_slower_is_climbed_back_to() {
    let mut sim = Sim::new(11, &[1, 2], plain);
    sim.hold_all();
    for _ in 0..50 {
        sim.submit(0, 100);
        sim.run_for(10 * MS);
    }
    sim.run_until(10 * SEC, Sim::settled);
    sim.net.blocked.insert((0, 1));
    sim.run_until(10 * SEC, |s| s.target(0, 1) == node(2));
    sim.net.slow.insert(1, 150 * MS);
    sim.run_for(5 * SEC);
    sim.net.blocked.clear();
    sim.run_until(30 * SEC, |s| s.target(0, 1) == node(1));
    sim.submit(0, 100);
    sim.run_until(10 * SEC, Sim::settled);
}

/// EU1 says Welcome, then dies of the first update, again and again; it is always back before its
/// retries are used up.
#[test]
fn a_node_that_dies_of_every_update_is_left() {
    let mut sim = Sim::new(12, &[1, 2], quick);
    sim.hold_all();
    sim.submit(0, 100);
    sim.run_until(10 * SEC, Sim::settled);
    sim.dbs[1].apply_us = 40 * SEC;
    sim.submit(0, 100);
    for _ in 0..60 {
        sim.run_for(150 * MS);
        if sim.target(0, 1) != node(1) {
            return;
        }
        sim.restart(1);
    }
    panic!("still there: {}", sim.describe());
}

/// AS's updates cannot be read back; that is no reason why EU gets none.
#[test]
fn a_lane_whose_updates_cannot_be_read_does_not_keep_others_from_theirs() {
    let mut sim = Sim::new(13, &[1, 1, 1], plain);
    sim.hold_all();
    for _ in 0..300 {
        sim.submit(0, 10);
    }
    sim.run_until(10 * SEC, Sim::settled);
    // AS has been restored from an old backup, EU is a little behind.
    sim.dbs[1]
        .applied
        .get_mut(&0)
        .expect("stream")
        .truncate(200);
    sim.dbs[2].applied.get_mut(&0).expect("stream").truncate(20);
    sim.nodes[0].memory.map.clear();
    sim.unreadable = 1..100;
    sim.restart(1);
    sim.restart(2);
    let took = sim.run_until(10 * SEC, |s| s.applied(1, 0) == 300);
    assert!(took < 2 * SEC, "{took}");
    sim.unreadable = 0..0;
    sim.run_until(10 * SEC, Sim::settled);
}

/// The refused update's sender is unreachable when it is to be told, and a sibling takes over.
#[test]
fn a_refusal_is_told_to_whoever_sends_next() {
    let mut sim = Sim::new(14, &[2, 1], plain);
    sim.hold(0);
    sim.run_for(SEC);
    sim.dbs[1].refuse.insert((0, 1));
    sim.dbs[1].apply_us = 100 * MS;
    sim.submit(0, 100);
    sim.run_for(50 * MS);
    sim.kill(0);
    sim.tell(2, Event::NodeDown { node: NodeId(0) });
    sim.run_for(2 * SEC);
    sim.hold(1);
    let refused = |s: &Sim| {
        s.refused
            .iter()
            .any(|&(_, n, peer, seq)| (n, peer, seq) == (1, 1, 1))
    };
    sim.run_until(15 * SEC, refused);
}

/// A refusal is confirmed only by a node that has told its host.
#[test]
fn a_refusal_that_reaches_the_former_holder_is_not_lost() {
    let mut sim = Sim::new(15, &[2, 1], plain);
    sim.hold(0);
    sim.run_for(SEC);
    sim.dbs[1].refuse.insert((0, 1));
    sim.dbs[1].apply_us = 20 * MS;
    sim.submit(0, 100);
    sim.run_for(5 * MS);
    sim.tell(0, Event::LaneLost { peer: EU });
    sim.run_until(15 * SEC, |s| s.dbs[0].handled.contains(&(1, 1)));
}

/// The only ACK that says "applied" is lost.
#[test]
fn a_lost_word_of_the_apply_is_asked_for_soon() {
    let mut sim = Sim::new(16, &[1, 1], plain);
    sim.hold(0);
    sim.submit(0, 100);
    sim.run_until(10 * SEC, Sim::settled);
    sim.dbs[1].apply_us = 50 * MS;
    sim.submit(0, 100);
    sim.run_for(20 * MS);
    sim.drop_next.insert((1, 0), 1);
    let took = sim.run_until(5 * SEC, Sim::settled);
    assert!(took <= 350 * MS, "{took}");
}

/// The host reports, again and again, that the direct path wrote nothing.
#[test]
fn a_direct_path_that_writes_nothing_is_not_asked_in_a_busy_loop() {
    let mut sim = Sim::new(17, &[1, 1], plain);
    sim.hold_all();
    sim.submit(0, 100);
    sim.run_until(10 * SEC, Sim::settled);
    sim.kill(1);
    sim.direct_idle = true;
    sim.submit(0, 100);
    sim.run_for(10 * SEC);
    assert_eq!(sim.target(0, 1), Some(Target::Direct));
    assert!(sim.directs < 40, "{}", sim.directs);
    sim.direct_idle = false;
    sim.run_until(6 * SEC, Sim::settled);
}

/// A flood of nonsense from one node between two polls must not hide that a lane has stopped.
#[test]
fn a_flood_of_garbage_hides_no_alarm() {
    let mut sim = Sim::new(18, &[1, 1, 1], plain);
    sim.hold_all();
    sim.submit(0, 100);
    sim.run_until(10 * SEC, Sim::settled);
    sim.kill(1);
    sim.run_until(10 * SEC, |s| s.target(0, 1) == Some(Target::Direct));
    let now = at(sim.now);
    let node = &mut sim.nodes[0];
    let forked = Event::DirectFailed {
        peer: EU,
        why: DirectFailure::Forked,
    };
    node.engine.handle_event(now, forked, &mut node.inbox);
    let mut buffer = [0; 64];
    let header = Header {
        from: 77,
        to: 0,
        pn: 1,
    };
    let mut writer = Writer::new(&mut buffer, header).expect("room");
    // Only siblings may say that.
    assert!(writer.push(&Frame::Appended { tail: Seq(1) }));
    assert!(writer.push(&Frame::Nack(Nack::Gap { need: Seq(1) })));
    let len = writer.written();
    for _ in 0..100 {
        node.engine
            .handle_datagram(now, NodeId(2), &buffer[..len], &mut node.inbox);
    }
    sim.tell(0, Event::Available { upto: Seq(1) });
    let stopped = |(_, _, notice): &(u64, usize, Notice)| {
        matches!(notice, Notice::LaneStopped { peer: EU, .. })
    };
    assert!(sim.log.iter().any(stopped));
}

/// Everything arrives twice: ACKs are not acknowledged, also not when they are doubled.
#[test]
fn doubled_acks_do_not_answer_each_other_for_ever() {
    let mut sim = Sim::new(19, &[1, 1], plain);
    sim.net.duplicate = 1.0;
    sim.hold_all();
    sim.submit(0, 100);
    sim.run_until(10 * SEC, Sim::settled);
    sim.run_for(SEC);
    let sent = sim.nodes[0].transmits;
    sim.run_for(10 * SEC);
    let sent = sim.nodes[0].transmits - sent;
    assert!(sent < 60, "{sent} datagrams in ten idle seconds");
}

/// The receiver's session is renewed and the sender does not notice.
#[test]
fn a_receiver_that_has_kept_nothing_says_what_it_needs() {
    let mut sim = Sim::new(20, &[1, 1], plain);
    sim.hold(0);
    sim.submit(0, 100);
    sim.run_until(10 * SEC, Sim::settled);
    sim.tell(1, Event::NodeUp { node: NodeId(0) });
    sim.submit(0, 100);
    let took = sim.run_until(SEC, |s| s.applied(1, 0) == 2);
    assert!(took < 15 * MS, "{took}");
}

/// A `Hello` arrives after its successor, and a copy of that one after both. What has come since the lane
/// was opened stays: the sender was told so, and would not send it again.
#[test]
fn a_hello_that_was_overtaken_changes_nothing() {
    let mut sim = Sim::new(21, &[1, 1], plain);
    sim.kill(0);
    sim.tell(1, Event::NodeUp { node: NodeId(0) });
    let epoch = sim.dbs[0].epoch;
    let mut pn = 0;
    let mut say = |sim: &mut Sim, frame: &Frame<'_>| {
        pn += 1;
        let mut buffer = [0; 600];
        let header = Header {
            from: 77,
            to: 0,
            pn,
        };
        let mut writer = Writer::new(&mut buffer, header).expect("room");
        assert!(writer.push(frame));
        let len = writer.written();
        let (now, node) = (at(sim.now), &mut sim.nodes[1]);
        node.engine
            .handle_datagram(now, NodeId(0), &buffer[..len], &mut node.inbox);
        sim.tell(1, Event::Available { upto: Seq(0) });
        sim.run_for(20 * MS);
    };
    let hello = |token| Frame::Hello {
        token,
        epoch,
        tail: Seq(1),
    };
    say(&mut sim, &hello(2));
    let half = Frame::Fragment {
        seq: Seq(1),
        total: 1000,
        chunk: 512,
        index: 0,
        bytes: &[7; 512],
    };
    say(&mut sim, &half);
    let kept = sim.nodes[1].inbox.bytes();
    assert!(kept > 0, "nothing has arrived");
    say(&mut sim, &hello(1));
    say(&mut sim, &hello(2));
    assert_eq!(sim.nodes[1].inbox.bytes(), kept);
    say(&mut sim, &hello(3));
    assert_eq!(sim.nodes[1].inbox.bytes(), 0);
}
