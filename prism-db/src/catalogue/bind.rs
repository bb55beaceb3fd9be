//! From a caller's JSON to a statement's complete, typed parameters.

use serde_json::Value as Json;

use crate::{ParamType, Value, ValueError, timestamp};

use super::Statement;
use crate::request::generated_uuid;

/// The parameters do not fit the statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// Too many or too few.
    #[error("statement {statement:?} takes {expected} parameter(s){signature}, got {got}")]
    Count {
        /// Name of the statement.
        statement: String,
        /// Parameters that a caller gives.
        expected: usize,
        /// Parameters given.
        got: usize,
        /// Their types, for people.
        signature: String,
    },
    /// One does not fit its type.
    #[error("statement {statement:?}, parameter {position} of {count} (${number}): {source}")]
    Param {
        /// Name of the statement.
        statement: String,
        /// Which of those that the caller gave, from 1.
        position: usize,
        /// How many the caller gives.
        count: usize,
        /// Its number in the SQL text.
        number: usize,
        /// What was expected, what was given.
        source: ValueError,
    },
}

impl Statement {
    /// Types that a caller gives: those that are not generated.
    pub fn caller_params(&self) -> impl Iterator<Item = ParamType> {
        self.params()
            .iter()
            .copied()
            .filter(|ty| !ty.is_generated())
    }

    /// Reads a caller's parameters and fills in the generated ones.
    ///
    /// # Errors
    /// [`BindError`] names the parameter.
    pub fn bind_json(&self, given: &[Json]) -> Result<Vec<Value>, BindError> {
        self.bind_request(given, uuid::Uuid::new_v4().as_bytes())
    }

    /// The same for a request with an id, which decides about the UUIDs: see [`generated_uuid`].
    ///
    /// # Errors
    /// [`BindError`] names the parameter.
    pub fn bind_request(
        &self,
        given: &[Json],
        request_id: &[u8; 16],
    ) -> Result<Vec<Value>, BindError> {
        self.bind_with(given.len(), request_id, |position, ty| {
            Value::from_json(ty, &given[position])
        })
    }

    /// The same for values that have their types already.
    ///
    /// # Errors
    /// [`BindError`] names the parameter.
    pub fn bind(&self, given: &[Value]) -> Result<Vec<Value>, BindError> {
        self.bind_with(
            given.len(),
            uuid::Uuid::new_v4().as_bytes(),
            |position, ty| {
                let value = &given[position];
                if value.fits(ty) && value.is_valid() {
                    Ok(value.clone())
                } else {
                    Err(ValueError {
                        expected: ty,
                        got: format!("{value:.40?}"),
                    })
                }
            },
        )
    }

    /// Whether complete parameters, as an update carries them, fit this statement.
    #[must_use]
    pub fn accepts(&self, params: &[Value]) -> bool {
        let types = self.params();
        types.len() == params.len() && types.iter().zip(params).all(|(ty, value)| value.fits(*ty))
    }

    fn bind_with(
        &self,
        got: usize,
        request_id: &[u8; 16],
        read: impl Fn(usize, ParamType) -> Result<Value, ValueError>,
    ) -> Result<Vec<Value>, BindError> {
        let count = self.caller_params().count();
        if got != count {
            let names: Vec<_> = self.caller_params().map(ParamType::name).collect();
            return Err(BindError::Count {
                statement: self.name().to_owned(),
                expected: count,
                got,
                signature: if names.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", names.join(", "))
                },
            });
        }
        let mut position = 0;
        let mut params = Vec::with_capacity(self.params().len());
        for (i, ty) in self.params().iter().enumerate() {
            params.push(match ty {
                ParamType::GenUuid => Value::Uuid(generated_uuid(request_id, i)),
                ParamType::GenNow => Value::Timestamp(timestamp::now_micros()),
                ty => {
                    position += 1;
                    read(position - 1, *ty).map_err(|source| BindError::Param {
                        statement: self.name().to_owned(),
                        position,
                        count,
                        number: i + 1,
                        source,
                    })?
                }
            });
        }
        Ok(params)
    }
}
