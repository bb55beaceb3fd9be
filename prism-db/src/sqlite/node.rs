//! Which process serves as which node.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::errors::own;
use crate::{DbError, NodeRow, timestamp};

/// Whoever comes last has the name.
pub(super) fn claim(
    db: &Connection,
    node: &str,
    incarnation: u64,
    journal: u64,
) -> Result<Option<NodeRow>, DbError> {
    let now = timestamp::now_micros();
    let before = db
        .query_row(
            "SELECT incarnation, journal, beat FROM prism_node WHERE name = ?1",
            [node],
            |row| {
                let silent = now.saturating_sub(row.get::<_, i64>(2)?).max(0);
                Ok(NodeRow {
                    incarnation: row.get::<_, i64>(0)?.cast_unsigned(),
                    journal: row.get::<_, i64>(1)?.cast_unsigned(),
                    silent: Duration::from_micros(silent.cast_unsigned()),
                })
            },
        )
        .optional()
        .map_err(own)?;
    db.execute(
        "INSERT OR REPLACE INTO prism_node (name, incarnation, journal, beat)
         VALUES (?1, ?2, ?3, ?4)",
        params![node, incarnation.cast_signed(), journal.cast_signed(), now],
    )
    .map_err(own)?;
    Ok(before)
}

pub(super) fn beat(db: &Connection, node: &str, incarnation: u64) -> Result<bool, DbError> {
    db.prepare_cached("UPDATE prism_node SET beat = ?3 WHERE name = ?1 AND incarnation = ?2")
        .and_then(|mut update| {
            update.execute(params![
                node,
                incarnation.cast_signed(),
                timestamp::now_micros()
            ])
        })
        .map(|rows| rows > 0)
        .map_err(own)
}
