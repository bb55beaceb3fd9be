//! What operators and strangers do to a node: it says what is wrong, and lives on.

mod common;

use std::net::UdpSocket;
use std::process::Command;

use common::{PRISM, Plan, World, kill};

/// Starts a node that must refuse to run; what it said.
fn refused(w: &World, node: &str, data_dir: &std::path::Path) -> String {
    let output = Command::new(PRISM)
        .args(["node", "--node", node, "--config"])
        .arg(&w.cluster.config)
        .arg("--data-dir")
        .arg(data_dir)
        .output()
        .expect("prism runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A data directory of its own for a node, with the node's key.
fn other_data_dir(w: &World, node: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let key = w.cluster.nodes[w.cluster.node(node)].data.join("node.key");
    std::fs::copy(key, dir.path().join("node.key")).expect("the key");
    dir
}

#[test]
fn a_missing_table_or_grant_parks_the_stream_rejects_nothing_and_goes_on_after_the_fix() {
    let mut w = World::new(&[("NA", 1), ("EU", 1), ("AS", 1)]);
    w.start(&["NA1", "EU1", "AS1"]);
    let role = &w.role;
    let breaks = [
        (
            "ALTER TABLE users RENAME TO away".to_owned(),
            "ALTER TABLE away RENAME TO users".to_owned(),
        ),
        (
            format!("REVOKE UPDATE ON users FROM {role}"),
            format!("GRANT UPDATE ON users TO {role}"),
        ),
    ];
    for (round, (slip, fix)) in (1..).zip(&breaks) {
        w.sql("EU").batch_execute(slip).expect("the slip");
        w.submit_kills("NA1", 3);
        w.wait(slip, || w.alarm("EU1", "stream-parked").is_some());
        let alarm = w.alarm("EU1", "stream-parked").expect("an alarm");
        assert!(alarm.detail.contains("users"), "{alarm:?}");
        assert!(!alarm.remedy.is_empty(), "{alarm:?}");
        // AS is not concerned, and NA does not stop.
        w.wait_acked("NA1", "AS");
        assert_eq!(w.kills("AS", "steve"), 3 * round);
        w.sql("EU").batch_execute(fix).expect("the fix");
        w.wait_acked("NA1", "EU");
        assert_eq!(w.kills("EU", "steve"), 3 * round);
        w.wait("the alarm is cleared", || {
            w.alarm("EU1", "stream-parked").is_none()
        });
        assert_eq!(w.status("EU1").rejected, 0);
    }
}

#[test]
fn a_refused_update_becomes_a_dead_letter_and_the_stream_goes_on() {
    let mut w = World::new(&[("NA", 1), ("EU", 1)]);
    w.start(&["NA1", "EU1"]);
    // EU's own data refuse what NA's accept.
    let constraint = "ALTER TABLE users ADD CHECK (username <> 'alex' OR kills = 0)";
    w.sql("EU").batch_execute(constraint).expect("a constraint");
    w.submit("NA1", &[kill("steve"), kill("alex"), kill("steve")]);
    w.wait_acked("NA1", "EU");
    assert_eq!((w.kills("EU", "steve"), w.kills("EU", "alex")), (2, 0));
    w.wait("the dead letter is counted", || {
        w.status("EU1").rejected == 1
    });
    w.wait("and an alarm", || w.alarm("EU1", "rejected").is_some());
}

#[test]
fn garbage_datagrams_change_nothing() {
    let mut w = World::new(&[("NA", 1), ("EU", 1)]);
    w.start(&["NA1", "EU1"]);
    w.submit_kills("NA1", 1);
    w.wait_acked("NA1", "EU");
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let target = w.cluster.nodes[w.cluster.node("EU1")].udp;
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    for i in 0..3_000_usize {
        let mut bytes = vec![0; (i * 7) % 1_400];
        for byte in &mut bytes {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            *byte = noise as u8;
        }
        // A plausible beginning leads further in.
        if let Some(first) = bytes.first_mut() {
            *first = (i % 8) as u8;
        }
        let _ = stranger.send_to(&bytes, target);
    }
    w.submit_kills("NA1", 5);
    w.wait_acked("NA1", "EU");
    assert_eq!(w.kills("EU", "steve"), 6);
    let (_, metrics) = w
        .cluster
        .get(w.cluster.node("EU1"), "/metrics")
        .expect("metrics");
    let dropped: u64 = (metrics.lines())
        .filter_map(|l| l.strip_prefix("prism_datagrams_dropped_total{"))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    assert!(dropped > 0, "{metrics}");
    assert_eq!(w.lane("NA1", "EU").failovers, 0);
}

#[test]
fn a_port_in_use_is_named() {
    let w = World::new(&[("NA", 1), ("EU", 1)]);
    let dir = other_data_dir(&w, "NA1");
    let udp = w.cluster.nodes[0].udp;
    let taken = UdpSocket::bind(udp).expect("the port");
    let words = refused(&w, "NA1", dir.path());
    assert!(
        words.contains(&udp.to_string()) && words.contains("in use"),
        "{words}"
    );
    drop(taken);
    let http = w.cluster.nodes[0].http;
    let _taken = std::net::TcpListener::bind(http).expect("the port");
    let words = refused(&w, "NA1", dir.path());
    assert!(words.contains(&http.to_string()), "{words}");
}

#[test]
fn a_second_node_with_the_same_name_does_not_start_and_the_first_lives_on() {
    let mut w = World::new(&[("NA", 1), ("EU", 1)]);
    w.start(&["NA1", "EU1"]);
    let own = w.cluster.config.with_file_name("NA1");
    let words = refused(&w, "NA1", &own);
    assert!(
        words.contains("is in use") && words.contains("NA1"),
        "{words}"
    );
    let other = other_data_dir(&w, "NA1");
    let words = refused(&w, "NA1", other.path());
    assert!(words.contains("another node with this name"), "{words}");
    w.submit_kills("NA1", 1);
    w.wait_acked("NA1", "EU");
    assert_eq!(w.kills("EU", "steve"), 1);
}

#[test]
fn a_node_waits_for_its_schema_and_refuses_another_regions_database() {
    let mut w = World::plan(&Plan {
        regions: &[("NA", 1), ("EU", 1)],
        owner: true,
        ..Plan::default()
    });
    w.sql("NA")
        .batch_execute("DROP SCHEMA prism CASCADE")
        .expect("no schema");
    let na1 = w.cluster.node("NA1");
    w.cluster.start(na1).expect("it starts");
    w.wait("NA1 says what is missing", || {
        let answer = w.cluster.get(na1, "/readyz");
        answer.is_ok_and(|(code, why)| code == 503 && why.contains("prism migrate"))
    });
    assert!(w.alarm("NA1", "database").is_some());
    let answers = w.cluster.submit(na1, &[kill("steve")]).expect("an answer");
    assert!(answers[0].error.is_some(), "{answers:?}");
    w.cluster.prism(&["migrate"]).expect("migrate");
    w.cluster.wait_ready(na1).expect("ready");
    w.start(&["EU1"]);
    w.submit_kills("NA1", 1);
    w.wait_acked("NA1", "EU");
    assert_eq!((w.kills("NA", "steve"), w.kills("EU", "steve")), (1, 1));

    // The two databases' addresses are swapped.
    w.kill("NA1");
    w.kill("EU1");
    let text = std::fs::read_to_string(&w.cluster.config).expect("prism.toml");
    let text = text
        .replace("/na_", "/xx_")
        .replace("/eu_", "/na_")
        .replace("/xx_", "/eu_");
    std::fs::write(&w.cluster.config, text).expect("prism.toml");
    let dir = other_data_dir(&w, "NA1");
    let words = refused(&w, "NA1", dir.path());
    assert!(
        words.contains("belongs to") && words.contains("EU"),
        "{words}"
    );
}

#[test]
fn an_update_that_is_too_large_is_refused_before_anything_is_written() {
    let mut w = World::plan(&Plan {
        regions: &[("NA", 1), ("EU", 1)],
        toml: "[limits]\nmax_update = \"8KiB\"",
        ..Plan::default()
    });
    w.start(&["NA1", "EU1"]);
    let note = |len| serde_json::json!({"statement": "note", "params": ["x".repeat(len)]});
    let na1 = w.cluster.node("NA1");
    let answers = w
        .cluster
        .submit(na1, &[note(7_000), note(9_000)])
        .expect("an answer");
    assert_eq!(answers[0].outcome.as_deref(), Some("committed"));
    let error = answers[1]
        .error
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    assert!(error.contains("max_update"), "{error}");
    // Larger than a datagram: in fragments.
    w.wait_acked("NA1", "EU");
    assert_eq!((w.notes("NA", "x"), w.notes("EU", "x")), (1, 1));
}

#[test]
fn a_refused_update_is_undone_in_every_region_that_applied_it() {
    let mut w = World::plan(&Plan {
        regions: &[("NA", 2), ("EU", 1), ("AS", 1)],
        toml: r#"[[statement]]
name = "kill"
sql = "UPDATE users SET kills = kills + $2 WHERE username = $1"
params = ["text", "int"]
kind = "delta"
undo = "UPDATE users SET kills = kills - $2 WHERE username = $1"
on_reject = "undo""#,
        ..Plan::default()
    });
    let constraint = "ALTER TABLE users ADD CHECK (username <> 'alex' OR kills = 0)";
    w.sql("EU").batch_execute(constraint).expect("a constraint");
    w.start(&["NA1", "NA2", "EU1", "AS1"]);
    let one = |user: &str| serde_json::json!({"statement": "kill", "params": [user, 1]});
    w.submit(
        "NA1",
        &[one("steve"), one("alex"), one("steve"), one("alex")],
    );
    w.wait("both are undone", || {
        let row = w
            .sql("NA")
            .query_one("SELECT next_seq FROM prism.region", &[]);
        row.expect("a row").get::<_, i64>(0) == 7
    });
    w.wait_acked("NA1", "EU");
    w.wait_acked("NA1", "AS");
    for region in ["NA", "EU", "AS"] {
        let kills = (w.kills(region, "steve"), w.kills(region, "alex"));
        assert_eq!(kills, (2, 0), "{region}");
    }
    w.wait("no alarm stands", || {
        let nodes = ["NA1", "NA2", "EU1", "AS1"];
        nodes.iter().all(|node| w.status(node).alarms.is_empty())
    });
}
