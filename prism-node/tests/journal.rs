//! The journal of a node: its database is away, and nothing that was accepted is lost or done
//! twice. Real nodes, a real server that is stopped; plain SQL says what is there.

mod common;

use std::fs;
use std::process::Command;

use common::{LIMIT, PRISM, Plan, World};
use prism_db::throwaway::Cluster;
use serde_json::{Value, json};

/// NA on a server of its own, which is stopped.
fn world<'a>(server: &'a Cluster, toml: &'a str) -> Plan<'a> {
    Plan {
        regions: &[("NA", 1), ("EU", 1)],
        toml,
        own_server: Some(("NA", server)),
        ..Plan::default()
    }
}

fn note(id: impl ToString) -> Value {
    json!({"statement": "note", "params": [id.to_string()]})
}

fn spool(w: &World, node: &str, body: &Value) -> String {
    let (status, answer) = w.post(node, body);
    assert_eq!(
        (status, &answer["outcome"]),
        (202, &json!("spooled")),
        "{answer}"
    );
    assert_eq!(answer.get("seq"), None, "{answer}");
    answer["request_id"].as_str().expect("an id").to_owned()
}

fn entries(w: &World, node: &str) -> u64 {
    w.status(node).journal.entries
}

/// Notes in the order in which a region's database got them.
fn order(w: &World, region: &str) -> Vec<String> {
    let rows = w
        .sql(region)
        .query("SELECT id FROM notes ORDER BY ctid", &[]);
    rows.expect("a query")
        .iter()
        .map(|row| row.get(0))
        .collect()
}

