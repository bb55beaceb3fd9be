//! The border between the callers (HTTP, command line, Rust) and the submit worker.

use std::time::Duration;

use prism_db::Value;
use prism_proto::Seq;
use serde::{Deserialize, Serialize};

/// How long a caller wants to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Until the local database has committed.
    #[default]
    Background,
    /// Until every region has applied it (not built yet: refused with a clear error).
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
    /// Not taken; nothing was written (unless `Failure::Unknown`).
    Failed(Failure),
}

/// Why an update was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The local database refused it (409).
    #[error("the database of this region refused the update: {0}")]
    Refused(String),
    /// The local database cannot be written now (503).
    #[error("the database of this region cannot be written now: {0}")]
    Unavailable(String),
    /// An operator has to act: missing table, grant, migration (503).
    #[error("the database of this region is not ready: {0}")]
    NotReady(String),
    /// Too much is waiting (503 with Retry-After).
    #[error("too many updates are waiting; try again")]
    Busy,
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
    /// The connection broke during COMMIT and the outcome could not be found out (503).
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// The node is shutting down (503).
    #[error("this node is shutting down; submit to another node of the region")]
    Draining,
}

/// Hands updates to the submit worker. Cheap to clone.
///
/// Implemented by the runtime over a bounded queue; the HTTP side depends on this trait only.
pub trait Intake: Send + Sync + 'static {
    /// Queues the updates, in order. The receiver gets one answer per update, in the same order.
    ///
    /// # Errors
    /// [`Failure::Busy`] if the queue is full, [`Failure::Draining`] during shutdown: nothing was
    /// queued.
    fn submit(
        &self,
        updates: Vec<NewUpdate>,
    ) -> Result<tokio::sync::oneshot::Receiver<Vec<Answer>>, Failure>;
}
