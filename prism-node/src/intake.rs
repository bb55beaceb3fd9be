//! The border between the callers (HTTP, command line, Rust) and the submit worker.

use std::sync::Weak;
use std::time::Duration;

use prism_db::{RequestRow, UndoReason, Value};
use prism_proto::Seq;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// How long a caller wants to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Until the local database has committed.
    #[default]
    Background,
    /// Until every region has applied it; if one of them does not, it is undone in all of them.
    Await,
}

/// One update, checked against the catalogue: parameters are typed and complete.
#[derive(Debug, Clone, PartialEq)]
pub struct NewUpdate {
    /// Name of the statement.
    pub statement: String,
    /// All parameters, generated ones included.
    pub params: Vec<Value>,
    /// The caller's id; made here if the caller gave none.
    pub request_id: uuid::Uuid,
    /// How long to wait.
    pub mode: Mode,
    /// Caller's limit on the wait.
    pub timeout: Option<Duration>,
}

impl NewUpdate {
    /// Bytes of memory that it holds, about.
    pub(crate) fn weight(&self) -> usize {
        let held = |value: &Value| match value {
            Value::Text(s) | Value::Decimal(s) | Value::Json(s) => s.len(),
            Value::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        let own = size_of::<Self>() + self.params.len() * size_of::<Value>();
        own + self.statement.len() + self.params.iter().map(held).sum::<usize>()
    }
}

/// What became of one update.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Durable in the local database.
    Committed {
        /// Its number.
        seq: Seq,
    },
    /// Durable in this node's journal: the database is away. It runs as soon as it is back.
    Spooled,
    /// The same request was submitted in another region before, and has been applied here.
    Elsewhere {
        /// Where.
        region: String,
        /// Its number there.
        seq: Seq,
    },
    /// Awaited: every region has it.
    Applied {
        /// Its number.
        seq: Seq,
        /// The other regions.
        regions: Vec<String>,
    },
    /// Awaited, or the same request as before: it has been taken back in every region.
    Undone {
        /// Its number.
        seq: Option<Seq>,
        /// Why.
        reason: UndoReason,
        /// Other regions, and whether each had confirmed it.
        regions: Vec<(String, bool)>,
    },
    /// Not taken; nothing was written (unless `Failure::Unknown`).
    Failed(Failure),
}

/// Why an update was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The local database refused it (409).
    #[error("the database of this region refused the update: {0}")]
    Refused(String),
    /// The same request was refused in another region before (409).
    #[error("the database of region {0} refused the update: {1}")]
    RefusedAt(String, String),
    /// The local database cannot be written now (503).
    #[error("the database of this region cannot be written now: {0}")]
    Unavailable(String),
    /// An operator has to act: missing table, grant, migration (503).
    #[error("the database of this region is not ready: {0}")]
    NotReady(String),
    /// Too much is waiting (503 with Retry-After).
    #[error("too many updates are waiting; try again")]
    Busy,
    /// Another transaction has locked what it needs (503 with Retry-After).
    #[error("the update was given up while it waited for a lock; nothing was written: {0}")]
    Locked(String),
    /// The caller's `timeout_ms` has passed before its turn came (503 with Retry-After).
    #[error(
        "the update's turn did not come within its timeout; nothing was written and nothing will be"
    )]
    NotBegun,
    /// Awaited while the database is away: such updates are not spooled (503).
    #[error(
        "updates wait in the journal for the database of this region; an awaited one cannot be \
         taken meanwhile"
    )]
    Spooling,
    /// The database is away, and so much waits in the journal already (503).
    #[error(
        "the database of this region cannot be written now, and the journal takes no more: {0}"
    )]
    Journal(String),
    /// Awaited, but its statement has no `undo` (400).
    #[error(
        "statement {0} has no undo, so it cannot be awaited: nothing could take it back where it \
         was applied when another region refuses it; add undo = \"...\" to the statement, or use \
         mode \"background\""
    )]
    NeedsUndo(String),
    /// The encoded update exceeds `max_update` (413).
    #[error("the update is {size} bytes long, the limit (max_update) is {limit}")]
    TooLarge {
        /// Its encoded size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The caller's id belongs to another update already (422).
    #[error("this request_id was used before for an update with another content")]
    RequestReused,
    /// The outcome could not be found out (503).
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// The node is shutting down (503).
    #[error("this node is shutting down; submit to another node of the region")]
    Draining,
}

