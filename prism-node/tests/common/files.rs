//! A cluster on SQLite files: real node processes, the relay between them, plain SQL to look.

use std::path::Path;
use std::time::Duration;

use prism_node::demo::cluster::{LocalCluster, RegionSpec, Spec, wait_for};
use prism_node::demo::relay::Link;
use prism_node::status::{Alarm, Lane, Status};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{LIMIT, PRISM};

const STATEMENTS: &str = r#"
[[statement]]
name = "add_kills"
sql = "UPDATE users SET kills = kills + $2 WHERE username = $1"
params = ["text", "int"]
kind = "delta"
undo = "UPDATE users SET kills = kills - $2 WHERE username = $1"
on_reject = "undo"

[[statement]]
name = "rename"
sql = "UPDATE users SET name = $2 WHERE username = $1"
params = ["text", "text"]
kind = "absolute"
key = "users/$1"
old = "SELECT name FROM users WHERE username = $1"
undo = "UPDATE users SET name = $old1 WHERE username = $1 AND name = $2"
on_reject = "undo"

[[statement]]
name = "note"
sql = "INSERT INTO notes (id) VALUES ($1)"
params = ["text"]
kind = "insert"
"#;

const TABLES: &str = "
    CREATE TABLE users (username TEXT PRIMARY KEY, kills INT NOT NULL, name TEXT);
    INSERT INTO users VALUES ('steve', 0, 'Steve'), ('alex', 0, 'Alex');
    CREATE TABLE notes (id TEXT NOT NULL);";

/// See the module.
pub struct Files {
    pub cluster: LocalCluster,
    dir: tempfile::TempDir,
}

impl Files {
    /// Databases with their schema; no node runs yet.
    pub fn new(regions: &[(&str, usize)], toml: &str) -> Self {
        Self::plan(regions, toml, None)
    }

    /// The same; other regions cannot reach the database of `no_direct`.
    pub fn plan(regions: &[(&str, usize)], toml: &str, no_direct: Option<&str>) -> Self {
        Self::make(regions, toml, no_direct, true)
    }

    /// The same without any keys.
    pub fn keyless(regions: &[(&str, usize)]) -> Self {
        Self::make(regions, "", None, false)
    }

