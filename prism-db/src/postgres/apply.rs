//! Apply: one call of `prism.apply_batch`, which is one transaction and one round trip.
//!
//! A repetition is harmless, the watermark sees to that. So the call commits by itself, instead of
//! three round trips that a direct writer would pay over an ocean.

use postgres::types::ToSql;
use prism_proto::{Position, RegionKey, Seq};

use super::fault::{self, Fault};
use super::params::{Params, Uuid};
use super::session::{Session, Statements, column};
use super::submit::on_record;
use super::{PgDatabase, held, position};
use crate::chain::{self, Plan};
use crate::{ApplyItem, ApplyReport, ApplyRequest, DbError, Drift, ItemAction};

/// Somebody else's progress makes us begin again with what is left; each round means progress.
const MAX_ROUNDS: usize = 64;

const APPLY: &str = "SELECT r_outcome, r_epoch, r_applied, r_tag, r_item, r_state, r_message,
        r_detail, r_drift, r_drift_rows
    FROM prism.apply_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
        $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34)";

/// SQLSTATE of a failure in a careful call: the hint holds outcome, item and the real SQLSTATE.
const CAREFUL: &str = "PR004";

/// The arguments, in the function's order.
#[derive(Debug, Default)]
struct Batch {
    stream: String,
    epoch: i64,
    first: i64,
    prev_tag: i64,
    tags: Vec<i64>,
    hlc: i64,
    ids: Vec<i32>,
    expect: Vec<i64>,
    seen_item: Vec<i32>,
    seen_key: Vec<i64>,
    seen_seq: Vec<i64>,
    lenient: bool,
    name: String,
    careful: bool,
    requests: Vec<Option<Uuid>>,
    bodies: Vec<Option<Vec<u8>>>,
    undo_item: Vec<i32>,
    undo_seq: Vec<i64>,
    undo_request: Vec<Option<Uuid>>,
    undo_body: Vec<Option<Vec<u8>>>,
    reject_seq: Vec<i64>,
    reject_statement: Vec<Vec<u8>>,
    reject_update: Vec<Vec<u8>>,
    reject_state: Vec<String>,
    reject_message: Vec<String>,
    reject_request: Vec<Option<Uuid>>,
    reject_told: Vec<bool>,
    params: Params,
}

/// What the call said.
#[derive(Debug)]
struct Answer {
    outcome: String,
    position: Position,
    item: usize,
    state: String,
    message: String,
    drift: Vec<(usize, u64)>,
}

impl PgDatabase {
    pub(super) fn apply_request(
        &mut self,
        request: &ApplyRequest<'_>,
    ) -> Result<ApplyReport, DbError> {
        let Some(head) = request.items.first() else {
            let position = self.position_of(request.stream)?;
            return Ok(done(position, 0, 0, Vec::new()));
        };
        // The chain inside the request, as if the database stood right before it.
        let expected = Position {
            epoch: request.epoch,
            seq: Seq(head.seq.0.saturating_sub(1)),
            tag: head.update.prev_tag,
        };
        if chain::plan(expected, request)? == Plan::Gap {
            let position = self.position_of(request.stream)?;
            return Ok(ApplyReport::Gap { position });
        }
        let mut start = 0;
        let mut careful = false;
        for _ in 0..MAX_ROUNDS {
            let answer = self.apply_items(request, start, careful)?;
            let index = start + answer.item;
            match answer.outcome.as_str() {
                "done" => {
                    let drift = drift(&request.items[start..], &answer.drift);
                    let executed = request.items.len() - start;
                    return Ok(done(answer.position, executed, start, drift));
                }
                "epoch" | "gap" | "overlap" | "tag" => {
                    match chain::plan(answer.position, request)? {
                        Plan::Run(from) => start = from,
                        Plan::Gap => {
                            let position = answer.position;
                            return Ok(ApplyReport::Gap { position });
                        }
                        Plan::Nothing => {
                            let skipped = request.items.len();
                            return Ok(done(answer.position, 0, skipped, Vec::new()));
                        }
                    }
                }
                // A request of the batch is on record already: find out which, and leave it out.
                "careful" if !careful => {
                    careful = true;
                    self.know_bodies(request)?;
                }
                "unknown" => return Err(unknown(request.stream)),
                "behind" => {
                    let item = &request.items[index.min(request.items.len() - 1)];
                    // What an earlier update of the stream had seen counts as well: its origin's
                    // submitters may have looked in another order than they committed.
                    let before = &request.items[start..=index.min(request.items.len() - 1)];
                    if let Some(needs) = self.behind(before)? {
                        return Ok(ApplyReport::Behind {
                            seq: item.seq,
                            needs,
                        });
                    }
                    // It has arrived meanwhile: once more.
                }
                _ => {
                    let item = &request.items[index.min(request.items.len() - 1)];
                    let message = self.named(&item.update.statement, &answer.message);
                    return Err(DbError::sql(&answer.state, message, Some(index)));
                }
            }
        }
        // Only if the stream moves back and forth under us.
        Err(DbError::sql(
            "40001",
            "other appliers keep changing this stream",
            None,
        ))
    }

