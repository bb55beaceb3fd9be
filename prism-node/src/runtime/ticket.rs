//! One caller's request: its answers come one by one, from whichever thread has done the work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::oneshot;

use crate::intake::{Answer, Failure, GiveUp, Pending};

#[derive(Debug)]
enum Slot {
    /// Nothing has been done yet. `droppable`: its caller has set a timeout.
    Waiting { droppable: bool },
    /// It may be written at any moment.
    Begun,
    /// Answered.
    Done(Answer),
    /// The caller has been told, of this one that it may still be executed, or what became of it.
    Told { may_run: bool },
}

#[derive(Debug)]
struct Inner {
    slots: Vec<Slot>,
    open: usize,
    caller: Option<oneshot::Sender<Vec<Answer>>>,
}

impl Inner {
    fn set(&mut self, index: usize, answer: Answer) {
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        if matches!(slot, Slot::Done(_) | Slot::Told { .. }) {
            return;
        }
        *slot = Slot::Done(answer);
        self.open -= 1;
        if self.open > 0 {
            return;
        }
        if let Some(caller) = self.caller.take() {
            // The caller may have hung up; its updates are committed all the same.
            let _ = caller.send(self.answers());
        }
    }

    fn answers(&mut self) -> Vec<Answer> {
        let answers = self.slots.iter_mut().map(|slot| {
            let may_run = !matches!(slot, Slot::Done(_) | Slot::Told { may_run: false });
            match std::mem::replace(slot, Slot::Told { may_run }) {
                Slot::Done(answer) => answer,
                Slot::Waiting { .. } => Answer::Failed(Failure::Unknown(
                    "it waits for its turn and will be executed; ask again by its request_id"
                        .into(),
                )),
                Slot::Begun | Slot::Told { .. } => Answer::Failed(Failure::Unknown(
                    "it did not come to its end in time and may still be committed; ask again by \
                     its request_id"
                        .into(),
                )),
            }
        });
        answers.collect()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Request(Mutex<Inner>);

impl Request {
    /// A request for as many updates as there are `droppable`s.
    pub(super) fn new(droppable: impl Iterator<Item = bool>) -> (Arc<Self>, Pending) {
        let (caller, answers) = oneshot::channel();
        let slots: Vec<_> = droppable
            .map(|droppable| Slot::Waiting { droppable })
            .collect();
        let request = Arc::new(Self(Mutex::new(Inner {
            open: slots.len(),
            slots,
            caller: Some(caller),
        })));
        let own: Weak<Self> = Arc::downgrade(&request);
        let pending = Pending::new(answers, own);
        (request, pending)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GiveUp for Request {
    fn drop_waiting(&self) {
        let mut inner = self.lock();
        for index in 0..inner.slots.len() {
            let slot = inner.slots.get(index);
            if matches!(slot, Some(Slot::Waiting { droppable: true })) {
                inner.set(index, Answer::Failed(Failure::NotBegun));
            }
        }
    }

    fn give_up(&self) -> Vec<Answer> {
        self.lock().answers()
    }
}

/// Where the answer to one update goes.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    request: Arc<Request>,
    index: usize,
}

impl Ticket {
    pub(super) fn new(request: &Arc<Request>, index: usize) -> Self {
        Self {
            request: Arc::clone(request),
            index,
        }
    }

    /// Its turn has come; false if it has been answered already (its caller has given up).
    pub(super) fn begin(&self) -> bool {
        let mut inner = self.request.lock();
        match inner.slots.get_mut(self.index) {
            Some(slot @ Slot::Waiting { .. }) => {
                *slot = Slot::Begun;
                true
            }
            Some(Slot::Begun) => true,
            Some(Slot::Told { may_run }) => *may_run,
            Some(Slot::Done(_)) | None => false,
        }
    }

    /// The answer; only the first one counts.
    pub(super) fn answer(&self, answer: Answer) {
        self.request.lock().set(self.index, answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prism_proto::Seq;
    use std::time::Duration;

    fn wait(pending: Pending) -> Vec<Answer> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let now = Duration::from_millis(1);
        runtime.block_on(pending.within(now, now)).expect("answers")
    }

    #[test]
    fn what_has_not_begun_at_the_timeout_never_begins() {
        let (request, pending) = Request::new([true, true, false].into_iter());
        let tickets: Vec<_> = (0..3).map(|i| Ticket::new(&request, i)).collect();
        assert!(tickets[0].begin());
        let answers = wait(pending);
        assert!(matches!(&answers[0], Answer::Failed(Failure::Unknown(_))));
        assert_eq!(answers[1], Answer::Failed(Failure::NotBegun));
        assert!(matches!(&answers[2], Answer::Failed(Failure::Unknown(_))));
        // What the answers said is what happens.
        assert!(tickets[0].begin());
        assert!(!tickets[1].begin());
        assert!(tickets[2].begin());
        // Also of a request that is at its end with that.
        let (request, pending) = Request::new([true].into_iter());
        request.drop_waiting();
        assert_eq!(
            pending.wait().expect("answers"),
            [Answer::Failed(Failure::NotBegun)]
        );
        assert!(!Ticket::new(&request, 0).begin());
        let (request, pending) = Request::new([true, false].into_iter());
        request.drop_waiting();
        assert!(!Ticket::new(&request, 0).begin());
        assert!(Ticket::new(&request, 1).begin());
        Ticket::new(&request, 1).answer(Answer::Committed { seq: Seq(1) });
        assert_eq!(
            pending.wait().expect("answers"),
            [
                Answer::Failed(Failure::NotBegun),
                Answer::Committed { seq: Seq(1) }
            ]
        );
    }

    #[test]
    fn a_worker_that_dies_is_no_endless_wait() {
        let (request, pending) = Request::new([false].into_iter());
        drop(request);
        assert!(matches!(pending.wait(), Err(Failure::Unknown(_))));
    }
}
