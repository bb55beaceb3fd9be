//! Parameters of a whole batch as one array per SQL type, in the order in which the generated
//! dispatcher takes them out again.

use std::error::Error;
use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::{DbError, ParamType, Value, timestamp};

/// Microseconds from 1970 to 2000, PostgreSQL's zero.
const EPOCH_2000: i64 = 946_684_800_000_000;

/// A uuid as the protocol wants it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uuid(pub [u8; 16]);

impl ToSql for Uuid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }

    to_sql_checked!();
}

/// A timestamptz, microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Micros(pub i64);

impl ToSql for Micros {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.0.saturating_sub(EPOCH_2000));
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

/// The array that a parameter type travels in: its variable in the dispatcher, and what stands
/// around an element of it to make it the type that the statement sees.
pub(super) const fn column(ty: ParamType) -> (&'static str, &'static str) {
    match ty.stored() {
        ParamType::Bool => ("p_bool", "boolean"),
        ParamType::Int => ("p_int", "bigint"),
        ParamType::Float => ("p_float", "double precision"),
        ParamType::Decimal => ("p_text", "numeric"),
        ParamType::Bytes => ("p_bytes", "bytea"),
        ParamType::Uuid | ParamType::GenUuid => ("p_uuid", "uuid"),
        ParamType::Timestamp | ParamType::GenNow => ("p_time", "timestamp with time zone"),
        ParamType::Json => ("p_text", "jsonb"),
        ParamType::Text => ("p_text", "text"),
    }
}

/// The arrays, with their types in SQL.
pub(super) const COLUMNS: [(&str, &str); 7] = [
    ("p_text", "text[]"),
    ("p_int", "bigint[]"),
    ("p_float", "double precision[]"),
    ("p_bool", "boolean[]"),
    ("p_bytes", "bytea[]"),
    ("p_uuid", "uuid[]"),
    ("p_time", "timestamptz[]"),
];

/// The parameters of a batch.
#[derive(Debug, Default)]
pub(super) struct Params {
    text: Vec<Option<String>>,
    int: Vec<Option<i64>>,
    float: Vec<Option<f64>>,
    bool: Vec<Option<bool>>,
    bytes: Vec<Option<Vec<u8>>>,
    uuid: Vec<Option<Uuid>>,
    time: Vec<Option<Micros>>,
}

impl Params {
    /// Appends the parameters of item `index`.
    ///
    /// # Errors
    /// A refusal that names the item, if the server could not take the whole batch with it.
    pub fn push(
        &mut self,
        index: usize,
        types: &[ParamType],
        values: &[Value],
    ) -> Result<(), DbError> {
        if types.len() != values.len() {
            let text = format!("{} parameters where {} belong", values.len(), types.len());
            return Err(DbError::sql("42804", text, Some(index)));
        }
        for (ty, value) in types.iter().zip(values) {
            if !value.is_valid() {
                // What the server itself would say, but of the whole batch.
                return Err(DbError::sql(
                    "22021",
                    "a value that cannot be stored",
                    Some(index),
                ));
            }
            let known = match (ty.stored(), value) {
                (ty, Value::Null) => self.push_null(ty),
                (ParamType::Bool, Value::Bool(v)) => add(&mut self.bool, *v),
                (ParamType::Int, Value::Int(v)) => add(&mut self.int, *v),
                (ParamType::Float, Value::Float(v)) => add(&mut self.float, *v),
                (ParamType::Text, Value::Text(v))
                | (ParamType::Decimal, Value::Decimal(v))
                | (ParamType::Json, Value::Json(v)) => add(&mut self.text, v.clone()),
                (ParamType::Bytes, Value::Bytes(v)) => add(&mut self.bytes, v.clone()),
                (ParamType::Uuid, Value::Uuid(v)) => add(&mut self.uuid, Uuid(*v)),
                (ParamType::Timestamp, Value::Timestamp(v)) => add(&mut self.time, Micros(*v)),
                _ => false,
            };
            if !known {
                let text = format!("a parameter is not of type {ty}");
                return Err(DbError::sql("42804", text, Some(index)));
            }
        }
        Ok(())
    }

    /// Appends the values of an `old` query as text: the undo's variables have the columns' types.
    ///
    /// # Errors
    /// If it is not as many as the query has columns.
    pub fn push_old(
        &mut self,
        index: usize,
        columns: usize,
        values: &[Value],
    ) -> Result<(), DbError> {
        if columns != values.len() {
            let text = format!("{} old values where {columns} belong", values.len());
            return Err(DbError::sql("42804", text, Some(index)));
        }
        self.text.extend(values.iter().map(text));
        Ok(())
    }

    fn push_null(&mut self, ty: ParamType) -> bool {
        match ty {
            ParamType::Bool => self.bool.push(None),
            ParamType::Int => self.int.push(None),
            ParamType::Float => self.float.push(None),
            ParamType::Text | ParamType::Decimal | ParamType::Json => self.text.push(None),
            ParamType::Bytes => self.bytes.push(None),
            ParamType::Uuid | ParamType::GenUuid => self.uuid.push(None),
            ParamType::Timestamp | ParamType::GenNow => self.time.push(None),
        }
        true
    }

    /// In the order of [`COLUMNS`].
    pub fn columns(&self) -> [&(dyn ToSql + Sync); 7] {
        [
            &self.text,
            &self.int,
            &self.float,
            &self.bool,
            &self.bytes,
            &self.uuid,
            &self.time,
        ]
    }
}

fn add<T>(column: &mut Vec<Option<T>>, value: T) -> bool {
    column.push(Some(value));
    true
}

/// As the server reads it into a variable of whatever type.
pub(super) fn text(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(v) => v.to_string(),
        Value::Int(v) => v.to_string(),
        Value::Float(v) => v.to_string(),
        Value::Text(v) | Value::Decimal(v) | Value::Json(v) => v.clone(),
        Value::Bytes(v) => v.iter().fold("\\x".to_owned(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        Value::Uuid(v) => crate::value::uuid_text(*v),
        Value::Timestamp(us) => timestamp::format(*us),
    })
}

/// Parameters that were submitted by SQL, from the texts that `prism.param_text` makes. `None` if
/// they are not such.
pub(super) fn values_of_text(types: &[ParamType], texts: &[Option<String>]) -> Option<Vec<Value>> {
    if types.len() != texts.len() {
        return None;
    }
    let value = |(ty, text): (&ParamType, &Option<String>)| {
        let Some(text) = text else {
            return Some(Value::Null);
        };
        let value = match ty.stored() {
            ParamType::Bool => Value::Bool(text.parse().ok()?),
            ParamType::Int => Value::Int(text.parse().ok()?),
            ParamType::Float => Value::Float(text.parse().ok()?),
            ParamType::Decimal => Value::Decimal(text.clone()),
            ParamType::Text => Value::Text(text.clone()),
            ParamType::Bytes => Value::Bytes(super::old::bytes(&format!("\\x{text}"))?),
            ParamType::Uuid | ParamType::GenUuid => {
                Value::Uuid(uuid::Uuid::parse_str(text).ok()?.into_bytes())
            }
            ParamType::Timestamp | ParamType::GenNow => Value::Timestamp(text.parse().ok()?),
            ParamType::Json => Value::Json(text.clone()),
        };
        Some(value).filter(Value::is_valid)
    };
    types.iter().zip(texts).map(value).collect()
}
