//! How parameters lie in SQLite, which has fewer types:
//!
//! | type | stored as |
//! | --- | --- |
//! | bool | INTEGER 0 or 1 |
//! | int | INTEGER |
//! | float | REAL |
//! | decimal | TEXT in plain notation (a column of NUMERIC affinity makes it a number, and rounds) |
//! | text | TEXT |
//! | bytes | BLOB |
//! | uuid | TEXT, lower case with hyphens |
//! | timestamp | TEXT `2026-01-31T12:00:00.000000Z`: sorts as time does |
//! | json | TEXT |

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Row, Statement as Prepared, ToSql};

use crate::value::uuid_text;
use crate::{Value, timestamp};

struct Stored<'a>(&'a Value);

impl ToSql for Stored<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Value::Bool(b) => ToSqlOutput::from(*b),
            Value::Int(i) => ToSqlOutput::from(*i),
            Value::Float(f) => ToSqlOutput::from(*f),
            Value::Decimal(s) | Value::Text(s) | Value::Json(s) => {
                ToSqlOutput::Borrowed(ValueRef::Text(s.as_bytes()))
            }
            Value::Bytes(b) => ToSqlOutput::Borrowed(ValueRef::Blob(b)),
            Value::Uuid(u) => ToSqlOutput::from(uuid_text(*u)),
            Value::Timestamp(us) => ToSqlOutput::from(timestamp::format(*us)),
        })
    }
}

/// Binds `$1`, `$2`, ... (and `$old1`, ...) by name: SQLite numbers `$1` by its first appearance.
pub(super) fn bind(
    statement: &mut Prepared<'_>,
    prefix: &str,
    values: &[Value],
) -> rusqlite::Result<()> {
    for (i, value) in values.iter().enumerate() {
        // A parameter may stand in `undo` or `old` only.
        if let Some(index) = statement.parameter_index(&format!("{prefix}{}", i + 1))? {
            statement.raw_bind_parameter(index, Stored(value))?;
        }
    }
    Ok(())
}

/// The columns of an `old` query. `None` if one cannot be carried (infinite, NUL, not UTF-8).
pub(super) fn read(row: &Row<'_>, columns: usize) -> rusqlite::Result<Option<Vec<Value>>> {
    let mut values = Vec::with_capacity(columns);
    for column in 0..columns {
        let value = match row.get_ref(column)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(i) => Value::Int(i),
            ValueRef::Real(f) => Value::Float(f),
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Value::Text(text.to_owned()),
                Err(_) => return Ok(None),
            },
            ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        };
        if !value.is_valid() {
            return Ok(None);
        }
        values.push(value);
    }
    Ok(Some(values))
}
