//! Refusals on their way to the origin.
//!
//! ```text
//!   region that refused                                     origin
//!   Event::Refused --> Untold -- Nack::Refused (repeated) --> Heard --> Output::PeerRefused
//!                        |                                      |
//!   Output::RefusalTold <-+------------ RefusedAck ------------+<-- Event::RefusalHandled
//! ```
//!
//! Neither list is a store: the database of the region that refused is. What finds no room, is lost
//! or dies with a process is told again, until the origin has dealt with it durably.

use core::time::Duration;

use heapless::Vec;

use crate::{Epoch, Instant, Refusal, Seq, backoff};

/// Refusals under way at a time, per stream.
const MAX: usize = 16;
/// A refusal is repeated after this long, and doubling up to that long.
const REPEAT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What this region's database has refused of one stream and its origin has not confirmed.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Untold {
    /// Ascending: the lowest hold back `clean`, so they go first.
    list: Vec<Mine, MAX>,
    /// When they are told (again).
    pub(crate) at: Option<Instant>,
    attempt: u8,
}

#[derive(Debug, Clone, Copy, Hash)]
struct Mine {
    refusal: Refusal,
    /// The origin has dealt with it; the host has to be told.
    told: bool,
}

impl Untold {
    pub(crate) const fn new() -> Self {
        Self {
            list: Vec::new(),
            at: None,
            attempt: 0,
        }
    }

    /// Takes one on. Without room the highest gives way: the host feeds it again.
    pub(crate) fn add(&mut self, refusal: Refusal, now: Instant) {
        let at = self.list.partition_point(|e| e.refusal.seq < refusal.seq);
        if (self.list.get(at)).is_some_and(|e| e.refusal.seq == refusal.seq) {
            return;
        }
        if self.list.is_full() {
            if at == MAX {
                return;
            }
            self.list.pop();
        }
        let told = false;
        let _fits = self.list.insert(at, Mine { refusal, told });
        self.attempt = 0;
        self.at = Some(now);
    }

    /// They are told now; sets when to repeat them.
    pub(crate) fn repeat(&mut self, now: Instant) {
        let more = self.to_tell().next().is_some() && !canary!(RefusalToldOnce);
        self.at = more.then(|| now.after(backoff::next(self.attempt, REPEAT.0, REPEAT.1, 0)));
        self.attempt = self.attempt.saturating_add(1);
    }

    /// The origin has dealt with it.
    pub(crate) fn confirm(&mut self, epoch: Epoch, seq: Seq) {
        let known = |e: &&mut Mine| (e.refusal.epoch, e.refusal.seq) == (epoch, seq);
        if let Some(entry) = self.list.iter_mut().find(known) {
            entry.told = true;
        }
        if self.to_tell().next().is_none() {
            self.at = None;
        }
    }

    /// The stream has another numbering: what was refused of the old one is nothing to its origin.
    pub(crate) fn renumber(&mut self, epoch: Epoch) {
        self.list.retain(|e| e.refusal.epoch == epoch);
    }

    /// One that the host has to be told of: its origin knows.
    pub(crate) fn next_told(&mut self) -> Option<(Epoch, Seq)> {
        let at = self.list.iter().position(|e| e.told)?;
        let refusal = self.list.remove(at).refusal;
        Some((refusal.epoch, refusal.seq))
    }

    /// Those that the origin has not dealt with, as far as is known.
    pub(crate) fn to_tell(&self) -> impl Iterator<Item = &Refusal> {
        self.list.iter().filter(|e| !e.told).map(|e| &e.refusal)
    }
}

/// What a peer region says that it has refused of the own stream.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Heard {
    list: Vec<Entry, MAX>,
}

#[derive(Debug, Clone, Copy, Hash)]
struct Entry {
    refusal: Refusal,
    /// Links that have told it, as bits.
    from: u64,
    /// The host has to be told (again).
    due: bool,
}

impl Heard {
    pub(crate) const fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// Told by the node of this link, for the first time or again.
    pub(crate) fn hear(&mut self, refusal: Refusal, link: usize) {
        let from = 1 << (link % 64);
        if let Some(known) = self.list.iter_mut().find(|e| e.refusal.seq == refusal.seq) {
            known.refusal = refusal;
            known.from |= from;
            known.due = true;
            return;
        }
        if self.list.is_full() {
            // One that the host has heard of; if it still matters it is told again.
            let Some(at) = self.list.iter().position(|e| !e.due) else {
                return;
            };
            self.list.remove(at);
        }
        let entry = Entry {
            refusal,
            from,
            due: true,
        };
        let _fits = self.list.push(entry);
    }

    /// One that the host has to be told of.
    pub(crate) fn next(&mut self) -> Option<Refusal> {
        let entry = self.list.iter_mut().find(|e| e.due)?;
        entry.due = false;
        Some(entry.refusal)
    }

    /// The host has dealt with it: its epoch, and the links that wait to hear that, as bits.
    pub(crate) fn handled(&mut self, seq: Seq) -> Option<(Epoch, u64)> {
        let at = self.list.iter().position(|e| e.refusal.seq == seq)?;
        let entry = self.list.remove(at);
        Some((entry.refusal.epoch, entry.from))
    }
}
