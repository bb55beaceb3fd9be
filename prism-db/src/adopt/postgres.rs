//! What adopting does to a PostgreSQL database, as an ordinary role.

use std::time::Duration;

use postgres::Client;
use prism_proto::{Epoch, Position, Seq, Tag};

use super::{BEAT_SECONDS, Look, Side, sealed};
use crate::DbError;
use crate::server::{self, Address, Refusal};

const CONNECT: Duration = Duration::from_secs(10);

/// Ends what the same role has open in this database: it could hold locks, or go on writing.
pub(super) const CLEAR: &str = "SELECT count(pg_catalog.pg_terminate_backend(pid))
    FROM pg_catalog.pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()";

pub(super) struct PgSide(Client);

pub(super) fn failed(error: postgres::Error) -> DbError {
    match error.as_db_error() {
        Some(db) => {
            let detail = db.detail().map(|d| format!(" ({d})")).unwrap_or_default();
            DbError::sql(db.code().code(), format!("{}{detail}", db.message()), None)
        }
        None => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            DbError::Unreachable(source.unwrap_or_else(|| error.to_string()))
        }
    }
}

pub(super) fn address(url: &str) -> Result<Address, DbError> {
    let mut address = Address::parse(url).map_err(DbError::Unreachable)?;
    address.deadlines(CONNECT, None);
    address.config.application_name("prism adopt");
    Ok(address)
}

pub(super) fn connect(url: &str) -> Result<Client, DbError> {
    let connected = server::connect(&address(url)?).map_err(|refusal| match refusal {
        Refusal::Unprotected(text) => DbError::Unreachable(text),
        Refusal::Client(error) => failed(error),
    })?;
    let mut client = connected.client;
    client
        .batch_execute(
            "SET lock_timeout = '20s'; SET statement_timeout = '60s'; SET search_path = pg_catalog;
             SET standard_conforming_strings = on",
        )
        .map_err(failed)?;
    Ok(client)
}

impl PgSide {
    pub(super) fn open(url: &str) -> Result<Self, DbError> {
        connect(url).map(Self)
    }
}

impl Side for PgSide {
    fn look(&mut self) -> Result<Look, DbError> {
        let row = self
            .0
            .query_one(
                "SELECT current_setting('server_encoding'), to_regclass('prism.region') IS NOT NULL,
                        to_regclass('prism.node') IS NOT NULL,
                        (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
                         WHERE relkind IN ('r', 'p', 'f') AND nspname <> 'prism'
                           AND nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
                           AND NOT EXISTS (SELECT FROM pg_depend d
                                           WHERE d.objid = c.oid AND d.deptype = 'e'))",
                &[],
            )
            .map_err(failed)?;
        let encoding: &str = row.get(0);
        if encoding != "UTF8" {
            return Err(DbError::Schema(format!(
                "its encoding is {encoding}; Prism needs UTF8 (CREATE DATABASE ... ENCODING 'UTF8' \
                 TEMPLATE template0)"
            )));
        }
        let (ledger, node, tables): (bool, bool, i64) = (row.get(1), row.get(2), row.get(3));
        let name = if ledger {
            self.0
                .query_opt("SELECT name FROM prism.region", &[])
                .map_err(failed)?
                .map(|row| row.get(0))
        } else {
            None
        };
        let mut nodes = Vec::new();
        if node {
            let sql = "SELECT name, (extract(epoch FROM beat) * 1000000)::bigint FROM prism.node
                       WHERE beat > now() - $1 * interval '1 second' ORDER BY name";
            let seconds = BEAT_SECONDS as f64;
            let rows = self.0.query(sql, &[&seconds]).map_err(failed)?;
            nodes = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        }
        Ok(Look {
            ledger: name,
            tables: tables.cast_unsigned(),
            nodes,
        })
    }

    fn fence(
        &mut self,
        target: &str,
        epoch: Epoch,
        lane: Option<Position>,
    ) -> Result<Position, DbError> {
        let mut transaction = self.0.transaction().map_err(failed)?;
        let row = transaction
            .query_opt(
                "UPDATE prism.watermark SET epoch = $2 WHERE stream = $1 RETURNING applied, tag",
                &[&target, &epoch.0.cast_signed()],
            )
            .map_err(failed)?
            .ok_or_else(|| {
                DbError::Schema(format!(
                    "region {target} is not known here; run: prism migrate"
                ))
            })?;
        if let Some(lane) = lane {
            transaction
                .execute(
                    "UPDATE prism.lane SET epoch = $2, acked = $3, tag = $4, stale = false
                     WHERE peer = $1",
                    &[
                        &target,
                        &lane.epoch.0.cast_signed(),
                        &lane.seq.0.cast_signed(),
                        &lane.tag.0.cast_signed(),
                    ],
                )
                .map_err(failed)?;
        }
        let told = "UPDATE prism.rejected SET told = true WHERE stream = $1 AND NOT told";
        transaction.execute(told, &[&target]).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(Position {
            epoch,
            seq: Seq(row.get::<_, i64>(0).cast_unsigned()),
            tag: Tag(row.get::<_, i64>(1).cast_unsigned()),
        })
    }

    fn seal(&mut self, target: &str) -> Result<(), DbError> {
        let mut transaction = self.0.transaction().map_err(failed)?;
        transaction
            .execute("UPDATE prism.watermark SET epoch = ~epoch", &[])
            .and_then(|_| {
                let name = sealed(target);
                transaction.execute("UPDATE prism.region SET name = $1", &[&name])
            })
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
        self.0.query_one(CLEAR, &[]).map_err(failed)?;
        Ok(())
    }
}
