//! Awaited updates on PostgreSQL: everywhere or nowhere, whatever happens on the way.

mod common;

use common::{Plan, World, awaited, kill};
use serde_json::{Value, json};

fn three<'a>(toml: &'a str) -> Plan<'a> {
    Plan {
        regions: &[("NA", 2), ("EU", 1), ("AS", 1)],
        toml,
        ..Plan::default()
    }
}

const ALL: &[&str] = &["NA1", "NA2", "EU1", "AS1"];

/// Everything that NA has committed has arrived, and steve has so many kills in all regions.
fn everywhere(w: &World, node: &str, kills: i32) {
    w.wait_acked(node, "EU");
    w.wait_acked(node, "AS");
    for region in ["NA", "EU", "AS"] {
        assert_eq!(w.kills(region, "steve"), kills, "{region}");
    }
}

/// Waits until an update is held in NA's outbox.
fn held(w: &World) -> i64 {
    let mut sql = w.sql("NA");
    let mut seq = 0;
    w.wait("an update is held", || {
        let row = sql.query_opt("SELECT seq FROM prism.outbox WHERE state = 'h'", &[]);
        seq = row.expect("a query").map_or(0, |row| row.get(0));
        seq > 0
    });
    seq
}

fn with_id(mut update: Value) -> (Value, String) {
    let id = uuid::Uuid::new_v4().to_string();
    update["request_id"] = json!(id);
    (update, id)
}

#[test]
fn the_origin_does_not_show_it_before_every_region_has_it() {
    let mut w = World::plan(&three(""));
    w.start(ALL);
    let mut application = w.sql("EU");
    let mut lock = application.transaction().expect("begins");
    lock.execute("UPDATE users SET kills = 0 WHERE username = 'steve'", &[])
        .expect("locks");
    let (update, id) = with_id(awaited("steve", 3));
    let answer = w.post_aside("NA1", update.clone());
    held(&w);
    w.wait("AS has it", || w.kills("AS", "steve") == 3);
    assert_eq!(w.kills("NA", "steve"), 0);
    assert_eq!(w.found("NA2", &id).1, "pending");
    // A write to the same row waits for it, others do not.
    let later = w.post_aside("NA2", kill("steve"));
    w.submit("NA1", &[kill("alex")]);
    assert!(!answer.is_finished() && !later.is_finished());
    lock.rollback().expect("ends");
    let (status, body) = answer.join().expect("no panic");
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["outcome"], "applied");
    assert_eq!(body["regions"], json!({"EU": "applied", "AS": "applied"}));
    assert_eq!(later.join().expect("no panic").0, 200);
    everywhere(&w, "NA1", 4);
    assert_eq!(w.post("NA1", &update), (200, body));
    everywhere(&w, "NA1", 4);
}

#[test]
fn what_one_region_refuses_is_undone_in_all_and_says_which() {
    let mut w = World::plan(&three(""));
    w.start(ALL);
    w.sql("EU")
        .batch_execute("ALTER TABLE users ADD CONSTRAINT few CHECK (kills < 10)")
        .expect("a constraint");
    let (update, id) = with_id(awaited("steve", 10));
    let (status, body) = w.post("NA1", &update);
    assert_eq!(status, 409, "{body}");
    assert_eq!(
        (&body["outcome"], &body["region"]),
        (&json!("refused"), &json!("EU"))
    );
    assert!(
        body["error"]["message"]
            .as_str()
            .is_some_and(|m| m.contains("23514")),
        "{body}"
    );
    everywhere(&w, "NA1", 0);
    assert_eq!(w.found("NA1", &id).1, "undone");
    let (status, body) = w.post("NA1", &awaited("steve", 2));
    assert_eq!(status, 200, "{body}");
    everywhere(&w, "NA1", 2);
    w.wait("an undone one is no dead letter", || {
        w.status("EU1").rejected == 0
    });
}

