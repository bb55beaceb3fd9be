//! The simulated network: each direction between two nodes is a link of its own.

/// 100 Mbit/s: nanoseconds for a byte.
const NS_PER_BYTE: u64 = 80;
/// IPv4 and UDP.
const HEADERS: u64 = 28;
/// What waits in front of the link; more is dropped, as a router does.
const QUEUE: u64 = 512 << 10;

/// Bytes per second.
pub const RATE: u64 = 1_000_000_000 / NS_PER_BYTE;

/// Seeded chance (SplitMix64).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The same seed, the same sequence.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// True in `percent` of 100 cases.
    pub const fn hits(&mut self, percent: u64) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // (the multiplication spreads 100 evenly enough over 2^64)
        ((z as u128 * 100) >> 64) < percent as u128
    }
}

/// One direction.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// When its last byte has left, in nanoseconds.
    free: u64,
}

impl Link {
    /// When a datagram of `len` bytes that is sent `now` (microseconds) arrives, `delay` later; `None`:
    /// the queue is full.
    pub fn send(&mut self, now: u64, len: usize, delay: u64) -> Option<u64> {
        let start = self.free.max(now * 1000);
        if start - now * 1000 > QUEUE * NS_PER_BYTE {
            return None;
        }
        self.free = start + (len as u64 + HEADERS) * NS_PER_BYTE;
        Some(self.free.div_ceil(1000) + delay)
    }
}
