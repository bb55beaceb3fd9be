//! A token bucket that spreads a window over a round trip (RFC 9002 7.7).

use core::time::Duration;

use crate::Instant;

/// A burst may be as long as what the path carries in this time: finer timers cost more than they
/// bring, and ordinary hosts do not have them.
const BURST: Duration = Duration::from_millis(2);
/// RFC 9002 7.7: ten datagrams at once harm nobody; sixteen fill one system call.
const MIN_DATAGRAMS: u64 = 16;
/// Slightly faster than the window, so that pacing alone never holds the rate down.
const GAIN: (u64, u64) = (5, 4);

/// Tokens are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Pacer {
    tokens: u64,
    at: Option<Instant>,
}

impl Pacer {
    /// `None`: a datagram of `mtu` bytes may go now; otherwise when to ask again.
    pub fn check(&mut self, now: Instant, window: u32, rtt: Duration, mtu: u16) -> Option<Instant> {
        let window = u64::from(window).max(1);
        let rtt = u64::try_from(rtt.as_micros())
            .unwrap_or(u64::MAX)
            .clamp(1, 60_000_000);
        let mtu = u64::from(mtu).max(1);
        let burst = u64::try_from(BURST.as_micros()).unwrap_or(u64::MAX);
        let capacity = (window * burst / rtt)
            .max(MIN_DATAGRAMS * mtu)
            .min(window.max(mtu));
        match self.at {
            None => self.tokens = capacity,
            Some(at) => {
                let us = u64::try_from(now.since(at).as_micros())
                    .unwrap_or(u64::MAX)
                    .min(rtt);
                let earned = window * GAIN.0 * us / (rtt * GAIN.1);
                if earned == 0 && self.tokens < mtu {
                    return Some(at.after(Duration::from_micros(wait(
                        mtu - self.tokens,
                        window,
                        rtt,
                    ))));
                }
                self.tokens = (self.tokens + earned).min(capacity);
            }
        }
        self.at = Some(now);
        (self.tokens < mtu)
            .then(|| now.after(Duration::from_micros(wait(mtu - self.tokens, window, rtt))))
    }

    pub(crate) const fn instant(&mut self) -> &mut Option<Instant> {
        &mut self.at
    }

    /// Takes the bytes of a datagram that was sent (a probe may overdraw).
    pub fn spend(&mut self, bytes: usize) {
        self.tokens = self.tokens.saturating_sub(bytes as u64);
    }
}

/// Microseconds until `missing` bytes are earned.
fn wait(missing: u64, window: u64, rtt: u64) -> u64 {
    (missing * rtt * GAIN.1).div_ceil(window * GAIN.0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Over a long run the rate is 5/4 window per round trip, whatever the polling pattern,
        /// and one instant never passes more than the burst.
        #[test]
        fn holds_the_rate(window in 20_000u32..1_000_000, rtt in 1_000u64..200_000, steps in proptest::collection::vec(1u64..3000, 1..200)) {
            let mut pacer = Pacer::default();
            let rtt = Duration::from_micros(rtt);
            let (mut t, mut sent) = (0u64, 0u64);
            for step in steps {
                t += step;
                let now = Instant::from_micros(t);
                loop {
                    match pacer.check(now, window, rtt, 1200) {
                        None => { pacer.spend(1200); sent += 1200; }
                        Some(at) => { prop_assert!(at > now); break; }
                    }
                }
            }
            let us = rtt.as_micros() as u64;
            let burst = (u64::from(window) * 2000 / us).max(16 * 1200);
            let allowed = burst + u64::from(window) * 5 * t / (us * 4) + 1200;
            prop_assert!(sent <= allowed, "{sent} > {allowed}");
        }
    }
}
