//! A bounded number of threads for work that waits: started when it comes, gone when none has come
//! for a while.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::threads::Whole;
use prism_net::platform::{self, Condvar, Mutex, MutexGuard};

/// A thread that has had nothing to do for so long ends, and with it its connection.
const IDLE: Duration = Duration::from_secs(30);

/// What a thread does with a job. Each has its own, with what it keeps between jobs.
pub(super) type Work<J> = Box<dyn FnMut(J) + Send>;

/// See the module.
pub(super) struct Pool<J> {
    name: &'static str,
    threads: usize,
    waiting: usize,
    whole: Whole,
    work: Box<dyn Fn() -> Work<J> + Send + Sync>,
    inner: Mutex<Inner<J>>,
    changed: Condvar,
}

struct Inner<J> {
    jobs: VecDeque<J>,
    threads: usize,
    idle: usize,
}

impl<J: Send + 'static> Pool<J> {
    /// At most so many threads, and beyond what they work on so many jobs that wait.
    pub(super) fn new(
        name: &'static str,
        threads: usize,
        waiting: usize,
        whole: Whole,
        work: impl Fn() -> Work<J> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            threads,
            waiting,
            whole,
            work: Box::new(work),
            inner: Mutex::new(Inner {
                jobs: VecDeque::new(),
                threads: 0,
                idle: 0,
            }),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner<J>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a job over, or gives it back: the pool is full.
    pub(super) fn push(self: &Arc<Self>, job: J) -> Result<(), J> {
        let mut inner = self.lock();
        if inner.idle <= inner.jobs.len() {
            if inner.threads < self.threads {
                let pool = Arc::clone(self);
                match platform::spawn(self.name, move || pool.run()) {
                    Ok(_) => inner.threads += 1,
                    Err(error) => {
                        tracing::error!(pool = self.name, %error, "no thread");
                        return Err(job);
                    }
                }
            } else if inner.jobs.len() >= self.waiting + inner.idle {
                return Err(job);
            }
        }
        inner.jobs.push_back(job);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    fn run(self: Arc<Self>) {
        let ended = platform::guarded(|| {
            let mut work = (self.work)();
            while let Some(job) = self.next() {
                work(job);
            }
        });
        if ended.is_err() {
            self.lock().threads -= 1;
            self.whole.died(self.name, "it panicked; see the log");
        }
    }

    /// The next job; `None` when none has come for long (the thread is signed off then).
    fn next(&self) -> Option<J> {
        let mut inner = self.lock();
        inner.idle += 1;
        let (mut inner, waited) = self
            .changed
            .wait_timeout_while(inner, IDLE, |inner| inner.jobs.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        inner.idle -= 1;
        if waited.timed_out() && inner.jobs.is_empty() {
            inner.threads -= 1;
            return None;
        }
        inner.jobs.pop_front()
    }
}
