//! Held updates: writes that await all regions. The statement runs in a transaction that stays open;
//! another connection publishes it; the open transaction's own commit makes it final.

use std::sync::Arc;
use std::time::Duration;

use prism_db::{
    Committed, DbError, HeldConflict, HeldState, HeldWrite, RequestState, Submission, UndoReason,
    wins,
};
use prism_proto::{Seq, canary};

use super::client::{Client, End, Kind};
use super::locks::{Mode, TxId};
use super::numbering::{self, Draft, append, check_size, log_own, region, settle};
use super::random::random_id;
use super::requests;
use super::rows::{Key, Outbox, Row, State};
use super::store::Effect;
use super::submit::{Executed, stored};
use super::trouble::Point;
use super::work::{Work, sql};

impl Client {
    pub(super) fn begin_held(
        &mut self,
        submission: &Submission,
        limit: Duration,
    ) -> Result<HeldWrite, DbError> {
        let mut submission = submission.clone();
        submission.request_id.get_or_insert_with(random_id);
        let batch = self.batch(std::slice::from_ref(&submission))?;
        let statement = &batch.installed[0].statement;
        if statement.undo().is_none() {
            let text = format!("statement {} has no undo", statement.name());
            return Err(DbError::sql("0A000", text, Some(0)));
        }
        self.call("held_begin", Kind::Steps, |work| {
            requests::check(work, &batch.submissions, &batch.bodies)?;
            let Executed { rows, old } = batch.execute(work, 0)?;
            let held = HeldWrite {
                submission: submission.clone(),
                rows,
                old,
                xid: work.tx.0,
                backend: i32::try_from(work.tx.0).unwrap_or(i32::MAX),
                limit,
            };
            Ok(End::Keep(held, limit))
        })
    }

    pub(super) fn publish_held(&mut self, held: &HeldWrite) -> Result<Committed, DbError> {
        let batch = self.batch(std::slice::from_ref(&held.submission))?;
        let tag = batch.tags[0];
        let result = self.call("held_publish", Kind::Steps, |work| {
            work.step(Point::Statement)?;
            settle(work)?;
            let draft = Draft {
                tag,
                statement: held.submission.statement,
                params: held.submission.params.clone(),
                old: held.old.clone(),
                rows: held.rows,
                undoes: None,
                held: Some(TxId(held.xid)),
                request_id: held.submission.request_id,
            };
            let committed = append(work, vec![draft])?;
            check_size(0, &committed[0].update, batch.max_update)?;
            // With the numbering locked: as long as it lives, nobody has written behind it and comes
            // before.
            if !work.data().open.contains_key(&TxId(held.xid)) {
                return Err(sql(
                    "40001",
                    "the held transaction has ended before it was published",
                ));
            }
            batch.record(work, &committed, &RequestState::Held)?;
            log_own(
                work,
                committed[0].seq,
                &committed[0].update,
                Effect::Published,
                0,
            );
            numbering::notify(work);
            Ok(End::Commit(committed))
        });
        match (result, held.submission.request_id) {
            (Ok(mut committed), _) => Ok(committed.remove(0)),
            (Err(DbError::Ambiguous(why)), Some(id)) => match self.find_in_outbox(&id) {
                Ok(Some(found)) if found.update.tag == tag => Ok(found),
                Ok(_) => Err(DbError::Unreachable(format!("{why}; it was not committed"))),
                Err(error) => Err(DbError::Ambiguous(format!("{why}; then: {error}"))),
            },
            (Err(error), _) => Err(error),
        }
    }

    pub(super) fn finish_held(&mut self, seq: Seq) -> Result<bool, DbError> {
        self.with_held("held_finish", |work| {
            work.step(Point::Statement)?;
            let key = Key::Outbox(seq);
            let tx = work.tx;
            let is_ours =
                |row: &Arc<Outbox>| row.state == State::Held(tx) || canary!(UndoneBecomesFinal);
            let before = work.get(&key).map(Row::outbox);
            if !before.is_some_and(|row| is_ours(&row)) {
                return Ok(End::RollBack(false));
            }
            let row = work.lock_row(&key, Mode::Write)?.map(Row::outbox);
            let Some(row) = row.filter(is_ours) else {
                return Ok(End::RollBack(false));
            };
            let mut row = Outbox::clone(&row);
            row.state = State::Final;
            let update = Arc::clone(&row.update);
            work.put(key, Arc::new(row));
            work.delete(Key::Held(seq));
            requests::change(work, update.request_id, |known| {
                (known.state == RequestState::Held).then_some(RequestState::Committed)
            })?;
            log_own(work, seq, &update, Effect::Ran, update.rows);
            Ok(End::Commit(true))
        })
    }

