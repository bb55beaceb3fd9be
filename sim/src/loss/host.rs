//! What an endpoint asks of its host, kept for the cluster to do at the right time.

use prism_net::{Batch, Host, Snapshot};
use prism_proto::{Epoch, Notice, Position, Refusal, RegionId, Seq};

/// One request.
#[derive(Debug)]
pub enum Ask {
    /// See [`Host`].
    Apply(Batch),
    /// See [`Host`].
    Read,
    /// See [`Host`].
    Fetch(Seq, Seq),
    /// See [`Host`].
    Verify(Position),
    /// See [`Host`].
    Direct(Seq),
    /// See [`Host`].
    Acked(Seq),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Asks(pub Vec<Ask>);

impl Host for Asks {
    fn apply(&mut self, _: RegionId, _: Epoch, batch: Batch) {
        self.0.push(Ask::Apply(batch));
    }

    fn read_position(&mut self, _: RegionId) {
        self.0.push(Ask::Read);
    }

    fn fetch(&mut self, from: Seq, to: Seq) {
        self.0.push(Ask::Fetch(from, to));
    }

    fn verify(&mut self, _: RegionId, position: Position) {
        self.0.push(Ask::Verify(position));
    }

    fn direct(&mut self, _: RegionId, _: Seq, upto: Seq) {
        self.0.push(Ask::Direct(upto));
    }

    fn acked(&mut self, _: RegionId, position: Position, _: Seq) {
        self.0.push(Ask::Acked(position.seq));
    }

    fn refused(&mut self, _: RegionId, refusal: Refusal) {
        panic!("nobody has refused {refusal:?}");
    }

    fn refusal_told(&mut self, _: RegionId, _: Epoch, seq: Seq) {
        panic!("nobody has refused {seq:?}");
    }

    fn notify(&mut self, _: Notice) {}

    fn snapshot(&mut self, _: &Snapshot) {}
}
