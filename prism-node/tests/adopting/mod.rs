//! A cluster whose regions' databases come and go, and writers that do not stop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::NoTls;
use prism_db::throwaway::Cluster;
use prism_node::demo::cluster::{LocalCluster, RegionSpec, Spec, submit, wait_for};
use prism_node::status::{Alarm, Lane, Status};
use serde_json::json;

const PRISM: &str = env!("CARGO_BIN_EXE_prism");
const LIMIT: Duration = Duration::from_secs(90);

/// Where the regions end in prism.toml.
const END: &str = "# end of the regions";

const STATEMENTS: &str = r#"
[[statement]]
name = "count"
sql = "UPDATE counters SET n = n + $2 WHERE id = $1"
params = ["text", "int"]
kind = "delta"

[[statement]]
name = "note"
sql = "INSERT INTO notes (id) VALUES ($1)"
params = ["text"]
kind = "insert"
"#;

const TABLES: &str = "
    CREATE TABLE counters (id text PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO counters VALUES ('all', 0);
    CREATE TABLE notes (id text NOT NULL);";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Postgres,
    Sqlite,
}

fn server() -> &'static Cluster {
    static SERVER: OnceLock<Cluster> = OnceLock::new();
    SERVER.get_or_init(|| Cluster::start().expect("a throwaway PostgreSQL server"))
}

enum Db {
    Postgres(String),
    Sqlite(PathBuf),
}

/// How often each note is there, and the counter.
type Content = (BTreeMap<String, i64>, i64);

impl Db {
    fn url(&self) -> String {
        match self {
            Self::Postgres(name) => server().url(name),
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
        }
    }

    fn execute(&self, sql: &str) {
        match self {
            Self::Postgres(name) => postgres::Client::connect(&server().url(name), NoTls)
                .expect("a connection")
                .batch_execute(sql)
                .expect("SQL"),
            Self::Sqlite(path) => {
                let db = rusqlite::Connection::open(path).expect("a file");
                db.busy_timeout(LIMIT).expect("a timeout");
                db.execute_batch(sql).expect("SQL");
            }
        }
    }

    fn content(&self) -> Content {
        const NOTES: &str = "SELECT id, count(*) FROM notes GROUP BY id";
        const COUNT: &str = "SELECT n FROM counters";
        match self {
            Self::Postgres(name) => {
                let mut db =
                    postgres::Client::connect(&server().url(name), NoTls).expect("connects");
                let notes = db.query(NOTES, &[]).expect("notes");
                let notes = notes.iter().map(|row| (row.get(0), row.get(1))).collect();
                (notes, db.query_one(COUNT, &[]).expect("a counter").get(0))
            }
            Self::Sqlite(path) => {
                let db = rusqlite::Connection::open(path).expect("a file");
                db.busy_timeout(LIMIT).expect("a timeout");
                let mut query = db.prepare(NOTES).expect("notes");
                let notes = query
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
                    .and_then(Iterator::collect)
                    .expect("notes");
                let count = db
                    .query_row(COUNT, [], |row| row.get(0))
                    .expect("a counter");
                (notes, count)
            }
        }
    }
}

fn admin(sql: &str) {
    let mut admin = server().admin("postgres").expect("the superuser");
    admin.batch_execute(sql).expect("SQL");
}

pub struct World {
    cluster: LocalCluster,
    names: Vec<String>,
    dbs: Vec<Db>,
    backup: PathBuf,
    full: String,
    _dir: tempfile::TempDir,
}

impl World {
    /// One node per region, migrated.
    pub fn plan(backend: Backend, regions: &[&str], toml: &str) -> Self {
        let world = Self::without_last(backend, regions, toml);
        world.configure_new();
        world.db(regions[regions.len() - 1]).execute(TABLES);
        world.cluster.prism(&["migrate"]).expect("migrate");
        world
    }

    /// The last region is not in the configuration yet, and its database is empty.
    pub fn without_last(backend: Backend, regions: &[&str], toml: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new()
            .prefix("prism-adopt-")
            .tempdir()
            .expect("a directory");
        let mut dbs = Vec::new();
        let mut specs = Vec::new();
        for (i, name) in regions.iter().enumerate() {
            let lower = name.to_lowercase();
            let db = match backend {
                Backend::Postgres => {
                    let database = format!("{lower}_{id}");
                    server().create_database(&database).expect("a database");
                    Db::Postgres(database)
                }
                Backend::Sqlite => Db::Sqlite(dir.path().join(format!("{lower}.db"))),
            };
            if i + 1 < regions.len() {
                db.execute(TABLES);
            }
            specs.push(RegionSpec {
                name: (*name).to_owned(),
                nodes: 1,
                database: db.url(),
                direct: None,
            });
            dbs.push(db);
        }
        let spec = Spec {
            regions: specs,
            toml: format!("{END}\n{toml}\n{STATEMENTS}"),
            seed: 7,
            sealed: true,
        };
        let cluster = LocalCluster::new(Path::new(PRISM), dir.path(), &spec).expect("a cluster");
        let full = std::fs::read_to_string(&cluster.config).expect("prism.toml");
        let last = full.rfind("[[region]]").expect("a region");
        let end = full.find(END).expect("the end");
        let without = format!("{}{}", &full[..last], &full[end..]);
        std::fs::write(&cluster.config, without).expect("prism.toml");
        cluster.prism(&["migrate"]).expect("migrate");
        Self {
            cluster,
            names: regions.iter().map(|name| (*name).to_owned()).collect(),
            dbs,
            backup: dir.path().join("backup"),
            full,
            _dir: dir,
        }
    }

