//! Any datagrams from any address to an endpoint with keys: no panic, no answer, no memory.

use prism_proto::Instant;

use crate::cluster::{self, Database, Node};

/// See the module.
pub fn run(bytes: &[u8]) {
    let Some(datagrams) = super::structured::<Vec<(u8, Vec<u8>)>>(bytes) else {
        return;
    };
    let mut node = Node::start(&cluster::config(0, 1), Database::new(0));
    let mut out = Vec::new();
    for (i, (port, datagram)) in datagrams.iter().take(64).enumerate() {
        let now = Instant::from_micros(1 + i as u64 * 1000);
        // Some pretend to be a node.
        let from = match port {
            0..3 => cluster::home(u16::from(*port)),
            _ => cluster::elsewhere(*port),
        };
        node.receive(now, from, datagram);
        node.drain(now, &mut out);
    }
    for sent in &out {
        let at_home = (1..3).map(cluster::home).any(|home| home == sent.to);
        assert!(at_home, "an answer to a stranger");
    }
    node.assert_bounds();
}
