//! `prism.rejected`: dead letters, refusals that their origin has to be told; and `prism.skip`.

use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;

use prism_db::apply::refusal_class;
use prism_db::{DbError, RefusalRow, RejectedRow};
use prism_proto::{Epoch, RegionKey, Seq};

use super::apply::unknown;
use super::client::Client;
use super::locks::Mode;
use super::rows::{Key, Rejected, Row};
use super::work::{Fail, Work};

/// Records one; its number and its time are given here. Nothing if it is on record already.
pub(super) fn insert(work: &mut Work<'_>, mut row: RejectedRow, told: bool) {
    let data = work.data();
    data.store.letters += 1;
    row.id = data.store.letters;
    row.at = work.wall();
    if let Some(seq) = row.seq {
        let index = Key::RejectedOf(RegionKey::of(&row.stream), seq, row.epoch);
        if work.has(&index) {
            return;
        }
        work.put(index, row.id);
    }
    work.put(Key::Rejected(row.id), Arc::new(Rejected { row, told }));
}

/// The dead letters that one update has become, in whatever numbering.
pub(super) fn of(work: &mut Work<'_>, stream: RegionKey, seq: Seq) -> Vec<Arc<Rejected>> {
    let mut ids = Vec::new();
    let from = Key::RejectedOf(stream, seq, Epoch(0));
    let to = Key::RejectedOf(stream, seq, Epoch(u64::MAX));
    work.scan(Included(&from), Included(&to), |_, row| {
        ids.push(row.clone().entry());
        true
    });
    let rows = ids
        .into_iter()
        .filter_map(|id| work.get(&Key::Rejected(id)));
    rows.map(Row::rejected).collect()
}

/// Changes a row that is there, locked.
pub(super) fn change(
    work: &mut Work<'_>,
    id: i64,
    f: impl FnOnce(&mut Rejected) -> bool,
) -> Result<bool, Fail> {
    let key = Key::Rejected(id);
    let Some(row) = work.lock_row(&key, Mode::Write)?.map(Row::rejected) else {
        return Ok(false);
    };
    let mut row = Rejected::clone(&row);
    if !f(&mut row) {
        return Ok(false);
    }
    work.put(key, Arc::new(row));
    Ok(true)
}

/// Somebody, or Prism, has dealt with it; false if that was done before.
pub(super) fn resolve(work: &mut Work<'_>, id: i64, how: &str) -> Result<bool, Fail> {
    change(work, id, |row| {
        let open = row.row.resolution.is_none();
        row.row.resolution.get_or_insert_with(|| how.to_owned());
        open
    })
}

/// All dead letters, by number.
fn all(work: &mut Work<'_>) -> Vec<Arc<Rejected>> {
    let mut rows = Vec::new();
    let (from, to) = (Key::Rejected(i64::MIN), Key::Rejected(i64::MAX));
    work.scan(Included(&from), Included(&to), |_, row| {
        rows.push(row.clone().rejected());
        true
    });
    rows
}

/// How far a stream is; an error if no such region is configured.
fn applied(work: &mut Work<'_>, stream: &str) -> Result<Arc<super::rows::Watermark>, Fail> {
    let row = work.get(&Key::Watermark(RegionKey::of(stream)));
    let row = row.map(Row::watermark);
    row.ok_or_else(|| unknown(stream).into())
}

impl Client {
    pub(super) fn count_rejected(&mut self) -> Result<u64, DbError> {
        self.read("rejected_count", |work| {
            let open = all(work).into_iter();
            Ok(open.filter(|row| row.row.resolution.is_none()).count() as u64)
        })
    }

    pub(super) fn unresolved(&mut self, limit: u32) -> Result<Vec<RejectedRow>, DbError> {
        self.read("rejected", |work| {
            let open = all(work).into_iter().map(|row| row.row.clone());
            let mut open: Vec<_> = open.filter(|row| row.resolution.is_none()).collect();
            open.sort_by_key(|row| (row.at, row.id));
            open.truncate(limit as usize);
            Ok(open)
        })
    }

    pub(super) fn letter(&mut self, id: i64) -> Result<Option<RejectedRow>, DbError> {
        self.read("rejected_get", |work| {
            let row = work.get(&Key::Rejected(id)).map(Row::rejected);
            Ok(row.map(|row| row.row.clone()))
        })
    }

    pub(super) fn drop_letter(&mut self, id: i64) -> Result<bool, DbError> {
        self.write("rejected_drop", |work| resolve(work, id, "dropped"))
    }

    pub(super) fn untold(&mut self, stream: &str, limit: u32) -> Result<Vec<RefusalRow>, DbError> {
        self.read("refusals", |work| {
            let Some(at) = work.get(&Key::Watermark(RegionKey::of(stream))) else {
                return Ok(Vec::new());
            };
            let epoch = at.watermark().at.epoch;
            // Those of an earlier numbering have nobody to be told any more.
            let wanted = |row: &&Arc<Rejected>| {
                !row.told && row.row.stream == stream && row.row.epoch == epoch
            };
            let rows = all(work);
            let mut found: Vec<_> = rows
                .iter()
                .filter(wanted)
                .filter_map(|row| {
                    Some(RefusalRow {
                        epoch,
                        seq: row.row.seq?,
                        class: refusal_class(&row.row.sqlstate),
                        sqlstate: row.row.sqlstate.clone(),
                        message: row.row.message.clone(),
                    })
                })
                .collect();
            found.sort_by_key(|row| row.seq);
            found.truncate(limit as usize);
            Ok(found)
        })
    }

    pub(super) fn told(&mut self, stream: &str, epoch: Epoch, seqs: &[Seq]) -> Result<(), DbError> {
        self.write("refusals_told", |work| {
            for seq in seqs {
                let index = Key::RejectedOf(RegionKey::of(stream), *seq, epoch);
                if let Some(id) = work.get(&index) {
                    change(work, id.entry(), |row| {
                        !std::mem::replace(&mut row.told, true)
                    })?;
                }
            }
            Ok(())
        })
    }

    pub(super) fn want_skipped(&mut self, stream: &str, seq: Seq) -> Result<bool, DbError> {
        self.write("skip", |work| {
            let is_ahead = applied(work, stream)?.at.seq < seq;
            if is_ahead {
                let key = Key::Skip(RegionKey::of(stream), seq);
                work.lock(&key, Mode::Write)?;
                work.put(key, 0);
            }
            Ok(is_ahead)
        })
    }

    pub(super) fn wanted_skipped(&mut self, stream: &str) -> Result<Vec<Seq>, DbError> {
        self.write("skips", |work| {
            let key = RegionKey::of(stream);
            let Ok(at) = applied(work, stream) else {
                return Ok(Vec::new());
            };
            let (mut ahead, mut past) = (Vec::new(), Vec::new());
            let (from, to) = (Key::Skip(key, Seq::ZERO), Key::Skip(key, Seq(u64::MAX)));
            work.scan(Included(&from), Excluded(&to), |key, _| {
                if let Key::Skip(_, seq) = key {
                    let list = if *seq > at.at.seq {
                        &mut ahead
                    } else {
                        &mut past
                    };
                    list.push(*seq);
                }
                true
            });
            if ahead.is_empty() {
                for seq in past {
                    let key = Key::Skip(key, seq);
                    work.lock(&key, Mode::Whole)?;
                    work.delete(key);
                }
            }
            Ok(ahead)
        })
    }
}
