//! Stacks on which tasks run, reused from task to task and from run to run: making one is two system
//! calls, and its pages are warm.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use generator::{Generator, Gn, co_yield_with};

/// What runs on a stack.
pub(super) type Job = Box<dyn FnOnce()>;

/// Words. Pages that are never touched cost nothing; without optimisation the loop needs much. (An
/// even number: the crate does not look at all of it when it is dropped.)
const STACK: usize = (8 << 20) / size_of::<usize>();

/// Why a stack came back.
#[derive(Debug)]
pub(super) enum Switch {
    /// Its task waits.
    Parked,
    /// Its task has ended.
    Ended(thread::Result<()>),
}

/// A stack that is idle, or on which a task waits.
pub(super) struct Coroutine(Generator<'static, (), Switch>);

thread_local! {
    static IDLE: RefCell<Vec<Coroutine>> = const { RefCell::new(Vec::new()) };
    /// What the next one to be resumed is to begin with.
    static JOB: Cell<Option<Job>> = const { Cell::new(None) };
}

/// The body of every coroutine: one job after the other.
fn work() -> Switch {
    loop {
        if let Some(job) = JOB.take() {
            let ended = catch_unwind(AssertUnwindSafe(job));
            co_yield_with(Switch::Ended(ended));
        } else {
            co_yield_with(Switch::Parked);
        }
    }
}

impl Coroutine {
    /// An idle one.
    pub(super) fn take() -> Self {
        IDLE.with_borrow_mut(Vec::pop).unwrap_or_else(|| {
            let mut coroutine = Gn::new_opt(STACK, work);
            // Makes it one whose panics do not go on in whoever resumes it.
            coroutine.set_local_data(std::ptr::dangling_mut());
            Self(coroutine)
        })
    }

    /// Idle again.
    pub(super) fn give(self) {
        IDLE.with_borrow_mut(|idle| idle.push(self));
    }

    pub(super) fn start(&mut self, job: Job) -> Switch {
        JOB.set(Some(job));
        self.resume()
    }

    pub(super) fn resume(&mut self) -> Switch {
        match self.0.resume() {
            Some(switch) => switch,
            None => panic!(
                "a task has overflowed its stack: {:?}",
                self.0.get_panic_data()
            ),
        }
    }
}

/// Back to whoever has resumed the coroutine that calls this.
pub(super) fn switch() {
    co_yield_with(Switch::Parked);
}
