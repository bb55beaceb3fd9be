//! When to acknowledge (RFC 9000 13.2.1).

use core::time::Duration;

use crate::Instant;

/// Every second datagram that wants an answer is answered at once.
const EVERY: u8 = 2;

/// When the acknowledgement should go.
///
/// `waiting` datagrams that want an answer have none yet; `prompt`: the newest one shows a gap or
/// reordering, or asks for haste.
#[must_use]
pub fn due(waiting: u8, prompt: bool, now: Instant, max_ack_delay: Duration) -> Instant {
    if prompt || waiting >= EVERY {
        now
    } else {
        now.after(max_ack_delay)
    }
}
