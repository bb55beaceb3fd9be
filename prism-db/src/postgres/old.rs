//! What an `old` query gave, from PostgreSQL's text to [`Value`]s.

use postgres::types::Type;

use super::params;
use crate::{DbError, Value, timestamp};

/// `json`: text and type of each value in turn; `None` if the query found no row.
///
/// # Errors
/// If it is not what the generated function writes.
pub(super) fn values(json: Option<&str>, columns: usize) -> Result<Vec<Value>, DbError> {
    let Some(json) = json else {
        return Ok(vec![Value::Null; columns]);
    };
    let damaged = || DbError::Schema("old values in prism.outbox are damaged".to_owned());
    let flat: Vec<serde_json::Value> = serde_json::from_str(json).map_err(|_| damaged())?;
    flat.chunks(2)
        .map(|pair| match pair {
            [serde_json::Value::Null, _] => Ok(Value::Null),
            [serde_json::Value::String(text), oid] => {
                let oid = oid.as_u64().and_then(|oid| u32::try_from(oid).ok());
                Ok(value(text, oid.and_then(Type::from_oid)))
            }
            _ => Err(damaged()),
        })
        .collect()
}

/// The reverse, with the types that have the values' own range.
pub(super) fn text(values: &[Value]) -> String {
    let flat = values.iter().flat_map(|value| {
        let ty = match value {
            Value::Null | Value::Text(_) => Type::TEXT,
            Value::Bool(_) => Type::BOOL,
            Value::Int(_) => Type::INT8,
            Value::Float(_) => Type::FLOAT8,
            Value::Decimal(_) => Type::NUMERIC,
            Value::Bytes(_) => Type::BYTEA,
            Value::Uuid(_) => Type::UUID,
            Value::Timestamp(_) => Type::TIMESTAMPTZ,
            Value::Json(_) => Type::JSONB,
        };
        let text = match value {
            Value::Timestamp(us) => {
                Some(timestamp::format(*us).replace('T', " ").replace('Z', "+00"))
            }
            other => params::text(other),
        };
        [
            serde_json::Value::from(text),
            serde_json::Value::from(ty.oid()),
        ]
    });
    serde_json::Value::Array(flat.collect()).to_string()
}

/// A type that has no counterpart, or a value that has none (infinity, NaN), stays text.
fn value(text: &str, ty: Option<Type>) -> Value {
    let typed = match ty {
        Some(Type::BOOL) => match text {
            "true" | "t" => Some(Value::Bool(true)),
            "false" | "f" => Some(Value::Bool(false)),
            _ => None,
        },
        Some(Type::INT2 | Type::INT4 | Type::INT8) => text.parse().ok().map(Value::Int),
        Some(Type::FLOAT4 | Type::FLOAT8) => text.parse().ok().map(Value::Float),
        Some(Type::NUMERIC) => Some(Value::Decimal(text.to_owned())),
        Some(Type::BYTEA) => bytes(text).map(Value::Bytes),
        Some(Type::UUID) => uuid::Uuid::parse_str(text)
            .ok()
            .map(|id| Value::Uuid(id.into_bytes())),
        Some(Type::TIMESTAMPTZ | Type::TIMESTAMP | Type::DATE) => {
            micros(text).map(Value::Timestamp)
        }
        Some(Type::JSON | Type::JSONB) => Some(Value::Json(text.to_owned())),
        _ => None,
    };
    typed
        .filter(Value::is_valid)
        .unwrap_or_else(|| Value::Text(text.to_owned()))
}

/// `\x` and hexadecimal digits (the session's `bytea_output`).
pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// `2026-01-31 12:00:00.5+00`, with or without time and zone (the session's `DateStyle`, `TimeZone`).
fn micros(text: &str) -> Option<i64> {
    let local = text.strip_suffix("+00").unwrap_or(text);
    let full = match local.split_once(' ') {
        Some((date, time)) => format!("{date}T{time}Z"),
        None => format!("{local}T00:00:00Z"),
    };
    timestamp::parse(&full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_types() {
        let json = r#"["true",16,"-7",23,"1.5",701,"12.50",1700,"\\x00ff",17,null,25,"ä",25,
            "2026-01-31 12:00:00.5+00",1184,"2026-01-31",1082,"{\"a\": 1}",3802,"NaN",701,"x",99999]"#;
        assert_eq!(
            values(Some(json), 12),
            Ok(vec![
                Value::Bool(true),
                Value::Int(-7),
                Value::Float(1.5),
                Value::Decimal("12.50".into()),
                Value::Bytes(vec![0, 255]),
                Value::Null,
                Value::Text("ä".into()),
                Value::Timestamp(1_769_860_800_500_000),
                Value::Timestamp(1_769_817_600_000_000),
                Value::Json("{\"a\": 1}".into()),
                Value::Text("NaN".into()),
                Value::Text("x".into()),
            ])
        );
        let read = values(Some(json), 12).unwrap_or_default();
        assert_eq!(values(Some(&text(&read)), 12), Ok(read));
        assert_eq!(values(None, 2), Ok(vec![Value::Null, Value::Null]));
        assert!(values(Some("{}"), 1).is_err());
    }
}
