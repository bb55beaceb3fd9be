//! What a run is drawn from: a seed, and what is left out of what the seed gives.

use std::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Something that goes wrong, or that people do meanwhile.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])+ $name,)+
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// As it is written.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

kinds! {
    /// Datagrams get lost, up to 40 %.
    Loss,
    /// Links carry nothing for a moment.
    Burst,
    /// Datagrams come twice.
    Duplicate,
    /// Datagrams overtake each other.
    Reorder,
    /// Datagrams are damaged.
    Corrupt,
    /// A region is cut off from another, one way.
    OneWay,
    /// A region is cut off from another, both ways.
    Partition,
    /// Nobody hears anybody by UDP: everything goes by SQL.
    Blocked,
    /// What a node sends comes from another address.
    Address,
    /// A node's process stands still.
    Pause,
    /// A node's process ends, at any step.
    Crash,
    /// The machine: what its disk had not made durable is lost or torn.
    PowerLoss,
    /// A node is stopped in order and started again.
    Restart,
    /// A node comes back without its data directory.
    Wipe,
    /// A second process with the same name runs beside a node.
    Clone,
    /// A machine's wall clock jumps.
    Clock,
    /// Small limits, many updates.
    Overload,
    /// The nodes get another catalogue, one after the other.
    Upgrade,
    /// Databases refuse updates: some are undone, some become dead letters.
    Refuse,
    /// Writes await all regions.
    Await,
    /// Applications write by SQL in their own transactions.
    Sql,
    /// Requests are repeated in another region.
    Elsewhere,
    /// The database has transient errors: deadlocks, timeouts, resources.
    Transient,
    /// Connections break, also during COMMIT.
    Ambiguous,
    /// The database stands still.
    Hang,
    /// The database ends and comes back.
    DbCrash,
    /// The database is away for a while.
    DbAway,
    /// A node cannot reach a database that others reach.
    NoWay,
    /// The newest commits are lost (a standby takes over).
    LoseNewest,
    /// The database comes from a backup.
    Restore,
    /// The disk has errors.
    DiskError,
    /// The disk is full.
    DiskFull,
    /// Writes take less than they are given.
    ShortWrite,
    /// A region is away for longer than others keep its updates.
    Stale,
    /// A region is rebuilt from another.
    Adopt,
}

/// A set of them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds(u64);

impl Kinds {
    /// None.
    pub const NONE: Self = Self(0);

    /// These.
    #[must_use]
    pub fn of(kinds: &[Kind]) -> Self {
        kinds.iter().fold(Self(0), |set, kind| set.with(*kind))
    }

    /// All.
    #[must_use]
    pub fn all() -> Self {
        Self::of(Kind::ALL)
    }

    /// Whether it is one of them.
    #[must_use]
    pub const fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// And this one.
    #[must_use]
    pub const fn with(self, kind: Kind) -> Self {
        Self(self.0 | (1 << kind as u8))
    }

    /// But this one.
    #[must_use]
    pub const fn without(self, kind: Kind) -> Self {
        Self(self.0 & !(1 << kind as u8))
    }

    /// One by one.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL
            .iter()
            .copied()
            .filter(move |kind| self.has(*kind))
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, kind) in self.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{}", kind.name())?;
        }
        Ok(())
    }
}

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Two regions of one or two nodes, a few updates, a few seconds.
    Small,
    /// Two to five regions of one to three nodes.
    Full,
}

/// One run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Everything is drawn from it.
    pub seed: u64,
    /// How large.
    pub size: Size,
    /// What the seed may give.
    pub only: Kinds,
    /// Updates of all clients, at most.
    pub updates: u32,
    /// Milliseconds until everything heals, at most.
    pub millis: u32,
}

impl Case {
    /// All that the seed gives.
    #[must_use]
    pub fn new(seed: u64, size: Size) -> Self {
        Self {
            seed,
            size,
            only: Kinds::all(),
            updates: u32::MAX,
            millis: u32::MAX,
        }
    }

    /// A small cluster.
    #[must_use]
    pub fn small(seed: u64) -> Self {
        Self::new(seed, Size::Small)
    }

    /// A large one.
    #[must_use]
    pub fn full(seed: u64) -> Self {
        Self::new(seed, Size::Full)
    }

    /// Only these faults.
    #[must_use]
    pub fn only(self, kinds: &[Kind]) -> Self {
        Self {
            only: Kinds::of(kinds),
            ..self
        }
    }

    /// No more updates than that.
    #[must_use]
    pub fn updates(self, updates: u32) -> Self {
        Self { updates, ..self }
    }

    /// No longer than that.
    #[must_use]
    pub fn millis(self, millis: u32) -> Self {
        Self { millis, ..self }
    }
}

/// As it is written in a test.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = match self.size {
            Size::Small => "small",
            Size::Full => "full",
        };
        write!(f, "Case::{size}({})", self.seed)?;
        if self.only != Kinds::all() {
            write!(f, ".only(&[{:?}])", self.only)?;
        }
        if self.updates != u32::MAX {
            write!(f, ".updates({})", self.updates)?;
        }
        if self.millis != u32::MAX {
            write!(f, ".millis({})", self.millis)?;
        }
        Ok(())
    }
}
