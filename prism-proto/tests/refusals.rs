//! Refusals on their way home. The model (see `sim`) asserts with every word of progress that no
//! origin takes an update for clean that was refused and not dealt with; `settled` waits until all is
//! clean.

mod sim;

use prism_proto::*;
use sim::*;

const EU: RegionId = RegionId(1);

/// NA1 and NA2 (nodes 0, 1), EU1 and EU2 (nodes 2, 3); NA1 has carried one update to EU1.
fn warm(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, &[2, 2], plain);
    sim.hold(0);
    sim.submit(0, 100);
    sim.run_until(10 * SEC, Sim::settled);
    sim
}

fn dealt_with(sim: &Sim, seqs: impl IntoIterator<Item = u64>) -> bool {
    seqs.into_iter()
        .all(|s| sim.dbs[0].handled.contains(&(1, s)))
}

/// An ACK for a refused update comes with the refusal, never before it.
#[test]
fn an_acknowledged_update_is_not_clean_before_its_refusal_is_dealt_with() {
    let mut sim = warm(1);
    sim.dbs[1].refuse.insert((0, 2));
    sim.handle_us = 700 * MS;
    sim.submit(0, 100);
    sim.submit(0, 100);
    sim.run_until(SEC, |s| s.nodes[0].acked.get(&1) == Some(&3));
    assert_eq!(sim.nodes[0].clean.get(&1), Some(&1));
    sim.run_until(SEC, |s| dealt_with(s, [2]));
    // Nothing is applied any more, so the word that all is clean has to come by itself.
    let took = sim.run_until(SEC, |s| s.nodes[0].clean.get(&1) == Some(&3));
    assert!(took < 10 * MS, "{took}");
    sim.run_until(SEC, |s| s.nodes[1].sibling_clean.get(&1) == Some(&3));
}

#[test]
fn a_lost_word_that_all_is_clean_is_asked_for_soon() {
    let mut sim = warm(2);
    sim.dbs[1].refuse.insert((0, 2));
    sim.submit(0, 100);
    sim.run_until(SEC, |s| dealt_with(s, [2]));
    // What EU1 says next is that the stream is clean.
    sim.drop_next.insert((2, 0), 1);
    let took = sim.run_until(SEC, Sim::settled);
    assert_eq!(sim.drop_next[&(2, 0)], 0);
    assert!((50 * MS..350 * MS).contains(&took), "{took}");
}

/// EU's database is away when it is to note that NA has dealt with it.
#[test]
fn a_refusal_that_could_not_be_noted_is_told_again() {
    let mut sim = warm(19);
    sim.dbs[1].refuse.insert((0, 2));
    sim.submit(0, 100);
    sim.run_until(SEC, |s| dealt_with(s, [2]));
    sim.dbs[1].up = false;
    sim.run_for(100 * MS);
    sim.dbs[1].up = true;
    let took = sim.run_until(5 * SEC, Sim::settled);
    assert!((500 * MS..1500 * MS).contains(&took), "{took}");
    assert_eq!(sim.handled_again, 1);
}

/// NA2 has said Hello last and died; NA1 still sends.
#[test]
fn a_refusal_is_told_to_every_node_that_has_opened_a_lane() {
    let mut sim = warm(18);
    sim.hold(1);
    sim.run_for(SEC);
    sim.kill(1);
    sim.dbs[1].refuse.insert((0, 2));
    sim.submit(0, 100);
    let took = sim.run_until(SEC, Sim::settled);
    assert!(took < 50 * MS, "{took}");
}

#[test]
fn a_refusal_that_is_lost_is_repeated() {
    let mut sim = warm(3);
    sim.dbs[1].refuse.insert((0, 2));
    sim.dbs[1].apply_us = 20 * MS;
    sim.submit(0, 100);
    sim.run_for(10 * MS);
    sim.drop_next.insert((2, 0), 2);
    let took = sim.run_until(5 * SEC, Sim::settled);
    assert!(took < SEC, "{took}");
}

#[test]
fn a_host_without_room_is_told_again_no_more_often_than_the_peer_repeats_it() {
    let mut sim = warm(4);
    sim.dbs[1].refuse.insert((0, 2));
    sim.handle_drop = 5;
    sim.submit(0, 100);
    sim.run_until(60 * SEC, Sim::settled);
    // 0, 0.2, 0.6, 1.4, 3, 6.2 s
    assert_eq!(sim.refused.len(), 6, "{:?}", sim.refused);
    let first = sim.refused[0].0;
    assert!(sim.refused[5].0 - first > 5 * SEC);
}

#[test]
fn the_origin_crashes_before_it_has_dealt_with_a_refusal() {
    let mut sim = warm(5);
    sim.dbs[1].refuse.insert((0, 2));
    sim.handle_us = 300 * MS;
    sim.submit(0, 100);
    sim.run_until(SEC, |s| !s.refused.is_empty());
    sim.restart(0);
    assert!(!dealt_with(&sim, [2]));
    sim.hold(0);
    sim.run_until(20 * SEC, Sim::settled);
    assert!(dealt_with(&sim, [2]));
}

