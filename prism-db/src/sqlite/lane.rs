//! Delivery of the own stream to the peers: leases, positions, backlog.

use std::time::Duration;

use prism_proto::{Position, Verdict};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::errors::own;
use super::ledger::{self, CLOCK, read_position};
use super::outbox;
use crate::{DbError, LaneRow, OutboxFigures};

/// The oldest row that the peer does not have starts its backlog. Lanes of another epoch have
/// acknowledged nothing of this one. What ends later than anybody may ask for
/// ([`crate::MAX_LEASE`]) was written before the clock went back.
const LANE: &str = "SELECT l.peer, l.epoch, l.acked, l.tag,
        CASE WHEN l.lease_until BETWEEN {CLOCK} + 1 AND {CLOCK} + 30000000 THEN l.holder END,
        CASE WHEN l.wanted_until BETWEEN {CLOCK} + 1 AND {CLOCK} + 30000000 THEN l.wanted END,
        l.stale, r.bytes - o.total + length(o.body), {CLOCK} - o.at
    FROM prism_lane l CROSS JOIN prism_region r
    LEFT JOIN prism_outbox o ON o.seq = (SELECT min(seq) FROM prism_outbox
        WHERE seq > CASE WHEN l.epoch = r.epoch THEN l.acked ELSE 0 END)";

fn sql(text: &str) -> String {
    text.replace("{CLOCK}", CLOCK)
}

fn read(row: &Row<'_>) -> rusqlite::Result<LaneRow> {
    let holder: Option<String> = row.get(4)?;
    let wanted: Option<String> = row.get(5)?;
    let waiting: Option<i64> = row.get(8)?;
    Ok(LaneRow {
        peer: row.get(0)?,
        acked: read_position(row, 1)?,
        wanted: wanted.filter(|wanted| Some(wanted) != holder.as_ref()),
        holder,
        stale: row.get(6)?,
        backlog: row.get::<_, Option<i64>>(7)?.map_or(0, i64::cast_unsigned),
        // The clock may have gone back.
        waiting: waiting.map(|age| Duration::from_micros(age.max(0).cast_unsigned())),
    })
}

pub(super) fn all(db: &Connection) -> Result<Vec<LaneRow>, DbError> {
    db.prepare_cached(&sql(&format!("{LANE} ORDER BY l.peer")))
        .and_then(|mut query| query.query_map([], read)?.collect())
        .map_err(own)
}

pub(super) fn get(db: &Connection, peer: &str) -> Result<Option<LaneRow>, DbError> {
    db.prepare_cached(&sql(&format!("{LANE} WHERE l.peer = ?1")))
        .and_then(|mut query| query.query_row([peer], read).optional())
        .map_err(own)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4)
}

/// Takes the lease if it is free, expired or `node`'s.
pub(super) fn lease(db: &Connection, peer: &str, node: &str, ttl: Duration) -> Result<(), DbError> {
    let ttl = micros(ttl);
    let taken = db
        .prepare_cached(&sql(
            "UPDATE prism_lane SET holder = ?2, lease_until = {CLOCK} + ?3
             WHERE peer = ?1 AND (holder IS NULL OR holder = ?2 OR lease_until <= {CLOCK}
                                  OR lease_until > {CLOCK} + 30000000)",
        ))
        .and_then(|mut update| update.execute(params![peer, node, ttl]))
        .map_err(own)?;
    if taken > 0 {
        db.prepare_cached(
            "UPDATE prism_lane SET wanted = NULL, wanted_until = 0 WHERE peer = ?1 AND wanted = ?2",
        )
        .and_then(|mut update| update.execute([peer, node]))
        .map_err(own)?;
    }
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

/// The first to ask is remembered until its wish is old.
pub(super) fn want(db: &Connection, peer: &str, node: &str, ttl: Duration) -> Result<(), DbError> {
    db.prepare_cached(&sql(
        "UPDATE prism_lane SET wanted = ?2, wanted_until = {CLOCK} + ?3
         WHERE peer = ?1 AND (wanted IS NULL OR wanted = ?2 OR wanted_until <= {CLOCK}
                              OR wanted_until > {CLOCK} + 30000000)",
    ))
    .and_then(|mut update| update.execute(params![peer, node, micros(ttl)]))
    .map_err(own)?;
    Ok(())
}

pub(super) fn mark(db: &Connection, peer: &str, stale: bool) -> Result<(), DbError> {
    db.prepare_cached("UPDATE prism_lane SET stale = ?2 WHERE peer = ?1")
        .and_then(|mut update| update.execute(params![peer, stale]))
        .map_err(own)?;
    Ok(())
}

/// In a transaction that writes: nobody deletes anything meanwhile.
pub(super) fn back(db: &Connection, peer: &str) -> Result<bool, DbError> {
    let lanes = all(db)?;
    let Some(marked) = lanes.iter().find(|lane| lane.peer == peer && lane.stale) else {
        return Ok(true);
    };
    let all_there = outbox::verify(db, marked.acked)? == Verdict::Matches;
    if all_there {
        mark(db, peer, false)?;
    }
    Ok(all_there)
}

/// The newest word, also backwards.
pub(super) fn acked(db: &Connection, peer: &str, position: Position) -> Result<(), DbError> {
    db.prepare_cached("UPDATE prism_lane SET epoch = ?2, acked = ?3, tag = ?4 WHERE peer = ?1")
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

/// The outbox has no holes: its ends tell its size.
pub(super) fn figures(db: &Connection) -> Result<OutboxFigures, DbError> {
    let first = db
        .prepare_cached("SELECT seq, total - length(body) FROM prism_outbox ORDER BY seq LIMIT 1")
        .and_then(|mut query| {
            query
                .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
                .optional()
        })
        .map_err(own)?;
    let (bytes, requests) = db
        .query_row(
            "SELECT bytes, (SELECT count(*) FROM prism_request) FROM prism_region",
            [],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )
        .map_err(own)?;
    let next = ledger::region(db)?.next_seq.0;
    let (rows, bytes) = match first {
        Some((seq, before)) => (
            next.saturating_sub(seq.cast_unsigned()),
            bytes.saturating_sub(before).cast_unsigned(),
        ),
        None => (0, 0),
    };
    Ok(OutboxFigures {
        rows,
        bytes,
        requests: requests.cast_unsigned(),
    })
}
