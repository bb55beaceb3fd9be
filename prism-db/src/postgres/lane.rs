//! Rows of `prism.lane`: how far a peer is, and which node of our region sends to it.

use std::time::Duration;

use postgres::Row;
use prism_proto::Position;

use super::fault::Fault;
use super::session::{Session, column};
use super::{apply, position};
use crate::{DbError, LaneRow};

/// The database's clock decides, at the moment of the call, not at the start of a transaction.
const ALL: &str = "SELECT peer, epoch, acked, tag,
        CASE WHEN lease_until > clock_timestamp() THEN holder END
    FROM prism.lane ORDER BY peer";

const ONE: &str = "SELECT peer, epoch, acked, tag,
        CASE WHEN lease_until > clock_timestamp() THEN holder END
    FROM prism.lane WHERE peer = $1";

const LEASE: &str = "UPDATE prism.lane
    SET holder = $2, lease_until = clock_timestamp() + $3 * interval '1 microsecond'
    WHERE peer = $1 AND (holder IS NULL OR holder = $2
        OR lease_until IS NULL OR lease_until <= clock_timestamp())";

/// Not back within an epoch; a peer that was emptied and asks from the start has another one, or
/// is dealt with before it gets here.
const ACKED: &str = "UPDATE prism.lane SET epoch = $2, acked = $3, tag = $4
    WHERE peer = $1 AND (epoch <> $2 OR acked < $3)";

fn row(row: &Row) -> Result<LaneRow, DbError> {
    Ok(LaneRow {
        peer: column(row, 0)?,
        acked: position(row, 1)?,
        holder: column(row, 4)?,
        ..LaneRow::default()
    })
}

pub(super) fn all(session: &mut Session) -> Result<Vec<LaneRow>, Fault> {
    let rows = session.query(ALL, &[])?;
    Ok(rows.iter().map(row).collect::<Result<_, _>>()?)
}

pub(super) fn lease(
    session: &mut Session,
    peer: &str,
    node: &str,
    ttl: Duration,
) -> Result<LaneRow, Fault> {
    // Not a number of seconds in floating point: an interval is whole microseconds.
    let micros = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX / 4) as f64;
    session.execute(LEASE, &[&peer, &node, &micros])?;
    let rows = session.query(ONE, &[&peer])?;
    let found = rows.first().ok_or_else(|| apply::unknown(peer))?;
    Ok(row(found)?)
}

pub(super) fn release(session: &mut Session, peer: &str, node: &str) -> Result<(), Fault> {
    session.execute(
        "UPDATE prism.lane SET holder = NULL, lease_until = NULL WHERE peer = $1 AND holder = $2",
        &[&peer, &node],
    )?;
    Ok(())
}

pub(super) fn acked(session: &mut Session, peer: &str, at: Position) -> Result<(), Fault> {
    let (epoch, seq, tag) = (
        at.epoch.0.cast_signed(),
        at.seq.0.cast_signed(),
        at.tag.0.cast_signed(),
    );
    session.execute(ACKED, &[&peer, &epoch, &seq, &tag])?;
    Ok(())
}
