//! The own stream in `prism.outbox`: reading, finding, verifying, trimming.

use std::time::Duration;

use postgres::Row;
use prism_proto::{Position, Seq, Tag, Verdict};

use super::fault::Fault;
use super::session::{Session, column};
use super::submit::seen;
use super::{PgDatabase, old, read_region, unsigned};
use crate::{Committed, DbError, Hlc, Update, Value, chain};

/// Rows of one round trip.
const PAGE: i64 = 1024;

/// Among how many of the newest updates a request id is looked for.
const FIND_WITHIN: i64 = 20_000;

/// Up to the row that exceeds the bytes, that one included.
const READ: &str = "SELECT seq, tag, prev_tag, hlc, rows, undoes, statement, state = 'h',
        uuid_send(request_id), params, old, seen
    FROM (SELECT o.*, sum(octet_length(params) + coalesce(octet_length(old), 0))
                          OVER (ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                      AS before
          FROM prism.outbox o WHERE seq BETWEEN $1 AND $2 ORDER BY seq LIMIT $3) AS page
    WHERE coalesce(before, 0) <= $4 ORDER BY seq";

const FIND: &str = "SELECT seq, tag, prev_tag, hlc, rows, undoes, statement, state = 'h',
        uuid_send(request_id), params, old, seen
    FROM prism.outbox
    WHERE seq >= (SELECT next_seq - $2 FROM prism.region) AND request_id = $1
    ORDER BY seq LIMIT 1";

/// Lanes of another epoch have acknowledged nothing of this one; a peer without a row neither.
const TRIM: &str = "DELETE FROM prism.outbox WHERE seq IN (
        SELECT seq FROM prism.outbox
        WHERE seq <= (SELECT min(CASE WHEN l.epoch = r.epoch THEN l.acked ELSE 0 END)
                      FROM prism.region r
                      CROSS JOIN unnest($1::text[]) AS p (peer)
                      LEFT JOIN prism.lane l USING (peer))
          AND at < now() - $2 * interval '1 microsecond'
        ORDER BY seq LIMIT $3)";

/// A row whose statement is still a number.
#[derive(Debug)]
struct Stored {
    seq: Seq,
    statement: i32,
    old: Option<String>,
    update: Update,
}

fn stored(row: &Row) -> Result<Stored, DbError> {
    let damaged = |seq: u64| DbError::Schema(format!("row {seq} of prism.outbox is damaged"));
    let seq = unsigned(row, 0)?;
    let request_id: Option<&[u8]> = column(row, 8)?;
    let params: Vec<Value> = postcard::from_bytes(column(row, 9)?).map_err(|_| damaged(seq))?;
    Ok(Stored {
        seq: Seq(seq),
        statement: column(row, 6)?,
        old: column(row, 10)?,
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
    fn complete(&mut self, stored: Stored) -> Result<Committed, DbError> {
        if self.statements.digest(stored.statement).is_none() {
            self.reload_statements()?;
        }
        let statement = self.statements.digest(stored.statement).ok_or_else(|| {
            DbError::Schema(format!(
                "update {} in the outbox names statement version {}, which prism.statement does \
                 not hold",
                stored.seq.0, stored.statement
            ))
        })?;
        let columns = self
            .statements
            .get(&statement)
            .map_or(0, |installed| installed.old_columns);
        let mut update = stored.update;
        update.statement = statement;
        update.old = old::values(stored.old.as_deref(), columns)?;
        let seq = stored.seq;
        Ok(Committed { seq, update })
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
            let bytes = i64::try_from(left).unwrap_or(i64::MAX);
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
        self.call(move |session| {
            let region = read_region(session)?;
            let next = position.seq.next().0.cast_signed();
            let rows =
                session.query("SELECT prev_tag FROM prism.outbox WHERE seq = $1", &[&next])?;
            let tag = rows.first().map(|row| unsigned(row, 0)).transpose()?;
            Ok(chain::verdict(&region, position, tag.map(Tag)))
        })
    }

    pub(super) fn trim_outbox(&mut self, retention: Duration, limit: u32) -> Result<u64, DbError> {
        let peers: Vec<String> = self.peers.values().cloned().collect();
        let micros = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX / 4) as f64;
        self.call(move |session| {
            let deleted = session.execute(TRIM, &[&peers, &micros, &i64::from(limit)])?;
            Ok(deleted)
        })
    }
}

/// With the numbering locked: a transaction that took numbers and is not heard of any more has
/// then either committed or never will. A new statement after that sees what it committed.
fn find(session: &mut Session, request_id: [u8; 16]) -> Result<Option<Stored>, Fault> {
    session.query("SELECT next_seq FROM prism.region FOR NO KEY UPDATE", &[])?;
    let rows = session.query(FIND, &[&super::params::Uuid(request_id), &FIND_WITHIN])?;
    Ok(rows.first().map(stored).transpose()?)
}
