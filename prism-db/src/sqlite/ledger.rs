//! Rows of the ledger: the region and the watermarks.

use prism_proto::{Epoch, Position, Seq, Tag};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::errors::own;
use crate::{ApplyItem, ApplyRequest, DbError, Hlc, RegionRow, timestamp};

/// The database's clock, microseconds. SQLite's own has milliseconds.
pub(super) const CLOCK: &str = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)";

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

/// Latest of the own clock and the clocks of everything applied here, as far as they are followed.
pub(super) fn hlc(db: &Connection) -> Result<Hlc, DbError> {
    let mut query = db
        .prepare_cached(
            "SELECT hlc FROM prism_region UNION ALL SELECT min(hlc, ?1) FROM prism_watermark",
        )
        .map_err(own)?;
    let clocks = query
        .query_map([Hlc::FOLLOWED.0.cast_signed()], |row| unsigned(row, 0))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(own)?;
    Ok(Hlc(clocks.into_iter().max().unwrap_or(0)))
}

pub(super) fn read_position(row: &Row<'_>, first: usize) -> rusqlite::Result<Position> {
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
