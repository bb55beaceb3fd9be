//! Keys: who gets nothing, and how keys and configuration change while nodes run. Real processes;
//! what arrived is looked up with plain SQL.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::PRISM;
use common::files::{Files, kills};
use nix::sys::signal::Signal;

/// EU can be reached by UDP only.
fn pair() -> Files {
    Files::plan(&[("NA", 1), ("EU", 1)], "", Some("EU"))
}

fn hangup(w: &Files, nodes: &[&str]) {
    for node in nodes {
        let before = w.log(node).matches(READ).count();
        w.cluster.signal(w.cluster.node(node), Signal::SIGHUP);
        w.wait(&format!("{node} has read its configuration again"), || {
            w.log(node).matches(READ).count() > before
        });
    }
}

/// Part of every line about a reload.
const READ: &str = "configuration is read again";

fn keygen(file: &Path) -> String {
    let file = file.to_str().expect("UTF-8");
    for command in ["keygen", "pubkey"] {
        let output = Command::new(PRISM).args([command, file]).output();
        let output = output.expect("prism runs");
        assert!(output.status.success(), "{output:?}");
        if command == "pubkey" {
            let key = String::from_utf8(output.stdout).expect("UTF-8");
            return key.trim().to_owned();
        }
    }
    unreachable!("pubkey comes last");
}

fn public_key(w: &Files, node: &str) -> String {
    let node = w.cluster.node(node);
    w.cluster.nodes[node].public_key.expect("a key").to_string()
}

#[test]
fn three_regions_with_keys_carry_updates() {
    let mut w = Files::new(&[("NA", 2), ("EU", 1), ("AS", 1)], "");
    w.start(&["NA1", "NA2", "EU1", "AS1"]);
    for node in ["NA1", "NA2", "EU1", "AS1"] {
        w.submit(node, &[kills("steve", 1), kills("steve", 1)]);
    }
    w.wait("every region has all of them", || {
        w.kills(&["NA", "EU", "AS"], "steve") == ["8", "8", "8"]
    });
    for node in ["NA2", "EU1", "AS1"] {
        let up = format!("prism_peer_up{{node=\"{node}\"}}");
        w.wait(&up, || w.metric("NA1", &up) == 1.0);
    }
    assert_eq!(w.status("NA1").alarms, []);
    let lanes = w.status("NA1").lanes;
    assert!(lanes.iter().all(|l| l.direct_writes == 0), "{lanes:?}");
    assert!(!w.log("NA1").contains("not encrypted"));
}

