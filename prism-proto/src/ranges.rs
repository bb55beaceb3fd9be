//! Packet numbers received on a link: what an ACK reports.

use heapless::Vec;

/// Most ranges kept and reported. At 30 % loss they cover the last 70 packets, each of which has
/// been reported some 20 times before it falls out.
pub(crate) const MAX_RANGES: usize = 16;

/// An inclusive range of packet numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// What inserting a number found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// The successor of the largest.
    InOrder,
    /// New, but leaves or fills a gap.
    OutOfOrder,
    /// Seen before, or so old that nothing is known of it.
    Duplicate,
}

/// Newest range first.
#[derive(Debug, Clone, Hash, Default)]
pub(crate) struct Ranges {
    list: Vec<Range, MAX_RANGES>,
    /// Numbers up to this one have fallen out of the list.
    forgotten: Option<u64>,
}

impl Ranges {
    pub(crate) const fn new() -> Self {
        Self {
            list: Vec::new(),
            forgotten: None,
        }
    }

    pub(crate) fn as_slice(&self) -> &[Range] {
        &self.list
    }

    pub(crate) fn largest(&self) -> Option<u64> {
        self.list.first().map(|r| r.end)
    }

    /// Whether `pn` is known (or too old to be known).
    pub(crate) fn contains(&self, pn: u64) -> bool {
        self.forgotten.is_some_and(|f| pn <= f)
            || self
                .list
                .iter()
                .find(|r| pn >= r.start)
                .is_some_and(|r| pn <= r.end)
    }

    pub(crate) fn insert(&mut self, pn: u64) -> Inserted {
        if self.contains(pn) {
            return Inserted::Duplicate;
        }
        if let Some(newest) = self.list.first_mut()
            && newest.end.checked_add(1) == Some(pn)
        {
            newest.end = pn;
            return Inserted::InOrder;
        }
        let first = self.list.is_empty();
        // The place before the first range that lies below.
        let at = self
            .list
            .iter()
            .position(|r| r.end < pn)
            .unwrap_or(self.list.len());
        let joins_below = self.list.get(at).is_some_and(|r| r.end + 1 == pn);
        let joins_above = at > 0 && self.list[at - 1].start == pn + 1;
        match (joins_below, joins_above) {
            (true, true) => {
                self.list[at - 1].start = self.list[at].start;
                self.list.remove(at);
            }
            (true, false) => self.list[at].end = pn,
            (false, true) => self.list[at - 1].start = pn,
            (false, false) => {
                if self.list.is_full() {
                    if at == self.list.len() {
                        self.forgotten = self.forgotten.max(Some(pn));
                        return Inserted::OutOfOrder;
                    }
                    if let Some(oldest) = self.list.pop() {
                        self.forgotten = self.forgotten.max(Some(oldest.end));
                    }
                }
                let _fits = self.list.insert(at, Range { start: pn, end: pn });
            }
        }
        if first {
            Inserted::InOrder
        } else {
            Inserted::OutOfOrder
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::BTreeSet, vec::Vec};

    proptest! {
        #[test]
        fn reports_what_was_received(pns in proptest::collection::vec(0u64..80, 0..200)) {
            let (mut ranges, mut model) = (Ranges::new(), BTreeSet::new());
            for pn in pns {
                let inserted = ranges.insert(pn);
                let forgotten = ranges.forgotten;
                if forgotten.is_none_or(|f| pn > f) {
                    prop_assert_eq!(inserted == Inserted::Duplicate, !model.insert(pn));
                }
                // Everything reported was received, newest first, with gaps between the ranges.
                let listed: Vec<u64> = ranges.as_slice().iter().flat_map(|r| (r.start..=r.end).rev()).collect();
                prop_assert!(listed.windows(2).all(|w| w[0] > w[1]));
                prop_assert!(ranges.as_slice().windows(2).all(|w| w[0].start > w[1].end + 1));
                prop_assert!(listed.iter().all(|pn| model.contains(pn)));
                // And everything received above what was forgotten is reported.
                for pn in model.iter().filter(|pn| forgotten.is_none_or(|f| **pn > f)) {
                    prop_assert!(listed.contains(pn));
                }
            }
        }
    }
}
