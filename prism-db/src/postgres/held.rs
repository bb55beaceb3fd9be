//! Held updates: writes that await all regions.

use std::time::Duration;

use postgres::types::ToSql;
use prism_proto::{RegionKey, Seq, Tag};

use super::fault::{self, Fault};
use super::params::Uuid;
use super::session::{Session, column};
use super::submit::{Batch, failure, of_requests};
use super::transaction::{roll_back, transaction};
use super::{PgDatabase, old, requests, undo, unsigned};
use crate::{
    ApplyRequest, Committed, DbError, HeldConflict, HeldState, HeldWrite, Hlc, Submission, Update,
    wins,
};

const BEGIN: &str = "SELECT r_item, r_state, r_message, r_detail, r_rows, r_old, r_xid, r_backend
    FROM prism.held_begin($1, $2, $3, $4, $5, $6, $7, $8, $9)";

const PUBLISH: &str = "SELECT prism.held_publish($1, $2, $3, $4, $5, $6, $7, $8, $9)";

const FINISH: &str = "SELECT prism.held_finish($1)";

const STATE: &str = "SELECT o.state::text, q.state::text, q.answer, r.name
    FROM prism.region r CROSS JOIN prism.outbox o
    LEFT JOIN prism.request q
        ON q.request_id = o.request_id AND q.stream = r.name AND q.seq = o.seq
    WHERE o.seq = $1";

/// Nothing is locked if nothing is held.
const SETTLE: &str = "SELECT r_seqs FROM prism.settle_held()
    WHERE EXISTS (SELECT FROM prism.outbox WHERE state = 'h')";

/// Whoever waits for a held transaction, also in a queue behind others that do. The names of other
/// roles' sessions may be seen, what they wait for may not.
const CONFLICTS: &str = "WITH RECURSIVE waits (name, pid) AS (
        SELECT a.application_name, b.pid
        FROM pg_stat_activity a CROSS JOIN LATERAL unnest(pg_blocking_pids(a.pid)) AS b (pid)
        WHERE a.datname = current_database() AND a.application_name LIKE 'prism apply %'
          AND EXISTS (SELECT FROM prism.outbox WHERE state = 'h')
        UNION
        SELECT w.name, b.pid
        FROM waits w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b (pid)
    )
    SELECT o.seq, o.hlc, w.name
    FROM waits w JOIN prism.outbox o ON o.backend = w.pid
    WHERE o.state = 'h' ORDER BY o.seq";

const APPLY: &str = "prism apply";

/// How an apply is called while it runs, so that whoever makes it wait can be found, and which of
/// them gives way: `prism apply held KEY HLC` or `prism apply final KEY`.
pub(super) fn application_name(request: &ApplyRequest<'_>) -> String {
    let key = RegionKey::of(request.stream).0;
    match request.items {
        [item] if item.update.held => format!("{APPLY} held {key} {}", item.update.hlc.0),
        _ => format!("{APPLY} final {key}"),
    }
}

/// The stream of an apply, and its clock if what it applies is held.
fn parse(name: &str) -> Option<(RegionKey, Option<Hlc>)> {
    let mut words = name.strip_prefix(APPLY)?.split_ascii_whitespace();
    let held = words.next()? == "held";
    let key = RegionKey(words.next()?.parse().ok()?);
    let hlc = words.next().and_then(|hlc| hlc.parse().ok()).map(Hlc);
    Some((key, hlc.filter(|_| held)))
}

impl PgDatabase {
    pub(super) fn begin_held(
        &mut self,
        submission: &Submission,
        limit: Duration,
    ) -> Result<HeldWrite, DbError> {
        let mut submission = submission.clone();
        let id = submission.request_id.unwrap_or_else(crate::new_request_id);
        submission.request_id = Some(id);
        let submissions = [submission.clone()];
        let batch = self.batch(&submissions)?;
        if let Some(installed) = self.statements.get(&submission.statement)
            && !installed.has_undo
        {
            let text = format!(
                "statement {} has no undo, which a write that awaits all regions needs; give it one \
                 in prism.toml, or submit it in the background",
                installed.name
            );
            return Err(DbError::sql("0A000", text, Some(0)));
        }
        let result = self.call_once(move |session, gate| {
            session.begin()?;
            let result = begin(session, &batch, &submission, limit);
            match result {
                Ok(held) if gate.may_commit() => Ok(held),
                other => {
                    roll_back(session)?;
                    let given_up = || DbError::Unreachable("the call was given up".to_owned());
                    batch.judge(session, other.and(Err(given_up().into())))
                }
            }
        });
        self.holding = result.is_ok();
        result.map_err(|error| self.name_submission(&submissions, error))
    }

