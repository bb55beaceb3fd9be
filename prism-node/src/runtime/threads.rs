//! The threads of a node: a name each, and none that dies unnoticed.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::alarms::name;
use super::board::Board;

/// See the module.
#[derive(Debug)]
pub(super) struct Threads {
    board: Arc<Board>,
    list: Vec<(String, JoinHandle<()>)>,
}

impl Threads {
    pub(super) fn new(board: Arc<Board>) -> Self {
        Self {
            board,
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
        let board = Arc::clone(&self.board);
        let label = name.clone();
        let thread = Builder::new().name(name.clone()).spawn(move || {
            if catch_unwind(AssertUnwindSafe(body)).is_err() {
                died(&board, &label, "it panicked; see the log");
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
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A part of the node has ended that should not have.
pub(super) fn died(board: &Board, part: &str, why: &str) {
    tracing::error!(part, "a part of this node has stopped: {why}");
    let mut state = board.lock();
    state.unready = Some(format!("{part} has stopped; restart this node"));
    state.alarms.raise(
        name::WORKER,
        part,
        format!("{part} has stopped: {why}"),
        "restart this node; everything it has acknowledged is in the database",
    );
}
