//! Whether a statement can run in this database, and gives the same as in the others.

use std::error::Error;

use bytes::BytesMut;
use postgres::error::SqlState;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::fault::{Fault, plain};
use super::functions;
use super::session::{APPLICATION_PATH, SEARCH_PATH, Session, column};
use crate::catalogue::{CatalogueError, Statement, Target, is_deterministic};
use crate::{DbError, ErrorClass, ParamType};

/// NULL of whatever type.
#[derive(Debug)]
struct Null;

impl ToSql for Null {
    fn to_sql(&self, _: &Type, _: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        Ok(IsNull::Yes)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// EXPLAIN resolves names, types and grants, and runs nothing.
pub(super) fn check(
    session: &mut Session,
    statement: &Statement,
) -> Result<Vec<CatalogueError>, Fault> {
    // As the dispatcher does.
    let path = |path: &str| format!("SET search_path = {path}");
    session.client.batch_execute(&path(APPLICATION_PATH))?;
    let found = explain(session, statement);
    session.client.batch_execute(&path(SEARCH_PATH))?;
    found
}

fn explain(session: &mut Session, statement: &Statement) -> Result<Vec<CatalogueError>, Fault> {
    let error = |field, problem: String, fix: &str| CatalogueError {
        statement: statement.name().to_owned(),
        field,
        problem,
        fix: fix.to_owned(),
    };
    let mut errors = Vec::new();
    for (field, sql) in statement.texts() {
        let result = explained(session, statement, sql);
        match result.map_err(|e| plain(&e)) {
            Ok(_) => {}
            Err(
                missing @ DbError::Sql {
                    class: ErrorClass::Operator,
                    ..
                },
            ) => errors.push(error(
                field,
                missing.to_string(),
                "create or GRANT what is missing in this region's database, or correct the SQL",
            )),
            Err(other) => return Err(other.into()),
        }
    }
    if errors.is_empty()
        && let Some(old) = statement.old()
        && let Err(refused) = lock(session, statement, old)
        && refused.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    {
        errors.push(error(
            "old",
            format!("what it reads can not be locked until the statement has changed it: {refused}"),
            "GRANT UPDATE on that table (or on one of its columns) to the nodes' role, and run `prism migrate`",
        ));
    }
    if errors.is_empty()
        && let Some(target) = statement.insert()
    {
        let defaults = unnamed(session, target)?.into_iter();
        errors.extend(defaults.map(|problem| {
            let fix = "name the column and bind its value once at the origin: a parameter, \"gen_uuid\" or \"gen_now\"";
            error("sql", problem, fix)
        }));
    }
    Ok(errors)
}

/// EXPLAIN of one of its texts, with NULL for everything.
fn explained(
    session: &mut Session,
    statement: &Statement,
    sql: &str,
) -> Result<(), postgres::Error> {
    let types: Vec<Type> = statement.params().iter().map(|ty| sql_type(*ty)).collect();
    let text = format!("EXPLAIN {}", numbered(sql, types.len()));
    let prepared = session.client.prepare_typed(&text, &types)?;
    let nulls = prepared
        .params()
        .iter()
        .map(|_| &Null as &(dyn ToSql + Sync));
    let nulls: Vec<_> = nulls.collect();
    session.client.query(&prepared, &nulls).map(drop)
}

/// The same of its `old` query as it is run: see [`functions::old`].
pub(super) fn lock(
    session: &mut Session,
    statement: &Statement,
    old: &str,
) -> Result<(), postgres::Error> {
    let sql = format!("SELECT FROM (\n{old}\n) AS prism_old{}", functions::LOCK);
    explained(session, statement, &sql)
}

/// `$old1` as the parameter behind the others, its type left to the server. (Inside a string it
/// changes as well, which does not matter here.)
fn numbered(sql: &str, params: usize) -> String {
    let mut parts = sql.split("$old");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(part.len());
        match part[..digits].parse::<usize>() {
            Ok(n) => {
                text.push_str(&format!("${}", n.saturating_add(params)));
                text.push_str(&part[digits..]);
            }
            Err(_) => {
                text.push_str("$old");
                text.push_str(part);
            }
        }
    }
    text
}

fn sql_type(ty: ParamType) -> Type {
    match ty.stored() {
        ParamType::Bool => Type::BOOL,
        ParamType::Int => Type::INT8,
        ParamType::Float => Type::FLOAT8,
        ParamType::Decimal => Type::NUMERIC,
        ParamType::Text => Type::TEXT,
        ParamType::Bytes => Type::BYTEA,
        ParamType::Uuid | ParamType::GenUuid => Type::UUID,
        ParamType::Timestamp | ParamType::GenNow => Type::TIMESTAMPTZ,
        ParamType::Json => Type::JSONB,
    }
}

/// Columns that the INSERT leaves to a default which differs between regions.
fn unnamed(session: &mut Session, target: &Target) -> Result<Vec<String>, Fault> {
    // A VALUES list without names fills the first columns; which ones, only the server counts.
    if target.columns.is_empty() {
        return Ok(Vec::new());
    }
    let rows = session.query(
        "SELECT a.attname::text, a.attidentity <> '', pg_get_expr(d.adbin, d.adrelid)
         FROM pg_catalog.pg_attribute a
         LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
           AND a.attgenerated = ''
         ORDER BY a.attnum",
        &[&target.table.join(".")],
    )?;
    let mut problems = Vec::new();
    for row in &rows {
        let name: String = column(row, 0)?;
        if target.columns.iter().any(|c| c.eq_ignore_ascii_case(&name)) {
            continue;
        }
        let default: Option<String> = column(row, 2)?;
        if column::<bool>(row, 1)? {
            problems.push(format!(
                "column {name} takes the next number of each region's own table"
            ));
        } else if let Some(default) = default
            && !is_deterministic(&default)
        {
            problems.push(format!(
                "column {name} takes its default {default}, which differs between regions"
            ));
        }
    }
    Ok(problems)
}