    pub(super) fn publish_held(&mut self, held: &HeldWrite) -> Result<Committed, DbError> {
        let submissions = [held.submission.clone()];
        let batch = self.batch(&submissions)?;
        let tag = batch.tags[0];
        let write = held.clone();
        let result = self.call_once(move |session, gate| {
            let result = transaction(session, gate, |session| publish(session, &batch, &write));
            batch.judge(session, result)
        });
        match (result, held.submission.request_id) {
            (Ok(stored), _) => self.complete(stored),
            // It carries an id, so it can be looked for.
            (Err(DbError::Ambiguous(why)), Some(id)) => match self.find_in_outbox(id) {
                Ok(Some(found)) if found.update.tag == Tag(tag.cast_unsigned()) => Ok(found),
                Ok(_) => Err(DbError::Unreachable(format!(
                    "{why}; it was not committed, nothing was written"
                ))),
                Err(error) => Err(DbError::Ambiguous(format!("{why}; then: {error}"))),
            },
            (Err(error), _) => Err(error),
        }
    }

    pub(super) fn finish_held(&mut self, seq: Seq) -> Result<bool, DbError> {
        self.with_held(move |session, gate| {
            let row = session
                .prepared(FINISH)
                .and_then(|finish| {
                    let number = seq.0.cast_signed();
                    session.client.query_one(&finish, &[&number])
                })
                .map_err(|error| fault::plain(&error));
            let is_held = row.and_then(|row| column::<bool>(&row, 0));
            if !matches!(is_held, Ok(true)) || !gate.may_commit() {
                roll_back(session)?;
                // Given up by the caller: it has been told that nothing was written.
                return Ok(is_held.map(|_| false)?);
            }
            session
                .client
                .batch_execute("COMMIT")
                .map_err(|error| fault::committing(&error))?;
            Ok(true)
        })
    }

    pub(super) fn cancel_held(&mut self) -> Result<(), DbError> {
        if !self.holding || self.link.is_none() {
            // With its connection it has ended.
            self.holding = false;
            return Ok(());
        }
        self.with_held(|session, _| roll_back(session))
    }

    /// On the held transaction's connection, or not at all.
    fn with_held<R: Send + 'static>(
        &mut self,
        f: impl Fn(&mut Session, &super::Gate) -> Result<R, Fault> + Send + Sync + 'static,
    ) -> Result<R, DbError> {
        if !std::mem::take(&mut self.holding) || self.link.is_none() {
            return Err(DbError::Unreachable(
                "the connection of the held transaction is lost, which rolls it back".to_owned(),
            ));
        }
        let result = self.call_once(f);
        if result.is_err() {
            // Whatever is still open on it ends with it.
            self.link = None;
        }
        result
    }

    pub(super) fn state_of_held(&mut self, seq: Seq) -> Result<HeldState, DbError> {
        self.call(move |session| {
            let rows = session.query(STATE, &[&seq.0.cast_signed()])?;
            let Some(row) = rows.first() else {
                return Ok(HeldState::Unknown);
            };
            let state: String = column(row, 0)?;
            let request: Option<String> = column(row, 1)?;
            let answer: Option<String> = column(row, 2)?;
            Ok(match (state.as_str(), request.as_deref()) {
                ("h", _) => HeldState::Held,
                ("a", _) | (_, Some("u")) => {
                    let stream: String = column(row, 3)?;
                    HeldState::Undone(requests::reason(answer.as_deref(), &stream))
                }
                _ => HeldState::Final,
            })
        })
    }

    pub(super) fn conflicts_of_held(&mut self) -> Result<Vec<HeldConflict>, DbError> {
        let found = self.call(|session| {
            let rows = session.query(CONFLICTS, &[])?;
            let read = |row: &postgres::Row| {
                let name: String = column(row, 2)?;
                Ok((Seq(unsigned(row, 0)?), Hlc(unsigned(row, 1)?), name))
            };
            Ok(rows.iter().map(read).collect::<Result<Vec<_>, DbError>>()?)
        })?;
        let mut conflicts = Vec::new();
        for (seq, hlc, name) in found {
            let Some((stream, other)) = parse(&name) else {
                continue;
            };
            let own = (hlc, self.options.topology.region.as_str());
            let gives_way = match (other, self.peers.get(&stream)) {
                (Some(other), Some(region)) => wins((other, region.as_str()), own),
                _ => true,
            };
            let conflict = HeldConflict { seq, stream };
            if gives_way && !conflicts.contains(&conflict) {
                conflicts.push(conflict);
            }
        }
        Ok(conflicts)
    }

    pub(super) fn settle(&mut self) -> Result<Vec<Committed>, DbError> {
        let stored = self.call_once(|session, gate| {
            transaction(session, gate, |session| {
                let rows = session.query(SETTLE, &[])?;
                let seqs: Option<Vec<i64>> = match rows.first() {
                    Some(row) => column(row, 0)?,
                    None => None,
                };
                let seqs = seqs.unwrap_or_default().into_iter();
                seqs.map(|seq| undo::stored(session, seq)).collect()
            })
        })?;
        let stored: Vec<_> = stored;
        stored.into_iter().map(|row| self.complete(row)).collect()
    }
}