#[test]
fn a_region_that_is_down_is_unconfirmed_and_it_is_undone_everywhere() {
    let plan = Plan {
        no_direct: Some("EU"),
        ..three("")
    };
    let mut w = World::plan(&plan);
    w.start(&["NA1", "NA2", "AS1"]);
    let mut update = awaited("steve", 1);
    update["timeout_ms"] = json!(1000);
    let (status, body) = w.post("NA1", &update);
    assert_eq!(status, 504, "{body}");
    assert_eq!(body["outcome"], "unconfirmed");
    assert_eq!(body["regions"]["EU"], "waiting");
    assert_eq!(w.kills("NA", "steve"), 0);
    w.start(&["EU1"]);
    everywhere(&w, "NA1", 0);
    assert_eq!(w.post("NA1", &awaited("steve", 1)).0, 200);
    everywhere(&w, "NA1", 1);
}

#[test]
fn an_origin_that_dies_while_it_waits_leaves_it_nowhere() {
    let mut w = World::plan(&three(""));
    w.start(ALL);
    for what in ["node", "backend"] {
        let mut application = w.sql("EU");
        let mut lock = application.transaction().expect("begins");
        lock.execute("UPDATE users SET kills = 0 WHERE username = 'steve'", &[])
            .expect("locks");
        let (update, id) = with_id(awaited("steve", 1));
        let answer = (what == "backend").then(|| w.post_aside("NA1", update.clone()));
        if answer.is_none() {
            let (http, url) = (w.cluster.http(), w.updates_url("NA1"));
            // Its node dies: there is no answer.
            std::thread::spawn(move || {
                let _ = http.post(url).send_json(update);
            });
        }
        let seq = held(&w);
        w.wait("AS has it", || w.kills("AS", "steve") == 1);
        if what == "node" {
            w.kill("NA1");
        } else {
            w.sql("NA")
                .execute(
                    "SELECT pg_terminate_backend(backend) FROM prism.outbox WHERE seq = $1",
                    &[&seq],
                )
                .expect("ended");
        }
        // A later write to the same row comes after the undo, in every region.
        w.submit("NA2", &[kill("steve")]);
        lock.rollback().expect("ends");
        if let Some(answer) = answer {
            let (status, body) = answer.join().expect("no panic");
            assert_eq!(
                (status, &body["outcome"]),
                (504, &json!("unconfirmed")),
                "{body}"
            );
        }
        w.wait("undone", || w.found("NA2", &id).1 == "undone");
        everywhere(&w, "NA2", 1);
        w.submit(
            "NA2",
            &[json!({"statement": "add_kills", "params": ["steve", -1]})],
        );
        everywhere(&w, "NA2", 0);
        if what == "node" {
            w.start(&["NA1"]);
        }
    }
}

#[test]
fn fifty_are_in_flight_at_once_and_one_too_many_is_busy() {
    let mut w = World::plan(&three("[limits]\nmax_awaits = 50\n"));
    w.start(ALL);
    let mut application = w.sql("EU");
    let mut lock = application.transaction().expect("begins");
    // Nothing is applied in EU meanwhile.
    lock.execute("SELECT * FROM prism.watermark FOR UPDATE", &[])
        .expect("locks");
    let answers: Vec<_> = (0..50)
        .map(|n| {
            let update =
                json!({"statement": "undoable", "params": [n.to_string()], "mode": "await"});
            w.post_aside("NA1", update)
        })
        .collect();
    let mut sql = w.sql("NA");
    w.wait("all are held", || {
        let row = sql.query_one("SELECT count(*) FROM prism.outbox WHERE state = 'h'", &[]);
        row.expect("a query").get::<_, i64>(0) == 50
    });
    let (status, body) = w.post("NA1", &awaited("steve", 1));
    assert_eq!(
        (status, &body["error"]["code"]),
        (503, &json!("busy")),
        "{body}"
    );
    assert_eq!(w.notes("NA", ""), 0);
    lock.rollback().expect("ends");
    for answer in answers {
        let (status, body) = answer.join().expect("no panic");
        assert_eq!(
            (status, &body["outcome"]),
            (200, &json!("applied")),
            "{body}"
        );
    }
    for region in ["NA", "EU", "AS"] {
        assert_eq!(w.notes(region, ""), 50, "{region}");
    }
}

