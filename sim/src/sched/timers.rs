//! What is to happen, by time; what is to happen at the same time, in the order in which it was asked
//! for.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// What a timer does.
pub(super) enum Due {
    /// A parked task goes on, if it is still that wait.
    Task { task: usize, wait: u64 },
    /// Something of the surroundings.
    Call(Box<dyn FnOnce()>),
}

struct Timer {
    at: Duration,
    serial: u64,
    due: Due,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    /// The heap's largest is the next one.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Timer>,
    serial: u64,
}

impl Timers {
    pub(super) fn add(&mut self, at: Duration, due: Due) {
        self.serial += 1;
        self.heap.push(Timer {
            at,
            serial: self.serial,
            due,
        });
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|timer| timer.at)
    }

    /// One whose time has come.
    pub(super) fn take(&mut self, now: Duration) -> Option<Due> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|timer| timer.due)
    }
}