    fn make(regions: &[(&str, usize)], toml: &str, no_direct: Option<&str>, sealed: bool) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("prism-test-")
            .tempdir()
            .expect("a directory");
        let mut specs = Vec::new();
        for (name, nodes) in regions {
            let path = file(dir.path(), name);
            let db = Connection::open(&path).expect("a file");
            db.execute_batch(TABLES).expect("the tables");
            specs.push(RegionSpec {
                name: (*name).to_owned(),
                nodes: *nodes,
                database: format!("sqlite:{}", path.display()),
                direct: (no_direct == Some(*name))
                    .then(|| format!("sqlite:{}", dir.path().join("nowhere/x.db").display())),
            });
        }
        let spec = Spec {
            regions: specs,
            toml: format!("{toml}\n{STATEMENTS}"),
            seed: 7,
            sealed,
        };
        let cluster = LocalCluster::new(Path::new(PRISM), dir.path(), &spec).expect("a cluster");
        cluster.prism(&["migrate"]).expect("migrate");
        Self { cluster, dir }
    }

    /// Starts these nodes and waits until they are ready.
    pub fn start(&mut self, nodes: &[&str]) {
        for name in nodes {
            let node = self.cluster.node(name);
            self.cluster.start(node).expect("a node starts");
        }
        for name in nodes {
            let node = self.cluster.node(name);
            self.cluster.wait_ready(node).expect("a node gets ready");
        }
    }

    pub fn kill(&mut self, name: &str) {
        let node = self.cluster.node(name);
        self.cluster.kill(node);
    }

    /// Size of a region's database.
    pub fn bytes(&self, region: &str) -> u64 {
        let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        self.get(region, sql).parse().expect("a number")
    }

    /// A connection of one's own to a region's file.
    pub fn open(&self, region: &str) -> Connection {
        let db = Connection::open(file(self.dir.path(), region)).expect("opens");
        db.busy_timeout(Duration::from_secs(10)).expect("set");
        db
    }

    pub fn run(&self, region: &str, sql: &str) {
        self.open(region).execute_batch(sql).expect("runs");
    }

    /// The first column of the first row, as text.
    pub fn get(&self, region: &str, sql: &str) -> String {
        let value: rusqlite::types::Value = self
            .open(region)
            .query_row(sql, [], |row| row.get(0))
            .expect("a row");
        match value {
            rusqlite::types::Value::Integer(n) => n.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        }
    }

    /// Kills of a user in some regions.
    pub fn kills(&self, regions: &[&str], user: &str) -> Vec<String> {
        let sql = format!("SELECT kills FROM users WHERE username = '{user}'");
        regions.iter().map(|r| self.get(r, &sql)).collect()
    }

    /// The database refuses to set `column` of `user` to something.
    pub fn forbid(&self, region: &str, name: &str, condition: &str) {
        self.run(
            region,
            &format!(
                "CREATE TRIGGER {name} BEFORE UPDATE ON users WHEN {condition}
                 BEGIN SELECT RAISE(ABORT, 'forbidden here: {name}'); END"
            ),
        );
    }

    /// Every update must be committed.
    pub fn submit(&self, node: &str, updates: &[Value]) -> Vec<u64> {
        let node = self.cluster.node(node);
        let answers = self.cluster.submit(node, updates).expect("an answer");
        answers
            .into_iter()
            .map(|answer| {
                assert_eq!(answer.outcome.as_deref(), Some("committed"), "{answer:?}");
                answer.seq.expect("a number")
            })
            .collect()
    }

    pub fn status(&self, node: &str) -> Status {
        let node = self.cluster.node(node);
        self.cluster.status(node).expect("a status")
    }

    pub fn lane(&self, node: &str, peer: &str) -> Lane {
        let lanes = self.status(node).lanes;
        let lane = lanes.into_iter().find(|l| l.region == peer);
        lane.expect("a lane per peer")
    }

    pub fn alarm(&self, node: &str, name: &str) -> Option<Alarm> {
        let status = self.status(node);
        status.alarms.into_iter().find(|a| a.name == name)
    }

    /// A sample of `/metrics`, by its name with labels; 0 if it is not there.
    pub fn metric(&self, node: &str, name: &str) -> f64 {
        let node = self.cluster.node(node);
        let (_, text) = self.cluster.get(node, "/metrics").expect("metrics");
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }

    pub fn log(&self, node: &str) -> String {
        let node = self.cluster.node(node);
        std::fs::read_to_string(&self.cluster.nodes[node].log).unwrap_or_default()
    }

    /// The text of `prism.toml`.
    pub fn toml(&self) -> String {
        std::fs::read_to_string(&self.cluster.config).expect("prism.toml")
    }

    pub fn write_toml(&self, text: &str) {
        std::fs::write(&self.cluster.config, text).expect("written");
    }

    /// Where `prism.toml` and the data directories are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Both directions between two nodes.
    pub fn link(&self, a: &str, b: &str, link: Link) {
        self.one_way(a, b, link);
        self.one_way(b, a, link);
    }

    pub fn one_way(&self, from: &str, to: &str, link: Link) {
        let (from, to) = (self.cluster.node(from), self.cluster.node(to));
        self.cluster.relay.set(from, to, link);
    }

    pub fn wait_acked(&self, node: &str, peer: &str) {
        self.wait(&format!("{node}'s lane to {peer} is empty"), || {
            let lane = self.lane(node, peer);
            lane.tail > 0 && lane.acked == lane.tail
        });
    }

    /// Waits for a condition.
    pub fn wait(&self, what: &str, done: impl FnMut() -> bool) {
        assert!(
            wait_for(LIMIT, done).is_ok(),
            "not within {LIMIT:?}: {what}"
        );
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (i, node) in self.cluster.nodes.iter().enumerate() {
            let log = std::fs::read_to_string(&node.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            let status = self.cluster.get(i, "/v1/status").map(|(_, body)| body);
            eprintln!("---- {}\n{tail}\n{status:?}", node.name);
        }
    }
}

fn file(dir: &Path, region: &str) -> std::path::PathBuf {
    dir.join(format!("{}.db", region.to_lowercase()))
}

/// Kills for a user.
pub fn kills(user: &str, n: i64) -> Value {
    json!({"statement": "add_kills", "params": [user, n]})
}

pub fn rename(user: &str, name: &str) -> Value {
    json!({"statement": "rename", "params": [user, name]})
}

pub fn note(id: &str) -> Value {
    json!({"statement": "note", "params": [id]})
}
