//! Three regions with two nodes each and a PostgreSQL server: nine hosts of the network.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use prism_db::throwaway::{Cluster, ClusterOptions};
use prism_node::demo::cluster::wait_for;
use prism_node::keys::SecretKey;
use prism_node::status::{Lane, Status};

use crate::callers::Update;
use crate::network::{Network, PER_SITE};

/// The regions, by their indices.
pub const REGIONS: [&str; 3] = ["NA", "EU", "AS"];
pub const NA: usize = 0;
pub const EU: usize = 1;
pub const AS: usize = 2;
/// Nodes of a region: those of region `r` are `r * NODES ..`.
pub const NODES: usize = 2;

/// For one condition: far more than it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// What takes longer is printed.
const WORTH_TELLING: Duration = Duration::from_secs(1);

const PRISM: &str = env!("CARGO_BIN_EXE_prism");
/// What nodes log in as; `prism migrate --role` gives it what they need.
const ROLE: &str = "node";

/// Everything is non-idempotent: a second execution leaves a second row, or adds once more.
const STATEMENTS: &str = r#"
[[statement]]
name = "hit"
sql = "INSERT INTO hits (id, origin) VALUES ($1, $2)"
params = ["text", "text"]
kind = "insert"

[[statement]]
name = "add"
sql = "UPDATE counters SET n = n + 1 WHERE id = $1"
params = ["text"]
kind = "delta"
"#;

