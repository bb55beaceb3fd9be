//! Whether a region's database could run the catalogue: tables, columns, functions, grants.
//!
//! Nothing is executed. What the backend knows by itself comes first; PostgreSQL explains every
//! statement besides, which also looks at the grants.

use std::time::Duration;

use postgres::NoTls;
use prism_db::catalogue::Catalogue;
use prism_db::catalogue::CatalogueError;
use prism_db::{Database, DatabaseUrl, ParamType};

/// All that keeps statements from running there.
///
/// # Errors
/// No connection.
pub fn check(
    database: &mut dyn Database,
    url: &DatabaseUrl,
    catalogue: &Catalogue,
    timeout: Duration,
) -> Result<Vec<CatalogueError>, String> {
    let mut found = Vec::new();
    for statement in catalogue.iter() {
        found.extend(database.check(statement).map_err(|e| e.to_string())?);
    }
    if let DatabaseUrl::Postgres(url) = url {
        let explained = postgres(url, catalogue, timeout).map_err(|e| words(&e))?;
        // Once is enough.
        let known: Vec<_> = found
            .iter()
            .map(|e| (e.statement.clone(), e.field))
            .collect();
        let new = |e: &CatalogueError| !known.contains(&(e.statement.clone(), e.field));
        found.extend(explained.into_iter().filter(new));
    }
    Ok(found)
}

fn postgres(
    url: &str,
    catalogue: &Catalogue,
    timeout: Duration,
) -> Result<Vec<CatalogueError>, postgres::Error> {
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
        for (key, text) in statement.texts() {
            let text = without_old(text);
            let mut transaction = client.transaction()?;
            let explained = transaction.batch_execute(&format!(
                "PREPARE prism_check {types} AS {text}; EXPLAIN EXECUTE prism_check {nulls}; DEALLOCATE prism_check"
            ));
            if let Err(e) = explained {
                if e.is_closed() {
                    return Err(e);
                }
                refused.push(CatalogueError {
                    statement: statement.name().to_owned(),
                    field: key,
                    problem: words(&e),
                    fix: "create what is missing, or grant the right, in this region's database too; or correct the SQL".to_owned(),
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
