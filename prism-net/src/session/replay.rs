//! Which counters of a session have been seen (RFC 6479).

/// Counters behind the newest one that are still told apart; older ones are refused.
pub(crate) const WINDOW: u64 = 8192;

/// One word more than the window needs: moving forward clears whole words, so the word under the
/// newest counter must not be shared with the oldest.
const WORDS: usize = WINDOW as usize / 64 + 1;

/// Accepts every counter at most once.
///
/// ```text
///   word (counter / 64) % WORDS        newest
///   |................|xx.xxxxx|xxxxxx..|        x seen   . not seen
///        too old      <---- WINDOW --->  ahead: accepted, moves the window
/// ```
#[derive(Debug, Clone)]
pub(crate) struct ReplayWindow {
    /// One above the newest counter; 0 before the first.
    next: u64,
    bits: [u64; WORDS],
}

impl ReplayWindow {
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            bits: [0; WORDS],
        }
    }

    /// Whether `counter` is newer than all before it (the sender's address follows it then).
    pub(crate) fn is_newest(&self, counter: u64) -> bool {
        counter >= self.next
    }

    /// Whether [`accept`](Self::accept) would be true; changes nothing.
    pub(crate) fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter != u64::MAX;
        }
        let word = self.bits[(counter / 64 % WORDS as u64) as usize];
        self.next - counter <= WINDOW && word & 1 << (counter % 64) == 0
    }

    /// Notes `counter`; false if it was seen before or is too old to tell. Call only for packets
    /// that are known to be authentic.
    #[must_use]
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        // The last counter has no successor; no session lives that long.
        let Some(next) = counter.checked_add(1) else {
            return false;
        };
        if next > self.next {
            if self.next == 0 {
                self.bits = [0; WORDS];
            } else {
                let newest = (self.next - 1) / 64;
                let steps = (counter / 64 - newest).min(WORDS as u64);
                for word in 1..=steps {
                    self.bits[((newest + word) % WORDS as u64) as usize] = 0;
                }
            }
            self.next = next;
        } else if self.next - counter > WINDOW {
            return false;
        }
        let word = &mut self.bits[(counter / 64 % WORDS as u64) as usize];
        let bit = 1 << (counter % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{ReplayWindow, WINDOW};

    /// What the window means, with unbounded memory.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> bool {
            let newest = self.seen.last().copied().unwrap_or(0);
            if counter == u64::MAX || newest.saturating_sub(counter) >= WINDOW {
                return false;
            }
            self.seen.insert(counter)
        }
    }

    fn counters() -> impl Strategy<Value = Vec<u64>> {
        // A walk: mostly small steps around the newest, sometimes far ahead or far back.
        let step = prop_oneof![
            8 => -70i64..=70,
            4 => -9000i64..=9000,
            2 => Just(1 - WINDOW as i64),
            2 => Just(-(WINDOW as i64)),
            1 => 0i64..=2_000_000,
        ];
        (
            prop_oneof![Just(0u64), Just(u64::MAX - 20_000), any::<u64>()],
            proptest::collection::vec(step, 1..200),
        )
            .prop_map(|(start, steps)| {
                let mut newest = start;
                steps
                    .into_iter()
                    .map(|step| {
                        let counter = newest.saturating_add_signed(step);
                        newest = newest.max(counter);
                        counter
                    })
                    .collect()
            })
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(counters in counters()) {
            let (mut window, mut model) = (ReplayWindow::new(), Model::default());
            for counter in counters {
                let fresh = window.is_fresh(counter);
                prop_assert_eq!(fresh, model.accept(counter), "{}", counter);
                prop_assert_eq!(window.accept(counter), fresh, "{}", counter);
            }
        }
    }

    #[test]
    fn the_edges_of_the_window() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(WINDOW));
        assert!(!window.accept(0), "one too old");
        assert!(window.accept(1), "the oldest that is told apart");
        assert!(!window.accept(1));
        assert!(!window.accept(u64::MAX));
        assert!(window.accept(u64::MAX - 1));
        assert!(!window.accept(WINDOW));
    }
}
