//! Typed parameters, and how they are written in JSON.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::timestamp;

/// Digits that a decimal may have. Every backend holds more; the bound keeps a number from being
/// a way to send megabytes.
const MAX_DECIMAL_DIGITS: usize = 1000;

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

impl ParamType {
    /// Every type.
    pub const ALL: [Self; 11] = [
        Self::Bool,
        Self::Int,
        Self::Float,
        Self::Decimal,
        Self::Text,
        Self::Bytes,
        Self::Uuid,
        Self::Timestamp,
        Self::Json,
        Self::GenUuid,
        Self::GenNow,
    ];

    /// As written in the catalogue.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Decimal => "decimal",
            Self::Text => "text",
            Self::Bytes => "bytes",
            Self::Uuid => "uuid",
            Self::Timestamp => "timestamp",
            Self::Json => "json",
            Self::GenUuid => "gen_uuid",
            Self::GenNow => "gen_now",
        }
    }

    /// The type with that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Filled in at the origin: callers leave it out.
    #[must_use]
    pub const fn is_generated(self) -> bool {
        matches!(self, Self::GenUuid | Self::GenNow)
    }

    /// The type of the bound value: `gen_uuid` makes a uuid, `gen_now` a timestamp.
    #[must_use]
    pub const fn stored(self) -> Self {
        match self {
            Self::GenUuid => Self::Uuid,
            Self::GenNow => Self::Timestamp,
            other => other,
        }
    }

    /// What a caller writes in JSON.
    const fn expects(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Int => {
                "a whole number from -9223372036854775808 to 9223372036854775807, or a string of one"
            }
            Self::Float => "a finite number",
            Self::Decimal => "a decimal number in a string, such as \"12.50\"",
            Self::Text => "a string without NUL",
            Self::Bytes => "a string of base64",
            Self::Uuid | Self::GenUuid => {
                "a uuid in a string, such as \"0190a2c4-7d1f-4c3e-9a55-0c1d2e3f4a5b\""
            }
            Self::Timestamp | Self::GenNow => {
                "an RFC 3339 time in a string, such as \"2026-01-31T12:00:00Z\""
            }
            Self::Json => "any JSON without NUL in its strings",
        }
    }
}

impl fmt::Display for ParamType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
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

/// The JSON given for a parameter does not fit its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {} ({}), got {got}", .expected.name(), .expected.expects())]
pub struct ValueError {
    /// Declared type.
    pub expected: ParamType,
    /// What was given instead, for people.
    pub got: String,
}

impl Value {
    /// Reads a caller's JSON as `ty`. `null` is NULL of every type.
    ///
    /// # Errors
    /// [`ValueError`] says what was expected and what was given.
    pub fn from_json(ty: ParamType, json: &Json) -> Result<Self, ValueError> {
        if json.is_null() {
            return Ok(Self::Null);
        }
        let value = match (ty.stored(), json) {
            (ParamType::Bool, Json::Bool(b)) => Some(Self::Bool(*b)),
            (ParamType::Int, Json::Number(n)) => n.as_i64().map(Self::Int),
            (ParamType::Int, Json::String(s)) => s.parse().ok().map(Self::Int),
            (ParamType::Float, Json::Number(n)) => n.as_f64().map(Self::Float),
            (ParamType::Decimal, Json::String(s)) => Some(Self::Decimal(s.clone())),
            (ParamType::Text, Json::String(s)) => Some(Self::Text(s.clone())),
            (ParamType::Bytes, Json::String(s)) => BASE64.decode(s).ok().map(Self::Bytes),
            (ParamType::Uuid, Json::String(s)) => uuid::Uuid::try_parse(s)
                .ok()
                .map(|u| Self::Uuid(u.into_bytes())),
            (ParamType::Timestamp, Json::String(s)) => timestamp::parse(s).map(Self::Timestamp),
            (ParamType::Json, any) => Some(Self::Json(any.to_string())),
            _ => None,
        };
        value.filter(Self::is_valid).ok_or_else(|| ValueError {
            expected: ty,
            got: describe(json),
        })
    }

