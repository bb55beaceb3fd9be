//! What can be seen of a node under attack from outside, and the attacker's sockets.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prism_net::{EndpointConfig, Limits, NodeAddress, Protection, RegionInfo, SessionKeys};
use prism_node::keys::SecretKey;
use prism_proto::{NodeId, RegionId, Retry};

use crate::common::files::{Files, kills};

/// Nothing more comes after a silence of this length.
const QUIET: Duration = Duration::from_millis(300);

/// A sample of `/metrics`, by its name with labels.
pub fn metric(w: &Files, node: &str, name: &str) -> u64 {
    let (_, text) = w
        .cluster
        .get(w.cluster.node(node), "/metrics")
        .expect("metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line
        .unwrap_or_else(|| panic!("no {name} in\n{text}"))
        .trim();
    value.parse::<f64>().expect("a number") as u64
}

/// Datagrams that a node has dropped for this reason.
pub fn dropped(w: &Files, node: &str, reason: &str) -> u64 {
    let name = format!("prism_datagrams_dropped_total{{reason=\"{reason}\"}}");
    metric(w, node, &name)
}

/// Datagrams that a node has dropped.
pub fn dropped_in_all(w: &Files, node: &str) -> u64 {
    let (_, text) = w
        .cluster
        .get(w.cluster.node(node), "/metrics")
        .expect("metrics");
    let dropped = text
        .lines()
        .filter(|line| line.starts_with("prism_datagrams_dropped_total{"));
    dropped
        .map(|line| {
            line.rsplit(' ')
                .next()
                .map_or(0, |n| n.parse().expect("a number"))
        })
        .sum()
}

/// Resident memory of a node's process in bytes.
pub fn memory(w: &Files, node: &str) -> u64 {
    let pid = w.cluster.pid(w.cluster.node(node)).expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("of a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .expect("its memory");
    kib.parse::<u64>().expect("a number") * 1024
}

pub fn log(w: &Files, node: &str) -> String {
    let node = &w.cluster.nodes[w.cluster.node(node)];
    std::fs::read_to_string(&node.log).expect("a log")
}

/// Names of the alarms that stand.
pub fn alarms(w: &Files, node: &str) -> Vec<String> {
    w.status(node)
        .alarms
        .into_iter()
        .map(|alarm| alarm.name)
        .collect()
}

/// One kill for steve, `n` times, each in a request of its own.
pub fn count_up(w: &Files, node: &str, n: usize) {
    for _ in 0..n {
        w.submit(node, &[kills("steve", 1)]);
    }
}

/// Waits until steve has `n` kills in these regions.
pub fn wait_kills(w: &Files, regions: &[&str], n: usize) {
    let n = n.to_string();
    w.wait(&format!("{n} kills in {regions:?}"), || {
        w.kills(regions, "steve").iter().all(|kills| *kills == n)
    });
}

/// Other regions cannot write to this one's database by SQL.
pub fn no_direct(w: &Files, region: &str) {
    let name = format!("name = \"{region}\"\n");
    let text = std::fs::read_to_string(&w.cluster.config).expect("prism.toml");
    let text = text.replacen(
        &name,
        &format!("{name}direct = \"sqlite:nowhere/x.db\"\n"),
        1,
    );
    std::fs::write(&w.cluster.config, text).expect("written");
}

pub fn udp(w: &Files, node: &str) -> SocketAddr {
    w.cluster.nodes[w.cluster.node(node)].udp
}

fn dir(w: &Files) -> PathBuf {
    w.cluster
        .config
        .parent()
        .map(Path::to_owned)
        .expect("a directory")
}

pub fn psk(w: &Files) -> SecretKey {
    SecretKey::read(&dir(w).join("local.psk")).expect("the cluster's key")
}

pub fn key(w: &Files, node: &str) -> SecretKey {
    let data = &w.cluster.nodes[w.cluster.node(node)].data;
    SecretKey::read(&data.join("node.key")).expect("the node's key")
}

/// What a process needs that talks as this node with this key.
pub fn as_node(w: &Files, node: &str, key: &SecretKey, boot: u64) -> EndpointConfig {
    let mut regions: Vec<RegionInfo> = Vec::new();
    let mut nodes = Vec::new();
    for (i, node) in w.cluster.nodes.iter().enumerate() {
        if node.region == regions.len() {
            let name = node.name.trim_end_matches(char::is_numeric).to_owned();
            regions.push(RegionInfo {
                name,
                direct: false,
            });
        }
        nodes.push(NodeAddress {
            name: node.name.clone(),
            region: RegionId(node.region as u16),
            udp: w.cluster.relay.public(i),
            public_keys: node.public_key.iter().map(|key| key.0).collect(),
        });
    }
    let me = w.cluster.node(node);
    // If it is the key of another one, that one has to have a different key in here.
    for node in nodes
        .iter_mut()
        .filter(|node| node.public_keys == [key.public().0])
    {
        let any = SecretKey::generate().expect("random bytes");
        node.public_keys = vec![any.public().0];
    }
    nodes[me].public_keys = vec![key.public().0];
    EndpointConfig {
        me: NodeId(me as u16),
        nodes,
        regions,
        retry: Retry::default(),
        // So that a session may end where counters do.
        limits: Limits {
            rekey_packets: u64::MAX,
            ..Limits::default()
        },
        seed: boot ^ u64::from(std::process::id()),
        cluster: "local".to_owned(),
        protection: Protection::Sealed(SessionKeys {
            private: key.bytes().clone(),
            psk: psk(w).bytes().clone(),
        }),
        boot,
        catalogue: 0,
    }
}

/// Sockets of somebody who is no node, on as many addresses.
pub struct Strangers {
    sockets: Vec<UdpSocket>,
    pub packets: u64,
    pub bytes: u64,
}

impl Strangers {
    /// At 127.0.0.2 and the addresses behind it.
    pub fn new(count: u8) -> Self {
        let socket = |i| {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2 + i), 0)).expect("loopback");
            socket.set_nonblocking(true).expect("set");
            socket
        };
        Self {
            sockets: (0..count).map(socket).collect(),
            packets: 0,
            bytes: 0,
        }
    }

    /// The next socket's turn.
    pub fn send(&mut self, to: SocketAddr, packet: &[u8]) {
        let socket = &self.sockets[self.packets as usize % self.sockets.len()];
        if socket.send_to(packet, to).is_ok() {
            self.packets += 1;
            self.bytes += packet.len() as u64;
        }
    }

    /// Everything that has come back, once nothing more comes.
    pub fn answers(&self) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        let mut buffer = [0; 65_536];
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < QUIET {
            for socket in &self.sockets {
                while let Ok(len) = socket.recv(&mut buffer) {
                    answers.push(buffer[..len].to_vec());
                    quiet_since = Instant::now();
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        answers
    }
}
