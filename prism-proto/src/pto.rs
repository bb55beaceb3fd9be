//! Probe timeout (RFC 9002 6.2.1) and with it the retransmit schedule.

use core::time::Duration;

use crate::{Retry, backoff, rtt::Rtt};

/// How long to wait for an answer when `unanswered` probes have gone unanswered already.
///
/// Without a sample the schedule starts at [`Retry::initial`]. With one it starts at the RFC's
/// timeout, but never below [`Retry::min`]. It doubles up to [`Retry::max`], unless the path itself
/// is slower than that. Jitter shortens the pauses, but none below the RFC's timeout: on a long and
/// steady path that is hardly more than the answer takes, and a probe before it is a retransmission
/// of what has arrived.
#[must_use]
pub fn timeout(
    rtt: &Rtt,
    unanswered: u8,
    retry: &Retry,
    max_ack_delay: Duration,
    jitter: u8,
) -> Duration {
    let (first, floor) = match rtt.probe_timeout(max_ack_delay) {
        Some(base) => (base.max(retry.min), base.max(retry.min)),
        None => (retry.initial, Duration::ZERO),
    };
    backoff::next(unanswered, first, retry.max.max(first), jitter).max(floor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn total(rtt: &Rtt, jitter: u8) -> Duration {
        let retry = Retry::default();
        (0..=retry.max_retries)
            .map(|n| timeout(rtt, n, &retry, Duration::from_millis(5), jitter))
            .sum()
    }

    #[test]
    fn the_default_schedule_ends_in_time() {
        let mut rtt = Rtt::default();
        assert_eq!(total(&rtt, 0), Duration::from_millis(3800));
        rtt.update(Duration::from_millis(1), Duration::ZERO);
        assert!(total(&rtt, 0) <= Duration::from_millis(1500));
    }

    proptest! {
        #[test]
        fn jitter_never_lengthens(samples in proptest::collection::vec(1u64..2_000_000, 0..5), n in 0u8..10, jitter: u8) {
            let mut rtt = Rtt::default();
            for s in samples { rtt.update(Duration::from_micros(s), Duration::ZERO); }
            let retry = Retry::default();
            let full = timeout(&rtt, n, &retry, Duration::from_millis(5), 0);
            let got = timeout(&rtt, n, &retry, Duration::from_millis(5), jitter);
            prop_assert!(got <= full && got >= retry.min.min(full));
            // Nor does a probe go before the answer can be there.
            let base = rtt.probe_timeout(Duration::from_millis(5));
            prop_assert!(base.is_none_or(|base| got >= base));
        }
    }
}
