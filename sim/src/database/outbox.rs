//! The own stream: reading, finding, verifying, trimming; waiting for what is new.

use std::ops::Bound::{Excluded, Included};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use prism_db::modelling;
use prism_db::{Committed, DbError, Hlc, OutboxFigures, RegionRow, Update};
use prism_proto::{Position, RegionKey, Seq, Verdict, canary};

use super::client::{Client, End, Kind};
use super::locks::Mode;
use super::numbering::{lock_numbering, region};
use super::rows::{Key, Outbox, Row, State};
use super::trouble::Point;
use super::work::Work;

/// Among how many of the newest updates a request id is looked for.
const FIND_WITHIN: u64 = 20_000;

/// How late at most an unannounced commit is seen.
const POLL: Duration = Duration::from_millis(500);

pub(super) fn region_row(work: &mut Work<'_>) -> RegionRow {
    let own = region(work);
    RegionRow {
        name: own.name.clone(),
        epoch: own.epoch,
        next_seq: own.next_seq,
        last_tag: own.last_tag,
    }
}

/// The first row at or behind `seq`.
pub(super) fn first(work: &mut Work<'_>, seq: Seq) -> Option<(Seq, Arc<Outbox>)> {
    let mut found = None;
    let (from, to) = (Key::Outbox(seq), Key::Held(Seq::ZERO));
    work.scan(Included(&from), Excluded(&to), |key, row| {
        if let (Key::Outbox(seq), Row::Outbox(row)) = (key, row) {
            found = Some((*seq, Arc::clone(row)));
        }
        false
    });
    found
}

fn committed(seq: Seq, row: &Outbox) -> Committed {
    Committed {
        seq,
        update: Update::clone(&row.update),
    }
}

/// What the own stream says of a peer's position.
pub(super) fn verdict(work: &mut Work<'_>, position: Position) -> Verdict {
    let own = region_row(work);
    let next = work.get(&Key::Outbox(position.seq.next())).map(Row::outbox);
    modelling::verdict(&own, position, next.map(|row| row.update.prev_tag))
}

impl Client {
    pub(super) fn read_outbox(
        &mut self,
        from: Seq,
        to: Seq,
        max_bytes: usize,
        sink: &mut dyn FnMut(Seq, &[u8]),
    ) -> Result<Seq, DbError> {
        let mut found: Vec<(Seq, Arc<[u8]>)> = Vec::new();
        let from = from.max(Seq(1));
        self.read("outbox_read", |work| {
            found.clear();
            let (mut next, mut bytes) = (from, 0);
            let (low, high) = (Key::Outbox(from), Key::Outbox(to));
            if from > to {
                return Ok(());
            }
            work.scan(Included(&low), Included(&high), |key, row| {
                let (Key::Outbox(seq), Row::Outbox(row)) = (key, row) else {
                    return false;
                };
                bytes += row.encoded.len();
                // What comes behind a gap is of no use; one always, however large.
                if *seq != next || (bytes > max_bytes && !found.is_empty()) {
                    return false;
                }
                next = seq.next();
                found.push((*seq, Arc::clone(&row.encoded)));
                true
            });
            Ok(())
        })?;
        let last = found.last().map(|(seq, _)| *seq);
        for (seq, bytes) in &found {
            sink(*seq, bytes);
        }
        Ok(last.unwrap_or(Seq(from.0.saturating_sub(1))))
    }

    /// With the numbering locked: a transaction that took numbers and is not heard of any more has then
    /// either committed or never will.
    pub(super) fn find_in_outbox(
        &mut self,
        request_id: &[u8; 16],
    ) -> Result<Option<Committed>, DbError> {
        self.call("outbox_find", Kind::Repeat, |work| {
            work.step(Point::Read)?;
            lock_numbering(work)?;
            let next = region(work).next_seq.0;
            let mut found = None;
            let low = Key::Outbox(Seq(next.saturating_sub(FIND_WITHIN)));
            let high = Key::Held(Seq::ZERO);
            work.scan(Included(&low), Excluded(&high), |key, row| {
                if let (Key::Outbox(seq), Row::Outbox(row)) = (key, row)
                    && row.update.request_id.as_ref() == Some(request_id)
                    && row.update.undoes.is_none()
                {
                    found = Some(committed(*seq, row));
                }
                found.is_none()
            });
            Ok(End::RollBack(found))
        })
    }

    pub(super) fn outbox_row(&mut self, seq: Seq) -> Result<Option<Committed>, DbError> {
        self.read("undo", |work| {
            let row = work.get(&Key::Outbox(seq)).map(Row::outbox);
            Ok(row.map(|row| committed(seq, &row)))
        })
    }

