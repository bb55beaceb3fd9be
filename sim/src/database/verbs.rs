//! The verbs of `prism_db::Database`, each in the file that it belongs to.

use std::time::Duration;

use prism_db::{
    ApplyReport, ApplyRequest, Committed, Database, DbError, HeldConflict, HeldState, HeldWrite,
    Hlc, LaneRow, NodeRow, OutboxFigures, RefusalRow, RegionRow, RejectedRow, RequestRow, Retried,
    Submission, UndoReason, Undone,
};
use prism_proto::{Epoch, Position, RegionKey, Seq, Verdict};

use super::client::Client;
use super::outbox::region_row;
use super::rows::{Key, Row};

impl Database for Client {
    fn region(&mut self) -> Result<RegionRow, DbError> {
        self.read("region", |work| Ok(region_row(work)))
    }

    fn submit(&mut self, batch: &[Submission]) -> Result<Vec<Committed>, DbError> {
        self.submit_batch(batch)
    }

    fn position(&mut self, stream: &str) -> Result<Position, DbError> {
        self.position_of(stream)
    }

    fn positions(&mut self) -> Result<Vec<(String, Position)>, DbError> {
        self.read("positions", |work| {
            let mut all = Vec::new();
            let (from, to) = (Key::Watermark(RegionKey(0)), Key::Lane(RegionKey(0)));
            let from = std::ops::Bound::Included(&from);
            work.scan(from, std::ops::Bound::Excluded(&to), |_, row| {
                if let Row::Watermark(row) = row {
                    all.push((row.stream.clone(), row.at));
                }
                true
            });
            all.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(all)
        })
    }

    fn apply(&mut self, request: &ApplyRequest<'_>) -> Result<ApplyReport, DbError> {
        self.apply_request(request)
    }

    fn outbox_read(
        &mut self,
        from: Seq,
        to: Seq,
        max_bytes: usize,
        sink: &mut dyn FnMut(Seq, &[u8]),
    ) -> Result<Seq, DbError> {
        self.read_outbox(from, to, max_bytes, sink)
    }

    fn outbox_find(&mut self, request_id: &[u8; 16]) -> Result<Option<Committed>, DbError> {
        self.find_in_outbox(request_id)
    }

    fn outbox_verify(&mut self, position: Position) -> Result<Verdict, DbError> {
        self.verify_position(position)
    }

    fn lanes(&mut self) -> Result<Vec<LaneRow>, DbError> {
        self.all_lanes()
    }

    fn lane_lease(&mut self, peer: &str, node: &str, ttl: Duration) -> Result<LaneRow, DbError> {
        self.lease(peer, node, ttl)
    }

    fn lane_release(&mut self, peer: &str, node: &str) -> Result<(), DbError> {
        self.release(peer, node)
    }

    fn lane_acked(&mut self, peer: &str, position: Position) -> Result<(), DbError> {
        self.mark_acked(peer, position)
    }

    fn outbox_trim(&mut self, retention: Duration, limit: u32) -> Result<u64, DbError> {
        self.trim_outbox(retention, limit)
    }

    fn rejected_count(&mut self) -> Result<u64, DbError> {
        self.count_rejected()
    }

    fn rejected(&mut self, limit: u32) -> Result<Vec<RejectedRow>, DbError> {
        self.unresolved(limit)
    }

    fn hlc(&mut self) -> Result<Hlc, DbError> {
        self.clock()
    }

    fn request(&mut self, request_id: &[u8; 16]) -> Result<Option<RequestRow>, DbError> {
        self.find_request(request_id)
    }

    fn request_refused(
        &mut self,
        submission: &Submission,
        sqlstate: &str,
        message: &str,
        dead_letter: bool,
    ) -> Result<(), DbError> {
        self.record_refused(submission, sqlstate, message, dead_letter)
    }

    fn request_trim(&mut self, retention: Duration, limit: u32) -> Result<u64, DbError> {
        self.trim_requests(retention, limit)
    }

    fn requests_reach(&mut self, age: Duration) -> Result<bool, DbError> {
        self.reach_requests(age)
    }

    fn refusals(&mut self, stream: &str, limit: u32) -> Result<Vec<RefusalRow>, DbError> {
        self.untold(stream, limit)
    }

    fn refusals_told(&mut self, stream: &str, epoch: Epoch, seqs: &[Seq]) -> Result<(), DbError> {
        self.told(stream, epoch, seqs)
    }

    fn undo(&mut self, seq: Seq, reason: &UndoReason) -> Result<Undone, DbError> {
        self.undo_update(seq, reason)
    }

    fn held_begin(
        &mut self,
        submission: &Submission,
        limit: Duration,
    ) -> Result<HeldWrite, DbError> {
        self.begin_held(submission, limit)
    }

    fn held_publish(&mut self, held: &HeldWrite) -> Result<Committed, DbError> {
        self.publish_held(held)
    }

    fn held_finish(&mut self, seq: Seq) -> Result<bool, DbError> {
        self.finish_held(seq)
    }

    fn held_cancel(&mut self) -> Result<(), DbError> {
        self.cancel_held()
    }

    fn held_state(&mut self, seq: Seq) -> Result<HeldState, DbError> {
        self.state_of_held(seq)
    }

    fn held_conflicts(&mut self) -> Result<Vec<HeldConflict>, DbError> {
        self.conflicts_of_held()
    }

    fn settle_held(&mut self) -> Result<Vec<Committed>, DbError> {
        self.settle()
    }

    fn rejected_get(&mut self, id: i64) -> Result<Option<RejectedRow>, DbError> {
        self.letter(id)
    }

    fn rejected_retry(&mut self, id: i64) -> Result<Retried, DbError> {
        self.retry_rejected(id)
    }

    fn rejected_drop(&mut self, id: i64) -> Result<bool, DbError> {
        self.drop_letter(id)
    }

    fn skip(&mut self, stream: &str, seq: Seq) -> Result<bool, DbError> {
        self.want_skipped(stream, seq)
    }

    fn skips(&mut self, stream: &str) -> Result<Vec<Seq>, DbError> {
        self.wanted_skipped(stream)
    }

    fn lane_want(&mut self, peer: &str, node: &str, ttl: Duration) -> Result<(), DbError> {
        self.want(peer, node, ttl)
    }

    fn lane_stale(&mut self, peer: &str) -> Result<(), DbError> {
        self.mark_stale(peer)
    }

    fn lane_back(&mut self, peer: &str) -> Result<bool, DbError> {
        self.take_back(peer)
    }

    fn outbox_figures(&mut self) -> Result<OutboxFigures, DbError> {
        self.figures()
    }

    fn node_claim(
        &mut self,
        node: &str,
        incarnation: u64,
        journal: u64,
    ) -> Result<Option<NodeRow>, DbError> {
        self.claim_node(node, incarnation, journal)
    }

    fn node_beat(&mut self, node: &str, incarnation: u64) -> Result<bool, DbError> {
        self.beat_node(node, incarnation)
    }

    fn wait_for_outbox(&mut self, timeout: Duration) -> Result<bool, DbError> {
        self.wait_for_news(timeout)
    }
}
