//! The own stream in `prism.outbox`: reading, finding, verifying, trimming.

use std::time::Duration;

use postgres::Row;
use prism_proto::{Position, Seq, Tag, Verdict};

use super::fault::Fault;
use super::params::values_of_text;
use super::session::{Session, column};
use super::submit::seen;
use super::{PgDatabase, interval, old, read_region, unsigned};
use crate::{Committed, DbError, Hlc, OutboxFigures, Update, Value, chain};

/// Rows of one round trip.
const PAGE: i64 = 1024;

/// Among how many of the newest updates a request id is looked for.
const FIND_WITHIN: i64 = 20_000;

/// Up to the row that exceeds the bytes, that one included.
const READ: &str = "SELECT seq, tag, prev_tag, hlc, rows, undoes, statement, xid IS NOT NULL,
        uuid_send(request_id), params, old, seen, params_text
    FROM prism.outbox o
    WHERE seq BETWEEN $1 AND $2
      AND bytes <= $4 + (SELECT f.bytes FROM prism.outbox f WHERE f.seq >= $1
                         ORDER BY f.seq LIMIT 1)
    ORDER BY seq LIMIT $3";

/// Of a transaction's own connection as well as of any other.
pub(super) const ONE: &str =
    "SELECT seq, tag, prev_tag, hlc, rows, undoes, statement, xid IS NOT NULL,
        uuid_send(request_id), params, old, seen, params_text
    FROM prism.outbox WHERE seq = $1";

/// Its undo bears the same request id.
const FIND: &str = "SELECT seq, tag, prev_tag, hlc, rows, undoes, statement, xid IS NOT NULL,
        uuid_send(request_id), params, old, seen, params_text
    FROM prism.outbox
    WHERE seq >= (SELECT next_seq - $2 FROM prism.region) AND request_id = $1 AND undoes IS NULL
    ORDER BY seq LIMIT 1";

/// Lanes of another epoch have acknowledged nothing of this one; a peer without a row neither. Stale
/// ones do not count; without any that counts, nobody waits for anything. Only from the front: times
/// are not in the order of the numbers (long transactions, a clock that goes back), and a stream with
/// holes cannot refill a database that is restored. Stale ones are locked: while their rows are deleted
/// nobody takes the mark back.
const TRIM: &str = "WITH marked AS MATERIALIZED (
        SELECT peer FROM prism.lane WHERE stale FOR SHARE),
    front AS (
        SELECT seq, at, state FROM prism.outbox
        WHERE seq <= (SELECT coalesce(
                          min(CASE WHEN l.epoch = r.epoch THEN l.acked ELSE 0 END)
                              FILTER (WHERE m.peer IS NULL),
                          max(r.next_seq) - 1)
                      FROM prism.region r
                      LEFT JOIN unnest($1::text[]) AS p (peer) ON true
                      LEFT JOIN prism.lane l ON l.peer = p.peer
                      LEFT JOIN marked m ON m.peer = p.peer)
        ORDER BY seq LIMIT $3)
    DELETE FROM prism.outbox WHERE seq IN (
        SELECT seq FROM front
        WHERE seq < coalesce((SELECT min(seq) FROM front
                              WHERE state = 'h' OR at >= now() - $2 * interval '1 microsecond'),
                             9223372036854775807))";

/// The rows are consecutive.
const FIGURES: &str = "SELECT coalesce(l.seq - f.seq + 1, 0), coalesce(r.bytes - f.bytes, 0),
        greatest(pg_stat_get_live_tuples('prism.request'::regclass), 0)
    FROM prism.region r
    LEFT JOIN LATERAL (SELECT seq, bytes FROM prism.outbox ORDER BY seq LIMIT 1) f ON true
    LEFT JOIN LATERAL (SELECT seq FROM prism.outbox ORDER BY seq DESC LIMIT 1) l ON true";

/// A row whose statement is still a number.
#[derive(Debug)]
pub(super) struct Stored {
    seq: Seq,
    statement: i32,
    old: Option<String>,
    /// Instead of the update's parameters.
    texts: Option<Vec<Option<String>>>,
    update: Update,
}

impl Stored {
    /// Of a notice, which names no statement, this is all.
    pub fn update(&self) -> &Update {
        &self.update
    }
}

pub(super) fn stored(row: &Row) -> Result<Stored, DbError> {
    let damaged = |seq: u64| DbError::Schema(format!("row {seq} of prism.outbox is damaged"));
    let seq = unsigned(row, 0)?;
    let request_id: Option<&[u8]> = column(row, 8)?;
    let params: Vec<Value> = match column::<Option<&[u8]>>(row, 9)? {
        Some(bytes) => postcard::from_bytes(bytes).map_err(|_| damaged(seq))?,
        None => Vec::new(),
    };
    Ok(Stored {
        seq: Seq(seq),
        statement: column(row, 6)?,
        old: column(row, 10)?,
        texts: column(row, 12)?,
        update: Update {
            tag: Tag(unsigned(row, 1)?),
            prev_tag: Tag(unsigned(row, 2)?),
            statement: crate::Digest::default(),
            params,
            old: Vec::new(),
            hlc: Hlc(unsigned(row, 3)?),
            rows: unsigned(row, 4)?,
            seen: seen(&column::<Vec<i64>>(row, 11)?),
            undoes: column::<Option<i64>>(row, 5)?.map(|seq| Seq(seq.cast_unsigned())),
            held: column(row, 7)?,
            request_id: request_id
                .map(|id| id.try_into().map_err(|_| damaged(seq)))
                .transpose()?,
        },
    })
}

