//! Apply: one call of `prism.apply_batch`, which is one transaction and one round trip.
//!
//! A repetition is harmless, the watermark sees to that. So the call commits by itself, instead of
//! three round trips that a direct writer would pay over an ocean.

use postgres::types::ToSql;
use prism_proto::{Position, RegionKey, Seq};

use super::fault::{self, Fault};
use super::params::Params;
use super::session::{Session, Statements, column};
use super::{PgDatabase, position, unsigned};
use crate::chain::{self, Plan};
use crate::{
    ApplyItem, ApplyReport, ApplyRequest, DbError, Drift, ItemAction, RejectedRow, Update,
};

/// Somebody else's progress makes us begin again with what is left; each round means progress.
const MAX_ROUNDS: usize = 64;

const APPLY: &str = "SELECT r_outcome, r_epoch, r_applied, r_tag, r_item, r_state, r_message,
        r_detail, r_drift, r_drift_rows
    FROM prism.apply_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
        $17, $18, $19, $20, $21, $22, $23, $24)";

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
    reject_seq: Vec<i64>,
    reject_statement: Vec<Vec<u8>>,
    reject_update: Vec<Vec<u8>>,
    reject_state: Vec<String>,
    reject_message: Vec<String>,
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
        for _ in 0..MAX_ROUNDS {
            let answer = self.apply_items(request, start)?;
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

    fn apply_items(&mut self, request: &ApplyRequest<'_>, start: usize) -> Result<Answer, DbError> {
        self.connected()?;
        let items = &request.items[start..];
        if items.iter().any(|item| {
            item.action == ItemAction::Run && self.statements.get(&item.update.statement).is_none()
        }) {
            self.reload_statements()?;
        }
        let mut batch = build(items, &self.statements, |key| self.peers.contains_key(&key))
            .map_err(|error| shift(error, start))?;
        request.stream.clone_into(&mut batch.stream);
        batch.epoch = request.epoch.0.cast_signed();
        batch.lenient = request.ignore_dependencies;
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
        batch.expect.push(update.rows.cast_signed());
        let mut id = 0;
        match &item.action {
            ItemAction::Run => {
                let installed = statements
                    .get(&update.statement)
                    .ok_or_else(|| DbError::unknown_statement(update.statement, index))?;
                id = installed.id;
                batch
                    .params
                    .push(index, &installed.params, &update.params)?;
            }
            ItemAction::Reject { sqlstate, message } => {
                batch.reject_seq.push(item.seq.0.cast_signed());
                batch.reject_statement.push(update.statement.0.to_vec());
                batch.reject_update.push(update.encode());
                batch.reject_state.push(sqlstate.clone());
                // The server cannot store NUL; words are only words.
                batch.reject_message.push(message.replace('\0', ""));
            }
            ItemAction::Skip => {}
        }
        batch.ids.push(id);
        // Neighbours mostly name the same watermarks; an update needs them all only when it runs.
        if id != 0 && update.seen != seen {
            seen = &update.seen;
            for (key, seq) in seen.iter().filter(|(key, _)| is_peer(*key)) {
                batch
                    .seen_item
                    .push(i32::try_from(index + 1).unwrap_or(i32::MAX));
                batch.seen_key.push(i64::from(key.0));
                batch.seen_seq.push(seq.0.cast_signed());
            }
        }
    }
    Ok(batch)
}

fn run(session: &mut Session, batch: &Batch) -> Result<Answer, Fault> {
    let [text, int, float, bool, bytes, uuid, time] = batch.params.columns();
    let params: [&(dyn ToSql + Sync); 24] = [
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
        &batch.reject_seq,
        &batch.reject_statement,
        &batch.reject_update,
        &batch.reject_state,
        &batch.reject_message,
        text,
        int,
        float,
        bool,
        bytes,
        uuid,
        time,
    ];
    let statement = session.prepared(APPLY)?;
    let row = session
        .client
        .query_one(&statement, &params)
        .map_err(|error| fault::in_commit(&error))?;
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

/// Unresolved rejected updates, oldest first.
pub(super) fn rejected(session: &mut Session, limit: u32) -> Result<Vec<RejectedRow>, Fault> {
    let rows = session.query(
        "SELECT stream, seq, update, sqlstate, message FROM prism.rejected
         WHERE resolution IS NULL ORDER BY at, stream, seq LIMIT $1",
        &[&i64::from(limit)],
    )?;
    let read = |row: &postgres::Row| {
        let update = Update::decode(column(row, 2)?)
            .map_err(|e| DbError::Schema(format!("a row of prism.rejected: {e}")))?;
        Ok(RejectedRow {
            stream: column(row, 0)?,
            id: 0,
            epoch: prism_proto::Epoch(0),
            at: 0,
            resolution: None,
            seq: Some(Seq(unsigned(row, 1)?)),
            update,
            sqlstate: column(row, 3)?,
            message: column(row, 4)?,
        })
    };
    rows.iter()
        .map(read)
        .collect::<Result<_, DbError>>()
        .map_err(Fault::Db)
}
