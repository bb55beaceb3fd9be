//! What the origin does about an update that a peer's database has refused for good: it undoes it,
//! or tells people. Either is durable before the peer hears that it has been dealt with, and the
//! peer keeps the refusal until then; so no crash forgets one, and doing it again changes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prism_db::catalogue::{Catalogue, OnReject};
use prism_db::{Database, DbError, ErrorClass, RefusalRow, UndoReason, Undone, Update};
use prism_net::platform::Instant;
use prism_proto::{RefusalClass, RegionId, Seq};

use super::alarms::name;
use super::board::{Board, lane_subject};
use super::publish::Publisher;

/// See the module.
#[derive(Clone)]
pub(super) struct Refusals {
    publisher: Publisher,
    board: Arc<Board>,
    catalogue: Arc<Catalogue>,
    /// Since when those of a region could not be dealt with.
    failing: Arc<Mutex<BTreeMap<RegionId, Instant>>>,
}

/// What should pass by itself (a lock, a database that is away) is an alarm when it does not.
const STUCK_ALARM: Duration = Duration::from_secs(10);

/// What has to happen with a refused update.
enum Course {
    /// Its undo goes to every region.
    Undo,
    /// It stays a dead letter where it was refused; the words name it.
    Tell(String),
    /// It was an undo itself.
    UndoRefused(Seq),
    /// Nobody knows any more whether it was to be undone.
    Gone,
}

impl Refusals {
    pub(super) fn new(publisher: Publisher, board: Arc<Board>, catalogue: Arc<Catalogue>) -> Self {
        Self {
            publisher,
            board,
            catalogue,
            failing: Arc::default(),
        }
    }

    /// Deals with one refusal, durably. After an error it is as if nothing had been said.
    pub(super) fn handle(
        &self,
        database: &mut dyn Database,
        peer: RegionId,
        refusal: &RefusalRow,
    ) -> Result<(), DbError> {
        let done = self.deal(database, peer, refusal);
        self.judge(peer, refusal.seq, done.as_ref().err());
        done
    }

    /// Until it is dealt with nothing behind it is confirmed: awaited updates run into their deadline.
    fn judge(&self, peer: RegionId, seq: Seq, error: Option<&DbError>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let region = self.board.names.region(peer);
        let subject = format!("refusals of {region}");
        let Some(error) = error else {
            if failing.remove(&peer).is_some() {
                self.board.lock().alarms.clear(name::STUCK, &subject);
            }
            return;
        };
        let since = *failing.entry(peer).or_insert_with(Instant::now);
        let own = self.board.names.my_region();
        let person = matches!(
            error,
            DbError::Schema(_)
                | DbError::Sql {
                    class: ErrorClass::Operator,
                    ..
                }
        );
        if person || since.elapsed() >= STUCK_ALARM {
            self.board.raise(
                name::STUCK,
                &subject,
                format!(
                    "{region} has refused update {} of {own}, and {own}'s database can not deal with \
                     it: {error}",
                    seq.0
                ),
                "mend what the database complains about (table, function, grant; prism migrate), or \
                 look for a transaction that holds the rows; it is tried again by itself",
            );
        }
    }

    fn deal(
        &self,
        database: &mut dyn Database,
        peer: RegionId,
        refusal: &RefusalRow,
    ) -> Result<(), DbError> {
        let region = self.board.names.region(peer);
        let seq = refusal.seq;
        let sqlstate = refusal.sqlstate.trim_end();
        if database.region()?.epoch != refusal.epoch {
            tracing::warn!(
                region,
                seq = seq.0,
                sqlstate,
                "a refusal of an update of an earlier epoch of this region: nothing can be undone"
            );
            return Ok(());
        }
        let mut update = None;
        database.outbox_read(seq, seq, 1, &mut |_, bytes| {
            update = Update::decode(bytes).ok();
        })?;
        match self.course(update.as_ref(), refusal) {
            Course::Undo => self.undo(database, peer, refusal),
            Course::Tell(what) => {
                self.tell(peer, refusal, &what);
                Ok(())
            }
            Course::Gone => {
                self.count(peer, seq);
                let words = format!(
                    "it has refused the update (SQLSTATE {sqlstate} {}), which is no longer in the \
                     outbox; what it did elsewhere stays",
                    refusal.message
                );
                self.undo_refused(region, seq, &words);
                Ok(())
            }
            Course::UndoRefused(undone) => {
                let words = format!("SQLSTATE {sqlstate} {}", refusal.message);
                self.undo_refused(region, undone, words.trim_end());
                Ok(())
            }
        }
    }

