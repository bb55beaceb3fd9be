//! Three regions with two nodes each: real processes, a PostgreSQL server per region, and a relay
//! between all of them that loses a fifth of what it carries.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postgres::{Client, NoTls};
use prism_db::throwaway::{Cluster, ClusterOptions};
use prism_node::demo::cluster::{LocalCluster, RegionSpec, Spec};
use prism_node::demo::relay::Link;

/// The regions, by their indices.
pub const REGIONS: [&str; 3] = ["NA", "EU", "AS"];
/// Nodes of a region: those of region `r` are `r * NODES ..`.
pub const NODES: usize = 2;
/// Share of datagrams that the relay loses, each way.
pub const LOSS: f64 = 0.2;

/// Rows of `purse` and `seats` that all regions write.
pub const SHARED: usize = 4;

/// What the application does. Everything is non-idempotent; what a second execution, a missing
/// one, or another order would change is in the tables for plain SQL to see.
const STATEMENTS: &str = r#"
# Each row gets its place in the origin's order and a hash over all that came before: see TABLES.
[[statement]]
name = "append"
sql = "INSERT INTO log (id, origin) VALUES ($1, $2)"
params = ["text", "text"]
kind = "insert"

[[statement]]
name = "mark"
sql = "INSERT INTO marks (id, n) VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET n = marks.n + 1"
params = ["text"]
kind = "insert"

[[statement]]
name = "token"
sql = "INSERT INTO tokens (token, id) VALUES ($1, $2)"
params = ["gen_uuid", "text"]
kind = "insert"

[[statement]]
name = "claim"
sql = "UPDATE purse SET n = n + 1, last = $2 WHERE id = $1"
params = ["text", "text"]
kind = "delta"
undo = "UPDATE purse SET n = n - 1 WHERE id = $1"
on_reject = "undo"

[[statement]]
name = "letter"
sql = "INSERT INTO letters (id, origin, n) VALUES ($1, $2, 1) ON CONFLICT (id) DO UPDATE SET n = letters.n + 1"
params = ["text", "text"]
kind = "insert"

[[statement]]
name = "rename"
sql = "UPDATE users SET name = $2 WHERE id = $1"
params = ["text", "text"]
kind = "absolute"
key = "users/$1"
old = "SELECT name FROM users WHERE id = $1"
undo = "UPDATE users SET name = $old1 WHERE id = $1 AND name = $2"
on_reject = "undo"

[[statement]]
name = "reserve"
sql = "INSERT INTO reserved (id, origin, n) VALUES ($1, $2, 1) ON CONFLICT (id) DO UPDATE SET n = reserved.n + 1"
params = ["text", "text"]
kind = "insert"
undo = "DELETE FROM reserved WHERE id = $1"
on_reject = "undo"

[[statement]]
name = "seat"
sql = "UPDATE seats SET n = n + 1, last = $2 WHERE id = $1"
params = ["text", "text"]
kind = "delta"
undo = "UPDATE seats SET n = n - 1 WHERE id = $1"
on_reject = "undo"
"#;

const TOML: &str = r#"
[limits]
retention = "10s"
await_timeout = "5s"
"#;

/// `NO` is replaced by the mark of the values that this region refuses.
const TABLES: &str = "
    CREATE TABLE chain (origin text PRIMARY KEY, n bigint NOT NULL, hash text NOT NULL);
    INSERT INTO chain VALUES ('NA', 0, ''), ('EU', 0, ''), ('AS', 0, '');
    CREATE TABLE log (id text NOT NULL, origin text NOT NULL, n bigint NOT NULL, hash text NOT NULL,
        PRIMARY KEY (origin, n));
    CREATE FUNCTION chained() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE public.chain c SET n = c.n + 1, hash = md5(c.hash || NEW.id)
            WHERE c.origin = NEW.origin RETURNING c.n, c.hash INTO STRICT NEW.n, NEW.hash;
        RETURN NEW;
    END $$;
    CREATE TRIGGER chained BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION chained();

    CREATE TABLE marks (id text PRIMARY KEY, n int NOT NULL);
    CREATE TABLE tokens (token uuid NOT NULL, id text NOT NULL);
    CREATE TABLE letters (id text PRIMARY KEY CHECK (id NOT LIKE '%NO'), origin text NOT NULL,
        n int NOT NULL);
    CREATE TABLE purse (id text PRIMARY KEY, n int NOT NULL, last text NOT NULL DEFAULT ''
        CHECK (last NOT LIKE '%NO'));
    CREATE TABLE users (id text PRIMARY KEY, name text NOT NULL DEFAULT '' CHECK (name NOT LIKE '%NO'));
    CREATE TABLE reserved (id text PRIMARY KEY CHECK (id NOT LIKE '%NO'), origin text NOT NULL,
        n int NOT NULL);
    CREATE TABLE seats (id text PRIMARY KEY, n int NOT NULL, last text NOT NULL DEFAULT ''
        CHECK (last NOT LIKE '%NO'));
    INSERT INTO purse (id, n) SELECT 'shared' || i, 0 FROM generate_series(0, SHARED - 1) i;
    INSERT INTO purse (id, n) SELECT 'own' || i, 0 FROM generate_series(0, 63) i;
    INSERT INTO seats (id, n) SELECT id, n FROM purse;
    INSERT INTO users (id) SELECT c || '-' || i FROM generate_series(0, 63) c, generate_series(0, 499) i;";

