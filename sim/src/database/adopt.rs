//! What `prism adopt` does to the databases, in the order of its steps: each step is a transaction.

use std::ops::Bound::{Included, Unbounded};
use std::sync::Arc;

use prism_proto::{Epoch, Position, RegionKey, Seq};

use super::random::random_u64;
use super::rows::{Key, Lane, Region, Rejected, Row, State, Watermark};
use super::server::Data;
use super::{Backup, ModelServer, SEALED};

impl ModelServer {
    /// This database's watermark of `target` gets `epoch`, and its lane to `target` begins anew behind
    /// `lane` (`None`: the lane stays); nothing of the old numbering is told to anybody any more.
    /// Returns how far the watermark is.
    ///
    /// # Panics
    /// If the region is not known here.
    pub fn fence(&self, target: &str, epoch: Epoch, lane: Option<Position>) -> Position {
        let mut data = self.inner().data();
        let key = RegionKey::of(target);
        edit(&mut data, |rows| {
            let row = rows
                .get(&Key::Watermark(key))
                .expect("a region that is known");
            let mut row = Watermark::clone(&row.watermark());
            row.at.epoch = epoch;
            let at = row.at;
            rows.put(Key::Watermark(key), Arc::new(row));
            if let Some(acked) = lane
                && let Some(row) = rows.get(&Key::Lane(key))
            {
                let row = Lane::clone(&row.lane());
                let row = Lane {
                    acked,
                    stale: false,
                    ..row
                };
                rows.put(Key::Lane(key), Arc::new(row));
            }
            for (key, row) in rows.all() {
                if let Row::Rejected(row) = row
                    && row.row.stream == target
                    && !row.told
                {
                    let row = Rejected {
                        told: true,
                        ..Rejected::clone(&row)
                    };
                    rows.put(key, Arc::new(row));
                }
            }
            at
        })
    }

    /// From now on nobody can take this for a region's database, and no stream continues in it.
    pub fn seal(&self) {
        let mut data = self.inner().data();
        edit(&mut data, |rows| {
            for (key, row) in rows.all() {
                match row {
                    Row::Region(own) if !own.name.ends_with(SEALED) => {
                        let name = format!("{}{SEALED}", own.name);
                        let own = Region {
                            name,
                            ..Region::clone(&own)
                        };
                        rows.put(key, Arc::new(own));
                    }
                    Row::Watermark(row) => {
                        let mut row = Watermark::clone(&row);
                        row.at.epoch.0 = !row.at.epoch.0;
                        rows.put(key, Arc::new(row));
                    }
                    _ => {}
                }
            }
        });
        self.inner().cut(&mut data);
    }

