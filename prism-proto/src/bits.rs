//! A set of ring indices with a constant-time "first from here".

/// Most indices: 64 words under one word of summary.
pub(crate) const CAPACITY: usize = 64 * 64;

/// ```text
///   summary   bit w = words[w] is not empty
///   words     64 x 64 bits
/// ```
#[derive(Debug, Clone, Hash)]
pub(crate) struct Bits {
    summary: u64,
    words: [u64; 64],
}

impl Bits {
    pub(crate) const fn new() -> Self {
        Self {
            summary: 0,
            words: [0; 64],
        }
    }

    pub(crate) fn set(&mut self, i: usize) {
        self.words[i / 64] |= 1 << (i % 64);
        self.summary |= 1 << (i / 64);
    }

    pub(crate) fn clear(&mut self, i: usize) {
        self.words[i / 64] &= !(1 << (i % 64));
        if self.words[i / 64] == 0 {
            self.summary &= !(1 << (i / 64));
        }
    }

    pub(crate) fn clear_all(&mut self) {
        *self = Self::new();
    }

    #[cfg(test)]
    pub(crate) const fn contains(&self, i: usize) -> bool {
        self.words[i / 64] >> (i % 64) & 1 == 1
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.summary == 0
    }

    /// Lowest member that is not below `start`.
    fn first_from(&self, start: usize) -> Option<usize> {
        let word = start / 64;
        let here = self.words[word] & (u64::MAX << (start % 64));
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros() as usize);
        }
        let rest = if word == 63 {
            0
        } else {
            self.summary & (u64::MAX << (word + 1))
        };
        (rest != 0).then(|| {
            let word = rest.trailing_zeros() as usize;
            word * 64 + self.words[word].trailing_zeros() as usize
        })
    }

    /// First member at or after `start`, going round.
    pub(crate) fn first_around(&self, start: usize) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        self.first_from(start).or_else(|| self.first_from(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_set(ops in proptest::collection::vec((any::<bool>(), 0..CAPACITY, 0..CAPACITY), 0..200)) {
            let (mut bits, mut model) = (Bits::new(), BTreeSet::new());
            for (add, i, start) in ops {
                if add { bits.set(i); model.insert(i); } else { bits.clear(i); model.remove(&i); }
                prop_assert_eq!(bits.contains(i), model.contains(&i));
                let want = model.range(start..).next().or_else(|| model.iter().next()).copied();
                prop_assert_eq!(bits.first_around(start), want);
            }
        }
    }
}
