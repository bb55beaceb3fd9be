//! Somebody on the way sends packets back to their sender, and changes bits of others.

use prism_node::demo::relay::Link;

use crate::common::files::Files;
use crate::target::{alarms, count_up, dropped, dropped_in_all, wait_kills};

#[test]
fn a_nodes_own_packets_sent_back_to_it_are_dropped() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1)], "");
    w.cluster.relay.listen();
    w.start(&["NA1", "EU1"]);
    count_up(&w, "NA1", 30);
    count_up(&w, "EU1", 30);
    wait_kills(&w, &["NA", "EU"], 60);
    let heard = w.cluster.relay.heard();
    let before = alarms(&w, "NA1");
    let counted = dropped_in_all(&w, "NA1");
    let mut back = 0;
    for packet in &heard {
        // As if the other one had sent it.
        w.cluster
            .relay
            .inject(packet.to, packet.from, &packet.bytes)
            .expect("sent");
        back += u64::from(packet.from == w.cluster.node("NA1"));
    }
    w.wait("all are dropped", || {
        dropped_in_all(&w, "NA1") >= counted + back
    });
    assert_eq!(
        dropped(&w, "NA1", "refused"),
        0,
        "none has got as far as the core"
    );
    count_up(&w, "NA1", 1);
    count_up(&w, "EU1", 1);
    wait_kills(&w, &["NA", "EU"], 62);
    assert_eq!(alarms(&w, "NA1"), before);
}

#[test]
fn flipped_bits_cost_a_retransmission_and_nothing_else() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1)], "");
    w.start(&["NA1", "EU1"]);
    let bad = Link {
        damage: 0.05,
        ..Link::default()
    };
    w.link("NA1", "EU1", bad);
    std::thread::scope(|scope| {
        scope.spawn(|| count_up(&w, "NA1", 150));
        scope.spawn(|| count_up(&w, "EU1", 150));
    });
    wait_kills(&w, &["NA", "EU"], 300);
    w.link("NA1", "EU1", Link::default());
    let damaged = w.cluster.relay.counts().damaged;
    assert!(damaged > 5, "{damaged} damaged packets are too few to tell");
    w.wait("every damaged packet is dropped", || {
        dropped_in_all(&w, "NA1") + dropped_in_all(&w, "EU1") >= damaged
    });
    for node in ["NA1", "EU1"] {
        assert_eq!(
            dropped(&w, node, "refused"),
            0,
            "one has got as far as the core"
        );
        assert_eq!(alarms(&w, node), [""; 0]);
    }
}
