//! The bounded queue between the callers and the submit worker.
//!
//! A plain channel cannot do it: the bound counts updates and their bytes, not requests, and the
//! worker takes everything that waits as one batch. Callers may be gone long before their updates
//! are (a deadline, a lost connection), so whatever bounds the callers does not bound the queue.

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
    bytes: usize,
    closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct IntakeQueue {
    inner: Mutex<Inner>,
    arrived: Condvar,
    capacity: usize,
    capacity_bytes: usize,
}

impl IntakeQueue {
    /// Room for `capacity` updates of `capacity_bytes` together.
    pub(super) fn new(capacity: usize, capacity_bytes: usize) -> Self {
        Self {
            inner: Mutex::default(),
            arrived: Condvar::new(),
            capacity,
            capacity_bytes,
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

    /// `count` updates of `bytes` have been answered: their room is free again.
    pub(super) fn done(&self, count: usize, bytes: usize) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.bytes = inner.bytes.saturating_sub(bytes);
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
        let bytes: usize = updates.iter().map(NewUpdate::weight).sum();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            return Err(Failure::Draining);
        }
        // An array larger than the whole queue is let in alone, or it could never run.
        let full = inner.updates + updates.len() > self.capacity
            || inner.bytes + bytes > self.capacity_bytes;
        if inner.updates > 0 && full {
            return Err(Failure::Busy);
        }
        inner.bytes += bytes;
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
    fn large_updates_fill_the_queue_as_well() {
        let queue = IntakeQueue::new(1000, 10_000);
        let large = NewUpdate {
            params: vec![prism_db::Value::Text("x".repeat(4000))],
            ..update()
        };
        let bytes = large.weight();
        let _first = queue.submit(vec![large.clone(); 2]).expect("room");
        assert_eq!(queue.submit(vec![large.clone()]).err(), Some(Failure::Busy));
        queue.done(1, bytes);
        assert!(queue.submit(vec![large]).is_ok());
    }

    #[test]
    fn a_full_queue_refuses_before_anything_is_queued() {
        let queue = IntakeQueue::new(4, 1 << 20);
        let _first = queue.submit(vec![update(); 3]).expect("room");
        assert_eq!(queue.submit(vec![update(); 2]).err(), Some(Failure::Busy));
        assert_eq!(queue.len(), 3);
        queue.done(3, 3 * update().weight());
        assert!(
            queue.submit(vec![update(); 9]).is_ok(),
            "larger than all: alone"
        );
    }

    #[test]
    fn a_closed_queue_works_off_what_waits() {
        let queue = IntakeQueue::new(4, 1 << 20);
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
        let queue = IntakeQueue::new(4, 1 << 20);
        let waiting = queue.submit(vec![update()]).expect("room");
        queue.abandon();
        assert!(waiting.blocking_recv().is_err(), "told at once");
        assert_eq!(queue.submit(vec![update()]).err(), Some(Failure::Draining));
    }
}
