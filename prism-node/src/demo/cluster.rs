//! A whole cluster on this machine: `prism.toml`, real node processes, the relay between them.
//!
//! Used by the demo and by the end-to-end tests. Everything it starts ends with it.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::relay::Relay;
use crate::keys::{KeyError, PublicKey, SecretKey};
use crate::status::Status;

/// The cluster's pre-shared key, beside `prism.toml`.
const PSK: &str = "local.psk";

/// How often a condition is looked at while waiting for it.
const LOOK: Duration = Duration::from_millis(20);
/// Ports below the range that the system hands out to clients: a node that is restarted must not
/// find somebody's outgoing connection on its port.
const PORTS: std::ops::Range<u16> = 18_000..30_000;

/// One region of a local cluster.
#[derive(Debug, Clone)]
pub struct RegionSpec {
    /// Its name; nodes are `name` + 1, 2, ...
    pub name: String,
    /// Number of nodes.
    pub nodes: usize,
    /// Its database.
    pub database: String,
    /// As other regions reach it, if that differs.
    pub direct: Option<String>,
}

/// What a local cluster is made of.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The regions.
    pub regions: Vec<RegionSpec>,
    /// `[[statement]]`, `[retry]`, `[limits]` as in `prism.toml`.
    pub toml: String,
    /// Seed of the relay's misfortunes.
    pub seed: u64,
    /// Whether the cluster has keys: packets are encrypted.
    pub sealed: bool,
}

/// What can go wrong while a local cluster is set up or used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Files, processes, sockets.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// A `prism` command failed.
    #[error("`prism {0}` failed:\n{1}")]
    Command(String, String),
    /// A key could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A node's HTTP API.
    #[error("{0} does not answer: {1}")]
    Http(String, String),
    /// Something did not happen.
    #[error("not within {limit:?}: {what}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
}

/// One node of the cluster.
#[derive(Debug)]
pub struct LocalNode {
    /// Its name.
    pub name: String,
    /// Index of its region.
    pub region: usize,
    /// Its HTTP API.
    pub http: SocketAddr,
    /// Where its UDP socket really is.
    pub udp: SocketAddr,
    /// Its log.
    pub log: PathBuf,
    /// Its data directory.
    pub data: PathBuf,
    /// The public key of its `node.key`, if the cluster has keys.
    pub public_key: Option<PublicKey>,
    child: Option<Child>,
}

/// See the module.
#[derive(Debug)]
pub struct LocalCluster {
    program: PathBuf,
    /// Path of `prism.toml`.
    pub config: PathBuf,
    /// All nodes, region by region.
    pub nodes: Vec<LocalNode>,
    /// Between them; indices as in `nodes`.
    pub relay: Relay,
    http: ureq::Agent,
}

/// One answer of `POST /v1/updates`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Answer {
    /// Its number, if committed.
    pub seq: Option<u64>,
    /// `committed`.
    pub outcome: Option<String>,
    /// Why not.
    pub error: Option<serde_json::Value>,
}

