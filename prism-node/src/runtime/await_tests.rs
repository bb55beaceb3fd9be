//! Awaited updates and repeated requests, with nodes in this process, on SQLite.

use std::path::Path;
use std::time::Duration;

use prism_db::{RequestState, UndoReason, Value};
use prism_proto::Seq;
use rusqlite::Connection;

use super::Runtime;
use super::tests::{cluster, start, until};
use crate::intake::{Answer, Failure, Found, Mode, NewUpdate};

fn note(id: &str, mode: Mode) -> NewUpdate {
    NewUpdate {
        statement: "note".to_owned(),
        params: vec![Value::Text(id.to_owned())],
        request_id: uuid::Uuid::new_v4(),
        mode,
        timeout: None,
    }
}

fn submit(node: &Runtime, update: NewUpdate) -> Answer {
    let pending = node.intake().submit(vec![update]).expect("room");
    pending.wait().expect("an answer").remove(0)
}

fn found(node: &Runtime, update: &NewUpdate) -> Found {
    let finding = node.intake().find(update.request_id).expect("room");
    finding.blocking_recv().expect("an answer").expect("found")
}

fn notes(dir: &Path, region: &str, id: &str) -> i64 {
    let db = Connection::open(dir.join(format!("{region}.db"))).expect("opens");
    db.busy_timeout(Duration::from_secs(10)).expect("set");
    let count = "SELECT count(*) FROM notes WHERE id = ?1";
    db.query_row(count, [id], |row| row.get(0))
        .expect("a count")
}

#[test]
fn an_awaited_update_is_final_when_every_region_has_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, _) = cluster(dir.path());
    let na = start(&config, "NA1", dir.path());
    let eu = start(&config, "EU1", dir.path());
    let update = note("x", Mode::Await);
    let applied = Answer::Applied {
        seq: Seq(1),
        regions: vec!["EU".into()],
    };
    assert_eq!(submit(&na, update.clone()), applied);
    assert_eq!(notes(dir.path(), "NA", "x"), 1);
    assert_eq!(notes(dir.path(), "EU", "x"), 1);
    // The same once more, here and at a node of another region.
    assert_eq!(submit(&na, update.clone()), applied);
    let elsewhere = Answer::Elsewhere {
        region: "NA".into(),
        seq: Seq(1),
    };
    assert_eq!(submit(&eu, update.clone()), elsewhere);
    let Found::Recorded { row, regions } = found(&na, &update) else {
        panic!("not on record");
    };
    assert_eq!(
        (row.seq, row.state),
        (Some(Seq(1)), RequestState::Committed)
    );
    assert_eq!(regions, [("EU".to_owned(), true)]);
    let other = NewUpdate {
        params: vec![Value::Text("y".into())],
        ..update
    };
    assert_eq!(submit(&na, other), Answer::Failed(Failure::RequestReused));
    // A statement without undo cannot be awaited.
    let bump = NewUpdate {
        statement: "bump".into(),
        params: vec![Value::Int(1)],
        ..note("", Mode::Await)
    };
    let needs = Answer::Failed(Failure::NeedsUndo("bump".into()));
    assert_eq!(submit(&na, bump), needs);
    // Background updates go on afterwards.
    let after = submit(&na, note("z", Mode::Background));
    assert_eq!(after, Answer::Committed { seq: Seq(2) });
    let _ = na.drain(Duration::ZERO);
    let _ = eu.drain(Duration::ZERO);
}

#[test]
fn an_awaited_update_that_one_region_refuses_is_nowhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, _) = cluster(dir.path());
    let there = Connection::open(dir.path().join("EU.db")).expect("opens");
    there
        .execute("INSERT INTO notes VALUES ('x')", [])
        .expect("in the way");
    let na = start(&config, "NA1", dir.path());
    let eu = start(&config, "EU1", dir.path());
    let update = note("x", Mode::Await);
    let answer = submit(&na, update.clone());
    let Answer::Undone {
        seq: Some(Seq(1)),
        reason: UndoReason::Refused { region, .. },
        ..
    } = &answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!(region, "EU");
    assert_eq!(notes(dir.path(), "NA", "x"), 0);
    until("EU has the undo", || {
        na.board().status().lanes[0].acked >= 2
    });
    assert_eq!(notes(dir.path(), "EU", "x"), 1, "its own is not touched");
    assert_eq!(submit(&na, update), answer);
    let _ = na.drain(Duration::ZERO);
    let _ = eu.drain(Duration::ZERO);
}

