//! The bounded queue between the callers and the submit worker.
//!
//! A plain channel cannot do it: the bound counts updates, not requests, and the worker takes
//! everything that waits as one batch.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::intake::{Answer, Failure, Intake, NewUpdate};

/// One caller's updates, in order, and where the answers go.
#[derive(Debug)]
pub(super) struct Job {
    /// Not yet submitted.
    pub(super) waiting: VecDeque<NewUpdate>,
    /// Answers so far.
    pub(super) answers: Vec<Answer>,
    /// The caller; gone if it hung up.
    pub(super) caller: oneshot::Sender<Vec<Answer>>,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: VecDeque<Job>,
    updates: usize,
    closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct IntakeQueue {
    inner: Mutex<Inner>,
    arrived: Condvar,
    capacity: usize,
}

impl IntakeQueue {
    /// Room for `capacity` updates.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            inner: Mutex::default(),
            arrived: Condvar::new(),
            capacity,
        }
    }

    /// Waits for work and takes all of it; `None` once the queue is closed and empty.
    pub(super) fn take(&self, into: &mut VecDeque<Job>) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while into.is_empty() && inner.jobs.is_empty() {
            if inner.closed {
                return false;
            }
            inner = self
                .arrived
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
        into.append(&mut inner.jobs);
        true
    }

    /// `count` updates have been answered: their room is free again.
    pub(super) fn done(&self, count: usize) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.updates = inner.updates.saturating_sub(count);
    }

    /// Refuses new updates; what waits is still worked off.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.closed = true;
        drop(inner);
        self.arrived.notify_all();
    }

    /// Nobody will work off what waits: the callers are told that, instead of waiting.
    pub(super) fn abandon(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.closed = true;
        inner.jobs.clear();
    }

    /// Updates that wait or are being written.
    pub(super) fn len(&self) -> usize {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .updates
    }
}

impl Intake for IntakeQueue {
    fn submit(&self, updates: Vec<NewUpdate>) -> Result<oneshot::Receiver<Vec<Answer>>, Failure> {
        let (caller, answer) = oneshot::channel();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            return Err(Failure::Draining);
        }
        // An array larger than the whole queue is let in alone, or it could never run.
        if inner.updates > 0 && inner.updates + updates.len() > self.capacity {
            return Err(Failure::Busy);
        }
        inner.updates += updates.len();
        inner.jobs.push_back(Job {
            answers: Vec::with_capacity(updates.len()),
            waiting: updates.into(),
            caller,
        });
        drop(inner);
        self.arrived.notify_one();
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::Mode;

    fn update() -> NewUpdate {
        NewUpdate {
            statement: "s".into(),
            params: Vec::new(),
            request_id: uuid::Uuid::nil(),
            mode: Mode::Background,
            timeout: None,
        }
    }

    #[test]
    fn a_full_queue_refuses_before_anything_is_queued() {
        let queue = IntakeQueue::new(4);
        let _first = queue.submit(vec![update(); 3]).expect("room");
        assert_eq!(queue.submit(vec![update(); 2]).err(), Some(Failure::Busy));
        assert_eq!(queue.len(), 3);
        queue.done(3);
        assert!(
            queue.submit(vec![update(); 9]).is_ok(),
            "larger than all: alone"
        );
    }

    #[test]
    fn a_closed_queue_works_off_what_waits() {
        let queue = IntakeQueue::new(4);
        let _answer = queue.submit(vec![update()]).expect("room");
        queue.close();
        assert_eq!(queue.submit(vec![update()]).err(), Some(Failure::Draining));
        let mut jobs = VecDeque::new();
        assert!(queue.take(&mut jobs));
        assert_eq!(jobs.len(), 1);
        jobs.clear();
        assert!(!queue.take(&mut jobs));
    }

    #[test]
    fn callers_of_a_worker_that_died_do_not_wait_for_it() {
        let queue = IntakeQueue::new(4);
        let waiting = queue.submit(vec![update()]).expect("room");
        queue.abandon();
        assert!(waiting.blocking_recv().is_err(), "told at once");
        assert_eq!(queue.submit(vec![update()]).err(), Some(Failure::Draining));
    }
}
