//! What an endpoint is built from.

use std::net::SocketAddr;
use std::time::Duration;

use prism_proto::{ConfigError, MTU_STEPS, NodeId, RegionId, Retry};
use zeroize::Zeroizing;

use crate::session;

/// One node of the cluster.
#[derive(Debug, Clone)]
pub struct NodeAddress {
    /// Its name, unique in the cluster, e.g. `EU1`.
    pub name: String,
    /// The region that it serves.
    pub region: RegionId,
    /// Where its datagrams go, until it is heard from elsewhere.
    pub udp: SocketAddr,
    /// The public keys (X25519) by which it is known, the one to call it with first. Two while its
    /// key is rotated; none if the cluster is [`Protection::Open`].
    pub public_keys: Vec<[u8; 32]>,
}

/// What this node proves itself with. Overwritten with zeroes when dropped.
#[derive(Clone)]
pub struct SessionKeys {
    /// Its own X25519 private key.
    pub private: Zeroizing<[u8; 32]>,
    /// The cluster's pre-shared key.
    pub psk: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKeys(..)")
    }
}

/// How packets are protected. Nothing is negotiated: a sealed endpoint never takes an open packet.
#[derive(Debug, Clone, Default)]
pub enum Protection {
    /// Not at all: sessions with keys that anyone can compute, packets in the clear. For clusters
    /// whose configuration has no keys (the driver then binds loopback only), and to measure what
    /// encryption costs.
    #[default]
    Open,
    /// Authenticated and encrypted.
    Sealed(SessionKeys),
}

/// One region of the cluster.
#[derive(Debug, Clone)]
pub struct RegionInfo {
    /// Its name, unique in the cluster, e.g. `EU`.
    pub name: String,
    /// Whether this node can write to its database by SQL.
    pub direct: bool,
}

/// What may grow no further (all have defaults).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest body of a datagram on any path. 1198 and the 34 bytes around it fit into every IPv6
    /// path.
    pub mtu: u16,
    /// Larger bodies that a busy lane tries on its path, in rising order: those that fill, by IPv6,
    /// the 1420 bytes of a tunnel, the 1500 of an Ethernet, and the 9000 of a data centre's.
    pub mtu_steps: [u16; MTU_STEPS],
    /// Updates in flight per lane and per inlet.
    pub window: u32,
    /// Bytes that may be unacknowledged on the way to one node: no more than its socket buffer holds.
    pub in_flight: u32,
    /// Bytes received but not yet applied, per inlet.
    pub window_bytes: u32,
    /// Largest update.
    pub max_update: u32,
    /// Most updates in one apply transaction.
    pub max_apply: u32,
    /// Bytes of own updates kept in memory for the lanes; as many again at most for updates
    /// fetched from the outbox for lanes that are behind.
    pub payload_bytes: usize,
    /// Number of own updates kept in memory, likewise.
    pub payload_count: usize,
    /// A session is replaced by one with fresh keys after this time ...
    pub rekey_after: Duration,
    /// ... or so many packets ...
    pub rekey_packets: u64,
    /// ... and is not used any longer than this, whether it could be replaced or not.
    pub session_ends: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mtu: 1198,
            mtu_steps: [1338, 1418, 8918],
            window: 4096,
            in_flight: 192 << 10,
            window_bytes: 4 << 20,
            max_update: 256 << 10,
            max_apply: 512,
            payload_bytes: 32 << 20,
            payload_count: 256 << 10,
            // WireGuard's times (6.1); fewer packets than it allows, because that costs nothing.
            rekey_after: Duration::from_secs(120),
            rekey_packets: 1 << 32,
            session_ends: Duration::from_secs(180),
        }
    }
}

/// Everything an [`Endpoint`](crate::Endpoint) is built from.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// This node: index into `nodes`.
    pub me: NodeId,
    /// All nodes, index = `NodeId`; the order within a region is the failover order.
    pub nodes: Vec<NodeAddress>,
    /// All regions, index = `RegionId`.
    pub regions: Vec<RegionInfo>,
    /// Retransmission and failover.
    pub retry: Retry,
    /// Limits of memory and batches.
    pub limits: Limits,
    /// From the operating system's entropy; a different one at every start, because it also names
    /// this process to the others. In a simulation: whatever is to be repeated.
    pub seed: u64,
    /// The cluster's name; nodes of another cluster are not talked to.
    pub cluster: String,
    /// How packets are protected.
    pub protection: Protection,
    /// Larger than at any earlier start of this node: by it the others tell its handshakes from
    /// replayed ones.
    pub boot: u64,
    /// Digest of the catalogue, told to the others.
    pub catalogue: u64,
}

