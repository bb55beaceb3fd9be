//! What is committed, what the newest commits were, and an independent look at each of them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use prism_db::Digest;
use prism_proto::{Epoch, Position, RegionKey, Seq, Tag};

use super::rows::{Key, Row, State};

/// Commits that can be lost by [`super::ModelServer::lose_newest`].
const HISTORY: usize = 256;

/// What became of one update in one database: written in its transaction, so it is there if and only
/// if that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execution {
    /// The stream's region.
    pub stream: RegionKey,
    /// The numbering.
    pub epoch: Epoch,
    /// The update.
    pub seq: Seq,
    /// Which one that was.
    pub tag: Tag,
    /// Which one it says comes before it.
    pub prev_tag: Tag,
    /// Version of its statement.
    pub statement: Digest,
    /// What was done.
    pub effect: Effect,
    /// Rows affected.
    pub rows: u64,
}

/// See [`Execution`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Its statement ran.
    Ran,
    /// The `undo` of the update that it names ran.
    Undid(Seq),
    /// It undoes something that has no effect here.
    NothingToUndo(Seq),
    /// Its client has submitted it in another region as well; that copy was dealt with.
    Double,
    /// Recorded as a dead letter.
    Rejected,
    /// Left out because the caller said so.
    Skipped,
    /// Published as held; it runs in its own transaction, or never.
    Published,
    /// A dead letter that was executed after all, out of its place.
    Retried,
}

/// What one commit replaced.
#[derive(Debug, Clone)]
struct Commit {
    before: Vec<(Key, Option<Row>)>,
    log: usize,
}

/// Committed rows. A clone shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    rows: BTreeMap<Key, Row>,
    /// Executions, in the order of their commits.
    pub log: Vec<Execution>,
    /// Next number of a dead letter; like a sequence it is not rolled back.
    pub letters: i64,
    /// Rows of `prism.request`.
    pub requests: u64,
    history: VecDeque<Commit>,
    /// How far each stream has been accounted for, by the log alone.
    witness: BTreeMap<RegionKey, Position>,
}

impl Store {
    pub fn get(&self, key: &Key) -> Option<&Row> {
        self.rows.get(key)
    }

    pub fn range(
        &self,
        from: Bound<&Key>,
        to: Bound<&Key>,
    ) -> impl DoubleEndedIterator<Item = (&Key, &Row)> {
        self.rows.range::<Key, _>((from, to))
    }

    /// Makes a transaction's writes everybody's. Returns what is wrong with it.
    pub fn commit(
        &mut self,
        writes: BTreeMap<Key, Option<Row>>,
        log: &[Execution],
    ) -> Option<String> {
        let wrong = self.look(&writes, log);
        let mut commit = Commit {
            before: Vec::with_capacity(writes.len()),
            log: self.log.len(),
        };
        for (key, row) in writes {
            let before = self.replace(key.clone(), row);
            commit.before.push((key, before));
        }
        self.log.extend_from_slice(log);
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(commit);
        wrong
    }

    fn replace(&mut self, key: Key, row: Option<Row>) -> Option<Row> {
        let is_request = matches!(key, Key::Request(_));
        let is_there = row.is_some();
        let before = match row {
            Some(row) => self.rows.insert(key, row),
            None => self.rows.remove(&key),
        };
        if is_request {
            self.requests += u64::from(is_there);
            self.requests -= u64::from(before.is_some());
        }
        before
    }

    /// The newest commits never happened; how many that was.
    pub fn lose(&mut self, count: usize) -> usize {
        let mut lost = 0;
        while lost < count
            && let Some(commit) = self.history.pop_back()
        {
            for (key, before) in commit.before {
                self.replace(key, before);
            }
            self.log.truncate(commit.log);
            lost += 1;
        }
        self.recall();
        lost
    }

    /// Nothing can be lost any more, as after a restore.
    pub fn forget_history(&mut self) {
        self.history.clear();
    }

    /// What the rows say is taken for granted from here on.
    pub fn recall(&mut self) {
        self.witness.clear();
        for (key, row) in &self.rows {
            match (key, row) {
                (Key::Region, Row::Region(own)) => {
                    let at = Position {
                        epoch: own.epoch,
                        seq: Seq(own.next_seq.0 - 1),
                        tag: own.last_tag,
                    };
                    self.witness.insert(RegionKey::of(&own.name), at);
                }
                (Key::Watermark(stream), Row::Watermark(row)) => {
                    self.witness.insert(*stream, row.at);
                }
                _ => {}
            }
        }
    }

    /// Every update of every stream is accounted for once, in the order of its numbers, each one
    /// behind the one whose tag it names: seen from what was done alone, not from how it was decided.
    fn look(&mut self, writes: &BTreeMap<Key, Option<Row>>, log: &[Execution]) -> Option<String> {
        let own = match self.rows.get(&Key::Region) {
            Some(Row::Region(own)) => RegionKey::of(&own.name),
            _ => return None,
        };
        let mut wrong = None;
        let outbox = Key::Outbox(Seq::ZERO)..Key::Held(Seq::ZERO);
        for (key, row) in writes.range(outbox) {
            let (Key::Outbox(seq), Some(Row::Outbox(row))) = (key, row) else {
                continue;
            };
            if self.rows.contains_key(key) {
                continue;
            }
            let at = self.witness.entry(own).or_default();
            if *seq != at.seq.next() || row.update.prev_tag != at.tag {
                wrong = Some(format!(
                    "own update {} continues tag {:016x}, but the newest is {at:?}",
                    seq.0, row.update.prev_tag.0
                ));
            }
            at.seq = *seq;
            at.tag = row.update.tag;
            if matches!(row.state, State::Held(_)) != row.update.held {
                wrong = Some(format!(
                    "own update {} is published in the wrong state",
                    seq.0
                ));
            }
        }
        for one in log {
            if one.stream == own || one.effect == Effect::Retried {
                continue;
            }
            let at = self.witness.entry(one.stream).or_default();
            let fresh = at.epoch == Epoch(0) && at.seq == Seq::ZERO;
            let follows = one.seq == at.seq.next() && one.prev_tag == at.tag;
            if !follows || (one.epoch != at.epoch && !fresh) {
                wrong = Some(format!("{one:?} comes behind {at:?}"));
            }
            *at = Position {
                epoch: one.epoch,
                seq: one.seq,
                tag: one.tag,
            };
        }
        let watermarks = Key::Watermark(RegionKey(0))..=Key::Watermark(RegionKey(u32::MAX));
        for (key, row) in writes.range(watermarks) {
            if let (Key::Watermark(stream), Some(Row::Watermark(row))) = (key, row)
                && self.witness.get(stream).is_some_and(|at| *at != row.at)
            {
                let at = self.witness.get(stream);
                wrong = Some(format!(
                    "the watermark of {} says {:?}, done is {at:?}",
                    row.stream, row.at
                ));
            }
        }
        wrong
    }
}