    /// As JSON, in the way that [`Value::from_json`] reads.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(i) => Json::from(*i),
            Self::Float(f) => Json::from(*f),
            Self::Decimal(s) | Self::Text(s) => Json::String(s.clone()),
            Self::Bytes(b) => Json::String(BASE64.encode(b)),
            Self::Uuid(u) => Json::String(uuid_text(*u)),
            Self::Timestamp(us) => Json::String(timestamp::format(*us)),
            Self::Json(text) => serde_json::from_str(text).unwrap_or(Json::Null),
        }
    }

    /// Whether a parameter of that type may hold it.
    #[must_use]
    pub fn fits(&self, ty: ParamType) -> bool {
        matches!(
            (self, ty.stored()),
            (Self::Null, _)
                | (Self::Bool(_), ParamType::Bool)
                | (Self::Int(_), ParamType::Int)
                | (Self::Float(_), ParamType::Float)
                | (Self::Decimal(_), ParamType::Decimal)
                | (Self::Text(_), ParamType::Text)
                | (Self::Bytes(_), ParamType::Bytes)
                | (Self::Uuid(_), ParamType::Uuid)
                | (Self::Timestamp(_), ParamType::Timestamp)
                | (Self::Json(_), ParamType::Json)
        )
    }

    /// Holds what every backend can store: finite, without NUL, well-formed.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Bytes(_) | Self::Uuid(_) => true,
            Self::Float(f) => f.is_finite(),
            Self::Decimal(s) => is_decimal(s),
            Self::Text(s) => !s.contains('\0'),
            Self::Timestamp(us) => timestamp::in_range(*us),
            Self::Json(s) => serde_json::from_str::<Json>(s).is_ok_and(|json| json_fits(&json)),
        }
    }
}

/// Lower case with hyphens.
pub(crate) fn uuid_text(bytes: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(bytes).hyphenated().to_string()
}

/// Plain notation: sign, digits, point, digits. An exponent would let eight characters stand for
/// megabytes.
fn is_decimal(s: &str) -> bool {
    let digits = s.strip_prefix('-').unwrap_or(s);
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (digits, None),
    };
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    digits.len() <= MAX_DECIMAL_DIGITS && all_digits(whole) && fraction.is_none_or(all_digits)
}

/// What PostgreSQL's jsonb takes: no NUL (escaped; a bare one is no JSON), and no number that it
/// could not hold.
fn json_fits(json: &Json) -> bool {
    match json {
        Json::String(s) => !s.contains('\0'),
        Json::Number(n) => number_fits(n.as_str()),
        Json::Array(items) => items.iter().all(json_fits),
        Json::Object(map) => map
            .iter()
            .all(|(key, value)| !key.contains('\0') && json_fits(value)),
        Json::Null | Json::Bool(_) => true,
    }
}

/// Within the range of a double (beyond it other readers of JSON see infinity), and with no more
/// digits behind the point than `numeric` has. `prism.param_text` asks no more than that.
fn number_fits(text: &str) -> bool {
    const SCALE: i64 = 16_383;
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let fraction = digits.split_once('.').map_or(0, |(_, behind)| behind.len());
    let finite = text.parse::<f64>().is_ok_and(f64::is_finite);
    finite
        && exponent.parse::<i64>().is_ok_and(|exponent| {
            // Zero has any exponent: it is finite whatever that is.
            exponent <= 1_000 && (fraction as i64).saturating_sub(exponent) <= SCALE
        })
}