#[test]
fn an_awaited_update_is_undone_everywhere_when_a_region_does_not_confirm_in_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, _) = cluster(dir.path());
    let na = start(&config, "NA1", dir.path());
    // Held, so that not even direct SQL gets through.
    let there = Connection::open(dir.path().join("EU.db")).expect("opens");
    there.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let update = NewUpdate {
        timeout: Some(Duration::from_millis(500)),
        ..note("x", Mode::Await)
    };
    let answer = submit(&na, update.clone());
    let unconfirmed = Answer::Undone {
        seq: Some(Seq(1)),
        reason: UndoReason::Unconfirmed {
            regions: vec!["EU".into()],
        },
        regions: vec![("EU".into(), false)],
    };
    assert_eq!(answer, unconfirmed);
    assert_eq!(notes(dir.path(), "NA", "x"), 0);
    let Found::Recorded { row, .. } = found(&na, &update) else {
        panic!("not on record");
    };
    assert!(matches!(row.state, RequestState::Undone(_)), "{row:?}");
    there.execute_batch("ROLLBACK").expect("ends");
    let eu = start(&config, "EU1", dir.path());
    until("EU has both", || na.board().status().lanes[0].acked >= 2);
    assert_eq!(notes(dir.path(), "EU", "x"), 0);
    // Nothing stands in the way of the same thing afterwards.
    let after = submit(&na, note("x", Mode::Await));
    assert!(matches!(after, Answer::Applied { .. }), "{after:?}");
    let _ = na.drain(Duration::ZERO);
    let _ = eu.drain(Duration::ZERO);
}

#[test]
fn a_refusal_is_on_record_and_answered_alike_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, path) = cluster(dir.path());
    let here = Connection::open(path).expect("opens");
    here.execute("INSERT INTO notes VALUES ('x')", [])
        .expect("in the way");
    let na = start(&config, "NA1", dir.path());
    for mode in [Mode::Background, Mode::Await] {
        here.execute("INSERT OR IGNORE INTO notes VALUES ('x')", [])
            .expect("in the way");
        let update = note("x", mode);
        let refused = submit(&na, update.clone());
        assert!(
            matches!(&refused, Answer::Failed(Failure::Refused(_))),
            "{refused:?}"
        );
        // It would be possible now, but the answer stands.
        here.execute("DELETE FROM notes", [])
            .expect("out of the way");
        assert_eq!(submit(&na, update.clone()), refused);
        let Found::Recorded { row, .. } = found(&na, &update) else {
            panic!("not on record");
        };
        assert!(matches!(row.state, RequestState::Refused { .. }), "{row:?}");
    }
    assert_eq!(notes(dir.path(), "NA", "x"), 0);
    let _ = na.drain(Duration::ZERO);
}

/// A SQLite database executes it at the end: that can fail although every region has it.
#[test]
fn an_awaited_update_that_can_not_be_made_final_is_undone_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, path) = cluster(dir.path());
    let na = start(&config, "NA1", dir.path());
    let there = Connection::open(dir.path().join("EU.db")).expect("opens");
    there.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let update = note("x", Mode::Await);
    let pending = na.intake().submit(vec![update]).expect("room");
    let here = Connection::open(path).expect("opens");
    here.busy_timeout(Duration::from_secs(10)).expect("set");
    let held = "SELECT count(*) FROM prism_outbox WHERE state = 'held'";
    until("it is held", || {
        here.query_row(held, [], |row| row.get::<_, i64>(0)) == Ok(1)
    });
    // As an update of another region would come in between.
    here.execute("INSERT INTO notes VALUES ('x')", [])
        .expect("in the way");
    there.execute_batch("ROLLBACK").expect("ends");
    let eu = start(&config, "EU1", dir.path());
    let answer = pending.wait().expect("an answer").remove(0);
    assert!(
        matches!(&answer, Answer::Undone { reason: UndoReason::Refused { region, .. }, .. } if region == "NA"),
        "{answer:?}"
    );
    // Nobody waits for it any more.
    let after = submit(&na, note("y", Mode::Background));
    assert!(matches!(after, Answer::Committed { .. }), "{after:?}");
    until("EU has all", || na.board().status().lanes[0].acked >= 3);
    assert_eq!(notes(dir.path(), "EU", "x"), 0);
    let _ = na.drain(Duration::ZERO);
    let _ = eu.drain(Duration::ZERO);
}

/// Nothing behind it is confirmed meanwhile: somebody has to know.
#[test]
fn an_undo_that_the_origin_can_not_run_is_an_alarm_until_it_can() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, path) = cluster(dir.path());
    let sql = |path: &Path, sql: &str| {
        let db = Connection::open(path).expect("opens");
        db.busy_timeout(Duration::from_secs(10)).expect("set");
        db.execute_batch(sql).expect("runs");
    };
    sql(&dir.path().join("EU.db"), "INSERT INTO notes VALUES ('x')");
    sql(
        &path,
        "CREATE TRIGGER log AFTER DELETE ON notes BEGIN INSERT INTO log VALUES (old.id); END",
    );
    let na = start(&config, "NA1", dir.path());
    let eu = start(&config, "EU1", dir.path());
    submit(&na, note("x", Mode::Background));
    let alarm = || {
        let alarms = na.board().status().alarms;
        alarms.into_iter().find(|a| a.name == "stuck")
    };
    until("somebody is told", || {
        alarm().is_some_and(|a| a.detail.contains("log"))
    });
    sql(&path, "DROP TRIGGER log");
    until("it is undone", || notes(dir.path(), "NA", "x") == 0);
    until("the alarm is over", || alarm().is_none());
    let _ = na.drain(Duration::ZERO);
    let _ = eu.drain(Duration::ZERO);
}