/// What can change while the loop runs. Sessions whose keys are still accepted stay.
#[derive(Debug, Clone)]
pub struct Reload {
    /// As in [`EndpointConfig`]; [`Protection::Open`] and `Sealed` are not exchanged for each other.
    pub protection: Protection,
    /// The nodes of [`EndpointConfig`] in the same order; addresses and keys may differ. One that
    /// was taken out of the cluster has no keys: it gets nothing any more.
    pub nodes: Vec<NodeAddress>,
    /// As in [`EndpointConfig`].
    pub catalogue: u64,
}

impl Reload {
    /// Whether it fits node `me`, which runs with `protection`.
    ///
    /// # Errors
    /// [`EndpointError`] names what does not fit.
    pub fn check(&self, me: NodeId, protection: &Protection) -> Result<(), EndpointError> {
        if std::mem::discriminant(&self.protection) != std::mem::discriminant(protection) {
            return Err(EndpointError::OtherProtection);
        }
        keys_fit(me, &self.nodes, &self.protection)
    }
}

/// Whether every node can be told by its keys, and this one has the key that belongs to it.
pub(crate) fn check_keys(
    me: NodeId,
    nodes: &[NodeAddress],
    protection: &Protection,
) -> Result<(), EndpointError> {
    let keyless = nodes.iter().find(|node| node.public_keys.is_empty());
    match (keyless, protection) {
        (Some(node), Protection::Sealed(_)) => Err(EndpointError::NoKey(node.name.clone())),
        _ => keys_fit(me, nodes, protection),
    }
}

/// The same; another node may have no key: it was taken out of the cluster.
fn keys_fit(
    me: NodeId,
    nodes: &[NodeAddress],
    protection: &Protection,
) -> Result<(), EndpointError> {
    let Protection::Sealed(own) = protection else {
        return Ok(());
    };
    for (i, node) in nodes.iter().enumerate() {
        let name = || node.name.clone();
        match node.public_keys.len() {
            0..=2 => {}
            many => return Err(EndpointError::TooManyKeys(name(), many)),
        }
        if node.public_keys.iter().any(session::is_low_order) {
            return Err(EndpointError::WeakKey(name()));
        }
        let same = |other: &&NodeAddress| {
            (other.public_keys.iter()).any(|key| node.public_keys.contains(key))
        };
        if let Some(other) = nodes[..i].iter().find(same) {
            return Err(EndpointError::SameKey(other.name.clone(), name()));
        }
    }
    match nodes.get(usize::from(me.0)) {
        None => Err(EndpointError::NoSuchNode(me.0, nodes.len())),
        Some(node)
            if node
                .public_keys
                .contains(&session::public_key(&own.private)) =>
        {
            Ok(())
        }
        Some(node) => Err(EndpointError::ForeignKey(node.name.clone())),
    }
}

/// Why an endpoint cannot be built from an [`EndpointConfig`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// `me` is not an index into `nodes`.
    #[error("this node has index {0}, but the cluster has only {1} nodes")]
    NoSuchNode(u16, usize),
    /// Two nodes share a name, or their names hash alike.
    #[error("the nodes {0} and {1} cannot be told apart; rename one of them")]
    SameIdentity(String, String),
    /// A cluster with keys, and a node without.
    #[error("node {0} has no public key; give it a public_key (`prism pubkey` prints it)")]
    NoKey(String),
    /// More keys than a rotation needs.
    #[error("node {0} has {1} public keys; at most two are accepted, while its key is rotated")]
    TooManyKeys(String, usize),
    /// A key by which everybody could pass for the node.
    #[error("the public key of node {0} is not a usable X25519 key; make one with `prism keygen`")]
    WeakKey(String),
    /// Two nodes with one key.
    #[error("the nodes {0} and {1} have the same public key; make a key for each of them")]
    SameKey(String, String),
    /// The others would refuse this node.
    #[error(
        "the private key is not the one of node {0}: none of its public keys belongs to it; put \
         the right key into place, or its public key into the configuration"
    )]
    ForeignKey(String),
    /// [`Protection`] cannot be exchanged while the loop runs.
    #[error("packets cannot be sealed or opened up while the node runs; restart it")]
    OtherProtection,
    /// The core refuses the configuration.
    #[error("the cluster's configuration does not fit: {0}")]
    Core(#[from] ConfigError),
}
