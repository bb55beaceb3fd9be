//! Rows of the ledger: the region, the watermarks, the lanes, what was rejected.

use std::time::Duration;

use prism_proto::{Epoch, Position, Seq, Tag};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::errors::own;
use crate::{
    ApplyItem, ApplyRequest, DbError, Hlc, LaneRow, RegionRow, RejectedRow, Update, timestamp,
};

/// The database's clock, microseconds. SQLite's own has milliseconds.
const CLOCK: &str = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)";

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

pub(super) fn region(db: &Connection) -> Result<RegionRow, DbError> {
    db.prepare_cached("SELECT name, epoch, next_seq, last_tag FROM prism_region")
        .and_then(|mut query| {
            query.query_row([], |row| {
                Ok(RegionRow {
                    name: row.get(0)?,
                    epoch: Epoch(unsigned(row, 1)?),
                    next_seq: Seq(unsigned(row, 2)?),
                    last_tag: Tag(unsigned(row, 3)?),
                })
            })
        })
        .map_err(own)
}

/// Latest of the own clock and the clocks of everything applied here.
pub(super) fn hlc(db: &Connection) -> Result<Hlc, DbError> {
    let mut query = db
        .prepare_cached("SELECT hlc FROM prism_region UNION ALL SELECT hlc FROM prism_watermark")
        .map_err(own)?;
    let clocks = query
        .query_map([], |row| unsigned(row, 0))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(own)?;
    Ok(Hlc(clocks.into_iter().max().unwrap_or(0)))
}

fn read_position(row: &Row<'_>, first: usize) -> rusqlite::Result<Position> {
    Ok(Position {
        epoch: Epoch(unsigned(row, first)?),
        seq: Seq(unsigned(row, first + 1)?),
        tag: Tag(unsigned(row, first + 2)?),
    })
}

/// `None` if no such region is configured.
pub(super) fn watermark(db: &Connection, stream: &str) -> Result<Option<Position>, DbError> {
    db.prepare_cached("SELECT epoch, applied, tag FROM prism_watermark WHERE region = ?1")
        .and_then(|mut query| {
            query
                .query_row([stream], |row| read_position(row, 0))
                .optional()
        })
        .map_err(own)
}

pub(super) fn watermarks(db: &Connection) -> Result<Vec<(String, Position)>, DbError> {
    db.prepare_cached("SELECT region, epoch, applied, tag FROM prism_watermark ORDER BY region")
        .and_then(|mut query| {
            query
                .query_map([], |row| Ok((row.get(0)?, read_position(row, 1)?)))?
                .collect()
        })
        .map_err(own)
}

/// Moves a watermark to the last item of a request.
pub(super) fn advance(
    db: &Connection,
    request: &ApplyRequest<'_>,
    last: &ApplyItem,
) -> Result<Position, DbError> {
    let clock = request.items.iter().map(|item| item.update.hlc).max();
    let mut update = db
        .prepare_cached(
            "UPDATE prism_watermark
             SET epoch = ?2, applied = ?3, tag = ?4, hlc = ?5, applied_at = ?6 WHERE region = ?1",
        )
        .map_err(own)?;
    update
        .execute(params![
            request.stream,
            request.epoch.0.cast_signed(),
            last.seq.0.cast_signed(),
            last.update.tag.0.cast_signed(),
            clock.unwrap_or_default().0.cast_signed(),
            timestamp::now_micros(),
        ])
        .map_err(own)?;
    Ok(Position {
        epoch: request.epoch,
        seq: last.seq,
        tag: last.update.tag,
    })
}

const LANE: &str = "peer, epoch, acked, tag, CASE WHEN lease_until > {CLOCK} THEN holder END";

fn lane_sql(rest: &str) -> String {
    let columns = LANE.replace("{CLOCK}", CLOCK);
    format!("SELECT {columns} FROM prism_lane {rest}")
}

fn read_lane(row: &Row<'_>) -> rusqlite::Result<LaneRow> {
    Ok(LaneRow {
        peer: row.get(0)?,
        acked: read_position(row, 1)?,
        holder: row.get(4)?,
        ..LaneRow::default()
    })
}

