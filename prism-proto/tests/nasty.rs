//! The cases in which "ACK, retry, failover" done naively applies twice, loses or mixes histories.
//! The model databases assert order and content with every row (see `sim`).

mod sim;

use prism_proto::*;
use sim::*;

const EU: RegionId = RegionId(1);

fn node(i: u16) -> Option<Target> {
    Some(Target::Node(NodeId(i)))
}

/// NA1 (node 0), EU1 and EU2 (nodes 1, 2), and some updates that have arrived.
fn warm(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, &[1, 2], plain);
    sim.hold_all();
    submit(&mut sim, 20);
    sim.run_until(10 * SEC, Sim::settled);
    sim
}

fn submit(sim: &mut Sim, n: usize) {
    for _ in 0..n {
        sim.submit(0, 100);
    }
}

fn stopped(sim: &Sim) -> Vec<Verdict> {
    (sim.log.iter())
        .filter_map(|(_, _, n)| match n {
            Notice::LaneStopped {
                peer: EU, verdict, ..
            } => Some(*verdict),
            _ => None,
        })
        .collect()
}

#[test]
fn ack_lost_then_failover_does_not_apply_twice() {
    for cut in [0, 200, 500, 700, 900, 1300, 3000] {
        let mut sim = warm(1);
        submit(&mut sim, 50);
        sim.run_for(cut);
        // EU1 hears and applies, nobody hears EU1; then it is gone.
        sim.net.blocked.insert((1, 0));
        sim.run_for(300 * MS);
        sim.kill(1);
        sim.run_until(10 * SEC, |s| s.settled() && s.target(0, 1) == node(2));
        assert_eq!(sim.applied(1, 0), 70);
    }
}

/// What was sent to EU1 reaches it when EU2 has long applied it, and EU1 works it off.
#[test]
fn a_slow_but_not_dead_node_wakes_after_the_failover() {
    let mut sim = warm(2);
    sim.net.slow.insert(1, 8 * SEC);
    submit(&mut sim, 50);
    sim.run_until(6 * SEC, |s| s.applied(1, 0) == 70);
    assert_eq!(sim.target(0, 1), node(2));
    submit(&mut sim, 10);
    // The datagrams of then arrive now.
    sim.run_for(10 * SEC);
    sim.run_until(10 * SEC, Sim::settled);
    assert_eq!(sim.applied(1, 0), 80);
    sim.net.slow.clear();
    submit(&mut sim, 10);
    sim.run_until(60 * SEC, |s| s.settled() && s.target(0, 1) == node(1));
}

/// EU1's transaction hangs, and commits after the same range was written by EU2.
#[test]
fn a_transaction_that_hung_commits_after_the_failover() {
    let mut sim = warm(3);
    sim.dbs[1].apply_us = 20 * SEC;
    submit(&mut sim, 10);
    sim.run_for(100 * MS);
    sim.dbs[1].apply_us = 300;
    sim.kill(1);
    sim.run_until(10 * SEC, Sim::settled);
    sim.run_for(20 * SEC);
    assert_eq!(sim.applied(1, 0), 30);
}

#[test]
fn direct_sql_races_a_node_for_the_same_updates() {
    for late in [1_500, 2_900, 3_500, 5_000, 6_000] {
        let mut sim = warm(4);
        sim.kill(2);
        // EU1 has received everything and is about to commit when NA1 gives it up.
        sim.dbs[1].apply_us = late * MS;
        submit(&mut sim, 50);
        sim.run_for(5 * MS);
        sim.net.blocked.insert((1, 0));
        sim.dbs[1].apply_us = 300;
        sim.run_until(20 * SEC, Sim::settled);
        sim.run_for(10 * SEC);
        assert_eq!(sim.applied(1, 0), 70);
        sim.net.blocked.clear();
        submit(&mut sim, 10);
        sim.run_until(60 * SEC, |s| s.settled() && s.target(0, 1) == node(1));
    }
}

/// NA1 was started from a copy of its data directory: both processes hold the lane, both accept
/// updates, and datagrams for NA1 reach now one, now the other.
#[test]
fn two_processes_with_one_nodes_identity_deliver_once() {
    let mut sim = warm(5);
    let mut twin = {
        let mut other = Sim::new(99, &[1, 2], plain);
        other.nodes.swap_remove(0)
    };
    twin.life = 1_000;
    for round in 0..40 {
        std::mem::swap(&mut sim.nodes[0], &mut twin);
        if round % 4 == 0 {
            sim.hold(0);
        }
        submit(&mut sim, 5);
        sim.run_for(90 * MS);
    }
    // One of them steps aside.
    sim.run_until(60 * SEC, Sim::settled);
    assert_eq!(sim.applied(1, 0), 220);
    assert!(stopped(&sim).is_empty());
}

