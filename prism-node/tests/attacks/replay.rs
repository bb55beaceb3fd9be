//! Somebody on the way records everything, and sends it again later.

use std::time::Duration;

use prism_node::demo::relay::{Heard, Link};

use crate::common::files::Files;
use crate::target::{Strangers, count_up, dropped, dropped_in_all, log, metric, udp, wait_kills};

/// An initiation's length; nobody gets more for less.
const INITIATION: usize = 176;

/// Everything again that was meant for `node`, from strangers' addresses, and then an update of its
/// own, which must go to where its peer is; what comes back to the strangers.
fn again(w: &Files, heard: &[Heard], node: &str) -> Vec<Vec<u8>> {
    let (to, mut strangers) = (w.cluster.node(node), Strangers::new(2));
    let mut packets = heard.iter().filter(|packet| packet.to == to).peekable();
    while packets.peek().is_some() {
        for packet in packets.by_ref().take(100) {
            strangers.send(udp(w, node), &packet.bytes);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    count_up(w, node, 1);
    strangers.answers()
}

fn kinds(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut kinds: Vec<u8> = packets.iter().map(|packet| packet[0]).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

#[test]
fn recorded_packets_are_worth_nothing_now_elsewhere_or_after_restarts() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1)], "");
    w.cluster.relay.listen();
    w.start(&["NA1", "EU1"]);
    count_up(&w, "NA1", 30);
    count_up(&w, "EU1", 10);
    wait_kills(&w, &["NA", "EU"], 40);
    w.wait_acked("NA1", "EU");
    w.wait_acked("EU1", "NA");
    let heard = w.cluster.relay.heard();
    let calls = heard.iter().filter(|packet| packet.bytes[0] == 1).count();
    assert!(calls > 0 && heard.len() > calls + 4, "a handshake and data");

    // In the same session, from the sender's own address.
    let eu = w.cluster.node("EU1");
    // (A copy of a call that waits for its first data may be answered: the answer was lost.)
    let is_data = |packet: &&Heard| packet.to == eu && packet.bytes[0] == 4;
    let meant = heard.iter().filter(is_data).count() as u64;
    let before = dropped_in_all(&w, "EU1");
    for packet in &heard {
        w.cluster
            .relay
            .inject(packet.from, packet.to, &packet.bytes)
            .expect("sent");
    }
    w.wait("all of the data is dropped", || {
        dropped_in_all(&w, "EU1") >= before + meant
    });
    assert!(dropped(&w, "EU1", "replayed") > 0);
    // From another one, which they do not take for the sender's.
    for node in ["NA1", "EU1"] {
        assert_eq!(again(&w, &heard, node), [[0u8; 0]; 0], "answers of {node}");
    }
    count_up(&w, "NA1", 1);
    count_up(&w, "EU1", 1);
    wait_kills(&w, &["NA", "EU"], 44);
    for (node, peer) in [("NA1", "EU1"), ("EU1", "NA1")] {
        let stale = format!("prism_peer_stale_handshakes_total{{node=\"{peer}\"}}");
        assert_eq!(metric(&w, node, &stale), 0, "the same process is not stale");
    }

    // The receiver has been restarted, remembers nothing, and hears the recorded calls first.
    w.kill("EU1");
    w.link("NA1", "EU1", Link::CUT);
    w.start(&["EU1"]);
    let answers = again(&w, &heard, "EU1");
    assert!(
        kinds(&answers).iter().all(|kind| [2, 3].contains(kind)),
        "{:?}",
        kinds(&answers)
    );
    assert!(answers.iter().all(|answer| answer.len() <= INITIATION));
    assert!(answers.len() <= calls, "more answers than calls");
    assert_eq!(
        metric(&w, "EU1", "prism_peer_up{node=\"NA1\"}"),
        0,
        "a session with a record"
    );
    w.link("NA1", "EU1", Link::default());
    count_up(&w, "NA1", 1);
    wait_kills(&w, &["NA", "EU"], 46);

    // The sender has been restarted; its old calls are stale now, and that is shown.
    w.kill("NA1");
    w.start(&["NA1"]);
    count_up(&w, "NA1", 1);
    wait_kills(&w, &["NA", "EU"], 47);
    assert_eq!(
        w.alarm("EU1", "handshake-stale").map(|alarm| alarm.detail),
        None
    );
    assert_eq!(again(&w, &heard, "EU1"), [[0u8; 0]; 0]);
    w.wait("the alarm", || w.alarm("EU1", "handshake-stale").is_some());
    let alarm = w.alarm("EU1", "handshake-stale").expect("stands");
    assert!(
        alarm.detail.contains("NA1") && alarm.remedy.contains("replays"),
        "{alarm:?}"
    );
    assert_eq!(
        w.alarm("EU1", "same-identity").map(|alarm| alarm.detail),
        None
    );
    count_up(&w, "NA1", 1);
    wait_kills(&w, &["NA", "EU"], 49);

    // Both.
    w.kill("NA1");
    w.kill("EU1");
    w.start(&["NA1", "EU1"]);
    for node in ["NA1", "EU1"] {
        let answers = again(&w, &heard, node);
        assert!(
            answers.iter().all(|answer| answer.len() <= INITIATION),
            "{:?}",
            kinds(&answers)
        );
        assert!(answers.len() <= calls);
    }
    count_up(&w, "NA1", 1);
    count_up(&w, "EU1", 1);
    wait_kills(&w, &["NA", "EU"], 53);
    let written = log(&w, "EU1").len();
    assert!(written < 32 << 10, "{written} bytes of log");
    assert!(dropped_in_all(&w, "EU1") > 0);
}
