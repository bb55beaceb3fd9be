//! Clock, threads, waiting and random numbers, as everything above the packet loop sees them.
//!
//! They are the operating system's. A simulation of whole clusters takes their place on the OS
//! thread on which it is [entered](enter): there every thread of every node is a task of its own, of
//! which one runs at a time, in virtual time, so that the same seed is the same run. Names and
//! shapes are those of `std`.

mod clock;
pub mod mpsc;
pub(crate) mod simulation;
mod sync;
mod thread;

pub use clock::{Instant, wall};
pub use simulation::{Entered, Key, Simulation, TaskId, enter, is_simulated};
pub use sync::{Condvar, Mutex, MutexGuard, WaitTimeoutResult};
pub use thread::{Panicked, Task, guarded, pause, sleep, spawn};

/// Random bytes from the operating system, for whatever must not repeat.
///
/// # Errors
/// The operating system has none.
pub fn fill(bytes: &mut [u8]) -> std::io::Result<()> {
    use ring::rand::SecureRandom as _;
    if simulation::with(|simulation| simulation.fill(bytes)).is_some() {
        return Ok(());
    }
    let random = ring::rand::SystemRandom::new();
    random
        .fill(bytes)
        .map_err(|_| std::io::Error::other("the operating system gives no random numbers"))
}
