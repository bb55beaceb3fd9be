//! Undoing an update of the own stream, and running a dead letter once more.

use std::ops::Bound::Included;
use std::sync::Arc;

use prism_db::{
    Committed, DbError, ErrorClass, RejectedRow, RequestState, Retried, Submission, UndoReason,
    Undone, Update,
};
use prism_proto::{RegionKey, Seq};

use super::client::{Client, End, Kind};
use super::locks::Mode;
use super::numbering::{self, Draft, append, lock_numbering, log_own, region, settle};
use super::rows::{Installed, Key, Row, State};
use super::store::{Effect, Execution};
use super::submit::fits;
use super::trouble::Point;
use super::work::{Fail, Work, sql};
use super::{rejected, requests};

/// What an undo is asked for with.
struct Ask<'a> {
    seq: Seq,
    reason: &'a UndoReason,
    /// Although everybody was told that it was refused.
    again: bool,
    installed: Option<Arc<Installed>>,
}

/// What its transaction did.
enum Done {
    Published(Committed),
    Refused(Committed, String, String),
    Not(&'static str),
}

impl Ask<'_> {
    fn run(&self, work: &mut Work<'_>) -> Result<Done, Fail> {
        let key = Key::Outbox(self.seq);
        let state = |work: &mut Work<'_>| {
            let row = work.get(&key).map(Row::outbox);
            row.map(|row| row.state)
        };
        work.step(Point::Statement)?;
        // In the order of `settle`; the undo of one that is not held runs its statement first.
        if matches!(state(work), Some(State::Held(_))) {
            lock_numbering(work)?;
        }
        let row = work.lock_row(&key, Mode::Whole)?.map(Row::outbox);
        // After the lock: what its holder has done is seen.
        if self.is_told(work) {
            return Ok(Done::Not("before"));
        }
        let Some(row) = row else {
            return Ok(Done::Not("gone"));
        };
        if row.update.undoes.is_some() {
            return Ok(Done::Not("an undo"));
        }
        if matches!(row.state, State::Held(_)) {
            let committed = numbering::undo_held(work, self.seq, &row, self.reason)?;
            return Ok(Done::Published(committed));
        }
        if !matches!(self.reason, UndoReason::Refused { .. }) {
            // Its client has been told that it is final.
            return Ok(Done::Not("final"));
        }
        // The undo of a copy in another stream may be under way: only one of them takes effect.
        if let Some(id) = &row.update.request_id {
            requests::lock(work, id)?;
        }
        let known = row
            .update
            .request_id
            .and_then(|id| requests::get(work, &id));
        if known.is_some_and(|known| matches!(known.row.state, RequestState::Undone(_))) {
            return Ok(Done::Not("before"));
        }
        let Some(installed) = &self.installed else {
            return Ok(Done::Not("none"));
        };
        work.step(Point::Statement)?;
        let (params, old) = (&row.update.params, &row.update.old);
        let Some(result) = installed.program.undo(work, params, old) else {
            return Ok(Done::Not("none"));
        };
        let rows = match result {
            Ok(rows) => rows,
            Err(Fail::Db(DbError::Sql {
                class: ErrorClass::Refused,
                sqlstate,
                message,
                ..
            })) if !self.again => {
                let notice = publish_notice(work, self.seq, &sqlstate, &message)?;
                return Ok(Done::Refused(notice, sqlstate, message));
            }
            Err(fail) => return Err(fail),
        };
        settle(work)?;
        let draft = Draft::undo(self.seq, &row.update, rows);
        let committed = append(work, vec![draft])?.remove(0);
        let effect = Effect::Undid(self.seq);
        log_own(work, committed.seq, &committed.update, effect, rows);
        requests::set_undone(work, row.update.request_id, self.seq, self.reason)?;
        numbering::notify(work);
        Ok(Done::Published(committed))
    }

    /// Whether an undo, or a word that there is none, has been published.
    fn is_told(&self, work: &mut Work<'_>) -> bool {
        let mut numbers = Vec::new();
        let (from, to) = (
            Key::UndoOf(self.seq, Seq::ZERO),
            Key::UndoOf(self.seq, Seq(u64::MAX)),
        );
        work.scan(Included(&from), Included(&to), |key, _| {
            if let Key::UndoOf(_, number) = key {
                numbers.push(*number);
            }
            true
        });
        numbers.into_iter().any(|number| {
            let update = super::submit::stored(work, number);
            !self.again || update.is_some_and(|update| update.notice().is_none())
        })
    }
}

