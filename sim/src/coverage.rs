//! Which faults have struck in which phase of a cluster's life.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use crate::cluster::{Kind, Kinds};

macro_rules! phases {
    ($($(#[$doc:meta])+ $name:ident = $text:literal,)+) => {
        /// What a cluster is doing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Phase {
            $($(#[$doc])+ $name,)+
        }

        impl Phase {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// For people.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

phases! {
    /// Nothing is on its way.
    Idle = "idle",
    /// Updates are on their way.
    Sending = "sending",
    /// Some are sent again.
    Retransmitting = "sent again",
    /// A lane goes to another node than the first.
    FailedOver = "failed over",
    /// A lane writes by SQL.
    Direct = "direct",
    /// A journal holds updates.
    Spooled = "spooled",
    /// A write awaits all regions.
    Awaiting = "awaiting",
    /// Something is being undone.
    Undoing = "undoing",
    /// A node is starting.
    Restarting = "restarting",
    /// A region was rebuilt.
    Adopting = "adopting",
}

/// Which of them a cluster is in.
pub type Phases = u16;

/// Of one run.
#[derive(Debug, Default)]
pub struct Coverage {
    /// By node.
    now: RefCell<Vec<Phases>>,
    /// Phases that are told by events last until then.
    until: RefCell<[Duration; Phase::ALL.len()]>,
    /// Writes that await all regions.
    pub awaiting: Cell<u32>,
    struck: RefCell<Vec<(Kind, Phases)>>,
}

/// How long something is under way that is told by one event.
const LASTS: Duration = Duration::from_millis(700);

impl Coverage {
    /// A node is in these phases now.
    pub fn set(&self, node: usize, phases: Phases) {
        let mut now = self.now.borrow_mut();
        if now.len() <= node {
            now.resize(node + 1, 0);
        }
        now[node] = phases;
    }

    /// Something has happened that belongs to this phase.
    pub fn enter(&self, phase: Phase, now: Duration) {
        self.until.borrow_mut()[phase as usize] = now + LASTS;
    }

    /// A region is being rebuilt until then.
    pub fn adopting(&self, until: Duration) {
        self.until.borrow_mut()[Phase::Adopting as usize] = until;
    }

    fn phases(&self, now: Duration) -> Phases {
        let mut phases = self.now.borrow().iter().fold(0, |all, one| all | one);
        for (i, until) in self.until.borrow().iter().enumerate() {
            phases |= u16::from(*until > now) << i;
        }
        if self.awaiting.get() > 0 {
            phases |= 1 << Phase::Awaiting as u8;
        }
        if phases == 0 {
            phases = 1 << Phase::Idle as u8;
        }
        phases
    }

    /// A fault has struck.
    pub fn strikes(&self, kind: Kind, now: Duration) {
        let now = self.phases(now);
        let mut struck = self.struck.borrow_mut();
        match struck.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, phases)) => *phases |= now,
            None => struck.push((kind, now)),
        }
    }

    /// What was struck, and when.
    #[must_use]
    pub fn struck(&self) -> Vec<(Kind, Phases)> {
        self.struck.borrow().clone()
    }
}

/// Of many runs: how many have had a fault in a phase.
#[derive(Debug, Clone, Default)]
pub struct Table {
    cells: Vec<[u64; Phase::ALL.len()]>,
}

impl Table {
    /// One more run.
    pub fn add(&mut self, struck: &[(Kind, Phases)]) {
        self.cells.resize(Kind::ALL.len(), [0; Phase::ALL.len()]);
        for (kind, phases) in struck {
            for (i, cell) in self.cells[*kind as usize].iter_mut().enumerate() {
                *cell += u64::from(phases >> i & 1);
            }
        }
    }

    /// Those of other runs.
    pub fn merge(&mut self, other: &Self) {
        self.cells.resize(Kind::ALL.len(), [0; Phase::ALL.len()]);
        for (row, others) in self.cells.iter_mut().zip(&other.cells) {
            for (cell, other) in row.iter_mut().zip(others) {
                *cell += other;
            }
        }
    }

    /// Faults that never struck in a phase.
    #[must_use]
    pub fn empty(&self, kinds: Kinds) -> Vec<(Kind, Phase)> {
        let mut empty = Vec::new();
        for kind in kinds.iter() {
            for (i, phase) in Phase::ALL.iter().enumerate() {
                let cell = self.cells.get(kind as usize).map_or(0, |row| row[i]);
                if cell == 0 {
                    empty.push((kind, *phase));
                }
            }
        }
        empty
    }

    /// For people.
    #[must_use]
    pub fn show(&self) -> String {
        let mut text = format!("{:<12}", "");
        for phase in Phase::ALL {
            text += &format!("{:>13}", phase.name());
        }
        text.push('\n');
        for (kind, row) in Kind::ALL.iter().zip(&self.cells) {
            text += &format!("{:<12}", kind.name());
            for cell in row {
                text += &format!("{cell:>13}");
            }
            text.push('\n');
        }
        text
    }
}