#[test]
fn a_restored_destination_is_refilled_and_is_no_fork() {
    for restart in [false, true] {
        let mut sim = warm(6);
        sim.dbs[1].refuse.insert((0, 15));
        submit(&mut sim, 30);
        sim.run_until(10 * SEC, Sim::settled);
        sim.dbs[1].applied.get_mut(&0).expect("rows").truncate(7);
        sim.dbs[1].rejected.clear();
        if restart {
            sim.restart(1);
        }
        submit(&mut sim, 1);
        sim.run_until(20 * SEC, Sim::settled);
        assert_eq!(sim.applied(1, 0), 51);
        assert!(stopped(&sim).is_empty());
        // Acknowledged is what is there now, and was put back when the database was.
        assert_eq!(sim.nodes[0].acked.get(&1), Some(&51));
    }
}

/// NA's database comes back from a backup: EU has more of NA's stream than NA, and NA gives the same
/// numbers to other updates.
#[test]
fn a_restored_source_is_stopped_and_its_histories_are_not_mixed() {
    for new in [0, 5, 50] {
        let mut sim = warm(7);
        let before = sim.dbs[1].applied[&0].clone();
        sim.kill(0);
        sim.dbs[0].outbox.truncate(12);
        sim.restart(0);
        sim.hold_all();
        submit(&mut sim, new);
        sim.run_for(60 * SEC);
        assert_eq!(stopped(&sim), [Verdict::Forked], "stopped, and said once");
        assert_eq!(sim.dbs[1].applied[&0], before);
        assert_eq!(sim.nodes[0].engine.lane_stats(EU).sent, 0);
        // The other direction goes on.
        sim.submit(1, 10);
        sim.run_until(10 * SEC, |s| s.applied(0, 1) == 1);
    }
}

#[test]
fn a_wiped_peer_is_refilled_from_the_beginning() {
    let mut sim = warm(8);
    sim.dbs[1].applied.clear();
    sim.dbs[1].epochs.clear();
    submit(&mut sim, 1);
    sim.run_until(20 * SEC, Sim::settled);
    assert_eq!(sim.applied(1, 0), 21);
    assert!(stopped(&sim).is_empty());
}

#[test]
fn a_peer_with_another_epoch_of_the_stream_is_stopped() {
    let mut sim = warm(9);
    sim.dbs[1].epochs.insert(0, Epoch(0xbad));
    // Noticed at the next contact, whether the node is new or goes on.
    submit(&mut sim, 1);
    sim.run_for(5 * SEC);
    assert_eq!(sim.applied(1, 0), 20, "nothing is applied on top of it");
    sim.restart(1);
    sim.run_for(60 * SEC);
    assert_eq!(stopped(&sim), [Verdict::Forked]);
    assert_eq!(sim.applied(1, 0), 20);
    // Mended by an operator.
    sim.dbs[1].epochs.clear();
    sim.hold_all();
    sim.run_until(20 * SEC, Sim::settled);
}

/// The wall clock has no influence: the core has none, its host passes a monotonic time in. What
/// can happen is that this time jumps ahead (the machine slept): every deadline has passed at once.
#[test]
fn the_machine_slept_for_an_hour() {
    for us in [0, 400, 900, 2_000, 40_000] {
        let mut sim = warm(10);
        submit(&mut sim, 50);
        sim.net.loss = 0.2;
        sim.run_for(us);
        sim.now += 3_600 * SEC;
        sim.net.loss = 0.0;
        sim.run_until(20 * SEC, Sim::settled);
        assert_eq!(sim.applied(1, 0), 70);
        assert!(stopped(&sim).is_empty());
        sim.run_until(60 * SEC, |s| s.target(0, 1) == node(1));
    }
}