impl LocalCluster {
    /// Writes `prism.toml` into `dir` and starts the relay, but no node yet.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn new(program: &Path, dir: &Path, spec: &Spec) -> Result<Self, ClusterError> {
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs)
            .map_err(|e| ClusterError::Io(format!("cannot make {}", logs.display()), e))?;
        let mut nodes = Vec::new();
        for (region, r) in spec.regions.iter().enumerate() {
            for i in 1..=r.nodes {
                let name = format!("{}{i}", r.name);
                let data = dir.join(&name);
                nodes.push(LocalNode {
                    log: logs.join(format!("{name}.log")),
                    public_key: spec.sealed.then(|| new_key(&data)).transpose()?,
                    data,
                    name,
                    region,
                    http: free_port()?,
                    udp: free_port()?,
                    child: None,
                });
            }
        }
        let real = nodes.iter().map(|n| n.udp).collect();
        let relay = Relay::start(real, spec.seed)
            .map_err(|e| ClusterError::Io("cannot start the relay".to_owned(), e))?;
        if spec.sealed {
            let psk = SecretKey::generate()?;
            psk.write_new(&dir.join(PSK))?;
        }
        let config = dir.join("prism.toml");
        let text = toml(spec, &nodes, &relay);
        std::fs::write(&config, text)
            .map_err(|e| ClusterError::Io(format!("cannot write {}", config.display()), e))?;
        let http = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(20)))
            .timeout_connect(Some(Duration::from_secs(2)))
            .http_status_as_error(false)
            .build()
            .into();
        Ok(Self {
            program: program.to_owned(),
            config,
            nodes,
            relay,
            http,
        })
    }

    /// Index of a node.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    pub fn node(&self, name: &str) -> usize {
        let found = self.nodes.iter().position(|n| n.name == name);
        found.unwrap_or_else(|| panic!("no node {name}"))
    }

    /// Runs a `prism` command with this cluster's configuration.
    ///
    /// # Errors
    /// [`ClusterError::Command`] with what it printed.
    pub fn prism(&self, args: &[&str]) -> Result<String, ClusterError> {
        let label = args.join(" ");
        let output = Command::new(&self.program)
            .args(args)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| ClusterError::Io(format!("cannot run prism {label}"), e))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let words = format!("{}{}", text(&output.stderr), text(&output.stdout));
        Err(ClusterError::Command(label, words))
    }

    /// The command line of a node, for those who want to change it.
    fn command(&self, i: usize) -> Result<Command, ClusterError> {
        let node = &self.nodes[i];
        let log =
            || -> io::Result<File> { OpenOptions::new().create(true).append(true).open(&node.log) };
        let fail = |e| ClusterError::Io(format!("cannot write {}", node.log.display()), e);
        let mut command = Command::new(&self.program);
        command
            .arg("node")
            .arg("--config")
            .arg(&self.config)
            .args(["--node", &node.name])
            .arg("--data-dir")
            .arg(&node.data)
            .stdin(Stdio::null())
            .stdout(log().map_err(fail)?)
            .stderr(log().map_err(fail)?)
            // Ctrl-C in a terminal goes to the demo alone, which ends its nodes in order.
            .process_group(0);
        Ok(command)
    }

    /// Starts a node's process; does not wait until it is ready.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub fn start(&mut self, i: usize) -> Result<(), ClusterError> {
        let child = self
            .command(i)?
            .spawn()
            .map_err(|e| ClusterError::Io("cannot start a node".to_owned(), e))?;
        self.nodes[i].child = Some(child);
        Ok(())
    }

    /// Starts all nodes and waits until they are ready.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn start_all(&mut self) -> Result<(), ClusterError> {
        for i in 0..self.nodes.len() {
            self.start(i)?;
        }
        (0..self.nodes.len()).try_for_each(|i| self.wait_ready(i))
    }

    /// Waits until a node accepts updates.
    ///
    /// # Errors
    /// [`ClusterError::Deadline`] with the last reason.
    pub fn wait_ready(&self, i: usize) -> Result<(), ClusterError> {
        let limit = Duration::from_secs(30);
        let node = &self.nodes[i];
        let ready = || {
            self.get(i, "/readyz")
                .is_ok_and(|(status, _)| status == 200)
        };
        wait_for(limit, ready).map_err(|_| {
            let why = match self.get(i, "/readyz") {
                Ok((_, body)) => body,
                Err(error) => error.to_string(),
            };
            let log = node.log.display();
            ClusterError::Deadline {
                what: format!("{} is ready ({why}; see {log})", node.name),
                limit,
            }
        })
    }

    /// Process id of a node that has been started.
    #[must_use]
    pub fn pid(&self, i: usize) -> Option<u32> {
        self.nodes[i].child.as_ref().map(Child::id)
    }

    /// Whether the node's process runs.
    pub fn runs(&mut self, i: usize) -> bool {
        let child = self.nodes[i].child.as_mut();
        child.is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self, i: usize) {
        if let Some(mut child) = self.nodes[i].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Any other signal.
    pub fn signal(&self, i: usize, signal: Signal) {
        if let Some(child) = &self.nodes[i].child
            && let Ok(pid) = i32::try_from(child.id())
        {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// SIGTERM, and waits for the end; SIGKILL after the limit (`None` then).
    pub fn stop(&mut self, i: usize, limit: Duration) -> Option<ExitStatus> {
        self.signal(i, Signal::SIGTERM);
        let mut child = self.nodes[i].child.take()?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(LOOK);
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    /// GET; status and body.
    ///
    /// # Errors
    /// [`ClusterError::Http`].
    pub fn get(&self, i: usize, path: &str) -> Result<(u16, String), ClusterError> {
        let node = &self.nodes[i];
        let fail = |e: ureq::Error| ClusterError::Http(node.name.clone(), e.to_string());
        let url = format!("http://{}{path}", node.http);
        let mut answer = self.http.get(&url).call().map_err(fail)?;
        let body = answer.body_mut().read_to_string().map_err(fail)?;
        Ok((answer.status().as_u16(), body))
    }

    /// The node's status.
    ///
    /// # Errors
    /// [`ClusterError::Http`].
    pub fn status(&self, i: usize) -> Result<Status, ClusterError> {
        let (_, body) = self.get(i, "/v1/status")?;
        serde_json::from_str(&body)
            .map_err(|e| ClusterError::Http(self.nodes[i].name.clone(), e.to_string()))
    }

    /// Submits an array of updates; one answer each, in order. An error means that the outcome of
    /// all of them is unknown.
    ///
    /// # Errors
    /// [`ClusterError::Http`].
    pub fn submit(
        &self,
        i: usize,
        updates: &[serde_json::Value],
    ) -> Result<Vec<Answer>, ClusterError> {
        submit(&self.http, &self.nodes[i].name, self.nodes[i].http, updates)
    }

    /// What another thread needs to submit: see [`submit`].
    #[must_use]
    pub fn http(&self) -> ureq::Agent {
        self.http.clone()
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for i in 0..self.nodes.len() {
            self.kill(i);
        }
    }
}

/// Submits an array of updates to the node of that name and address.
///
/// # Errors
/// [`ClusterError::Http`]: the outcome of all of them is unknown.
pub fn submit(
    http: &ureq::Agent,
    name: &str,
    address: SocketAddr,
    updates: &[serde_json::Value],
) -> Result<Vec<Answer>, ClusterError> {
    let fail = |e: String| ClusterError::Http(name.to_owned(), e);
    let mut answer = http
        .post(format!("http://{address}/v1/updates"))
        .send_json(updates)
        .map_err(|e| fail(e.to_string()))?;
    let body = answer.body_mut();
    let text = body.read_to_string().map_err(|e| fail(e.to_string()))?;
    let status = answer.status().as_u16();
    if status != 200 && status != 207 {
        return Err(fail(format!("status {status}: {text}")));
    }
    serde_json::from_str(&text).map_err(|e| fail(e.to_string()))
}

/// Waits until `done`; the error says only that it did not happen.
///
/// # Errors
/// [`ClusterError::Deadline`].
pub fn wait_for(limit: Duration, mut done: impl FnMut() -> bool) -> Result<(), ClusterError> {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ClusterError::Deadline {
                what: "a condition".to_owned(),
                limit,
            });
        }
        std::thread::sleep(LOOK);
    }
}

