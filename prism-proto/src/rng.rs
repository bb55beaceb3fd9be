//! Seeded randomness: jitter and the incarnation number, nothing secret.

/// `SplitMix64`: one word of state, passes through every value once.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Rng {
    state: u64,
    step: u64,
}

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            state: seed,
            step: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// 0 for ever.
    pub(crate) const fn still() -> Self {
        Self { state: 0, step: 0 }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(self.step);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A share of a timeout, see [`shorten`](crate::backoff::shorten).
    pub(crate) fn jitter(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    /// A number that is never 0, because 0 means "unknown" on the wire.
    pub(crate) fn incarnation(&mut self) -> u32 {
        (self.next() >> 32) as u32 | 1
    }
}
