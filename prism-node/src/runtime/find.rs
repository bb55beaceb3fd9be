//! Answers what has become of a request, on a connection that does nothing else.

use prism_net::platform::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prism_db::{Database, DbError, ErrorClass, RequestRow};
use prism_proto::{RegionId, Seq};
use tokio::sync::oneshot;

use super::board::Board;
use crate::intake::{Failure, Finding, Found};

/// Questions that may wait.
const QUESTIONS: usize = 256;

/// How often it looks whether it shall stop.
const TICK: Duration = Duration::from_millis(100);

type Question = ([u8; 16], oneshot::Sender<Result<Found, Failure>>);

/// Where questions are asked.
#[derive(Debug, Clone)]
pub(super) struct Finder(SyncSender<Question>);

impl Finder {
    /// The asking and the answering end.
    pub(super) fn new() -> (Self, Receiver<Question>) {
        let (sender, receiver) = sync_channel(QUESTIONS);
        (Self(sender), receiver)
    }

    pub(super) fn find(&self, id: [u8; 16]) -> Result<Finding, Failure> {
        let (sender, receiver) = oneshot::channel();
        match self.0.try_send((id, sender)) {
            Ok(()) => Ok(receiver),
            Err(TrySendError::Full(_)) => Err(Failure::Busy),
            Err(TrySendError::Disconnected(_)) => Err(Failure::Draining),
        }
    }

    /// An answer that needs no database.
    pub(super) fn known(found: Found) -> Finding {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(Ok(found));
        receiver
    }
}

/// See the module.
pub(super) struct FindWorker {
    pub(super) questions: Receiver<Question>,
    pub(super) database: Box<dyn Database>,
    pub(super) board: Arc<Board>,
    pub(super) stop: Arc<AtomicBool>,
}

impl FindWorker {
    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let (id, caller) = match self.questions.recv_timeout(TICK) {
                Ok(question) => question,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if caller.is_closed() {
                continue;
            }
            let found = match self.database.request(&id) {
                Ok(Some(row)) => Ok(Found::Recorded {
                    regions: confirmed(&self.board, &row),
                    row,
                }),
                Ok(None) => Ok(Found::Unknown),
                Err(error) => Err(unavailable(&error)),
            };
            let _ = caller.send(found);
        }
    }
}

/// Other regions, and whether each has confirmed this request.
pub(super) fn confirmed(board: &Board, row: &RequestRow) -> Vec<(String, bool)> {
    match row.seq {
        Some(seq) if row.stream == board.names.my_region() => regions(board, seq),
        _ => Vec::new(),
    }
}

/// Other regions, and whether each has confirmed this update of the own stream.
pub(super) fn regions(board: &Board, seq: Seq) -> Vec<(String, bool)> {
    let state = board.lock();
    let one = |peer: RegionId| {
        let name = board.names.region(peer).to_owned();
        (name, board.confirmed(&state, peer) >= seq)
    };
    board.names.peers().map(one).collect()
}

/// What a caller is told when the database cannot be asked.
pub(super) fn unavailable(error: &DbError) -> Failure {
    match error {
        DbError::Schema(_)
        | DbError::Sql {
            class: ErrorClass::Operator | ErrorClass::Refused,
            ..
        } => Failure::NotReady(error.to_string()),
        _ => Failure::Unavailable(error.to_string()),
    }
}
