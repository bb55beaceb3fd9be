//! An update that one region refuses is undone in all others, once and in order, whoever dies in
//! between. Real processes on SQLite.

mod common;

use common::files::{Files, kills, note, rename};
use prism_node::demo::relay::Link;
use serde_json::Value;

const ALL: [&str; 3] = ["NA", "EU", "AS"];

/// EU does not let Alex kill.
fn no_alex(w: &Files) {
    w.forbid("EU", "no_alex", "NEW.username = 'alex' AND NEW.kills > 0");
}

/// Updates of NA's stream beside those that were submitted.
fn undos(w: &Files, submitted: u64) -> u64 {
    let length = w.get("NA", "SELECT next_seq - 1 FROM prism_region");
    length.parse::<u64>().expect("a number") - submitted
}

/// Waits until every region has the same for Alex, and that is nothing.
fn undone(w: &Files, submitted: u64) {
    w.wait("it is undone everywhere", || {
        w.kills(&ALL, "alex") == ["0", "0", "0"] && undos(w, submitted) == 1
    });
}

/// What was done to Steve meanwhile is there, and nothing of it twice.
fn steve(w: &Files, node: &str, n: &str, submitted: u64) {
    w.wait_acked(node, "EU");
    w.wait_acked(node, "AS");
    assert_eq!(w.kills(&ALL, "steve"), [n, n, n]);
    assert_eq!(w.kills(&ALL, "alex"), ["0", "0", "0"]);
    // Whoever was asked twice has done it once.
    assert_eq!(undos(w, submitted), 1);
}

#[test]
fn an_update_that_eu_refuses_is_undone_in_na_and_as() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1), ("AS", 1)], "");
    no_alex(&w);
    w.start(&["NA1", "EU1", "AS1"]);
    w.submit(
        "NA1",
        &[kills("steve", 1), kills("alex", 1), kills("steve", 1)],
    );
    undone(&w, 3);
    steve(&w, "NA1", "2", 3);
    assert_eq!(w.lane("NA1", "EU").refused, 1);
    // Nothing is left to do for anybody.
    w.wait("no alarm stands", || {
        ["NA1", "EU1", "AS1"]
            .iter()
            .all(|node| w.status(node).alarms.is_empty())
    });
    w.submit("NA1", &[kills("steve", 1)]);
    steve(&w, "NA1", "3", 4);
}

#[test]
fn it_is_undone_although_na1_is_killed_before_it_could() {
    let mut w = Files::new(&[("NA", 2), ("EU", 1), ("AS", 1)], "");
    no_alex(&w);
    w.start(&["NA1", "NA2", "EU1", "AS1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait_acked("NA1", "EU");
    w.link("NA1", "EU1", Link::CUT);
    w.submit("NA1", &[kills("alex", 1), kills("steve", 1)]);
    // From now on NA's database takes no undo; it can still be read.
    let db = w.open("NA");
    db.execute_batch("BEGIN IMMEDIATE").expect("locks");
    w.link("NA1", "EU1", Link::default());
    w.wait("EU has refused it", || {
        w.get("EU", "SELECT count(*) FROM prism_rejected") == "1"
    });
    w.wait("NA1 has heard of it", || {
        let log = std::fs::read_to_string(&w.cluster.nodes[0].log).unwrap_or_default();
        log.contains("could not be dealt with yet")
    });
    w.kill("NA1");
    db.execute_batch("ROLLBACK").expect("unlocks");
    undone(&w, 3);
    steve(&w, "NA2", "2", 3);
}

#[test]
fn it_is_undone_although_eu1_is_killed_before_it_told() {
    let mut w = Files::new(&[("NA", 1), ("EU", 2), ("AS", 1)], "");
    no_alex(&w);
    w.start(&["NA1", "EU1", "EU2", "AS1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait_acked("NA1", "EU");
    w.one_way("EU1", "NA1", Link::CUT);
    w.submit("NA1", &[kills("alex", 1), kills("steve", 1)]);
    w.wait("EU has refused it", || {
        w.get("EU", "SELECT count(*) FROM prism_rejected") == "1"
    });
    w.kill("EU1");
    undone(&w, 3);
    steve(&w, "NA1", "2", 3);
}

#[test]
fn it_is_undone_when_direct_sql_met_the_refusal() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1), ("AS", 1)], "");
    no_alex(&w);
    w.start(&["NA1", "AS1"]);
    w.submit(
        "NA1",
        &[kills("steve", 1), kills("alex", 1), kills("steve", 1)],
    );
    undone(&w, 3);
    steve(&w, "NA1", "2", 3);
    assert!(w.lane("NA1", "EU").direct_writes > 0);
}