impl PgDatabase {
    /// Fills in what only the table of statements knows.
    pub(super) fn complete(&mut self, stored: Stored) -> Result<Committed, DbError> {
        let seq = stored.seq;
        let mut update = stored.update;
        // A notice: it names no statement.
        if stored.statement == 0 {
            return Ok(Committed { seq, update });
        }
        if self.statements.digest(stored.statement).is_none() {
            self.reload_statements()?;
        }
        let statement = self.statements.digest(stored.statement);
        let installed = statement.and_then(|digest| self.statements.get(&digest));
        let (Some(statement), Some(installed)) = (statement, installed) else {
            return Err(DbError::Schema(format!(
                "update {} in the outbox names statement version {}, which prism.statement does \
                 not hold",
                seq.0, stored.statement
            )));
        };
        update.statement = statement;
        update.old = old::values(stored.old.as_deref(), installed.old_columns)?;
        if let Some(texts) = &stored.texts {
            update.params = values_of_text(&installed.params, texts).ok_or_else(|| {
                DbError::Schema(format!("row {} of prism.outbox is damaged", seq.0))
            })?;
        }
        Ok(Committed { seq, update })
    }

    /// One row, final or not.
    pub(super) fn outbox_row(&mut self, seq: Seq) -> Result<Option<Committed>, DbError> {
        let number = seq.0.cast_signed();
        let found = self.call(move |session| {
            let rows = session.query(ONE, &[&number])?;
            Ok(rows.first().map(stored).transpose()?)
        })?;
        found.map(|row| self.complete(row)).transpose()
    }

    pub(super) fn figures(&mut self) -> Result<OutboxFigures, DbError> {
        self.call(|session| {
            let rows = session.query(FIGURES, &[])?;
            let Some(row) = rows.first() else {
                return Ok(OutboxFigures::default());
            };
            Ok(OutboxFigures {
                rows: unsigned(row, 0)?,
                bytes: unsigned(row, 1)?,
                requests: unsigned(row, 2)?,
            })
        })
    }

    pub(super) fn read_outbox(
        &mut self,
        from: Seq,
        to: Seq,
        max_bytes: usize,
        sink: &mut dyn FnMut(Seq, &[u8]),
    ) -> Result<Seq, DbError> {
        let mut last = Seq(from.0.saturating_sub(1));
        let mut left = max_bytes;
        while last < to {
            let range = (last.next().0.cast_signed(), to.0.cast_signed());
            let bytes = i64::try_from(left).unwrap_or(i64::MAX).min(i64::MAX / 2);
            let page = self.call(move |session| {
                let rows = session.query(READ, &[&range.0, &range.1, &PAGE, &bytes])?;
                Ok(rows.iter().map(stored).collect::<Result<Vec<_>, _>>()?)
            })?;
            let full = page.len() as i64 == PAGE;
            for row in page {
                // What comes behind a gap (a trimmed start) is of no use.
                if row.seq != last.next() {
                    return Ok(last);
                }
                let committed = self.complete(row)?;
                let bytes = committed.update.encode();
                // One always: a large one must not block the lane.
                if bytes.len() > left && last >= from {
                    return Ok(last);
                }
                sink(committed.seq, &bytes);
                last = committed.seq;
                left = left.saturating_sub(bytes.len());
            }
            if !full {
                break;
            }
        }
        Ok(last)
    }

    pub(super) fn find_in_outbox(
        &mut self,
        request_id: [u8; 16],
    ) -> Result<Option<Committed>, DbError> {
        let found = self.call(move |session| {
            session.begin()?;
            let result = find(session, request_id);
            let rollback = session.client.batch_execute("ROLLBACK");
            let found = result?;
            rollback?;
            Ok(found)
        })?;
        found.map(|row| self.complete(row)).transpose()
    }

    pub(super) fn verify_position(&mut self, position: Position) -> Result<Verdict, DbError> {
        self.call(move |session| verdict(session, position))
    }

    pub(super) fn trim_outbox(&mut self, retention: Duration, limit: u32) -> Result<u64, DbError> {
        let peers: Vec<String> = self.peers.values().cloned().collect();
        let micros = interval(retention);
        self.call(move |session| {
            let deleted = session.execute(TRIM, &[&peers, &micros, &i64::from(limit)])?;
            Ok(deleted)
        })
    }
}

pub(super) fn verdict(session: &mut Session, position: Position) -> Result<Verdict, Fault> {
    let region = read_region(session)?;
    let next = position.seq.next().0.cast_signed();
    let rows = session.query("SELECT prev_tag FROM prism.outbox WHERE seq = $1", &[&next])?;
    let tag = rows.first().map(|row| unsigned(row, 0)).transpose()?;
    Ok(chain::verdict(&region, position, tag.map(Tag)))
}

/// With the numbering locked: a transaction that took numbers and is not heard of any more has
/// then either committed or never will. A new statement after that sees what it committed.
fn find(session: &mut Session, request_id: [u8; 16]) -> Result<Option<Stored>, Fault> {
    session.query("SELECT next_seq FROM prism.region FOR NO KEY UPDATE", &[])?;
    let rows = session.query(FIND, &[&super::params::Uuid(request_id), &FIND_WITHIN])?;
    Ok(rows.first().map(stored).transpose()?)
}
