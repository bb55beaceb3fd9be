//! Own updates in memory, for the lanes to send.
//!
//! Two shelves of batches: `recent` holds what was committed last; `fetched` holds what the engine
//! asked for because a lane is further behind than that. Each is bounded. A flood of commits
//! therefore never pushes out what was just fetched, and a fetch always leaves at least its first
//! update on the shelf: every fetch makes progress.

use std::cell::Cell;
use std::collections::VecDeque;

use prism_proto::{Payloads, Position, RegionId, Seq};

use crate::host::Batch;
use crate::pool::Pool;

/// Batches with disjoint ranges of seqs, in order.
#[derive(Debug)]
struct Shelf {
    batches: VecDeque<Batch>,
    bytes: usize,
    updates: usize,
    /// Where the last look-up hit: the next one is the same or the next batch.
    near: Cell<usize>,
}

impl Shelf {
    fn new() -> Self {
        Self {
            batches: VecDeque::with_capacity(64),
            bytes: 0,
            updates: 0,
            near: Cell::new(0),
        }
    }

    fn get(&self, seq: Seq) -> Option<&[u8]> {
        let near = self.near.get();
        for at in [near, near + 1] {
            if let Some(update) = self.batches.get(at).and_then(|batch| batch.get(seq)) {
                self.near.set(at);
                return Some(update);
            }
        }
        let at = self.position(seq.0).checked_sub(1)?;
        let update = self.batches.get(at)?.get(seq)?;
        self.near.set(at);
        Some(update)
    }

    /// Number of batches that begin at or before `seq`.
    fn position(&self, seq: u64) -> usize {
        match self.batches.back() {
            Some(last) if last.first().0 <= seq => self.batches.len(),
            _ => self.batches.partition_point(|b| b.first().0 <= seq),
        }
    }

    fn take(&mut self, at: usize) -> Option<Batch> {
        let batch = self.batches.remove(at)?;
        self.bytes -= batch.footprint();
        self.updates -= batch.len();
        Some(batch)
    }

    fn put(&mut self, batch: Batch, pool: &mut Pool) {
        let mut at = self.position(batch.first().0);
        if let Some(before) = at.checked_sub(1)
            && self.batches[before].end() > batch.first().0
        {
            if self.batches[before].end() >= batch.end() {
                return pool.give(batch);
            }
            // A partial overlap: the newer batch wins; what is lost can be fetched again.
            at = before;
        }
        while (self.batches.get(at)).is_some_and(|old| old.first().0 < batch.end()) {
            if let Some(old) = self.take(at) {
                pool.give(old);
            }
        }
        self.bytes += batch.footprint();
        self.updates += batch.len();
        self.batches.insert(at, batch);
    }

    /// Drops the first batch.
    fn drop_first(&mut self, pool: &mut Pool) {
        if let Some(batch) = self.take(0) {
            pool.give(batch);
        }
        self.near.set(self.near.get().saturating_sub(1));
    }
}

/// The part of a fetch that has been asked for and not answered.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    from: u64,
    to: u64,
    /// One above the last update that found room.
    kept: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct PayloadCache {
    recent: Shelf,
    fetched: Shelf,
    limit_bytes: usize,
    limit_count: usize,
    window: u64,
    wanted: Option<Wanted>,
    /// Per region what its database has acknowledged, if this node holds the lane.
    lanes: Vec<Option<u64>>,
}

impl PayloadCache {
    pub(crate) fn new(regions: usize, bytes: usize, count: usize, window: u32) -> Self {
        Self {
            recent: Shelf::new(),
            fetched: Shelf::new(),
            limit_bytes: bytes,
            limit_count: count,
            window: window.into(),
            wanted: None,
            lanes: vec![None; regions],
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.recent.bytes + self.fetched.bytes
    }

    /// The lane to `peer` is held here and stands at `acked`; `None`: it is not held.
    pub(crate) fn lane(&mut self, peer: RegionId, acked: Option<Position>, pool: &mut Pool) {
        if let Some(lane) = self.lanes.get_mut(usize::from(peer.0)) {
            *lane = acked.map(|position| position.seq.0);
            self.trim(pool);
        }
    }

    /// The peer's database has committed up to here.
    pub(crate) fn acked(&mut self, peer: RegionId, position: Position, pool: &mut Pool) {
        if let Some(Some(acked)) = self.lanes.get_mut(usize::from(peer.0)) {
            *acked = position.seq.0;
            self.trim(pool);
        }
    }

    /// The stream has another numbering now.
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        for shelf in [&mut self.recent, &mut self.fetched] {
            while !shelf.batches.is_empty() {
                shelf.drop_first(pool);
            }
        }
        self.wanted = None;
    }

