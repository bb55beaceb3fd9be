//! The listener: what others have committed to the own stream (through SQL, say) leaves at once
//! where the database can tell of it, and not with the outbox worker's next look.

use prism_net::platform::mpsc::SyncSender;
use prism_net::platform::{self};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prism_db::Database;

use super::outbox::OutboxJob;

/// The node's end is noticed within this.
const WAIT: Duration = Duration::from_secs(1);

/// After an error: the database is away, and the outbox worker says so.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Listener {
    pub(super) database: Box<dyn Database>,
    pub(super) outbox: SyncSender<OutboxJob>,
    pub(super) stop: Arc<AtomicBool>,
}

impl Listener {
    /// Until the node ends.
    pub(super) fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.database.wait_for_outbox(WAIT) {
                // Full: it is busy, and looks when it comes to it.
                Ok(true) => drop(self.outbox.try_send(OutboxJob::Tail)),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!("the database does not tell of new updates: {error}");
                    platform::sleep(PAUSE);
                }
            }
        }
    }
}
