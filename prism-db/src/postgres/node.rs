//! Rows of `prism.node`: which process serves under a name.

use std::time::Duration;

use super::fault::Fault;
use super::session::{Session, column};
use super::unsigned;
use crate::NodeRow;

/// The first part sees what the second writes over.
const CLAIM: &str = "WITH before AS (
        SELECT incarnation, journal, beat FROM prism.node WHERE name = $1 FOR UPDATE
    ), now AS (
        INSERT INTO prism.node (name, incarnation, journal, beat)
            VALUES ($1, $2, $3, clock_timestamp())
            ON CONFLICT (name) DO UPDATE SET incarnation = excluded.incarnation,
                journal = excluded.journal, beat = excluded.beat
    )
    SELECT incarnation, journal,
           greatest(0, (extract(epoch FROM clock_timestamp() - beat) * 1000)::bigint)
    FROM before";

const BEAT: &str = "UPDATE prism.node SET beat = clock_timestamp()
    WHERE name = $1 AND incarnation = $2";

pub(super) fn claim(
    session: &mut Session,
    node: &str,
    incarnation: u64,
    journal: u64,
) -> Result<Option<NodeRow>, Fault> {
    let (incarnation, journal) = (incarnation.cast_signed(), journal.cast_signed());
    let rows = session.query(CLAIM, &[&node, &incarnation, &journal])?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let silent: i64 = column(row, 2)?;
    Ok(Some(NodeRow {
        incarnation: unsigned(row, 0)?,
        journal: unsigned(row, 1)?,
        silent: Duration::from_millis(silent.unsigned_abs()),
    }))
}

pub(super) fn beat(session: &mut Session, node: &str, incarnation: u64) -> Result<bool, Fault> {
    Ok(session.execute(BEAT, &[&node, &incarnation.cast_signed()])? > 0)
}
