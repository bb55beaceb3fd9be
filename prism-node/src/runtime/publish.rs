//! What is committed goes to the loop, from whichever thread has committed it.

use prism_net::platform::Instant;
use prism_net::platform::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prism_db::submit::SubmitError;
use prism_db::{Committed, Database, DbError};
use prism_net::{Batch, Command, Handle};

use super::board::Board;
use super::history::{Before, GONE_BACK, History};
use super::outbox::OutboxJob;

/// The outbox worker is asked to look at the database this often. Updates that cannot be taken may
/// come by the thousand (a missing table), and its queue is there for the lanes.
const LOOK: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Clone)]
pub(super) struct Publisher {
    handle: Handle,
    board: Arc<Board>,
    outbox: SyncSender<OutboxJob>,
    history: History,
    /// When the outbox worker was last asked to look.
    looked: Arc<Mutex<Option<Instant>>>,
}

impl Publisher {
    pub(super) fn new(
        handle: Handle,
        board: Arc<Board>,
        outbox: SyncSender<OutboxJob>,
        history: History,
    ) -> Self {
        Self {
            handle,
            board,
            outbox,
            history,
            looked: Arc::default(),
        }
    }

    /// To be asked before the transaction is begun that commits what is published.
    pub(super) fn before(&self) -> Before {
        self.history.before()
    }

    /// False if the database has gone back: it cannot be trusted with anything that matters.
    pub(super) fn trusts(&self, database: &mut dyn Database) -> Result<bool, DbError> {
        Ok(self.history.check(database)?.is_some())
    }

    /// Publishes what is committed; if the database has gone back, nothing is.
    pub(super) fn settle(
        &self,
        before: Before,
        mut results: Vec<Result<Committed, SubmitError>>,
    ) -> Vec<Result<Committed, SubmitError>> {
        if !self.publish(before, results.iter().flatten()) {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(SubmitError::NotReady(GONE_BACK.to_owned()));
            }
        }
        results
    }

    /// Hands it to the loop, in runs of consecutive numbers (a sibling may have taken some in
    /// between). False, and nothing is handed over, if the database has gone back.
    pub(super) fn publish<'a>(
        &self,
        before: Before,
        committed: impl IntoIterator<Item = &'a Committed>,
    ) -> bool {
        let mut committed: Vec<&Committed> = committed.into_iter().collect();
        if !self.history.follows(before, &committed) {
            return false;
        }
        committed.sort_unstable_by_key(|c| c.seq);
        if let Some(last) = committed.last() {
            self.board.committed(last.seq, last.update.tag);
        }
        for run in committed.chunk_by(|a, b| b.seq == a.seq.next()) {
            let mut payloads = Batch::default();
            payloads.reset(run[0].seq);
            for committed in run {
                payloads.push(&committed.update.encode());
            }
            self.handle.send(Command::Committed(payloads));
        }
        true
    }

    /// Something is wrong with the database: the outbox worker looks at it, finds out what it is
    /// and says so.
    pub(super) fn look(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_none_or(|at| at.elapsed() >= LOOK) {
            *looked = Some(Instant::now());
            let _ = self.outbox.try_send(OutboxJob::Look);
        }
    }
}
