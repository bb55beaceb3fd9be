//! Nodes in this process, on SQLite, when something is wrong with one of them.

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prism_db::{Topology, Value};
use prism_net::Protection;
use rusqlite::Connection;

use super::Runtime;
use super::threads::Whole;
use crate::config::Config;
use crate::intake::{Answer, Failure, Mode, NewUpdate};

const STATEMENTS: &str = r#"
[[statement]]
name = "bump"
params = ["int"]
kind = "delta"
sql = "UPDATE counters SET n = n + $1 WHERE id = 'a'"
[[statement]]
name = "note"
params = ["text"]
kind = "insert"
sql = "INSERT INTO notes VALUES ($1)"
undo = "DELETE FROM notes WHERE id = $1"
on_reject = "undo"
"#;

/// NA with two nodes, EU with one that does not run; migrated.
pub(super) fn cluster(dir: &Path) -> (Arc<Config>, PathBuf) {
    let mut text = String::from("cluster = \"test\"\n");
    // Held until all are known, so that no two are the same.
    let mut held = Vec::new();
    for (region, nodes) in [("NA", 2), ("EU", 1)] {
        let path = dir.join(format!("{region}.db"));
        let db = Connection::open(&path).expect("a file");
        db.execute_batch(
            "CREATE TABLE counters (id TEXT PRIMARY KEY, n INT); INSERT INTO counters VALUES ('a', 0);
             CREATE TABLE notes (id TEXT PRIMARY KEY)",
        )
        .expect("a table");
        text += &format!(
            "[[region]]\nname = \"{region}\"\ndatabase = \"sqlite:{}\"\n",
            path.display()
        );
        for n in 1..=nodes {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
            let http = TcpListener::bind("127.0.0.1:0").expect("a port");
            text += &format!(
                "[[region.node]]\nname = \"{region}{n}\"\nudp = \"{}\"\nhttp = \"{}\"\n",
                udp.local_addr().expect("bound"),
                http.local_addr().expect("bound")
            );
            held.push((udp, http));
        }
    }
    text += STATEMENTS;
    let config = Config::parse(&text, &dir.join("prism.toml")).expect("a configuration");
    let regions: Arc<[_]> = config
        .regions
        .iter()
        .map(|r| (r.name.clone(), r.key))
        .collect();
    for region in &config.regions {
        let topology = Topology {
            region: region.name.clone(),
            regions: Arc::clone(&regions),
        };
        prism_db::migrate(&region.database, &topology, &config.catalogue).expect("migrates");
    }
    (Arc::new(config), dir.join("NA.db"))
}

pub(super) fn start(config: &Arc<Config>, node: &str, dir: &Path) -> Runtime {
    let node = Runtime::start(Arc::clone(config), node, &dir.join(node), Protection::Open)
        .expect("starts");
    until("the node is ready", || node.board().ready().is_ok());
    node
}

pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(super) fn bump(node: &Runtime) -> Result<Vec<Answer>, Failure> {
    let update = NewUpdate {
        statement: "bump".to_owned(),
        params: vec![Value::Int(1)],
        request_id: uuid::Uuid::new_v4(),
        mode: Mode::Background,
        timeout: None,
    };
    node.intake().submit(vec![update])?.wait()
}

fn holder(node: &Runtime) -> Option<String> {
    node.board().status().lanes[0].holder.clone()
}

pub(super) fn alarm(node: &Runtime, name: &str) -> bool {
    node.board().status().alarms.iter().any(|a| a.name == name)
}

#[test]
fn a_node_that_has_lost_a_part_accepts_nothing_and_leaves_its_lanes_to_a_sibling() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, _) = cluster(dir.path());
    let first = start(&config, "NA1", dir.path());
    until("NA1 holds the lane", || {
        holder(&first).as_deref() == Some("NA1")
    });
    let second = start(&config, "NA2", dir.path());
    let whole = Whole {
        board: Arc::clone(&first.board),
        queue: Arc::clone(&first.queue),
    };
    assert_eq!(first.died(Duration::ZERO), None);
    whole.died("part", "a test said so");
    let why = first.died(Duration::from_secs(60)).expect("it says so");
    assert!(why.contains("part"), "{why}");
    assert!(alarm(&first, "worker-died"));
    until("NA2 holds the lane", || {
        holder(&second).as_deref() == Some("NA2")
    });
    // The database of the first node is all right, and stays so: it is not ready all the same.
    let why = first.board().ready().expect_err("not ready");
    assert!(why.contains("restart this node"), "{why}");
    assert_eq!(bump(&first), Err(Failure::Draining));
    assert!(matches!(
        bump(&second).as_deref(),
        Ok([Answer::Committed { .. }])
    ));
    let _ = first.drain(Duration::ZERO);
    let _ = second.drain(Duration::ZERO);
}