/// What a region's constraints refuse: values that end so.
pub fn refused_by(region: usize) -> String {
    format!("-no{}", REGIONS[region])
}

/// Everything that runs.
pub struct World {
    pub cluster: Mutex<LocalCluster>,
    /// Locked for as long as somebody does something to it.
    pub servers: Vec<Mutex<Cluster>>,
    /// The HTTP addresses of the nodes.
    pub http: Vec<SocketAddr>,
    /// Set when the clients shall come to an end.
    pub stop: AtomicBool,
    /// Set when the watchers shall.
    pub watched: AtomicBool,
    /// What has been found wrong while it ran.
    pub wrong: Mutex<Vec<String>>,
    /// Clients that have not come to their end.
    pub clients: AtomicU64,
    urls: Vec<String>,
    /// Pairs of regions, from and to, as often as they are cut off.
    cuts: Mutex<Vec<(usize, usize)>>,
    dir: Option<tempfile::TempDir>,
}

impl World {
    pub fn start(seed: u64) -> Self {
        let servers: Vec<Cluster> = std::thread::scope(|scope| {
            let starts = REGIONS.map(|_| scope.spawn(server));
            starts.map(|s| s.join().expect("a server")).into()
        });
        let dir = tempfile::Builder::new()
            .prefix("prism-torture-")
            .tempdir()
            .expect("a directory");
        let mut urls = Vec::new();
        let mut regions = Vec::new();
        for (r, server) in servers.iter().enumerate() {
            let name = REGIONS[r].to_lowercase();
            server.create_database(&name).expect("a database");
            let url = server.url(&name);
            let mut client = Client::connect(&url, NoTls).expect("a connection");
            let tables = TABLES
                .replace("%NO", &format!("%{}", refused_by(r)))
                .replace("SHARED", &SHARED.to_string());
            client.batch_execute(&tables).expect("the tables");
            regions.push(RegionSpec {
                name: REGIONS[r].to_owned(),
                nodes: NODES,
                database: url.clone(),
                direct: None,
            });
            urls.push(url);
        }
        let spec = Spec {
            regions,
            toml: format!("{TOML}{STATEMENTS}"),
            seed,
            sealed: true,
        };
        let program = Path::new(env!("CARGO_BIN_EXE_prism"));
        let mut cluster = LocalCluster::new(program, dir.path(), &spec).expect("a cluster");
        cluster.prism(&["migrate"]).expect("migrate");
        cluster.relay.set_all(Link::lossy(LOSS));
        cluster.start_all().expect("the nodes start");
        Self {
            http: cluster.nodes.iter().map(|n| n.http).collect(),
            cluster: Mutex::new(cluster),
            servers: servers.into_iter().map(Mutex::new).collect(),
            stop: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            wrong: Mutex::default(),
            clients: AtomicU64::new(0),
            urls,
            cuts: Mutex::default(),
            dir: Some(dir),
        }
    }

    pub fn cluster(&self) -> MutexGuard<'_, LocalCluster> {
        lock(&self.cluster)
    }

    /// A connection of an application to a region's database. A stopped server keeps it waiting
    /// until it goes on or is killed.
    pub fn sql(&self, region: usize) -> Result<Client, postgres::Error> {
        let mut config: postgres::Config = self.urls[region].parse()?;
        config
            .connect_timeout(Duration::from_secs(2))
            .application_name("torture")
            .options("-c statement_timeout=10s")
            .connect(NoTls)
    }

    /// Notes a broken promise; the test fails in the end.
    pub fn wrong(&self, what: String) {
        let mut wrong = lock(&self.wrong);
        if wrong.len() < crate::SHOWN {
            eprintln!("WRONG: {what}");
        }
        wrong.push(what);
    }

    /// Cuts the way of datagrams from one region to another, or heals it.
    pub fn cut(&self, from: usize, to: usize, cut: bool) {
        let mut cuts = lock(&self.cuts);
        if cut {
            cuts.push((from, to));
        } else if let Some(i) = cuts.iter().position(|c| *c == (from, to)) {
            cuts.swap_remove(i);
        }
        let link = if cuts.contains(&(from, to)) {
            Link::CUT
        } else {
            Link::lossy(LOSS)
        };
        let cluster = self.cluster();
        for i in 0..NODES {
            for j in 0..NODES {
                cluster.relay.set(from * NODES + i, to * NODES + j, link);
            }
        }
    }

    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends everything at once, so that nobody waits for a stopped server any more.
    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.watched.store(true, Ordering::Relaxed);
        let mut cluster = self.cluster();
        for i in 0..cluster.nodes.len() {
            cluster.kill(i);
        }
        drop(cluster);
        for server in &self.servers {
            // Whoever holds the lock is bringing it back; a look later it is ours.
            lock(server).kill9();
        }
    }

    /// Where the logs are; they stay.
    pub fn keep(&mut self) -> String {
        self.end();
        let kept = self.dir.take().map(tempfile::TempDir::keep);
        kept.map_or_else(String::new, |dir| dir.display().to_string())
    }
}

/// Ends everything when the test panics while threads still run: they wait for servers and nodes,
/// and the panic would wait for them.
pub struct EndOnPanic<'a>(pub &'a World);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn server() -> Cluster {
    let options = ClusterOptions {
        settings: vec![("restart_after_crash".to_owned(), "on".to_owned())],
        ..ClusterOptions::default()
    };
    Cluster::start_with(options).expect("a throwaway PostgreSQL server")
}
