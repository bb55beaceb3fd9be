//! Writes that await all regions, on PostgreSQL: everywhere or nowhere, whoever dies.
#![cfg(unix)]

mod pg;

use std::time::Duration;

use pg::proxy::{Cut, Proxy};
use pg::*;
use prism_db::{
    ApplyReport, Database, DbError, HeldState, RequestState, UndoReason, Undone, Value,
};
use prism_proto::{RegionKey, Seq};

const KILLS: &str = "SELECT kills FROM users WHERE id = 1";
const LIMIT: Duration = Duration::from_secs(60);

fn regions(name: &str) -> [Region; 2] {
    ["NA", "EU"].map(|region| {
        let database = format!("{name}_{}", region.to_lowercase());
        let new = Region::new(shared(), &database, region);
        new.sql()
            .batch_execute("INSERT INTO users (id, name) VALUES (1, 'one'), (2, 'two')")
            .unwrap();
        new
    })
}

fn patient(region: &Region) -> Box<dyn Database> {
    let mut options = options(&region.name);
    options.lock_timeout = Duration::from_secs(20);
    open(&region.url, options)
}

fn unconfirmed() -> UndoReason {
    UndoReason::Unconfirmed {
        regions: vec!["EU".into()],
    }
}

#[test]
fn a_held_update_is_seen_here_when_every_region_has_it() {
    let [mut na, mut eu] = regions("final");
    let mut holder = na.another();
    let held = holder.held_begin(&with_id(kills(1, 5), 1), LIMIT).unwrap();
    let published = na.db.held_publish(&held).unwrap();
    assert!(published.update.held && published.update.rows == 1);
    assert_eq!(published.seq, Seq(1));
    // Other writes go on.
    na.db.submit(&[kills(2, 1)]).unwrap();
    ship_all(&mut na, &mut eu);
    assert_eq!((na.number(KILLS), eu.number(KILLS)), (0, 5));
    assert_eq!(na.db.held_state(Seq(1)).unwrap(), HeldState::Held);
    let again = na.db.submit(&[with_id(kills(1, 5), 1)]).unwrap_err();
    assert!(
        matches!(&again, DbError::Repeated(rows) if rows[0].row.state == RequestState::Held),
        "{again:?}"
    );
    assert_eq!(na.db.settle_held().unwrap(), []);
    na.db.lane_stale("EU").unwrap();
    na.db.lane_stale("AS").unwrap();
    assert_eq!(
        na.db.outbox_trim(Duration::ZERO, 9).unwrap(),
        0,
        "never a held row, nor one behind it"
    );
    assert!(holder.held_finish(Seq(1)).unwrap());
    assert_eq!(na.number(KILLS), 5);
    assert_eq!(na.db.held_state(Seq(1)).unwrap(), HeldState::Final);
    let row = na.db.request(&id(1)).unwrap().unwrap();
    assert_eq!(
        (row.seq, row.state),
        (Some(Seq(1)), RequestState::Committed)
    );
    // It is over, for everybody.
    let late = na.db.undo(Seq(1), &unconfirmed()).unwrap();
    assert!(matches!(late, Undone::Impossible(_)), "{late:?}");
    assert!(holder.held_finish(Seq(1)).is_err());
    assert_eq!(holder.submit(&[kills(1, 1)]).unwrap()[0].seq, Seq(3));
}

#[test]
fn a_held_update_that_is_undone_can_not_become_final() {
    let [mut na, mut eu] = regions("undone");
    let mut holder = na.another();
    let held = holder.held_begin(&with_id(kills(1, 5), 1), LIMIT).unwrap();
    na.db.held_publish(&held).unwrap();
    ship_all(&mut na, &mut eu);
    // A sibling, while the holder is still at it.
    let undone = na.another().undo(Seq(1), &unconfirmed()).unwrap();
    assert!(
        matches!(&undone, Undone::Published(c) if c.update.undoes == Some(Seq(1))),
        "{undone:?}"
    );
    assert_eq!(
        na.db.held_state(Seq(1)).unwrap(),
        HeldState::Undone(unconfirmed())
    );
    assert!(!holder.held_finish(Seq(1)).unwrap());
    holder.held_cancel().unwrap();
    assert_eq!(na.db.undo(Seq(1), &unconfirmed()).unwrap(), Undone::Before);
    ship_all(&mut na, &mut eu);
    assert_eq!((na.number(KILLS), eu.number(KILLS)), (0, 0));
    let row = na.db.request(&id(1)).unwrap().unwrap();
    assert_eq!(row.state, RequestState::Undone(unconfirmed()));
}

