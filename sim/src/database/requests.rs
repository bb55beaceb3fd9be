//! `prism.request`: what became of a caller's id.

use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;
use std::time::Duration;

use prism_db::{
    DbError, Digest, Hlc, RejectedRow, Repeat, RequestRow, RequestState, Submission, UndoReason,
    Update, body_digest,
};
use prism_proto::{Seq, Tag};

use super::client::{Client, End, Kind};
use super::locks::Mode;
use super::numbering::region;
use super::rejected;
use super::rows::{Installed, Key, Request, Row};
use super::trouble::Point;
use super::work::{Fail, Work};

impl Installed {
    /// What is asked for.
    pub fn body(&self, params: &[prism_db::Value]) -> Digest {
        body_digest(self.statement.name(), self.statement.params(), params)
    }
}

pub(super) fn get(work: &mut Work<'_>, id: &[u8; 16]) -> Option<Arc<Request>> {
    work.get(&Key::Request(*id)).map(Row::request)
}

/// Writes over what is there, of which the age stays.
pub(super) fn put(work: &mut Work<'_>, row: RequestRow) {
    let id = row.request_id;
    let at = match get(work, &id) {
        Some(before) => before.at,
        None => {
            let now = work.wall();
            work.put(Key::RequestAt(now, id), 0);
            now
        }
    };
    work.put(Key::Request(id), Arc::new(Request { row, at }));
}

/// Waits for whoever is just writing one with this id.
pub(super) fn lock(work: &mut Work<'_>, id: &[u8; 16]) -> Result<(), Fail> {
    work.lock(&Key::Request(*id), Mode::Write)
}

/// The request of an update of the own stream has been undone.
pub(super) fn set_undone(
    work: &mut Work<'_>,
    id: Option<[u8; 16]>,
    seq: Seq,
    reason: &UndoReason,
) -> Result<(), Fail> {
    let own = region(work);
    change(work, id, |row| {
        (row.stream == own.name && row.seq == Some(seq))
            .then(|| RequestState::Undone(reason.clone()))
    })
}

/// Gives a row another state, if there is one and `f` wants it.
pub(super) fn change(
    work: &mut Work<'_>,
    id: Option<[u8; 16]>,
    f: impl Fn(&RequestRow) -> Option<RequestState>,
) -> Result<(), Fail> {
    let Some(id) = id else { return Ok(()) };
    let before = get(work, &id);
    if before.is_none_or(|before| f(&before.row).is_none()) {
        return Ok(());
    }
    lock(work, &id)?;
    if let Some(before) = get(work, &id)
        && let Some(state) = f(&before.row)
    {
        put(
            work,
            RequestRow {
                state,
                ..before.row.clone()
            },
        );
    }
    Ok(())
}

/// Those of the batch that are on record.
pub(super) fn repeats(work: &mut Work<'_>, batch: &[Submission], bodies: &[Digest]) -> Vec<Repeat> {
    let mut repeats = Vec::new();
    for (index, (submission, body)) in batch.iter().zip(bodies).enumerate() {
        let known = submission.request_id.and_then(|id| get(work, &id));
        if let Some(known) = known {
            repeats.push(Repeat {
                index,
                body: *body,
                row: known.row.clone(),
            });
        }
    }
    repeats
}

/// # Errors
/// `Repeated`, if there is any.
pub(super) fn check(
    work: &mut Work<'_>,
    batch: &[Submission],
    bodies: &[Digest],
) -> Result<(), Fail> {
    let repeats = repeats(work, batch, bodies);
    if repeats.is_empty() {
        Ok(())
    } else {
        Err(DbError::Repeated(repeats).into())
    }
}

/// One that nobody needs: neither open, nor of an update that may still have to be explained.
fn may_go(work: &mut Work<'_>, request: &RequestRow) -> bool {
    let own = request.stream == region(work).name;
    request.state != RequestState::Held
        && !(own && request.seq.is_some_and(|seq| work.has(&Key::Outbox(seq))))
}

/// The oldest that nobody needs, of those older than `age`.
fn old(work: &mut Work<'_>, age: Duration, limit: usize) -> Vec<(i64, [u8; 16])> {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX / 4);
    let before = work.wall().saturating_sub(age);
    let mut all = Vec::new();
    let from = Key::RequestAt(i64::MIN, [0; 16]);
    let to = Key::RequestAt(before, [0; 16]);
    work.scan(Included(&from), Excluded(&to), |key, _| {
        if let Key::RequestAt(at, id) = key {
            all.push((*at, *id));
        }
        true
    });
    let mut found = Vec::new();
    for (at, id) in all {
        if found.len() == limit {
            break;
        }
        if let Some(request) = get(work, &id)
            && may_go(work, &request.row)
        {
            found.push((at, id));
        }
    }
    found
}

impl Client {
    pub(super) fn find_request(&mut self, id: &[u8; 16]) -> Result<Option<RequestRow>, DbError> {
        self.read("request", |work| Ok(get(work, id).map(|r| r.row.clone())))
    }

    pub(super) fn record_refused(
        &mut self,
        submission: &Submission,
        sqlstate: &str,
        message: &str,
        dead_letter: bool,
    ) -> Result<(), DbError> {
        let installed = self.installed(submission.statement);
        let body = installed.map_or(Digest::default(), |i| i.body(&submission.params));
        let message = message.replace('\0', "");
        self.call("request_refused", Kind::Steps, |work| {
            work.step(Point::Statement)?;
            let own = region(work);
            if let Some(request_id) = submission.request_id {
                lock(work, &request_id)?;
                if get(work, &request_id).is_some() {
                    return Ok(End::Commit(()));
                }
                let state = RequestState::Refused {
                    sqlstate: sqlstate.to_owned(),
                    message: message.clone(),
                };
                put(
                    work,
                    RequestRow {
                        request_id,
                        body,
                        stream: own.name.clone(),
                        seq: None,
                        state,
                    },
                );
            }
            if dead_letter {
                let update = Update {
                    tag: Tag(0),
                    prev_tag: Tag(0),
                    statement: submission.statement,
                    params: submission.params.clone(),
                    old: Vec::new(),
                    hlc: Hlc(0),
                    rows: u64::MAX,
                    seen: Vec::new(),
                    undoes: None,
                    held: false,
                    request_id: submission.request_id,
                };
                let letter = RejectedRow {
                    id: 0,
                    stream: own.name.clone(),
                    epoch: own.epoch,
                    seq: None,
                    update,
                    sqlstate: sqlstate.to_owned(),
                    message: message.clone(),
                    at: 0,
                    resolution: None,
                };
                rejected::insert(work, letter, true);
            }
            Ok(End::Commit(()))
        })
    }

    pub(super) fn trim_requests(&mut self, age: Duration, limit: u32) -> Result<u64, DbError> {
        self.write("request_trim", |work| {
            let old = old(work, age, limit as usize);
            let mut gone = 0;
            for (at, id) in old {
                if work.lock_row(&Key::Request(id), Mode::Whole)?.is_some() {
                    work.delete(Key::Request(id));
                    work.delete(Key::RequestAt(at, id));
                    gone += 1;
                }
            }
            Ok(gone)
        })
    }

    pub(super) fn reach_requests(&mut self, age: Duration) -> Result<bool, DbError> {
        self.read("requests_reach", |work| Ok(!old(work, age, 1).is_empty()))
    }
}
