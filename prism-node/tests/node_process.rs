//! `prism node` as a process: starting, refusing to start, signals, and the first steps that
//! `prism init` prints.

mod support;

use std::fs::{self, File, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prism_node::config::Config;

use support::{cluster, expect, prism, temp};

/// Far beyond what anything here takes, on a busy machine too.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running `prism node`, killed when the test ends.
struct Node {
    child: Child,
    log: std::path::PathBuf,
}

impl Node {
    fn start(dir: &Path, name: &str, more: &[&str]) -> Self {
        let log = dir.join(format!("{name}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_prism"))
            .args(["node", "--config", "prism.toml", "--node", name])
            .arg("--data-dir")
            .arg(format!("data/{name}"))
            .args(more)
            .current_dir(dir)
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("log"))
            .spawn()
            .expect("prism node");
        Self { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("log")
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("pid");
        kill(Pid::from_raw(pid), signal).expect("signal");
    }

    /// Exit status; the log if it does not end.
    fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        until("the process ends", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        status.and_then(|s| s.code())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < DEADLINE,
            "{what}: not within {DEADLINE:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// HTTP status and body of a GET; `None` if nobody answers.
fn get(dir: &Path, node: &str, path: &str) -> Option<(u16, String)> {
    let config = Config::load(&dir.join("prism.toml")).expect("config");
    let http = config.node_named(node).expect("node").http;
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(10)))
        .build()
        .new_agent();
    let mut response = agent.get(format!("http://{http}{path}")).call().ok()?;
    let status = response.status().as_u16();
    Some((status, response.body_mut().read_to_string().ok()?))
}

fn ready(dir: &Path, node: &str) -> bool {
    get(dir, node, "/readyz").is_some_and(|(status, _)| status == 200)
}

fn kills(dir: &Path, region: &str) -> i64 {
    let path = dir.join(format!("data/{region}.db"));
    let database = rusqlite::Connection::open(path).expect("database");
    database
        .query_row(
            "SELECT kills FROM users WHERE username = 'steve'",
            [],
            |row| row.get(0),
        )
        .expect("steve")
}

fn submit(dir: &Path, node: &str) -> std::process::Output {
    prism(dir, &["submit", "--node", node, "add_kills", "steve", "1"])
}

#[test]
fn the_commands_that_init_prints_work_when_pasted() {
    let dir = temp();
    let printed = support::cluster_and_output(dir.path()).1;
    let lines: Vec<_> = printed
        .lines()
        .filter_map(|l| l.strip_prefix("  "))
        .collect();
    assert_eq!(lines.len(), 5, "{printed}");
    // The nodes are stopped by their ids, which the shell notes.
    let script: String = lines
        .iter()
        .map(|line| format!("{}\n", line.replace("& done", "& echo $! >>pids; done")))
        .collect();
    // Output goes to a file: a pipe would stay open in the nodes.
    let out = dir.path().join("out");
    let status = Command::new("sh")
        .args(["-e", "-c", &script])
        .current_dir(dir.path())
        .stdout(File::create(&out).expect("out"))
        .stderr(Stdio::inherit())
        .status();
    let pids = fs::read_to_string(dir.path().join("pids")).unwrap_or_default();
    let pids: Vec<_> = pids.lines().map(|p| p.parse().expect("pid")).collect();
    struct Kill(Vec<i32>);
    impl Drop for Kill {
        fn drop(&mut self) {
            for pid in &self.0 {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
    }
    let _kill = Kill(pids);
    let out = fs::read_to_string(out).expect("out");
    assert!(status.expect("sh").success(), "{out}");
    assert!(out.contains("seq=1 outcome=committed\n"), "{out}");
    until("every region has the update", || {
        ["na", "eu", "as"]
            .iter()
            .all(|region| kills(dir.path(), region) == 1)
    });
}

#[test]
fn sigterm_drains_and_the_log_says_so() {
    let dir = temp();
    cluster(dir.path());
    expect(&prism(dir.path(), &["migrate"]), 0);
    let mut na1 = Node::start(dir.path(), "NA1", &["--log", "json"]);
    let mut eu1 = Node::start(dir.path(), "EU1", &[]);
    let mut as1 = Node::start(dir.path(), "AS1", &[]);
    until("nodes are ready", || {
        ["NA1", "EU1", "AS1"].iter().all(|n| ready(dir.path(), n))
    });
    expect(&submit(dir.path(), "NA1"), 0);
    na1.signal(Signal::SIGTERM);
    assert_eq!(na1.ended(), Some(0), "{}", na1.log());
    let last = na1.log();
    for line in last.lines() {
        let json: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(json["message"].is_string(), "{line}");
    }
    assert!(last.contains("everything is delivered"), "{last}");
    assert_eq!((kills(dir.path(), "eu"), kills(dir.path(), "as")), (1, 1));
    for node in [&mut eu1, &mut as1] {
        node.signal(Signal::SIGINT);
        assert_eq!(node.ended(), Some(0), "{}", node.log());
    }
}

#[test]
fn a_second_signal_stops_at_once_and_loses_nothing() {
    let dir = temp();
    let text = cluster(dir.path());
    // AS can be reached in no way: its lane keeps the drain waiting.
    let broken = text.replace(
        "database = \"sqlite:data/as.db\"",
        "database = \"sqlite:data/as.db\"\ndirect = \"sqlite:none/as.db\"",
    );
    fs::write(dir.path().join("prism.toml"), broken).expect("write");
    expect(&prism(dir.path(), &["migrate"]), 0);
    let mut na1 = Node::start(dir.path(), "NA1", &[]);
    until("NA1 is ready", || ready(dir.path(), "NA1"));
    expect(&submit(dir.path(), "NA1"), 0);
    na1.signal(Signal::SIGTERM);
    until("the node says that it stops", || {
        na1.log().contains("stopping")
    });
    until("new updates are refused while it drains", || {
        let (_, err) = expect(&submit(dir.path(), "NA1"), 1);
        err.contains("shutting down")
    });
    na1.signal(Signal::SIGTERM);
    assert_eq!(na1.ended(), Some(1), "{}", na1.log());
    assert_eq!(kills(dir.path(), "na"), 1);
}

#[test]
fn a_node_without_schema_says_so_and_is_mended_while_it_runs() {
    let dir = temp();
    cluster(dir.path());
    let na1 = Node::start(dir.path(), "NA1", &[]);
    until("NA1 answers", || {
        get(dir.path(), "NA1", "/healthz").is_some()
    });
    let (status, body) = get(dir.path(), "NA1", "/readyz").expect("answers");
    assert_eq!(status, 503, "{body}");
    let (_, err) = expect(&submit(dir.path(), "NA1"), 1);
    assert!(
        err.contains("HTTP 503") && err.contains("prism migrate"),
        "{err}"
    );
    let (_, status) = get(dir.path(), "NA1", "/v1/status").expect("answers");
    assert!(status.contains("prism migrate"), "{status}");
    expect(&prism(dir.path(), &["migrate"]), 0);
    until("NA1 is ready", || ready(dir.path(), "NA1"));
    expect(&submit(dir.path(), "NA1"), 0);
    drop(na1);
}

#[test]
fn what_cannot_start_says_why() {
    let dir = temp();
    let text = cluster(dir.path());
    let config = Config::load(&dir.path().join("prism.toml")).expect("config");
    expect(&prism(dir.path(), &["migrate"]), 0);
    let fails = |name: &str, status: i32, says: &[&str]| {
        let mut node = Node::start(dir.path(), name, &[]);
        assert_eq!(node.ended(), Some(status), "{}", node.log());
        for part in says {
            assert!(node.log().contains(part), "{part}: {}", node.log());
        }
    };
    fails("NA7", 2, &["has no node \"NA7\"; its nodes are NA1, NA2"]);

    let key = dir.path().join("data/NA1/node.key");
    fs::set_permissions(&key, Permissions::from_mode(0o640)).expect("chmod");
    fails("NA1", 2, &["mode 0640", "chmod 600"]);
    fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("chmod");
    let own = fs::read(&key).expect("key");
    fs::copy(dir.path().join("data/NA2/node.key"), &key).expect("copy");
    fails("NA1", 2, &["belongs to another node"]);
    fs::remove_file(&key).expect("remove");
    fails("NA1", 2, &["does not exist", "prism keygen"]);
    fs::write(&key, own).expect("write");
    fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("chmod");

    let udp = UdpSocket::bind(config.nodes[0].bind_udp).expect("bind");
    fails("NA1", 1, &[&config.nodes[0].bind_udp.to_string()]);
    drop(udp);
    let http = std::net::TcpListener::bind(config.nodes[0].http).expect("bind");
    fails(
        "NA1",
        1,
        &[
            "cannot listen on http address",
            "is this node running already?",
        ],
    );
    drop(http);

    let first = Node::start(dir.path(), "NA1", &[]);
    until("NA1 is ready", || ready(dir.path(), "NA1"));
    fails("NA1", 1, &["in use"]);
    assert!(ready(dir.path(), "NA1"), "the first one lives on");
    drop(first);

    // Without keys nobody on another machine is talked to.
    let keys = |l: &&str| l.starts_with("psk_file") || l.starts_with("public_key");
    let keyless: Vec<_> = text.lines().filter(|l| !keys(l)).collect();
    let keyless = keyless.join("\n");
    let own = format!("udp = \"{}\"", config.nodes[0].udp);
    let public = format!(
        "{own}\nbind_udp = \"0.0.0.0:{}\"",
        config.nodes[0].udp.port()
    );
    fs::write(
        dir.path().join("prism.toml"),
        keyless.replace(&own, &public),
    )
    .expect("write");
    fails("NA1", 1, &["0.0.0.0", "loopback"]);
    fs::write(
        dir.path().join("prism.toml"),
        text.replace("data/na.db", "data/eu.db")
            .replacen("data/eu.db", "data/EU.db", 2)
            .replacen("data/EU.db", "data/eu.db", 1),
    )
    .expect("write");
    fails("NA1", 1, &["EU"]);
}
