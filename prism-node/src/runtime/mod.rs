//! A running node: the loop thread, the database workers around it, and what they know.
//!
//! ```text
//!   Intake --> queue --> submit worker ------+ Committed
//!                          |                 |
//!             database away v                |
//!                        journal --> replayer+
//!                                            v
//!   peers <==== UDP ====> loop thread (prism_net::Driver + LoopHost)
//!                          |        |        |         |
//!                 apply,   |        | fetch, | direct  | notices
//!                 position v        v verify v         v
//!                   inlet workers  outbox   direct   reporter --> log, alarms
//!                   (one a stream) worker   workers
//! ```
//! Every worker has its own connection; a database that hangs stops its worker and nothing else.

mod alarms;
mod answer;
#[cfg(test)]
mod await_tests;
mod awaits;
mod board;
mod direct;
mod drain;
mod entry;
mod find;
mod history;
mod host;
mod identity;
mod inlet;
mod keeper;
mod leases;
mod listen;
mod names;
mod outbox;
mod pool;
mod publish;
mod queue;
mod refusals;
mod replay;
#[cfg(test)]
mod replay_tests;
mod reporter;
mod slow;
mod spool;
mod start;
mod submit;
#[cfg(test)]
mod tests;
mod threads;
mod ticket;

pub(crate) use board::{Counters, JournalFigures};
pub use drain::DrainReport;
pub use spool::SpoolError;
pub use start::StartError;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use prism_net::Handle;

use crate::config::Config;
use crate::intake::Intake;
use crate::status;

/// A running node.
pub struct Runtime {
    queue: Arc<queue::IntakeQueue>,
    board: Arc<board::Board>,
    handle: Handle,
    outbox: SyncSender<outbox::OutboxJob>,
    leases: SyncSender<leases::LeaseJob>,
    keeper: SyncSender<keeper::KeeperJob>,
    spool: Arc<spool::Spool>,
    /// Ends the workers that no channel ends.
    stop: Arc<AtomicBool>,
    threads: threads::Threads,
    /// Locked while this process uses the data directory.
    _lock: File,
}

impl Runtime {
    /// Starts the node. Its database may be away: the node then waits for it, not ready.
    ///
    /// # Errors
    /// [`StartError`] says what to do.
    pub fn start(config: Arc<Config>, node: &str, data_dir: &Path) -> Result<Self, StartError> {
        start::start(&config, node, data_dir)
    }

    /// Where updates are submitted.
    #[must_use]
    pub fn intake(&self) -> Arc<dyn Intake> {
        Arc::<queue::IntakeQueue>::clone(&self.queue)
    }

    /// Waits, and says which part of the node has stopped if one has: then it is of no use any more
    /// and has to be drained, which gives its leases back.
    #[must_use]
    pub fn died(&self, wait: Duration) -> Option<String> {
        let died = |state: &board::State| state.died.is_some();
        self.board.wait_until(Instant::now() + wait, died);
        self.board.lock().died.clone()
    }

    /// What the node knows about itself.
    #[must_use]
    pub fn board(&self) -> Arc<dyn status::Board> {
        Arc::<board::Board>::clone(&self.board)
    }
}
