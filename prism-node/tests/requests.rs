//! What a caller can rely on: one id runs once whoever asks and how often, and another caller's lock
//! is no concern of theirs. Real nodes on PostgreSQL.

mod common;

use std::thread;

use common::{World, kill, post};
use serde_json::{Value, json};

fn with_id(mut update: Value, id: &str) -> Value {
    update["request_id"] = json!(id);
    update
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[test]
fn one_id_runs_once_also_at_a_sibling_in_another_region_and_after_a_crash() {
    let mut w = World::new(&[("NA", 2), ("EU", 1)]);
    w.start(&["NA1", "NA2", "EU1"]);
    let id = new_id();
    let update = with_id(kill("steve"), &id);
    let committed = json!({"seq": 1, "outcome": "committed", "request_id": id});
    assert_eq!(w.post("NA1", &update), (200, committed.clone()));
    assert_eq!(w.post("NA1", &update), (200, committed.clone()));
    assert_eq!(w.post("NA2", &update), (200, committed.clone()));
    assert_eq!(w.post("NA1", &with_id(kill("alex"), &id)).0, 422);
    w.wait("everywhere", || w.found("NA1", &id).1 == "applied");
    let (status, answer) = w.post("EU1", &update);
    assert_eq!(
        (status, &answer["region"], &answer["seq"]),
        (200, &json!("NA"), &json!(1))
    );
    // Committed, and the node dies before anybody hears of it.
    w.kill("NA1");
    w.start(&["NA1"]);
    assert_eq!(w.post("NA1", &update), (200, committed));
    for region in ["NA", "EU"] {
        assert_eq!(w.kills(region, "steve"), 1, "{region}");
    }
    let (status, outcome, _) = w.found("NA1", &new_id());
    assert_eq!((status, outcome.as_str()), (404, "unknown"));

    // What was refused stays refused, in the same words.
    let refused = json!({"statement": "new_user", "params": ["alex"]});
    let refused = with_id(refused, &new_id());
    let first = w.post("NA1", &refused);
    assert_eq!(first.0, 409, "{first:?}");
    w.sql("NA")
        .execute("DELETE FROM users WHERE username = 'alex'", &[])
        .expect("gone");
    assert_eq!(w.post("NA2", &refused), first);
    assert_eq!(w.kills("NA", "alex"), -1);
}

#[test]
fn many_at_once_with_one_id_run_once() {
    let mut w = World::new(&[("NA", 2), ("EU", 1)]);
    w.start(&["NA1", "NA2", "EU1"]);
    for round in 1..=5 {
        let id = new_id();
        let clients: Vec<_> = (0..12)
            .map(|i| {
                let url = w.updates_url(["NA1", "NA2"][i % 2]);
                let (http, body) = (w.cluster.http(), with_id(kill("steve"), &id));
                thread::spawn(move || post(&http, &url, &body))
            })
            .collect();
        let answers: Vec<_> = clients
            .into_iter()
            .map(|c| c.join().expect("no panic"))
            .collect();
        assert_eq!(answers[0].0, 200, "{answers:?}");
        assert!(answers.iter().all(|a| *a == answers[0]), "{answers:?}");
        assert_eq!(w.kills("NA", "steve"), round);
    }
    w.wait_acked("NA1", "EU");
    assert_eq!(w.kills("EU", "steve"), 5);
}

#[test]
fn a_locked_row_stalls_nobody_else_and_keeps_its_callers_order() {
    let mut w = World::new(&[("NA", 1), ("EU", 1)]);
    w.start(&["NA1", "EU1"]);
    let mut application = w.sql("NA");
    let mut lock = application.transaction().expect("begins");
    lock.execute(
        "UPDATE users SET kills = kills + 100 WHERE username = 'steve'",
        &[],
    )
    .expect("locks");
    let (http, url) = (w.cluster.http(), w.updates_url("NA1"));
    let note = |id: &str| json!({"statement": "note", "params": [id]});
    let array = json!([note("first"), kill("steve"), note("behind"), note("last")]);
    let waiting = thread::spawn({
        let (http, url) = (http.clone(), url.clone());
        move || post(&http, &url, &array)
    });
    w.wait("what stands before it is committed", || {
        w.notes("NA", "first") == 1
    });
    // Everybody else goes on, also with much more than the slow ones can take.
    let others: Vec<Value> = (0..700).map(|_| kill("alex")).collect();
    w.submit("NA1", &others);
    w.wait("the others arrive", || w.kills("EU", "alex") == 700);
    assert!(!waiting.is_finished());
    assert_eq!(w.notes("NA", "behind") + w.notes("NA", "last"), 0);
    // One whose caller does not wait so long: nothing of it happens, now or later.
    let mut hasty = kill("steve");
    hasty["timeout_ms"] = json!(300);
    let (status, answer) = w.post("NA1", &hasty);
    assert_eq!(status, 503, "{answer}");
    let code = answer["error"]["code"].as_str().expect("a code");
    assert!(["locked", "timeout"].contains(&code), "{answer}");
    lock.commit().expect("commits");
    let (status, answers) = waiting.join().expect("no panic");
    assert_eq!(status, 200, "{answers}");
    let seqs: Vec<u64> = (0..4)
        .map(|i| answers[i]["seq"].as_u64().expect("a seq"))
        .collect();
    assert!(seqs.is_sorted(), "{seqs:?}");
    w.wait_acked("NA1", "EU");
    assert_eq!((w.kills("NA", "steve"), w.kills("EU", "steve")), (101, 1));
    assert_eq!((w.notes("NA", ""), w.notes("EU", "")), (3, 3));
}

#[test]
fn callers_that_wait_for_a_lock_are_bounded() {
    let mut w = World::new(&[("NA", 1), ("EU", 1)]);
    w.start(&["NA1", "EU1"]);
    let mut application = w.sql("NA");
    let mut lock = application.transaction().expect("begins");
    lock.execute("UPDATE users SET kills = 0 WHERE username = 'steve'", &[])
        .expect("locks");
    let url = w.updates_url("NA1");
    let clients: Vec<_> = (0..300)
        .map(|_| {
            let (http, url) = (w.cluster.http(), url.clone());
            thread::spawn(move || post(&http, &url, &kill("steve")))
        })
        .collect();
    // 8 threads, and 256 that wait for one.
    w.wait("the rest is refused", || {
        clients.iter().filter(|c| c.is_finished()).count() == 300 - 8 - 256
    });
    w.submit("NA1", &[kill("alex")]);
    lock.rollback().expect("ends");
    let mut committed = 0;
    for client in clients {
        let (status, answer) = client.join().expect("no panic");
        match status {
            200 => committed += 1,
            503 => assert_eq!(answer["error"]["code"], "busy", "{answer}"),
            _ => panic!("{status} {answer}"),
        }
    }
    assert_eq!(committed, 8 + 256);
    assert_eq!(w.kills("NA", "steve"), committed);
}