    /// From now on the last region is in the configuration.
    pub fn configure_new(&self) {
        std::fs::write(&self.cluster.config, &self.full).expect("prism.toml");
    }

    fn db(&self, region: &str) -> &Db {
        let i = self.names.iter().position(|name| name == region);
        &self.dbs[i.expect("a region")]
    }

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

    pub fn stop(&mut self, name: &str) {
        let node = self.cluster.node(name);
        self.cluster.stop(node, LIMIT);
    }

    pub fn signal(&self, name: &str, signal: nix::sys::signal::Signal) {
        self.cluster.signal(self.cluster.node(name), signal);
    }

    pub fn status(&self, node: &str) -> Status {
        let node = self.cluster.node(node);
        self.cluster.status(node).expect("a status")
    }

    pub fn alarm(&self, node: &str, name: &str) -> Option<Alarm> {
        let status = self.status(node);
        status.alarms.into_iter().find(|alarm| alarm.name == name)
    }

    pub fn lane(&self, node: &str, peer: &str) -> Lane {
        let mut lanes = self.status(node).lanes.into_iter();
        lanes.find(|lane| lane.region == peer).expect("a lane")
    }

    /// Waits until that lane keeps up by SQL.
    #[track_caller]
    pub fn wait_direct(&self, node: &str, peer: &str) {
        self.wait(
            &format!("{node} writes into {peer}'s database by SQL"),
            || {
                let lane = self.lane(node, peer);
                lane.target.as_deref() == Some("direct") && lane.lag_updates < 10
            },
        );
    }

    #[track_caller]
    pub fn wait(&self, what: &str, done: impl FnMut() -> bool) {
        if wait_for(LIMIT, done).is_err() {
            panic!("not within {LIMIT:?}: {what}");
        }
    }

    /// Waits until every other region has all that this node's region has committed.
    #[track_caller]
    pub fn wait_delivered(&self, node: &str) {
        self.wait(&format!("everything of {node} is delivered"), || {
            let lanes = self.status(node).lanes;
            lanes.iter().all(|l| l.tail > 0 && l.acked == l.tail)
        });
    }

