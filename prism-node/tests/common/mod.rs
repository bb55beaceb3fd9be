//! A real cluster for the tests: real PostgreSQL, real node processes, the demo's relay between
//! them. The statements are non-idempotent on purpose; the checks are plain SQL.
#![allow(dead_code)] // Every test file uses another part of it.

pub mod files;

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::{Client, NoTls};
use prism_db::throwaway::{Cluster, ClusterOptions};
use prism_node::demo::cluster::{LocalCluster, RegionSpec, Spec, wait_for};
use prism_node::status::{Alarm, Inlet, Lane, Status};
use serde_json::{Value, json};

/// The program under test.
pub const PRISM: &str = env!("CARGO_BIN_EXE_prism");
/// Far more than anything takes: a slow machine is not a failure.
pub const LIMIT: Duration = Duration::from_secs(60);

const STATEMENTS: &str = r#"
[[statement]]
name = "add_kills"
sql = "UPDATE users SET kills = kills + $2 WHERE username = $1"
params = ["text", "int"]
kind = "delta"

[[statement]]
name = "new_user"
sql = "INSERT INTO users (username, kills) VALUES ($1, 0)"
params = ["text"]
kind = "insert"

[[statement]]
name = "score"
sql = "UPDATE users SET kills = kills + $2 WHERE username = $1"
params = ["text", "int"]
kind = "delta"
key = "users/$1"
undo = "UPDATE users SET kills = kills - $2 WHERE username = $1"
on_reject = "undo"

[[statement]]
name = "undoable"
sql = "INSERT INTO notes (id) VALUES ($1)"
params = ["text"]
kind = "insert"
undo = "DELETE FROM notes WHERE id = $1"
on_reject = "undo"

[[statement]]
name = "note"
sql = "INSERT INTO notes (id) VALUES ($1)"
params = ["text"]
kind = "insert"
"#;

const TABLES: &str = "
    CREATE TABLE users (username text PRIMARY KEY, kills int NOT NULL);
    INSERT INTO users VALUES ('steve', 0), ('alex', 0);
    CREATE TABLE notes (id text NOT NULL);";

/// One server for all tests of a process. It ends with the process (see `throwaway`).
fn server() -> &'static Cluster {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    let options = ClusterOptions {
        // All clusters of a test binary at once, and each of their nodes has a dozen.
        max_connections: 500,
        ..ClusterOptions::default()
    };
    SERVER.get_or_init(|| Cluster::start_with(options).expect("a throwaway PostgreSQL server"))
}

/// A role that may log in and nothing else, with the password of the server's other roles.
fn create_login(server: &Cluster, role: &str) {
    let url = server.admin_url("postgres");
    let config: postgres::Config = url.parse().expect("a URL");
    let password = config.get_password().unwrap_or_default();
    let password = std::str::from_utf8(password).expect("text");
    let mut admin = Client::connect(&url, NoTls).expect("a connection");
    let exists = admin.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&role]);
    if exists.expect("a query").is_none() {
        admin
            .batch_execute(&format!(
                "CREATE ROLE {role} LOGIN PASSWORD '{password}';
                 -- The tests end its sessions.
                 GRANT {role} TO prism"
            ))
            .expect("a role");
    }
}

/// A cluster and its databases.
pub struct World {
    pub cluster: LocalCluster,
    urls: Vec<String>,
    names: Vec<String>,
    /// The role that the nodes log in with.
    pub role: String,
    _dir: tempfile::TempDir,
}

/// How a world is made.
#[derive(Default)]
pub struct Plan<'a> {
    /// Regions and their number of nodes.
    pub regions: &'a [(&'a str, usize)],
    /// Further text for `prism.toml`.
    pub toml: &'a str,
    /// A region whose database is on a server of its own, which the test stops.
    pub own_server: Option<(&'a str, &'a Cluster)>,
    /// A region whose database other regions cannot reach.
    pub no_direct: Option<&'a str>,
    /// Nodes log in as the owner of the database (`prism adopt` has to); else as a role that
    /// `prism migrate --role` has given what nodes need, and nothing more.
    pub owner: bool,
}

impl World {
    /// Databases with their schema; no node runs yet.
    pub fn new(regions: &[(&str, usize)]) -> Self {
        Self::plan(&Plan {
            regions,
            ..Plan::default()
        })
    }