    /// This database becomes a copy of the donor's, changed into that of region `target`. The donor has
    /// been fenced with `epoch` before the copy was made, and nothing is held in it.
    ///
    /// # Panics
    /// If that is not so.
    pub fn adopt_from(&self, donor: &Backup, target: &str, epoch: Epoch) {
        let mut data = self.inner().data();
        self.inner().cut(&mut data);
        data.store = donor.0.clone();
        data.generation += 1;
        edit(&mut data, |rows| {
            let own = rows
                .get(&Key::Region)
                .expect("the donor has a ledger")
                .region();
            let (key, donor_key) = (RegionKey::of(target), RegionKey::of(&own.name));
            let row = rows
                .get(&Key::Watermark(key))
                .expect("the donor knows the target");
            let row = row.watermark();
            assert_eq!(row.at.epoch, epoch, "the copy knows the new numbering");
            let clock = rows.all().into_iter().filter_map(|(_, row)| match row {
                Row::Watermark(row) => Some(row.hlc),
                _ => None,
            });
            let hlc = clock.max().map_or(own.hlc, |clock| clock.max(own.hlc));
            rows.delete(Key::Watermark(key));
            rows.put(
                Key::Watermark(donor_key),
                Arc::new(Watermark {
                    stream: own.name.clone(),
                    at: Position {
                        epoch: own.epoch,
                        seq: Seq(own.next_seq.0 - 1),
                        tag: own.last_tag,
                    },
                    hlc: own.hlc,
                }),
            );
            rows.put(
                Key::Region,
                Arc::new(Region {
                    name: target.to_owned(),
                    epoch,
                    next_seq: row.at.seq.next(),
                    last_tag: row.at.tag,
                    hlc,
                    bytes: 0,
                }),
            );
            if let Some(lane) = rows.get(&Key::Lane(key)) {
                let peer = own.name.clone();
                let lane = Lane {
                    peer,
                    ..Lane::clone(&lane.lane())
                };
                rows.delete(Key::Lane(key));
                rows.put(Key::Lane(donor_key), Arc::new(lane));
            }
            let acked = row.at;
            for (key, row) in rows.all() {
                match (&key, row) {
                    (_, Row::Lane(lane)) => {
                        let peer = lane.peer.clone();
                        let lane = Lane {
                            peer,
                            acked,
                            holder: None,
                            wanted: None,
                            stale: false,
                        };
                        rows.put(key, Arc::new(lane));
                    }
                    (_, Row::Outbox(row)) => {
                        assert!(!matches!(row.state, State::Held(_)), "nothing is held");
                        rows.delete(key);
                    }
                    // Refusals of its own updates: the regions that refused have them on record. And
                    // what the donor's journal held is the donor's.
                    (_, Row::Rejected(row))
                        if row.row.stream == target || row.row.seq.is_none() =>
                    {
                        rows.delete(key);
                        if let Some(seq) = row.row.seq {
                            let stream = RegionKey::of(&row.row.stream);
                            rows.delete(Key::RejectedOf(stream, seq, row.row.epoch));
                        }
                    }
                    (Key::UndoOf(..) | Key::Held(_) | Key::Skip(..) | Key::Node(_), _) => {
                        rows.delete(key);
                    }
                    _ => {}
                }
            }
        });
        data.store.forget_history();
    }
}

/// Rebuilds `target` from `donor`: seals it, tells everybody of its new numbering, copies. Returns the
/// epoch. What the target had not delivered is lost, as with `--force`.
pub fn adopt(
    region: &str,
    target: &ModelServer,
    donor: &ModelServer,
    others: &[&ModelServer],
) -> Epoch {
    let epoch = Epoch(random_u64());
    let own = donor.region();
    let at = |name: &str| {
        if name == own.name {
            return Some(Position {
                epoch: own.epoch,
                seq: Seq(own.next_seq.0 - 1),
                tag: own.last_tag,
            });
        }
        let found = donor
            .positions()
            .into_iter()
            .find(|(stream, _)| stream == name);
        found.map(|(_, at)| at)
    };
    target.seal();
    for other in others.iter().chain([&donor]) {
        other.fence(region, epoch, at(&other.region().name));
    }
    target.adopt_from(&donor.backup(), region, epoch);
    epoch
}

/// Rows under edit, all at once.
struct Rows<'a> {
    data: &'a mut Data,
    writes: std::collections::BTreeMap<Key, Option<Row>>,
}

impl Rows<'_> {
    fn get(&self, key: &Key) -> Option<Row> {
        match self.writes.get(key) {
            Some(row) => row.clone(),
            None => self.data.store.get(key).cloned(),
        }
    }

    fn put(&mut self, key: Key, row: impl Into<Row>) {
        self.writes.insert(key, Some(row.into()));
    }

    fn delete(&mut self, key: Key) {
        self.writes.insert(key, None);
    }

    /// The ledger's, as they are now.
    fn all(&self) -> Vec<(Key, Row)> {
        let mut all: std::collections::BTreeMap<_, _> = self
            .data
            .store
            .range(Included(&Key::Region), Unbounded)
            .map(|(key, row)| (key.clone(), row.clone()))
            .collect();
        for (key, row) in &self.writes {
            match row {
                Some(row) if *key >= Key::Region => all.insert(key.clone(), row.clone()),
                _ => all.remove(key),
            };
        }
        all.into_iter().collect()
    }
}

/// A transaction of somebody who may do anything. What it writes is taken for granted.
fn edit<T>(data: &mut Data, f: impl FnOnce(&mut Rows<'_>) -> T) -> T {
    let mut rows = Rows {
        data,
        writes: std::collections::BTreeMap::new(),
    };
    let value = f(&mut rows);
    let Rows { data, writes } = rows;
    let _ = data.store.commit(writes, &[]);
    data.store.recall();
    value
}