#[test]
fn updates_are_spooled_while_the_database_is_away_survive_kill_9_and_run_in_order_once() {
    let mut server = Cluster::start().expect("a server");
    let mut w = World::plan(&world(&server, ""));
    w.start(&["NA1", "EU1"]);
    w.submit("NA1", &[note(0)]);
    server.stop();
    let first = spool(&w, "NA1", &note(1));
    for n in 2..=20 {
        spool(&w, "NA1", &note(n));
    }
    assert_eq!(entries(&w, "NA1"), 20);
    assert_eq!(w.found("NA1", &first).1, "spooled");
    let metrics = w
        .cluster
        .get(w.cluster.node("NA1"), "/metrics")
        .expect("metrics")
        .1;
    assert!(metrics.contains("prism_journal_entries 20"), "{metrics}");
    w.wait("the alarm", || w.alarm("NA1", "database").is_some());

    // Killed, and started again while the database is still away: it takes updates all the same.
    w.kill("NA1");
    w.start(&["NA1"]);
    assert_eq!(entries(&w, "NA1"), 20);
    assert_eq!(w.found("NA1", &first).1, "spooled");
    let output = Command::new(PRISM)
        .args(["submit", "--node", "NA1", "--config"])
        .arg(&w.cluster.config)
        .args(["note", "21"])
        .output()
        .expect("prism runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "outcome=spooled\n");
    // The same request once more, and with another content.
    let again = json!({"statement": "note", "params": ["1"], "request_id": first});
    assert_eq!(spool(&w, "NA1", &again), first);
    let other = json!({"statement": "note", "params": ["x"], "request_id": first});
    assert_eq!(w.post("NA1", &other).0, 422);
    let awaited = json!({"statement": "undoable", "params": ["a"], "mode": "await"});
    let (status, answer) = w.post("NA1", &awaited);
    assert_eq!(
        (status, &answer["error"]["code"]),
        (503, &json!("spooling")),
        "{answer}"
    );
    assert_eq!(entries(&w, "NA1"), 21);

    server.restart().expect("the server");
    w.wait("the journal is empty", || entries(&w, "NA1") == 0);
    w.wait_acked("NA1", "EU");
    let all: Vec<String> = (0..=21).map(|n| n.to_string()).collect();
    assert_eq!(order(&w, "NA"), all);
    assert_eq!(order(&w, "EU"), all);
    w.submit("NA1", &[note(22)]);
    w.wait("no alarm", || w.alarm("NA1", "database").is_none());
    // Nothing of it runs again when the node is started once more.
    w.kill("NA1");
    w.start(&["NA1"]);
    w.submit("NA1", &[note(23)]);
    w.wait_acked("NA1", "EU");
    assert_eq!((w.notes("NA", ""), w.notes("EU", "")), (24, 24));
}

#[test]
fn what_remains_in_the_journal_is_named_when_the_node_stops_and_runs_when_it_starts() {
    let mut server = Cluster::start().expect("a server");
    let mut w = World::plan(&world(&server, ""));
    w.start(&["NA1", "EU1"]);
    w.submit("NA1", &[note(0)]);
    w.wait_acked("NA1", "EU");
    server.stop();
    spool(&w, "NA1", &note(1));
    spool(&w, "NA1", &note(2));
    let node = w.cluster.node("NA1");
    let status = w.cluster.stop(node, LIMIT).expect("it ends");
    assert!(status.success());
    let log = fs::read_to_string(&w.cluster.nodes[node].log).expect("a log");
    let said = "2 updates wait in this node's journal";
    assert!(log.contains(said), "{log}");
    server.restart().expect("the server");
    w.start(&["NA1"]);
    w.wait("they have run", || {
        w.notes("NA", "") == 3 && entries(&w, "NA1") == 0
    });
    w.wait_acked("NA1", "EU");
    assert_eq!(w.notes("EU", ""), 3);
}

#[test]
fn a_full_journal_refuses_with_a_typed_error_and_goes_on_when_it_has_room() {
    let mut server = Cluster::start().expect("a server");
    let mut w = World::plan(&world(&server, "[limits]\nmax_journal = \"1MiB\"\n"));
    w.start(&["NA1", "EU1"]);
    w.submit("NA1", &[note(0)]);
    server.stop();
    let large = |n: u64| note(format!("{n} {}", "x".repeat(100_000)));
    let mut spooled = 0;
    let refused = loop {
        let (status, answer) = w.post("NA1", &large(spooled));
        if status != 202 {
            break (status, answer);
        }
        spooled += 1;
        assert!(spooled < 100);
    };
    assert_eq!(
        (refused.0, &refused.1["error"]["code"]),
        (503, &json!("journal"))
    );
    assert!((5..=10).contains(&spooled), "{spooled}");
    let alarm = w.alarm("NA1", "journal-full").expect("an alarm");
    assert!(alarm.remedy.contains("max_journal"), "{alarm:?}");
    let node = w.cluster.node("NA1");
    w.wait("not ready", || {
        w.cluster.get(node, "/readyz").expect("an answer").0 == 503
    });
    server.restart().expect("the server");
    w.wait("ready", || {
        w.cluster.get(node, "/readyz").expect("an answer").0 == 200
    });
    w.wait("the journal is empty", || entries(&w, "NA1") == 0);
    assert!(w.alarm("NA1", "journal-full").is_none());
    w.submit("NA1", &[note(1)]);
    w.wait_acked("NA1", "EU");
    assert_eq!(
        w.notes("EU", ""),
        i64::try_from(spooled).expect("small") + 2
    );
}

#[test]
fn what_cannot_run_when_the_database_is_back_is_a_dead_letter_and_the_rest_runs() {
    let mut server = Cluster::start().expect("a server");
    let mut w = World::plan(&world(&server, ""));
    w.start(&["EU1"]);
    server.stop();
    // A statement that no database has, because it was never migrated, and that is gone again.
    let text = fs::read_to_string(&w.cluster.config).expect("prism.toml");
    let more = format!(
        "{text}\n[[statement]]\nname = \"gone\"\nparams = [\"text\"]\nkind = \"insert\"\n\
         sql = \"INSERT INTO notes (id) VALUES ('gone ' || $1)\"\n"
    );
    fs::write(&w.cluster.config, more).expect("written");
    // A node that has never seen its database takes updates too.
    let node = w.cluster.node("NA1");
    w.cluster.start(node).expect("a node starts");
    w.wait("ready", || {
        w.cluster
            .get(node, "/readyz")
            .is_ok_and(|(status, _)| status == 200)
    });
    spool(&w, "NA1", &note("before"));
    let gone = spool(&w, "NA1", &json!({"statement": "gone", "params": ["x"]}));
    let refused = json!({"statement": "new_user", "params": ["steve"]});
    let refused = spool(&w, "NA1", &refused);
    spool(&w, "NA1", &note("after"));
    w.kill("NA1");
    fs::write(&w.cluster.config, text).expect("written");
    server.restart().expect("the server");
    w.start(&["NA1"]);
    w.wait("the journal is empty", || entries(&w, "NA1") == 0);
    w.wait_acked("NA1", "EU");
    assert_eq!(order(&w, "NA"), ["before", "after"]);
    assert_eq!(order(&w, "EU"), ["before", "after"]);
    w.wait("the alarm", || w.alarm("NA1", "rejected").is_some());
    assert_eq!(w.status("NA1").rejected, 2);
    for id in [gone, refused] {
        let (status, outcome, body) = w.found("NA1", &id);
        assert_eq!((status, outcome.as_str()), (200, "refused"), "{body}");
    }
}

/// Reading works, so nothing else would notice; every update goes to the journal.
#[test]
fn a_database_that_answers_and_takes_no_writes_is_an_alarm() {
    let server = Cluster::start().expect("a server");
    let mut w = World::plan(&world(&server, ""));
    w.start(&["NA1"]);
    w.submit("NA1", &[note(0)]);
    w.sql("NA")
        .batch_execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'No space left on device';
             END $$;
             CREATE TRIGGER full_disk BEFORE INSERT ON notes EXECUTE FUNCTION full_disk()",
        )
        .expect("a trigger");
    spool(&w, "NA1", &note(1));
    w.wait("the alarm", || w.alarm("NA1", "journal-stuck").is_some());
    let alarm = w.alarm("NA1", "journal-stuck").expect("it stands");
    assert!(alarm.detail.contains("No space left"), "{alarm:?}");
    w.sql("NA")
        .batch_execute("DROP TRIGGER full_disk ON notes")
        .expect("room");
    w.wait("the journal is empty", || entries(&w, "NA1") == 0);
    w.wait("no alarm", || w.alarm("NA1", "journal-stuck").is_none());
    assert_eq!(order(&w, "NA"), ["0", "1"]);
}