#[test]
fn a_row_that_is_missing_in_the_outbox_is_an_alarm_told_once() {
    let mut sim = warm(11);
    sim.kill(1);
    sim.kill(2);
    sim.dbs[1].direct_up = false;
    submit(&mut sim, 30);
    sim.nodes[0].memory.map.clear();
    sim.unreadable = 25..26;
    sim.restart(1);
    sim.run_for(60 * SEC);
    let missing = |s: &Sim| {
        let of = |n: &&(u64, usize, Notice)| matches!(n.2, Notice::RowsMissing { peer: EU, from } if from == Seq(25));
        s.log.iter().filter(of).count()
    };
    assert_eq!(missing(&sim), 1);
    assert_eq!(sim.applied(1, 0), 24);
    assert!(sim.fetches < 80, "{}", sim.fetches);
    sim.unreadable = 0..0;
    let took = sim.run_until(10 * SEC, Sim::settled);
    assert!(took <= 2 * SEC, "{took}");
}

/// EU's database is put back while nothing is sent. NA opens its lane anew, EU1 answers with where
/// its database is now, and what EU1 said just before (where it was) overtakes nothing.
#[test]
fn an_old_word_that_arrives_late_does_not_hide_that_a_database_was_put_back() {
    for seed in 1..60 {
        let mut sim = warm(seed);
        sim.net.delay = (500, 20 * MS);
        sim.dbs[1].applied.get_mut(&0).expect("rows").truncate(7);
        sim.tell(0, Event::LaneLost { peer: EU });
        sim.hold(0);
        sim.run_until(20 * SEC, Sim::settled);
        assert_eq!(sim.applied(1, 0), 20, "seed {seed}");
    }
}

/// Nobody sends anything, and nobody opens anything: the host looks now and then.
#[test]
fn a_database_that_was_put_back_is_refilled_although_nothing_is_sent() {
    let mut sim = warm(3);
    sim.dbs[1].applied.get_mut(&0).expect("rows").truncate(7);
    let stream = RegionId(0);
    sim.tell(1, Event::PositionOld { stream });
    sim.run_until(20 * SEC, Sim::settled);
    assert_eq!(sim.applied(1, 0), 20);
}

/// What the host has written down of a lane can get lost: it is told again when the row that it
/// shows says something else.
#[test]
fn how_far_a_lane_is_is_told_again_when_the_host_has_lost_it() {
    let mut sim = warm(4);
    sim.nodes[0].acked.clear();
    sim.hold(0);
    sim.run_for(SEC);
    assert_eq!(sim.nodes[0].acked.get(&1), Some(&20));
}

/// EU's database has the twentieth update of a history that NA's has lost, and NA has numbered another
/// one so: nobody would ever see it if nothing else was written.
#[test]
fn a_lane_at_rest_stops_when_its_peer_has_another_update_under_the_newest_number() {
    let mut sim = warm(6);
    sim.dbs[0].outbox.last_mut().expect("updates").0 = Tag(0xbad);
    sim.hold(0);
    sim.run_for(SEC);
    assert_eq!(stopped(&sim), [Verdict::Forked]);
    // A lane that is behind is none that stands against anything.
    let mut sim = warm(6);
    submit(&mut sim, 1);
    sim.hold(0);
    sim.run_until(10 * SEC, Sim::settled);
    assert_eq!(sim.applied(1, 0), 21);
}

/// Nobody of EU answers any more, and there is nothing to deliver: its database is asked all the same,
/// or it would stay as it is until something is written. Once.
#[test]
fn a_lane_that_begins_to_write_by_sql_asks_where_the_database_is() {
    let mut sim = warm(6);
    sim.run_for(SEC);
    sim.kill(1);
    sim.kill(2);
    sim.dbs[1].applied.get_mut(&0).expect("rows").truncate(7);
    sim.run_until(60 * SEC, |sim| sim.applied(1, 0) == 20);
    assert_eq!(sim.target(0, 1), Some(Target::Direct));
    sim.run_for(SEC);
    let asked = sim.directs;
    sim.run_for(60 * SEC);
    assert_eq!(sim.directs, asked);
}

/// EU1 keeps an update that continues another history than its database has. Its sender is gone: so
/// is the update, and the alarm (a standby would keep both for ever).
#[test]
fn nothing_is_kept_of_a_fork_whose_sender_is_gone() {
    let mut sim = warm(11);
    sim.dbs[1].epochs.insert(0, Epoch(0xbad));
    submit(&mut sim, 1);
    let state = |sim: &Sim| {
        let mut states = sim.log.iter().filter_map(|(_, node, notice)| match notice {
            Notice::Inlet { state, .. } if *node == 1 => Some(*state),
            _ => None,
        });
        states.next_back()
    };
    let forked = Some(InletState::Waiting(ApplyCause::Forked));
    sim.run_until(10 * SEC, |sim| state(sim) == forked);
    sim.restart(0);
    sim.run_until(30 * SEC, |sim| state(sim) == Some(InletState::Running));
    assert_eq!(sim.nodes[1].inbox.bytes(), 0);
}

