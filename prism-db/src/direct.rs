//! The direct rung: writing the own stream into a peer's database over SQL.

use std::sync::Arc;

use prism_proto::{ApplyCause, DirectFailure, Epoch, Position, Seq, Verdict};

use crate::apply::{Applier, Rejection, Wait};
use crate::{Database, DatabaseUrl, DbError, Drift, ErrorClass, OpenOptions, RefusalRow, open};

/// Updates of one transaction in the peer's database.
const BATCH: u64 = 512;
/// Bytes of one transaction.
const BATCH_BYTES: usize = 4 << 20;
/// Refusals that are brought home at a time.
pub const REFUSALS: u32 = 256;

/// Why the direct path did not write (all).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct DirectError {
    /// Kind, as the engine knows it.
    pub failure: DirectFailure,
    /// What happened, for people.
    pub detail: String,
    /// What a person can do; empty if nothing needs doing.
    pub remedy: String,
}

/// What one write did, also if it failed in the end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DirectOutcome {
    /// Where the peer's database is now, if it could be asked.
    pub position: Option<Position>,
    /// Updates executed, or recorded as rejected, by this call.
    pub executed: u64,
    /// Updates that others had applied in the meantime.
    pub skipped: u64,
    /// Row counts that differ from the origin's.
    pub drift: Vec<Drift>,
    /// Updates that the peer's database refused for good.
    pub rejected: Vec<Rejection>,
    /// Refusals that this region has not dealt with yet, whoever has applied the updates: some of
    /// them, the oldest first. Read after writing, also when there was nothing to write.
    pub refusals: Vec<RefusalRow>,
    /// Why it stopped short.
    pub failure: Option<DirectError>,
}

/// Writes the own stream into one peer's database.
pub struct DirectWriter {
    stream: String,
    peer: Box<dyn Database>,
    applier: Applier,
}

impl DirectWriter {
    /// For the stream of region `stream`, into the peer's database at `url`. `options.topology`
    /// is the peer's: the database must be that region's. Connects at the first write.
    ///
    /// # Errors
    /// [`DbError::Unreachable`] if the address itself is unusable.
    pub fn new(stream: &str, url: &DatabaseUrl, options: OpenOptions) -> Result<Self, DbError> {
        let regions = Arc::clone(&options.topology.regions);
        let applier = Applier::new(Arc::clone(&options.catalogue), regions);
        Ok(Self::into(stream, open(url, options)?, applier))
    }

    /// The same into a database that is opened already. `applier` must have been given its catalogue
    /// and regions.
    #[must_use]
    pub fn into(stream: &str, peer: Box<dyn Database>, applier: Applier) -> Self {
        Self {
            stream: stream.to_owned(),
            peer,
            applier,
        }
    }

    /// Writes updates up to `upto` that the peer's database does not have, in order, until all
    /// are there, one fails, or `enough` says so after a transaction (then the position is short of
    /// `upto` and there is no failure). The peer's own watermark decides where to begin.
    pub fn write(
        &mut self,
        own: &mut dyn Database,
        upto: Seq,
        enough: impl FnMut() -> bool,
    ) -> DirectOutcome {
        let mut outcome = DirectOutcome::default();
        if let Err(error) = self.run(own, upto, enough, &mut outcome) {
            outcome.failure = Some(error);
        }
        // Without a position the database could not be asked, or is not the peer's.
        if outcome.position.is_some() {
            match self.peer.refusals(&self.stream, REFUSALS) {
                Ok(refusals) => outcome.refusals = refusals,
                // What was written counts, but is not clean: nothing is known.
                Err(error) => {
                    outcome.failure.get_or_insert(peer_failed(error));
                    outcome.position = None;
                }
            }
        }
        outcome
    }

    /// The refusals of these updates have been dealt with here, durably.
    ///
    /// # Errors
    /// [`DirectError`]; they come again then.
    pub fn refusals_told(&mut self, epoch: Epoch, seqs: &[Seq]) -> Result<(), DirectError> {
        self.peer
            .refusals_told(&self.stream, epoch, seqs)
            .map_err(peer_failed)
    }

