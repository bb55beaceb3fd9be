//! Rows of `prism.lane`: how far a peer is, and which node of our region sends to it.

use std::time::Duration;

use postgres::Row;
use prism_proto::{Position, Verdict};

use super::fault::Fault;
use super::session::{Session, column};
use super::{apply, interval, outbox, position, unsigned};
use crate::{DbError, LaneRow};

/// The database's clock decides, at the moment of the call, not at the start of a transaction. What
/// ends later than anybody may ask for ([`crate::MAX_LEASE`]) was written before the clock went back.
/// The backlog begins with the first update behind the acknowledged one.
macro_rules! lanes {
    ($where:literal) => {
        concat!(
            "SELECT l.peer, l.epoch, l.acked, l.tag,
                CASE WHEN l.lease_until > clock_timestamp()
                     AND l.lease_until <= clock_timestamp() + interval '30 seconds'
                     THEN l.holder END,
                CASE WHEN l.wanted_until > clock_timestamp()
                     AND l.wanted_until <= clock_timestamp() + interval '30 seconds'
                     THEN l.wanted END,
                l.stale, coalesce(r.bytes - o.bytes, 0),
                abs((extract(epoch FROM clock_timestamp() - o.at) * 1000)::bigint)
            FROM prism.lane l CROSS JOIN prism.region r
            LEFT JOIN LATERAL (
                SELECT o.bytes, o.at FROM prism.outbox o
                WHERE o.seq > CASE WHEN l.epoch = r.epoch THEN l.acked ELSE 0 END
                ORDER BY o.seq LIMIT 1
            ) o ON true ",
            $where
        )
    };
}

const ALL: &str = lanes!("ORDER BY l.peer");

const ONE: &str = lanes!("WHERE l.peer = $1");

/// Whoever had asked for it and gets it asks no more.
const LEASE: &str = "UPDATE prism.lane
    SET holder = $2, lease_until = clock_timestamp() + $3 * interval '1 microsecond',
        wanted = nullif(wanted, $2)
    WHERE peer = $1 AND (holder IS NULL OR holder = $2
        OR lease_until IS NULL OR lease_until <= clock_timestamp()
        OR lease_until > clock_timestamp() + interval '30 seconds')";

const RELEASE: &str =
    "UPDATE prism.lane SET holder = NULL, lease_until = NULL WHERE peer = $1 AND holder = $2";

const WANT: &str = "UPDATE prism.lane
    SET wanted = $2, wanted_until = clock_timestamp() + $3 * interval '1 microsecond'
    WHERE peer = $1";

const STALE: &str = "UPDATE prism.lane SET stale = true WHERE peer = $1 AND NOT stale";

/// Whoever deletes what only stale lanes miss has locked them ([`outbox`](super::outbox)).
const MARKED: &str = "SELECT epoch, acked, tag FROM prism.lane
    WHERE peer = $1 AND stale FOR NO KEY UPDATE";

const BACK: &str = "UPDATE prism.lane SET stale = false WHERE peer = $1";

/// Also backwards: the peer's database may have been restored.
const ACKED: &str = "UPDATE prism.lane SET epoch = $2, acked = $3, tag = $4
    WHERE peer = $1 AND (epoch, acked, tag) <> ($2, $3, $4)";

fn row(row: &Row) -> Result<LaneRow, DbError> {
    let waiting: Option<i64> = column(row, 8)?;
    Ok(LaneRow {
        peer: column(row, 0)?,
        acked: position(row, 1)?,
        holder: column(row, 4)?,
        wanted: column(row, 5)?,
        stale: column(row, 6)?,
        backlog: unsigned(row, 7)?,
        waiting: waiting.map(|ms| Duration::from_millis(ms.unsigned_abs())),
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
    session.execute(LEASE, &[&peer, &node, &interval(ttl)])?;
    let rows = session.query(ONE, &[&peer])?;
    let found = rows.first().ok_or_else(|| apply::unknown(peer))?;
    Ok(row(found)?)
}

pub(super) fn release(session: &mut Session, peer: &str, node: &str) -> Result<(), Fault> {
    session.execute(RELEASE, &[&peer, &node])?;
    Ok(())
}

pub(super) fn want(
    session: &mut Session,
    peer: &str,
    node: &str,
    ttl: Duration,
) -> Result<(), Fault> {
    let changed = session.execute(WANT, &[&peer, &node, &interval(ttl)])?;
    known(peer, changed)
}

pub(super) fn stale(session: &mut Session, peer: &str) -> Result<(), Fault> {
    session.execute(STALE, &[&peer])?;
    Ok(())
}

/// In a transaction.
pub(super) fn back(session: &mut Session, peer: &str) -> Result<bool, Fault> {
    let rows = session.query(MARKED, &[&peer])?;
    let Some(marked) = rows.first() else {
        return Ok(true);
    };
    // After the lock: what was deleted before is seen to be gone.
    let all_there = outbox::verdict(session, position(marked, 0)?)? == Verdict::Matches;
    if all_there {
        session.execute(BACK, &[&peer])?;
    }
    Ok(all_there)
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

fn known(peer: &str, changed: u64) -> Result<(), Fault> {
    if changed == 0 {
        return Err(apply::unknown(peer).into());
    }
    Ok(())
}