#[test]
fn the_origin_crashes_after_it_has_dealt_with_a_refusal_and_before_it_has_said_so() {
    let mut sim = warm(6);
    sim.dbs[1].refuse.insert((0, 2));
    // (a node that is gone has dealt with it)
    sim.dbs[0].handled.insert((1, 2));
    sim.submit(0, 100);
    sim.run_until(SEC, |s| !s.refused.is_empty());
    sim.run_until(20 * SEC, Sim::settled);
    assert_eq!(
        sim.handled_again, 1,
        "answered at once, not dealt with twice"
    );

    // And with the crash itself: RefusedAck is on its way to nobody.
    sim.dbs[1].refuse.insert((0, 3));
    sim.submit(0, 100);
    sim.run_until(SEC, |s| s.refused.iter().any(|r| r.3 == 3));
    sim.net.blocked.insert((0, 2));
    sim.run_until(SEC, |s| dealt_with(s, [3]));
    sim.restart(0);
    sim.net.blocked.clear();
    assert!(!sim.dbs[1].rejected[&(0, 3)].1);
    sim.hold(0);
    sim.run_until(20 * SEC, Sim::settled);
    assert_eq!(sim.handled_again, 2);
}

#[test]
fn the_node_that_recorded_a_refusal_dies_before_it_has_told_it() {
    let mut sim = warm(7);
    sim.dbs[1].refuse.insert((0, 2));
    sim.dbs[1].apply_us = 20 * MS;
    sim.net.blocked.insert((2, 0));
    sim.submit(0, 100);
    sim.run_until(SEC, |s| s.applied(1, 0) == 2);
    sim.kill(2);
    sim.net.blocked.clear();
    // EU2 reads it from the database.
    sim.run_until(20 * SEC, Sim::settled);
    assert!(dealt_with(&sim, [2]));
    assert!(sim.dbs[1].direct_rows == 0);
}

#[test]
fn a_refusal_that_nobody_of_the_region_can_tell_is_found_by_the_direct_path() {
    let mut sim = warm(8);
    sim.dbs[1].refuse.insert((0, 2));
    sim.net.blocked.insert((2, 0));
    sim.submit(0, 100);
    sim.run_until(SEC, |s| s.applied(1, 0) == 2);
    sim.kill(2);
    sim.kill(3);
    sim.run_until(20 * SEC, Sim::settled);
    assert!(dealt_with(&sim, [2]));
}

#[test]
fn a_lane_with_nothing_to_write_still_looks_for_refusals() {
    let mut sim = warm(8);
    sim.dbs[1].refuse.insert((0, 2));
    sim.net.blocked.insert((2, 0));
    sim.submit(0, 100);
    sim.run_until(SEC, |s| s.applied(1, 0) == 2);
    for i in [0, 2, 3] {
        sim.kill(i);
    }
    // NA2 takes over; by the lane's row everything is acknowledged.
    let own = sim.dbs[1].position(0, Epoch(0xe0));
    sim.tell(
        1,
        Event::LaneHeld {
            peer: EU,
            acked: own,
            own,
        },
    );
    sim.run_until(20 * SEC, Sim::settled);
    assert!(dealt_with(&sim, [2]));
}

#[test]
fn a_sibling_takes_the_lane_over_while_a_refusal_is_under_way() {
    for us in [1, 300, 900, 1_400, 2_000, 5_000, 100_000] {
        for dead in [false, true] {
            let mut sim = warm(9);
            sim.dbs[1].refuse.insert((0, 2));
            sim.handle_us = 2 * MS;
            sim.submit(0, 100);
            sim.run_for(us);
            if dead {
                sim.kill(0);
            } else {
                sim.tell(0, Event::LaneLost { peer: EU });
            }
            sim.hold(1);
            sim.run_until(20 * SEC, Sim::settled);
            assert!(dealt_with(&sim, [2]));
        }
    }
}

/// Far more than an engine has room for, at both ends and in a datagram; the database has the rest.
#[test]
fn hundreds_of_refusals_under_loss_and_restarts() {
    for seed in 10..16 {
        let mut sim = warm(seed);
        sim.net.loss = 0.2;
        sim.net.delay = (200, 9_000);
        sim.dbs[1].refuse = (2..400).filter(|s| s % 3 != 0).map(|s| (0, s)).collect();
        for _ in 1..400 {
            sim.submit(0, 50);
        }
        for i in [2, 0, 3] {
            sim.run_for(700 * MS);
            sim.restart(i);
            sim.hold(0);
        }
        sim.run_until(300 * SEC, Sim::settled);
        assert!(dealt_with(&sim, (2..400).filter(|s| s % 3 != 0)));
    }
}

/// What was refused of another numbering must not be taken for an update of this one.
#[test]
fn a_refusal_of_another_epoch_is_not_told() {
    let mut sim = warm(17);
    let old = Refusal {
        epoch: Epoch(0xbad),
        seq: Seq(1),
        class: RefusalClass::Data,
        sqlstate: *b"22000",
    };
    let stream = RegionId(0);
    sim.tell(
        2,
        Event::Refused {
            stream,
            refusal: old,
        },
    );
    // Also one that was fed before anybody said Hello.
    let refusal = old;
    sim.tell(3, Event::Refused { stream, refusal });
    sim.kill(2);
    sim.submit(0, 100);
    sim.run_until(20 * SEC, Sim::settled);
    sim.run_for(20 * SEC);
    assert_eq!(sim.refused, []);
}
