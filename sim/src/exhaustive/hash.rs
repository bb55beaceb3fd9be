//! 128 bits that stand for a state.

use std::hash::{Hash, Hasher};

/// Two multiply-and-fold hashes with different constants. Among 10^8 states, two different ones
/// share a number with a probability of about 10^-23.
#[derive(Debug, Clone)]
pub struct Wide(u64, u64);

impl Wide {
    /// Of a value.
    pub fn of(value: &impl Hash) -> u128 {
        let mut wide = Self::new();
        value.hash(&mut wide);
        wide.number()
    }

    /// Of nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344)
    }

    /// All 128 bits.
    #[must_use]
    pub const fn number(&self) -> u128 {
        (self.0 as u128) << 64 | self.1 as u128
    }
}

impl Default for Wide {
    fn default() -> Self {
        Self::new()
    }
}

const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

impl Hasher for Wide {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 60);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word, 0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ 0xa409_3822_299f_31d0;
        self.1 = fold(self.1.rotate_left(29) ^ word, 0xd6e8_feb8_6659_fd93) ^ 0x082e_fa98_ec4e_6c89;
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

/// For maps whose keys are such numbers already.
#[derive(Debug, Clone, Copy, Default)]
pub struct Low(u64);

impl Hasher for Low {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = fold(self.0 ^ u64::from_le_bytes(word), 0x9e37_79b9_7f4a_7c15);
        }
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64 ^ (number >> 64) as u64;
    }
}

/// See [`Low`].
pub type BuildLow = std::hash::BuildHasherDefault<Low>;
