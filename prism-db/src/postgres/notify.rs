//! Waiting for what others commit to the own stream.
//!
//! Transactions of applications, undos and held updates NOTIFY. An ordinary submit does not: its
//! node tells its siblings, and every transaction that notifies has to queue for the server's one
//! lock of notifications until it has committed. So the numbering is looked at as well, now and then.

use std::time::{Duration, Instant};

use postgres::fallible_iterator::FallibleIterator;

use super::fault::Fault;
use super::session::Session;
use super::{read_region, unsigned};

/// How late at most an unannounced commit is seen.
const POLL: Duration = Duration::from_millis(500);

/// `true` as well when it has only begun to listen: what was committed before was not heard.
pub(super) fn wait(session: &mut Session, timeout: Duration) -> Result<bool, Fault> {
    let Some(heard) = session.heard else {
        session.client.batch_execute("LISTEN prism_outbox")?;
        session.heard = Some(read_region(session)?.next_seq.0);
        return Ok(true);
    };
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let told = {
            let mut notifications = session.client.notifications();
            let first = notifications.timeout_iter(left.min(POLL)).next()?;
            // Many commits, one answer.
            while notifications.iter().next()?.is_some() {}
            first.is_some()
        };
        let rows = session.query("SELECT next_seq FROM prism.region", &[])?;
        let now = rows.first().map_or(Ok(heard), |row| unsigned(row, 0))?;
        session.heard = Some(now);
        if told || now != heard {
            return Ok(true);
        }
        if left <= POLL {
            return Ok(false);
        }
    }
}
