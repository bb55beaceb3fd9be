//! Time.

use std::ops::{Add, AddAssign, Sub};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use super::simulation::with;

/// A moment of the monotonic clock, as [`std::time::Instant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

/// Instants of this process are counted from here, less a lifetime, so that one may look back.
const HEAD_START: Duration = Duration::from_secs(1 << 32);

fn since_start() -> Duration {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

impl Instant {
    /// The present.
    #[must_use]
    pub fn now() -> Self {
        let now = with(|simulation| simulation.now()).unwrap_or_else(since_start);
        Self(HEAD_START.saturating_add(now))
    }

    /// How long ago it was; zero if it is to come.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Self::now().saturating_duration_since(*self)
    }

    /// From `earlier` to this; zero if it is not earlier.
    #[must_use]
    pub fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// From `earlier` to this; zero if it is not earlier.
    #[must_use]
    pub fn duration_since(&self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }

    /// So much before, if clocks know that.
    #[must_use]
    pub fn checked_sub(&self, time: Duration) -> Option<Self> {
        self.0.checked_sub(time).map(Self)
    }

    /// So much later, if clocks know that.
    #[must_use]
    pub fn checked_add(&self, time: Duration) -> Option<Self> {
        self.0.checked_add(time).map(Self)
    }

    /// As the simulation counts.
    pub(super) fn to_simulated(self) -> Duration {
        self.0.saturating_sub(HEAD_START)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// The wall clock: it may jump.
#[must_use]
pub fn wall() -> SystemTime {
    with(|simulation| simulation.wall()).unwrap_or_else(SystemTime::now)
}