/// The row is free as soon as the server notices; the write that waited for it must not come
/// before the undo in the other regions.
#[test]
fn a_later_write_to_the_same_row_comes_behind_the_undo_when_the_origin_dies() {
    for killed_by_server in [false, true] {
        let [mut na, mut eu] = regions(if killed_by_server { "die" } else { "close" });
        let rename = |to: &str| submission("rename", &[Value::Int(1), Value::Text(to.into())]);
        let mut holder = na.another();
        let held = holder.held_begin(&rename("held"), LIMIT).unwrap();
        na.db.held_publish(&held).unwrap();
        ship_all(&mut na, &mut eu);
        let mut later = patient(&na);
        let committed = std::thread::scope(|scope| {
            let writing = scope.spawn(move || later.submit(&[rename("later")]).unwrap());
            until("the later write waits", || {
                na.number(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                         AND wait_event_type = 'Lock'",
                ) == 1
            });
            if killed_by_server {
                let pid = held.backend;
                na.sql()
                    .execute("SELECT pg_terminate_backend($1)", &[&pid])
                    .unwrap();
            } else {
                drop(holder);
            }
            writing.join().unwrap()
        });
        assert_eq!(committed[0].seq, Seq(3));
        let stream = outbox(&mut na);
        let undoes: Vec<_> = stream.iter().map(|item| item.update.undoes).collect();
        assert_eq!(undoes, [None, Some(Seq(1)), None]);
        assert_eq!(
            na.db.held_state(Seq(1)).unwrap(),
            HeldState::Undone(UndoReason::Crashed)
        );
        ship_all(&mut na, &mut eu);
        for region in [&na, &eu] {
            let name: String = region
                .sql()
                .query_one("SELECT name FROM users WHERE id = 1", &[])
                .unwrap()
                .get(0);
            assert_eq!(name, "later", "{}", region.name);
        }
        // What the later write's undo would bring back is what was there before it.
        assert_eq!(stream[2].update.old[0], Value::Text("one".into()));
    }
}

#[test]
fn a_held_update_of_a_crashed_server_is_undone() {
    let mut cluster = prism_db::throwaway::Cluster::start().unwrap();
    let mut na = Region::new(&cluster, "na", "NA");
    na.db.submit(&[user(1)]).unwrap();
    let mut holder = na.another();
    let held = holder.held_begin(&kills(1, 5), LIMIT).unwrap();
    na.db.held_publish(&held).unwrap();
    cluster.kill9();
    cluster.restart().unwrap();
    let mut settled = Vec::new();
    until("it is settled", || match na.db.settle_held() {
        Ok(undos) => {
            settled.extend(undos);
            !settled.is_empty()
        }
        Err(_) => false,
    });
    assert_eq!(settled[0].update.undoes, Some(Seq(2)));
    assert!(holder.held_finish(Seq(2)).is_err());
    assert_eq!(na.db.settle_held().unwrap(), []);
    assert_eq!(na.number(KILLS), 0);
}

#[test]
fn the_server_ends_a_held_transaction_by_itself() {
    let [mut na, _] = regions("limit");
    let mut holder = na.another();
    na.db.region().unwrap();
    let held = holder
        .held_begin(&kills(1, 5), Duration::from_millis(1500))
        .unwrap();
    na.db.held_publish(&held).unwrap();
    // Nobody does anything: the row comes free, and the undo is first.
    let committed = patient(&na).submit(&[kills(1, 1)]).unwrap();
    assert_eq!(committed[0].seq, Seq(3));
    let late = holder.held_finish(Seq(1));
    assert!(matches!(late, Err(DbError::Unreachable(_))), "{late:?}");
    assert_eq!(na.number(KILLS), 1);
    // Published too late: nobody could tell what came in between.
    let mut holder = na.another();
    let held = holder.held_begin(&kills(1, 5), LIMIT).unwrap();
    holder.held_cancel().unwrap();
    let late = na.db.held_publish(&held).unwrap_err();
    assert!(late.to_string().contains("has ended"), "{late}");
}

