//! Two things at once on PostgreSQL: what lies between two statements of one of them.
#![cfg(unix)]

mod pg;

use std::time::Duration;

use pg::*;
use prism_db::apply::Applier;
use prism_db::{Database, Retried, UndoReason, Undone, Value};
use prism_proto::Seq;

const KILLS: &str = "SELECT kills FROM users WHERE id = 1";
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

fn regions(name: &str) -> [Region; 2] {
    all_of(name, ["NA", "EU"])
}

fn all_of<const N: usize>(name: &str, regions: [&str; N]) -> [Region; N] {
    regions.map(|region| {
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

fn refused() -> UndoReason {
    UndoReason::Refused {
        region: "EU".into(),
        sqlstate: "23514".into(),
        message: "no".into(),
    }
}

/// The origin dies after its publication has begun and before it is committed. Whoever writes next
/// does not see it yet, but waits for its number.
#[test]
fn a_later_write_does_not_overtake_the_undo_of_a_held_update_that_is_just_being_published() {
    let [mut na, _] = regions("publishing");
    let rename = |to: &str| submission("rename", &[Value::Int(1), Value::Text(to.into())]);
    let mut holder = na.another();
    let held = holder
        .held_begin(&rename("held"), Duration::from_secs(60))
        .unwrap();
    // What holds the publication up between its number and its COMMIT.
    let mut gate = na.sql();
    gate.batch_execute("BEGIN; LOCK TABLE prism.request IN SHARE MODE")
        .unwrap();
    let (mut publisher, mut later) = (patient(&na), patient(&na));
    std::thread::scope(|scope| {
        let publishing = scope.spawn(move || publisher.held_publish(&held).unwrap());
        until("the publication has its number", || na.number(WAITING) == 1);
        drop(holder);
        let writing = scope.spawn(move || later.submit(&[rename("later")]).unwrap());
        until("the later write waits for its number", || {
            na.number(WAITING) == 2
        });
        gate.batch_execute("COMMIT").unwrap();
        assert_eq!(publishing.join().unwrap().seq, Seq(1));
        writing.join().unwrap();
    });
    let undoes: Vec<_> = outbox(&mut na)
        .iter()
        .map(|item| item.update.undoes)
        .collect();
    assert_eq!(undoes, [None, Some(Seq(1)), None]);
}

/// A later write of the row waits for a held one, which becomes final. What the later one's undo would
/// bring back everywhere is what the row was then, not what it was when the waiting began.
#[test]
fn what_an_undo_brings_back_is_what_its_update_has_replaced() {
    let [mut na, _] = regions("replaced");
    let rename = |to: &str| submission("rename", &[Value::Int(1), Value::Text(to.into())]);
    let mut holder = na.another();
    let held = holder
        .held_begin(&rename("held"), Duration::from_secs(60))
        .unwrap();
    na.db.held_publish(&held).unwrap();
    let mut later = patient(&na);
    let committed = std::thread::scope(|scope| {
        let writing = scope.spawn(move || later.submit(&[rename("later")]).unwrap());
        until("the later write waits for the row", || {
            na.number(WAITING) == 1
        });
        assert!(holder.held_finish(Seq(1)).unwrap());
        writing.join().unwrap()
    });
    let old = &committed[0].update.old;
    assert_eq!(old[0], Value::Text("held".into()), "{old:?}");
}

/// An operator runs a dead letter while its undo is being applied (and finds nothing to undo).
#[test]
fn a_dead_letter_that_is_retried_while_its_undo_arrives_is_undone_or_not_executed() {
    let [mut na, mut eu] = regions("retrying");
    eu.sql()
        .execute("UPDATE users SET kills = 999999 WHERE id = 1", &[])
        .unwrap();
    na.db.submit(&[with_id(kills(1, 50), 1)]).unwrap();
    ship_all(&mut na, &mut eu);
    let undone = na.db.undo(Seq(1), &refused()).unwrap();
    assert!(matches!(undone, Undone::Published(_)), "{undone:?}");
    na.db.submit(&[kills(2, 1)]).unwrap();
    // It is possible now.
    eu.sql()
        .execute("UPDATE users SET kills = 0 WHERE id = 1", &[])
        .unwrap();
    let mut lock = eu.sql();
    lock.batch_execute("BEGIN; UPDATE users SET name = name WHERE id = 2")
        .unwrap();
    let updates: Vec<_> = outbox(&mut na)
        .iter()
        .map(|item| (item.seq, item.update.encode()))
        .collect();
    let epoch = na.epoch();
    let (mut applying, mut retrying) = (patient(&eu), patient(&eu));
    let retried = std::thread::scope(|scope| {
        let applied = scope.spawn(move || {
            Applier::new(catalogue(), topology("EU").regions).apply(
                &mut *applying,
                "NA",
                epoch,
                &updates,
            )
        });
        until("the batch waits", || eu.number(WAITING) == 1);
        let retried = scope.spawn(move || retrying.rejected_retry(1).unwrap());
        until("the retry waits or is done", || {
            eu.number(WAITING) == 2 || retried.is_finished()
        });
        lock.batch_execute("COMMIT").unwrap();
        assert_eq!(applied.join().unwrap().wait, None);
        retried.join().unwrap()
    });
    // NA has undone it.
    assert_eq!(na.number(KILLS), 0);
    assert_eq!((eu.number(KILLS), retried), (0, Retried::Unknown));
}

/// What a region misses is just being deleted when its mark is to be taken back.
#[test]
fn a_region_is_not_taken_back_while_what_it_misses_is_deleted() {
    let [mut na, mut eu] = regions("taken_back");
    na.db.submit(&[kills(1, 1), kills(1, 2)]).unwrap();
    ship_all(&mut na, &mut eu);
    let position = eu.db.position("NA").unwrap();
    na.db.lane_acked("EU", position).unwrap();
    na.db.lane_stale("AS").unwrap();
    let mut lock = na.sql();
    lock.batch_execute("BEGIN; SELECT FROM prism.outbox WHERE seq = 1 FOR UPDATE")
        .unwrap();
    let (mut trimming, mut taking) = (patient(&na), patient(&na));
    std::thread::scope(|scope| {
        let trimmed = scope.spawn(move || trimming.outbox_trim(Duration::ZERO, 100).unwrap());
        until("the deletion waits", || na.number(WAITING) == 1);
        let back = scope.spawn(move || taking.lane_back("AS").unwrap());
        until("the other one waits as well, or is done", || {
            na.number(WAITING) == 2 || back.is_finished()
        });
        lock.batch_execute("COMMIT").unwrap();
        assert_eq!(trimmed.join().unwrap(), 2);
        assert!(!back.join().unwrap());
    });
    assert_eq!(
        na.number("SELECT count(*) FROM prism.lane WHERE stale"),
        1,
        "it says that it misses something"
    );
}

/// Everything that `from` has published, on its way into another region.
struct Batch {
    applier: Box<dyn Database>,
    stream: String,
    epoch: prism_proto::Epoch,
    updates: Vec<(Seq, Vec<u8>)>,
}

impl Batch {
    fn of(from: &mut Region, to: &Region) -> Self {
        let updates = outbox(from);
        Self {
            applier: patient(to),
            stream: from.name.clone(),
            epoch: from.epoch(),
            updates: updates
                .iter()
                .map(|item| (item.seq, item.update.encode()))
                .collect(),
        }
    }

    fn apply(mut self, region: &str) {
        let mut applier = Applier::new(catalogue(), topology(region).regions);
        let done = applier.apply(&mut *self.applier, &self.stream, self.epoch, &self.updates);
        assert_eq!(done.wait, None);
    }
}

/// Its client had asked two regions at once, and both have taken it back: they are two streams, and
/// their undos meet in the third region.
#[test]
fn the_undos_of_two_copies_that_arrive_at_once_take_effect_once() {
    let [mut na, mut eu, mut asia] = all_of("undos", ["NA", "EU", "AS"]);
    for origin in [&mut na, &mut asia] {
        origin.db.submit(&[with_id(kills(1, 50), 1)]).unwrap();
        ship_all(origin, &mut eu);
    }
    assert_eq!(eu.number(KILLS), 50);
    for origin in [&mut na, &mut asia] {
        origin.db.undo(Seq(1), &refused()).unwrap();
    }
    let mut lock = eu.sql();
    lock.batch_execute("BEGIN; UPDATE users SET name = name WHERE id = 1")
        .unwrap();
    let batches = [Batch::of(&mut na, &eu), Batch::of(&mut asia, &eu)];
    std::thread::scope(|scope| {
        for (before, batch) in (0..).zip(batches) {
            scope.spawn(move || batch.apply("EU"));
            until("the batch waits", || eu.number(WAITING) == before + 1);
        }
        lock.batch_execute("COMMIT").unwrap();
    });
    assert_eq!(eu.number(KILLS), 0);
}

/// The same in a region that has one of the copies itself.
#[test]
fn an_undo_that_arrives_while_the_own_copy_is_undone_takes_effect_once() {
    let [mut na, mut eu] = regions("undos_own");
    for origin in [&mut na, &mut eu] {
        origin.db.submit(&[with_id(kills(1, 50), 1)]).unwrap();
    }
    ship_all(&mut na, &mut eu);
    assert_eq!(eu.number(KILLS), 50);
    na.db.undo(Seq(1), &refused()).unwrap();
    let mut lock = eu.sql();
    lock.batch_execute("BEGIN; UPDATE users SET name = name WHERE id = 1")
        .unwrap();
    let batch = Batch::of(&mut na, &eu);
    let mut own = patient(&eu);
    std::thread::scope(|scope| {
        scope.spawn(move || batch.apply("EU"));
        until("the batch waits", || eu.number(WAITING) == 1);
        let undone = scope.spawn(move || own.undo(Seq(1), &refused()).unwrap());
        until("the undo waits", || eu.number(WAITING) == 2);
        lock.batch_execute("COMMIT").unwrap();
        assert_eq!(undone.join().unwrap(), Undone::Before);
    });
    assert_eq!(eu.number(KILLS), 0);
}

/// The numbering is locked while they are numbered: that must not take longer the more there are.
#[test]
fn ten_thousand_updates_of_one_transaction_are_numbered_in_one_go() {
    let [mut na, _] = regions("thousands");
    let mut sql = na.sql();
    let mut transaction = sql.transaction().unwrap();
    transaction
        .execute(
            "SELECT prism.submit('add_kills', jsonb_build_array(1, 1)) FROM generate_series(1, 10000)",
            &[],
        )
        .unwrap();
    transaction.commit().unwrap();
    assert_eq!(outbox(&mut na).len(), 10_000);
    // The trigger is called for each of them; only the first call may look at all.
    drop(sql);
    let scans = "SELECT seq_scan FROM pg_stat_all_tables WHERE relid = 'prism.intent'::regclass";
    let all = "SELECT idx_scan FROM pg_stat_all_tables WHERE relid = 'prism.intent'::regclass";
    until("the statistics arrive", || na.number(all) > 0);
    let scans = na.number(scans);
    assert!(scans < 100, "{scans} scans");
}

/// The client has used one id for two things.
#[test]
fn an_id_used_by_sql_for_one_thing_and_in_another_region_for_another_is_two_updates_everywhere() {
    let [mut na, mut eu] = regions("twothings");
    na.sql()
        .batch_execute(
            "BEGIN; UPDATE users SET kills = kills + 1 WHERE id = 1;
             SELECT prism.submit('add_kills', '[1, 1]', '07070707-0707-0707-0707-070707070707');
             COMMIT",
        )
        .unwrap();
    let mut other = kills(1, 10);
    other.request_id = Some([7; 16]);
    eu.db.submit(&[other]).unwrap();
    ship_all(&mut na, &mut eu);
    ship_all(&mut eu, &mut na);
    assert_eq!((na.number(KILLS), eu.number(KILLS)), (11, 11));
}

/// What peers have applied and the origin has lost is a fork.
#[test]
fn an_applications_commit_is_on_disk_before_peers_can_hear_of_it() {
    let [na, _] = regions("durable");
    let mut sql = na.sql();
    sql.batch_execute(
        "SET synchronous_commit = off; BEGIN; SELECT prism.submit('add_kills', '[1, 1]');
         SET CONSTRAINTS ALL IMMEDIATE",
    )
    .unwrap();
    let show = "SHOW synchronous_commit";
    let of = |sql: &mut postgres::Client| -> String { sql.query_one(show, &[]).unwrap().get(0) };
    assert_eq!(of(&mut sql), "on");
    sql.batch_execute("COMMIT").unwrap();
    assert_eq!(of(&mut sql), "off", "other transactions are not concerned");
}

/// The application's own write has to be the same as everybody else's.
#[test]
fn what_is_generated_for_an_applications_update_is_what_every_region_generates() {
    let [mut na, mut eu] = regions("generated");
    let uuid = "01020304-0506-0708-090a-0b0c0d0e0f10";
    na.sql()
        .batch_execute(&format!(
            "BEGIN;
             INSERT INTO everything (id, u, z) VALUES (1, prism.generated_uuid('{uuid}', 1), now());
             SELECT prism.submit('add_tagged', '[1]', '{uuid}');
             COMMIT"
        ))
        .unwrap();
    ship_all(&mut na, &mut eu);
    let row = "SELECT u::text || z::text FROM everything WHERE id = 1";
    let rows = [&na, &eu].map(|r| r.sql().query_one(row, &[]).unwrap().get::<_, String>(0));
    assert_eq!(rows[0], rows[1]);
    let id = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    let same = Value::Uuid(prism_db::generated_uuid(&id, 1));
    assert_eq!(outbox(&mut na)[0].update.params[1], same);
}

/// Nobody would ever hear of it.
#[test]
fn a_database_that_is_being_rebuilt_takes_no_updates_of_applications() {
    let [na, _] = regions("sealed");
    let mut sql = na.sql();
    sql.batch_execute("BEGIN; SELECT prism.submit('add_kills', '[1, 1]')")
        .unwrap();
    na.sql()
        .batch_execute("UPDATE prism.region SET name = 'NA (being rebuilt)'")
        .unwrap();
    let error = sql.batch_execute("COMMIT").unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(error.message().contains("being rebuilt"), "{error}");
    assert_eq!(na.number("SELECT count(*) FROM prism.outbox"), 0);
}

/// Not "it has been committed before, nothing is to be done".
#[test]
fn an_id_used_twice_in_one_transaction_is_told_from_one_that_was_committed_before() {
    let [na, _] = regions("twice");
    let call = "SELECT prism.submit('add_kills', '[1, 1]', '07070707-0707-0707-0707-070707070707')";
    let error = na
        .sql()
        .batch_execute(&format!("BEGIN; {call}; {call}; COMMIT"))
        .unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(error.message().contains("twice"), "{error}");
    assert_eq!(na.number("SELECT count(*) FROM prism.outbox"), 0);
}