    fn position_of(&mut self, stream: &str) -> Result<Position, DbError> {
        crate::Database::position(self, stream)
    }

    /// The stream, of those configured, that the last of `items` waits for.
    fn behind(&mut self, items: &[ApplyItem]) -> Result<Option<(RegionKey, Seq)>, DbError> {
        let positions = crate::Database::positions(self)?;
        let here = |key| {
            let name = self.peers.get(&key)?;
            let known = positions.iter().find(|(stream, _)| stream == name);
            Some(known.map_or(Seq::ZERO, |(_, position)| position.seq))
        };
        let mut items = items.iter().rev();
        Ok(items.find_map(|item| chain::behind(&item.update, here)))
    }

    fn apply_items(
        &mut self,
        request: &ApplyRequest<'_>,
        start: usize,
        careful: bool,
    ) -> Result<Answer, DbError> {
        self.connected()?;
        let items = &request.items[start..];
        let unknown = |item: &ApplyItem| {
            item.action == ItemAction::Run
                && item.update.notice().is_none()
                && self.statements.get(&item.update.statement).is_none()
        };
        if items.iter().any(unknown) {
            self.reload_statements()?;
        }
        let mut batch = build(items, &self.statements, |key| self.peers.contains_key(&key))
            .map_err(|error| shift(error, start))?;
        request.stream.clone_into(&mut batch.stream);
        batch.epoch = request.epoch.0.cast_signed();
        batch.lenient = request.ignore_dependencies;
        batch.careful = careful;
        batch.name = held::application_name(request);
        self.call_once(move |session, _| {
            session.check()?;
            run(session, &batch)
        })
    }
}

fn done(position: Position, executed: usize, skipped: usize, drift: Vec<Drift>) -> ApplyReport {
    ApplyReport::Done {
        position,
        executed: executed as u64,
        skipped: skipped as u64,
        drift,
    }
}

fn drift(items: &[ApplyItem], found: &[(usize, u64)]) -> Vec<Drift> {
    let one = |&(index, actual): &(usize, u64)| {
        let item = items.get(index)?;
        Some(Drift {
            seq: item.seq,
            expected: item.update.rows,
            actual,
        })
    };
    found.iter().filter_map(one).collect()
}

fn shift(error: DbError, by: usize) -> DbError {
    match error {
        DbError::Sql {
            class,
            sqlstate,
            message,
            index,
        } => DbError::Sql {
            class,
            sqlstate,
            message,
            index: index.map(|i| i + by),
        },
        other => other,
    }
}

fn build(
    items: &[ApplyItem],
    statements: &Statements,
    is_peer: impl Fn(RegionKey) -> bool,
) -> Result<Batch, DbError> {
    let mut batch = Batch::default();
    if let Some(head) = items.first() {
        batch.first = head.seq.0.cast_signed();
        batch.prev_tag = head.update.prev_tag.0.cast_signed();
    }
    let mut seen: &[(RegionKey, Seq)] = &[];
    for (index, item) in items.iter().enumerate() {
        let update = &item.update;
        batch.tags.push(update.tag.0.cast_signed());
        batch.hlc = batch.hlc.max(update.hlc.0.cast_signed());
        let installed = statements.get(&update.statement);
        let body = || installed.map(|i| i.body(&update.params).0.to_vec());
        let counts = chain::counts(update, installed.is_some_and(|i| i.is_absolute));
        batch.expect.push(if counts {
            update.rows.cast_signed()
        } else {
            -1
        });
        let mut id = 0;
        let mut request = None;
        match (&item.action, update.undoes) {
            (ItemAction::Run, Some(undone)) if update.notice().is_none() => {
                let installed =
                    installed.ok_or_else(|| DbError::unknown_statement(update.statement, index))?;
                batch.undo_item.push(from_zero(index));
                batch.undo_seq.push(undone.0.cast_signed());
                batch.undo_request.push(update.request_id.map(Uuid));
                batch.undo_body.push(body());
                let beside = items.iter().find(|other| other.seq == undone);
                if beside.is_none_or(|other| other.action == ItemAction::Run) {
                    id = -installed.id;
                    let params = &mut batch.params;
                    params.push(index, &installed.params, &update.params)?;
                    params.push_old(index, installed.old_columns, &update.old)?;
                }
            }
            (ItemAction::Run, Some(_)) => {
                let (sqlstate, message) = update.notice().unwrap_or(("XX000", ""));
                batch.reject(item, sqlstate, message, None, true);
            }
            (ItemAction::Run, None) => {
                let installed =
                    installed.ok_or_else(|| DbError::unknown_statement(update.statement, index))?;
                id = installed.id;
                request = update.request_id.map(Uuid);
                batch
                    .params
                    .push(index, &installed.params, &update.params)?;
            }
            (ItemAction::Reject { sqlstate, message }, undoes) => {
                if undoes.is_none() && installed.is_some() {
                    request = update.request_id.map(Uuid);
                }
                let told = update.notice().is_some();
                batch.reject(item, sqlstate, message, request, told);
            }
            (ItemAction::Skip, _) => {}
        }
        batch.ids.push(id);
        batch.bodies.push(request.and_then(|_| body()));
        batch.requests.push(request);
        // Neighbours mostly name the same watermarks; an update needs them all only when it runs.
        if id != 0 && update.seen != seen {
            seen = &update.seen;
            for (key, seq) in seen.iter().filter(|(key, _)| is_peer(*key)) {
                batch.seen_item.push(from_zero(index));
                batch.seen_key.push(i64::from(key.0));
                batch.seen_seq.push(seq.0.cast_signed());
            }
        }
    }
    Ok(batch)
}