#[test]
fn what_cannot_be_held_is_refused_at_once() {
    let [mut na, _] = regions("refuse");
    let mut holder = na.another();
    let no_undo = holder.held_begin(&user(9), LIMIT).unwrap_err();
    assert!(no_undo.to_string().contains("has no undo"), "{no_undo}");
    let refused = holder.held_begin(&kills(1, 5_000_000), LIMIT).unwrap_err();
    assert!(
        matches!(&refused, DbError::Sql { sqlstate, .. } if sqlstate == "23514"),
        "{refused:?}"
    );
    na.db.submit(&[with_id(kills(1, 1), 4)]).unwrap();
    let repeated = holder
        .held_begin(&with_id(kills(1, 1), 4), LIMIT)
        .unwrap_err();
    assert!(matches!(repeated, DbError::Repeated(_)), "{repeated:?}");
    // Two under one id: the second one is noticed when it is published.
    let one = holder.held_begin(&with_id(kills(1, 1), 5), LIMIT).unwrap();
    let mut other = na.another();
    let two = other.held_begin(&with_id(kills(2, 1), 5), LIMIT).unwrap();
    na.db.held_publish(&one).unwrap();
    let repeated = na.db.held_publish(&two).unwrap_err();
    assert!(matches!(repeated, DbError::Repeated(_)), "{repeated:?}");
    other.held_cancel().unwrap();
    assert!(holder.held_finish(Seq(2)).unwrap());
    assert_eq!(na.number("SELECT sum(kills)::bigint FROM users"), 2);
}

/// Each holds the row that the other's update wants.
#[test]
fn of_two_awaits_that_cross_in_two_regions_one_wins() {
    let [mut na, mut eu] = regions("cross");
    let (mut at_na, mut at_eu) = (na.another(), eu.another());
    let from_na = at_na.held_begin(&kills(1, 5), LIMIT).unwrap();
    let from_na = na.db.held_publish(&from_na).unwrap();
    let from_eu = at_eu.held_begin(&kills(1, 7), LIMIT).unwrap();
    let from_eu = eu.db.held_publish(&from_eu).unwrap();
    assert!(from_na.update.hlc <= from_eu.update.hlc);
    let (na_epoch, eu_epoch) = (na.epoch(), eu.epoch());
    let (mut into_na, mut into_eu) = (patient(&na), patient(&eu));
    let (to_na, to_eu) = (items(&[from_eu]), items(&[from_na]));
    std::thread::scope(|scope| {
        let a = scope.spawn(|| apply(&mut *into_na, "EU", eu_epoch, &to_na).unwrap());
        let b = scope.spawn(|| apply(&mut *into_eu, "NA", na_epoch, &to_eu).unwrap());
        // The later one gives way, the earlier one does not.
        let mut conflicts = Vec::new();
        until("EU sees the conflict", || {
            conflicts = eu.db.held_conflicts().unwrap();
            !conflicts.is_empty()
        });
        assert_eq!(conflicts.len(), 1);
        assert_eq!(
            (conflicts[0].seq, conflicts[0].stream),
            (Seq(1), RegionKey::of("NA"))
        );
        assert_eq!(na.db.held_conflicts().unwrap(), []);
        let conflict = UndoReason::Conflict {
            region: "NA".into(),
        };
        eu.db.undo(Seq(1), &conflict).unwrap();
        at_eu.held_cancel().unwrap();
        assert_done(&b.join().unwrap(), 1, 1, 0);
        // EU's still waits at NA, until NA's is final everywhere.
        assert!(at_na.held_finish(Seq(1)).unwrap());
        assert_done(&a.join().unwrap(), 1, 1, 0);
    });
    ship_all(&mut eu, &mut na);
    assert_eq!((na.number(KILLS), eu.number(KILLS)), (5, 5));
}

#[test]
fn a_final_update_beats_a_held_one_also_from_behind_others() {
    let [mut na, mut eu] = regions("beat");
    let sent = eu.db.submit(&[kills(1, 1)]).unwrap();
    let epoch = eu.epoch();
    let mut holder = na.another();
    let held = holder.held_begin(&kills(1, 5), LIMIT).unwrap();
    na.db.held_publish(&held).unwrap();
    // A submit queues for the row first, the apply behind it.
    let (mut first, mut second) = (patient(&na), patient(&na));
    std::thread::scope(|scope| {
        let waiting = |n| {
            until("they wait", || {
                na.number(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                         AND wait_event_type = 'Lock'",
                ) == n
            });
        };
        let submitted = scope.spawn(move || first.submit(&[kills(1, 10)]).unwrap());
        waiting(1);
        let applied = scope.spawn(move || apply(&mut *second, "EU", epoch, &items(&sent)).unwrap());
        waiting(2);
        let mut db = na.another();
        let conflicts = db.held_conflicts().unwrap();
        assert_eq!(conflicts.len(), 1, "{conflicts:?}");
        let conflict = UndoReason::Conflict {
            region: "EU".into(),
        };
        db.undo(conflicts[0].seq, &conflict).unwrap();
        holder.held_cancel().unwrap();
        submitted.join().unwrap();
        let report = applied.join().unwrap();
        assert!(
            matches!(report, ApplyReport::Done { executed: 1, .. }),
            "{report:?}"
        );
        assert_eq!(db.held_conflicts().unwrap(), []);
    });
    assert_eq!(na.number(KILLS), 11);
    ship_all(&mut na, &mut eu);
    assert_eq!(eu.number(KILLS), 11);
}

