//! Locks under which one may wait, and waiting for a condition.

use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError, TryLockError};
use std::time::Duration;

use super::clock::Instant;
use super::simulation::{Key, Simulation, with};

/// As [`std::sync::Mutex`]. (A lock whose holder never waits for anything while it has it needs no
/// more than that one.)
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(std::sync::Mutex<T>);

/// As [`std::sync::MutexGuard`].
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized> {
    /// `Some` until it is dropped.
    inner: Option<std::sync::MutexGuard<'a, T>>,
    mutex: &'a Mutex<T>,
}

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    fn key(&self) -> Key {
        (&raw const self.0).addr()
    }

    fn guard<'a>(&'a self, inner: std::sync::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        MutexGuard {
            inner: Some(inner),
            mutex: self,
        }
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// Poisoned, as with `std`: a thread has panicked while it had it.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let simulated = with(|simulation| {
            loop {
                match self.0.try_lock() {
                    Ok(guard) => return Ok(guard),
                    Err(TryLockError::Poisoned(error)) => return Err(error),
                    Err(TryLockError::WouldBlock) => simulation.park(self.key(), None),
                };
            }
        });
        match simulated.unwrap_or_else(|| self.0.lock()) {
            Ok(inner) => Ok(self.guard(inner)),
            Err(error) => Err(PoisonError::new(self.guard(error.into_inner()))),
        }
    }
}

const HELD: &str = "held until it is dropped";

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().expect(HELD)
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect(HELD)
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        drop(self.inner.take());
        with(|simulation| simulation.wake(self.mutex.key(), false));
    }
}

/// Whether a wait ended because its time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// It did.
    #[must_use]
    pub const fn timed_out(&self) -> bool {
        self.0
    }
}

/// As [`std::sync::Condvar`].
#[derive(Debug, Default)]
pub struct Condvar {
    inner: std::sync::Condvar,
}

impl Condvar {
    /// One at which nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            inner: std::sync::Condvar::new(),
        }
    }

    fn key(&self) -> Key {
        (&raw const self.inner).addr()
    }

    /// Until [`notify_one`](Self::notify_one) or [`notify_all`](Self::notify_all) (or for no reason
    /// at all), at most so long.
    ///
    /// # Errors
    /// The lock is poisoned.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let until = Instant::now() + time;
        let park =
            |simulation: &dyn Simulation| simulation.park(self.key(), Some(until.to_simulated()));
        self.wait_until(guard, Some(time), &park)
    }

    /// The same without a limit.
    ///
    /// # Errors
    /// The lock is poisoned.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let park = |simulation: &dyn Simulation| simulation.park(self.key(), None);
        match self.wait_until(guard, None, &park) {
            Ok((guard, _)) => Ok(guard),
            Err(error) => Err(PoisonError::new(error.into_inner().0)),
        }
    }

    fn wait_until<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        time: Option<Duration>,
        park: &dyn Fn(&dyn Simulation) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let mutex = guard.mutex;
        if super::is_simulated() {
            // Nothing else runs in between: no notification is lost.
            drop(guard);
            let woken = with(park).unwrap_or(false);
            let result = WaitTimeoutResult(!woken);
            return match mutex.lock() {
                Ok(guard) => Ok((guard, result)),
                Err(error) => Err(PoisonError::new((error.into_inner(), result))),
            };
        }
        let inner = guard.inner.take().expect(HELD);
        drop(guard);
        match time {
            Some(time) => match self.inner.wait_timeout(inner, time) {
                Ok((inner, result)) => {
                    Ok((mutex.guard(inner), WaitTimeoutResult(result.timed_out())))
                }
                Err(error) => {
                    let (inner, result) = error.into_inner();
                    let result = WaitTimeoutResult(result.timed_out());
                    Err(PoisonError::new((mutex.guard(inner), result)))
                }
            },
            None => match self.inner.wait(inner) {
                Ok(inner) => Ok((mutex.guard(inner), WaitTimeoutResult(false))),
                Err(error) => {
                    let inner = mutex.guard(error.into_inner());
                    Err(PoisonError::new((inner, WaitTimeoutResult(false))))
                }
            },
        }
    }

    /// As long as `condition` holds, at most so long.
    ///
    /// # Errors
    /// The lock is poisoned.
    pub fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        time: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let until = Instant::now() + time;
        loop {
            if !condition(&mut guard) {
                return Ok((guard, WaitTimeoutResult(false)));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok((guard, WaitTimeoutResult(true)));
            }
            guard = self.wait_timeout(guard, left)?.0;
        }
    }

    /// As long as `condition` holds.
    ///
    /// # Errors
    /// The lock is poisoned.
    pub fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// One that waits goes on.
    pub fn notify_one(&self) {
        if with(|simulation| simulation.wake(self.key(), false)).is_none() {
            self.inner.notify_one();
        }
    }

    /// All that wait go on.
    pub fn notify_all(&self) {
        if with(|simulation| simulation.wake(self.key(), true)).is_none() {
            self.inner.notify_all();
        }
    }
}
