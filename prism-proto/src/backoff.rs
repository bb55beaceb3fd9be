//! Exponential backoff with jitter.

use core::time::Duration;

/// The pause before attempt number `attempt` (0 is the first): `first` doubled each time, at most
/// `max`, shortened by `jitter`.
#[must_use]
pub fn next(attempt: u8, first: Duration, max: Duration, jitter: u8) -> Duration {
    let grown = first.saturating_mul(1u32 << attempt.min(20));
    shorten(grown.min(max), jitter)
}

/// Takes up to an eighth away. Downwards only, so that a limit on the sum of pauses holds.
#[must_use]
pub fn shorten(pause: Duration, jitter: u8) -> Duration {
    pause - pause / 8 * u32::from(jitter) / 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stays_within_its_bounds(attempt: u8, first in 1u64..10_000, max in 1u64..100_000, jitter: u8) {
            let (first, max) = (Duration::from_millis(first), Duration::from_millis(max));
            let full = next(attempt, first, max, 0);
            let got = next(attempt, first, max, jitter);
            prop_assert!(got <= full && full <= max);
            prop_assert!(got >= full - full / 8);
            prop_assert!(next(attempt.saturating_add(1), first, max, 0) >= full);
        }
    }
}
