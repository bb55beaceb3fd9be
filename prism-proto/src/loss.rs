//! Loss detection (RFC 9002 6.1): one packet, one verdict.

use core::time::Duration;

use crate::Instant;

/// RFC 9002 6.1.1: this many newer packets acknowledged mean "lost", fewer mean "reordered".
pub const PACKET_THRESHOLD: u64 = 3;

/// What becomes of an unacknowledged packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its content has to go again.
    Lost,
    /// It will count as lost then, if it is not acknowledged before.
    LostAt(Instant),
}

/// Judges packet `pn`, sent at `sent`, while `largest_acked` (newer than `pn`) is acknowledged.
#[must_use]
pub fn detect(
    pn: u64,
    sent: Instant,
    largest_acked: u64,
    loss_delay: Duration,
    now: Instant,
) -> Outcome {
    let deadline = sent.after(loss_delay);
    if largest_acked.saturating_sub(pn) >= PACKET_THRESHOLD || deadline <= now {
        Outcome::Lost
    } else {
        Outcome::LostAt(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_packets_or_by_time() {
        let at = Instant::from_micros;
        let d = Duration::from_micros(900);
        assert_eq!(detect(7, at(0), 10, d, at(1)), Outcome::Lost);
        assert_eq!(detect(8, at(0), 10, d, at(1)), Outcome::LostAt(at(900)));
        assert_eq!(detect(8, at(0), 10, d, at(900)), Outcome::Lost);
    }
}
