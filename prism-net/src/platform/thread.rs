//! Threads.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use super::simulation::{Key, TaskId, with};

/// A thread that was started.
#[derive(Debug)]
pub struct Task(Kind);

#[derive(Debug)]
enum Kind {
    Real(std::thread::JoinHandle<()>),
    Simulated(TaskId),
}

impl Task {
    /// Whether it has come to its end.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match &self.0 {
            Kind::Real(thread) => thread.is_finished(),
            Kind::Simulated(task) => {
                with(|simulation| simulation.is_finished(*task)).unwrap_or(true)
            }
        }
    }
}

/// Starts a thread.
///
/// # Errors
/// The operating system gives none.
pub fn spawn(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> io::Result<Task> {
    let name = name.into();
    if super::is_simulated() {
        let task = with(|simulation| simulation.spawn(&name, Box::new(body)));
        let task = task.ok_or(io::ErrorKind::Unsupported)?;
        return Ok(Task(Kind::Simulated(task)));
    }
    let thread = std::thread::Builder::new().name(name).spawn(body)?;
    Ok(Task(Kind::Real(thread)))
}

/// What was called has panicked; it has said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panicked;

/// Calls `body`, and comes back also if that panics: a bug in a part must not go unnoticed. (A
/// simulated machine that crashes is no panic of a part; nothing comes back then.)
///
/// # Errors
/// [`Panicked`].
pub fn guarded<R>(body: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|payload| {
        if with(|simulation| simulation.is_unwinding()).unwrap_or(false) {
            resume_unwind(payload);
        }
        Panicked
    })
}

/// Sleeps.
pub fn sleep(time: Duration) {
    /// Nobody wakes this one.
    const NOBODY: Key = 0;
    let slept = with(|simulation| {
        simulation.park(NOBODY, Some(simulation.now().saturating_add(time)));
    });
    if slept.is_none() {
        std::thread::sleep(time);
    }
}

/// Lets others run first.
pub fn pause() {
    if with(|simulation| simulation.pause()).is_none() {
        std::thread::yield_now();
    }
}
