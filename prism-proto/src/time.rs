//! Time as an argument: the core never asks a clock.

use core::fmt;
use core::num::NonZeroU64;
use core::time::Duration;

/// A point in monotonic time, microseconds since an arbitrary start chosen by the caller.
///
/// The niche makes `Option<Instant>` as small as the instant itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZeroU64);

impl Instant {
    /// `us` microseconds after the start.
    #[must_use]
    pub const fn from_micros(us: u64) -> Self {
        match NonZeroU64::new(us.saturating_add(1)) {
            Some(n) => Self(n),
            None => Self(NonZeroU64::MAX),
        }
    }

    /// Microseconds since the start.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0.get() - 1
    }

    /// This instant moved later; saturates.
    #[must_use]
    pub const fn after(self, d: Duration) -> Self {
        let us = d.as_micros();
        let us = if us > u64::MAX as u128 {
            u64::MAX
        } else {
            us as u64
        };
        Self::from_micros(self.as_micros().saturating_add(us))
    }

    /// As it would read if it were `now` in the middle of all time.
    pub(crate) const fn seen_from(self, now: Self) -> Self {
        let us = self.as_micros().wrapping_sub(now.as_micros());
        Self::from_micros(us.wrapping_add(1 << 63))
    }

    /// Time since `earlier`; zero if `earlier` lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.as_micros().saturating_sub(earlier.as_micros()))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.as_micros();
        let s = us / 1_000_000;
        write!(
            f,
            "{}:{:02}:{:02}.{:06}",
            s / 3600,
            s / 60 % 60,
            s % 60,
            us % 1_000_000
        )
    }
}
