//! Bounded channels, as [`std::sync::mpsc`].
//!
//! Not that one, even outside of a simulation: it wakes the receiver while it holds the lock that the
//! receiver takes first, so that on a machine with few processors a value that is handed over to a
//! sleeping thread costs four switches between the two rather than two. Here the lock is free before
//! anybody is woken, and nobody is woken who does not sleep.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::PoisonError;
pub use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
use std::time::Duration;

use super::clock::Instant;
use super::sync::{Condvar, Mutex, MutexGuard};

/// As [`std::sync::mpsc::SyncSender`].
#[derive(Debug)]
pub struct SyncSender<T>(Arc<Shared<T>>);

/// As [`std::sync::mpsc::Receiver`].
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

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
    /// Threads that wait for a change, at either end.
    asleep: usize,
    closed: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, mut queue: MutexGuard<'a, Queue<T>>) -> MutexGuard<'a, Queue<T>> {
        queue.asleep += 1;
        let queue = self.changed.wait(queue);
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        queue.asleep -= 1;
        queue
    }

    fn wait_timeout<'a>(
        &self,
        mut queue: MutexGuard<'a, Queue<T>>,
        time: Duration,
    ) -> MutexGuard<'a, Queue<T>> {
        queue.asleep += 1;
        let waited = self.changed.wait_timeout(queue, time);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        queue.asleep -= 1;
        queue
    }

    /// Whoever waits shall look again.
    fn changed(&self, queue: MutexGuard<'_, Queue<T>>) {
        let asleep = queue.asleep;
        drop(queue);
        if asleep > 0 {
            self.changed.notify_all();
        }
    }
}

/// A channel for `bound` values (at least one).
#[must_use]
pub fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
    let bound = bound.max(1);
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue {
            waiting: VecDeque::with_capacity(bound.min(64)),
            bound,
            senders: 1,
            asleep: 0,
            closed: false,
        }),
        changed: Condvar::new(),
    });
    (SyncSender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> SyncSender<T> {
    /// Waits until there is room.
    ///
    /// # Errors
    /// The receiver is gone; the value comes back.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        let mut queue = self.0.lock();
        while !queue.closed && queue.waiting.len() >= queue.bound {
            queue = self.0.wait(queue);
        }
        if queue.closed {
            return Err(SendError(value));
        }
        queue.waiting.push_back(value);
        self.0.changed(queue);
        Ok(())
    }

    /// Does not wait.
    ///
    /// # Errors
    /// There is no room, or the receiver is gone; the value comes back.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let mut queue = self.0.lock();
        if queue.closed {
            return Err(TrySendError::Disconnected(value));
        }
        if queue.waiting.len() >= queue.bound {
            return Err(TrySendError::Full(value));
        }
        queue.waiting.push_back(value);
        self.0.changed(queue);
        Ok(())
    }
}

impl<T> Clone for SyncSender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for SyncSender<T> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.senders -= 1;
        if queue.senders == 0 {
            self.0.changed(queue);
        }
    }
}

impl<T> Receiver<T> {
    /// Waits for the next value.
    ///
    /// # Errors
    /// All senders are gone.
    pub fn recv(&self) -> Result<T, RecvError> {
        let mut queue = self.0.lock();
        loop {
            if let Some(value) = queue.waiting.pop_front() {
                self.0.changed(queue);
                return Ok(value);
            }
            if queue.senders == 0 {
                return Err(RecvError);
            }
            queue = self.0.wait(queue);
        }
    }

    /// Waits for the next value, at most so long.
    ///
    /// # Errors
    /// None has come, or all senders are gone.
    pub fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
        let until = Instant::now() + time;
        let mut queue = self.0.lock();
        loop {
            if let Some(value) = queue.waiting.pop_front() {
                self.0.changed(queue);
                return Ok(value);
            }
            if queue.senders == 0 {
                return Err(RecvTimeoutError::Disconnected);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RecvTimeoutError::Timeout);
            }
            queue = self.0.wait_timeout(queue, left);
        }
    }

    /// Does not wait.
    ///
    /// # Errors
    /// There is none, or all senders are gone.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut queue = self.0.lock();
        match queue.waiting.pop_front() {
            Some(value) => {
                self.0.changed(queue);
                Ok(value)
            }
            None if queue.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.closed = true;
        let waiting = std::mem::take(&mut queue.waiting);
        self.0.changed(queue);
        // Not under the lock: what waits may hold senders of this very channel.
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_millis(10);
    const LATE: Duration = Duration::from_secs(30);

    #[test]
    fn nothing_is_lost_doubled_or_overtaken_however_often_either_end_sleeps() {
        // Room for two: the senders sleep as well.
        let (sender, receiver) = sync_channel(2);
        let senders: Vec<_> = (0..4)
            .map(|from| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for n in 0..20_000_u32 {
                        sender.send((from, n)).expect("somebody receives");
                    }
                })
            })
            .collect();
        drop(sender);
        let mut next = [0; 4];
        while let Ok((from, n)) = receiver.recv_timeout(LATE) {
            assert_eq!(n, next[from]);
            next[from] += 1;
        }
        assert_eq!(receiver.recv(), Err(RecvError));
        assert_eq!(next, [20_000; 4]);
        for sender in senders {
            sender.join().expect("it has sent everything");
        }
    }

    #[test]
    fn a_full_one_gives_the_value_back_and_an_empty_one_says_so() {
        let (sender, receiver) = sync_channel(0);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(receiver.recv_timeout(SOON), Err(RecvTimeoutError::Timeout));
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
        assert_eq!(receiver.recv(), Ok(1));
        assert_eq!(sender.try_send(3), Ok(()));
        drop(sender);
        assert_eq!(receiver.recv_timeout(SOON), Ok(3), "sent before it ended");
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn whoever_sleeps_hears_that_the_other_end_is_gone() {
        let (sender, receiver) = sync_channel::<u8>(1);
        let waits = thread::spawn(move || receiver.recv_timeout(LATE));
        let (full, gone) = sync_channel(1);
        full.send(1).expect("there is room");
        let blocked = thread::spawn(move || full.send(2));
        // Whether they sleep already or not by then.
        thread::yield_now();
        drop((sender, gone));
        let waited = waits.join().expect("no panic");
        assert_eq!(waited, Err(RecvTimeoutError::Disconnected));
        assert_eq!(blocked.join().expect("no panic"), Err(SendError(2)));
    }
}