/// What has become of a request that was submitted earlier.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// It waits in this node's journal.
    Spooled,
    /// This node is about to execute it.
    Pending,
    /// On record in the database.
    Recorded {
        /// As recorded.
        row: RequestRow,
        /// Other regions, and whether each has confirmed it; only if it is of this region.
        regions: Vec<(String, bool)>,
    },
    /// Nobody here has heard of it.
    Unknown,
}

/// Hands updates to the submit worker. Cheap to clone.
///
/// Implemented by the runtime over a bounded queue; the HTTP side depends on this trait only.
pub trait Intake: Send + Sync + 'static {
    /// Queues the updates, in order.
    ///
    /// # Errors
    /// [`Failure::Busy`] if the queue is full, [`Failure::Draining`] during shutdown: nothing was
    /// queued.
    fn submit(&self, updates: Vec<NewUpdate>) -> Result<Pending, Failure>;

    /// Asks what has become of a request.
    ///
    /// # Errors
    /// [`Failure::Busy`].
    fn find(&self, request_id: uuid::Uuid) -> Result<Finding, Failure>;
}

/// Where the answer to [`Intake::find`] arrives.
pub type Finding = oneshot::Receiver<Result<Found, Failure>>;

/// Answers to come, one per update, in the same order.
pub struct Pending {
    answers: oneshot::Receiver<Vec<Answer>>,
    /// Weak: whoever is to answer holds it, and if they are gone nobody waits for them.
    request: Option<Weak<dyn GiveUp>>,
}

/// What a caller that waits no longer can still do.
pub(crate) trait GiveUp: Send + Sync {
    /// Drops what has not begun and has a timeout.
    fn drop_waiting(&self);
    /// Answers what is not answered yet with what is known of it.
    fn give_up(&self) -> Vec<Answer>;
}

impl Pending {
    pub(crate) fn new(answers: oneshot::Receiver<Vec<Answer>>, request: Weak<dyn GiveUp>) -> Self {
        Self {
            answers,
            request: Some(request),
        }
    }

    /// Answers that are there already.
    #[must_use]
    pub fn ready(answers: Vec<Answer>) -> Self {
        let (sender, pending) = Self::later();
        let _ = sender.send(answers);
        pending
    }

    /// Answers that are sent when they are there.
    #[must_use]
    pub fn later() -> (oneshot::Sender<Vec<Answer>>, Self) {
        let (sender, answers) = oneshot::channel();
        let pending = Self {
            answers,
            request: None,
        };
        (sender, pending)
    }

    /// Waits so long. Then what has not begun and has a timeout is dropped; what has begun gets
    /// `grace` to come to its end, and after that `Failure::Unknown`.
    ///
    /// # Errors
    /// [`Failure::Unknown`]: the node stopped meanwhile.
    pub async fn within(
        mut self,
        patience: Duration,
        grace: Duration,
    ) -> Result<Vec<Answer>, Failure> {
        for wait in [patience, grace] {
            match tokio::time::timeout(wait, &mut self.answers).await {
                Ok(answers) => return answers.map_err(|_| stopped()),
                Err(_) => {
                    if let Some(request) = self.request.as_ref().and_then(Weak::upgrade) {
                        request.drop_waiting();
                    }
                }
            }
        }
        self.give_up()
    }

    /// The answers, if they are there.
    ///
    /// # Errors
    /// [`Failure::Unknown`]: the node stopped meanwhile.
    pub fn try_wait(&mut self) -> Result<Option<Vec<Answer>>, Failure> {
        match self.answers.try_recv() {
            Ok(answers) => Ok(Some(answers)),
            Err(oneshot::error::TryRecvError::Empty) => Ok(None),
            Err(oneshot::error::TryRecvError::Closed) => Err(stopped()),
        }
    }

    /// The caller waits no longer: what has not begun and has a timeout is dropped, what has begun
    /// is answered with [`Failure::Unknown`].
    ///
    /// # Errors
    /// [`Failure::Unknown`]: the node stopped meanwhile.
    pub fn give_up(mut self) -> Result<Vec<Answer>, Failure> {
        let request = self.request.take().and_then(|request| request.upgrade());
        if let Some(request) = &request {
            request.drop_waiting();
        }
        // Everything may have been answered this very moment.
        if let Ok(answers) = self.answers.try_recv() {
            return Ok(answers);
        }
        request.map(|request| request.give_up()).ok_or_else(stopped)
    }

    /// Waits without a limit.
    ///
    /// # Errors
    /// [`Failure::Unknown`]: the node stopped meanwhile.
    pub fn wait(self) -> Result<Vec<Answer>, Failure> {
        self.answers.blocking_recv().map_err(|_| stopped())
    }
}

fn stopped() -> Failure {
    Failure::Unknown("the node stopped meanwhile".to_owned())
}
