//! Who sends, and to whom: lanes that change hands, and the policy `fastest`.

mod sim;

use prism_proto::*;
use sim::*;

const EU: RegionId = RegionId(1);

fn node(i: u16) -> Option<Target> {
    Some(Target::Node(NodeId(i)))
}

fn fastest(config: &mut Config<'_>) {
    config.retry.policy = Policy::Fastest;
}

fn switches(sim: &Sim) -> usize {
    (sim.log.iter())
        .filter(|(_, n, notice)| *n == 0 && matches!(notice, Notice::Switched { .. }))
        .count()
}

/// Traffic while time passes: every 10 ms an update.
fn busy(sim: &mut Sim, seconds: u64) {
    for _ in 0..seconds * 100 {
        sim.submit(0, 100);
        sim.run_for(10 * MS);
    }
}

/// NA1, and EU1, EU2, EU3 (nodes 1, 2, 3) at 12, 4 and 8 ms.
fn three(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, &[1, 3], fastest);
    sim.net.slow = [(1, 12 * MS), (2, 4 * MS), (3, 8 * MS)].into();
    sim.hold_all();
    sim
}

#[test]
fn fastest_goes_to_the_node_with_the_lowest_round_trip_time() {
    let mut sim = three(1);
    busy(&mut sim, 1);
    sim.run_until(10 * SEC, |s| s.target(0, 1) == node(2));
    let before = switches(&sim);
    busy(&mut sim, 30);
    assert_eq!(switches(&sim), before, "and stays there");
    sim.run_until(10 * SEC, Sim::settled);
}

#[test]
fn fastest_leaves_a_node_that_has_become_slow() {
    let mut sim = three(2);
    sim.run_until(20 * SEC, |s| s.target(0, 1) == node(2));
    sim.net.slow.insert(2, 100 * MS);
    busy(&mut sim, 6);
    assert_eq!(sim.target(0, 1), node(3));
    sim.net.slow.insert(2, 2 * MS);
    busy(&mut sim, 60);
    assert_eq!(sim.target(0, 1), node(2), "and comes back");
    sim.run_until(10 * SEC, Sim::settled);
    assert_eq!(sim.dbs[1].direct_rows, 0);
}

#[test]
fn fastest_does_not_flap_on_noise() {
    let mut total = 0;
    for seed in 1..9 {
        // All equally far, and each datagram takes its own time.
        let mut sim = Sim::new(seed, &[1, 3], fastest);
        sim.net.delay = (10 * MS, 20 * MS);
        sim.hold_all();
        busy(&mut sim, 60);
        total += switches(&sim) - 1;
        sim.run_until(10 * SEC, Sim::settled);
    }
    assert!(total <= 8, "{total} switches in eight minutes");
}

/// A queue on the way, for a moment: gone before the lane would be.
#[test]
fn fastest_does_not_run_from_a_short_delay() {
    let mut sim = three(4);
    busy(&mut sim, 10);
    assert_eq!(sim.target(0, 1), node(2));
    let before = switches(&sim);
    for _ in 0..5 {
        sim.net.slow.insert(2, 40 * MS);
        busy(&mut sim, 1);
        sim.net.slow.insert(2, 4 * MS);
        busy(&mut sim, 5);
    }
    assert_eq!(switches(&sim), before);
}

#[test]
fn fastest_falls_back_when_the_fastest_dies() {
    let mut sim = three(3);
    sim.run_until(20 * SEC, |s| s.target(0, 1) == node(2));
    sim.kill(2);
    sim.submit(0, 100);
    let took = sim.run_until(10 * SEC, Sim::settled);
    assert!(took <= 1500 * MS, "{took}");
    assert_eq!(
        sim.target(0, 1),
        node(3),
        "the next fastest, not the next in order"
    );
    sim.kill(3);
    sim.submit(0, 100);
    sim.run_until(10 * SEC, Sim::settled);
    assert_eq!(sim.target(0, 1), node(1));
    sim.restart(2);
    sim.run_until(60 * SEC, |s| s.target(0, 1) == node(2));
}

/// NA1 and NA2 (nodes 0, 1), EU1 (node 2): NA2 accepts, NA1 holds the lane.
fn siblings(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, &[2, 1], plain);
    sim.hold_all();
    sim.submit(1, 100);
    sim.run_until(10 * SEC, |s| {
        s.settled() && s.nodes[1].sibling_acked.get(&1) == Some(&1)
    });
    sim.run_for(10 * SEC);
    sim
}

#[test]
fn a_siblings_accepted_update_leaves_at_once() {
    let mut sim = siblings(4);
    sim.submit(1, 100);
    let took = sim.run_until(SEC, |s| s.applied(1, 0) == 2);
    assert_eq!(
        took,
        500 + 400 + 500 + 300,
        "word, fetch, flight, apply: nothing else"
    );
    let took = sim.run_until(SEC, |s| s.nodes[1].sibling_acked.get(&1) == Some(&2));
    assert_eq!(took, 500 + 500, "answer, word");
}

