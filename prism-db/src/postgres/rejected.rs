//! Rows of `prism.rejected`: dead letters, refusals that their origin has to be told, and the
//! updates that an operator wants skipped.

use postgres::Row;
use prism_proto::{Epoch, Seq};

use super::fault::Fault;
use super::session::{Session, column};
use super::{apply, unsigned};
use crate::apply::refusal_class;
use crate::{DbError, RefusalRow, RejectedRow, Update};

const UNRESOLVED: &str = "SELECT id, stream, epoch, seq, update, sqlstate, message, resolution,
        (extract(epoch FROM date_trunc('second', at))::bigint * 1000000
            + extract(microseconds FROM at)::bigint % 1000000)
    FROM prism.rejected WHERE resolution IS NULL ORDER BY at, id LIMIT $1";

const ONE: &str = "SELECT id, stream, epoch, seq, update, sqlstate, message, resolution,
        (extract(epoch FROM date_trunc('second', at))::bigint * 1000000
            + extract(microseconds FROM at)::bigint % 1000000)
    FROM prism.rejected WHERE id = $1";

/// Those of an earlier numbering have nobody to be told any more.
const REFUSALS: &str = "SELECT j.epoch, j.seq, j.sqlstate, j.message
    FROM prism.rejected j
    JOIN prism.watermark w ON w.stream = j.stream AND w.epoch = j.epoch
    WHERE NOT j.told AND j.stream = $1 AND j.seq IS NOT NULL ORDER BY j.seq LIMIT $2";

const TOLD: &str = "UPDATE prism.rejected SET told = true
    WHERE stream = $1 AND epoch = $2 AND seq = ANY ($3) AND NOT told";

const DROP: &str =
    "UPDATE prism.rejected SET resolution = 'dropped' WHERE id = $1 AND resolution IS NULL";

const SKIP: &str = "INSERT INTO prism.skip (stream, seq)
    SELECT w.stream, $2 FROM prism.watermark w WHERE w.stream = $1 AND w.applied < $2
    ON CONFLICT (stream, seq) DO UPDATE SET seq = excluded.seq";

const FORGET: &str = "DELETE FROM prism.skip s USING prism.watermark w
    WHERE w.stream = s.stream AND s.seq <= w.applied AND s.stream = $1";

const SKIPS: &str = "SELECT s.seq FROM prism.skip s JOIN prism.watermark w USING (stream)
    WHERE s.stream = $1 AND s.seq > w.applied ORDER BY s.seq";

pub(super) fn read(row: &Row) -> Result<RejectedRow, DbError> {
    let update = Update::decode(column(row, 4)?)
        .map_err(|e| DbError::Schema(format!("a row of prism.rejected: {e}")))?;
    let seq: Option<i64> = column(row, 3)?;
    Ok(RejectedRow {
        id: column(row, 0)?,
        stream: column(row, 1)?,
        epoch: Epoch(unsigned(row, 2)?),
        seq: seq.map(|seq| Seq(seq.cast_unsigned())),
        update,
        sqlstate: column(row, 5)?,
        message: column(row, 6)?,
        resolution: column(row, 7)?,
        at: column(row, 8)?,
    })
}

/// Unresolved ones, oldest first.
pub(super) fn unresolved(session: &mut Session, limit: u32) -> Result<Vec<RejectedRow>, Fault> {
    let rows = session.query(UNRESOLVED, &[&i64::from(limit)])?;
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}

pub(super) fn get(session: &mut Session, id: i64) -> Result<Option<RejectedRow>, Fault> {
    let rows = session.query(ONE, &[&id])?;
    Ok(rows.first().map(read).transpose()?)
}

pub(super) fn drop(session: &mut Session, id: i64) -> Result<bool, Fault> {
    Ok(session.execute(DROP, &[&id])? > 0)
}

pub(super) fn refusals(
    session: &mut Session,
    stream: &str,
    limit: u32,
) -> Result<Vec<RefusalRow>, Fault> {
    let rows = session.query(REFUSALS, &[&stream, &i64::from(limit)])?;
    let read = |row: &Row| {
        let sqlstate: String = column(row, 2)?;
        Ok(RefusalRow {
            epoch: Epoch(unsigned(row, 0)?),
            seq: Seq(unsigned(row, 1)?),
            class: refusal_class(&sqlstate),
            sqlstate,
            message: column(row, 3)?,
        })
    };
    Ok(rows.iter().map(read).collect::<Result<_, DbError>>()?)
}

pub(super) fn told(
    session: &mut Session,
    stream: &str,
    epoch: Epoch,
    seqs: &[Seq],
) -> Result<(), Fault> {
    let seqs: Vec<i64> = seqs.iter().map(|seq| seq.0.cast_signed()).collect();
    session.execute(TOLD, &[&stream, &epoch.0.cast_signed(), &seqs])?;
    Ok(())
}

pub(super) fn skip(session: &mut Session, stream: &str, seq: Seq) -> Result<bool, Fault> {
    if session.execute(SKIP, &[&stream, &seq.0.cast_signed()])? > 0 {
        return Ok(true);
    }
    let known = session.query("SELECT FROM prism.watermark WHERE stream = $1", &[&stream])?;
    if known.is_empty() {
        return Err(apply::unknown(stream).into());
    }
    Ok(false)
}

pub(super) fn skips(session: &mut Session, stream: &str) -> Result<Vec<Seq>, Fault> {
    let rows = session.query(SKIPS, &[&stream])?;
    if rows.is_empty() {
        session.execute(FORGET, &[&stream])?;
    }
    let read = |row| Ok(Seq(unsigned(row, 0)?));
    Ok(rows.iter().map(read).collect::<Result<_, DbError>>()?)
}
