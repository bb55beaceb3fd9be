//! The stories that matter, one by one. Region 0 is "NA", region 1 "EU".

mod sim;

use prism_proto::*;
use sim::*;

const NA1: usize = 0;
const EU: RegionId = RegionId(1);

fn node(i: u16) -> Option<Target> {
    Some(Target::Node(NodeId(i)))
}

/// NA1 with a lane to EU1 (node 1) and EU2 (node 2) that has carried one update.
fn warm(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, &[1, 2], plain);
    sim.hold_all();
    sim.submit(NA1, 100);
    sim.run_until(10 * SEC, Sim::settled);
    sim
}

fn switches(sim: &Sim, of: usize) -> Vec<(Target, Target, SwitchReason)> {
    let of_node = sim.log.iter().filter(|(_, n, _)| *n == of);
    of_node
        .filter_map(|(_, _, notice)| match notice {
            Notice::Switched {
                from, to, reason, ..
            } => Some((*from, *to, *reason)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_lost_update_is_retransmitted() {
    let mut sim = warm(1);
    sim.drop_next.insert((0, 1), 1);
    sim.submit(NA1, 100);
    let took = sim.run_until(SEC, |s| s.applied(1, 0) == 2);
    assert!(took < 100 * MS, "{took}");
    sim.run_until(SEC, Sim::settled);
    let stats = sim.nodes[NA1].engine.lane_stats(EU);
    assert_eq!((stats.retransmits, stats.failovers), (1, 0));
}

#[test]
fn a_lost_ack_costs_no_second_apply() {
    let mut sim = warm(2);
    sim.drop_next.insert((1, 0), 3);
    sim.submit(NA1, 100);
    sim.run_until(SEC, Sim::settled);
    assert_eq!(sim.applied(1, 0), 2);
    assert_eq!(sim.target(NA1, 1), node(1));
}

#[test]
fn five_lost_retries_switch_to_the_next_node_within_1500_ms() {
    for seed in 1..50 {
        let mut sim = warm(seed);
        // Whatever the moment between two keep-alives.
        sim.run_for(seed * 37 * MS);
        sim.kill(1);
        sim.submit(NA1, 100);
        let took = sim.run_until(10 * SEC, Sim::settled);
        assert!(took <= 1500 * MS, "{took}");
        let (_, to, reason) = *switches(&sim, NA1).last().expect("a switch");
        assert_eq!(
            (Some(to), reason),
            (node(2), SwitchReason::Unanswered { attempts: 6 })
        );
        assert!(sim.nodes[NA1].engine.lane_stats(EU).failover_us <= 1_500_000);
    }
}

#[test]
fn without_a_sample_the_next_node_is_tried_within_4_s() {
    for seed in 1..50 {
        let mut sim = Sim::new(seed, &[1, 2], plain);
        sim.kill(1);
        sim.hold_all();
        sim.submit(NA1, 100);
        let took = sim.run_until(10 * SEC, |s| s.applied(1, 0) == 1);
        assert!((3 * SEC..=4 * SEC).contains(&took), "{took}");
        assert_eq!(sim.nodes[NA1].connects, 6, "EU2 has called NA1 itself");
    }
}

#[test]
fn ack_lost_then_takeover_applies_once() {
    let mut sim = warm(3);
    // EU1 hears and applies, but nobody hears EU1.
    sim.net.blocked.insert((1, 0));
    sim.submit(NA1, 100);
    sim.run_until(100 * MS, |s| s.applied(1, 0) == 2);
    assert_eq!(sim.nodes[NA1].acked.get(&1), Some(&1));
    sim.run_until(10 * SEC, Sim::settled);
    assert_eq!(sim.target(NA1, 1), node(2));
    assert_eq!(sim.applied(1, 0), 2);
}

#[test]
fn all_nodes_dead_then_direct_sql_then_back_up() {
    let mut sim = warm(4);
    sim.kill(1);
    sim.kill(2);
    for _ in 0..300 {
        sim.submit(NA1, 100);
    }
    let took = sim.run_until(10 * SEC, Sim::settled);
    // EU2 has never been heard of, so there is no round-trip time to go by.
    assert!(took <= 1500 * MS + 4 * SEC, "{took}");
    assert_eq!(sim.target(NA1, 1), Some(Target::Direct));
    assert_eq!(sim.dbs[1].direct_rows, 300);
    sim.submit(NA1, 10);
    assert!(
        sim.run_until(SEC, Sim::settled) < 50 * MS,
        "direct goes on at once"
    );
    // EU2 first: up to it, then on to EU1.
    sim.restart(2);
    let took = sim.run_until(30 * SEC, |s| s.target(NA1, 1) == node(2));
    assert!(took <= 9 * SEC, "{took}");
    sim.restart(1);
    let took = sim.run_until(30 * SEC, |s| s.target(NA1, 1) == node(1));
    assert!(took <= 9 * SEC, "{took}");
    sim.submit(NA1, 10);
    sim.run_until(SEC, Sim::settled);
    assert_eq!(sim.dbs[1].direct_rows, 301);
}

#[test]
fn a_flapping_node_has_to_prove_itself_longer() {
    let mut sim = warm(5);
    let mut steady = Vec::new();
    for _ in 0..4 {
        sim.kill(1);
        sim.run_until(10 * SEC, |s| s.target(NA1, 1) == node(2));
        sim.run_for(SEC);
        sim.restart(1);
        steady.push(sim.run_until(60 * SEC, |s| s.target(NA1, 1) == node(1)));
    }
    assert!(steady[3] > 2 * steady[0], "{steady:?}");
}

#[test]
fn a_dead_database_parks_the_lane_and_wakes_it() {
    let mut sim = warm(6);
    sim.dbs[1].up = false;
    for _ in 0..50 {
        sim.submit(NA1, 100);
    }
    sim.run_until(SEC, |s| matches!(s.target(NA1, 1), Some(Target::Parked(_))));
    let reasons: Vec<_> = switches(&sim, NA1).iter().map(|s| s.2).collect();
    assert_eq!(
        reasons,
        [
            SwitchReason::Start,
            SwitchReason::Unavailable,
            SwitchReason::Unavailable,
            SwitchReason::Direct(DirectFailure::Unreachable)
        ]
    );
    let (polls, sent) = (sim.nodes[NA1].waits, sim.nodes[NA1].transmits);
    sim.run_for(120 * SEC);
    let (polls, sent) = (
        sim.nodes[NA1].waits - polls,
        sim.nodes[NA1].transmits - sent,
    );
    assert!(
        polls < 1500 && sent < 500,
        "{polls} polls and {sent} datagrams in two minutes"
    );
    assert_eq!(sim.applied(1, 0), 1);
    sim.dbs[1].up = true;
    let took = sim.run_until(60 * SEC, Sim::settled);
    assert!(took <= 6 * SEC, "it wakes before its pause is over: {took}");
    assert_eq!(sim.applied(1, 0), 51);
    sim.run_until(60 * SEC, |s| s.target(NA1, 1) == node(1));
}

#[test]
fn one_way_partition_counts_as_death() {
    for cut in [(0, 1), (1, 0)] {
        let mut sim = warm(7);
        sim.net.blocked.insert(cut);
        sim.submit(NA1, 100);
        let took = sim.run_until(10 * SEC, Sim::settled);
        assert!(took <= 1500 * MS, "{took}");
        assert_eq!(sim.target(NA1, 1), node(2));
        sim.net.blocked.clear();
        sim.run_until(30 * SEC, |s| s.target(NA1, 1) == node(1));
    }
}

#[test]
fn a_large_update_arrives_under_loss() {
    let mut sim = Sim::new(8, &[1, 1], plain);
    sim.net.loss = 0.3;
    sim.net.delay = (500, 3000);
    sim.hold_all();
    for len in [256 << 10, 1, 200_000, 1160, 1156, 1157, 5000, 0] {
        sim.submit(NA1, len);
    }
    sim.run_until(60 * SEC, Sim::settled);
    assert_eq!(sim.applied(1, 0), 8);
}

#[test]
fn a_full_window_stalls_and_recovers() {
    let mut sim = warm(9);
    sim.dbs[1].sick = Some(ApplyCause::Dependency);
    for _ in 0..1000 {
        sim.submit(NA1, 100);
    }
    sim.run_for(100 * SEC);
    let stats = sim.nodes[NA1].engine.lane_stats(EU);
    assert_eq!(
        (stats.in_window, stats.sent),
        (64, 65),
        "no more than the window goes"
    );
    assert_eq!(
        stats.target,
        node(1),
        "a waiting database is no reason to go elsewhere"
    );
    let told = sim
        .log
        .iter()
        .filter(|(_, _, n)| matches!(n, Notice::PeerWaiting { .. }))
        .count();
    assert_eq!(told, 1);
    sim.dbs[1].sick = None;
    let took = sim.run_until(10 * SEC, Sim::settled);
    assert!(took < 2 * SEC, "{took}");
    assert_eq!(sim.nodes[NA1].engine.lane_stats(EU).retransmits, 0);
}

#[test]
fn bytes_are_bounded_as_well() {
    let mut sim = warm(10);
    sim.dbs[1].sick = Some(ApplyCause::Busy);
    for _ in 0..60 {
        sim.submit(NA1, 50_000);
    }
    sim.run_for(20 * SEC);
    assert!(sim.nodes[1].inbox.most <= 512 << 10);
    sim.dbs[1].sick = None;
    sim.run_until(10 * SEC, Sim::settled);
    assert!(sim.nodes[1].inbox.most <= 512 << 10);
}

#[test]
fn an_inbox_without_room_is_as_good_as_loss() {
    let mut sim = warm(11);
    sim.nodes[1].inbox.limit = 3000;
    for _ in 0..200 {
        sim.submit(NA1, 500);
    }
    sim.run_until(60 * SEC, Sim::settled);
    assert!(sim.nodes[1].inbox.most <= 3000);
}

#[test]
fn what_found_no_room_is_not_acknowledged() {
    let mut sim = warm(24);
    // The first of ten waits while its successors come in; then one in the middle is refused.
    sim.dbs[1].sick = Some(ApplyCause::Busy);
    sim.submit(NA1, 100);
    sim.run_for(100 * MS);
    for i in 0..10 {
        sim.nodes[1].inbox.refuse = u32::from(i == 5);
        sim.submit(NA1, 100);
        sim.run_for(2 * MS);
    }
    sim.dbs[1].sick = None;
    let took = sim.run_until(20 * SEC, Sim::settled);
    assert!(
        took < SEC,
        "it goes again at once, not when the lane gives up: {took}"
    );
    assert_eq!(sim.nodes[NA1].engine.lane_stats(EU).retransmits, 1);
}

#[test]
fn an_idle_lane_notices_that_its_node_is_gone() {
    let mut sim = warm(25);
    sim.run_for(10 * SEC);
    sim.kill(1);
    let took = sim.run_until(10 * SEC, |s| s.target(NA1, 1) == node(2));
    assert!(took <= 2500 * MS, "keep-alive and then the retries: {took}");
}

#[test]
fn a_sibling_s_update_goes_out_on_the_lane_of_its_holder() {
    let mut sim = Sim::new(12, &[2, 1], plain);
    sim.hold_all();
    sim.run_for(SEC);
    // Node 1 commits; node 0 holds the lane and has to fetch the payload.
    for _ in 0..100 {
        sim.submit(1, 50);
    }
    let took = sim.run_until(10 * SEC, |s| {
        s.applied(1, 0) == 100 && s.nodes[1].sibling_acked.get(&1) == Some(&100)
    });
    assert!(took < 100 * MS, "{took}");
    assert_eq!(sim.nodes[0].sibling_tail, 100);
    // And with the pair apart it is the next Available (NOTIFY, slow poll) that helps.
    sim.net.loss = 0.4;
    for _ in 0..100 {
        sim.submit(1, 50);
    }
    sim.run_until(60 * SEC, |s| {
        s.applied(1, 0) == 200 && s.nodes[1].sibling_acked.get(&1) == Some(&200)
    });
}

#[test]
fn a_lane_moves_to_a_sibling() {
    let mut sim = Sim::new(13, &[2, 1], plain);
    sim.hold_all();
    for _ in 0..300 {
        sim.submit(0, 100);
    }
    sim.run_for(3 * MS);
    sim.kill(0);
    sim.hold(1);
    sim.run_until(10 * SEC, Sim::settled);
    assert_eq!(sim.applied(1, 0), 300);
}

#[test]
fn an_idle_pair_hardly_works() {
    let mut sim = warm(14);
    sim.run_for(10 * SEC);
    let before: Vec<_> = sim.nodes.iter().map(|n| (n.waits, n.transmits)).collect();
    sim.run_for(60 * SEC);
    for (i, (waits, transmits)) in before.into_iter().enumerate() {
        let (waits, transmits) = (
            sim.nodes[i].waits - waits,
            sim.nodes[i].transmits - transmits,
        );
        println!("node {i}: {waits} polls and {transmits} datagrams in an idle minute");
        assert!(waits <= 250 && transmits <= 130, "{waits} {transmits}");
    }
}

#[test]
fn the_first_update_after_idling_costs_one_flight() {
    let mut sim = warm(15);
    sim.run_for(100 * SEC);
    sim.submit(NA1, 100);
    let took = sim.run_until(SEC, |s| s.applied(1, 0) == 2);
    assert_eq!(took, 500 + 300, "one way and the apply");
    let took = sim.run_until(SEC, Sim::settled);
    assert_eq!(took, 500, "and the answer comes at once");
}

#[test]
fn a_forked_peer_stops_the_lane() {
    let mut sim = Sim::new(16, &[1, 1], plain);
    let row = (Tag(99), vec![1]);
    sim.dbs[1].applied.entry(0).or_default().push(row);
    sim.hold_all();
    sim.submit(NA1, 100);
    sim.run_for(60 * SEC);
    assert_eq!(sim.applied(1, 0), 1);
    assert!(sim.log.iter().any(|(_, _, n)| matches!(
        n,
        Notice::LaneStopped {
            peer: EU,
            verdict: Verdict::Forked,
            ..
        }
    )));
    assert_eq!(sim.nodes[NA1].engine.lane_stats(EU).sent, 0);
    // The operator has put it right.
    sim.dbs[1].applied.clear();
    sim.hold_all();
    sim.run_until(10 * SEC, Sim::settled);
}

#[test]
fn a_restored_database_is_refilled() {
    let mut sim = warm(17);
    for _ in 0..50 {
        sim.submit(NA1, 100);
    }
    sim.run_until(10 * SEC, Sim::settled);
    sim.dbs[1].applied.get_mut(&0).expect("rows").truncate(10);
    sim.submit(NA1, 100);
    sim.run_until(10 * SEC, Sim::settled);
    assert_eq!(sim.applied(1, 0), 52);
}

#[test]
fn a_refusal_is_told_until_it_is_dealt_with_however_often_it_is_lost() {
    for seed in 1..20 {
        let mut sim = warm(seed);
        sim.net.loss = 0.5;
        sim.dbs[1].refuse = [(0, 5), (0, 7)].into();
        for _ in 0..10 {
            sim.submit(NA1, 100);
        }
        sim.run_until(60 * SEC, |s| s.applied(1, 0) == 11);
        sim.net.loss = 0.0;
        sim.run_until(30 * SEC, Sim::settled);
        assert_eq!(sim.dbs[0].handled, [(1, 5), (1, 7)].into());
        // (EU1 may repeat what the direct path has told meanwhile)
        sim.run_for(10 * SEC);
        let told = sim.refused.len();
        sim.run_for(30 * SEC);
        assert_eq!(sim.refused.len(), told, "dealt with is dealt with");
    }
}

#[test]
fn payloads_that_cannot_be_read_are_asked_for_with_pauses() {
    let mut sim = warm(18);
    for _ in 0..20 {
        sim.submit(NA1, 100);
    }
    sim.kill(1);
    sim.run_for(MS);
    sim.nodes[NA1].memory.map.clear();
    sim.dbs[0].up = false;
    sim.run_for(30 * SEC);
    assert!(sim.fetches < 400, "{}", sim.fetches);
    sim.dbs[0].up = true;
    sim.fetch_limit = 3;
    sim.run_until(30 * SEC, Sim::settled);
}

#[test]
fn a_node_that_receives_but_does_not_apply_is_left() {
    let mut sim = warm(19);
    sim.dbs[1].apply_us = 1000 * SEC;
    sim.submit(NA1, 100);
    sim.run_for(20 * SEC);
    assert_eq!(sim.target(NA1, 1), node(1));
    // Whoever applies after it, applies quickly.
    sim.dbs[1].apply_us = 300;
    let took = sim.run_until(20 * SEC, Sim::settled);
    assert!(took > 9 * SEC, "{took}");
    assert!(
        switches(&sim, NA1)
            .iter()
            .any(|s| s.2 == SwitchReason::NoProgress)
    );
}

#[test]
fn without_a_direct_path_the_lane_waits_for_its_nodes() {
    let mut sim = Sim::new(20, &[1, 2], plain).without_direct();
    sim.hold_all();
    sim.submit(NA1, 100);
    sim.run_until(10 * SEC, Sim::settled);
    sim.kill(1);
    sim.kill(2);
    sim.submit(NA1, 100);
    sim.run_for(60 * SEC);
    assert_eq!(sim.applied(1, 0), 1);
    sim.restart(2);
    let took = sim.run_until(60 * SEC, Sim::settled);
    assert!(took <= 9 * SEC, "{took}");
}

#[test]
fn fastest_prefers_the_near_node() {
    fn fastest(config: &mut Config<'_>) {
        config.window = 64;
        config.retry.policy = Policy::Fastest;
    }
    let mut sim = Sim::new(21, &[1, 2], fastest);
    sim.net.slow.insert(1, 20 * MS);
    sim.hold_all();
    sim.run_until(10 * SEC, |s| s.target(NA1, 1) == node(2));
    // A little noise moves nobody.
    sim.net.slow.insert(1, 0);
    sim.run_for(60 * SEC);
    assert!(switches(&sim, NA1).len() <= 3, "{:?}", switches(&sim, NA1));
    sim.kill(2);
    sim.submit(NA1, 10);
    sim.run_until(10 * SEC, |s| s.target(NA1, 1) == node(1) && s.settled());
}

#[test]
fn garbage_is_dropped_and_named() {
    let mut sim = warm(22);
    let mut bytes = [0u8; 64];
    for round in 0..20_000u32 {
        for b in &mut bytes {
            *b = sim.random() as u8;
        }
        bytes[0] = wire::VERSION;
        let len = round as usize % 64;
        let now = at(sim.now);
        let n = &mut sim.nodes[NA1];
        n.engine
            .handle_datagram(now, NodeId(1), &bytes[..len], &mut n.inbox);
    }
    sim.submit(NA1, 100);
    sim.run_until(10 * SEC, Sim::settled);
    assert!(
        sim.log
            .iter()
            .any(|(_, _, n)| *n == Notice::Dropped { from: NodeId(1) })
    );
}

#[test]
fn bulk_over_a_lossy_path_sends_little_twice() {
    fn wide(config: &mut Config<'_>) {
        config.window = 4096;
    }
    for loss in [0.0, 0.05, 0.2] {
        let mut sim = Sim::new(23, &[1, 1], wide);
        sim.net.loss = loss;
        sim.net.delay = (20 * MS, 20 * MS);
        sim.hold_all();
        sim.run_for(SEC);
        for _ in 0..20_000 {
            sim.submit(NA1, 128);
        }
        let took = sim.run_until(200 * SEC, Sim::settled);
        let stats = sim.nodes[NA1].engine.lane_stats(EU);
        println!(
            "loss {loss}: {took} us, sent {} again {}, duplicates {}",
            stats.sent,
            stats.retransmits,
            sim.nodes[1].engine.inlet_stats(RegionId(0)).duplicates
        );
        let wasted = sim.nodes[1].engine.inlet_stats(RegionId(0)).duplicates as f64 / 20_000.0;
        assert!(wasted < 0.05 + loss / 2.0, "{wasted}");
    }
}