#[test]
fn a_siblings_accepted_update_leaves_soon_when_the_word_of_it_is_lost() {
    let mut sim = siblings(5);
    for n in 2..10 {
        sim.drop_next.insert((1, 0), 1);
        sim.submit(1, 100);
        let took = sim.run_until(SEC, |s| s.applied(1, 0) == n);
        assert!(took < 60 * MS, "{took}");
        sim.run_for(100 * MS);
        sim.drop_next.insert((0, 1), 1);
        sim.run_until(SEC, |s| s.nodes[1].sibling_acked.get(&1) == Some(&n));
    }
    // A burst, of which one word after the other is lost.
    for _ in 0..50 {
        sim.drop_next.insert((1, 0), 1);
        sim.submit(1, 100);
        sim.run_for(MS);
    }
    let took = sim.run_until(SEC, |s| s.applied(1, 0) == 59);
    assert!(took < 60 * MS, "{took}");
}

/// Whatever the lane is doing: given up and taken again (by a row that is behind the peer) it goes on.
#[test]
fn a_lane_is_lost_and_regained_in_every_phase() {
    let mut phases = std::collections::BTreeSet::new();
    let stories: [fn(&mut Sim); 5] = [
        |_| {},
        |s| s.kill(1),
        |s| {
            s.kill(1);
            s.kill(2);
        },
        |s| {
            s.dbs[1].up = false;
        },
        |s| {
            s.kill(1);
            s.kill(2);
            s.dbs[1].direct_up = false;
        },
    ];
    for (k, story) in stories.iter().enumerate() {
        for step in 0..30u64 {
            let mut sim = Sim::new(k as u64 + 6, &[1, 2], plain);
            sim.hold_all();
            for _ in 0..30 {
                sim.submit(0, 100);
            }
            if step % 2 == 0 {
                sim.run_until(10 * SEC, Sim::settled);
            }
            story(&mut sim);
            for _ in 0..30 {
                sim.submit(0, 100);
            }
            // From the first microseconds to ten seconds.
            sim.run_for((1.75f64.powi(step as i32)) as u64);
            phases.insert(
                format!("{:?}", sim.target(0, 1)).replace(|c: char| c.is_ascii_digit(), ""),
            );
            sim.tell(0, Event::LaneLost { peer: EU });
            assert_eq!(sim.target(0, 1), None);
            let sent = sim.nodes[0].engine.lane_stats(EU).sent;
            sim.run_for(step % 5 * 700);
            sim.submit(0, 100);
            assert_eq!(
                sim.nodes[0].engine.lane_stats(EU).sent,
                sent,
                "not ours any more"
            );
            // The row lags behind what the peer has.
            let behind = sim.applied(1, 0) / 2;
            let tag = |seq: u64| match seq {
                0 => Tag(0),
                seq => sim.dbs[0].outbox[seq as usize - 1].0,
            };
            let position = |seq| Position {
                epoch: Epoch(0xe0),
                seq: Seq(seq),
                tag: tag(seq),
            };
            let (acked, own) = (position(behind), position(sim.dbs[0].outbox.len() as u64));
            sim.tell(
                0,
                Event::LaneHeld {
                    peer: EU,
                    acked,
                    own,
                },
            );
            sim.dbs[1].up = true;
            sim.dbs[1].direct_up = true;
            sim.run_until(60 * SEC, Sim::settled);
        }
    }
    assert!(phases.len() >= 3, "{phases:?}");
}

/// The holder is told that its ladder is exhausted, so that it can leave the lane to a sibling.
#[test]
fn a_parked_lane_says_so_and_a_sibling_that_gets_through_takes_it() {
    let mut sim = Sim::new(20, &[2, 1], plain);
    sim.hold(0);
    sim.submit(0, 100);
    sim.run_until(10 * SEC, Sim::settled);
    // NA1 is cut off from EU, NA2 is not.
    sim.net.blocked.extend([(0, 2), (2, 0)]);
    sim.dbs[1].direct_up = false;
    sim.submit(0, 100);
    sim.run_until(20 * SEC, |s| {
        s.log.iter().any(|(_, n, notice)| {
            *n == 0
                && matches!(
                    notice,
                    Notice::Switched {
                        peer: EU,
                        to: Target::Parked(_),
                        ..
                    }
                )
        })
    });
    sim.tell(0, Event::LaneLost { peer: EU });
    sim.hold(1);
    let took = sim.run_until(10 * SEC, Sim::settled);
    assert!(took <= SEC, "{took}");
    sim.run_until(SEC, |s| s.nodes[0].sibling_acked.get(&1) == Some(&2));
}