/// The undo was refused by this database: everybody is told.
fn publish_notice(
    work: &mut Work<'_>,
    seq: Seq,
    sqlstate: &str,
    message: &str,
) -> Result<Committed, Fail> {
    settle(work)?;
    let draft = Draft::notice(seq, sqlstate, message);
    let notice = append(work, vec![draft])?.remove(0);
    log_own(work, notice.seq, &notice.update, Effect::Rejected, 0);
    let own = region(work);
    let letter = RejectedRow {
        id: 0,
        stream: own.name.clone(),
        epoch: own.epoch,
        seq: Some(notice.seq),
        update: notice.update.clone(),
        sqlstate: sqlstate.to_owned(),
        message: message.to_owned(),
        at: 0,
        resolution: None,
    };
    rejected::insert(work, letter, true);
    numbering::notify(work);
    Ok(notice)
}

/// What is said instead of publishing.
fn why_not(seq: Seq, outcome: &str) -> String {
    let seq = seq.0;
    match outcome {
        "before" => format!("update {seq} has been undone before"),
        "gone" => format!("update {seq} is not in the outbox any more"),
        "an undo" => format!("update {seq} is an undo itself"),
        "final" => format!("update {seq} has become final"),
        _ => format!("the statement of update {seq} has no undo"),
    }
}

impl Client {
    fn ask<'a>(&mut self, seq: Seq, reason: &'a UndoReason) -> Result<Ask<'a>, DbError> {
        let original = self.outbox_row(seq)?;
        let installed = original
            .filter(|original| original.update.undoes.is_none())
            .and_then(|original| self.installed(original.update.statement))
            .filter(|installed| installed.statement.undo().is_some());
        Ok(Ask {
            seq,
            reason,
            again: false,
            installed,
        })
    }

    pub(super) fn undo_update(&mut self, seq: Seq, reason: &UndoReason) -> Result<Undone, DbError> {
        let ask = self.ask(seq, reason)?;
        let done = self.call("undo", Kind::Steps, |work| ask.run(work).map(End::Commit))?;
        Ok(match done {
            Done::Published(committed) => Undone::Published(committed),
            Done::Refused(notice, sqlstate, message) => Undone::Refused {
                notice,
                sqlstate,
                message,
            },
            Done::Not("before") => Undone::Before,
            Done::Not(outcome) => Undone::Impossible(why_not(seq, outcome)),
        })
    }

    pub(super) fn retry_rejected(&mut self, id: i64) -> Result<Retried, DbError> {
        let row = self.letter(id)?;
        let Some(row) = row.filter(|row| row.resolution.is_none()) else {
            return Ok(Retried::Unknown);
        };
        if row.update.notice().is_some() {
            return if row.stream == self.options.topology.region {
                self.retry_undo(&row)
            } else {
                let text = format!(
                    "region {} tells that it could not undo an update: retry it there, or drop it \
                     here",
                    row.stream
                );
                Err(DbError::sql("55000", text, None))
            };
        }
        match row.seq {
            Some(_) => self.retry_applied(&row),
            None => self.retry_submitted(&row),
        }
    }

    /// The undo that this database had refused.
    fn retry_undo(&mut self, row: &RejectedRow) -> Result<Retried, DbError> {
        let seq = row.update.undoes.unwrap_or(Seq::ZERO);
        let reason = UndoReason::Refused {
            region: String::new(),
            sqlstate: row.sqlstate.clone(),
            message: "undone after all, by an operator".to_owned(),
        };
        let mut ask = self.ask(seq, &reason)?;
        ask.again = true;
        self.call("rejected_retry", Kind::Steps, |work| {
            if !lock_open(work, row.id)? {
                return Ok(End::Commit(Retried::Unknown));
            }
            let committed = match ask.run(work)? {
                Done::Published(committed) | Done::Refused(committed, ..) => committed,
                Done::Not(outcome) => return Err(sql("55000", why_not(seq, outcome))),
            };
            retried(work, row.id)?;
            Ok(End::Commit(Retried::Submitted(committed)))
        })
    }

    /// Of a peer's stream: as it should have run in its place.
    fn retry_applied(&mut self, row: &RejectedRow) -> Result<Retried, DbError> {
        let update = &row.update;
        let installed = self
            .installed(update.statement)
            .ok_or_else(|| DbError::unknown_statement(update.statement, 0))?;
        fits(&installed, &update.params, 0)?;
        self.call("rejected_retry", Kind::Steps, |work| {
            // Not while anything is applied: it may be the undo of the dead letter, or of its copy.
            for key in watermarks(work) {
                work.lock(&key, Mode::Write)?;
            }
            if !lock_open(work, row.id)? {
                return Ok(End::Commit(Retried::Unknown));
            }
            work.step(Point::Statement)?;
            let body = installed.body(&update.params);
            if let (Some(_), Some(id)) = (update.undoes, update.request_id) {
                requests::lock(work, &id)?;
                let known = requests::get(work, &id);
                // By the undo of its copy in another stream.
                if known.is_some_and(|known| {
                    known.row.body == body && matches!(known.row.state, RequestState::Undone(_))
                }) {
                    retried(work, row.id)?;
                    return Ok(End::Commit(Retried::Applied(0)));
                }
            }
            let program = installed.program;
            let result = match update.undoes {
                None => program.run(work, &update.params),
                Some(_) => program
                    .undo(work, &update.params, &update.old)
                    .unwrap_or_else(|| Err(sql("PR002", "it has no undo"))),
            };
            let rows = result?;
            retried(work, row.id)?;
            log_retried(work, row, rows);
            requests::change(work, update.request_id, |known| {
                match (&known.state, update.undoes) {
                    (RequestState::Refused { .. }, None) => (known.stream == row.stream
                        && known.seq == row.seq)
                        .then_some(RequestState::Committed),
                    (RequestState::Committed, Some(_)) => (known.body == body).then(|| {
                        RequestState::Undone(prism_db::modelling::undone_elsewhere(&row.stream))
                    }),
                    _ => None,
                }
            })?;
            Ok(End::Commit(Retried::Applied(rows)))
        })
        .map_err(of_no_update)
    }

    /// Of the own region's journal: a submit, for which its id is free again.
    fn retry_submitted(&mut self, row: &RejectedRow) -> Result<Retried, DbError> {
        let submissions = [Submission {
            statement: row.update.statement,
            params: row.update.params.clone(),
            request_id: row.update.request_id,
        }];
        let batch = self.batch(&submissions)?;
        self.call("rejected_retry", Kind::Steps, |work| {
            if !lock_open(work, row.id)? {
                return Ok(End::Commit(Retried::Unknown));
            }
            if let Some(id) = row.update.request_id {
                let key = Key::Request(id);
                let known = work.lock_row(&key, Mode::Whole)?.map(Row::request);
                if let Some(known) = known
                    && matches!(known.row.state, RequestState::Refused { .. })
                    && known.row.seq.is_none()
                {
                    work.delete(key);
                    work.delete(Key::RequestAt(known.at, id));
                }
            }
            let committed = batch.run(work)?.remove(0);
            retried(work, row.id)?;
            Ok(End::Commit(Retried::Submitted(committed)))
        })
    }
}

