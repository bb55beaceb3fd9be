//! The threads of a node: a name each, and none that dies unnoticed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::alarms::name;
use super::board::Board;
use super::queue::IntakeQueue;
use prism_net::platform::{self, Instant, Task};

/// Whether the node is whole. One that is not accepts nothing any more and gives its leases back,
/// so that a sibling delivers; it is never half alive.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    pub(super) board: Arc<Board>,
    pub(super) queue: Arc<IntakeQueue>,
}

impl Whole {
    /// A part has ended that should not have.
    pub(super) fn died(&self, part: &str, why: &str) {
        tracing::error!(part, "a part of this node has stopped: {why}");
        self.board
            .lock()
            .died
            .get_or_insert_with(|| format!("{part} has stopped: {why}"));
        self.broken(
            name::WORKER,
            part,
            format!("{part} has stopped: {why}"),
            "restart this node; everything it has acknowledged is in the database",
        );
    }

    /// For good, until the node is restarted.
    pub(super) fn broken(&self, alarm: &'static str, subject: &str, why: String, remedy: &str) {
        let mut state = self.board.lock();
        state
            .broken
            .get_or_insert_with(|| format!("{why}; {remedy}"));
        state.alarms.raise(alarm, subject, why, remedy);
        drop(state);
        self.queue.close();
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Threads {
    whole: Whole,
    list: Vec<(String, Task)>,
}

impl Threads {
    pub(super) fn new(whole: Whole) -> Self {
        Self {
            whole,
            list: Vec::new(),
        }
    }

    /// Starts a thread. A panic in it is a bug: the node says so and accepts nothing any more.
    pub(super) fn spawn(
        &mut self,
        name: impl Into<String>,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let name = name.into();
        let whole = self.whole.clone();
        let label = name.clone();
        let thread = platform::spawn(name.clone(), move || {
            if platform::guarded(body).is_err() {
                whole.died(&label, "it panicked; see the log");
            }
        })?;
        self.list.push((name, thread));
        Ok(())
    }

    /// Waits for the named threads; false if one is still busy (with a database that hangs, say).
    pub(super) fn finished(&self, prefix: &str, deadline: Instant) -> bool {
        loop {
            let busy = self
                .list
                .iter()
                .any(|(name, thread)| name.starts_with(prefix) && !thread.is_finished());
            if !busy || Instant::now() >= deadline {
                return !busy;
            }
            platform::sleep(Duration::from_millis(2));
        }
    }
}
