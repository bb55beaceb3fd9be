//! The schema's versions, and the rows that a configuration needs.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::connection::{check_name, check_version, connect, has_schema, wait_at_most};
use super::errors::own;
use super::ledger;
use crate::catalogue::Catalogue;
use crate::{DbError, Migrated, Topology, chain, timestamp};

/// Numbered SQL files, each run once, in order. Never change one that has been released.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_ledger.sql"),
    include_str!("migrations/0002_requests.sql"),
];

/// The version that this build works with.
pub(super) const VERSION: u32 = MIGRATIONS.len() as u32;

/// Creates the file if it is missing, upgrades the schema, adds what is new in the configuration.
pub(crate) fn migrate(
    path: &Path,
    topology: &Topology,
    catalogue: &Catalogue,
) -> Result<Migrated, DbError> {
    wait_at_most(Duration::from_secs(10));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let db = connect(path, flags)?;
    // It stays with the file. Readers do not block the writer, and a commit is one fsync.
    let mode: String = db
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(own)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(DbError::Schema(format!(
            "{}: write-ahead logging is not possible here (journal mode {mode}); use a local disk",
            path.display()
        )));
    }
    db.execute_batch("BEGIN IMMEDIATE").map_err(own)?;
    // An error drops the connection, which rolls back.
    let migrated = in_transaction(&db, topology, catalogue)?;
    db.execute_batch("COMMIT").map_err(own)?;
    Ok(migrated)
}

fn in_transaction(
    db: &Connection,
    topology: &Topology,
    catalogue: &Catalogue,
) -> Result<Migrated, DbError> {
    let found = if has_schema(db)? {
        db.query_row("SELECT name, schema_version FROM prism_region", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?))
        })
        .optional()
        .map_err(own)?
    } else {
        None
    };
    let from_version = match found {
        Some((name, version)) => {
            check_name(&name, &topology.region)?;
            check_version(version)?;
            version
        }
        None => 0,
    };
    for sql in &MIGRATIONS[from_version as usize..] {
        db.execute_batch(sql).map_err(own)?;
    }
    if from_version == 0 {
        db.execute(
            "INSERT INTO prism_region (one, name, epoch, next_seq, last_tag, hlc, schema_version)
             VALUES (1, ?1, ?2, 1, 0, 0, ?3)",
            params![topology.region, chain::random_u64()?.cast_signed(), VERSION],
        )
        .map_err(own)?;
    } else {
        db.execute("UPDATE prism_region SET schema_version = ?1", [VERSION])
            .map_err(own)?;
    }
    Ok(Migrated {
        region: ledger::region(db)?,
        from_version,
        to_version: VERSION,
        added_regions: add_regions(db, topology)?,
        added_statements: add_statements(db, catalogue)?,
    })
}

fn add_regions(db: &Connection, topology: &Topology) -> Result<Vec<String>, DbError> {
    let mut added = Vec::new();
    for (name, _) in topology
        .regions
        .iter()
        .filter(|(n, _)| *n != topology.region)
    {
        let mut new = 0;
        for sql in [
            "INSERT OR IGNORE INTO prism_watermark (region) VALUES (?1)",
            "INSERT OR IGNORE INTO prism_lane (peer) VALUES (?1)",
        ] {
            new += db.execute(sql, [name]).map_err(own)?;
        }
        if new > 0 {
            added.push(name.clone());
        }
    }
    Ok(added)
}

fn add_statements(db: &Connection, catalogue: &Catalogue) -> Result<Vec<String>, DbError> {
    let mut added = Vec::new();
    for statement in catalogue.iter() {
        let new = db
            .execute(
                "INSERT OR IGNORE INTO prism_statement (digest, name, definition, added_at)
                 VALUES (?1, ?2, ?3, ?4)",
                params![
                    statement.digest().0,
                    statement.name(),
                    statement.definition(),
                    timestamp::now_micros()
                ],
            )
            .map_err(own)?;
        if new > 0 {
            added.push(statement.name().to_owned());
        }
    }
    Ok(added)
}
