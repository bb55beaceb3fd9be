//! A lane is acknowledged no further than the peer's database has committed: looked at whenever the
//! engine says so, before the node hears of it.

use std::cell::Cell;

use prism_net::{Batch, Host, Snapshot};
use prism_proto::{Epoch, Event, Notice, Position, Refusal, RegionId, Seq, Target};

use super::Invariant;
use crate::cluster::current;
use crate::coverage::Phase;

/// How much was looked at.
#[derive(Debug, Default)]
pub struct Acks {
    /// Acknowledgements.
    pub seen: Cell<u64>,
    /// Most bytes that an endpoint has held of own updates.
    pub payload_bytes: Cell<u64>,
    /// Most bytes that wait to be applied.
    pub inbox_bytes: Cell<u64>,
}

struct Watched<'h> {
    node: usize,
    host: &'h mut dyn Host,
    retransmits: u64,
}

/// Stands between the loop of a node and the node.
pub fn watch(node: usize, host: &mut dyn Host) -> Box<dyn Host + '_> {
    Box::new(Watched {
        node,
        host,
        retransmits: 0,
    })
}

impl Watched<'_> {
    fn look(&self, peer: RegionId, position: Position) {
        let cluster = current();
        let check = &cluster.check;
        check.acks.seen.set(check.acks.seen.get() + 1);
        let peer = usize::from(peer.0);
        if check.had_disaster_at(peer) || check.has_adopted() {
            return;
        }
        let own = cluster.name(cluster.region_of(self.node));
        let positions = cluster.servers[peer].positions();
        let found = positions.iter().find(|(stream, _)| stream == own);
        let at = found.map_or_else(Position::default, |(_, at)| *at);
        let differs = at.epoch != position.epoch && position.seq > Seq::ZERO
            || at.seq < position.seq
            || at.seq == position.seq && at.tag != position.tag;
        if differs && position.seq > Seq::ZERO {
            let what = format!(
                "node {} takes {own} for applied in {} up to {position:?}; it is at {at:?}",
                self.node,
                cluster.name(peer)
            );
            check.fail(&cluster.world, Invariant::AckAfterCommit, what);
        }
    }
}

impl Watched<'_> {
    /// What the node is doing, for the table of what struck when.
    fn phases(&mut self, snapshot: &Snapshot) {
        let cluster = current();
        let mut phases = 0;
        let mut retransmits = 0;
        for (peer, lane) in snapshot
            .lanes
            .iter()
            .enumerate()
            .filter(|(_, lane)| lane.held)
        {
            retransmits += lane.retransmits;
            if lane.acked.seq < lane.tail {
                phases |= 1 << Phase::Sending as u8;
            }
            match lane.target {
                Some(Target::Node(node)) => {
                    let first = cluster.site.config.regions[peer].nodes.first();
                    if first != Some(&node) {
                        phases |= 1 << Phase::FailedOver as u8;
                    }
                }
                Some(Target::Direct) => phases |= 1 << Phase::Direct as u8,
                _ => {}
            }
        }
        if retransmits > self.retransmits {
            phases |= 1 << Phase::Retransmitting as u8;
        }
        self.retransmits = retransmits;
        cluster.coverage.set(self.node, phases);
    }
}

impl Host for Watched<'_> {
    fn apply(&mut self, stream: RegionId, epoch: Epoch, batch: Batch) {
        self.host.apply(stream, epoch, batch);
    }

    fn read_position(&mut self, stream: RegionId) {
        self.host.read_position(stream);
    }

    fn fetch(&mut self, from: Seq, to: Seq) {
        self.host.fetch(from, to);
    }

    fn verify(&mut self, peer: RegionId, position: Position) {
        self.host.verify(peer, position);
    }

    fn direct(&mut self, peer: RegionId, after: Seq, upto: Seq) {
        self.host.direct(peer, after, upto);
    }

    fn acked(&mut self, peer: RegionId, position: Position, clean: Seq) {
        self.look(peer, position);
        self.host.acked(peer, position, clean);
    }

    fn refused(&mut self, peer: RegionId, refusal: Refusal) {
        let cluster = current();
        let now = cluster.world.time();
        cluster.coverage.enter(Phase::Undoing, now);
        self.host.refused(peer, refusal);
    }

    fn refusal_told(&mut self, stream: RegionId, epoch: Epoch, seq: Seq) {
        self.host.refusal_told(stream, epoch, seq);
    }

    fn overdue(&mut self) -> Option<Event> {
        self.host.overdue()
    }

    fn notify(&mut self, notice: Notice) {
        self.host.notify(notice);
    }

    fn snapshot(&mut self, snapshot: &Snapshot) {
        let acks = &current().check.acks;
        let most = |cell: &Cell<u64>, now: u64| cell.set(cell.get().max(now));
        most(&acks.payload_bytes, snapshot.payload_bytes);
        most(&acks.inbox_bytes, snapshot.inbox_bytes);
        self.phases(snapshot);
        super::rest::heard(&current(), self.node, snapshot);
        self.host.snapshot(snapshot);
    }
}
