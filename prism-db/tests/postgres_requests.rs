//! Requests and refusals on PostgreSQL: one id is one execution in every region, a refusal is told
//! until its origin knows.
#![cfg(unix)]

mod pg;

use std::sync::Barrier;
use std::time::Duration;

use pg::*;
use prism_db::submit::{SubmitError, submit};
use prism_db::{DbError, MAX_LEASE, RequestState, Value};
use prism_proto::{ApplyCause, Position, Seq, Tag, Verdict};

const KILLS: &str = "SELECT sum(kills)::bigint FROM users";
const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn one_id_from_many_connections_at_once_is_executed_once() {
    const THREADS: usize = 4;
    let mut na = Region::new(shared(), "double_na", "NA");
    na.db.submit(&[user(1)]).unwrap();
    for round in 0..10 {
        let barrier = Barrier::new(THREADS);
        // Rows that collide by themselves (a key) and such that do not.
        let batch = [
            with_id(kills(1, 1), 2 * round),
            with_id(user(100 + round as i64), 2 * round + 1),
        ];
        let taken: usize = std::thread::scope(|scope| {
            let all: Vec<_> = (0..THREADS)
                .map(|n| {
                    let (mut db, barrier, batch) = (na.another(), &barrier, &batch);
                    scope.spawn(move || {
                        db.region().unwrap();
                        barrier.wait();
                        // In another order each, in one transaction or in two.
                        let mut once = || match n % 3 {
                            0 => submit(&mut *db, batch),
                            1 => submit(&mut *db, &[batch[1].clone(), batch[0].clone()]),
                            _ => batch
                                .iter()
                                .flat_map(|one| submit(&mut *db, std::slice::from_ref(one)))
                                .collect(),
                        };
                        let mut answers = once();
                        let mut taken = 0;
                        // Opposite orders can block each other.
                        while answers
                            .iter()
                            .any(|answer| matches!(answer, Err(SubmitError::Blocked(_))))
                        {
                            taken += answers.iter().filter(|answer| answer.is_ok()).count();
                            answers = once();
                        }
                        let repeated = |answer: &Result<_, _>| match answer {
                            Ok(_) => 1,
                            Err(SubmitError::Repeated(row)) => {
                                assert_eq!(row.state, RequestState::Committed);
                                0
                            }
                            Err(other) => panic!("{other:?}"),
                        };
                        taken + answers.iter().map(repeated).sum::<usize>()
                    })
                })
                .collect();
            all.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(taken, 2, "round {round}");
    }
    assert_eq!(na.number(KILLS), 10);
    assert_eq!(na.number("SELECT count(*) FROM users"), 11);
    assert_eq!(na.db.region().unwrap().next_seq, Seq(22));
}

#[test]
fn one_id_in_two_regions_at_once_is_executed_once_in_each() {
    let mut na = Region::new(shared(), "twice_na", "NA");
    let mut eu = Region::new(shared(), "twice_eu", "EU");
    let mut asia = Region::new(shared(), "twice_as", "AS");
    for region in [&na, &eu, &asia] {
        region
            .sql()
            .batch_execute("INSERT INTO users (id) SELECT generate_series(1, 9)")
            .unwrap();
    }
    // Among others, in batches; the second one fails by itself when it runs again.
    let one = |n| vec![kills(1, 100), with_id(kills(2, 1), n), kills(1, 100)];
    let two = |n| vec![with_id(user(20), n), kills(1, 100)];
    for (i, batch) in [one(1), two(2)].into_iter().enumerate() {
        na.db.submit(&batch).unwrap();
        eu.db.submit(&batch).unwrap();
        // Another content under the same id is another update.
        if i == 0 {
            let reused = submit(&mut *na.db, &[with_id(kills(2, 7), 1)]);
            assert!(
                matches!(reused[..], [Err(SubmitError::Reused)]),
                "{reused:?}"
            );
        }
    }
    // Whichever comes first.
    ship_all(&mut na, &mut asia);
    ship_all(&mut eu, &mut asia);
    ship_all(&mut eu, &mut na);
    ship_all(&mut na, &mut eu);
    for region in [&mut na, &mut eu, &mut asia] {
        assert_eq!(region.number("SELECT kills FROM users WHERE id = 2"), 1);
        assert_eq!(region.number("SELECT kills FROM users WHERE id = 1"), 600);
        assert_eq!(region.number("SELECT count(*) FROM users"), 10);
        assert_eq!(region.db.rejected_count().unwrap(), 0);
        let row = region.db.request(&id(1)).unwrap().unwrap();
        assert_eq!(row.state, RequestState::Committed);
    }
    // Also a third time, at the third.
    let again = submit(&mut *asia.db, &two(2)[..1]);
    assert!(
        matches!(&again[..], [Err(SubmitError::Repeated(row))] if row.stream == "NA"),
        "{again:?}"
    );
}

#[test]
fn a_request_refused_here_and_taken_elsewhere_is_not_left_out() {
    let mut na = Region::new(shared(), "second_na", "NA");
    let mut eu = Region::new(shared(), "second_eu", "EU");
    eu.db.submit(&[user(1)]).unwrap();
    // There is no such user yet: refused by the foreign key.
    let item = with_id(
        submission("add_item", &[Value::Int(1), Value::Text("axe".into())]),
        5,
    );
    let refused = na.db.submit(std::slice::from_ref(&item)).unwrap_err();
    let DbError::Sql { sqlstate, .. } = refused else {
        panic!("{refused:?}");
    };
    na.db
        .request_refused(&item, &sqlstate, "no user", false)
        .unwrap();
    let row = na.db.request(&id(5)).unwrap().unwrap();
    assert_eq!(
        (row.seq, row.state),
        (
            None,
            RequestState::Refused {
                sqlstate: "23503".into(),
                message: "no user".into()
            }
        )
    );
    eu.db.submit(std::slice::from_ref(&item)).unwrap();
    ship_all(&mut eu, &mut na);
    assert_eq!(na.number("SELECT count(*) FROM items"), 1);
    let row = na.db.request(&id(5)).unwrap().unwrap();
    assert_eq!(
        (row.stream.as_str(), row.seq, row.state),
        ("EU", Some(Seq(2)), RequestState::Committed)
    );
}

#[test]
fn a_refusal_is_told_until_its_origin_knows() {
    let mut na = Region::new(shared(), "told_na", "NA");
    let mut eu = Region::new(shared(), "told_eu", "EU");
    let epoch = na.epoch();
    na.db
        .submit(&[user(1), with_id(user(2), 9), user(3)])
        .unwrap();
    eu.sql()
        .execute("INSERT INTO users (id) VALUES (2)", &[])
        .unwrap();
    ship_all(&mut na, &mut eu);
    let mut db = eu.another();
    let refusals = db.refusals("NA", 10).unwrap();
    assert_eq!(refusals.len(), 1);
    assert_eq!(
        (
            refusals[0].epoch,
            refusals[0].seq,
            refusals[0].sqlstate.as_str()
        ),
        (epoch, Seq(2), "23505")
    );
    let row = db.request(&id(9)).unwrap().unwrap();
    assert!(
        matches!(row.state, RequestState::Refused { ref sqlstate, .. } if sqlstate == "23505")
            && row.seq == Some(Seq(2)),
        "{row:?}"
    );
    db.refusals_told("NA", epoch, &[Seq(1)]).unwrap();
    assert_eq!(db.refusals("NA", 10).unwrap().len(), 1);
    db.refusals_told("NA", epoch, &[Seq(2)]).unwrap();
    assert!(db.refusals("NA", 10).unwrap().is_empty());
    // Told is not resolved.
    let row = db.rejected(10).unwrap().remove(0);
    assert_eq!(
        (row.epoch, row.seq, row.resolution),
        (epoch, Some(Seq(2)), None)
    );
    assert!(db.rejected_drop(row.id).unwrap() && !db.rejected_drop(row.id).unwrap());
    let row = db.rejected_get(row.id).unwrap().unwrap();
    assert_eq!(row.resolution.as_deref(), Some("dropped"));
    let clock = eu.number("SELECT (extract(epoch FROM now()) * 1000000)::bigint");
    assert!((clock - row.at).abs() < 600_000_000, "{} {clock}", row.at);
    assert_eq!(db.rejected_get(row.id + 1).unwrap(), None);
}

#[test]
fn requests_are_forgotten_after_their_updates() {
    let mut na = Region::new(shared(), "forget_na", "NA");
    na.db
        .submit(&[with_id(user(1), 1), with_id(kills(1, 1), 2)])
        .unwrap();
    na.sql()
        .batch_execute("UPDATE prism.request SET at = at - interval '2 days'")
        .unwrap();
    assert_eq!(
        na.db.request_trim(DAY, 100).unwrap(),
        0,
        "still in the outbox"
    );
    na.sql()
        .batch_execute("DELETE FROM prism.outbox WHERE seq = 1")
        .unwrap();
    assert_eq!(na.db.request_trim(DAY * 3, 100).unwrap(), 0);
    assert_eq!(na.db.request_trim(DAY, 100).unwrap(), 1);
    assert_eq!(na.db.request(&id(1)).unwrap(), None);
    assert!(na.db.request(&id(2)).unwrap().is_some());
}

#[test]
fn backlog_is_told_in_bytes_and_a_stale_region_holds_up_no_trimming() {
    let mut na = Region::new(shared(), "backlog_na", "NA");
    let sent = na
        .db
        .submit(&(1..=50).map(user).collect::<Vec<_>>())
        .unwrap();
    let epoch = na.epoch();
    let at = |n: usize| Position {
        epoch,
        seq: sent[n - 1].seq,
        tag: sent[n - 1].update.tag,
    };
    let lane = |na: &mut Region, peer: &str| {
        let lanes = na.db.lanes().unwrap();
        lanes.into_iter().find(|l| l.peer == peer).unwrap()
    };
    let all = lane(&mut na, "EU");
    let encoded: usize = sent.iter().map(|c| c.update.encode().len()).sum();
    assert!(
        all.backlog > encoded as u64 / 2
            && all.backlog < encoded as u64 * 2
            && all.waiting.is_some(),
        "{all:?} {encoded}"
    );
    na.db.lane_acked("EU", at(25)).unwrap();
    let half = lane(&mut na, "EU");
    assert!((all.backlog / 2).abs_diff(half.backlog) < 200, "{half:?}");
    na.db.lane_acked("EU", at(50)).unwrap();
    let none = lane(&mut na, "EU");
    assert_eq!((none.backlog, none.waiting), (0, None));
    // A restored database: back.
    na.db.lane_acked("EU", at(25)).unwrap();
    assert_eq!(lane(&mut na, "EU").backlog, half.backlog);
    assert_eq!(na.db.outbox_figures().unwrap().rows, 50);
    assert_eq!(na.db.outbox_figures().unwrap().bytes, all.backlog);

    // AS has nothing.
    assert_eq!(na.db.outbox_trim(Duration::ZERO, 1000).unwrap(), 0);
    na.db.lane_stale("AS").unwrap();
    assert!(lane(&mut na, "AS").stale);
    assert_eq!(na.db.outbox_trim(Duration::ZERO, 1000).unwrap(), 25);
    assert_eq!(na.db.outbox_figures().unwrap().rows, 25);
    assert_eq!(na.db.outbox_figures().unwrap().bytes, half.backlog);
    assert_eq!(lane(&mut na, "EU").backlog, half.backlog);
    // What it misses is gone.
    assert!(!na.db.lane_back("AS").unwrap());
    na.db.lane_acked("AS", at(25)).unwrap();
    assert!(na.db.lane_back("AS").unwrap());
    assert!(!lane(&mut na, "AS").stale);
    assert_eq!(na.db.outbox_trim(Duration::ZERO, 1000).unwrap(), 0);
    // With nobody left to wait for, nothing stays.
    na.db.lane_stale("AS").unwrap();
    na.db.lane_stale("EU").unwrap();
    assert_eq!(na.db.outbox_trim(Duration::ZERO, 1000).unwrap(), 25);
    assert_eq!(na.db.region().unwrap().next_seq, Seq(51));
    assert_eq!(
        na.db.submit(&[kills(1, 1)]).unwrap()[0].update.prev_tag,
        sent[49].update.tag
    );
}

#[test]
fn a_lane_is_wanted_for_a_while() {
    let mut na = Region::new(shared(), "want_na", "NA");
    na.db.lane_lease("EU", "NA1", MAX_LEASE).unwrap();
    na.db.lane_want("EU", "NA2", MAX_LEASE).unwrap();
    let row = na.db.lane_lease("EU", "NA1", MAX_LEASE).unwrap();
    assert_eq!(
        (row.holder.as_deref(), row.wanted.as_deref()),
        (Some("NA1"), Some("NA2"))
    );
    na.db.lane_release("EU", "NA1").unwrap();
    let row = na.db.lane_lease("EU", "NA2", MAX_LEASE).unwrap();
    assert_eq!((row.holder.as_deref(), row.wanted), (Some("NA2"), None));
    na.db
        .lane_want("EU", "NA1", Duration::from_millis(20))
        .unwrap();
    until("the wish is forgotten", || {
        na.db
            .lanes()
            .unwrap()
            .iter()
            .all(|lane| lane.wanted.is_none())
    });
    let unknown = na.db.lane_want("MARS", "NA1", MAX_LEASE);
    assert!(matches!(unknown, Err(DbError::Schema(_))), "{unknown:?}");
}

/// The holder died while the clock was an hour ahead: its sibling would not even have asked.
#[test]
fn a_dead_holder_does_not_keep_its_lane_for_an_hour_when_the_clock_goes_back() {
    let mut na = Region::new(shared(), "lease_clock_na", "NA");
    na.db.lane_lease("EU", "NA1", MAX_LEASE).unwrap();
    na.db.lane_want("EU", "NA3", MAX_LEASE).unwrap();
    na.sql()
        .batch_execute(
            "UPDATE prism.lane SET lease_until = lease_until + interval '1 hour',
                 wanted_until = wanted_until + interval '1 hour'",
        )
        .unwrap();
    let lanes = na.db.lanes().unwrap();
    assert!(
        lanes
            .iter()
            .all(|lane| lane.holder.is_none() && lane.wanted.is_none()),
        "{lanes:?}"
    );
    let row = na.db.lane_lease("EU", "NA2", MAX_LEASE).unwrap();
    assert_eq!(row.holder.as_deref(), Some("NA2"));
}

/// `at` is when a transaction began: of a long one earlier than of its neighbours.
#[test]
fn trimming_leaves_no_hole_in_what_a_restored_region_is_refilled_from() {
    let mut na = Region::new(shared(), "hole_na", "NA");
    na.db.submit(&[user(1), kills(1, 1), kills(1, 1)]).unwrap();
    na.db.lane_stale("AS").unwrap();
    na.db.lane_stale("EU").unwrap();
    na.sql()
        .batch_execute("UPDATE prism.outbox SET at = at - interval '2 hours' WHERE seq = 2")
        .unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(na.db.outbox_trim(hour, 100).unwrap(), 0);
    na.sql()
        .batch_execute("UPDATE prism.outbox SET at = at - interval '2 hours' WHERE seq = 1")
        .unwrap();
    assert_eq!(na.db.outbox_trim(hour, 100).unwrap(), 2);
}

#[test]
fn the_second_process_under_a_name_is_the_node() {
    let mut na = Region::new(shared(), "node_na", "NA");
    let (old, new) = (u64::MAX, 7);
    assert_eq!(na.db.node_claim("NA1", old, u64::MAX - 1).unwrap(), None);
    assert!(na.db.node_beat("NA1", old).unwrap());
    let before = na.db.node_claim("NA1", new, 3).unwrap().unwrap();
    assert_eq!((before.incarnation, before.journal), (old, u64::MAX - 1));
    assert!(before.silent < Duration::from_secs(60));
    assert!(!na.db.node_beat("NA1", old).unwrap() && na.db.node_beat("NA1", new).unwrap());
}

#[test]
fn an_operator_goes_past_an_update_that_parks_the_stream() {
    let mut na = Region::new(shared(), "skip_na", "NA");
    let mut eu = Region::new(shared(), "skip_eu", "EU");
    na.sql()
        .batch_execute("CREATE TABLE nowhere (id int, n int)")
        .unwrap();
    na.db
        .submit(&[
            user(1),
            submission("missing", &[Value::Int(1)]),
            kills(1, 1),
        ])
        .unwrap();
    let parked = ship(&mut na, &mut eu);
    assert_eq!(parked.wait.unwrap().seq, Some(Seq(2)));
    assert!(!eu.db.skip("NA", Seq(1)).unwrap(), "past it already");
    assert!(eu.db.skip("NA", Seq(2)).unwrap() && eu.db.skip("NA", Seq(2)).unwrap());
    assert_eq!(eu.db.skips("NA").unwrap(), [Seq(2)]);
    ship_all(&mut na, &mut eu);
    assert_eq!(eu.db.skips("NA").unwrap(), []);
    assert_eq!(eu.number(KILLS), 1);
    assert_eq!(eu.db.rejected_count().unwrap(), 0);
    let row = eu.db.rejected_get(1).unwrap().unwrap();
    assert_eq!(row.resolution.as_deref(), Some("skipped"));
    assert_eq!(
        eu.db.refusals("NA", 9).unwrap().len(),
        1,
        "its origin is told"
    );
    assert_eq!(na.db.position("EU").unwrap().tag, Tag(0));
}

/// What a standby that takes over without the newest transactions looks like, to others.
fn lose_newest(na: &Region, from: i64) {
    na.sql()
        .batch_execute(&format!(
            "UPDATE prism.region SET next_seq = {from},
                 last_tag = (SELECT prev_tag FROM prism.outbox WHERE seq = {from});
             UPDATE users SET kills = kills - (SELECT count(*) FROM prism.outbox WHERE seq >= {from});
             DELETE FROM prism.request WHERE seq >= {from};
             DELETE FROM prism.outbox WHERE seq >= {from}"
        ))
        .unwrap();
}

#[test]
fn a_standby_that_lost_acknowledged_transactions_is_recognised_on_both_sides() {
    let mut na = Region::new(shared(), "standby_na", "NA");
    let mut eu = Region::new(shared(), "standby_eu", "EU");
    na.db.submit(&[user(1)]).unwrap();
    na.db
        .submit(&(0..5).map(|n| with_id(kills(1, 1), n)).collect::<Vec<_>>())
        .unwrap();
    ship_all(&mut na, &mut eu);
    let at = eu.db.position("NA").unwrap();
    lose_newest(&na, 4);
    assert_eq!(na.db.outbox_verify(at).unwrap(), Verdict::Forked);
    // The client never heard of a failure, or asks again: both lead to another update 4.
    let again = na.db.submit(&[with_id(kills(1, 1), 3)]).unwrap();
    assert_eq!(again[0].seq, Seq(4));
    let all = [kills(1, 1), kills(1, 1), kills(1, 1)];
    na.db.submit(&all).unwrap();
    assert_eq!(na.db.outbox_verify(at).unwrap(), Verdict::Forked);
    let forked = ship(&mut na, &mut eu);
    assert_eq!(forked.wait.unwrap().cause, ApplyCause::Forked);
    assert_eq!(eu.number(KILLS), 5);

    // The same on the other side: what it has lost is sent again, and takes effect once.
    let mut asia = Region::new(shared(), "standby_as", "AS");
    ship_all(&mut na, &mut asia);
    let tag = outbox(&mut na)[3].update.tag.0.cast_signed();
    asia.sql()
        .batch_execute(&format!(
            "UPDATE prism.watermark SET applied = 4, tag = {tag} WHERE stream = 'NA';
             DELETE FROM prism.request WHERE seq > 4;
             UPDATE users SET kills = kills - 3"
        ))
        .unwrap();
    let back = asia.db.position("NA").unwrap();
    assert_eq!(na.db.outbox_verify(back).unwrap(), Verdict::Matches);
    na.db.lane_acked("AS", back).unwrap();
    ship_all(&mut na, &mut asia);
    assert_eq!(asia.number(KILLS), na.number(KILLS));
}
