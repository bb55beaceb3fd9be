//! Whether the own database still has what it had committed. It may have been put back while this
//! node runs: restored, or replaced by a standby that lacked the newest commits. Numbers would then
//! be given out a second time, and two histories of the stream would mix.
//!
//! What the node remembers is compared once a tick, before the journal is run, and with the numbers
//! of each commit: nothing is answered as committed, or handed to the lanes, that took a number
//! known to be taken.

use prism_db::{Committed, Database, DbError, RegionRow};
use prism_proto::{Position, Seq, Verdict, canary};

use super::alarms::name;
use super::board::position_words;
use super::threads::Whole;

/// What a caller is told.
pub(super) const GONE_BACK: &str = "the database of this region has gone back: it lacks updates \
    that it had committed, so this one is not taken for committed";

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct History(Whole);

/// How far the stream was known to be committed before something was begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before(Seq);

impl History {
    pub(super) const fn new(whole: Whole) -> Self {
        Self(whole)
    }

    /// To be asked before a transaction is begun whose numbers [`Self::follows`] looks at.
    pub(super) fn before(&self) -> Before {
        Before(self.0.board.lock().tail)
    }

    /// Whether the numbers that were taken since are new ones, as far as this node knows.
    pub(super) fn follows(&self, before: Before, committed: &[&Committed]) -> bool {
        let again = committed.iter().map(|c| c.seq).find(|seq| *seq <= before.0);
        if let Some(seq) = again {
            let (had, has) = (before.0, Seq(seq.0.saturating_sub(1)));
            self.gone_back(
                has,
                &format!(
                    "it had updates up to {}, and now gives out {} again",
                    had.0, seq.0
                ),
            );
        }
        !self.is_over()
    }

    /// The database has gone back: nothing of what this node does with it counts.
    pub(super) fn is_over(&self) -> bool {
        self.0.board.lock().gone_back
    }

    /// The own row, if the database has all that is known to have been committed.
    pub(super) fn check(&self, database: &mut dyn Database) -> Result<Option<RegionRow>, DbError> {
        // Before the row is read, so that it must have them.
        let (tail, newest) = {
            let state = self.0.board.lock();
            (state.tail, state.newest)
        };
        let region = database.region()?;
        let own = Position {
            epoch: region.epoch,
            seq: Seq(region.next_seq.0.saturating_sub(1)),
            tag: region.last_tag,
        };
        let lacks = match newest.filter(|newest| *newest != own) {
            Some(newest) => database.outbox_verify(newest)? == Verdict::Forked,
            None => false,
        };
        if lacks || own.seq < tail {
            let had = newest.filter(|newest| newest.seq >= tail);
            let had = had.map_or_else(|| format!("seq {}", tail.0), position_words);
            let how = format!("it had {had}, now it has {}", position_words(own));
            self.gone_back(own.seq, &how);
        }
        if self.is_over() {
            return Ok(None);
        }
        self.0.board.newest(own);
        Ok(Some(region))
    }

    /// `has`: up to here, or less, it is what it was.
    fn gone_back(&self, has: Seq, how: &str) {
        if canary!(HistoryNotLooked) {
            return;
        }
        let board = &self.0.board;
        let mut state = board.lock();
        state.gone_back = true;
        let ahead = board.names.peers().find(|peer| {
            state
                .acked
                .get(usize::from(peer.0))
                .is_some_and(|acked| *acked > has)
        });
        drop(state);
        let own = board.names.my_region();
        let way = ahead.map_or_else(
            || {
                // One that is restarted alone hears from the others what the database lacks.
                format!(
                    "no other region is known to have what is lost: stop all nodes of {own}, then \
                     start them again; they go on without it"
                )
            },
            |peer| {
                let peer = board.names.region(peer);
                format!(
                    "{peer} has what is lost: stop all nodes of {own}, rebuild its database (prism \
                     adopt {own} --from {peer}), start them again"
                )
            },
        );
        let remedy = format!(
            "if the database that has everything can be brought back, do that and restart this \
             region's nodes; else: {way}"
        );
        let why = format!("the database of this region has gone back: {how}");
        self.0.broken(name::FORK, "", why, &remedy);
    }
}
