//! Identities and stream numbers.

use serde::{Deserialize, Serialize};

/// Index of a node in the cluster's configuration (dense, local; never on the wire).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// Index of a region in the cluster's configuration (dense, local; never on the wire).
///
/// A region and the stream it originates share this id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(pub u16);

/// What names a region on the wire: a hash of its name, the same on every node however the
/// configuration file is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RegionKey(pub u32);

impl RegionKey {
    /// FNV-1a (32 bit) of the region's name. Configurations in which two names collide are refused.
    #[must_use]
    pub const fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        let mut hash: u32 = 0x811c_9dc5;
        let mut i = 0;
        while i < bytes.len() {
            hash ^= bytes[i] as u32;
            hash = hash.wrapping_mul(0x0100_0193);
            i += 1;
        }
        Self(hash)
    }
}

/// Number of an update in its stream: 1, 2, 3, ... in the commit order of its origin. 0 is
/// "nothing yet".
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first update.
    pub const ZERO: Self = Self(0);

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Identity of a stream's numbering: random, made when the region's database is initialised,
/// adopted or reset. 0 means "not known yet".
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// A random number per update: tells which update it was that carried a seq.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Tag(pub u64);

/// How far a stream has been applied in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// The numbering that `seq` belongs to.
    pub epoch: Epoch,
    /// Highest applied update.
    pub seq: Seq,
    /// Its tag; 0 when `seq` is 0.
    pub tag: Tag,
}