    fn run(
        &mut self,
        own: &mut dyn Database,
        upto: Seq,
        mut enough: impl FnMut() -> bool,
        outcome: &mut DirectOutcome,
    ) -> Result<(), DirectError> {
        let there = self.peer.position(&self.stream).map_err(peer_failed)?;
        let epoch = own.region().map_err(own_failed)?.epoch;
        self.verify(own, there)?;
        outcome.position = Some(there);
        let mut position = there;
        while position.seq < upto {
            let from = position.seq.next();
            let to = upto.min(Seq(position.seq.0.saturating_add(BATCH)));
            let mut updates: Vec<(Seq, Vec<u8>)> = Vec::new();
            own.outbox_read(from, to, BATCH_BYTES, &mut |seq, bytes| {
                updates.push((seq, bytes.to_vec()));
            })
            .map_err(own_failed)?;
            if updates.is_empty() {
                return Err(DirectError {
                    failure: DirectFailure::Parked,
                    detail: format!("update {} is not in the own outbox any more", from.0),
                    remedy: TOO_OLD.to_owned(),
                });
            }
            let applied = self
                .applier
                .apply(&mut *self.peer, &self.stream, epoch, &updates);
            outcome.executed += applied.executed;
            outcome.skipped += applied.skipped;
            outcome.drift.extend(applied.drift);
            outcome.rejected.extend(applied.rejected);
            if let Some(reached) = applied.position {
                outcome.position = Some(reached);
                position = reached;
            }
            if let Some(wait) = applied.wait {
                return Err(failure(wait));
            }
            if position.seq < from {
                // A gap: the database was taken back while it was written to. The next call
                // compares afresh.
                return Err(DirectError {
                    failure: DirectFailure::Busy,
                    detail: format!("the database is at {} all at once", position.seq.0),
                    remedy: String::new(),
                });
            }
            if enough() {
                break;
            }
        }
        Ok(())
    }

    fn verify(&self, own: &mut dyn Database, there: Position) -> Result<(), DirectError> {
        let error = |failure, detail: String, remedy: &str| {
            Err(DirectError {
                failure,
                detail,
                remedy: remedy.to_owned(),
            })
        };
        match own.outbox_verify(there).map_err(own_failed)? {
            Verdict::Matches => Ok(()),
            Verdict::Forked => error(
                DirectFailure::Forked,
                format!(
                    "the database is at {} (epoch {:016x}, tag {:016x}) of stream {}, which is not on this region's stream",
                    there.seq.0, there.epoch.0, there.tag.0, self.stream
                ),
                "one of the two databases was restored or copied: rebuild it with prism adopt",
            ),
            Verdict::TooOld => error(
                DirectFailure::Parked,
                format!(
                    "the database is at {} of stream {}; what follows is not in the outbox any more",
                    there.seq.0, self.stream
                ),
                TOO_OLD,
            ),
            Verdict::Unknown => error(
                DirectFailure::Busy,
                "the own database could not judge the position".to_owned(),
                "",
            ),
        }
    }
}

const TOO_OLD: &str = "rebuild that region's database with prism adopt";

fn failure(wait: Wait) -> DirectError {
    DirectError {
        failure: match wait.cause {
            ApplyCause::Unreachable => DirectFailure::Unreachable,
            ApplyCause::Busy => DirectFailure::Busy,
            ApplyCause::Dependency => DirectFailure::Dependency,
            ApplyCause::Parked => DirectFailure::Parked,
            ApplyCause::Forked => DirectFailure::Forked,
        },
        detail: wait.detail,
        remedy: wait.remedy,
    }
}

/// The peer's database could not even be asked.
fn peer_failed(error: DbError) -> DirectError {
    let (failure, remedy) = match &error {
        DbError::Unreachable(_) | DbError::Ambiguous(_) => (DirectFailure::Unreachable, ""),
        DbError::Fork(_) => (DirectFailure::Forked, ""),
        DbError::Sql { class, .. } => match class {
            ErrorClass::Unreachable => (DirectFailure::Unreachable, ""),
            ErrorClass::Transient => (DirectFailure::Busy, ""),
            ErrorClass::Refused | ErrorClass::Operator => (
                DirectFailure::Parked,
                "grant the role of `direct` the rights of that region's own nodes",
            ),
        },
        DbError::Schema(_) | DbError::TooLarge { .. } | DbError::Repeated(_) => {
            (DirectFailure::Parked, "")
        }
    };
    DirectError {
        failure,
        detail: error.to_string(),
        remedy: remedy.to_owned(),
    }
}

/// The own database: nothing is wrong with the peer; soon again.
fn own_failed(error: DbError) -> DirectError {
    DirectError {
        failure: DirectFailure::Busy,
        detail: format!("the own database: {error}"),
        remedy: String::new(),
    }
}