/// Enough of the caller's JSON to recognise it in an error.
fn describe(json: &Json) -> String {
    const SHOWN: usize = 40;
    let kind = match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "the number",
        Json::String(_) => "the string",
        Json::Array(_) => return "an array".to_owned(),
        Json::Object(_) => return "an object".to_owned(),
    };
    let text = json.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{kind} {}…", &text[..cut]),
        None => format!("{kind} {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(ty: ParamType, json: &Json) -> String {
        Value::from_json(ty, json)
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn every_type_survives_json() {
        let cases = [
            (ParamType::Bool, json!(true), Value::Bool(true)),
            (ParamType::Int, json!(-7), Value::Int(-7)),
            (
                ParamType::Int,
                json!("9223372036854775807"),
                Value::Int(i64::MAX),
            ),
            (ParamType::Float, json!(0.1), Value::Float(0.1)),
            (ParamType::Float, json!(3), Value::Float(3.0)),
            (
                ParamType::Decimal,
                json!("-12.50"),
                Value::Decimal("-12.50".into()),
            ),
            (ParamType::Text, json!("grüß"), Value::Text("grüß".into())),
            (ParamType::Bytes, json!("AP8="), Value::Bytes(vec![0, 255])),
            (
                ParamType::Timestamp,
                json!("1970-01-01T01:00:00.000001+01:00"),
                Value::Timestamp(1),
            ),
            (
                ParamType::Json,
                json!({"a": [1, null]}),
                Value::Json(r#"{"a":[1,null]}"#.into()),
            ),
        ];
        for (ty, json, value) in cases {
            assert_eq!(
                Value::from_json(ty, &json).as_ref(),
                Ok(&value),
                "{ty} {json}"
            );
            assert_eq!(Value::from_json(ty, &value.to_json()), Ok(value));
        }
        for ty in ParamType::ALL {
            assert_eq!(Value::from_json(ty, &Json::Null), Ok(Value::Null));
            assert_eq!(ParamType::parse(ty.name()), Some(ty));
        }
    }

    #[test]
    fn hostile_values_are_refused_and_say_what_was_expected() {
        assert!(refused(ParamType::Int, &json!(1.5)).contains("expected int"));
        assert!(refused(ParamType::Int, &json!(u64::MAX)).contains("18446744073709551615"));
        assert!(refused(ParamType::Int, &json!("9223372036854775808")).contains("int"));
        assert!(refused(ParamType::Float, &json!("NaN")).contains("finite"));
        let beyond: Json = serde_json::from_str("1e400").expect("JSON");
        assert!(refused(ParamType::Float, &beyond).contains("finite"));
        assert!(refused(ParamType::Int, &beyond).contains("400"));
        assert!(refused(ParamType::Decimal, &json!(12.5)).contains("in a string"));
        for bad in [
            "", "-", ".", "1.", ".5", "1e400", "NaN", "Infinity", "+1", "1 ", "١",
        ] {
            refused(ParamType::Decimal, &json!(bad));
        }
        refused(ParamType::Decimal, &json!("9".repeat(1001)));
        refused(ParamType::Text, &json!("a\0b"));
        refused(ParamType::Bytes, &json!("AP8"));
        refused(ParamType::Bytes, &json!("ÄÖ=="));
        refused(ParamType::Uuid, &json!("not-a-uuid"));
        refused(ParamType::Timestamp, &json!("2026-02-30T00:00:00Z"));
        refused(ParamType::Timestamp, &json!("2026-01-01 00:00"));
        refused(ParamType::Json, &json!({"k": ["\0"]}));
        refused(ParamType::Json, &json!({"\0": 1}));
        for bad in [
            "1e400".to_owned(),
            "-1e400".to_owned(),
            "1e1000000000".to_owned(),
            "0e1000000000".to_owned(),
            "1e-1000000000".to_owned(),
            "1e-99999999999999999999".to_owned(),
            "9".repeat(400),
            format!("0.{}", "1".repeat(16_384)),
        ] {
            let json = serde_json::from_str(&format!("[{bad}]")).expect("JSON");
            refused(ParamType::Json, &json);
            assert!(!Value::Json(bad).is_valid());
        }
        refused(ParamType::Bool, &json!(1));
        assert!(refused(ParamType::Text, &json!("\0".repeat(100))).len() < 200);
    }

    /// What a caller writes is what every region stores: no digit is lost on the way.
    #[test]
    fn numbers_are_carried_as_they_were_written() {
        for exact in [
            "12345678901234567890123456789.123456789012345678901234567890",
            "-0.1",
            "1.10",
            "18446744073709551617",
            "1e-300",
        ] {
            let json = serde_json::from_str(&format!("{{\"a\":[{exact}]}}")).expect("JSON");
            let Ok(Value::Json(text)) = Value::from_json(ParamType::Json, &json) else {
                panic!("{exact} was refused");
            };
            assert_eq!(text, format!("{{\"a\":[{exact}]}}"));
        }
        // The nearest double, which takes all the digits to find.
        for (text, value) in [
            (
                "0.1000000000000000055511151231257827021181583404541015625",
                0.1,
            ),
            ("9007199254740993", 9_007_199_254_740_992.0),
            ("2.2250738585072011e-308", 2.225_073_858_507_201e-308),
        ] {
            let json = serde_json::from_str(text).expect("JSON");
            assert_eq!(
                Value::from_json(ParamType::Float, &json),
                Ok(Value::Float(value))
            );
        }
    }

    #[test]
    fn values_from_the_wire_are_judged_too() {
        assert!(!Value::Float(f64::NAN).is_valid());
        assert!(!Value::Text("\0".into()).is_valid());
        assert!(!Value::Json("{".into()).is_valid());
        assert!(!Value::Timestamp(i64::MAX).is_valid());
        assert!(Value::Int(1).fits(ParamType::Int) && !Value::Int(1).fits(ParamType::Text));
        assert!(Value::Uuid([0; 16]).fits(ParamType::GenUuid));
    }
}
