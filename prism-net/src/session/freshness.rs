//! Which process of a node a handshake is from, and whether it is a new one.
//!
//! Every start of a node has a greater boot number than all before it, every handshake of a
//! process a greater number than its last. Both only grow here, so a recorded handshake is worth
//! nothing once a newer one has been seen, and no clock is needed. After a restart of *this* node
//! the memory is empty; a recorded handshake then gets an answer, but whoever repeats it cannot
//! use the session.

/// The newest handshake of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    boot: u64,
    incarnation: u64,
    n: u64,
}

/// Why a handshake is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Old {
    /// Of this process, but not newer than one seen before.
    Repeated,
    /// Of an earlier process, or of a second one at the same time.
    Stale,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    newest: Option<Seen>,
    /// Incarnation of the process with which a handshake was last completed. A first message alone
    /// may be an old one.
    proven: Option<u64>,
    /// Of the process before, if it was proven: greatest number seen, and how often it has grown
    /// since.
    before: Option<(Seen, u32)>,
    pub stale: u64,
    pub twin: u64,
}

impl Freshness {
    /// Judges an authentic handshake. `n` is `None` for a response, which is new by itself: it
    /// answers what this node has just made up. `alive`: there is a session that is in use.
    pub(super) fn judge(
        &mut self,
        (boot, incarnation): (u64, u64),
        n: Option<u64>,
        alive: bool,
    ) -> Result<(), Old> {
        let this = Seen {
            boot,
            incarnation,
            n: n.unwrap_or(0),
        };
        let Some(newest) = &mut self.newest else {
            self.newest = Some(this);
            return Ok(());
        };
        if boot > newest.boot {
            if self.proven == Some(newest.incarnation) {
                self.before = Some((*newest, 0));
            }
            *newest = this;
            return Ok(());
        }
        if boot < newest.boot {
            self.stale += 1;
            self.twin += u64::from(self.is_competing(this, n.is_none() && alive));
            return Err(Old::Stale);
        }
        if incarnation != newest.incarnation {
            // One boot number, two processes: a copy of the data directory.
            self.twin += 1;
            if alive {
                return Err(Old::Stale);
            }
            *newest = this;
            return Ok(());
        }
        match n {
            Some(n) if n <= newest.n => Err(Old::Repeated),
            Some(n) => {
                newest.n = n;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A handshake with this process is complete: it lives now.
    pub(super) fn prove(&mut self, incarnation: u64) {
        self.proven = Some(incarnation);
    }

    /// What was proven with a key that is void now counts no more: whoever had stolen it may have
    /// called with the last of all boot numbers. The figures stay.
    pub(super) fn forget(&mut self) {
        *self = Self {
            stale: self.stale,
            twin: self.twin,
            ..Self::default()
        };
    }

    /// Whether the process before still makes new handshakes, although its successor runs.
    fn is_competing(&mut self, this: Seen, answers: bool) -> bool {
        if answers {
            return true;
        }
        match &mut self.before {
            Some((before, grown))
                if (before.boot, before.incarnation) == (this.boot, this.incarnation)
                    && this.n > before.n =>
            {
                before.n = this.n;
                *grown += 1;
                // One may have been under way when the successor was started.
                *grown > 1
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_newer_handshakes_are_taken() {
        let mut seen = Freshness::default();
        assert_eq!(seen.judge((5, 1), Some(3), false), Ok(()));
        for n in [1, 2, 3] {
            assert_eq!(seen.judge((5, 1), Some(n), true), Err(Old::Repeated));
        }
        assert_eq!(seen.judge((5, 1), Some(4), true), Ok(()));
        assert_eq!(seen.judge((6, 2), Some(1), true), Ok(()), "restarted");
        assert_eq!(
            seen.judge((5, 1), Some(4), true),
            Err(Old::Stale),
            "repeated"
        );
        assert_eq!((seen.stale, seen.twin), (1, 0));
        assert_eq!(seen.judge((u64::MAX, 3), Some(u64::MAX), true), Ok(()));
        assert_eq!(
            seen.judge((u64::MAX, 3), Some(u64::MAX), true),
            Err(Old::Repeated)
        );
    }

    #[test]
    fn two_processes_with_one_boot_number_are_told_from_a_restart() {
        let mut seen = Freshness::default();
        assert_eq!(seen.judge((5, 1), Some(1), false), Ok(()));
        assert_eq!(seen.judge((5, 2), Some(1), true), Err(Old::Stale));
        assert_eq!(
            seen.judge((5, 1), Some(2), true),
            Ok(()),
            "the first goes on"
        );
        assert_eq!((seen.stale, seen.twin), (0, 1));
        assert_eq!(seen.judge((5, 2), Some(2), false), Ok(()), "it is gone");
    }

    #[test]
    fn a_predecessor_that_goes_on_is_a_twin() {
        let mut seen = Freshness::default();
        for process in [(5, 1), (6, 2)] {
            assert_eq!(seen.judge(process, Some(1), true), Ok(()));
            seen.prove(process.1);
        }
        assert_eq!(seen.judge((5, 1), Some(2), true), Err(Old::Stale));
        assert_eq!(seen.twin, 0, "it may have been under way");
        for _ in 0..3 {
            assert_eq!(seen.judge((5, 1), Some(3), true), Err(Old::Stale));
            assert_eq!(seen.twin, 1, "the same one again says nothing new");
        }
        assert_eq!(seen.judge((5, 1), None, true), Err(Old::Stale));
        assert_eq!((seen.stale, seen.twin), (5, 2), "it even answers");
    }
}