/// A `node.key` in a new data directory; its public key.
fn new_key(data: &Path) -> Result<PublicKey, ClusterError> {
    std::fs::create_dir_all(data)
        .map_err(|e| ClusterError::Io(format!("cannot make {}", data.display()), e))?;
    let key = SecretKey::generate()?;
    key.write_new(&data.join("node.key"))?;
    Ok(key.public())
}

/// A port of 127.0.0.1 that nobody has, neither for TCP nor for UDP, and that this process has not
/// given out before.
fn free_port() -> Result<SocketAddr, ClusterError> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    let span = usize::from(PORTS.end - PORTS.start);
    // Processes that run at the same time begin at different places.
    let start = (std::process::id() as usize).wrapping_mul(97) % span;
    for port in PORTS.cycle_from(start).take(span) {
        if given.contains(&port) {
            continue;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            given.insert(port);
            return Ok(address);
        }
    }
    let none = io::Error::from(io::ErrorKind::AddrInUse);
    Err(ClusterError::Io("no free port".to_owned(), none))
}

trait CycleFrom {
    fn cycle_from(self, start: usize) -> impl Iterator<Item = u16>;
}

impl CycleFrom for std::ops::Range<u16> {
    fn cycle_from(self, start: usize) -> impl Iterator<Item = u16> {
        self.clone().skip(start).chain(self.take(start))
    }
}

fn toml(spec: &Spec, nodes: &[LocalNode], relay: &Relay) -> String {
    let mut text = String::from("cluster = \"local\"\n");
    if spec.sealed {
        let _ = writeln!(text, "psk_file = \"{PSK}\"");
    }
    // Writing into a String cannot fail.
    for (i, region) in spec.regions.iter().enumerate() {
        let (name, database) = (&region.name, &region.database);
        let _ = writeln!(
            text,
            "\n[[region]]\nname = \"{name}\"\ndatabase = \"{database}\""
        );
        if let Some(direct) = &region.direct {
            let _ = writeln!(text, "direct = \"{direct}\"");
        }
        for (n, node) in nodes.iter().enumerate().filter(|(_, n)| n.region == i) {
            let _ = writeln!(
                text,
                "[[region.node]]\nname = \"{}\"\nudp = \"{}\"\nbind_udp = \"{}\"\nhttp = \"{}\"",
                node.name,
                relay.public(n),
                node.udp,
                node.http
            );
            if let Some(key) = node.public_key {
                let _ = writeln!(text, "public_key = \"{key}\"");
            }
        }
    }
    text.push('\n');
    text.push_str(&spec.toml);
    text
}