#[test]
fn a_database_that_goes_back_under_a_running_node_is_noticed_and_not_written_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, path) = cluster(dir.path());
    let node = start(&config, "NA1", dir.path());
    for _ in 0..3 {
        assert!(bump(&node).is_ok());
    }
    until("the node has seen its stream", || {
        node.board.lock().region.as_ref().map(|r| r.next_seq.0) == Some(4)
    });
    let db = put_back(&path);
    until("an alarm", || alarm(&node, "fork"));
    let why = node.board().ready().expect_err("not ready");
    assert!(
        why.contains("gone back") && why.contains("restart"),
        "{why}"
    );
    assert_eq!(bump(&node), Err(Failure::Draining));
    until("the lane is free", || {
        let holder = db.query_row("SELECT holder FROM prism_lane", [], |row| {
            row.get::<_, Option<String>>(0)
        });
        holder.expect("a row").is_none()
    });
    let _ = node.drain(Duration::ZERO);
    // Started anew it goes on from what is there.
    let node = start(&config, "NA1", dir.path());
    assert_eq!(
        bump(&node),
        Ok(vec![Answer::Committed {
            seq: prism_proto::Seq(2)
        }])
    );
    let _ = node.drain(Duration::ZERO);
}

/// As a restored backup, or a standby that lacked all but the first commit. A new update takes the
/// second number again.
fn put_back(path: &Path) -> Connection {
    let db = Connection::open(path).expect("opens");
    db.busy_timeout(Duration::from_secs(10)).expect("set");
    db.execute_batch(
        "BEGIN IMMEDIATE;
         UPDATE prism_region SET next_seq = 2, last_tag = (SELECT tag FROM prism_outbox WHERE seq = 1);
         DELETE FROM prism_outbox WHERE seq > 1;
         COMMIT",
    )
    .expect("put back");
    db
}

#[test]
fn a_number_that_is_given_out_again_is_no_answer() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, path) = cluster(dir.path());
    let node = start(&config, "NA1", dir.path());
    for _ in 0..3 {
        assert!(bump(&node).is_ok());
    }
    let _db = put_back(&path);
    // Long before anybody looks at the database by himself.
    for _ in 0..3 {
        let answer = bump(&node);
        let not_ready = matches!(
            answer.as_deref(),
            Ok([Answer::Failed(Failure::NotReady(why))]) if why.contains("gone back")
        );
        assert!(not_ready || answer == Err(Failure::Draining), "{answer:?}");
    }
    assert!(alarm(&node, "fork"));
    let _ = node.drain(Duration::ZERO);
}

#[test]
fn a_lane_that_gets_no_further_by_direct_sql_is_an_alarm() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, _) = cluster(dir.path());
    let node = start(&config, "NA1", dir.path());
    let there = Connection::open(dir.path().join("EU.db")).expect("opens");
    there.execute_batch("BEGIN IMMEDIATE").expect("locks");
    assert!(bump(&node).is_ok());
    // No node of EU runs, and the one writer of its file does not come to an end.
    until("an alarm", || alarm(&node, "direct"));
    there.execute_batch("ROLLBACK").expect("ends");
    until("it arrives", || {
        there.query_row("SELECT n FROM counters", [], |row| row.get::<_, i64>(0)) == Ok(1)
    });
    until("the alarm ends", || !alarm(&node, "direct"));
    let _ = node.drain(Duration::ZERO);
}

/// The same cluster; NA1 elsewhere, as a copy of it on another machine would be.
fn elsewhere(config: &Config) -> Arc<Config> {
    let mut config = config.clone();
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    config.nodes[0].udp = udp.local_addr().expect("bound");
    config.nodes[0].bind_udp = config.nodes[0].udp;
    Arc::new(config)
}

#[test]
fn the_older_of_two_processes_with_one_name_steps_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, path) = cluster(dir.path());
    let first = start(&config, "NA1", dir.path());
    until("NA1 holds the lane", || {
        holder(&first).as_deref() == Some("NA1")
    });
    // Its data directory was copied, with its journal.
    let copy = dir.path().join("copy");
    std::fs::create_dir_all(copy.join("NA1/journal")).expect("made");
    let identity = |dir: &Path| dir.join("NA1/journal/identity");
    std::fs::copy(identity(dir.path()), identity(&copy)).expect("copied");
    let second = start(&elsewhere(&config), "NA1", &copy);
    until("the first one notices", || alarm(&first, "identity"));
    assert_eq!(bump(&first), Err(Failure::Draining));
    assert!(first.board().ready().is_err());
    // The name, and with it the lane, is the second one's: the first has not taken it along.
    let db = Connection::open(path).expect("opens");
    let _ = first.drain(Duration::ZERO);
    let lease = "SELECT holder FROM prism_lane WHERE peer = 'EU'";
    let holder: Option<String> = db.query_row(lease, [], |row| row.get(0)).expect("a row");
    assert_eq!(holder.as_deref(), Some("NA1"));
    assert!(matches!(
        bump(&second).as_deref(),
        Ok([Answer::Committed { .. }])
    ));
    assert!(!alarm(&second, "identity") && !alarm(&second, "journal-replaced"));
    let _ = second.drain(Duration::ZERO);
}

#[test]
fn a_journal_that_was_wiped_is_an_alarm() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, _) = cluster(dir.path());
    let journal = dir.path().join("NA1/journal");
    for (wiped, expected) in [(false, false), (false, false), (true, true), (false, false)] {
        if wiped {
            std::fs::remove_dir_all(&journal).expect("removed");
        }
        let node = start(&config, "NA1", dir.path());
        until("it holds the lane", || {
            holder(&node).as_deref() == Some("NA1")
        });
        assert_eq!(alarm(&node, "journal-replaced"), expected);
        let _ = node.drain(Duration::ZERO);
    }
}
