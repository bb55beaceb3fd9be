//! An orderly end: refuse, deliver, hand over, stop.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prism_net::Command;
use prism_net::platform::Instant;

use super::Runtime;
use super::keeper::KeeperJob;
use super::leases::LeaseJob;
use super::outbox::OutboxJob;

/// Workers that are done need no more than this to leave; one that hangs is left behind.
const LEAVE: Duration = Duration::from_secs(2);

/// What was left when the node stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainReport {
    /// Peer regions with the number of updates that they do not have yet. They are in the
    /// database: a sibling, or this node when it runs again, delivers them.
    pub remaining: Vec<(String, u64)>,
    /// Callers' updates that got no answer.
    pub unanswered: usize,
    /// Updates in the journal. They are on this node's disk: this node runs them when it is
    /// started again.
    pub spooled: u64,
}

impl DrainReport {
    /// Whether everything was delivered.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.remaining.is_empty() && self.unanswered == 0 && self.spooled == 0
    }
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.complete() {
            return f.write_str("everything is delivered");
        }
        for (i, (region, updates)) in self.remaining.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{updates} updates remain for {region}")?;
        }
        if self.unanswered > 0 {
            write!(f, "; {} submitted updates got no answer", self.unanswered)?;
        }
        if self.spooled > 0 {
            write!(
                f,
                "; {} updates wait in this node's journal and run when it is started again",
                self.spooled
            )?;
        }
        f.write_str("; what is committed is stored and goes on with the next start or a sibling")
    }
}

impl Runtime {
    /// Refuses new updates, waits until every lane of this node is acknowledged or the limit
    /// passes, gives the leases back and stops the loop.
    #[must_use]
    pub fn drain(self, limit: Duration) -> DrainReport {
        let deadline = Instant::now() + limit;
        let mut state = self.board.lock();
        state.draining = true;
        // Time remains to undo what is not confirmed by then, and to deliver that.
        state.drain_by = Some(Instant::now() + limit / 2);
        drop(state);
        self.queue.close();
        self.threads.finished("submit", deadline);
        let unanswered = self.queue.len();
        // The journal first: it empties as long as the database answers.
        self.board.wait_until(deadline, |state| {
            (state.journal.entries == 0 || state.unready.is_some()) && !self.board.delivering(state)
        });
        self.stop.store(true, Ordering::Relaxed);
        let spooled = self.spool.entries();
        let remaining = self.board.remaining(&self.board.lock());
        let _ = self.outbox.try_send(OutboxJob::Stop);
        let leave = Instant::now() + LEAVE;
        // What is acknowledged is written by whoever holds the lane.
        self.threads.finished("outbox", leave);
        let _ = self.leases.try_send(LeaseJob::Stop);
        let _ = self.keeper.try_send(KeeperJob::Stop);
        if !self.threads.finished("leases", leave) {
            tracing::warn!("the database does not answer: the leases will expire by themselves");
        }
        self.handle.send(Command::Stop);
        self.threads.finished("", Instant::now() + LEAVE);
        DrainReport {
            remaining,
            unanswered,
            spooled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_remains() {
        let mut report = DrainReport {
            remaining: vec![],
            unanswered: 0,
            spooled: 0,
        };
        assert_eq!(report.to_string(), "everything is delivered");
        report.remaining = vec![("EU".into(), 3), ("AS".into(), 1)];
        assert!(
            report
                .to_string()
                .starts_with("3 updates remain for EU, 1 updates remain for AS")
        );
    }
}
