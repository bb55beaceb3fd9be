//! What an engine must know before its first event.

use core::fmt;
use core::time::Duration;

use crate::{MTU_STEPS, NodeId, RegionId, RegionKey};

/// One node of the cluster.
#[derive(Debug, Clone, Copy)]
pub struct NodeConfig {
    /// Its index: position `i` of [`Config::nodes`] has `NodeId(i)`.
    pub id: NodeId,
    /// The region that it serves.
    pub region: RegionId,
}

/// One region of the cluster.
#[derive(Debug, Clone, Copy)]
pub struct RegionConfig {
    /// Its index: position `i` of [`Config::regions`] has `RegionId(i)`.
    pub id: RegionId,
    /// Its name on the wire.
    pub key: RegionKey,
    /// Whether this node can open a SQL connection to the region's database (the `Direct` rung).
    pub direct: bool,
}

/// How a lane chooses among the healthy nodes of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// The first healthy node in the order of the configuration.
    #[default]
    Ordered,
    /// The healthy node with the lowest round-trip time.
    Fastest,
}

/// The retransmit schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Retry {
    /// Unanswered retransmissions per node before the next rung.
    pub max_retries: u8,
    /// First timeout while there is no round-trip sample.
    pub initial: Duration,
    /// Cap of the exponential backoff.
    pub max: Duration,
    /// Floor of the timeout once there are samples: a scheduling hiccup must not look like a death.
    pub min: Duration,
    /// Choice among healthy nodes.
    pub policy: Policy,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_retries: 5,
            initial: Duration::from_millis(200),
            max: Duration::from_millis(800),
            min: Duration::from_millis(20),
            policy: Policy::Ordered,
        }
    }
}

/// Everything an engine is built from.
#[derive(Debug, Clone, Copy)]
pub struct Config<'c> {
    /// This node.
    pub me: NodeId,
    /// All nodes; the order within a region is the failover order.
    pub nodes: &'c [NodeConfig],
    /// All regions.
    pub regions: &'c [RegionConfig],
    /// Seed of jitter and of the incarnation number; take it from the operating system's entropy.
    pub seed: u64,
    /// Retransmission and failover.
    pub retry: Retry,
    /// Largest datagram that every path carries, in bytes of plaintext.
    pub mtu: u16,
    /// Larger datagrams that a busy lane tries on its path (RFC 8899), in rising order; 0: none.
    pub mtu_steps: [u16; MTU_STEPS],
    /// Updates in flight per lane and per inlet (a power of two, at most 4096).
    pub window: u32,
    /// Bytes received but not yet applied per inlet; advertised as credit.
    pub window_bytes: u32,
    /// Largest update in bytes: at most `window_bytes`, and 256 datagrams of `mtu`.
    pub max_update: u32,
    /// Most updates in one `Apply`.
    pub max_apply: u32,
    /// An ACK waits at most this long for company.
    pub max_ack_delay: Duration,
    /// An idle link is probed this often.
    pub keep_alive: Duration,
    /// A better rung must have answered this long before a lane climbs back to it.
    pub climb_after: Duration,
    /// A receiver that acknowledges "received" but applies nothing counts as alive this long.
    pub apply_timeout: Duration,
    /// First and longest pause of a parked lane before it tries its ladder again.
    pub park: (Duration, Duration),
    /// Bytes that may be unacknowledged on the way to one node (fixed congestion window). More
    /// than the receiver's socket buffer holds is lost in bursts.
    pub in_flight: u32,
}

impl<'c> Config<'c> {
    /// The defaults of a server on a network with an MTU of 1500 or less.
    #[must_use]
    pub fn new(
        me: NodeId,
        nodes: &'c [NodeConfig],
        regions: &'c [RegionConfig],
        seed: u64,
    ) -> Self {
        Self {
            me,
            nodes,
            regions,
            seed,
            retry: Retry::default(),
            mtu: 1200,
            mtu_steps: [0; MTU_STEPS],
            window: 4096,
            window_bytes: 4 << 20,
            max_update: 256 << 10,
            max_apply: 512,
            max_ack_delay: Duration::from_millis(5),
            keep_alive: Duration::from_secs(1),
            climb_after: Duration::from_secs(2),
            apply_timeout: Duration::from_secs(30),
            park: (Duration::from_secs(1), Duration::from_secs(30)),
            in_flight: 192 << 10,
        }
    }
}

/// Why an engine cannot be built from a [`Config`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// More regions than the core has room for.
    TooManyRegions,
    /// More nodes than the core has room for.
    TooManyNodes,
    /// A node or region stands at another index than its id, or names a region that is missing.
    BadIndex,
    /// Two regions share a [`RegionKey`]; rename one.
    KeyCollision,
    /// The window is not a power of two, or the storage handed in does not have that size.
    BadWindow,
    /// `mtu`, `window_bytes` or `max_update` do not fit together.
    BadSize,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyRegions => "more regions than the core has room for",
            Self::TooManyNodes => "more nodes than the core has room for",
            Self::BadIndex => "a node or region stands at another index than its id",
            Self::KeyCollision => "two region names hash to the same key; rename one",
            Self::BadWindow => "the window must be a power of two and match the storage",
            Self::BadSize => "mtu, window_bytes and max_update do not fit together",
        })
    }
}

impl core::error::Error for ConfigError {}