    pub fn plan(plan: &Plan<'_>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new()
            .prefix("prism-test-")
            .tempdir()
            .expect("a directory");
        let role = format!("node_{id}");
        let mut urls = Vec::new();
        let mut specs = Vec::new();
        for (name, nodes) in plan.regions {
            let server = match plan.own_server {
                Some((region, server)) if region == *name => server,
                _ => server(),
            };
            let database = format!("{}_{id}", name.to_lowercase());
            server.create_database(&database).expect("a database");
            let url = server.url(&database);
            if !plan.owner {
                create_login(server, &role);
            }
            let mut client = Client::connect(&url, NoTls).expect("a connection");
            client.batch_execute(TABLES).expect("the tables");
            specs.push(RegionSpec {
                name: (*name).to_owned(),
                nodes: *nodes,
                database: url.clone(),
                direct: (plan.no_direct == Some(*name))
                    .then(|| "postgres://prism@127.0.0.1:1/nowhere".to_owned()),
            });
            urls.push(url);
        }
        let spec = Spec {
            regions: specs,
            toml: format!("{}\n{STATEMENTS}", plan.toml),
            seed: 7,
            sealed: true,
        };
        let cluster = LocalCluster::new(Path::new(PRISM), dir.path(), &spec).expect("a cluster");
        if plan.owner {
            cluster.prism(&["migrate"]).expect("migrate");
        } else {
            let made = cluster.prism(&["migrate", "--role", &role]);
            made.expect("migrate");
            let toml = std::fs::read_to_string(&cluster.config).expect("prism.toml");
            let toml = toml.replace("postgres://prism:", &format!("postgres://{role}:"));
            std::fs::write(&cluster.config, toml).expect("prism.toml");
        }
        Self {
            cluster,
            urls,
            names: plan
                .regions
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .collect(),
            role: if plan.owner { "prism".into() } else { role },
            _dir: dir,
        }
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

    /// Plain SQL on a region's database.
    pub fn sql(&self, region: &str) -> Client {
        let i = self
            .names
            .iter()
            .position(|n| n == region)
            .expect("a region");
        Client::connect(&self.urls[i], NoTls).expect("a connection")
    }

    /// Kills of a user in a region's database; -1 if the user is not there.
    pub fn kills(&self, region: &str, user: &str) -> i32 {
        let row = self
            .sql(region)
            .query_opt("SELECT kills FROM users WHERE username = $1", &[&user])
            .expect("a query");
        row.map_or(-1, |row| row.get(0))
    }

    /// How often the notes that begin so are there.
    pub fn notes(&self, region: &str, prefix: &str) -> i64 {
        let like = format!("{prefix}%");
        self.sql(region)
            .query_one("SELECT count(*) FROM notes WHERE id LIKE $1", &[&like])
            .expect("a query")
            .get(0)
    }

    /// Submits; every update must be committed.
    pub fn submit(&self, node: &str, updates: &[Value]) {
        let node = self.cluster.node(node);
        let answers = self.cluster.submit(node, updates).expect("an answer");
        for answer in answers {
            assert_eq!(answer.outcome.as_deref(), Some("committed"), "{answer:?}");
        }
    }

    /// `n` kills for steve, one update each, in one request.
    pub fn submit_kills(&self, node: &str, n: usize) {
        self.submit(node, &vec![kill("steve"); n]);
    }

    pub fn status(&self, node: &str) -> Status {
        let node = self.cluster.node(node);
        self.cluster.status(node).expect("a status")
    }

    pub fn lane(&self, node: &str, peer: &str) -> Lane {
        let status = self.status(node);
        let lane = status.lanes.into_iter().find(|l| l.region == peer);
        lane.expect("a lane per peer")
    }

    pub fn inlet(&self, node: &str, stream: &str) -> Inlet {
        let status = self.status(node);
        let inlet = status.inlets.into_iter().find(|i| i.region == stream);
        inlet.expect("an inlet per peer")
    }

    pub fn alarm(&self, node: &str, name: &str) -> Option<Alarm> {
        let status = self.status(node);
        status.alarms.into_iter().find(|a| a.name == name)
    }

    /// Cuts or heals both directions between two nodes.
    pub fn link(&self, a: &str, b: &str, link: prism_node::demo::relay::Link) {
        let (a, b) = (self.cluster.node(a), self.cluster.node(b));
        self.cluster.relay.set(a, b, link);
        self.cluster.relay.set(b, a, link);
    }

    /// Waits until everything that `node`'s region has committed is acknowledged by `peer`.
    pub fn wait_acked(&self, node: &str, peer: &str) {
        self.wait(&format!("{node}'s lane to {peer} is empty"), || {
            let lane = self.lane(node, peer);
            lane.tail > 0 && lane.acked == lane.tail
        });
    }

    /// Waits for a condition; on failure shows what the nodes have said.
    pub fn wait(&self, what: &str, done: impl FnMut() -> bool) {
        if wait_for(LIMIT, done).is_err() {
            panic!("not within {LIMIT:?}: {what}");
        }
    }
}

impl Drop for World {
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

/// Kills for a user, awaited.
pub fn awaited(user: &str, kills: i64) -> Value {
    json!({"statement": "score", "params": [user, kills], "mode": "await"})
}

impl World {
    /// The same as [`World::post`], in a thread.
    pub fn post_aside(&self, node: &str, body: Value) -> JoinHandle<(u16, Value)> {
        let (http, url) = (self.cluster.http(), self.updates_url(node));
        std::thread::spawn(move || post(&http, &url, &body))
    }

    /// Status and body of `POST /v1/updates`.
    pub fn post(&self, node: &str, body: &Value) -> (u16, Value) {
        post(&self.cluster.http(), &self.updates_url(node), body)
    }

    /// Where a node takes updates.
    pub fn updates_url(&self, node: &str) -> String {
        let node = &self.cluster.nodes[self.cluster.node(node)];
        format!("http://{}/v1/updates", node.http)
    }

    /// `GET /v1/updates/{id}`: status, outcome and the whole body.
    pub fn found(&self, node: &str, id: &str) -> (u16, String, Value) {
        let path = format!("/v1/updates/{id}");
        let answer = self.cluster.get(self.cluster.node(node), &path);
        let (status, body) = answer.expect("an answer");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        let outcome = body["outcome"].as_str().unwrap_or_default().to_owned();
        (status, outcome, body)
    }
}

/// Status and body of a POST; for threads of their own.
pub fn post(http: &ureq::Agent, url: &str, body: &Value) -> (u16, Value) {
    let mut answer = http.post(url).send_json(body).expect("an answer");
    let status = answer.status().as_u16();
    let text = answer.body_mut().read_to_string().expect("a body");
    (status, serde_json::from_str(&text).expect("JSON"))
}

/// One kill for a user.
pub fn kill(user: &str) -> Value {
    json!({"statement": "add_kills", "params": [user, 1]})
}