#[test]
fn of_two_that_cross_in_two_regions_one_wins_and_one_is_refused() {
    let mut w = World::new(&[("NA", 1), ("EU", 1)]);
    w.start(&["NA1", "EU1"]);
    let mut total = 0;
    let mut conflicts = 0;
    for round in 0..10 {
        let na = w.post_aside("NA1", awaited("steve", 1));
        let eu = w.post_aside("EU1", awaited("steve", 100));
        let answers = [na.join().expect("no panic"), eu.join().expect("no panic")];
        for ((status, body), kills) in answers.iter().zip([1, 100]) {
            match status {
                200 => total += kills,
                409 => {
                    assert_eq!(body["error"]["code"], "conflict", "{body}");
                    conflicts += 1;
                }
                _ => panic!("round {round}: {answers:?}"),
            }
        }
        assert!(
            answers.iter().any(|(status, _)| *status == 200),
            "{answers:?}"
        );
        w.wait_acked("NA1", "EU");
        w.wait_acked("EU1", "NA");
        assert_eq!(
            (w.kills("NA", "steve"), w.kills("EU", "steve")),
            (total, total)
        );
    }
    assert!(conflicts > 0, "they never met");
}

#[test]
fn a_node_that_is_told_to_stop_brings_its_awaits_to_an_end() {
    let mut w = World::plan(&three("[limits]\nawait_timeout = \"60s\"\n"));
    w.start(ALL);
    let mut application = w.sql("EU");
    let mut lock = application.transaction().expect("begins");
    lock.execute("UPDATE users SET kills = 0 WHERE username = 'steve'", &[])
        .expect("locks");
    let answer = w.post_aside("NA1", awaited("steve", 1));
    held(&w);
    let node = w.cluster.node("NA1");
    w.cluster.signal(node, nix::sys::signal::Signal::SIGTERM);
    let (status, body) = answer.join().expect("no panic");
    assert_eq!(
        (status, &body["outcome"]),
        (504, &json!("unconfirmed")),
        "{body}"
    );
    lock.rollback().expect("ends");
    everywhere(&w, "NA2", 0);
}

#[test]
fn an_applications_own_transaction_takes_its_update_with_it() {
    let mut w = World::new(&[("NA", 1), ("EU", 1)]);
    w.start(&["NA1", "EU1"]);
    let mut application = w.sql("NA");
    let mut write = |kills: i32, commit: bool| {
        let mut tx = application.transaction().expect("begins");
        tx.execute(
            "UPDATE users SET kills = kills + $1 WHERE username = 'steve'",
            &[&kills],
        )
        .expect("its own write");
        let params = format!("[\"steve\", {kills}]");
        tx.execute(
            &format!("SELECT prism.submit('add_kills', '{params}'::jsonb)"),
            &[],
        )
        .expect("the update");
        if commit {
            tx.commit().expect("commits");
        } else {
            tx.rollback().expect("ends");
        }
    };
    write(1, true);
    write(10, false);
    write(100, true);
    w.wait("it arrives", || w.kills("EU", "steve") == 101);
    w.wait_acked("NA1", "EU");
    assert_eq!((w.kills("NA", "steve"), w.kills("EU", "steve")), (101, 101));
    assert_eq!(w.status("NA1").next_seq, 3);
}

#[test]
fn on_the_command_line_it_is_applied_or_the_exit_status_says_that_it_is_not() {
    let mut w = World::plan(&three("[limits]\nawait_timeout = \"2s\""));
    w.start(ALL);
    let submit = ["submit", "--node", "NA1", "score", "steve", "3", "--await"];
    let said = w.cluster.prism(&submit).expect("applied");
    assert!(said.contains("outcome=applied"), "{said}");
    everywhere(&w, "NA1", 3);
    w.sql("EU")
        .batch_execute("ALTER TABLE users ADD CONSTRAINT few CHECK (kills < 4)")
        .expect("a constraint");
    let said = w.cluster.prism(&submit).expect_err("refused").to_string();
    assert!(said.contains("EU") && said.contains("23514"), "{said}");
    everywhere(&w, "NA1", 3);
}
