//! The state of a cluster: three nodes, what is under way between them, and the databases.

use super::hash::Wide;
use super::node::NODES;
use super::setup::Budget;

/// A process that does not run.
pub const DEAD: u32 = u32::MAX;

/// A short sorted list: equal as a set means equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct List<const N: usize> {
    len: u8,
    items: [u32; N],
}

impl<const N: usize> List<N> {
    /// Without anything.
    pub const EMPTY: Self = Self {
        len: 0,
        items: [0; N],
    };

    /// What is in it.
    #[must_use]
    pub fn items(&self) -> &[u32] {
        &self.items[..usize::from(self.len)]
    }

    /// Adds one.
    ///
    /// # Panics
    /// Without room: `N` is too small for what is searched.
    pub fn add(&mut self, item: u32) {
        let len = usize::from(self.len);
        let at = self.items[..len].partition_point(|other| *other < item);
        self.items.copy_within(at..len, at + 1);
        self.items[at] = item;
        self.len += 1;
    }

    /// Removes one that is in it.
    pub fn take(&mut self, item: u32) {
        self.keep_if(|other, found| other != item || found);
    }

    /// Keeps some; `found`: one has been dropped already.
    pub fn keep_if(&mut self, keep: impl Fn(u32, bool) -> bool) {
        let (all, mut found) = (*self, false);
        *self = Self::EMPTY;
        for item in all.items() {
            if keep(*item, found) {
                self.items[usize::from(self.len)] = *item;
                self.len += 1;
            } else {
                found = true;
            }
        }
    }
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A datagram of the engine.
    Datagram,
    /// The same once more, at any time.
    Copy,
    /// The first packet of a handshake.
    Call,
    /// Its answer.
    Response,
    /// The empty packet by which the caller shows that it has the answer.
    Confirm,
}

/// A packet on its way, in 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Sender.
    pub from: u8,
    /// Which process of the sender's, counting restarts.
    pub from_life: u8,
    /// Addressee.
    pub to: u8,
    /// Which process of it is meant; nothing for a call.
    pub to_life: u8,
    /// Of a datagram or a copy: its bytes.
    pub body: u32,
}

impl Message {
    /// As a number.
    ///
    /// # Panics
    /// Beyond four million different datagrams.
    #[must_use]
    pub fn pack(self) -> u32 {
        assert!(self.body < 1 << 22, "too many different datagrams");
        let what = match self.kind {
            Kind::Datagram => self.body << 2,
            Kind::Copy => self.body << 2 | 1,
            Kind::Call => 0b0010,
            Kind::Response => 0b0110,
            Kind::Confirm => 0b1010,
        };
        let small = [self.from, self.from_life, self.to, self.to_life];
        (small.iter()).fold(what, |packed, part| packed << 2 | u32::from(*part & 3))
    }

    /// Back from a number.
    #[must_use]
    pub fn unpack(packed: u32) -> Self {
        let part = |shift: u32| (packed >> shift & 3) as u8;
        let body = packed >> 10;
        let (kind, body) = match (part(8), body) {
            (0, body) => (Kind::Datagram, body),
            (1, body) => (Kind::Copy, body),
            (_, 0) => (Kind::Call, 0),
            (_, 1) => (Kind::Response, 0),
            _ => (Kind::Confirm, 0),
        };
        Self {
            kind,
            from: part(6),
            from_life: part(4),
            to: part(2),
            to_life: part(0),
            body,
        }
    }
}

/// What a database does for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Reads the watermark.
    Read,
    /// Applies a range.
    Apply,
    /// Judges a position.
    Verify,
    /// Reads a range of the outbox.
    Fetch,
    /// Writes a range from afar.
    Direct,
}

/// How far it is with that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing has happened.
    Asked,
    /// Committed (or read); the answer is on its way to the node.
    Done,
    /// Committed, but the node will hear of a failure.
    Broken,
    /// Asked by a process that does not live any more: the server may commit it, or not.
    Orphan,
}

/// One such thing, in 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Job {
    /// Who asked.
    pub node: u8,
    /// What for.
    pub task: Task,
    /// See there.
    pub phase: Phase,
    /// First of the range; once done: where the database is.
    pub a: u8,
    /// Last of the range.
    pub b: u8,
}

impl Job {
    /// As a number.
    #[must_use]
    pub fn pack(self) -> u32 {
        let word = [self.node, self.task as u8, self.phase as u8, self.a, self.b];
        (word.iter()).fold(0, |packed, part| packed << 4 | u32::from(*part & 15))
    }

    /// Back from a number.
    #[must_use]
    pub fn unpack(packed: u32) -> Self {
        let part = |shift: u32| (packed >> shift & 15) as u8;
        Self {
            node: part(16),
            task: match part(12) {
                0 => Task::Read,
                1 => Task::Apply,
                2 => Task::Verify,
                3 => Task::Fetch,
                _ => Task::Direct,
            },
            phase: match part(8) {
                0 => Phase::Asked,
                1 => Phase::Done,
                2 => Phase::Broken,
                _ => Phase::Orphan,
            },
            a: part(4),
            b: part(0),
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct World {
    /// State of each node, or [`DEAD`].
    pub nodes: [u32; NODES],
    /// How often each has been restarted.
    pub lives: [u8; NODES],
    /// Sessions: which process (counted from 1) of the second the first one knows; 0: none.
    pub known: [[u8; NODES]; NODES],
    /// Packets.
    pub flight: List<16>,
    /// Databases at work.
    pub jobs: List<8>,
    /// Updates in the outbox of NA.
    pub tail: u8,
    /// The watermark of EU: its database has exactly the updates 1 to here.
    pub applied: u8,
    /// The lane row of NA.
    pub row: u8,
    /// What may still happen.
    pub left: Budget,
    /// Timers fired, without anything under way, since something from outside has happened.
    pub patience: u8,
}

impl World {
    /// Stands for it.
    #[must_use]
    pub fn key(&self) -> u128 {
        Wide::of(&Self {
            patience: 0,
            ..*self
        })
    }

    /// Whether the process runs.
    #[must_use]
    pub fn alive(&self, node: u8) -> bool {
        self.nodes[usize::from(node)] != DEAD
    }

    /// Nothing is on its way, and no database will answer anybody.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let orphan = |job: &u32| Job::unpack(*job).phase == Phase::Orphan;
        self.flight.items().is_empty() && self.jobs.items().iter().all(orphan)
    }
}