impl Batch {
    fn reject(
        &mut self,
        item: &ApplyItem,
        sqlstate: &str,
        message: &str,
        request: Option<Uuid>,
        told: bool,
    ) {
        self.reject_seq.push(item.seq.0.cast_signed());
        self.reject_statement.push(item.update.statement.0.to_vec());
        self.reject_update.push(item.update.encode());
        self.reject_state.push(sqlstate.to_owned());
        // The server cannot store NUL; words are only words.
        self.reject_message.push(message.replace('\0', ""));
        self.reject_request.push(request);
        self.reject_told.push(told);
    }
}

fn run(session: &mut Session, batch: &Batch) -> Result<Answer, Fault> {
    let [text, int, float, bool, bytes, uuid, time] = batch.params.columns();
    let params: [&(dyn ToSql + Sync); 34] = [
        &batch.stream,
        &batch.epoch,
        &batch.first,
        &batch.prev_tag,
        &batch.tags,
        &batch.hlc,
        &batch.ids,
        &batch.expect,
        &batch.seen_item,
        &batch.seen_key,
        &batch.seen_seq,
        &batch.lenient,
        &batch.name,
        &batch.careful,
        &batch.requests,
        &batch.bodies,
        &batch.undo_item,
        &batch.undo_seq,
        &batch.undo_request,
        &batch.undo_body,
        &batch.reject_seq,
        &batch.reject_statement,
        &batch.reject_update,
        &batch.reject_state,
        &batch.reject_message,
        &batch.reject_request,
        &batch.reject_told,
        text,
        int,
        float,
        bool,
        bytes,
        uuid,
        time,
    ];
    let statement = session.prepared(APPLY)?;
    let row = match session.client.query_one(&statement, &params) {
        Ok(row) => row,
        Err(error) => return careful(error),
    };
    let outcome: String = column(&row, 0)?;
    let item: Option<i32> = column(&row, 4)?;
    let message: Option<String> = column(&row, 6)?;
    let detail: Option<String> = column(&row, 7)?;
    let drift: Option<Vec<i32>> = column(&row, 8)?;
    let drift_rows: Option<Vec<i64>> = column(&row, 9)?;
    Ok(Answer {
        position: if outcome == "unknown" {
            Position::default()
        } else {
            position(&row, 1)?
        },
        outcome,
        item: item.map_or(0, from_one),
        state: column::<Option<String>>(&row, 5)?.unwrap_or_default(),
        message: fault::words(&message.unwrap_or_default(), detail.as_deref(), None),
        drift: drift
            .unwrap_or_default()
            .into_iter()
            .zip(drift_rows.unwrap_or_default())
            .map(|(item, rows)| (from_one(item), rows.cast_unsigned()))
            .collect(),
    })
}

/// Of the calls that failed as a whole: those that met a request on record, and the verdicts of
/// careful ones.
fn careful(error: postgres::Error) -> Result<Answer, Fault> {
    let mut answer = Answer {
        outcome: "careful".to_owned(),
        position: Position::default(),
        item: 0,
        state: String::new(),
        message: String::new(),
        drift: Vec::new(),
    };
    if let Some(db) = error.as_db_error().filter(|e| e.code().code() == CAREFUL) {
        let mut hint = db.hint().unwrap_or_default().split(' ');
        hint.next()
            .unwrap_or("failed")
            .clone_into(&mut answer.outcome);
        let item = hint.next().and_then(|item| item.parse().ok());
        answer.item = item.map_or(0, from_one);
        hint.next()
            .unwrap_or_default()
            .clone_into(&mut answer.state);
        answer.message = fault::words(db.message(), db.detail(), None);
        return Ok(answer);
    }
    if on_record(&error) {
        return Ok(answer);
    }
    Err(fault::in_commit(&error))
}

/// No watermark, or no lane, of that region.
pub(super) fn unknown(region: &str) -> DbError {
    DbError::Schema(format!(
        "region {region} is not known to this database; run: prism migrate"
    ))
}

/// SQL counts from 1.
pub(super) fn from_one(item: i32) -> usize {
    usize::try_from(item - 1).unwrap_or_default()
}

fn from_zero(index: usize) -> i32 {
    i32::try_from(index + 1).unwrap_or(i32::MAX)
}