    pub(super) fn verify_position(&mut self, position: Position) -> Result<Verdict, DbError> {
        self.read("outbox_verify", |work| Ok(verdict(work, position)))
    }

    /// Only from the front: a stream with holes cannot refill a database that is restored.
    pub(super) fn trim_outbox(&mut self, retention: Duration, limit: u32) -> Result<u64, DbError> {
        let peers: Vec<RegionKey> = self.peers.keys().copied().collect();
        self.write("outbox_trim", |work| {
            let own = region_row(work);
            let mut bound = None;
            for peer in &peers {
                let lane = work.get(&Key::Lane(*peer)).map(Row::lane);
                let lane = match lane {
                    // Nobody takes the mark back meanwhile.
                    Some(lane) if lane.stale => work
                        .lock_row(&Key::Lane(*peer), Mode::Write)?
                        .map(Row::lane),
                    lane => lane,
                };
                // Lanes of another epoch have acknowledged nothing of this one.
                let acked = match lane {
                    Some(lane) if lane.stale => continue,
                    Some(lane) if lane.acked.epoch == own.epoch => lane.acked.seq,
                    _ => Seq::ZERO,
                };
                bound = Some(bound.map_or(acked, |bound: Seq| {
                    if canary!(TrimmedToFastest) {
                        bound.max(acked)
                    } else {
                        bound.min(acked)
                    }
                }));
            }
            let bound = bound.unwrap_or(Seq(own.next_seq.0 - 1));
            let retention = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX / 4);
            let cutoff = work.wall().saturating_sub(retention);
            let mut old = Vec::new();
            let (low, high) = (Key::Outbox(Seq::ZERO), Key::Outbox(bound));
            work.scan(Included(&low), Included(&high), |key, row| {
                let (Key::Outbox(seq), Row::Outbox(row)) = (key, row) else {
                    return false;
                };
                let wanted = !matches!(row.state, State::Held(_)) && row.at < cutoff;
                if !wanted || old.len() == limit as usize {
                    return false;
                }
                old.push((*seq, row.update.undoes));
                true
            });
            for (seq, undoes) in &old {
                work.lock(&Key::Outbox(*seq), Mode::Whole)?;
                work.delete(Key::Outbox(*seq));
                if let Some(undone) = undoes {
                    work.delete(Key::UndoOf(*undone, *seq));
                }
            }
            Ok(old.len() as u64)
        })
    }

    pub(super) fn figures(&mut self) -> Result<OutboxFigures, DbError> {
        self.read("outbox_figures", |work| {
            let own = region(work);
            let requests = work.data().store.requests;
            let first = first(work, Seq::ZERO);
            Ok(match first {
                // The rows are consecutive.
                Some((seq, row)) => OutboxFigures {
                    rows: own.next_seq.0 - seq.0,
                    bytes: own.bytes - row.before,
                    requests,
                },
                None => OutboxFigures {
                    requests,
                    ..OutboxFigures::default()
                },
            })
        })
    }

    pub(super) fn clock(&mut self) -> Result<Hlc, DbError> {
        self.read("hlc", |work| {
            let mut clock = region(work).hlc;
            let (from, to) = (Key::Watermark(RegionKey(0)), Key::Lane(RegionKey(0)));
            work.scan(Included(&from), Excluded(&to), |_, row| {
                if let Row::Watermark(row) = row {
                    clock = clock.max(row.hlc);
                }
                true
            });
            Ok(clock)
        })
    }

    /// Told by a notification, or by a look at the numbering now and then.
    pub(super) fn wait_for_news(&mut self, timeout: Duration) -> Result<bool, DbError> {
        let look = |work: &mut Work<'_>| {
            let notified = work.data().notified;
            Ok((region(work).next_seq.0, notified))
        };
        let now = self.read("wait_for_outbox", look)?;
        let Some(heard) = self.heard else {
            // It has only begun to listen: what was committed before was not heard.
            self.heard = Some(now);
            return Ok(true);
        };
        let server = self.server.clone();
        let deadline = server.inner().now().saturating_add(timeout);
        let mut told = now.1 != heard.1;
        loop {
            let left = deadline.saturating_sub(server.inner().now());
            if !told {
                let mut data = server.inner().data();
                if data.notified == heard.1 && !left.is_zero() {
                    let waited = server.inner().news.wait_timeout(data, left.min(POLL));
                    data = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                told = data.notified != heard.1;
            }
            let now = self.read("wait_for_outbox", look)?;
            if self.heard.is_none() {
                // Another connection since: what was committed meanwhile was not heard.
                self.heard = Some(now);
                return Ok(true);
            }
            self.heard = Some(now);
            if told || now.0 != heard.0 {
                return Ok(true);
            }
            if left <= POLL {
                return Ok(false);
            }
        }
    }
}
