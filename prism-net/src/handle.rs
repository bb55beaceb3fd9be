//! The way into the loop for other threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;
use std::{fmt, io};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use mio::Waker;
use prism_proto::Instant;

use crate::host::{Command, Full};
use crate::platform::{self, Instant as Clock};

/// Wakes a loop that sleeps, from any thread.
pub trait Wake: Send + Sync + fmt::Debug {
    /// The loop's present or next sleep ends at once.
    ///
    /// # Errors
    /// What the system says.
    fn wake(&self) -> io::Result<()>;
}

impl Wake for Waker {
    fn wake(&self) -> io::Result<()> {
        Self::wake(self)
    }
}

/// In a simulation, which has a queue of its own kind only where something waits for room.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Whether the loop sleeps and must be woken: a wake-up is a system call, and a busy loop looks at
/// its queue anyway.
#[derive(Debug)]
struct Bell {
    asleep: AtomicBool,
    closed: AtomicBool,
    waker: Box<dyn Wake>,
}

impl Bell {
    fn ring(&self) {
        // Pairs with the fence in `Queue::sleep`: either this thread sees `asleep`, or the loop
        // sees the command.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::Relaxed)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "cannot wake the network loop");
        }
    }
}

/// Whether the loop should wake up for it. Memory that comes back is found when it wakes up for
/// something else: a wake-up for every batch would be one more than the answer to it needs.
const fn is_urgent(command: &Command) -> bool {
    !matches!(command, Command::Recycle(_))
}

/// Tells the loop things, from any thread. Clones share one bounded queue.
#[derive(Debug, Clone)]
pub struct Handle {
    sender: Sender<Command>,
    bell: Arc<Bell>,
    start: Clock,
}

impl Handle {
    /// Queues the command.
    ///
    /// # Errors
    /// [`Full`] gives it back: the queue is full, or the loop has ended
    /// ([`is_closed`](Self::is_closed)).
    pub fn try_send(&self, command: Command) -> Result<(), Full> {
        let urgent = is_urgent(&command);
        let result = self.sender.try_send(command).map_err(|error| match error {
            TrySendError::Full(command) | TrySendError::Disconnected(command) => Full(command),
        });
        if urgent || result.is_err() {
            self.bell.ring();
        }
        result
    }

    /// Queues the command and blocks while there is no room. For answers to the engine, which must
    /// not be lost. Never call it on the loop thread (in a [`Host`](crate::Host)). Once the loop has
    /// ended nobody waits for answers: the command is dropped.
    pub fn send(&self, command: Command) {
        let urgent = is_urgent(&command);
        match self.sender.try_send(command) {
            Ok(()) if urgent => self.bell.ring(),
            Ok(()) => {}
            Err(TrySendError::Full(command)) if platform::is_simulated() => {
                self.bell.ring();
                platform::sleep(LOOK_AGAIN);
                self.send(command);
            }
            Err(TrySendError::Full(command)) => {
                self.bell.ring();
                let _ = self.sender.send(command);
                self.bell.ring();
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// The loop's time, for events that carry an instant.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_micros(self.start.elapsed().as_micros() as u64)
    }

    /// Whether the loop has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.bell.closed.load(Ordering::Relaxed)
    }
}

/// The loop's end of the queue, for whoever drives an [`Endpoint`](crate::Endpoint) in a loop of
/// their own as the [`Driver`](crate::Driver) does.
#[derive(Debug)]
pub struct Commands {
    receiver: Receiver<Command>,
    bell: Arc<Bell>,
    start: Clock,
}

/// A queue for `capacity` commands (at least one) to a loop that `waker` wakes.
pub fn commands(capacity: usize, waker: Box<dyn Wake>) -> (Commands, Handle) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity.max(1));
    let bell = Arc::new(Bell {
        asleep: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        waker,
    });
    let start = Clock::now();
    let handle = Handle {
        sender,
        bell: bell.clone(),
        start,
    };
    let commands = Commands {
        receiver,
        bell,
        start,
    };
    (commands, handle)
}

impl Commands {
    /// The next one, if there is one.
    #[must_use]
    pub fn next(&self) -> Option<Command> {
        self.receiver.try_recv().ok()
    }

    /// The loop's time, as [`Handle::now`] tells it to others.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_micros(self.start.elapsed().as_micros() as u64)
    }

    /// Announces that the loop is about to sleep; false if there is a command to handle first.
    #[must_use]
    pub fn sleep(&self) -> bool {
        self.bell.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.receiver.is_empty() {
            return true;
        }
        self.awake();
        false
    }

    /// The loop sleeps no longer.
    pub fn awake(&self) {
        self.bell.asleep.store(false, Ordering::Relaxed);
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.bell.closed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use prism_proto::{Event, Seq};

    use super::*;
    use crate::host::Batch;

    #[derive(Debug, Clone, Default)]
    struct Rung(Arc<AtomicUsize>);

    impl Wake for Rung {
        fn wake(&self) -> io::Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn memory_that_comes_back_wakes_nobody_unless_it_fills_the_queue() {
        let rung = Rung::default();
        let (commands, handle) = commands(2, Box::new(rung.clone()));
        let times = || rung.0.load(Ordering::Relaxed);
        let recycle = || Command::Recycle(Batch::default());
        let news = || Command::Event(Event::Available { upto: Seq(1) });
        assert!(commands.sleep());
        handle.send(recycle());
        assert_eq!(times(), 0);
        handle.send(news());
        assert_eq!(times(), 1, "what asks for work does");
        while commands.next().is_some() {}
        assert!(commands.sleep());
        handle.send(recycle());
        handle.send(recycle());
        assert_eq!(times(), 1);
        assert!(handle.try_send(recycle()).is_err());
        assert_eq!(times(), 2, "or nobody would make room");
        assert!(!commands.sleep(), "it is found before the next sleep");
    }
}