fn of_no_update(mut error: DbError) -> DbError {
    if let DbError::Sql { index, .. } = &mut error {
        *index = None;
    }
    error
}

fn watermarks(work: &mut Work<'_>) -> Vec<Key> {
    let mut keys = Vec::new();
    let (from, to) = (
        Key::Watermark(RegionKey(0)),
        Key::Watermark(RegionKey(u32::MAX)),
    );
    work.scan(Included(&from), Included(&to), |key, _| {
        keys.push(key.clone());
        true
    });
    keys
}

/// Locks a dead letter; whether nobody has resolved it.
fn lock_open(work: &mut Work<'_>, id: i64) -> Result<bool, Fail> {
    let row = work.lock_row(&Key::Rejected(id), Mode::Whole)?;
    Ok(row.is_some_and(|row| row.rejected().row.resolution.is_none()))
}

/// Told as well: here it is as it should be.
fn retried(work: &mut Work<'_>, id: i64) -> Result<(), Fail> {
    rejected::change(work, id, |row| {
        row.row.resolution = Some("retried".to_owned());
        row.told = true;
        true
    })?;
    Ok(())
}

fn log_retried(work: &mut Work<'_>, row: &RejectedRow, rows: u64) {
    let update: &Update = &row.update;
    work.log(Execution {
        stream: RegionKey::of(&row.stream),
        epoch: row.epoch,
        seq: row.seq.unwrap_or_default(),
        tag: update.tag,
        prev_tag: update.prev_tag,
        statement: update.statement,
        effect: Effect::Retried,
        rows,
    });
}
