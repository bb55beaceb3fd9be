//! A transaction that must not happen twice: its COMMIT is a step of its own, so that whoever gives
//! up before it knows that nothing was written.

use super::fault::{self, Fault};
use super::link::Gate;
use super::session::Session;
use crate::DbError;

/// Runs `f` between BEGIN and COMMIT; ROLLBACK where it fails.
///
/// # Errors
/// Those of `f`; `Ambiguous` if the connection breaks during COMMIT.
pub(super) fn transaction<T>(
    session: &mut Session,
    gate: &Gate,
    f: impl FnOnce(&mut Session) -> Result<T, Fault>,
) -> Result<T, Fault> {
    session.begin()?;
    // Judged by the results of the statements: COMMIT of a failed transaction "succeeds" as well,
    // but a transaction whose last call gave a result has not failed.
    let value = match f(session) {
        Ok(value) if gate.may_commit() => value,
        Ok(_) => {
            let _ = session.client.batch_execute("ROLLBACK");
            return Err(DbError::Unreachable("the call was given up".to_owned()).into());
        }
        Err(fault) => {
            roll_back(session)?;
            return Err(fault);
        }
    };
    session
        .client
        .batch_execute("COMMIT")
        .map_err(|error| fault::committing(&error))?;
    Ok(value)
}

/// # Errors
/// `Unreachable`: the connection is of no use any more.
pub(super) fn roll_back(session: &mut Session) -> Result<(), Fault> {
    session
        .client
        .batch_execute("ROLLBACK")
        .map_err(|error| DbError::Unreachable(fault::plain(&error).to_string()).into())
}