pub(super) fn lanes(db: &Connection) -> Result<Vec<LaneRow>, DbError> {
    db.prepare_cached(&lane_sql("ORDER BY peer"))
        .and_then(|mut query| query.query_map([], read_lane)?.collect())
        .map_err(own)
}

pub(super) fn lane(db: &Connection, peer: &str) -> Result<Option<LaneRow>, DbError> {
    db.prepare_cached(&lane_sql("WHERE peer = ?1"))
        .and_then(|mut query| query.query_row([peer], read_lane).optional())
        .map_err(own)
}

/// Takes the lease if it is free, expired or `node`'s.
pub(super) fn lease(db: &Connection, peer: &str, node: &str, ttl: Duration) -> Result<(), DbError> {
    let ttl = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX / 2);
    db.prepare_cached(&format!(
        "UPDATE prism_lane SET holder = ?2, lease_until = {CLOCK} + ?3
         WHERE peer = ?1 AND (holder IS NULL OR holder = ?2 OR lease_until <= {CLOCK})"
    ))
    .and_then(|mut update| update.execute(params![peer, node, ttl]))
    .map_err(own)?;
    Ok(())
}

pub(super) fn release(db: &Connection, peer: &str, node: &str) -> Result<(), DbError> {
    db.execute(
        "UPDATE prism_lane SET holder = NULL, lease_until = 0 WHERE peer = ?1 AND holder = ?2",
        [peer, node],
    )
    .map_err(own)?;
    Ok(())
}

/// Never moves back within an epoch.
pub(super) fn acked(db: &Connection, peer: &str, position: Position) -> Result<(), DbError> {
    db.prepare_cached(
        "UPDATE prism_lane SET epoch = ?2, acked = ?3, tag = ?4
         WHERE peer = ?1 AND (epoch <> ?2 OR acked < ?3)",
    )
    .and_then(|mut update| {
        update.execute(params![
            peer,
            position.epoch.0.cast_signed(),
            position.seq.0.cast_signed(),
            position.tag.0.cast_signed(),
        ])
    })
    .map_err(own)?;
    Ok(())
}

pub(super) fn reject(
    db: &Connection,
    request: &ApplyRequest<'_>,
    item: &ApplyItem,
    sqlstate: &str,
    message: &str,
) -> Result<(), DbError> {
    db.prepare_cached(
        "INSERT INTO prism_rejected (stream, epoch, seq, statement, body, sqlstate, message, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )
    .and_then(|mut insert| {
        insert.execute(params![
            request.stream,
            request.epoch.0.cast_signed(),
            item.seq.0.cast_signed(),
            item.update.statement.0,
            item.update.encode(),
            sqlstate,
            message,
            timestamp::now_micros(),
        ])
    })
    .map_err(own)?;
    Ok(())
}

pub(super) fn rejected_count(db: &Connection) -> Result<u64, DbError> {
    db.query_row(
        "SELECT count(*) FROM prism_rejected WHERE resolution IS NULL",
        [],
        |row| unsigned(row, 0),
    )
    .map_err(own)
}

pub(super) fn rejected(db: &Connection, limit: u32) -> Result<Vec<RejectedRow>, DbError> {
    let mut query = db
        .prepare_cached(
            "SELECT stream, seq, body, sqlstate, message FROM prism_rejected
             WHERE resolution IS NULL ORDER BY at, stream, seq LIMIT ?1",
        )
        .map_err(own)?;
    let mut rows = query.query([limit]).map_err(own)?;
    let mut rejected = Vec::new();
    while let Some(row) = rows.next().map_err(own)? {
        let body: Vec<u8> = row.get(2).map_err(own)?;
        rejected.push(RejectedRow {
            stream: row.get(0).map_err(own)?,
            id: 0,
            epoch: Epoch(0),
            at: 0,
            resolution: None,
            seq: Some(Seq(unsigned(row, 1).map_err(own)?)),
            update: Update::decode(&body).map_err(super::outbox::damaged)?,
            sqlstate: row.get(3).map_err(own)?,
            message: row.get(4).map_err(own)?,
        });
    }
    Ok(rejected)
}
