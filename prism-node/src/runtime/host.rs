//! The loop's side of the runtime: every call hands over to a bounded channel and returns.

use prism_net::platform::mpsc::{SyncSender, TrySendError};
use std::sync::Arc;

use prism_net::{Batch, Command, Handle, Host, Snapshot};
use prism_proto::{
    ApplyCause, DirectFailure, Epoch, Event, Notice, Position, Refusal, RegionId, Seq, Target,
    Verdict,
};

use super::board::Board;
use super::direct::DirectJob;
use super::inlet::InletJob;
use super::keeper::KeeperJob;
use super::leases::{Held, LeaseJob, Stopped};
use super::outbox::{Acks, OutboxJob};

/// See the module.
pub(super) struct LoopHost {
    /// Per region; `None` for the own one.
    pub(super) inlets: Vec<Option<SyncSender<InletJob>>>,
    /// Per region; `None` where direct SQL is not possible.
    pub(super) direct: Vec<Option<SyncSender<DirectJob>>>,
    pub(super) outbox: SyncSender<OutboxJob>,
    pub(super) acks: Arc<Acks>,
    pub(super) held: Arc<Held>,
    pub(super) stopped: Arc<Stopped>,
    pub(super) leases: SyncSender<LeaseJob>,
    pub(super) keeper: SyncSender<KeeperJob>,
    pub(super) notices: SyncSender<Notice>,
    pub(super) board: Arc<Board>,
    pub(super) handle: Handle,
    /// Answers to what could not be handed over.
    pub(super) overdue: Vec<Event>,
}

impl LoopHost {
    /// The engine asks again after a failure, so a full queue delays and loses nothing. The core
    /// has at most one request of a kind under way, so this is not expected to happen.
    fn refuse(&mut self, event: Event) {
        tracing::error!(?event, "a worker's queue is full or closed");
        self.overdue.push(event);
    }

    fn inlet(&mut self, stream: RegionId, job: InletJob) {
        let sender = self.inlets.get(usize::from(stream.0));
        if let Some(Some(sender)) = sender
            && sender.try_send(job).is_ok()
        {
            return;
        }
        self.refuse(Event::ApplyFailed {
            stream,
            cause: ApplyCause::Busy,
            retry_at: self.handle.now().after(std::time::Duration::from_secs(1)),
        });
    }
}

impl Host for LoopHost {
    fn apply(&mut self, stream: RegionId, epoch: Epoch, batch: Batch) {
        self.inlet(stream, InletJob::Apply { epoch, batch });
    }

    fn read_position(&mut self, stream: RegionId) {
        self.inlet(stream, InletJob::ReadPosition);
    }

    fn fetch(&mut self, from: Seq, to: Seq) {
        if self.outbox.try_send(OutboxJob::Fetch { from, to }).is_err() {
            self.refuse(Event::Fetched {
                upto: Seq(from.0.saturating_sub(1)),
            });
        }
    }

    fn verify(&mut self, peer: RegionId, position: Position) {
        let job = OutboxJob::Verify { peer, position };
        if self.outbox.try_send(job).is_err() {
            self.refuse(Event::Verified {
                peer,
                position,
                verdict: Verdict::Unknown,
            });
        }
    }

    fn direct(&mut self, peer: RegionId, after: Seq, upto: Seq) {
        let sender = self.direct.get(usize::from(peer.0));
        if let Some(Some(sender)) = sender
            && sender.try_send(DirectJob { after, upto }).is_ok()
        {
            return;
        }
        self.refuse(Event::DirectFailed {
            peer,
            why: DirectFailure::Busy,
        });
    }

    fn refused(&mut self, peer: RegionId, refusal: Refusal) {
        // Full: it is told again.
        let _ = self.keeper.try_send(KeeperJob::Refused { peer, refusal });
    }

    fn refusal_told(&mut self, stream: RegionId, epoch: Epoch, seq: Seq) {
        // The same.
        if let Some(Some(sender)) = self.inlets.get(usize::from(stream.0)) {
            let _ = sender.try_send(InletJob::Told { epoch, seq });
        }
    }

    fn overdue(&mut self) -> Option<Event> {
        self.overdue.pop()
    }

    fn acked(&mut self, peer: RegionId, position: Position, clean: Seq) {
        self.board.acked_by_lane(peer, position.seq, clean);
        if self.acks.put(peer, position) {
            // Full: the worker is busy and looks at the positions when it comes back.
            let _ = self.outbox.try_send(OutboxJob::Acked);
        }
    }

    fn notify(&mut self, notice: Notice) {
        // Not left to a queue that may be full: the lane would stand still for ever, unheard.
        if let Notice::LaneStopped { peer, .. } = notice {
            self.stopped.add(peer);
        }
        if let Notice::Switched {
            to: Target::Parked(_),
            ..
        } = notice
        {
            // A sibling may do better. Full: it looks in a moment anyway.
            let _ = self.leases.try_send(LeaseJob::Look);
        }
        if let Err(TrySendError::Full(_)) = self.notices.try_send(notice) {
            self.board.lock().counters.notices_lost += 1;
        }
    }

    fn snapshot(&mut self, snapshot: &Snapshot) {
        self.board.snapshot(snapshot);
        // Whatever the lease worker may be waiting for. If the queue is full: in a second.
        for peer in self.held.unfounded(snapshot) {
            let _ = self
                .handle
                .try_send(Command::Event(Event::LaneLost { peer }));
        }
    }
}
