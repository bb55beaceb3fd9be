//! What `GET /v1/status` answers (a fixed interface) and where the runtime keeps it.

use serde::{Deserialize, Serialize};

/// The whole answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the node.
    pub node: String,
    /// Name of its region.
    pub region: String,
    /// Epoch of the region's stream, as a decimal string's number (u64).
    pub epoch: u64,
    /// The number that the next update gets.
    pub next_seq: u64,
    /// All lanes of the region; those that a sibling holds as the database knows them.
    pub lanes: Vec<Lane>,
    /// One per peer region.
    pub inlets: Vec<Inlet>,
    /// What is wrong now.
    pub alarms: Vec<Alarm>,
    /// The file spool.
    pub journal: Journal,
    /// Unresolved rejected updates.
    pub rejected: u64,
}

/// Delivery of the region's stream to one peer region.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// Peer region.
    pub region: String,
    /// Node that holds the lane.
    pub holder: Option<String>,
    /// A node's name, `direct` or `parked`.
    pub target: Option<String>,
    /// Newest committed update.
    pub tail: u64,
    /// Newest update that the peer's database has committed.
    pub acked: u64,
    /// `tail - acked`.
    pub lag_updates: u64,
    /// Age of the oldest update that is not acknowledged.
    pub lag_seconds: f64,
    /// Smoothed round-trip time to the target.
    pub rtt_ms: Option<f64>,
    /// Updates sent again.
    pub retransmits: u64,
    /// Changes to a worse rung.
    pub failovers: u64,
    /// Updates written by direct SQL.
    pub direct_writes: u64,
    /// Longest silence before a failover.
    #[serde(default)]
    pub failover_ms: f64,
    /// Updates that the peer's database has refused for good since this node started.
    #[serde(default)]
    pub refused: u64,
}

/// Reception of one peer region's stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Inlet {
    /// Peer region.
    pub region: String,
    /// Watermark.
    pub applied: u64,
    /// Node that sends.
    pub from: Option<String>,
    /// `idle`, `opening`, `running`, `waiting: <why>`.
    pub state: String,
    /// Updates applied by this node since its start.
    #[serde(default)]
    pub executed: u64,
    /// Updates received again and suppressed since its start.
    #[serde(default)]
    pub duplicates: u64,
}

/// Something that somebody should know or do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// Stable name, e.g. `parked`, `fork`, `drift`, `stuck`, `rejected`.
    pub name: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// What exactly.
    pub detail: String,
    /// What to do.
    pub remedy: String,
}

/// Figures of the file spool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// Updates that wait in it.
    pub entries: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Where HTTP gets it from; implemented by the runtime.
pub trait Board: Send + Sync + 'static {
    /// The current status.
    fn status(&self) -> Status;
    /// Able to accept updates: `Ok`, or why not.
    ///
    /// # Errors
    /// The reason, for people.
    fn ready(&self) -> Result<(), String>;
    /// Prometheus text.
    fn metrics(&self) -> String;
}