#[test]
fn old_values_come_back_and_a_later_write_is_not_harmed() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1), ("AS", 1)], "");
    w.forbid("EU", "no_bob", "NEW.name = 'Bob'");
    w.start(&["NA1", "EU1", "AS1"]);
    let names = |user: &str| -> Vec<String> {
        let sql = format!("SELECT name FROM users WHERE username = '{user}'");
        ALL.iter().map(|r| w.get(r, &sql)).collect()
    };
    w.submit("NA1", &[rename("steve", "Bob")]);
    w.wait("the old name is back", || names("steve") == ["Steve"; 3]);
    // This one is renamed again before the refusal is known.
    w.link("NA1", "EU1", Link::CUT);
    w.submit("NA1", &[rename("alex", "Bob"), rename("alex", "Carl")]);
    w.link("NA1", "EU1", Link::default());
    w.wait("both are undone or done", || undos(&w, 3) == 2);
    w.wait_acked("NA1", "EU");
    w.wait_acked("NA1", "AS");
    assert_eq!(names("alex"), ["Carl"; 3]);
}

#[test]
fn an_undo_that_its_origin_refuses_is_an_alarm_in_every_region() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1), ("AS", 1)], "");
    no_alex(&w);
    w.forbid("NA", "no_less", "NEW.kills < OLD.kills");
    w.start(&["NA1", "EU1", "AS1"]);
    w.submit("NA1", &[kills("alex", 1), kills("steve", 1)]);
    for node in ["NA1", "EU1", "AS1"] {
        w.wait(&format!("{node} alarms"), || {
            w.alarm(node, "undo-refused").is_some()
        });
    }
    w.wait_acked("NA1", "EU");
    w.wait_acked("NA1", "AS");
    assert_eq!(w.kills(&ALL, "alex"), ["1", "0", "1"]);
    assert_eq!(w.kills(&ALL, "steve"), ["1", "1", "1"]);
    // Somebody mends the rows and says so.
    let list = w
        .cluster
        .prism(&["rejected", "list", "--json"])
        .expect("a list");
    let list: Vec<Value> = serde_json::from_str(&list).expect("JSON");
    for letter in &list {
        let (id, region) = (letter["id"].to_string(), letter["region"].as_str());
        let args = ["rejected", "drop", &id, "--region", region.expect("a name")];
        w.cluster.prism(&args).expect("dropped");
    }
    for node in ["EU1", "AS1"] {
        w.wait("the alarms end", || w.status(node).alarms.is_empty());
    }
}

#[test]
fn an_undo_that_a_peer_refuses_is_an_alarm_there_and_at_its_origin() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1), ("AS", 1)], "");
    no_alex(&w);
    w.forbid("AS", "no_less", "NEW.kills < OLD.kills");
    w.start(&["NA1", "EU1", "AS1"]);
    w.submit("NA1", &[kills("alex", 1), kills("steve", 1)]);
    for node in ["AS1", "NA1"] {
        w.wait(&format!("{node} alarms"), || {
            w.alarm(node, "undo-refused").is_some()
        });
    }
    w.wait_acked("NA1", "AS");
    assert_eq!(w.kills(&ALL, "alex"), ["0", "0", "1"]);
    // An undo is never undone.
    assert_eq!(undos(&w, 2), 1);
}

