//! A database whose connection breaks during COMMIT.

use std::time::Duration;

use prism_db::{
    ApplyReport, ApplyRequest, Committed, Database, DbError, Hlc, LaneRow, RefusalRow, RegionRow,
    RejectedRow, RequestRow, Submission,
};
use prism_proto::{Position, Seq, Verdict};

/// What becomes of the next submit or apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Fine,
    /// Committed, but the answer is lost.
    CommittedUnheard,
    /// Not committed, and the answer is lost.
    Lost,
    /// Rolled back at the deadline.
    Late,
}

pub struct Flaky {
    pub inner: Box<dyn Database>,
    /// Taken by each submit and apply from the end; `Fine` when empty.
    pub fates: Vec<Fate>,
    /// Sizes of the applied batches.
    pub applied: Vec<usize>,
}

impl Flaky {
    pub fn new(inner: Box<dyn Database>, fates: Vec<Fate>) -> Self {
        Self {
            inner,
            fates,
            applied: Vec::new(),
        }
    }

    fn through<T>(
        &mut self,
        call: impl FnOnce(&mut dyn Database) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let lost = || Err(DbError::Ambiguous("connection lost".into()));
        match self.fates.pop().unwrap_or(Fate::Fine) {
            Fate::Fine => call(&mut *self.inner),
            Fate::Lost => lost(),
            Fate::Late => Err(DbError::sql("57014", "canceling statement", None)),
            Fate::CommittedUnheard => {
                call(&mut *self.inner)?;
                lost()
            }
        }
    }
}

impl Database for Flaky {
    fn region(&mut self) -> Result<RegionRow, DbError> {
        self.inner.region()
    }
    fn submit(&mut self, batch: &[Submission]) -> Result<Vec<Committed>, DbError> {
        self.through(|db| db.submit(batch))
    }
    fn position(&mut self, stream: &str) -> Result<Position, DbError> {
        self.inner.position(stream)
    }
    fn positions(&mut self) -> Result<Vec<(String, Position)>, DbError> {
        self.inner.positions()
    }
    fn apply(&mut self, request: &ApplyRequest<'_>) -> Result<ApplyReport, DbError> {
        self.applied.push(request.items.len());
        self.through(|db| db.apply(request))
    }
    fn outbox_read(
        &mut self,
        from: Seq,
        to: Seq,
        max_bytes: usize,
        sink: &mut dyn FnMut(Seq, &[u8]),
    ) -> Result<Seq, DbError> {
        self.inner.outbox_read(from, to, max_bytes, sink)
    }
    fn outbox_find(&mut self, request_id: &[u8; 16]) -> Result<Option<Committed>, DbError> {
        self.inner.outbox_find(request_id)
    }
    fn outbox_verify(&mut self, position: Position) -> Result<Verdict, DbError> {
        self.inner.outbox_verify(position)
    }
    fn lanes(&mut self) -> Result<Vec<LaneRow>, DbError> {
        self.inner.lanes()
    }
    fn lane_lease(&mut self, peer: &str, node: &str, ttl: Duration) -> Result<LaneRow, DbError> {
        self.inner.lane_lease(peer, node, ttl)
    }
    fn lane_release(&mut self, peer: &str, node: &str) -> Result<(), DbError> {
        self.inner.lane_release(peer, node)
    }
    fn lane_acked(&mut self, peer: &str, position: Position) -> Result<(), DbError> {
        self.inner.lane_acked(peer, position)
    }
    fn outbox_trim(&mut self, retention: Duration, limit: u32) -> Result<u64, DbError> {
        self.inner.outbox_trim(retention, limit)
    }
    fn rejected_count(&mut self) -> Result<u64, DbError> {
        self.inner.rejected_count()
    }
    fn rejected(&mut self, limit: u32) -> Result<Vec<RejectedRow>, DbError> {
        self.inner.rejected(limit)
    }
    fn hlc(&mut self) -> Result<Hlc, DbError> {
        self.inner.hlc()
    }
    fn request(&mut self, request_id: &[u8; 16]) -> Result<Option<RequestRow>, DbError> {
        self.inner.request(request_id)
    }
    fn refusals(&mut self, stream: &str, limit: u32) -> Result<Vec<RefusalRow>, DbError> {
        self.inner.refusals(stream, limit)
    }
    fn skips(&mut self, stream: &str) -> Result<Vec<Seq>, DbError> {
        self.inner.skips(stream)
    }
}
