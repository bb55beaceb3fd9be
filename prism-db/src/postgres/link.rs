//! A connection with a deadline: the blocking client on a thread of its own.
//!
//! The client has no deadline, and a stopped server's kernel goes on acknowledging TCP, so a call
//! could hang for ever. The caller waits for the thread's answer until its deadline, asks the server
//! to cancel, waits a moment more, and then leaves connection and thread behind. What is left behind
//! is counted and bounded, and ends by itself when the server goes on or its machine is gone
//! (`tcp_user_timeout`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::time::{Duration, Instant};

use postgres::CancelToken;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::session::{Backend, Session};
use crate::DbError;

/// Threads that one handle may have left behind. A server that hangs is asked again only when one of
/// them has ended.
const MAX_ABANDONED: usize = 4;

/// How long a cancelled call may take to say so.
const CANCEL_GRACE: Duration = Duration::from_millis(500);

static ABANDONED: AtomicUsize = AtomicUsize::new(0);

/// Connections of this process that were left behind because their server did not answer.
#[must_use]
pub fn abandoned_connections() -> usize {
    ABANDONED.load(Ordering::Relaxed)
}

const RUNNING: u8 = 0;
const COMMITTING: u8 = 1;
const ABANDONED_CALL: u8 = 2;

/// Decides between the thread that wants to commit and the caller that gives up: whoever is first.
#[derive(Debug, Default)]
pub(super) struct Gate(AtomicU8);

impl Gate {
    /// False: the caller has been told that nothing was written, so nothing may be.
    pub fn may_commit(&self) -> bool {
        self.pass(COMMITTING)
    }

    /// False: COMMIT is under way, nobody knows.
    fn give_up(&self) -> bool {
        self.pass(ABANDONED_CALL)
    }