    /// What every held lane has behind it is not needed any more.
    fn trim(&mut self, pool: &mut Pool) {
        let Some(acked) = self.lanes.iter().flatten().min().copied() else {
            return;
        };
        for shelf in [&mut self.recent, &mut self.fetched] {
            while shelf.batches.front().is_some_and(|b| b.end() <= acked + 1) {
                shelf.drop_first(pool);
            }
        }
    }

    pub(crate) fn committed(&mut self, batch: Batch, pool: &mut Pool) {
        if batch.is_empty() {
            return pool.give(batch);
        }
        self.recent.put(batch, pool);
        while (self.recent.bytes > self.limit_bytes || self.recent.updates > self.limit_count)
            && self.recent.batches.len() > 1
        {
            self.recent.drop_first(pool);
        }
    }

    /// The engine has asked for this range.
    pub(crate) fn want(&mut self, from: Seq, to: Seq) {
        self.wanted = Some(Wanted {
            from: from.0,
            to: to.0,
            kept: from.0,
        });
    }

    /// Updates read from the outbox.
    pub(crate) fn loaded(&mut self, batch: Batch, pool: &mut Pool) {
        let Some(wanted) = self.wanted else {
            return self.committed(batch, pool);
        };
        let (first, end) = (batch.first().0, batch.end());
        if batch.is_empty() || first > wanted.to || end <= wanted.from {
            return self.committed(batch, pool);
        }
        let leads = first <= wanted.from;
        if !leads && first != wanted.kept {
            // Its predecessor found no room, so this one is of no use yet.
            return pool.give(batch);
        }
        self.make_room(batch.footprint(), batch.len(), wanted, leads, pool);
        if leads || self.fetched_has_room(batch.footprint(), batch.len()) {
            self.fetched.put(batch, pool);
            if let Some(wanted) = &mut self.wanted {
                wanted.kept = wanted.kept.max(end);
            }
        } else {
            pool.give(batch);
        }
    }

    fn fetched_has_room(&self, bytes: usize, updates: usize) -> bool {
        self.fetched.bytes + bytes <= self.limit_bytes
            && self.fetched.updates + updates <= self.limit_count
    }

    /// Evicts from the fetched shelf: first what no lane is about to send, then, for the start of
    /// a fetch, whatever is not part of it.
    fn make_room(
        &mut self,
        bytes: usize,
        updates: usize,
        wanted: Wanted,
        leads: bool,
        pool: &mut Pool,
    ) {
        for useful_too in [false, true] {
            let mut at = 0;
            while at < self.fetched.batches.len() && !self.fetched_has_room(bytes, updates) {
                let batch = &self.fetched.batches[at];
                let (first, end) = (batch.first().0, batch.end());
                let of_this_fetch = first < wanted.kept && end > wanted.from;
                let useful = (self.lanes.iter().flatten())
                    .any(|&acked| end > acked + 1 && first <= acked + self.window);
                if of_this_fetch || (useful && !(useful_too && leads)) {
                    at += 1;
                } else if let Some(batch) = self.fetched.take(at) {
                    pool.give(batch);
                }
            }
        }
    }

    /// The fetch is over and `upto` was the last update read: how far it found room.
    pub(crate) fn fetch_done(&mut self, upto: Seq) -> Seq {
        match self.wanted.take() {
            Some(wanted) => Seq(upto.0.min(wanted.kept.saturating_sub(1))),
            None => upto,
        }
    }
}

impl Payloads for PayloadCache {
    fn get(&self, seq: Seq) -> Option<&[u8]> {
        self.recent.get(seq).or_else(|| self.fetched.get(seq))
    }
}

#[cfg(test)]
mod tests;
