//! What takes the operating system's place.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// What a task waits for: the address of what it waits at.
pub type Key = usize;

/// A task of the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub u64);

/// The surroundings of all tasks on this OS thread. Every call comes from a task that runs (or, for
/// those that do not wait, from whoever runs the simulation).
pub trait Simulation {
    /// The monotonic clock of the machine that the calling task runs on.
    fn now(&self) -> Duration;
    /// Its wall clock.
    fn wall(&self) -> SystemTime;
    /// Random bytes, of the seed.
    fn fill(&self, bytes: &mut [u8]);
    /// Stands for X25519, which would take most of a simulation's time: the public key.
    fn public_key(&self, private: &[u8; 32]) -> [u8; 32];
    /// The same: what two who know each other's public keys agree on.
    fn agree(&self, private: &[u8; 32], public: &[u8; 32]) -> [u8; 32];
    /// A new task on the same machine.
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> TaskId;
    /// Whether it has ended.
    fn is_finished(&self, task: TaskId) -> bool;
    /// The calling task stops until [`wake`](Self::wake) with this key, or until its machine's clock
    /// says `until`; false: its time has come. A task that is being taken down does not stop.
    fn park(&self, key: Key, until: Option<Duration>) -> bool;
    /// Tasks that are parked with this key may run: all, or the one that has waited longest.
    fn wake(&self, key: Key, all: bool);
    /// Other tasks may run before the caller goes on.
    fn pause(&self);
    /// Whether the calling task is being taken down (its machine has crashed): it unwinds, and
    /// nobody may keep it from that.
    fn is_unwinding(&self) -> bool;
}

thread_local! {
    static SIMULATED: Cell<bool> = const { Cell::new(false) };
    static CURRENT: RefCell<Option<Rc<dyn Simulation>>> = const { RefCell::new(None) };
}

/// As long as it lives, the simulation is what tasks on this OS thread see.
#[derive(Debug)]
#[must_use]
pub struct Entered(std::marker::PhantomData<*const ()>);

/// From now on `simulation` takes the operating system's place on this OS thread.
///
/// # Panics
/// If there is one already: they cannot be nested.
pub fn enter(simulation: Rc<dyn Simulation>) -> Entered {
    CURRENT.with_borrow_mut(|current| {
        assert!(current.is_none(), "a simulation within a simulation");
        *current = Some(simulation);
    });
    SIMULATED.set(true);
    Entered(std::marker::PhantomData)
}

impl Drop for Entered {
    fn drop(&mut self) {
        SIMULATED.set(false);
        drop(CURRENT.take());
    }
}

/// Whether this OS thread is inside of a simulation.
#[must_use]
pub fn is_simulated() -> bool {
    SIMULATED.get()
}

/// The simulation, if there is one. It is not borrowed meanwhile: another task may call as well.
pub(crate) fn with<R>(f: impl FnOnce(&dyn Simulation) -> R) -> Option<R> {
    if !SIMULATED.get() {
        return None;
    }
    let simulation = CURRENT.with_borrow(Clone::clone)?;
    Some(f(simulation.as_ref()))
}
