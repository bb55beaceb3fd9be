//! Waiting for what others commit to the own stream.

use std::time::Duration;

use postgres::fallible_iterator::FallibleIterator;

use super::fault::Fault;
use super::session::Session;

/// `true` as well when it has only begun to listen: what was committed before was not heard.
pub(super) fn wait(session: &mut Session, timeout: Duration) -> Result<bool, Fault> {
    if !session.listening {
        session.client.batch_execute("LISTEN prism_outbox")?;
        session.listening = true;
        return Ok(true);
    }
    let mut notifications = session.client.notifications();
    let first = notifications.timeout_iter(timeout).next()?;
    // Many commits, one answer.
    while notifications.iter().next()?.is_some() {}
    Ok(first.is_some())
}