    fn pass(&self, to: u8) -> bool {
        self.0
            .compare_exchange(RUNNING, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

type Job = Box<dyn FnOnce(&mut Session) + Send>;

/// Counts the threads left behind: by the handle, and altogether.
#[derive(Debug, Default)]
pub(super) struct Abandoned(AtomicUsize);

impl Abandoned {
    /// # Errors
    /// If so many hang that another connection would only hang as well.
    pub fn check(&self) -> Result<(), DbError> {
        let n = self.0.load(Ordering::Acquire);
        if n < MAX_ABANDONED {
            return Ok(());
        }
        Err(DbError::Unreachable(format!(
            "{n} earlier connections still hang (is the server stopped or its disk stuck?)"
        )))
    }
}

/// Held by a thread; tells when it ends whether it had been left behind.
struct Presence {
    left: Arc<AtomicU8>,
    count: Arc<Abandoned>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        if self.left.swap(2, Ordering::AcqRel) == 1 {
            self.count.0.fetch_sub(1, Ordering::AcqRel);
            ABANDONED.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A connected session on its thread.
pub(super) struct Link {
    jobs: Sender<Job>,
    cancel: CancelToken,
    tls: MakeRustlsConnect,
    left: Arc<AtomicU8>,
    count: Arc<Abandoned>,
    /// The server's process.
    pub backend: Backend,
}

impl Link {
    /// Connects by `connect`, on the new thread.
    ///
    /// # Errors
    /// Those of `connect`; `Unreachable` at the deadline.
    pub fn open<T: Send + 'static>(
        deadline: Duration,
        count: &Arc<Abandoned>,
        connect: impl FnOnce() -> Result<(Session, T), DbError> + Send + 'static,
    ) -> Result<(Self, T), DbError> {
        count.check()?;
        let (jobs, queue) = channel::<Job>();
        let (answer, answers) = sync_channel(1);
        let left = Arc::new(AtomicU8::new(0));
        let presence = Presence {
            left: Arc::clone(&left),
            count: Arc::clone(count),
        };
        std::thread::Builder::new()
            .name("prism-pg".to_owned())
            .spawn(move || {
                let _presence = presence;
                match connect() {
                    Ok((mut session, extra)) => {
                        let token = session.client.cancel_token();
                        let (tls, backend) = (session.tls.clone(), session.backend.clone());
                        if answer.send(Ok((token, tls, backend, extra))).is_ok() {
                            serve(&queue, &mut session);
                        }
                    }
                    Err(error) => drop(answer.send(Err(error))),
                }
            })
            .map_err(|e| DbError::Unreachable(format!("cannot start a thread: {e}")))?;
        match answers.recv_timeout(deadline) {
            Ok(Ok((cancel, tls, backend, extra))) => {
                let link = Self {
                    jobs,
                    cancel,
                    tls,
                    left,
                    count: Arc::clone(count),
                    backend,
                };
                Ok((link, extra))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                leave(&left, count);
                Err(DbError::Unreachable(format!(
                    "no answer within {deadline:?} while connecting"
                )))
            }
        }
    }

    /// Runs `f` on the session, until the deadline.
    ///
    /// # Errors
    /// [`Late`]: the link is of no use any more.
    pub fn run<R: Send + 'static>(
        &self,
        deadline: Duration,
        f: impl FnOnce(&mut Session, &Gate) -> R + Send + 'static,
    ) -> Result<R, Late> {
        let gate = Arc::new(Gate::default());
        let (answer, answers) = sync_channel(1);
        let job: Job = {
            let gate = Arc::clone(&gate);
            Box::new(move |session| drop(answer.send(f(session, &gate))))
        };
        if self.jobs.send(job).is_err() {
            return Err(Late::Nothing(
                "the connection's thread has ended".to_owned(),
            ));
        }
        let started = Instant::now();
        let mut answer = answers.recv_timeout(deadline);
        if matches!(answer, Err(RecvTimeoutError::Timeout)) {
            self.ask_to_cancel();
            answer = answers.recv_timeout(CANCEL_GRACE);
        }
        match answer {
            Ok(result) => Ok(result),
            Err(why) => {
                let nothing = gate.give_up();
                // It may have answered between the end of our wait and the gate.
                if let Ok(result) = answers.try_recv() {
                    return Ok(result);
                }
                let text = if why == RecvTimeoutError::Timeout {
                    leave(&self.left, &self.count);
                    format!("no answer within {:?}", started.elapsed())
                } else {
                    "the connection's thread has ended".to_owned()
                };
                Err(if nothing {
                    Late::Nothing(text)
                } else {
                    Late::Committing(text)
                })
            }
        }
    }

    /// The request travels on a connection of its own, which may hang just as well.
    fn ask_to_cancel(&self) {
        let (cancel, tls) = (self.cancel.clone(), self.tls.clone());
        let presence = Presence {
            left: Arc::new(AtomicU8::new(0)),
            count: Arc::clone(&self.count),
        };
        leave(&presence.left, &presence.count);
        // Without a thread there is no cancel, and the call is abandoned instead.
        let _ = std::thread::Builder::new()
            .name("prism-pg-cancel".to_owned())
            .spawn(move || {
                let _presence = presence;
                let _ = cancel.cancel_query(tls);
            });
    }
}

/// A call was given up.
#[derive(Debug)]
pub(super) enum Late {
    /// Before COMMIT, which will now never be sent.
    Nothing(String),
    /// While COMMIT was under way.
    Committing(String),
}

fn serve(queue: &Receiver<Job>, session: &mut Session) {
    while let Ok(job) = queue.recv() {
        job(session);
    }
}

fn leave(left: &AtomicU8, count: &Abandoned) {
    // Counted before it is marked, so that the thread's end never takes away what is not there yet.
    count.0.fetch_add(1, Ordering::AcqRel);
    ABANDONED.fetch_add(1, Ordering::Relaxed);
    if left
        .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire)
        .is_err()
    {
        count.0.fetch_sub(1, Ordering::AcqRel);
        ABANDONED.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_first_at_the_gate_decides() {
        let gate = Gate::default();
        assert!(gate.give_up());
        assert!(!gate.may_commit(), "the caller was told: nothing written");
        let gate = Gate::default();
        assert!(gate.may_commit());
        assert!(!gate.give_up(), "the caller must hear: ambiguous");
    }

    #[test]
    fn threads_left_behind_are_counted_until_they_end() {
        let count = Arc::new(Abandoned::default());
        let threads: Vec<_> = (0..MAX_ABANDONED)
            .map(|_| {
                let presence = Presence {
                    left: Arc::default(),
                    count: Arc::clone(&count),
                };
                leave(&presence.left, &presence.count);
                presence
            })
            .collect();
        assert!(count.check().is_err());
        drop(threads);
        assert!(count.check().is_ok());
        // One that ended just before it would have been left behind.
        let left = Arc::new(AtomicU8::new(0));
        drop(Presence {
            left: Arc::clone(&left),
            count: Arc::clone(&count),
        });
        leave(&left, &count);
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }
}