    fn course(&self, update: Option<&Update>, refusal: &RefusalRow) -> Course {
        let Some(update) = update else {
            return Course::Gone;
        };
        if let Some(undone) = update.undoes {
            return Course::UndoRefused(undone);
        }
        let statement = self.catalogue.by_digest(&update.statement);
        // Nobody waits for the other regions in vain: an awaited update is undone in any case.
        let undo = update.held
            || refusal.class == RefusalClass::Conflict
            || statement.is_some_and(|s| s.on_reject() == OnReject::Undo);
        if undo {
            return Course::Undo;
        }
        Course::Tell(match statement {
            Some(statement) => format!("statement {}", statement.name()),
            None => "of a statement that this configuration does not have".to_owned(),
        })
    }

    fn undo(
        &self,
        database: &mut dyn Database,
        peer: RegionId,
        refusal: &RefusalRow,
    ) -> Result<(), DbError> {
        let region = self.board.names.region(peer);
        let (seq, sqlstate) = (refusal.seq, refusal.sqlstate.trim_end());
        let reason = UndoReason::Refused {
            region: region.to_owned(),
            sqlstate: sqlstate.to_owned(),
            message: refusal.message.clone(),
        };
        let before = self.publisher.before();
        match database.undo(seq, &reason)? {
            Undone::Published(committed) => {
                tracing::warn!(
                    region,
                    seq = seq.0,
                    undo = committed.seq.0,
                    sqlstate,
                    "the region's database has refused an update of this region: it is undone"
                );
                self.publisher.publish(before, [&committed]);
                let mut state = self.board.lock();
                state.counters.undone += 1;
                drop(state);
                self.count(peer, seq);
            }
            Undone::Before => {}
            Undone::Refused {
                notice,
                sqlstate,
                message,
            } => {
                self.publisher.publish(before, [&notice]);
                self.count(peer, seq);
                let own = self.board.names.my_region();
                self.undo_refused(own, seq, &format!("SQLSTATE {sqlstate} {message}"));
            }
            Undone::Impossible(why) => {
                self.count(peer, seq);
                self.undo_refused(region, seq, &why);
            }
        }
        Ok(())
    }

    /// True if it is new: refusals come again until the peer knows that they were dealt with.
    fn count(&self, peer: RegionId, seq: Seq) -> bool {
        let mut state = self.board.lock();
        let Some(lane) = state.refusals.get_mut(usize::from(peer.0)) else {
            return false;
        };
        let new = seq > lane.last;
        if new {
            lane.last = seq;
            lane.count += 1;
        }
        new
    }

    fn tell(&self, peer: RegionId, refusal: &RefusalRow, what: &str) {
        let names = Arc::clone(&self.board.names);
        let (region, own) = (names.region(peer), names.my_region());
        let (seq, sqlstate) = (refusal.seq.0, refusal.sqlstate.trim_end());
        let message = refusal.message.as_str();
        if !self.count(peer, refusal.seq) {
            return;
        }
        tracing::warn!(
            region,
            seq,
            class = ?refusal.class,
            sqlstate,
            "the region's database has refused an update of this region for good ({what}), it is \
             kept there as a dead letter: {message}"
        );
        let mut state = self.board.lock();
        let count = state.refusals[usize::from(peer.0)].count;
        state.alarms.raise(
            name::PEER_REJECTED,
            &lane_subject(region),
            format!(
                "the database of {region} has refused {count} updates of {own} for good; the last \
                 is {own}'s seq {seq} ({what}), SQLSTATE {sqlstate} {message}"
            ),
            &format!(
                "prism rejected list --region {region} shows them; mend the rows there and `prism \
                 rejected retry ID --region {region}`, or `prism rejected drop ID --region {region}`"
            ),
        );
    }

    fn undo_refused(&self, region: &str, seq: Seq, words: &str) {
        let own = self.board.names.my_region();
        self.board.raise(
            name::UNDO_REFUSED,
            &format!("{own} {}", seq.0),
            format!(
                "update {} of {own} was to be undone, and {region} did not do it: {words}",
                seq.0
            ),
            "the regions differ in the rows of that update: compare and mend them; prism rejected \
             list names it where it was refused",
        );
    }
}
