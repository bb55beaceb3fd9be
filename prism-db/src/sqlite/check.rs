//! Whether a statement can run in this database, and gives the same as in the others.

use rusqlite::Connection;

use super::errors::{Phase, convert, own};
use crate::catalogue::{CatalogueError, Statement, Target, is_deterministic};
use crate::{DbError, ErrorClass};

pub(super) fn check(
    db: &Connection,
    statement: &Statement,
) -> Result<Vec<CatalogueError>, DbError> {
    let error = |field, problem: String, fix: &str| CatalogueError {
        statement: statement.name().to_owned(),
        field,
        problem,
        fix: fix.to_owned(),
    };
    let mut errors = Vec::new();
    for (field, sql) in statement.texts() {
        match db
            .prepare(sql)
            .map_err(|e| convert(e, Phase::Prepare, None))
        {
            Ok(_) => {}
            Err(DbError::Sql {
                class: ErrorClass::Operator,
                message,
                ..
            }) => errors.push(error(
                field,
                message,
                "create what is missing in this region's database, or correct the SQL",
            )),
            Err(other) => return Err(other),
        }
    }
    if errors.is_empty()
        && let Some(target) = statement.insert()
    {
        let defaults = unnamed(db, target)?.into_iter();
        errors.extend(defaults.map(|problem| {
            let fix = "name the column and bind its value once at the origin: a parameter, \"gen_uuid\" or \"gen_now\"";
            error("sql", problem, fix)
        }));
    }
    Ok(errors)
}

/// Columns that the INSERT leaves to a default which differs between regions.
fn unnamed(db: &Connection, target: &Target) -> Result<Vec<String>, DbError> {
    // Without a list SQLite wants every column.
    if target.columns.is_empty() {
        return Ok(Vec::new());
    }
    let table = target.table.last().map_or("", String::as_str);
    let table = match table.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => table.to_owned(),
    };
    let mut query = db
        .prepare("SELECT name, type, dflt_value, pk FROM pragma_table_info(?1)")
        .map_err(own)?;
    let columns = query
        .query_map([table], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, Option<String>>(2)?,
                row.get::<_, i64>(3)?,
            ))
        })
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(own)?;
    let keys = columns.iter().filter(|(_, _, _, pk)| *pk > 0).count();
    let named = |name: &str| target.columns.iter().any(|c| c.eq_ignore_ascii_case(name));
    let mut problems = Vec::new();
    for (name, ty, default, pk) in &columns {
        if named(name) {
            continue;
        }
        // The rowid: the next free number of this file.
        if *pk > 0 && keys == 1 && ty.eq_ignore_ascii_case("INTEGER") {
            problems.push(format!(
                "column {name} takes the next number of each region's own table"
            ));
        } else if let Some(default) = default
            && !is_deterministic(default)
        {
            problems.push(format!(
                "column {name} takes its default {default}, which differs between regions"
            ));
        }
    }
    Ok(problems)
}
