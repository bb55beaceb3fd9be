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
    /// The ledger contradicts the stream: another epoch, another tag.
    #[error("fork: {0}")]
    Fork(String),
}
