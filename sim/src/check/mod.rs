//! What must always be true, and what must be true at the end. Each invariant has a name, by which a
//! failing run is told and the canaries are listed; a file is one group of them.

pub mod acks;
pub mod answers;
pub mod ledger;
pub mod outcome;
pub mod quiet;
pub mod rest;

use std::cell::{Cell, RefCell};
use std::fmt;

pub use acks::watch;

use crate::sched::World;

macro_rules! invariants {
    ($($(#[$doc:meta])+ $name:ident = $text:literal,)+) => {
        /// What must be true.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Invariant {
            $($(#[$doc])+ $name,)+
        }

        impl Invariant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

invariants! {
    /// Every update takes effect once in every database, in the order of its stream.
    ExactlyOnceInOrder = "exactly once, in order",
    /// What was acknowledged takes effect.
    NothingLost = "nothing acknowledged is lost",
    /// A lane is acknowledged no further than the peer's database has committed.
    AckAfterCommit = "ACK only after commit",
    /// A watermark does not go back within a generation of its database.
    WatermarkMonotone = "watermarks only go forward",
    /// When everything has healed, all databases have the same rows.
    Equal = "equal databases",
    /// What was refused or undone has no effect anywhere.
    UndoneLeavesNothing = "undo leaves no trace",
    /// A database refuses for good only what it must.
    RefusedRightly = "only what must be is refused",
    /// An awaited write was applied everywhere, or nowhere.
    AwaitTellsTruth = "await tells the truth",
    /// The same request always gets the same answer.
    AnswersAgree = "answers agree",
    /// Memory and files stay within limits.
    WithinLimits = "within limits",
    /// A lane is delivered by one node of its region at a time.
    OneHolder = "one node holds a lane",
    /// When all is well every lane is back at a node.
    ClimbsBack = "lanes climb back",
    /// When there is nothing to do, nothing is left over of what was done.
    NothingLeft = "nothing is left over",
    /// An idle cluster is quiet.
    Quiet = "no storm when idle",
    /// It comes to its end.
    Progress = "progress",
    /// Nothing panics.
    NoPanic = "no panic",
    /// The same seed is the same run.
    Repeatable = "the same seed, the same run",
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What must be true.
    pub invariant: Invariant,
    /// What is.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// What a run has found, and what excuses it.
#[derive(Default)]
pub struct Check {
    findings: RefCell<Vec<Finding>>,
    notes: RefCell<Vec<String>>,
    /// Regions whose database has lost commits that it had acknowledged.
    disasters: RefCell<Vec<usize>>,
    /// Regions with a node whose journal was lost with its disk.
    journals: RefCell<Vec<usize>>,
    adopted: Cell<bool>,
    /// See [`acks`].
    pub acks: acks::Acks,
    /// See [`rest`].
    pub lanes: rest::Lanes,
}

impl Check {
    /// It is not as it must be.
    pub fn fail(&self, world: &World, invariant: Invariant, what: String) {
        world.say(format_args!("FOUND {invariant}: {what}"));
        self.findings.borrow_mut().push(Finding { invariant, what });
    }

    /// Something to be known if the run fails.
    pub fn note(&self, world: &World, what: String) {
        world.say(format_args!("note: {what}"));
        self.notes.borrow_mut().push(what);
    }

    /// Whether something was found.
    #[must_use]
    pub fn has_found(&self) -> bool {
        !self.findings.borrow().is_empty()
    }

    /// What was found.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        self.findings.borrow().clone()
    }

    /// A database has lost commits: what it had promised alone may be gone.
    pub fn disaster(&self, region: usize) {
        self.disasters.borrow_mut().push(region);
    }

    /// Whether that has happened to any.
    #[must_use]
    pub fn had_disaster(&self) -> bool {
        !self.disasters.borrow().is_empty()
    }

    /// Whether it has happened to this one.
    #[must_use]
    pub fn had_disaster_at(&self, region: usize) -> bool {
        self.disasters.borrow().contains(&region)
    }

    /// A node's disk is gone.
    pub fn journal_lost(&self, region: usize) {
        self.journals.borrow_mut().push(region);
    }

    /// Whether that has happened to one of this region's.
    #[must_use]
    pub fn lost_journal_at(&self, region: usize) -> bool {
        self.journals.borrow().contains(&region)
    }

    /// A region was rebuilt from another.
    pub fn adopted(&self) {
        self.adopted.set(true);
    }

    /// Whether one was.
    #[must_use]
    pub fn has_adopted(&self) -> bool {
        self.adopted.get()
    }
}
