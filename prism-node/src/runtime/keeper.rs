//! The keeper: what the region's ledger needs beside delivery. It trims the outbox and counts the
//! dead letters.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use prism_db::{Database, DbError};

use super::alarms::name;
use super::board::Board;
use crate::config::Limits;

/// Dead letters are counted this often.
const TICK: Duration = Duration::from_secs(1);
/// Rows stay at least so long, whatever is configured: what became of an ambiguous COMMIT is read
/// from them, by then acknowledged or not.
const KEEP: Duration = Duration::from_secs(60);
/// Outbox rows are trimmed this often, so many at a time.
const TRIM: Duration = Duration::from_secs(10);
const TRIM_ROWS: u32 = 5_000;
/// What a tick may spend on it.
const TRIM_BUDGET: Duration = Duration::from_millis(200);

/// What others ask of this worker.
pub(super) enum KeeperJob {
    /// Leave.
    Stop,
}

/// See the module.
pub(super) struct Keeper {
    jobs: Receiver<KeeperJob>,
    database: Box<dyn Database>,
    board: Arc<Board>,
    limits: Limits,
    trimmed: Instant,
}

impl Keeper {
    pub(super) fn new(
        jobs: Receiver<KeeperJob>,
        database: Box<dyn Database>,
        board: Arc<Board>,
        limits: Limits,
    ) -> Self {
        Self {
            jobs,
            database,
            board,
            limits,
            trimmed: Instant::now(),
        }
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        loop {
            if let Err(error) = self.tick() {
                // The outbox worker sees the same, and says so.
                tracing::debug!("housekeeping waits for the database: {error}");
            }
            match self.jobs.recv_timeout(TICK) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(KeeperJob::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn tick(&mut self) -> Result<(), DbError> {
        if self.board.lock().broken.is_some() {
            return Ok(());
        }
        self.count()?;
        self.trim()
    }

    fn count(&mut self) -> Result<(), DbError> {
        let rejected = self.database.rejected_count()?;
        let mut state = self.board.lock();
        state.rejected = rejected;
        if rejected > 0 {
            state.alarms.raise(
                name::REJECTED,
                "",
                format!("{rejected} updates were refused by this region's database for good"),
                "look at them in the table `rejected` of the prism schema and resolve them",
            );
        } else {
            state.alarms.clear(name::REJECTED, "");
        }
        Ok(())
    }

    fn trim(&mut self) -> Result<(), DbError> {
        if self.trimmed.elapsed() < TRIM {
            return Ok(());
        }
        let start = Instant::now();
        let retention = self.limits.retention.max(KEEP);
        while start.elapsed() < TRIM_BUDGET {
            let rows = self.database.outbox_trim(retention, TRIM_ROWS)?;
            if rows < u64::from(TRIM_ROWS) {
                self.trimmed = Instant::now();
                break;
            }
        }
        // Otherwise there is more: it goes on at the next tick.
        Ok(())
    }
}