/// EU1 could not apply what belongs to another history, and would try again in a while. Meanwhile NA's
/// database is rebuilt, and its stream has a new numbering: that is looked at without any pause.
#[test]
fn a_rebuilt_origin_does_not_wait_for_what_was_wrong_before() {
    let mut sim = warm(12);
    sim.dbs[1].epochs.insert(0, Epoch(0xbad));
    submit(&mut sim, 1);
    let is_forked = |(_, node, notice): &(u64, usize, Notice)| {
        let state = InletState::Waiting(ApplyCause::Forked);
        *node == 1 && matches!(notice, Notice::Inlet { state: now, .. } if *now == state)
    };
    sim.run_until(10 * SEC, |sim| sim.log.iter().any(is_forked));
    sim.dbs[0].outbox.truncate(20);
    sim.dbs[0].epoch = Epoch(0x4e3);
    sim.dbs[1].epochs.insert(0, Epoch(0x4e3));
    sim.restart(0);
    sim.hold(0);
    submit(&mut sim, 1);
    let took = sim.run_until(60 * SEC, |sim| sim.applied(1, 0) == 21);
    assert!(took < 5 * SEC, "{took}");
}

/// EU1 has an update and not the one before it, and nobody sends any more. That is forgotten when
/// nothing has come for a while (a standby would keep it for ever).
#[test]
fn what_waits_in_vain_is_forgotten() {
    let mut sim = warm(13);
    sim.net.blocked.insert((0, 1));
    submit(&mut sim, 1);
    sim.net.blocked = [(1, 0)].into();
    submit(&mut sim, 1);
    sim.run_for(2 * MS);
    sim.net.blocked.clear();
    sim.kill(0);
    sim.run_for(10 * SEC);
    assert!(sim.nodes[1].inbox.bytes() > 0, "a node that cannot wait");
    let stream = RegionId(0);
    for left in [100, 0] {
        // (It may have come just now.)
        sim.tell(1, Event::PositionOld { stream });
        sim.run_for(SEC);
        assert_eq!(sim.nodes[1].inbox.bytes(), left);
    }
    sim.restart(0);
    sim.hold(0);
    submit(&mut sim, 1);
    sim.run_until(20 * SEC, Sim::settled);
    assert_eq!(sim.applied(1, 0), 23);
}

/// EU1 has received what EU's database does not take yet. Meanwhile NA's database loses it and numbers
/// other updates so: those are applied, and not what EU1 has in its memory.
#[test]
fn a_history_that_is_lost_before_it_is_applied_is_never_applied() {
    for lost in [1, 3] {
        let mut sim = warm(14);
        sim.dbs[1].sick = Some(ApplyCause::Unreachable);
        submit(&mut sim, 3);
        sim.run_until(SEC, |sim| sim.nodes[1].inbox.bytes() == 300);
        sim.dbs[0].outbox.truncate(20);
        sim.restart(0);
        sim.hold(0);
        submit(&mut sim, lost);
        sim.run_for(SEC);
        sim.dbs[1].sick = None;
        sim.run_until(60 * SEC, Sim::settled);
        assert_eq!(sim.applied(1, 0), 20 + lost as u64);
        assert_eq!(stopped(&sim), []);
    }
}

/// The same, and another node of NA opens the lane when the new history is as long as the old one: what is
/// left is mixed with what comes. That looks like a fork and is none, so EU1 forgets it and looks again.
#[test]
fn what_is_left_of_a_lost_history_is_no_fork() {
    let mut sim = Sim::new(15, &[2, 1], plain).without_direct();
    sim.rewritten = true;
    sim.hold(0);
    submit(&mut sim, 20);
    sim.run_until(10 * SEC, |sim| sim.applied(1, 0) == 20);
    sim.dbs[1].sick = Some(ApplyCause::Busy);
    submit(&mut sim, 3);
    sim.run_until(SEC, |sim| sim.nodes[2].inbox.bytes() == 300);
    sim.kill(0);
    sim.dbs[0].outbox.truncate(20);
    for _ in 0..4 {
        sim.submit(1, 120);
    }
    sim.hold(1);
    sim.run_for(SEC);
    sim.dbs[1].sick = None;
    let took = sim.run_until(60 * SEC, |sim| sim.applied(1, 0) == 24);
    assert!(took < 5 * SEC, "{took}");
    assert_eq!(stopped(&sim), []);
}
