//! From the client's errors to [`DbError`].

use postgres::error::{Severity, SqlState};

use crate::{DbError, ErrorClass};

/// Why a call on a session ended without a result.
#[derive(Debug)]
pub(super) enum Fault {
    /// For the caller.
    Db(DbError),
    /// The connection was found closed before anything was sent on it: connect and do it again.
    Stale,
    /// A prepared statement's result has changed (a migration): nothing was written; connect, which
    /// prepares again, and do it again.
    Replan(DbError),
}

impl From<DbError> for Fault {
    fn from(error: DbError) -> Self {
        Self::Db(error)
    }
}

/// Any failure before COMMIT.
impl From<postgres::Error> for Fault {
    fn from(error: postgres::Error) -> Self {
        if is_replan(&error) {
            Self::Replan(plain(&error))
        } else {
            Self::Db(plain(&error))
        }
    }
}

/// Any failure of a statement that commits by itself.
pub(super) fn in_commit(error: &postgres::Error) -> Fault {
    if is_replan(error) {
        Fault::Replan(plain(error))
    } else {
        Fault::Db(committing(error))
    }
}

/// By the server's function, since its words are in its own language.
fn is_replan(error: &postgres::Error) -> bool {
    error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED)
        && error
            .as_db_error()
            .is_some_and(|e| e.routine() == Some("RevalidateCachedQuery"))
}

/// A failure before COMMIT: nothing was written.
pub(super) fn plain(error: &postgres::Error) -> DbError {
    let Some(db) = error.as_db_error() else {
        return match whole_text(error) {
            text if is_ours(error) => DbError::sql("XX000", text, None),
            text => DbError::Unreachable(text),
        };
    };
    let code = db.code().code();
    let message = words(db.message(), db.detail(), db.hint());
    match ErrorClass::of(code) {
        ErrorClass::Unreachable => DbError::Unreachable(format!("{message} (SQLSTATE {code})")),
        _ => DbError::sql(code, message, None),
    }
}

/// A failure while the server may have been committing. An error that it reports itself, and
/// lives on, means that it did not.
pub(super) fn committing(error: &postgres::Error) -> DbError {
    let fatal = error.as_db_error().is_none_or(|db| {
        // `severity()` is in the server's language.
        db.parsed_severity() != Some(Severity::Error)
            || ErrorClass::of(db.code().code()) == ErrorClass::Unreachable
    });
    if fatal && !is_ours(error) {
        DbError::Ambiguous(whole_text(error))
    } else {
        plain(error)
    }
}

/// The server's words in one line.
pub(super) fn words(message: &str, detail: Option<&str>, hint: Option<&str>) -> String {
    let mut text = message.to_owned();
    for more in [detail, hint].into_iter().flatten() {
        if !more.is_empty() {
            text.push_str(": ");
            text.push_str(more);
        }
    }
    text
}

/// An error of the client's own conversions: it has a source that is neither I/O nor the server.
fn is_ours(error: &postgres::Error) -> bool {
    let text = error.to_string();
    text.starts_with("error serializing parameter")
        || text.starts_with("error deserializing column")
}

fn whole_text(error: &postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
