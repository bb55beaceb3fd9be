//! Which process a node is. A name belongs to one process; a copied data directory, or a service
//! that was started twice, makes two. The newer one has claimed the name in the region's database,
//! and the older one steps aside.

use prism_db::{Database, DbError};
use prism_proto::canary;

use super::alarms::name;
use super::threads::Whole;

/// See the module.
pub(super) struct Identity {
    /// Drawn at the start.
    incarnation: u64,
    /// Of the journal.
    journal: u64,
    claimed: bool,
    lost: bool,
}

impl Identity {
    pub(super) const fn new(incarnation: u64, journal: u64) -> Self {
        Self {
            incarnation,
            journal,
            claimed: false,
            lost: false,
        }
    }

    /// Another process has the name, and with it the leases.
    pub(super) const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Claims the name once, then keeps it; false if another process has claimed it since.
    pub(super) fn keep(
        &mut self,
        database: &mut dyn Database,
        whole: &Whole,
    ) -> Result<bool, DbError> {
        if self.lost {
            return Ok(false);
        }
        let node = whole.board.names.my_name();
        if !self.claimed {
            let before = database.node_claim(node, self.incarnation, self.journal)?;
            self.claimed = true;
            if let Some(before) = before {
                self.compare(node, before.journal, whole);
            }
        } else if !database.node_beat(node, self.incarnation)? && !canary!(TwinNotNoticed) {
            self.lost = true;
            whole.broken(
                name::IDENTITY,
                "",
                format!("another process serves as {node} now"),
                "stop one of the two, and give each node a name and a data directory of its own; \
                 this process accepts nothing any more. If there is no other one, the database was \
                 restored or replaced while this node ran: restart it, it then compares itself \
                 with every region",
            );
        }
        Ok(!self.lost)
    }

    /// What was in a journal that is gone had been acknowledged as spooled.
    fn compare(&self, node: &str, before: u64, whole: &Whole) {
        if before == self.journal {
            return;
        }
        whole.board.raise(
            name::JOURNAL_REPLACED,
            "",
            format!(
                "the journal of {node} is not the one that it had before (identity {before:016x}, \
                 now {:016x}): updates that were answered `spooled` and had not been run may be \
                 missing",
                self.journal
            ),
            "if the old data directory still exists, stop the node and start it with that one; \
             else ask the callers whose updates were spooled to submit them again with the same \
             request ids, then restart the node to clear this",
        );
    }
}
