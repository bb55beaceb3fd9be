//! A machine's disk as a model: [`MemDisk`], which the tests of the journal use as well, with the
//! simulation's clock.
//!
//! A killed process leaves it as it is: what was written is in the page cache. A machine that loses
//! its power is [`MemDisk::power_off`], whereupon everything that is open fails, and then
//! [`MemDisk::power_cycle`]: what was not synced may be lost, torn by sectors or there although
//! something before it is not. [`MemDisk::wipe`] is a new disk, [`MemDisk::copy`] the disk of a cloned
//! machine. Single operations fail, or take their time, as [`Trouble`] says.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use prism_net::platform;

pub use prism_db::journal::memory::{Failure, MemDisk, Operation, Trouble};

/// An empty disk whose chances follow from the seed, with the wall clock of the machine on which it is
/// used.
#[must_use]
pub fn disk(seed: u64) -> MemDisk {
    let disk = MemDisk::new(seed);
    disk.set_clock(Arc::new(|| {
        let since = platform::wall().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
    }));
    disk
}