#[test]
fn a_dead_letter_is_known_at_its_origin_and_can_be_tried_again_or_dropped() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1)], "");
    w.run("EU", "CREATE UNIQUE INDEX once ON notes (id)");
    w.start(&["NA1", "EU1"]);
    w.submit("NA1", &[note("a"), note("a"), note("b"), note("a")]);
    w.wait_acked("NA1", "EU");
    let count = |region| w.get(region, "SELECT count(*) FROM notes");
    assert_eq!((count("NA"), count("EU")), ("4".to_owned(), "2".to_owned()));
    w.wait("NA1 knows", || {
        let alarm = w.alarm("NA1", "peer-rejected");
        alarm.is_some_and(|a| a.detail.contains("2 updates") && a.remedy.contains("prism rejected"))
    });
    w.wait("EU1 counts", || {
        w.status("EU1").rejected == 2 && w.alarm("EU1", "rejected").is_some()
    });
    let alarm = w.alarm("EU1", "rejected").expect("an alarm");
    assert!(alarm.remedy.contains("prism rejected list"), "{alarm:?}");
    let na1 = w.cluster.node("NA1");
    let (_, metrics) = w.cluster.get(na1, "/metrics").expect("metrics");
    assert!(
        metrics.contains("prism_lane_refused_total{region=\"EU\"} 2"),
        "{metrics}"
    );

    let prism = |args: &[&str]| w.cluster.prism(args);
    let list = prism(&["rejected", "list", "--region", "EU", "--json"]).expect("a list");
    let list: Vec<Value> = serde_json::from_str(&list).expect("JSON");
    let ids: Vec<String> = list.iter().map(|letter| letter["id"].to_string()).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(list[0]["seq"], 2);
    assert_eq!(list[0]["params"], serde_json::json!(["a"]));
    let shown = prism(&["rejected", "show", &ids[0]]).expect("shown");
    assert!(shown.contains("statement   note"), "{shown}");

    let again = prism(&["rejected", "retry", &ids[0], "--region", "EU"]).expect_err("refused");
    assert!(again.to_string().contains("refuses it again"), "{again}");
    w.run("EU", "DROP INDEX once");
    prism(&["rejected", "retry", &ids[0], "--region", "EU"]).expect("retried");
    assert_eq!(count("EU"), "3");
    prism(&["rejected", "drop", &ids[1], "--region", "EU"]).expect("dropped");
    for verb in ["retry", "drop"] {
        let done = prism(&["rejected", verb, &ids[0], "--region", "EU"]).expect_err("over");
        assert!(done.to_string().contains("already"), "{done}");
    }
    let none = prism(&["rejected", "list"]).expect("a list");
    assert_eq!(none.trim(), "no dead letters");
    w.wait("the alarm ends", || w.status("EU1").alarms.is_empty());
    assert_eq!(count("EU"), "3");
}

#[test]
fn an_operator_can_go_past_an_update_that_a_region_does_not_take() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1)], "");
    w.run("EU", "ALTER TABLE notes RENAME TO other");
    w.start(&["NA1", "EU1"]);
    let seqs = w.submit("NA1", &[kills("steve", 1), note("a"), kills("steve", 1)]);
    w.wait("EU waits for an operator", || {
        w.alarm("EU1", "stream-parked").is_some()
    });
    assert_eq!(w.kills(&["EU"], "steve"), ["1"]);
    let skip = |seq: u64| {
        w.cluster
            .prism(&["skip", "NA", &seq.to_string(), "--region", "EU"])
    };
    let wrong = skip(seqs[2]).expect_err("not the next one");
    assert!(wrong.to_string().contains("the next one is 2"), "{wrong}");
    let past = skip(seqs[0]).expect_err("applied");
    assert!(past.to_string().contains("is past 1"), "{past}");
    skip(seqs[1]).expect("skipped");
    w.wait_acked("NA1", "EU");
    assert_eq!(w.kills(&["EU"], "steve"), ["2"]);
    w.wait("the alarm ends", || {
        w.alarm("EU1", "stream-parked").is_none()
    });
}