    pub(super) fn cancel_held(&mut self) -> Result<(), DbError> {
        if self.held.is_none() {
            return Ok(());
        }
        self.with_held("held_cancel", |_| Ok(End::RollBack(())))
    }

    pub(super) fn state_of_held(&mut self, seq: Seq) -> Result<HeldState, DbError> {
        self.read("held_state", |work| {
            let Some(row) = work.get(&Key::Outbox(seq)).map(Row::outbox) else {
                return Ok(HeldState::Unknown);
            };
            let name = region(work).name.clone();
            let known = row
                .update
                .request_id
                .and_then(|id| requests::get(work, &id));
            let reason = match known.map(|known| known.row.clone()) {
                Some(known) if known.stream == name && known.seq == Some(seq) => {
                    match known.state {
                        RequestState::Undone(reason) => Some(reason),
                        _ => None,
                    }
                }
                _ => None,
            };
            let unknown = || UndoReason::Crashed;
            Ok(match (row.state, reason) {
                (State::Held(_), _) => HeldState::Held,
                (State::Undone, reason) => HeldState::Undone(reason.unwrap_or_else(unknown)),
                (State::Final, Some(reason)) => HeldState::Undone(reason),
                (State::Final, None) => HeldState::Final,
            })
        })
    }

    /// Whoever waits for a held transaction, also in a queue behind others that do.
    pub(super) fn conflicts_of_held(&mut self) -> Result<Vec<HeldConflict>, DbError> {
        let own = self.options.topology.region.clone();
        let peers = self.peers.clone();
        self.read("held_conflicts", |work| {
            let mut waiting = Vec::new();
            let data = work.data();
            for tx in data.locks.waiters() {
                let applying = data.open.get(&tx).and_then(|open| open.applying);
                if let Some(applying) = applying {
                    waiting.push((applying, data.locks.behind(tx)));
                }
            }
            let mut conflicts = Vec::new();
            for (seq, holder) in held(work) {
                let Some(update) = stored(work, seq) else {
                    continue;
                };
                for (applying, _) in waiting.iter().filter(|(_, of)| of.contains(&holder)) {
                    let gives_way = match (applying.held, peers.get(&applying.stream)) {
                        (Some(hlc), Some(name)) => wins((hlc, name), (update.hlc, &own)),
                        _ => true,
                    };
                    let conflict = HeldConflict {
                        seq,
                        stream: applying.stream,
                    };
                    if gives_way && !conflicts.contains(&conflict) {
                        conflicts.push(conflict);
                    }
                }
            }
            Ok(conflicts)
        })
    }

    pub(super) fn settle(&mut self) -> Result<Vec<Committed>, DbError> {
        self.call("settle_held", Kind::Steps, |work| {
            work.step(Point::Statement)?;
            // Nothing is locked if nothing is held.
            if held(work).is_empty() {
                return Ok(End::Commit(Vec::new()));
            }
            settle(work).map(End::Commit)
        })
    }
}

/// Updates that are held, and by whom.
fn held(work: &mut Work<'_>) -> Vec<(Seq, TxId)> {
    let mut found = Vec::new();
    let (from, to) = (Key::Held(Seq::ZERO), Key::Held(Seq(u64::MAX)));
    let range = std::ops::Bound::Included(&from);
    work.scan(range, std::ops::Bound::Included(&to), |key, _| {
        if let Key::Held(seq) = key {
            found.push(*seq);
        }
        true
    });
    let mut held = Vec::new();
    for seq in found {
        let row = work.get(&Key::Outbox(seq)).map(Row::outbox);
        if let Some(State::Held(tx)) = row.map(|row| row.state) {
            held.push((seq, tx));
        }
    }
    held
}