#[test]
fn without_any_key_a_cluster_runs_on_one_machine_and_says_so() {
    let mut w = Files::keyless(&[("NA", 1), ("EU", 1)]);
    w.start(&["NA1", "EU1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait_acked("NA1", "EU");
    assert_eq!(w.lane("NA1", "EU").direct_writes, 0);
    assert!(w.log("NA1").contains("packets are not encrypted"));
    assert_eq!(w.status("NA1").alarms, [], "it is no fault");
    let told = w.cluster.prism(&["check"]).expect("check");
    assert!(told.contains("encryption: none"), "{told}");
}

/// EU1 with another pre-shared key, then with a key that NA1 does not know.
#[test]
fn a_node_with_wrong_keys_gets_nothing_until_it_has_the_right_ones() {
    let mut w = pair();
    let (right, text) = (w.cluster.config.clone(), w.toml());
    keygen(&w.dir().join("other.psk"));
    let foreign = w.dir().join("foreign.key");
    let attackers = keygen(&foreign);
    let wrong = w.dir().join("wrong.toml");
    let key = w.cluster.nodes[w.cluster.node("EU1")].data.join("node.key");
    let own = fs::read(&key).expect("node.key");

    w.start(&["NA1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    for (toml, node_key, reasons) in [
        (
            text.replace("local.psk", "other.psk"),
            own.clone(),
            &["wrong_mac"][..],
        ),
        (
            text.replace(&public_key(&w, "EU1"), &attackers),
            fs::read(&foreign).expect("foreign.key"),
            &["unknown_node", "wrong_handshake"],
        ),
    ] {
        fs::write(&wrong, toml).expect("written");
        fs::write(&key, node_key).expect("written");
        w.cluster.config.clone_from(&wrong);
        w.start(&["EU1"]);
        let dropped = |w: &Files| -> f64 {
            let of = |r: &&str| {
                w.metric(
                    "NA1",
                    &format!("prism_datagrams_dropped_total{{reason=\"{r}\"}}"),
                )
            };
            reasons.iter().map(of).sum()
        };
        w.wait("NA1 has dropped its handshakes", || dropped(&w) >= 3.0);
        assert_eq!(w.metric("NA1", "prism_peer_up{node=\"EU1\"}"), 0.0);
        assert_eq!(w.metric("EU1", "prism_peer_up{node=\"NA1\"}"), 0.0);
        w.kill("EU1");
        assert_eq!(w.kills(&["EU"], "steve"), ["0"]);
    }
    fs::write(&key, own).expect("written");
    w.cluster.config = right;
    w.start(&["EU1"]);
    w.wait_acked("NA1", "EU");
    assert_eq!(w.kills(&["EU"], "steve"), ["1"]);
}

#[test]
fn a_nodes_key_changes_while_updates_flow() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1)], "");
    w.start(&["NA1", "EU1"]);
    let (text, old) = (w.toml(), public_key(&w, "NA1"));
    let data = w.cluster.nodes[w.cluster.node("NA1")].data.clone();
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait_acked("NA1", "EU");
    let next = keygen(&data.join("next.key"));
    let line = format!("public_key = \"{old}\"");
    let both = text.replace(&line, &format!("{line}\nnext_public_key = \"{next}\""));
    let after = text.replace(&old, &next);

    let watch = Watch::start(&w, "NA1", "prism_peer_up{node=\"EU1\"} 1");
    // Everybody knows both; NA1 changes over; everybody forgets the old one.
    let mut sent = 1;
    let mut step = |w: &Files, toml: &str, nodes: &[&str]| {
        w.write_toml(toml);
        hangup(w, nodes);
        for node in ["NA1", "EU1"] {
            w.submit(node, &[kills("steve", 1)]);
            sent += 1;
        }
        w.wait_acked("NA1", "EU");
        w.wait_acked("EU1", "NA");
        let all = sent.to_string();
        assert_eq!(w.kills(&["NA", "EU"], "steve"), [all.clone(), all]);
    };
    step(&w, &both, &["NA1", "EU1"]);
    fs::rename(data.join("next.key"), data.join("node.key")).expect("renamed");
    step(&w, &both, &["NA1"]);
    let check = ["check", "--node", "NA1", "--data-dir"];
    let told = w
        .cluster
        .prism(&[&check[..], &[&data.to_string_lossy()]].concat());
    assert!(told.expect("check").contains("it is the next one"));
    step(&w, &after, &["NA1", "EU1"]);
    watch.held();

    for node in ["NA1", "EU1"] {
        assert_eq!(w.status(node).alarms, [], "{node}");
    }
    for (node, peer) in [("NA1", "EU"), ("EU1", "NA")] {
        let lane = w.lane(node, peer);
        assert_eq!((lane.failovers, lane.direct_writes), (0, 0), "{lane:?}");
    }
    // The new key is the only one from now on.
    w.kill("NA1");
    w.start(&["NA1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait_acked("NA1", "EU");
    assert_eq!(w.lane("NA1", "EU").direct_writes, 0);
}

/// Looks again and again whether a line stands in a node's metrics.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u32, u32)>,
}

impl Watch {
    fn start(w: &Files, node: &str, line: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (http, ending) = (w.cluster.http(), Arc::clone(&stop));
        let address = w.cluster.nodes[w.cluster.node(node)].http;
        let thread = std::thread::spawn(move || {
            let (mut seen, mut missed) = (0, 0);
            while !ending.load(Ordering::Relaxed) || seen + missed == 0 {
                let answer = http.get(format!("http://{address}/metrics")).call();
                let text = answer.expect("metrics").body_mut().read_to_string();
                match text.expect("text").lines().any(|l| l == line) {
                    true => seen += 1,
                    false => missed += 1,
                }
            }
            (seen, missed)
        });
        Self { stop, thread }
    }

    /// It has always been there.
    fn held(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (seen, missed) = self.thread.join().expect("watches");
        assert!(seen > 0 && missed == 0, "seen {seen}, missed {missed}");
    }
}

