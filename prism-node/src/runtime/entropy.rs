//! Numbers that must not repeat.

use std::time::UNIX_EPOCH;

use prism_net::platform;

/// A different number every time.
///
/// # Panics
/// Without random numbers from the operating system no node runs: its sessions need them as well.
pub(super) fn number() -> u64 {
    u64::from_le_bytes(bytes())
}

/// An id for a request that needs another one than its caller's (as
/// [`prism_db::new_request_id`]).
pub(super) fn request_id() -> [u8; 16] {
    let since = platform::wall().duration_since(UNIX_EPOCH);
    let millis = since.map_or(0, |since| since.as_millis() as u64);
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &bytes());
    id.into_uuid().into_bytes()
}

fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    platform::fill(&mut bytes).expect("random numbers from the operating system");
    bytes
}
