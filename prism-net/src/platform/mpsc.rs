//! Bounded channels, as [`std::sync::mpsc`]: those outside of a simulation, queues between tasks
//! inside of one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::mpsc;
pub use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
use std::time::Duration;

use super::clock::Instant;
use super::simulation::is_simulated;
use super::sync::{Condvar, Mutex, MutexGuard};

/// As [`std::sync::mpsc::SyncSender`].
#[derive(Debug)]
pub struct SyncSender<T>(Sender<T>);

#[derive(Debug)]
enum Sender<T> {
    Real(mpsc::SyncSender<T>),
    Simulated(Arc<Shared<T>>),
}

/// As [`std::sync::mpsc::Receiver`].
#[derive(Debug)]
pub struct Receiver<T>(End<T>);

#[derive(Debug)]
enum End<T> {
    Real(mpsc::Receiver<T>),
    Simulated(Arc<Shared<T>>),
}

#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<Queue<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<T>,
    bound: usize,
    senders: usize,
    closed: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue<T>>) -> MutexGuard<'a, Queue<T>> {
        let queue = self.changed.wait(queue);
        queue.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A channel for `bound` values (at least one).
#[must_use]
pub fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
    if !is_simulated() {
        let (sender, receiver) = mpsc::sync_channel(bound.max(1));
        return (
            SyncSender(Sender::Real(sender)),
            Receiver(End::Real(receiver)),
        );
    }
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue {
            waiting: VecDeque::new(),
            bound: bound.max(1),
            senders: 1,
            closed: false,
        }),
        changed: Condvar::new(),
    });
    (
        SyncSender(Sender::Simulated(Arc::clone(&shared))),
        Receiver(End::Simulated(shared)),
    )
}

impl<T> SyncSender<T> {
    /// Waits until there is room.
    ///
    /// # Errors
    /// The receiver is gone; the value comes back.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        let shared = match &self.0 {
            Sender::Real(sender) => return sender.send(value),
            Sender::Simulated(shared) => shared,
        };
        let mut queue = shared.lock();
        while !queue.closed && queue.waiting.len() >= queue.bound {
            queue = shared.wait(queue);
        }
        if queue.closed {
            return Err(SendError(value));
        }
        queue.waiting.push_back(value);
        shared.changed.notify_all();
        Ok(())
    }

    /// Does not wait.
    ///
    /// # Errors
    /// There is no room, or the receiver is gone; the value comes back.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let shared = match &self.0 {
            Sender::Real(sender) => return sender.try_send(value),
            Sender::Simulated(shared) => shared,
        };
        let mut queue = shared.lock();
        if queue.closed {
            return Err(TrySendError::Disconnected(value));
        }
        if queue.waiting.len() >= queue.bound {
            return Err(TrySendError::Full(value));
        }
        queue.waiting.push_back(value);
        shared.changed.notify_all();
        Ok(())
    }
}

impl<T> Clone for SyncSender<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Sender::Real(sender) => Sender::Real(sender.clone()),
            Sender::Simulated(shared) => {
                shared.lock().senders += 1;
                Sender::Simulated(Arc::clone(shared))
            }
        })
    }
}

impl<T> Drop for SyncSender<T> {
    fn drop(&mut self) {
        if let Sender::Simulated(shared) = &self.0 {
            shared.lock().senders -= 1;
            shared.changed.notify_all();
        }
    }
}

impl<T> Receiver<T> {
    /// Waits for the next value.
    ///
    /// # Errors
    /// All senders are gone.
    pub fn recv(&self) -> Result<T, RecvError> {
        let shared = match &self.0 {
            End::Real(receiver) => return receiver.recv(),
            End::Simulated(shared) => shared,
        };
        let mut queue = shared.lock();
        loop {
            if let Some(value) = queue.waiting.pop_front() {
                shared.changed.notify_all();
                return Ok(value);
            }
            if queue.senders == 0 {
                return Err(RecvError);
            }
            queue = shared.wait(queue);
        }
    }

    /// Waits for the next value, at most so long.
    ///
    /// # Errors
    /// None has come, or all senders are gone.
    pub fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
        let shared = match &self.0 {
            End::Real(receiver) => return receiver.recv_timeout(time),
            End::Simulated(shared) => shared,
        };
        let until = Instant::now() + time;
        let mut queue = shared.lock();
        loop {
            if let Some(value) = queue.waiting.pop_front() {
                shared.changed.notify_all();
                return Ok(value);
            }
            if queue.senders == 0 {
                return Err(RecvTimeoutError::Disconnected);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RecvTimeoutError::Timeout);
            }
            let waited = shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Does not wait.
    ///
    /// # Errors
    /// There is none, or all senders are gone.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let shared = match &self.0 {
            End::Real(receiver) => return receiver.try_recv(),
            End::Simulated(shared) => shared,
        };
        let mut queue = shared.lock();
        let value = queue.waiting.pop_front();
        shared.changed.notify_all();
        match value {
            Some(value) => Ok(value),
            None if queue.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if let End::Simulated(shared) = &self.0 {
            let mut queue = shared.lock();
            queue.closed = true;
            // Not under the lock: what waits may hold senders of this very channel.
            let waiting = std::mem::take(&mut queue.waiting);
            drop(queue);
            drop(waiting);
            shared.changed.notify_all();
        }
    }
}
