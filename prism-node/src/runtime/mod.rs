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
mod boot;
mod direct;
mod drain;
mod entropy;
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
mod peers;
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
mod surroundings;
#[cfg(test)]
mod tests;
mod threads;
mod ticket;

use alarms::name;
use prism_net::platform::Instant;

pub(crate) use board::{Counters, JournalFigures};
pub use drain::DrainReport;
pub(crate) use entry::Entry;
pub use spool::SpoolError;
pub use start::StartError;
pub use surroundings::{Machine, PacketLoop, Surroundings};

use prism_net::platform::mpsc::SyncSender;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use prism_net::{Command, Handle, Protection, Reload};

use crate::config::Config;
use crate::intake::Intake;
use crate::reload::{Commit, Reloadable};
use crate::{secrets, status};

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
    _lock: start::DataDirLock,
}

impl Runtime {
    /// Starts the node. Its database may be away: the node then waits for it, not ready.
    ///
    /// # Errors
    /// [`StartError`] says what to do.
    pub fn start(
        config: Arc<Config>,
        node: &str,
        data_dir: &Path,
        protection: Protection,
    ) -> Result<Self, StartError> {
        Self::start_in(config, node, data_dir, protection, Arc::new(Machine))
    }

    /// The same with other surroundings than this machine's.
    ///
    /// # Errors
    /// [`StartError`] says what to do.
    pub fn start_in(
        config: Arc<Config>,
        node: &str,
        data_dir: &Path,
        protection: Protection,
        surroundings: Arc<dyn Surroundings>,
    ) -> Result<Self, StartError> {
        start::start(&config, node, data_dir, protection, &surroundings)
    }

    /// The part that takes up changed keys and addresses of nodes.
    #[must_use]
    pub fn reloadable(
        &self,
        running: Arc<Config>,
        node: &str,
        data_dir: &Path,
    ) -> impl Reloadable + use<> {
        SessionsPart {
            running,
            node: node.to_owned(),
            data_dir: data_dir.to_owned(),
            handle: self.handle.clone(),
        }
    }

    /// How a reload has ended: what only a restart takes up, or why everything stays as it was.
    pub fn reloaded(&self, outcome: &Result<Vec<String>, String>) {
        let mut state = self.board.lock();
        let alarms = &mut state.alarms;
        match outcome {
            Err(problems) => alarms.raise(
                name::NOT_RELOADED,
                "",
                format!("the new configuration is not used: {problems}"),
                "mend it, see that `prism check` is content, and send SIGHUP again; until then the \
                 node goes on with the old one",
            ),
            Ok(waiting) => {
                alarms.clear(name::NOT_RELOADED, "");
                match waiting.as_slice() {
                    [] => alarms.clear(name::RESTART_NEEDED, ""),
                    waiting => alarms.raise(
                        name::RESTART_NEEDED,
                        "",
                        format!("changed, but not in force: {}", waiting.join("; ")),
                        "start this node again; the rest of the new configuration is in force",
                    ),
                }
            }
        }
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

/// Sessions: who the others are, and what this node proves itself with.
struct SessionsPart {
    running: Arc<Config>,
    node: String,
    data_dir: PathBuf,
    handle: Handle,
}

impl Reloadable for SessionsPart {
    fn prepare(&self, config: &Config) -> Result<Commit, String> {
        let node = config.node_named(&self.node);
        let Some(node) = node.filter(|_| config.is_sealed() && self.running.is_sealed()) else {
            // With keys to without, or the other way round: that needs a restart of all.
            return Ok(Box::new(|| {}));
        };
        let protection =
            secrets::protection(config, node, &self.data_dir).map_err(|e| e.to_string())?;
        let reload = Box::new(Reload {
            protection,
            nodes: secrets::addresses(&self.running, config, &self.node),
            // The statements stay as they are until a restart.
            catalogue: start::catalogue(&self.running),
        });
        // The loop would only log what does not fit.
        let me = self.running.node_named(&self.node).map(|node| node.id);
        me.map_or(Ok(()), |me| reload.check(me, &reload.protection))
            .map_err(|e| e.to_string())?;
        let handle = self.handle.clone();
        Ok(Box::new(move || handle.send(Command::Reload(reload))))
    }
}