    pub fn adopt_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PRISM);
        command.arg("adopt").args(args).arg("--config");
        command.arg(&self.cluster.config).env_remove("RUST_LOG");
        command
    }

    /// What it printed; an error if it did not end with status 0.
    pub fn adopt(&self, args: &[&str]) -> Result<String, String> {
        let output = self.adopt_command(args).output().expect("prism runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        eprintln!("---- prism adopt {}\n{said}", args.join(" "));
        match output.status.code() {
            Some(0) => Ok(said),
            Some(1) => Err(said),
            other => panic!("status {other:?}: {said}"),
        }
    }

    /// As if the disk had been replaced.
    pub fn wipe(&self, region: &str) {
        match self.db(region) {
            Db::Postgres(name) => {
                admin(&format!("DROP DATABASE {name} WITH (FORCE)"));
                server().create_database(name).expect("a database");
            }
            Db::Sqlite(path) => remove(path),
        }
    }

    pub fn back_up(&self, region: &str) {
        match self.db(region) {
            Db::Postgres(name) => {
                // A template must not be in use: others may be looking at it by SQL.
                self.hide(region);
                admin(&format!(
                    "CREATE DATABASE {name}_old TEMPLATE {name} OWNER prism"
                ));
                self.unhide(region);
            }
            Db::Sqlite(path) => {
                let sql = format!("VACUUM INTO '{}'", self.backup.display());
                Db::Sqlite(path.clone()).execute(&sql);
            }
        }
    }

    pub fn restore(&self, region: &str) {
        match self.db(region) {
            Db::Postgres(name) => {
                admin(&format!("DROP DATABASE {name} WITH (FORCE)"));
                admin(&format!("ALTER DATABASE {name}_old RENAME TO {name}"));
            }
            Db::Sqlite(path) => {
                remove(path);
                std::fs::copy(&self.backup, path).expect("a copy");
                self.db(region).execute("PRAGMA journal_mode = WAL");
            }
        }
    }

    /// Nobody reaches the region's database any more.
    pub fn hide(&self, region: &str) {
        match self.db(region) {
            Db::Postgres(name) => {
                admin(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
                admin(&format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
                ));
            }
            Db::Sqlite(path) => {
                std::fs::rename(path, path.with_extension("hidden")).expect("renamed");
            }
        }
    }

    pub fn unhide(&self, region: &str) {
        match self.db(region) {
            Db::Postgres(name) => admin(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")),
            Db::Sqlite(path) => {
                std::fs::rename(path.with_extension("hidden"), path).expect("renamed");
            }
        }
    }

    /// Writers, one per node.
    pub fn load(&self, nodes: &[&str]) -> Load {
        self.padded_load(nodes, 0)
    }

    /// With so many bytes more per note.
    pub fn padded_load(&self, nodes: &[&str], padding: usize) -> Load {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = COUNT.fetch_add(1, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        let writers = nodes
            .iter()
            .map(|name| {
                let node = &self.cluster.nodes[self.cluster.node(name)];
                let (http, address) = (self.cluster.http(), node.http);
                let (node, stop) = (node.name.clone(), Arc::clone(&stop));
                let sent = Arc::new(Mutex::new(Sent::default()));
                let seen = Arc::clone(&sent);
                let thread = std::thread::spawn(move || {
                    for i in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let note = format!("{node} {id} {i}{}", "-".repeat(padding));
                        let updates = [
                            json!({"statement": "note", "params": [note]}),
                            json!({"statement": "count", "params": ["all", 1]}),
                        ];
                        let answers = submit(&http, &node, address, &updates);
                        let mut sent = seen.lock().expect("unpoisoned");
                        match answers {
                            Ok(answers) => {
                                let ok = |i: usize| {
                                    let outcome = answers.get(i).and_then(|a| a.outcome.as_deref());
                                    outcome == Some("committed")
                                };
                                if ok(0) {
                                    sent.notes.push(note);
                                }
                                sent.count += i64::from(ok(1));
                            }
                            Err(_) => sent.unknown.push(note),
                        }
                        drop(sent);
                        // Load, not a race for the two processors of a small machine.
                        std::thread::sleep(Duration::from_millis(10));
                    }
                });
                Writer {
                    sent,
                    thread: Some(thread),
                }
            })
            .collect();
        Load { stop, writers }
    }

    /// Stops all writers, waits until everything is everywhere, compares by plain SQL.
    #[track_caller]
    pub fn finish(&self, loads: &[Load]) {
        for load in loads {
            load.stop.store(true, Ordering::Relaxed);
        }
        for load in loads {
            self.wait("the writers end", || {
                load.writers
                    .iter()
                    .all(|w| w.thread.as_ref().is_none_or(JoinHandle::is_finished))
            });
        }
        for name in &self.names {
            self.wait_delivered(&format!("{name}1"));
        }
        let all: Vec<Content> = self.dbs.iter().map(Db::content).collect();
        let (notes, count) = &all[0];
        for (name, content) in self.names.iter().zip(&all) {
            let differing: Vec<_> = content
                .0
                .iter()
                .filter(|(id, n)| notes.get(*id) != Some(*n))
                .chain(notes.iter().filter(|(id, _)| !content.0.contains_key(*id)))
                .take(5)
                .collect();
            assert!(
                differing.is_empty(),
                "{name} and {} differ: {differing:?}",
                self.names[0]
            );
            assert_eq!(content.1, *count, "{name}");
        }
        let (mut ok, mut unknown) = (0, 0);
        for writer in loads.iter().flat_map(|load| &load.writers) {
            let sent = writer.sent.lock().expect("unpoisoned");
            for note in &sent.notes {
                assert_eq!(notes.get(note), Some(&1), "{note}");
            }
            for note in &sent.unknown {
                assert!(notes.get(note).is_none_or(|n| *n == 1), "{note}");
            }
            ok += sent.count;
            unknown += sent.unknown.len();
        }
        assert!(notes.values().all(|n| *n == 1));
        let span = ok..=ok + i64::try_from(unknown).expect("few");
        assert!(span.contains(count), "{count} counted, {ok} acknowledged");
        eprintln!(
            "{} regions equal: {} notes and {count} counted, {unknown} unknown",
            all.len(),
            notes.len()
        );
    }
}

fn remove(path: &Path) {
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        let _ = std::fs::remove_file(name);
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

#[derive(Default)]
struct Sent {
    notes: Vec<String>,
    count: i64,
    unknown: Vec<String>,
}

struct Writer {
    sent: Arc<Mutex<Sent>>,
    thread: Option<JoinHandle<()>>,
}

pub struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<Writer>,
}

impl Load {
    /// Until each writer has had so many more updates acknowledged.
    #[track_caller]
    pub fn wait(&self, more: usize) {
        for writer in &self.writers {
            let sent = || writer.sent.lock().expect("unpoisoned").notes.len();
            let goal = sent() + more;
            if wait_for(LIMIT, || sent() >= goal).is_err() {
                panic!("a writer gets no further");
            }
        }
    }

    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in &mut self.writers {
            if let Some(thread) = writer.thread.take() {
                thread.join().expect("a writer");
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}
