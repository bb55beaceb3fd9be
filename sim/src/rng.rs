//! Chance, from the seed: xoshiro256++ (Blackman, Vigna), one generator for each purpose, so that a
//! draw more in one of them changes nothing in the others.

use std::ops::Range;
use std::time::Duration;

/// A source of chance.
#[derive(Debug, Clone)]
pub struct Rng([u64; 4]);

/// One step of splitmix64.
pub(crate) const fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Rng {
    /// For one purpose of a run.
    #[must_use]
    pub fn new(seed: u64, purpose: &str) -> Self {
        let start = purpose
            .bytes()
            .fold(mix(seed), |hash, byte| mix(hash ^ u64::from(byte)));
        let mut state = [0; 4];
        let mut word = start;
        for slot in &mut state {
            word = mix(word);
            *slot = word;
        }
        Self(state)
    }

    /// 64 random bits.
    pub fn number(&mut self) -> u64 {
        let [a, b, c, d] = self.0;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.0 = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(end)) >> 64) as u64
    }

    /// Of a range that is not empty.
    pub fn of(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// An index into something of this length, which is not 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True in so many of a thousand cases.
    pub fn permille(&mut self, rate: u32) -> bool {
        rate > 0 && self.below(1000) < u64::from(rate)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }

    /// A time within the range.
    pub fn time(&mut self, range: Range<Duration>) -> Duration {
        let micros = |time: Duration| time.as_micros() as u64;
        Duration::from_micros(self.of(micros(range.start)..micros(range.end).max(1)))
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.number().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_lie_where_they_should_and_differ() {
        let mut one = Rng::new(1, "a");
        let mut other = Rng::new(1, "b");
        assert_ne!(one.number(), other.number());
        let drawn: Vec<u64> = (0..1000).map(|_| one.of(5..9)).collect();
        for n in 5..9 {
            assert!(drawn.contains(&n));
        }
        assert!(drawn.iter().all(|n| (5..9).contains(n)));
        let hits = (0..10_000).filter(|_| one.permille(250)).count();
        assert!((2200..2800).contains(&hits), "{hits}");
    }
}