/// Each hit gets the next place in its origin's order; another order gives other places.
const TABLES: &str = "
    CREATE TABLE counters (id text PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO counters VALUES ('NA', 0), ('EU', 0), ('AS', 0), ('shared', 0);
    CREATE TABLE hits (id text NOT NULL, origin text NOT NULL, n bigint NOT NULL,
        PRIMARY KEY (origin, n));
    CREATE INDEX ON hits (id);
    CREATE FUNCTION placed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE public.counters c SET n = c.n + 1 WHERE c.id = NEW.origin RETURNING c.n INTO STRICT NEW.n;
        RETURN NEW;
    END $$;
    CREATE TRIGGER placed BEFORE INSERT ON hits FOR EACH ROW EXECUTE FUNCTION placed();";

struct Node {
    name: String,
    http: SocketAddr,
    data: PathBuf,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

/// Everything that runs.
pub struct World {
    nodes: Vec<Node>,
    pub http: ureq::Agent,
    /// Set when the callers shall come to an end.
    pub stop: AtomicBool,
    /// Set when the story has failed: nobody needs to hear an answer any more.
    pub failed: AtomicBool,
    /// What callers were told has been taken.
    pub acknowledged: Mutex<Vec<Update>>,
    servers: Vec<Cluster>,
    pub network: Network,
    dir: tempfile::TempDir,
}

/// Where a region's database is.
pub fn database_host(region: usize) -> usize {
    region * PER_SITE
}

/// Where a node is.
pub fn node_host(node: usize) -> usize {
    node / NODES * PER_SITE + 1 + node % NODES
}

/// All of a region.
pub fn hosts(region: usize) -> Vec<usize> {
    (region * PER_SITE..(region + 1) * PER_SITE).collect()
}

/// The nodes of a region.
pub fn nodes(region: usize) -> std::ops::Range<usize> {
    region * NODES..(region + 1) * NODES
}

/// `EU1`.
pub fn name(node: usize) -> String {
    format!("{}{}", REGIONS[node / NODES], node % NODES + 1)
}

impl World {
    /// All nodes are ready, and the network is perfect.
    pub fn start() -> Self {
        let network = Network::new(REGIONS.len());
        let servers: Vec<Cluster> = std::thread::scope(|scope| {
            let network = &network;
            let starts: Vec<_> = (0..REGIONS.len())
                .map(|r| scope.spawn(move || server(network, r)))
                .collect();
            let ready = starts.into_iter().map(|s| s.join().expect("a server"));
            ready.collect()
        });
        let dir = tempfile::Builder::new()
            .prefix("prism-test-")
            .tempdir()
            .expect("a directory");
        let nodes = (0..REGIONS.len() * NODES)
            .map(|n| Node {
                name: name(n),
                http: SocketAddr::from(([127, 0, 0, 1], 8101 + n as u16)),
                data: dir.path().join(name(n)),
                log: dir.path().join(format!("{}.log", name(n))),
                child: Mutex::default(),
            })
            .collect();
        let world = Self {
            nodes,
            http: agent(),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            acknowledged: Mutex::default(),
            servers,
            network,
            dir,
        };
        world.configure();
        let all: Vec<usize> = (0..REGIONS.len() * NODES).collect();
        world.start_nodes(&all);
        world
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("prism.toml")
    }

    /// Keys, `prism.toml`, and the schema of each database, made from beside it.
    fn configure(&self) {
        let psk = SecretKey::generate().expect("a key");
        psk.write_new(&self.dir.path().join("psk")).expect("a file");
        let mut toml = String::from("cluster = \"real\"\npsk_file = \"psk\"\n");
        for (r, region) in REGIONS.iter().enumerate() {
            let (host, url) = (database_host(r), self.servers[r].url("app"));
            let address = self.network.host(host).address.to_string();
            let url = url.replace("127.0.0.1", &address);
            write!(
                toml,
                "\n[[region]]\nname = \"{region}\"\ndatabase = \"{url}\"\n"
            )
            .expect("a String");
            for n in nodes(r) {
                let node = &self.nodes[n];
                let key = SecretKey::generate().expect("a key");
                std::fs::create_dir_all(&node.data).expect("a directory");
                key.write_new(&node.data.join("node.key")).expect("a file");
                let address = self.network.host(node_host(n)).address;
                write!(
                    toml,
                    "[[region.node]]\nname = \"{}\"\nudp = \"{address}:7100\"\nhttp = \"{}\"\npublic_key = \"{}\"\n",
                    node.name,
                    node.http,
                    key.public()
                )
                .expect("a String");
            }
        }
        toml.push_str(STATEMENTS);
        std::fs::write(self.config(), &toml).expect("written");
        for (r, region) in REGIONS.iter().enumerate() {
            let migrate = || {
                let mut command = self.prism("migrate");
                command.args(["--region", region, "--role", ROLE]).output()
            };
            let host = self.network.host(database_host(r));
            let output = host.namespace.run(migrate).expect("prism runs");
            assert!(output.status.success(), "{output:?}");
        }
        let toml = toml.replace("postgres://prism:", &format!("postgres://{ROLE}:"));
        std::fs::write(self.config(), toml).expect("written");
    }

    fn prism(&self, command: &str) -> Command {
        let mut prism = Command::new(PRISM);
        prism.arg(command).arg("--config").arg(self.config());
        prism.stdin(Stdio::null()).env_remove("RUST_LOG");
        prism
    }

    /// Starts these nodes and waits until they are ready.
    pub fn start_nodes(&self, nodes: &[usize]) {
        for &n in nodes {
            let node = &self.nodes[n];
            let log = || {
                let mut options = OpenOptions::new();
                let file = options.create(true).append(true).open(&node.log);
                file.expect("a log")
            };
            let mut command = self.prism("node");
            command.args(["--node", &node.name, "--data-dir"]);
            command.arg(&node.data).stdout(log()).stderr(log());
            let host = self.network.host(node_host(n));
            let child = host.namespace.run(|| command.spawn()).expect("prism runs");
            *lock(&node.child) = Some(child);
        }
        for &n in nodes {
            let ready = || {
                self.get(n, "/readyz")
                    .is_some_and(|(status, _)| status == 200)
            };
            self.wait(&format!("{} is ready", name(n)), ready);
        }
    }

    /// SIGKILL.
    pub fn kill(&self, node: usize) {
        if let Some(mut child) = lock(&self.nodes[node].child).take() {
            child.kill().expect("a child");
            child.wait().expect("a child");
        }
    }

    /// Goes to a node's host. The address of its HTTP API there.
    pub fn visit(&self, node: usize) -> SocketAddr {
        self.network.host(node_host(node)).namespace.enter();
        self.nodes[node].http
    }

    fn get(&self, node: usize, path: &str) -> Option<(u16, String)> {
        let host = self.network.host(node_host(node));
        host.namespace.run(|| {
            let url = format!("http://{}{path}", self.nodes[node].http);
            let mut answer = self.http.get(&url).call().ok()?;
            let text = answer.body_mut().read_to_string().ok()?;
            Some((answer.status().as_u16(), text))
        })
    }

    /// What a node says, if it does.
    pub fn status(&self, node: usize) -> Option<Status> {
        let (_, text) = self.get(node, "/v1/status")?;
        serde_json::from_str(&text).ok()
    }

    /// A lane as the node says that has it.
    pub fn lane(&self, region: usize, peer: usize) -> Option<Lane> {
        let lanes = nodes(region).filter_map(|n| Some((n, self.status(n)?.lanes)));
        lanes
            .flat_map(|(n, lanes)| lanes.into_iter().map(move |lane| (n, lane)))
            .find(|(n, lane)| lane.region == REGIONS[peer] && lane.holder == Some(name(*n)))
            .map(|(_, lane)| lane)
    }

    /// Where a lane delivers: a node's name, `direct` or `parked`; empty while nobody has it.
    pub fn target(&self, region: usize, peer: usize) -> String {
        let lane = self.lane(region, peer);
        lane.and_then(|l| l.target).unwrap_or_default()
    }

    /// Whether a node of the region has this alarm, and names the other region in it.
    pub fn alarm(&self, region: usize, alarm: &str, about: usize) -> bool {
        let mut alarms = nodes(region).flat_map(|n| self.status(n).unwrap_or_default().alarms);
        alarms.any(|a| a.name == alarm && a.detail.contains(REGIONS[about]))
    }

    /// A connection to a region's database that no fault concerns.
    pub fn sql(&self, region: usize) -> Client {
        let url = self.servers[region].url("app");
        let host = self.network.host(database_host(region));
        let connect = || Client::connect(&url, NoTls).expect("a connection");
        host.namespace.run(connect)
    }

    /// Waits for a condition.
    pub fn wait(&self, what: &str, done: impl FnMut() -> bool) {
        let since = Instant::now();
        if wait_for(LIMIT, done).is_err() {
            panic!("not within {LIMIT:?}: {what}");
        }
        if since.elapsed() >= WORTH_TELLING {
            eprintln!("           {what}: {:.1?}", since.elapsed());
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (n, node) in self.nodes.iter().enumerate() {
                let log = std::fs::read_to_string(&node.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(25)..].join("\n");
                eprintln!("---- {}\n{tail}\n{:?}", node.name, self.status(n));
            }
        }
        for n in 0..self.nodes.len() {
            self.kill(n);
        }
        // Their thousands of files take a while.
        let servers = std::mem::take(&mut self.servers);
        std::thread::scope(|scope| {
            for server in servers {
                scope.spawn(move || drop(server));
            }
        });
    }
}

/// A server on its region's host; the other hosts reach it.
fn server(network: &Network, region: usize) -> Cluster {
    let options = ClusterOptions {
        settings: vec![("listen_addresses".into(), "*".into())],
        ..ClusterOptions::default()
    };
    let host = network.host(database_host(region));
    host.namespace.run(|| {
        let server = Cluster::start_with(options).expect("a throwaway PostgreSQL server");
        server.create_database("app").expect("a database");
        let mut admin = server.admin("app").expect("a connection");
        let row = admin.query_one("SHOW hba_file", &[]).expect("a query");
        allow(Path::new(row.get::<_, &str>(0)));
        let url: postgres::Config = server.url("app").parse().expect("a URL");
        let password = String::from_utf8_lossy(url.get_password().unwrap_or_default());
        let role = format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'; GRANT {ROLE} TO prism");
        admin.batch_execute(&role).expect("a role");
        let reload = "SELECT pg_reload_conf()";
        admin.batch_execute(reload).expect("reloaded");
        let mut owner = Client::connect(&server.url("app"), NoTls).expect("a connection");
        owner.batch_execute(TABLES).expect("the tables");
        server
    })
}

/// Other hosts may log in.
fn allow(hba: &Path) {
    let mut file = OpenOptions::new().append(true).open(hba).expect("pg_hba");
    std::io::Write::write_all(&mut file, b"\nhost all all 10.88.0.0/16 password\n")
        .expect("written");
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(10)))
        .timeout_connect(Some(Duration::from_secs(2)))
        .http_status_as_error(false)
        .build()
        .into()
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
