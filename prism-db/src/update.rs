//! The encoded update: what travels in datagrams and lies in the outbox.

use prism_proto::{RegionKey, Seq, Tag};
use serde::{Deserialize, Serialize};

use crate::Value;

/// Identity of one version of a statement: a hash of its definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest(pub [u8; 16]);

/// Hybrid logical clock: milliseconds since 1970 in the upper 48 bits, a counter below.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct Hlc(pub u64);

/// One update as every region sees it. Encoded with postcard behind a version byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// Identity of this update.
    pub tag: Tag,
    /// Tag of the update before it in the stream (0 before the first): a chain that shows a fork.
    pub prev_tag: Tag,
    /// Version of the statement.
    pub statement: Digest,
    /// Bound parameters, generated ones included.
    pub params: Vec<Value>,
    /// What the statement's `old` query gave at the origin.
    pub old: Vec<Value>,
    /// When it committed, for last-writer-wins.
    pub hlc: Hlc,
    /// Rows affected at the origin.
    pub rows: u64,
    /// Watermarks that the origin's database had applied.
    pub seen: Vec<(RegionKey, Seq)>,
    /// This update undoes that one of the same stream.
    pub undoes: Option<Seq>,
    /// Held by an awaited write; not final yet.
    pub held: bool,
    /// The caller's id.
    pub request_id: Option<[u8; 16]>,
}

/// The bytes are no update of a version that is known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// Written by a newer version of Prism.
    #[error("update format version {0} is not known here; upgrade this node")]
    Version(u8),
    /// Not decodable.
    #[error("update is malformed")]
    Malformed,
}
