//! SQLite's result codes as SQLSTATEs.

use rusqlite::{Error, ErrorCode, ffi};

use crate::DbError;

/// When an error came up: the generic code 1 means different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Compiling a statement: what it names may be missing.
    Prepare,
    /// Running it: the data may be at fault.
    Run,
}

/// Any error of SQLite, with the statement's place in the batch.
pub(super) fn convert(error: Error, phase: Phase, index: Option<usize>) -> DbError {
    let text = error.to_string();
    match error {
        Error::SqliteFailure(code, message) => {
            let message = message.unwrap_or(text);
            if code.code == ErrorCode::CannotOpen {
                return DbError::Unreachable(message);
            }
            let (state, advice) = sqlstate(code, &message, phase);
            let full = if advice.is_empty() {
                message
            } else {
                format!("{message}; {advice}")
            };
            DbError::sql(state, full, index)
        }
        // Compiling, with the place in the text.
        Error::SqlInputError { error, msg, .. } => {
            let (state, _) = sqlstate(error, &msg, Phase::Prepare);
            DbError::sql(state, msg, index)
        }
        _ => DbError::sql("XX000", text, index),
    }
}

/// A query of our own.
pub(super) fn own(error: Error) -> DbError {
    convert(error, Phase::Prepare, None)
}

fn sqlstate(code: ffi::Error, message: &str, phase: Phase) -> (&'static str, &'static str) {
    match code.code {
        ErrorCode::ConstraintViolation => (constraint(code.extended_code), ""),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => match code.extended_code {
            ffi::SQLITE_BUSY_SNAPSHOT => ("40001", ""),
            _ => ("55P03", "another writer holds the file"),
        },
        ErrorCode::FileLockingProtocolFailed => ("55P03", ""),
        ErrorCode::OperationInterrupted => ("57014", "the statement's deadline has passed"),
        ErrorCode::DiskFull => ("53100", "free some space"),
        ErrorCode::OutOfMemory => ("53200", ""),
        ErrorCode::ReadOnly => (
            "25006",
            "check the rights on the file, its directory and its -wal and -shm files",
        ),
        ErrorCode::SystemIoFailure => ("58030", "check the disk and the system's log"),
        ErrorCode::DatabaseCorrupt => (
            "XX001",
            "the file is damaged: restore or rebuild this region's database",
        ),
        ErrorCode::NotADatabase => ("XX002", "the file is no SQLite database"),
        ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => ("42501", ""),
        ErrorCode::TypeMismatch => ("22P02", ""),
        ErrorCode::TooBig => ("22001", ""),
        ErrorCode::SchemaChanged => ("40001", ""),
        ErrorCode::Unknown => (generic(message, phase), ""),
        _ => ("XX000", ""),
    }
}

fn constraint(extended: i32) -> &'static str {
    match extended {
        ffi::SQLITE_CONSTRAINT_NOTNULL => "23502",
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "23503",
        ffi::SQLITE_CONSTRAINT_UNIQUE
        | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
        | ffi::SQLITE_CONSTRAINT_ROWID => "23505",
        ffi::SQLITE_CONSTRAINT_CHECK => "23514",
        // RAISE() in a trigger.
        ffi::SQLITE_CONSTRAINT_TRIGGER => "P0001",
        // A STRICT table.
        ffi::SQLITE_CONSTRAINT_DATATYPE => "22P02",
        _ => "23000",
    }
}

fn generic(message: &str, phase: Phase) -> &'static str {
    let has = |part: &str| message.contains(part);
    if has("no such table") {
        "42P01"
    } else if has("no such column") || has("has no column named") {
        "42703"
    } else if has("no such function") || has("wrong number of arguments") {
        "42883"
    } else if phase == Phase::Prepare {
        "42601"
    } else {
        // json(), abs() of the smallest integer, ...: the data.
        "22000"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorClass;
    use rusqlite::Connection;

    fn state(db: &Connection, sql: &str) -> (String, ErrorClass) {
        let result = db
            .prepare(sql)
            .map_err(|e| convert(e, Phase::Prepare, None));
        let result = result.and_then(|mut statement| {
            statement
                .raw_execute()
                .map_err(|e| convert(e, Phase::Run, None))
        });
        match result {
            Err(DbError::Sql {
                sqlstate, class, ..
            }) => (sqlstate, class),
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn what_sqlite_says_becomes_a_sqlstate() {
        let db = Connection::open_in_memory().expect("memory");
        db.execute_batch(
            "PRAGMA foreign_keys = ON;
             CREATE TABLE a (id INTEGER PRIMARY KEY, n INT NOT NULL CHECK (n < 10), u INT UNIQUE);
             CREATE TABLE b (a INT REFERENCES a) STRICT;
             CREATE TABLE c (x INT);
             CREATE TRIGGER t BEFORE INSERT ON c BEGIN SELECT RAISE(ABORT, 'never'); END;
             INSERT INTO a VALUES (1, 1, 1);",
        )
        .expect("schema");
        use ErrorClass::{Operator, Refused};
        for (sql, expected, class) in [
            ("INSERT INTO a VALUES (1, 1, 2)", "23505", Refused),
            ("INSERT INTO a VALUES (2, 1, 1)", "23505", Refused),
            ("INSERT INTO a VALUES (2, NULL, 2)", "23502", Refused),
            ("INSERT INTO a VALUES (2, 11, 2)", "23514", Refused),
            ("INSERT INTO a VALUES ('x', 1, 2)", "22P02", Refused),
            ("INSERT INTO b VALUES (7)", "23503", Refused),
            ("INSERT INTO b VALUES ('x')", "22P02", Refused),
            ("INSERT INTO c VALUES (7)", "P0001", Refused),
            (
                "UPDATE a SET n = abs(-9223372036854775807 - 1)",
                "22000",
                Refused,
            ),
            ("INSERT INTO nowhere VALUES (7)", "42P01", Operator),
            ("UPDATE a SET absent = 1", "42703", Operator),
            ("INSERT INTO a (absent) VALUES (1)", "42703", Operator),
            ("UPDATE a SET n = strange(1)", "42883", Operator),
            ("UPDATE a SET n = 1::int", "42601", Operator),
        ] {
            assert_eq!(state(&db, sql), (expected.to_owned(), class), "{sql}");
        }
        db.execute_batch("PRAGMA query_only = ON").expect("pragma");
        assert_eq!(state(&db, "DELETE FROM a").0, "25006");
    }
}
