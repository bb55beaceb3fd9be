//! The keeper: what the region's ledger needs beside delivery. It deals with what peers have
//! refused, keeps the outbox within its limits, marks regions stale that are away for too long, publishes the undo of held updates that
//! nobody finishes any more, and counts the dead letters.

use prism_net::platform::Instant;
use prism_net::platform::mpsc::{Receiver, RecvTimeoutError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prism_db::{Database, DbError, LaneRow, RefusalRow};
use prism_net::{Command, Handle};
use prism_proto::{Event, Refusal, RegionId, canary};

use super::alarms::{adopt, name};
use super::board::{Board, lane_subject};
use super::publish::Publisher;
use super::refusals::Refusals;
use crate::config::{Limits, show_duration, show_size};

/// Everything is looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// Rows stay at least so long, whatever is configured: what became of an ambiguous COMMIT is read
/// from them, by then acknowledged or not.
const KEEP: Duration = Duration::from_secs(60);
/// The same when the outbox is larger than it may be. The table of requests knows the rest.
const KEEP_FULL: Duration = Duration::from_secs(10);
/// A burst that is larger than a lane may lag behind is on its way for a moment; that is not yet a
/// region that is away.
const BURST: Duration = Duration::from_secs(3);
/// A request is remembered at least so long: whoever got no answer asks again.
pub(super) const KEEP_REQUESTS: Duration = Duration::from_secs(3600);
/// Nothing is forgotten for so long after the database was away: nodes have spooled meanwhile, and
/// whatever of their journals is committed already has to be on record when they run them.
const SETTLE: Duration = Duration::from_secs(600);
/// Rows are trimmed this often, so many at a time.
const TRIM: Duration = Duration::from_secs(10);
const TRIM_ROWS: u32 = 5_000;
/// What a tick may spend on it.
const TRIM_BUDGET: Duration = Duration::from_millis(200);
/// Dead letters that are looked at for alarms.
const LOOKED_AT: u32 = 100;

/// What others ask of this worker.
pub(super) enum KeeperJob {
    /// That region has refused an update of the own stream.
    Refused { peer: RegionId, refusal: Refusal },
    /// Leave.
    Stop,
}

/// See the module.
pub(super) struct Keeper {
    jobs: Receiver<KeeperJob>,
    database: Box<dyn Database>,
    handle: Handle,
    board: Arc<Board>,
    publisher: Publisher,
    refusals: Refusals,
    limits: Limits,
    trimmed: Instant,
    /// When the database last gave no answer. At the start: who knows what was before.
    away: Instant,
    /// Regions of which an alarm of this worker says that they are stale (the lane has one of that
    /// name, too: what a region needs is gone).
    stale: BTreeSet<RegionId>,
}

/// Whether requests may be forgotten. A journal's entry that was committed (the answer got lost, its
/// caller went to a sibling) is known by its request only.
fn forgets(spooled: u64, answers_for: Duration) -> bool {
    spooled == 0 && answers_for >= SETTLE
}

impl Keeper {
    pub(super) fn new(
        jobs: Receiver<KeeperJob>,
        database: Box<dyn Database>,
        handle: Handle,
        board: Arc<Board>,
        publisher: Publisher,
        refusals: Refusals,
        limits: Limits,
    ) -> Self {
        Self {
            jobs,
            database,
            handle,
            board,
            publisher,
            refusals,
            limits,
            trimmed: Instant::now(),
            away: Instant::now(),
            stale: BTreeSet::new(),
        }
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        let mut tick = Instant::now();
        loop {
            if Instant::now() >= tick {
                if let Err(error) = self.tick() {
                    // The outbox worker sees the same, and says so.
                    tracing::debug!("housekeeping waits for the database: {error}");
                    self.away = Instant::now();
                }
                tick = Instant::now() + TICK;
            }
            let nap = tick.saturating_duration_since(Instant::now());
            match self.jobs.recv_timeout(nap) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(KeeperJob::Refused { peer, refusal }) => self.refused(peer, refusal),
                Ok(KeeperJob::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn tick(&mut self) -> Result<(), DbError> {
        self.board.lock().alarms.forget();
        if self.board.lock().broken.is_some() {
            return Ok(());
        }
        let before = self.publisher.before();
        let undone = self.database.settle_held()?;
        self.publisher.publish(before, &undone);
        self.dead_letters()?;
        self.stale()?;
        self.trim()
    }

    fn refused(&mut self, peer: RegionId, refusal: Refusal) {
        let row = RefusalRow {
            epoch: refusal.epoch,
            seq: refusal.seq,
            class: refusal.class,
            sqlstate: String::from_utf8_lossy(&refusal.sqlstate).into_owned(),
            // The words stay where it was refused.
            message: String::new(),
        };
        let mut handled = self.refusals.handle(self.database.as_mut(), peer, &row);
        if canary!(RefusalToldTooEarly) {
            handled = Ok(());
        }
        match handled {
            Ok(()) => self.handle.send(Command::Event(Event::RefusalHandled {
                peer,
                seq: refusal.seq,
            })),
            // It is told again.
            Err(error) => tracing::warn!(
                region = self.board.names.region(peer),
                seq = refusal.seq.0,
                "a refused update could not be dealt with yet: {error}"
            ),
        }
    }

    fn dead_letters(&mut self) -> Result<(), DbError> {
        let count = self.database.rejected_count()?;
        let rows = match count {
            0 => Vec::new(),
            _ => self.database.rejected(LOOKED_AT)?,
        };
        let region = self.board.names.my_region();
        // An undo that was refused, here or at its origin: the regions differ.
        let undo = rows.iter().find(|row| row.update.undoes.is_some());
        let mut state = self.board.lock();
        state.rejected = count;
        match rows.first() {
            Some(first) => state.alarms.raise(
                name::REJECTED,
                "",
                format!(
                    "{count} updates were refused by this region's database for good; the oldest \
                     is from {}: {}",
                    first.stream, first.message
                ),
                &format!(
                    "prism rejected list --region {region} shows them; mend the rows and `prism \
                     rejected retry ID`, or `prism rejected drop ID`"
                ),
            ),
            None => state.alarms.clear(name::REJECTED, ""),
        }
        match undo {
            Some(row) => state.alarms.raise(
                name::UNDO_REFUSED,
                "",
                format!(
                    "update {} of {} was to be undone, and its undo was refused: {}",
                    row.update.undoes.unwrap_or_default().0,
                    row.stream,
                    row.message
                ),
                &format!(
                    "the regions differ in the rows of that update: compare and mend them, then \
                     prism rejected drop {} --region {region}",
                    row.id
                ),
            ),
            None => state.alarms.clear(name::UNDO_REFUSED, ""),
        }
        Ok(())
    }

    /// Regions that are away for too long are marked; the mark is taken back when the limit has been
    /// raised and nothing of what they need is gone.
    fn stale(&mut self) -> Result<(), DbError> {
        let names = Arc::clone(&self.board.names);
        for row in self.database.lanes()? {
            let Some(peer) = names.find(&row.peer) else {
                continue;
            };
            let why = self.too_far(&row);
            let back = row.stale && why.is_none() && self.database.lane_back(&row.peer)?;
            if why.is_some() && !row.stale {
                self.database.lane_stale(&row.peer)?;
            }
            let subject = lane_subject(names.region(peer));
            let mut state = self.board.lock();
            if why.is_some() || row.stale && !back {
                let why = why.unwrap_or_else(|| "it was away for too long".to_owned());
                let detail = format!(
                    "{} is stale: {why}. Nothing is delivered there any more, and what it misses \
                     may be deleted; the other regions and local commits go on",
                    row.peer
                );
                state
                    .alarms
                    .raise(name::STALE, &subject, detail, &adopt(&row.peer));
                self.stale.insert(peer);
            } else if self.stale.remove(&peer) {
                // Also when a sibling, or a rebuild, has taken the mark back.
                state.alarms.clear(name::STALE, &subject);
            }
        }
        Ok(())
    }

    /// Which limit a lane exceeds.
    fn too_far(&self, row: &LaneRow) -> Option<String> {
        let limits = &self.limits;
        let burst = row.waiting.is_some_and(|waiting| waiting < BURST);
        if row.backlog > limits.max_backlog && (row.stale || !burst) {
            return Some(format!(
                "{} wait for it, more than max_backlog ({})",
                show_size(row.backlog),
                show_size(limits.max_backlog)
            ));
        }
        let (max, waiting) = (limits.max_backlog_age?, row.waiting?);
        (waiting > max).then(|| {
            format!(
                "updates have waited for it for longer than max_backlog_age ({})",
                show_duration(max)
            )
        })
    }

    /// Whether a region has acknowledged updates whose refusals are still to be told, or may be:
    /// what is to be undone has to be in the outbox.
    fn unclean(&self) -> bool {
        let names = &self.board.names;
        let state = self.board.lock();
        state.rows.iter().filter(|row| !row.stale).any(|row| {
            let peer = names.find(&row.peer);
            peer.is_some_and(|peer| self.board.confirmed(&state, peer) < row.acked.seq)
        })
    }

    fn trim(&mut self) -> Result<(), DbError> {
        if self.unclean() && self.database.outbox_figures()?.bytes <= 2 * self.limits.max_backlog {
            return Ok(());
        }
        let start = Instant::now();
        let left = || start.elapsed() < TRIM_BUDGET;
        if self.trimmed.elapsed() >= TRIM {
            let retention = self.limits.retention;
            let spooled = self.board.lock().journal.entries;
            let forgets = forgets(spooled, self.away.elapsed());
            let mut more = true;
            while more && left() {
                let rows = self.database.outbox_trim(retention.max(KEEP), TRIM_ROWS)?;
                let requests = if forgets {
                    self.database
                        .request_trim(retention.max(KEEP_REQUESTS), TRIM_ROWS)?
                } else {
                    0
                };
                more = rows.max(requests) >= u64::from(TRIM_ROWS);
            }
            if !more {
                self.trimmed = Instant::now();
            }
            // Otherwise it goes on at the next tick.
        }
        // Only as much as is needed: a destination that is restored is refilled from the rest.
        while left() && self.database.outbox_figures()?.bytes > self.limits.max_backlog {
            if self.database.outbox_trim(KEEP_FULL, TRIM_ROWS)? == 0 {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_request_is_forgotten_that_a_journal_may_hold() {
        assert!(forgets(0, SETTLE));
        assert!(!forgets(1, SETTLE));
        // Away for longer than `retention`: all rows are old when it comes back.
        assert!(!forgets(0, Duration::from_secs(1)));
    }
}
