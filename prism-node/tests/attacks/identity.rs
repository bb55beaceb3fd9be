//! A copied data directory: two processes are the same node. A stolen key, and the way back.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use prism_node::keys::SecretKey;
use prism_proto::NodeId;

use crate::common::PRISM;
use crate::common::files::Files;
use crate::insider::Insider;
use crate::target::{count_up, key, metric, wait_kills};

/// Ends with the test.
struct Copy(Child);

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A copy of AS1 on other ports, which reaches the others without the relay.
fn copy_of_as1(w: &Files, dir: &Path) -> Copy {
    let as1 = &w.cluster.nodes[w.cluster.node("AS1")];
    let mut text = std::fs::read_to_string(&w.cluster.config).expect("prism.toml");
    for (i, node) in w.cluster.nodes.iter().enumerate() {
        let (public, real) = (w.cluster.relay.public(i), node.udp);
        text = text.replace(
            &format!("udp = \"{public}\"\n"),
            &format!("udp = \"{real}\"\n"),
        );
    }
    let free = || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
        socket.local_addr().expect("bound")
    };
    let (udp, http) = (free(), free());
    text = text
        .replace(
            &format!("bind_udp = \"{}\"", as1.udp),
            &format!("bind_udp = \"{udp}\""),
        )
        .replace(
            &format!("http = \"{}\"", as1.http),
            &format!("http = \"{http}\""),
        );
    let config = w.cluster.config.with_file_name("copy.toml");
    std::fs::write(&config, text).expect("written");
    let data = dir.join("AS1");
    std::fs::create_dir_all(data.join("journal")).expect("made");
    for file in ["node.key", "boot"] {
        std::fs::copy(as1.data.join(file), data.join(file)).expect("copied");
    }
    let log = std::fs::File::create(dir.join("copy.log")).expect("a log");
    let child = Command::new(PRISM)
        .args(["node", "--node", "AS1", "--config"])
        .arg(&config)
        .arg("--data-dir")
        .arg(&data)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("a process");
    Copy(child)
}

#[test]
fn a_second_process_with_the_same_identity_is_told_of_and_doubles_nothing() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1), ("AS", 1)], "");
    w.start(&["NA1", "EU1", "AS1"]);
    count_up(&w, "NA1", 5);
    count_up(&w, "AS1", 5);
    wait_kills(&w, &["NA", "EU", "AS"], 10);
    let dir = tempfile::tempdir().expect("a directory");
    let copy = copy_of_as1(&w, dir.path());
    w.wait("somebody tells of it", || {
        ["NA1", "EU1"]
            .iter()
            .any(|node| w.alarm(node, "same-identity").is_some())
    });
    let told = ["NA1", "EU1"]
        .iter()
        .find_map(|node| w.alarm(node, "same-identity"));
    let alarm = told.expect("stands");
    assert!(
        alarm.detail.contains("AS1") && alarm.remedy.contains("stop one"),
        "{alarm:?}"
    );
    count_up(&w, "NA1", 5);
    wait_kills(&w, &["NA", "EU", "AS"], 15);
    // One of the two goes on; when the other is gone, all is as before.
    drop(copy);
    w.kill("AS1");
    w.start(&["AS1"]);
    count_up(&w, "AS1", 5);
    wait_kills(&w, &["NA", "EU", "AS"], 20);
}

#[test]
fn a_stolen_key_that_has_used_up_all_numbers_is_replaced() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1), ("AS", 1)], "");
    w.start(&["NA1", "EU1", "AS1"]);
    count_up(&w, "NA1", 3);
    count_up(&w, "AS1", 3);
    wait_kills(&w, &["NA", "EU", "AS"], 6);
    w.kill("AS1");
    let stolen = key(&w, "AS1");
    // No start of the true AS1 can have a greater number than this one.
    let mut thief = Insider::with(&w, "AS1", &stolen, u64::MAX);
    thief.meet(NodeId(0));
    thief.meet(NodeId(1));
    drop(thief);
    w.start(&["AS1"]);
    w.wait("AS1 is refused, and that is shown", || {
        w.alarm("NA1", "handshake-stale").is_some()
    });

    // docs/security.md: a new key, SIGHUP to all, start the node.
    w.kill("AS1");
    let file = w.cluster.nodes[w.cluster.node("AS1")].data.join("node.key");
    std::fs::remove_file(&file).expect("removed");
    let new = SecretKey::generate().expect("random bytes");
    new.write_new(&file).expect("written");
    let (old, new) = (stolen.public().to_string(), new.public().to_string());
    w.write_toml(&w.toml().replace(&old, &new));
    for node in ["NA1", "EU1"] {
        w.cluster.signal(w.cluster.node(node), Signal::SIGHUP);
    }
    w.start(&["AS1"]);
    count_up(&w, "AS1", 3);
    count_up(&w, "NA1", 3);
    wait_kills(&w, &["NA", "EU", "AS"], 12);
    // By sessions, not by direct SQL.
    w.wait("the others talk to AS1 again", || {
        ["NA1", "EU1"]
            .iter()
            .all(|node| metric(&w, node, "prism_peer_up{node=\"AS1\"}") == 1)
    });
}
