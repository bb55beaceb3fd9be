//! What can go wrong in a database, by what has to be done about it.

/// What a failure means for the update, from its SQLSTATE (or SQLite's result code).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// No connection, server shutting down, deadline passed (08xxx, 57Pxx): the database is away.
    Unreachable,
    /// Deadlock, serialization failure, lock timeout, resources (40001 40P01 55P03 25006 53xxx):
    /// the same again later.
    Transient,
    /// The data are refused for good (22xxx, 23xxx, 44000, P0001).
    Refused,
    /// An operator has to act (42xxx and everything else): park, alarm, retry slowly.
    Operator,
}

impl ErrorClass {
    /// By the first characters of the five.
    #[must_use]
    pub fn of(sqlstate: &str) -> Self {
        match sqlstate {
            // 25006: a standby, or a server switched to read-only; it may come back writable.
            "40001" | "40P01" | "55P03" | "25006" | "57014" => Self::Transient,
            "44000" | "P0001" => Self::Refused,
            _ => match sqlstate.get(..2) {
                Some("53") => Self::Transient,
                Some("08") => Self::Unreachable,
                // The server has ended an idle or too long transaction and with it the connection.
                _ if matches!(sqlstate, "25P03" | "25P04") => Self::Unreachable,
                Some("57") if sqlstate.get(2..3) == Some("P") => Self::Unreachable,
                Some("22" | "23") => Self::Refused,
                _ => Self::Operator,
            },
        }
    }
}

/// A failed database operation. Nothing was written, unless it is `Ambiguous`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DbError {
    /// A statement failed.
    #[error("{message} (SQLSTATE {sqlstate})")]
    Sql {
        /// What it means.
        class: ErrorClass,
        /// Five characters.
        sqlstate: String,
        /// The server's words, with detail and what to do next.
        message: String,
        /// Position in the batch, if a statement of the batch did it.
        index: Option<usize>,
    },
    /// The connection broke during COMMIT: it may or may not have happened. Look again.
    #[error("the connection broke during COMMIT: {0}")]
    Ambiguous(String),
    /// No connection.
    #[error("cannot reach the database: {0}")]
    Unreachable(String),
    /// The schema `prism` is missing, too old or too new, or belongs to another region.
    #[error("{0}")]
    Schema(String),
    /// An encoded update, with what its `old` query gave, exceeds `max_update`.
    #[error("the update is {size} bytes long, the limit (max_update) is {limit}")]
    TooLarge {
        /// Position in the batch.
        index: usize,
        /// Its encoded size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// These submissions of the batch, in its order, bear ids that are on record. Nothing was
    /// written.
    #[error("{} request(s) of the batch have been submitted before", .0.len())]
    Repeated(Vec<crate::Repeat>),
    /// The ledger contradicts the stream: another epoch, another tag.
    #[error("fork: {0}")]
    Fork(String),
}

impl DbError {
    pub(crate) fn not_built() -> Self {
        Self::sql("0A000", "this backend cannot do that", None)
    }

    /// Whether the database is away, read-only or full, as opposed to: an operator has to act.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Ambiguous(_) => true,
            Self::Sql { class, .. } => {
                matches!(class, ErrorClass::Unreachable | ErrorClass::Transient)
            }
            _ => false,
        }
    }

    /// A failed statement in other words, made of its SQLSTATE and its message; whatever else it is
    /// stays as it is.
    pub(crate) fn reworded(mut self, words: impl FnOnce(&str, &str) -> String) -> Self {
        if let Self::Sql {
            sqlstate, message, ..
        } = &mut self
        {
            *message = words(sqlstate, message);
        }
        self
    }

    /// A failure that is not about one update of a batch.
    pub(crate) fn of_no_update(mut self) -> Self {
        if let Self::Sql { index, .. } = &mut self {
            *index = None;
        }
        self
    }

    /// A failed statement, classed by its SQLSTATE.
    #[must_use]
    pub fn sql(sqlstate: &str, message: impl Into<String>, index: Option<usize>) -> Self {
        Self::Sql {
            class: ErrorClass::of(sqlstate),
            sqlstate: sqlstate.to_owned(),
            message: message.into(),
            index,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_mean_what_the_design_says() {
        use ErrorClass::{Operator, Refused, Transient, Unreachable};
        for (state, class) in [
            ("40001", Transient),
            ("40P01", Transient),
            ("55P03", Transient),
            ("25006", Transient),
            ("53100", Transient),
            ("57014", Transient),
            ("57P01", Unreachable),
            ("25P03", Unreachable),
            ("08006", Unreachable),
            ("22003", Refused),
            ("23505", Refused),
            ("44000", Refused),
            ("P0001", Refused),
            ("P0002", Operator),
            ("42P01", Operator),
            ("42501", Operator),
            ("XX000", Operator),
            ("", Operator),
            ("ä", Operator),
        ] {
            assert_eq!(ErrorClass::of(state), class, "{state}");
        }
    }
}
