//! Whether a region's database could run the catalogue: tables, columns, functions, grants.
//!
//! Nothing is executed: SQLite compiles the statement, PostgreSQL explains it, which also looks at
//! the grants.

use std::path::Path;
use std::time::Duration;

use postgres::NoTls;
use prism_db::catalogue::{Catalogue, Statement};
use prism_db::{DatabaseUrl, ParamType};
use rusqlite::{Connection, OpenFlags};

/// What a database says about one text of one statement.
pub struct Refused {
    /// `add_kills, sql`
    pub what: String,
    /// The database's words.
    pub why: String,
}

/// All texts that the database would not run.
///
/// # Errors
/// No connection.
pub fn check(
    url: &DatabaseUrl,
    catalogue: &Catalogue,
    timeout: Duration,
) -> Result<Vec<Refused>, String> {
    match url {
        DatabaseUrl::Sqlite(path) => sqlite(path, catalogue, timeout).map_err(|e| e.to_string()),
        DatabaseUrl::Postgres(url) => postgres(url, catalogue, timeout).map_err(|e| words(&e)),
    }
}

/// The SQL texts of a statement, with the key they stand under.
fn texts(statement: &Statement) -> impl Iterator<Item = (&'static str, &str)> {
    [
        ("sql", Some(statement.sql())),
        ("old", statement.old()),
        ("undo", statement.undo()),
    ]
    .into_iter()
    .filter_map(|(key, text)| Some((key, text?)))
}

fn sqlite(path: &Path, catalogue: &Catalogue, timeout: Duration) -> rusqlite::Result<Vec<Refused>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags)?;
    database.busy_timeout(timeout)?;
    let mut refused = Vec::new();
    for statement in catalogue.iter() {
        for (key, text) in texts(statement) {
            if let Err(e) = database.prepare(text) {
                refused.push(Refused {
                    what: format!("{}, {key}", statement.name()),
                    why: e.to_string(),
                });
            }
        }
    }
    Ok(refused)
}

fn postgres(
    url: &str,
    catalogue: &Catalogue,
    timeout: Duration,
) -> Result<Vec<Refused>, postgres::Error> {
    let mut config: postgres::Config = url.parse()?;
    config.connect_timeout(timeout);
    let mut client = config.connect(NoTls)?;
    client.batch_execute(&format!("SET statement_timeout = {}", timeout.as_millis()))?;
    let mut refused = Vec::new();
    for statement in catalogue.iter() {
        let types: Vec<_> = statement.params().iter().map(|t| type_name(*t)).collect();
        let (types, nulls) = match types.len() {
            0 => (String::new(), String::new()),
            n => (
                format!("({})", types.join(", ")),
                format!("({})", vec!["NULL"; n].join(", ")),
            ),
        };
        for (key, text) in texts(statement) {
            let text = without_old(text);
            let mut transaction = client.transaction()?;
            let explained = transaction.batch_execute(&format!(
                "PREPARE prism_check {types} AS {text}; EXPLAIN EXECUTE prism_check {nulls}; DEALLOCATE prism_check"
            ));
            if let Err(e) = explained {
                if e.is_closed() {
                    return Err(e);
                }
                refused.push(Refused {
                    what: format!("{}, {key}", statement.name()),
                    why: words(&e),
                });
            }
            transaction.rollback()?;
        }
        // A prepared statement outlives the transaction in which it failed.
        client.batch_execute("DEALLOCATE ALL")?;
    }
    Ok(refused)
}

fn words(e: &postgres::Error) -> String {
    match e.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => e.to_string(),
    }
}

fn type_name(ty: ParamType) -> &'static str {
    match ty {
        ParamType::Bool => "boolean",
        ParamType::Int => "bigint",
        ParamType::Float => "double precision",
        ParamType::Decimal => "numeric",
        ParamType::Text => "text",
        ParamType::Bytes => "bytea",
        ParamType::Uuid | ParamType::GenUuid => "uuid",
        ParamType::Timestamp | ParamType::GenNow => "timestamptz",
        ParamType::Json => "jsonb",
    }
}

/// `$old1` is no parameter of PostgreSQL; NULL stands in for whatever was there.
fn without_old(sql: &str) -> String {
    let mut parts = sql.split("$old");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("NULL");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_values_become_null() {
        assert_eq!(
            without_old("UPDATE u SET a = $old1, b = $old12 WHERE c = $1"),
            "UPDATE u SET a = NULL, b = NULL WHERE c = $1"
        );
    }
}
