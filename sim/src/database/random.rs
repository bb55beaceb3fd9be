//! Random numbers: of the seed inside of a simulation.

use prism_net::platform;

/// Never 0.
pub(super) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    loop {
        platform::fill(&mut bytes).expect("random numbers");
        match u64::from_le_bytes(bytes) {
            0 => {}
            n => return n,
        }
    }
}

/// A request's id.
pub(super) fn random_id() -> [u8; 16] {
    let mut bytes = [0; 16];
    platform::fill(&mut bytes).expect("random numbers");
    bytes
}