#[test]
fn damage_in_the_journal_is_an_alarm_and_the_rest_runs() {
    let mut server = Cluster::start().expect("a server");
    let mut w = World::plan(&world(&server, ""));
    w.start(&["NA1", "EU1"]);
    w.submit("NA1", &[note("start")]);
    w.wait_acked("NA1", "EU");
    server.stop();
    for n in 0..10 {
        spool(&w, "NA1", &note(format!("kept {n}")));
    }
    w.kill("NA1");
    let dir = w.cluster.config.parent().expect("a directory");
    let dir = dir.join("NA1/journal");
    let segment = fs::read_dir(&dir)
        .expect("a journal")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|e| e == "seg"))
        .expect("a segment");
    let mut bytes = fs::read(&segment).expect("a segment");
    let at = bytes
        .windows(6)
        .position(|w| w == b"kept 4")
        .expect("the entry");
    bytes[at] ^= 1;
    fs::write(&segment, bytes).expect("written");
    w.start(&["NA1"]);
    let alarm = w.alarm("NA1", "journal-damaged").expect("an alarm");
    assert!(
        alarm.detail.contains("acknowledged entries lost: 5"),
        "{alarm:?}"
    );
    assert!(alarm.detail.contains("quarantine"), "{alarm:?}");
    server.restart().expect("the server");
    w.wait("the journal is empty", || entries(&w, "NA1") == 0);
    w.wait_acked("NA1", "EU");
    assert_eq!((w.notes("NA", "kept"), w.notes("EU", "kept")), (9, 9));
    assert_eq!(w.notes("EU", "kept 4"), 0);
}

#[test]
fn a_server_that_is_stopped_in_the_middle_of_submits_loses_and_doubles_nothing() {
    let mut server = Cluster::start().expect("a server");
    let mut w = World::plan(&world(&server, ""));
    w.start(&["NA1", "EU1"]);
    let (http, address) = (w.cluster.http(), w.cluster.nodes[0].http);
    let url = format!("http://{address}/v1/updates");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (http, url, stop) = (http.clone(), url.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut taken = Vec::new();
                for n in 0.. {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("{client} {n}");
                    let answer = http.post(&url).send_json(note(&name)).expect("an answer");
                    // A fault in the server's last moments is 503 outcome_unknown at worst.
                    match answer.status().as_u16() {
                        200 | 202 => taken.push(name),
                        status => panic!("status {status}"),
                    }
                }
                taken
            })
        })
        .collect();
    for _ in 0..3 {
        let before = w.status("NA1").next_seq;
        w.wait("some are committed", || {
            w.status("NA1").next_seq > before + 50
        });
        server.kill9();
        let before = entries(&w, "NA1");
        w.wait("some are spooled", || entries(&w, "NA1") > before + 50);
        server.restart().expect("the server");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut taken: Vec<Vec<String>> = Vec::new();
    for client in clients {
        taken.push(client.join().expect("no panic"));
    }
    w.wait("the journal is empty", || entries(&w, "NA1") == 0);
    w.wait_acked("NA1", "EU");
    for region in ["NA", "EU"] {
        for (client, taken) in taken.iter().enumerate() {
            let prefix = format!("{client} ");
            let mine = order(&w, region)
                .into_iter()
                .filter(|id| id.starts_with(&prefix));
            assert_eq!(&mine.collect::<Vec<_>>(), taken, "{region}");
        }
    }
}