/// All nodes change over within the life of a session: the sessions outlast the gap.
#[test]
fn the_pre_shared_key_changes_while_updates_flow() {
    let mut w = pair();
    w.start(&["NA1", "EU1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait_acked("NA1", "EU");
    keygen(&w.dir().join("next.psk"));
    fs::rename(w.dir().join("next.psk"), w.dir().join("local.psk")).expect("renamed");
    for (node, done) in [("NA1", "2"), ("EU1", "3")] {
        hangup(&w, &[node]);
        w.submit("NA1", &[kills("steve", 1)]);
        w.wait_acked("NA1", "EU");
        assert_eq!(w.kills(&["EU"], "steve"), [done]);
    }
    let lane = w.lane("NA1", "EU");
    assert_eq!((lane.failovers, lane.direct_writes), (0, 0), "{lane:?}");
    // With the new one: the old session is over.
    w.kill("EU1");
    w.submit("NA1", &[kills("steve", 1)]);
    w.start(&["EU1"]);
    w.wait_acked("NA1", "EU");
}

#[test]
fn a_broken_configuration_is_an_alarm_and_the_old_one_goes_on() {
    let mut w = pair();
    w.start(&["NA1", "EU1"]);
    let text = w.toml();
    let psk = w.dir().join("local.psk");
    let hup = |w: &Files| w.cluster.signal(w.cluster.node("NA1"), Signal::SIGHUP);
    let alarm = |w: &Files, says: &str| {
        w.wait(&format!("an alarm says: {says}"), || {
            let alarm = w.alarm("NA1", "config-not-reloaded");
            alarm.is_some_and(|a| a.detail.contains(says) && a.remedy.contains("SIGHUP"))
        });
    };
    let mut sent = 0;
    let mut flows = |w: &Files| {
        sent += 1;
        w.submit("NA1", &[kills("steve", 1)]);
        w.wait_acked("NA1", "EU");
        assert_eq!(w.kills(&["EU"], "steve"), [sent.to_string()]);
    };

    w.write_toml("cluster = ");
    hup(&w);
    alarm(&w, "not TOML");
    flows(&w);
    w.write_toml(&text.replace("name = \"NA1\"", "name = \"NA9\""));
    hup(&w);
    alarm(&w, "has no node NA1 any more");
    w.write_toml(&text);
    fs::set_permissions(&psk, Permissions::from_mode(0o644)).expect("chmod");
    hup(&w);
    alarm(&w, "chmod 600");
    flows(&w);
    let right = fs::read(&psk).expect("psk");
    fs::set_permissions(&psk, Permissions::from_mode(0o600)).expect("chmod");
    fs::write(&psk, "not a key\n").expect("written");
    hup(&w);
    alarm(&w, "44 characters of base64");
    flows(&w);

    // What only a restart takes up is named; the rest is in force.
    fs::write(&psk, right).expect("written");
    w.write_toml(&format!("{text}\n[limits]\nretention = \"48h\"\n"));
    hangup(&w, &["NA1"]);
    w.wait("an alarm names [limits]", || {
        w.alarm("NA1", "restart-needed")
            .is_some_and(|a| a.detail.contains("[limits]"))
    });
    assert!(w.alarm("NA1", "config-not-reloaded").is_none());
    w.write_toml(&text);
    hangup(&w, &["NA1"]);
    w.wait("no alarm stands", || w.status("NA1").alarms.is_empty());
    flows(&w);
}

/// Its process still runs and has good keys, and it gets nothing more.
#[test]
fn a_node_that_is_taken_out_of_the_configuration_is_cut_off() {
    let mut w = Files::plan(&[("NA", 1), ("EU", 2)], "", Some("EU"));
    w.start(&["NA1", "EU1", "EU2"]);
    let up = |w: &Files, node: &str| w.metric("NA1", &format!("prism_peer_up{{node=\"{node}\"}}"));
    w.wait("all talk to each other", || {
        up(&w, "EU1") == 1.0 && up(&w, "EU2") == 1.0
    });
    let text = w.toml();
    let from = text.find("[[region.node]]\nname = \"EU2\"").expect("EU2");
    let len = text[from..].find("\n\n").expect("the end of its section");
    w.write_toml(&[&text[..from], &text[from + len..]].concat());
    hangup(&w, &["NA1"]);
    w.wait("EU2 is cut off", || up(&w, "EU2") == 0.0);
    let refused = r#"prism_datagrams_dropped_total{reason="unknown_node"}"#;
    w.wait("EU2 calls in vain", || w.metric("NA1", refused) >= 3.0);
    assert_eq!((up(&w, "EU1"), up(&w, "EU2")), (1.0, 0.0));
    let alarm = w.alarm("NA1", "restart-needed").expect("topology");
    assert!(alarm.detail.contains("nodes"), "{}", alarm.detail);
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait_acked("NA1", "EU");
    // Back again.
    w.write_toml(&text);
    hangup(&w, &["NA1"]);
    w.wait("EU2 is taken again", || up(&w, "EU2") == 1.0);
}

#[test]
fn another_catalogue_is_an_alarm_until_it_is_the_same() {
    let mut w = pair();
    let (right, text) = (w.cluster.config.clone(), w.toml());
    let wrong = w.dir().join("wrong.toml");
    fs::write(&wrong, text.replace("\"note\"", "\"remark\"")).expect("written");
    w.start(&["NA1"]);
    w.cluster.config = wrong;
    w.start(&["EU1"]);
    for (node, other) in [("NA1", "EU1"), ("EU1", "NA1")] {
        w.wait("the alarm names the node", || {
            w.alarm(node, "catalogue-differs")
                .is_some_and(|a| a.detail.contains(other))
        });
    }
    w.kill("EU1");
    w.cluster.config = right;
    w.start(&["EU1"]);
    w.wait("the alarm is over", || {
        w.alarm("NA1", "catalogue-differs").is_none()
    });
}

/// A process that the cluster does not know of; ends with the test.
struct Twin(Child);

impl Drop for Twin {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A copied data directory, started on other ports beside the original.
#[test]
fn the_same_identity_twice_is_an_alarm() {
    let mut w = pair();
    w.start(&["NA1", "EU1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait_acked("NA1", "EU");
    let (na, eu) = (w.cluster.node("NA1"), w.cluster.node("EU1"));
    let free = || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.local_addr().expect("bound").to_string()
    };
    // Past the relay, which knows only the original.
    let text = (w.toml())
        .replace(&w.cluster.nodes[na].udp.to_string(), &free())
        .replace(&w.cluster.nodes[na].http.to_string(), &free())
        .replace(
            &w.cluster.relay.public(eu).to_string(),
            &w.cluster.nodes[eu].udp.to_string(),
        );
    let toml = w.dir().join("twin.toml");
    fs::write(&toml, text).expect("written");
    let copy = w.dir().join("copy");
    fs::create_dir(&copy).expect("a directory");
    for file in ["node.key", "boot"] {
        let from: PathBuf = w.cluster.nodes[na].data.join(file);
        fs::copy(from, copy.join(file)).expect(file);
    }
    let log = fs::File::create(w.dir().join("twin.log")).expect("a log");
    let twin = Command::new(PRISM)
        .args(["node", "--node", "NA1", "--config"])
        .arg(&toml)
        .arg("--data-dir")
        .arg(&copy)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("starts");
    let _twin = Twin(twin);
    w.wait("EU1 tells of two NA1", || {
        w.alarm("EU1", "same-identity")
            .is_some_and(|a| a.detail.contains("NA1") && a.remedy.contains("docs/security.md"))
    });
}

/// EU1 runs with a configuration that makes it a node of NA: each of the two says what the other knows
/// it has no right to say.
#[test]
fn a_node_that_speaks_for_another_region_is_shut_out() {
    let mut w = pair();
    let text = w.toml();
    let (before, eu1) = text
        .split_once("[[region.node]]\nname = \"EU1\"")
        .expect("EU1");
    let key = format!("public_key = \"{}\"\n", public_key(&w, "EU1"));
    let (eu1, after) = eu1.split_once(&key).expect("its key");
    let eu1 = format!("[[region.node]]\nname = \"EU1\"{eu1}{key}");
    let nobody = format!(
        "[[region.node]]\nname = \"EU9\"\nudp = \"127.0.0.1:9\"\nhttp = \"127.0.0.1:10\"\npublic_key = \"{}\"\n",
        keygen(&w.dir().join("nobody.key"))
    );
    let (na, eu) = before
        .split_once("\n[[region]]\nname = \"EU\"")
        .expect("EU");
    let wrong = format!("{na}{eu1}\n[[region]]\nname = \"EU\"{eu}{nobody}{after}");
    let rogue = w.dir().join("rogue.toml");
    fs::write(&rogue, wrong).expect("written");

    w.start(&["NA1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    w.cluster.config = rogue;
    w.start(&["EU1"]);
    w.wait("a violation is told", || {
        [("NA1", "EU1"), ("EU1", "NA1")]
            .iter()
            .any(|(node, other)| {
                w.alarm(node, "violation")
                    .is_some_and(|a| a.detail.contains(other))
                    && w.metric(
                        node,
                        &format!("prism_peer_violations_total{{node=\"{other}\"}}"),
                    ) > 0.0
            })
    });
    w.wait("its handshakes are dropped", || {
        let dropped = "prism_datagrams_dropped_total{reason=\"shut_out\"}";
        w.metric("NA1", dropped) + w.metric("EU1", dropped) > 0.0
    });
    assert_eq!(
        w.kills(&["EU"], "steve"),
        ["0"],
        "nothing was written there"
    );
}

/// It was started far in the future, and nothing tells it so any more.
#[test]
fn a_node_that_has_lost_its_counter_of_starts_is_named() {
    let mut w = pair();
    let boot = w.cluster.nodes[w.cluster.node("NA1")].data.join("boot");
    fs::write(&boot, "9000000000000000000\n").expect("written");
    w.start(&["NA1", "EU1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait_acked("NA1", "EU");
    w.kill("NA1");
    fs::remove_file(&boot).expect("removed");
    w.start(&["NA1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait("EU1 names it", || {
        w.alarm("EU1", "handshake-stale")
            .is_some_and(|a| a.detail.contains("NA1") && a.remedy.contains("boot"))
    });
    assert_eq!(w.kills(&["EU"], "steve"), ["1"]);
    // As the remedy says.
    w.kill("EU1");
    w.start(&["EU1"]);
    w.wait_acked("NA1", "EU");
    assert_eq!(w.kills(&["EU"], "steve"), ["2"]);
}
