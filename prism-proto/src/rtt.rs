//! Round-trip time estimator (RFC 9002 5).

use core::time::Duration;

/// RFC 9002 6.1.2: timers finer than this are not kept by ordinary hosts.
const GRANULARITY_US: u64 = 1_000;

/// Smoothed round-trip time of one link. Knows no clock: samples in, estimates out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rtt {
    sampled: bool,
    latest: u64,
    smoothed: u64,
    variance: u64,
    min: u64,
}

impl Rtt {
    /// Takes a sample; `ack_delay` is how long the peer says it held the acknowledgement back.
    pub fn update(&mut self, sample: Duration, ack_delay: Duration) {
        let sample = micros(sample).max(1);
        self.latest = sample;
        if !self.sampled {
            *self = Self {
                sampled: true,
                latest: sample,
                smoothed: sample,
                variance: sample / 2,
                min: sample,
            };
            return;
        }
        self.min = self.min.min(sample);
        // RFC 9002 5.3: the delay is subtracted only where that leaves a plausible sample.
        let delay = micros(ack_delay);
        let adjusted = if sample >= self.min.saturating_add(delay) {
            sample - delay
        } else {
            sample
        };
        self.variance = self.variance / 4 * 3
            + self.variance % 4 * 3 / 4
            + self.smoothed.abs_diff(adjusted) / 4;
        self.smoothed = self.smoothed / 8 * 7 + self.smoothed % 8 * 7 / 8 + adjusted / 8;
    }

    /// Smoothed estimate, once there is a sample.
    #[must_use]
    pub const fn smoothed(&self) -> Option<Duration> {
        if self.sampled {
            Some(Duration::from_micros(self.smoothed))
        } else {
            None
        }
    }

    /// RFC 9002 6.2.1, without the backoff: `smoothed + max(4 * variance, granularity) +
    /// max_ack_delay`.
    #[must_use]
    pub fn probe_timeout(&self, max_ack_delay: Duration) -> Option<Duration> {
        self.sampled.then(|| {
            let us = self
                .smoothed
                .saturating_add(self.variance.saturating_mul(4).max(GRANULARITY_US))
                .saturating_add(micros(max_ack_delay));
            Duration::from_micros(us)
        })
    }

    /// RFC 9002 6.1.2: 9/8 of the larger of smoothed and latest.
    #[must_use]
    pub fn loss_delay(&self) -> Duration {
        let base = self.smoothed.max(self.latest);
        Duration::from_micros(base.saturating_add(base / 8).max(GRANULARITY_US))
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros())
        .unwrap_or(u64::MAX / 16)
        .min(u64::MAX / 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn first_sample_sets_everything() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.smoothed(), None);
        rtt.update(Duration::from_millis(8), Duration::from_secs(1));
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(8)));
        assert_eq!(
            rtt.probe_timeout(Duration::from_millis(5)),
            Some(Duration::from_millis(8 + 16 + 5))
        );
    }

    proptest! {
        /// Against the formulae in floating point, for any sequence of samples.
        #[test]
        fn follows_the_formulae(samples in proptest::collection::vec((1u64..3_000_000, 0u64..50_000), 1..50)) {
            let mut rtt = Rtt::default();
            let (mut smoothed, mut var, mut min) = (0f64, 0f64, f64::MAX);
            for (i, (s, d)) in samples.iter().enumerate() {
                rtt.update(Duration::from_micros(*s), Duration::from_micros(*d));
                let (s, d) = (*s as f64, *d as f64);
                min = min.min(s);
                if i == 0 { smoothed = s; var = s / 2.0; } else {
                    let adjusted = if s >= min + d { s - d } else { s };
                    var = 0.75 * var + 0.25 * (smoothed - adjusted).abs();
                    smoothed = 0.875 * smoothed + 0.125 * adjusted;
                }
            }
            let got = rtt.smoothed().map_or(0.0, |d| d.as_micros() as f64);
            prop_assert!((got - smoothed).abs() <= 16.0, "{got} {smoothed}");
            let pto = rtt.probe_timeout(Duration::ZERO).map_or(0.0, |d| d.as_micros() as f64);
            prop_assert!((pto - (smoothed + (4.0 * var).max(1000.0))).abs() <= 96.0);
        }
    }
}