#[test]
fn a_final_commit_that_is_not_heard_of_is_asked_for() {
    let [mut na, _] = regions("cutheld");
    let proxy = Proxy::to(shared().port());
    let url = na
        .url
        .replace(&shared().port().to_string(), &proxy.port.to_string());
    for (n, cut) in [Cut::BeforeCommit, Cut::AfterCommit]
        .into_iter()
        .enumerate()
    {
        let mut holder = open(&url, options("NA"));
        let held = holder.held_begin(&kills(1, 1), LIMIT).unwrap();
        let seq = na.db.held_publish(&held).unwrap().seq;
        proxy.cut(cut);
        let error = holder.held_finish(seq).unwrap_err();
        assert!(matches!(error, DbError::Ambiguous(_)), "{error:?}");
        match cut {
            Cut::AfterCommit => {
                assert_eq!(na.db.held_state(seq).unwrap(), HeldState::Final);
                assert_eq!(na.db.settle_held().unwrap(), []);
            }
            _ => {
                until("its server process has ended", || {
                    !na.db.settle_held().unwrap().is_empty()
                });
                assert_eq!(
                    na.db.held_state(seq).unwrap(),
                    HeldState::Undone(UndoReason::Crashed)
                );
            }
        }
        assert_eq!(na.number(KILLS), n as i64);
        // And the publishing itself.
        let mut holder = na.another();
        let held = holder.held_begin(&kills(2, 1), LIMIT).unwrap();
        let mut publisher = open(&url, options("NA"));
        publisher.region().unwrap();
        proxy.cut(cut);
        let published = publisher.held_publish(&held);
        assert_eq!(published.is_ok(), cut == Cut::AfterCommit, "{published:?}");
        match published {
            Ok(committed) => assert!(holder.held_finish(committed.seq).unwrap()),
            Err(_) => holder.held_cancel().unwrap(),
        }
        assert_eq!(na.number("SELECT kills FROM users WHERE id = 2"), n as i64);
    }
    assert_eq!(proxy.cuts(), 4);
}

/// The clock of the server runs an hour ahead for a while, then jumps back: numbers and clocks go on.
#[test]
fn a_wall_clock_that_jumps_both_ways_moves_the_streams_clock_forward_only() {
    let [mut na, mut eu] = regions("clock");
    let hour = 3_600_000i64 << 16;
    let mut clocks = Vec::new();
    let mut sent = na.db.submit(&[kills(1, 1)]).unwrap();
    clocks.push(sent.remove(0).update.hlc);
    // As if everything so far had been written an hour from now: here, then in the other region.
    na.sql()
        .execute("UPDATE prism.region SET hlc = hlc + $1", &[&hour])
        .unwrap();
    clocks.extend(
        na.db
            .submit(&[kills(1, 1), kills(1, 1)])
            .unwrap()
            .iter()
            .map(|c| c.update.hlc),
    );
    ship_all(&mut na, &mut eu);
    clocks.push(eu.db.submit(&[kills(2, 1)]).unwrap()[0].update.hlc);
    let mut holder = eu.another();
    let held = holder.held_begin(&kills(1, 1), LIMIT).unwrap();
    clocks.push(eu.db.held_publish(&held).unwrap().update.hlc);
    clocks.push(eu.db.submit(&[kills(2, 1)]).unwrap()[0].update.hlc);
    assert!(clocks.is_sorted() && clocks[1].0 - clocks[0].0 > hour.cast_unsigned());
    assert!(
        clocks[5].0 - clocks[1].0 < 1 << 30,
        "no more than counted on"
    );
    // Leases are by the wall clock of the moment: one from the future is not held for ever.
    na.db
        .lane_lease("EU", "NA1", Duration::from_secs(5))
        .unwrap();
    let asked = na
        .db
        .lane_lease("EU", "NA2", Duration::from_secs(5))
        .unwrap();
    assert_eq!(asked.holder.as_deref(), Some("NA1"));
    assert!(holder.held_finish(Seq(2)).unwrap());
}
