//! Row locks: who has one, who queues for it, who waits for whom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::rows::Key;

/// A transaction. Never used again, whatever happens to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TxId(pub u64);

/// How much of a row a transaction wants for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    /// It must stay (`FOR KEY SHARE`: a foreign key).
    Share,
    /// Its values (`FOR NO KEY UPDATE`).
    Write,
    /// All of it (`FOR UPDATE`, DELETE).
    Whole,
}

impl Mode {
    fn conflicts(self, other: Self) -> bool {
        match (self, other) {
            (Self::Share, other) | (other, Self::Share) => other == Self::Whole,
            _ => true,
        }
    }
}

#[derive(Debug, Default)]
struct Lock {
    holders: Vec<(TxId, Mode)>,
    queue: VecDeque<(TxId, Mode)>,
}

/// All locks of a server.
#[derive(Debug, Default)]
pub(super) struct Locks {
    locks: BTreeMap<Key, Lock>,
    waiting: BTreeMap<TxId, Key>,
}

impl Locks {
    /// Takes the lock if nobody is in the way; the first attempt of a waiter puts it into the queue.
    /// `Some(true)`: it is new.
    pub fn take(&mut self, tx: TxId, key: &Key, mode: Mode) -> Option<bool> {
        let lock = self.locks.entry(key.clone()).or_default();
        let held = lock.holders.iter_mut().find(|(holder, _)| *holder == tx);
        if let Some((_, held)) = &held
            && *held >= mode
        {
            return Some(false);
        }
        let is_new = held.is_none();
        let others = |(other, theirs): &(TxId, Mode)| *other != tx && mode.conflicts(*theirs);
        // Whoever has the row already goes first, as nobody in the queue could get it before.
        let ahead = lock.queue.iter().take_while(|(other, _)| *other != tx);
        let blocked =
            lock.holders.iter().any(others) || (is_new && ahead.copied().any(|w| others(&w)));
        if blocked {
            if !lock.queue.iter().any(|(other, _)| *other == tx) {
                lock.queue.push_back((tx, mode));
            }
            self.waiting.insert(tx, key.clone());
            return None;
        }
        lock.queue.retain(|(other, _)| *other != tx);
        self.waiting.remove(&tx);
        match lock.holders.iter_mut().find(|(holder, _)| *holder == tx) {
            Some((_, held)) => *held = mode,
            None => lock.holders.push((tx, mode)),
        }
        Some(is_new)
    }

    /// Waits no more; the transaction is lost with that.
    pub fn give_up(&mut self, tx: TxId) {
        if let Some(key) = self.waiting.remove(&tx) {
            self.leave(&key, tx);
        }
    }

    /// A transaction has ended.
    pub fn release(&mut self, tx: TxId, keys: &[Key]) {
        self.give_up(tx);
        for key in keys {
            self.leave(key, tx);
        }
    }

    fn leave(&mut self, key: &Key, tx: TxId) {
        let Some(lock) = self.locks.get_mut(key) else {
            return;
        };
        lock.queue.retain(|(other, _)| *other != tx);
        lock.holders.retain(|(other, _)| *other != tx);
        if lock.holders.is_empty() && lock.queue.is_empty() {
            self.locks.remove(key);
        }
    }

    /// Whether anybody waits at all.
    pub fn is_contended(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Everybody that waits.
    pub fn waiters(&self) -> impl Iterator<Item = TxId> {
        self.waiting.keys().copied()
    }

    /// The transactions that keep this one waiting, also in the queue in front of it.
    pub fn blockers(&self, tx: TxId) -> Vec<TxId> {
        let Some(lock) = self.waiting.get(&tx).and_then(|key| self.locks.get(key)) else {
            return Vec::new();
        };
        let mode = lock.queue.iter().find(|(other, _)| *other == tx);
        let Some(&(_, mode)) = mode else {
            return Vec::new();
        };
        let ahead = lock.queue.iter().take_while(|(other, _)| *other != tx);
        let all = lock.holders.iter().chain(ahead);
        all.filter(|(other, theirs)| *other != tx && mode.conflicts(*theirs))
            .map(|(other, _)| *other)
            .collect()
    }

    /// All that this one waits for, directly or through others.
    pub fn behind(&self, tx: TxId) -> BTreeSet<TxId> {
        let mut found = BTreeSet::new();
        let mut open = self.blockers(tx);
        while let Some(next) = open.pop() {
            if found.insert(next) {
                open.extend(self.blockers(next));
            }
        }
        found
    }

    /// Whether it waits, in the end, for itself.
    pub fn is_deadlocked(&self, tx: TxId) -> bool {
        self.behind(tx).contains(&tx)
    }

    /// Nobody holds anything any more.
    pub fn clear(&mut self) {
        self.locks.clear();
        self.waiting.clear();
    }
}