fn begin(
    session: &mut Session,
    batch: &Batch,
    submission: &Submission,
    limit: Duration,
) -> Result<HeldWrite, Fault> {
    // The connection may be cut off without either end noticing; its locks must not outlive that.
    let millis = limit.as_millis().clamp(1, 86_400_000);
    session.client.batch_execute(&format!(
        "SET LOCAL idle_in_transaction_session_timeout = {millis}"
    ))?;
    let [text, int, float, bool, bytes, uuid, time] = batch.params.columns();
    let arguments: [&(dyn ToSql + Sync); 9] = [
        &batch.ids[0],
        &batch.requests[0],
        text,
        int,
        float,
        bool,
        bytes,
        uuid,
        time,
    ];
    let statement = session.prepared(BEGIN)?;
    let row = session.client.query_one(&statement, &arguments)?;
    if let Some(error) = failure(&row, 0)? {
        return Err(error.into());
    }
    let olds: Option<String> = column(&row, 5)?;
    let xid: String = column(&row, 6)?;
    let held = HeldWrite {
        submission: submission.clone(),
        rows: unsigned(&row, 4)?,
        old: old::values(olds.as_deref(), batch.old_columns[0])?,
        xid: xid.parse().unwrap_or_default(),
        backend: column(&row, 7)?,
        limit,
    };
    let update = Update {
        tag: Tag(u64::MAX),
        prev_tag: Tag(u64::MAX),
        statement: submission.statement,
        params: submission.params.clone(),
        old: held.old.clone(),
        hlc: Hlc(u64::MAX),
        rows: held.rows,
        seen: Vec::new(),
        undoes: None,
        held: true,
        request_id: submission.request_id,
    };
    batch.check_size(0, &update)?;
    Ok(held)
}

fn publish(
    session: &mut Session,
    batch: &Batch,
    held: &HeldWrite,
) -> Result<super::outbox::Stored, Fault> {
    let old = (!held.old.is_empty()).then(|| old::text(&held.old));
    let (rows, xid) = (held.rows.cast_signed(), held.xid.to_string());
    let request = Uuid(held.submission.request_id.unwrap_or_default());
    let arguments: [&(dyn ToSql + Sync); 9] = [
        &batch.ids[0],
        &batch.tags[0],
        &batch.encoded[0],
        &old,
        &request,
        &batch.bodies[0],
        &rows,
        &xid,
        &held.backend,
    ];
    let statement = session.prepared(PUBLISH)?;
    let row = session
        .client
        .query_one(&statement, &arguments)
        .map_err(of_requests)?;
    let seq: i64 = column(&row, 0)?;
    undo::stored(session, seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_apply_tells_who_gives_way() {
        assert_eq!(parse("prism apply final 7"), Some((RegionKey(7), None)));
        assert_eq!(
            parse("prism apply held 7 99"),
            Some((RegionKey(7), Some(Hlc(99))))
        );
        assert_eq!(parse("prism apply"), None);
        assert_eq!(parse("psql"), None);
    }
}
