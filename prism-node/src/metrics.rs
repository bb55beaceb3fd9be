//! `GET /metrics`: the status and the workers' counters as Prometheus text.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use prism_net::{Drops, PeerInfo};

use crate::runtime::{Counters, JournalFigures};
use crate::status::Status;

/// What the status does not carry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) counters: Counters,
    pub(crate) datagrams_received: u64,
    pub(crate) datagrams_sent: u64,
    pub(crate) drops: Drops,
    /// Name and figures of every other node.
    pub(crate) peers: Vec<(String, PeerInfo)>,
    pub(crate) payload_bytes: u64,
    pub(crate) inbox_bytes: u64,
    pub(crate) sessions: u64,
    pub(crate) drift: u64,
    pub(crate) ready: bool,
    pub(crate) journal: JournalFigures,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Peer {
    region: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlarmName {
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeName {
    node: String,
}

type PerPeer = Family<Peer, Counter>;
type PeerGauge = Family<Peer, Gauge<f64, AtomicU64>>;

/// The text is made afresh for every scrape: the figures live where they arise, and a scrape is
/// rare.
pub(crate) fn encode(status: &Status, figures: &Figures) -> String {
    let mut registry = Registry::with_prefix("prism");
    lanes(&mut registry, status);
    inlets(&mut registry, status);
    node(&mut registry, status, figures);
    strangers(&mut registry, figures.drops);
    peers(&mut registry, &figures.peers);
    journal(&mut registry, figures.journal);
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = encode_text(&mut text, &registry);
    text
}

fn lanes(registry: &mut Registry, status: &Status) {
    let tail = PeerGauge::default();
    let acked = PeerGauge::default();
    let lag = PeerGauge::default();
    let age = PeerGauge::default();
    let rtt = PeerGauge::default();
    let silence = PeerGauge::default();
    let held = PeerGauge::default();
    let retransmits = PerPeer::default();
    let failovers = PerPeer::default();
    let direct = PerPeer::default();
    let refused = PerPeer::default();
    for lane in &status.lanes {
        let label = Peer {
            region: lane.region.clone(),
        };
        tail.get_or_create(&label).set(lane.tail as f64);
        acked.get_or_create(&label).set(lane.acked as f64);
        lag.get_or_create(&label).set(lane.lag_updates as f64);
        age.get_or_create(&label).set(lane.lag_seconds);
        if let Some(ms) = lane.rtt_ms {
            rtt.get_or_create(&label).set(ms / 1e3);
        }
        silence.get_or_create(&label).set(lane.failover_ms / 1e3);
        let mine = lane.holder.as_deref() == Some(status.node.as_str());
        held.get_or_create(&label).set(f64::from(u8::from(mine)));
        retransmits.get_or_create(&label).inc_by(lane.retransmits);
        failovers.get_or_create(&label).inc_by(lane.failovers);
        direct.get_or_create(&label).inc_by(lane.direct_writes);
        refused.get_or_create(&label).inc_by(lane.refused);
    }
    registry.register(
        "lane_tail",
        "Newest committed update of the own stream",
        tail,
    );
    registry.register(
        "lane_acked",
        "Newest update that the peer has committed",
        acked,
    );
    registry.register(
        "lane_lag_updates",
        "Updates that the peer does not have yet",
        lag,
    );
    registry.register_with_unit(
        "lane_lag",
        "Age of the oldest update that the peer does not have",
        Unit::Seconds,
        age,
    );
    registry.register_with_unit("lane_rtt", "Smoothed round-trip time", Unit::Seconds, rtt);
    registry.register_with_unit(
        "lane_failover_silence",
        "Longest silence before a change to a worse rung",
        Unit::Seconds,
        silence,
    );
    registry.register("lane_held", "1 if this node holds the lane", held);
    registry.register("lane_retransmits", "Updates sent again", retransmits);
    registry.register("lane_failovers", "Changes to a worse rung", failovers);
    registry.register(
        "lane_direct_writes",
        "Updates written by direct SQL",
        direct,
    );
    registry.register(
        "lane_refused",
        "Updates that the peer's database has refused for good",
        refused,
    );
}

fn inlets(registry: &mut Registry, status: &Status) {
    let applied = PeerGauge::default();
    let executed = PerPeer::default();
    let duplicates = PerPeer::default();
    for inlet in &status.inlets {
        let label = Peer {
            region: inlet.region.clone(),
        };
        applied.get_or_create(&label).set(inlet.applied as f64);
        executed.get_or_create(&label).inc_by(inlet.executed);
        duplicates.get_or_create(&label).inc_by(inlet.duplicates);
    }
    registry.register("inlet_applied", "Watermark of the stream", applied);
    registry.register("inlet_executed", "Updates applied by this node", executed);
    registry.register("inlet_duplicates", "Updates received again", duplicates);
}

fn node(registry: &mut Registry, status: &Status, figures: &Figures) {
    let alarms: Family<AlarmName, Gauge> = Family::default();
    for alarm in &status.alarms {
        let name = AlarmName {
            name: alarm.name.clone(),
        };
        alarms.get_or_create(&name).inc();
    }
    registry.register("alarms", "Alarms that stand, by name", alarms);
    let c = &figures.counters;
    for (name, help, value) in [
        (
            "submitted_updates",
            "Updates committed at this node",
            c.submitted,
        ),
        (
            "refused_updates",
            "Updates refused by the own database",
            c.refused,
        ),
        (
            "undone_updates",
            "Updates undone because a region refused them",
            c.undone,
        ),
        ("submit_batches", "Local transactions", c.submit_batches),
        ("apply_batches", "Apply transactions", c.apply_batches),
        (
            "database_errors",
            "Failed database operations",
            c.database_errors,
        ),
        (
            "notices_lost",
            "Log lines lost to a full queue",
            c.notices_lost,
        ),
        (
            "datagrams_received",
            "Datagrams received",
            figures.datagrams_received,
        ),
        ("datagrams_sent", "Datagrams sent", figures.datagrams_sent),
        (
            "drift",
            "Updates whose row count differed from the origin's",
            figures.drift,
        ),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    for (name, help, unit, value) in [
        (
            "next_seq",
            "Number that the next update gets",
            None,
            status.next_seq,
        ),
        (
            "rejected_updates",
            "Dead letters nobody has resolved",
            None,
            status.rejected,
        ),
        ("sessions", "Sessions that stand", None, figures.sessions),
        (
            "ready",
            "1 if updates are accepted",
            None,
            u64::from(figures.ready),
        ),
        (
            "payload",
            "Payloads in memory for the lanes",
            Some(Unit::Bytes),
            figures.payload_bytes,
        ),
        (
            "inbox",
            "Received updates that wait",
            Some(Unit::Bytes),
            figures.inbox_bytes,
        ),
    ] {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, gauge),
            None => registry.register(name, help, gauge),
        }
    }
}

fn strangers(registry: &mut Registry, drops: Drops) {
    let dropped: Family<Reason, Counter> = Family::default();
    for (reason, value) in [
        ("malformed", drops.malformed),
        ("unknown_session", drops.unknown_session),
        ("unknown_node", drops.unknown_node),
        ("replayed", drops.replayed),
        ("wrong_mac", drops.wrong_mac),
        ("wrong_handshake", drops.wrong_handshake),
        ("stale", drops.stale),
        ("not_authentic", drops.not_authentic),
        ("overload", drops.overload),
        ("shut_out", drops.shut_out),
        ("refused", drops.refused),
    ] {
        dropped.get_or_create(&Reason { reason }).inc_by(value);
    }
    registry.register(
        "datagrams_dropped",
        "Datagrams dropped without an answer, by reason",
        dropped,
    );
}

fn peers(registry: &mut Registry, peers: &[(String, PeerInfo)]) {
    type PerNode = Family<NodeName, Counter>;
    let up: Family<NodeName, Gauge> = Family::default();
    let (violations, stale, twins) = (PerNode::default(), PerNode::default(), PerNode::default());
    for (node, info) in peers {
        let label = NodeName { node: node.clone() };
        up.get_or_create(&label).set(i64::from(info.up));
        violations.get_or_create(&label).inc_by(info.violations);
        stale.get_or_create(&label).inc_by(info.stale);
        twins.get_or_create(&label).inc_by(info.twin);
    }
    registry.register("peer_up", "1 if a session with the node stands", up);
    registry.register(
        "peer_violations",
        "Datagrams of the node that said what it has no right to say",
        violations,
    );
    registry.register(
        "peer_stale_handshakes",
        "Handshakes of the node that were older than one seen before",
        stale,
    );
    registry.register(
        "peer_same_identity",
        "Handshakes of a second process that proves to be the node",
        twins,
    );
}

fn journal(registry: &mut Registry, figures: JournalFigures) {
    let gauge = |value: f64| {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        gauge
    };
    let age = figures.oldest.and_then(|at| at.elapsed().ok());
    registry.register(
        "journal_entries",
        "Updates that wait in the journal for the database",
        gauge(figures.entries as f64),
    );
    registry.register_with_unit(
        "journal",
        "The journal on disk",
        Unit::Bytes,
        gauge(figures.bytes as f64),
    );
    registry.register_with_unit(
        "journal_oldest",
        "Age of the oldest update in the journal",
        Unit::Seconds,
        gauge(age.map_or(0.0, |age| age.as_secs_f64())),
    );
    registry.register(
        "journal_latched",
        "1 if a disk error has ended all appending to the journal",
        gauge(f64::from(u8::from(figures.latched))),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Lane;

    #[test]
    fn names_begin_with_prism_and_carry_units() {
        let status = Status {
            node: "NA1".into(),
            lanes: vec![Lane {
                region: "EU".into(),
                holder: Some("NA1".into()),
                retransmits: 3,
                lag_seconds: 1.5,
                ..Lane::default()
            }],
            ..Status::default()
        };
        let text = encode(&status, &Figures::default());
        assert!(
            text.contains("prism_lane_retransmits_total{region=\"EU\"} 3"),
            "{text}"
        );
        assert!(
            text.contains("prism_lane_lag_seconds{region=\"EU\"} 1.5"),
            "{text}"
        );
        assert!(text.contains("prism_lane_held{region=\"EU\"} 1"), "{text}");
        assert!(
            text.lines()
                .all(|l| l.starts_with('#') || l.starts_with("prism_")),
            "{text}"
        );
    }
}
