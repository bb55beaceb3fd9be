//! Typed parameters.

use serde::{Deserialize, Serialize};

/// Type of a statement's parameter, as written in the catalogue. Each may be null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamType {
    /// `true`, `false`.
    Bool,
    /// 64-bit signed integer.
    Int,
    /// 64-bit IEEE 754.
    Float,
    /// Arbitrary precision; a string in JSON.
    Decimal,
    /// UTF-8 without NUL.
    Text,
    /// Base64 in JSON.
    Bytes,
    /// A string in JSON.
    Uuid,
    /// RFC 3339 in JSON; microseconds, UTC.
    Timestamp,
    /// Any JSON.
    Json,
    /// A random UUID (version 4), made at the origin; callers leave it out.
    GenUuid,
    /// The time of the submit, made at the origin; callers leave it out.
    GenNow,
}

/// A bound parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// Boolean.
    Bool(bool),
    /// Integer.
    Int(i64),
    /// Floating point.
    Float(f64),
    /// Decimal number in plain notation.
    Decimal(String),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// UUID.
    Uuid([u8; 16]),
    /// Microseconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
    /// JSON text.
    Json(String),
}
