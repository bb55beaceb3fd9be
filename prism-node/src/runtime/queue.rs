//! The bounded queue between the callers and the submit worker.
//!
//! A plain channel cannot do it: the bound counts updates and their bytes, not requests, and the
//! worker takes everything that waits as one batch. Callers may be gone long before their updates
//! are (a deadline, a lost connection), so whatever bounds the callers does not bound the queue.
//!
//! It also knows every update that has no answer yet by its request id: whoever submits the same
//! one meanwhile gets the same answer, and it runs once.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use prism_db::catalogue::{Catalogue, Statement};
use prism_db::{Digest, Submission, Value, body_digest};
use prism_net::platform::{Condvar, Instant, Mutex, MutexGuard};

use super::find::Finder;
use super::spool::Spool;
use super::ticket::{Request, Ticket};
use crate::intake::{Answer, Failure, Finding, Found, Intake, Mode, NewUpdate, Pending};

/// One update on its way.
#[derive(Debug)]
pub(super) struct Item {
    /// What is executed.
    pub(super) submission: Submission,
    /// Name of its statement.
    pub(super) statement: String,
    /// What tells a retry from another update under the same id.
    pub(super) body: Digest,
    /// What it locks, as far as that can be told without executing it: equal for updates of the same
    /// row. A guess, by which nothing but speed is decided.
    pub(super) row: u64,
    /// How long its caller waits.
    pub(super) mode: Mode,
    /// Its caller's limit.
    pub(super) timeout: Option<Duration>,
    arrived: Instant,
    weight: usize,
    ticket: Ticket,
}

impl Item {
    /// The caller's id.
    pub(super) fn id(&self) -> [u8; 16] {
        self.submission.request_id.unwrap_or_default()
    }

    /// Its turn has come; false if it must not be executed any more.
    pub(super) fn begin(&self) -> bool {
        self.timeout
            .is_none_or(|limit| self.arrived.elapsed() < limit)
            && self.ticket.begin()
    }

    /// When its caller's patience ends; `usual` if the caller has named no limit.
    pub(super) fn deadline(&self, usual: Duration) -> Instant {
        self.arrived + self.timeout.unwrap_or(usual).min(usual)
    }
}

/// The rest of one caller's updates, in order: each begins when the one before it is answered, or
/// in one transaction with it.
pub(super) type Chain = VecDeque<Item>;

/// Whoever has submitted an update once more while it had no answer.
#[derive(Debug)]
struct Flight {
    body: Digest,
    others: Vec<Ticket>,
}

#[derive(Debug, Default)]
struct Inner {
    chains: VecDeque<Chain>,
    flights: HashMap<[u8; 16], Flight>,
    /// Chains that somebody else works on, and may give back.
    away: usize,
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
    catalogue: Arc<Catalogue>,
    spool: Arc<Spool>,
    finder: Finder,
}

impl IntakeQueue {
    /// Room for `capacity` updates of `capacity_bytes` together.
    pub(super) fn new(
        capacity: usize,
        capacity_bytes: usize,
        catalogue: Arc<Catalogue>,
        spool: Arc<Spool>,
        finder: Finder,
    ) -> Self {
        Self {
            inner: Mutex::default(),
            arrived: Condvar::new(),
            capacity,
            capacity_bytes,
            catalogue,
            spool,
            finder,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work and takes all of it; false once the queue is closed and empty.
    pub(super) fn take(&self, into: &mut VecDeque<Chain>) -> bool {
        let mut inner = self.lock();
        while into.is_empty() && inner.chains.is_empty() {
            if inner.closed && inner.away == 0 {
                return false;
            }
            inner = self
                .arrived
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
        into.append(&mut inner.chains);
        true
    }

    /// A chain is about to be worked on elsewhere: the queue does not end before it is back.
    pub(super) fn lend(&self) {
        self.lock().away += 1;
    }

    /// What is left of a chain that was lent.
    pub(super) fn give_back(&self, rest: Chain) {
        let mut inner = self.lock();
        inner.away = inner.away.saturating_sub(1);
        if !rest.is_empty() {
            inner.chains.push_front(rest);
        }
        drop(inner);
        self.arrived.notify_all();
    }

    /// Answers an update, whoever has asked for it; its room is free again.
    pub(super) fn finish(&self, item: &Item, answer: &Answer) {
        let mut inner = self.lock();
        inner.bytes = inner.bytes.saturating_sub(item.weight);
        let flight = inner.flights.remove(&item.id());
        let others = flight.map(|flight| flight.others).unwrap_or_default();
        inner.updates = inner.updates.saturating_sub(1 + others.len());
        drop(inner);
        for ticket in others.iter().chain([&item.ticket]) {
            ticket.answer(answer.clone());
        }
    }

    /// Refuses new updates; what waits is still worked off.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    /// Nobody will work off what waits: the callers are told that, instead of waiting.
    pub(super) fn abandon(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let chains = std::mem::take(&mut inner.chains);
        let flights = std::mem::take(&mut inner.flights);
        drop(inner);
        drop((chains, flights));
    }

    /// Updates that wait or are being written.
    pub(super) fn len(&self) -> usize {
        self.lock().updates
    }

    /// What an update needs to be executed, or why it cannot be.
    fn checked(&self, update: NewUpdate) -> Result<Checked, Failure> {
        let Some(statement) = self.catalogue.get(&update.statement) else {
            let known = format!("no statement {} in the catalogue", update.statement);
            return Err(Failure::Refused(known));
        };
        if update.mode == Mode::Await && statement.undo().is_none() {
            return Err(Failure::NeedsUndo(update.statement));
        }
        Ok(Checked {
            weight: update.weight(),
            row: row(statement, &update.params),
            body: body_digest(statement.name(), statement.params(), &update.params),
            submission: Submission {
                statement: statement.digest(),
                params: update.params,
                request_id: Some(*update.request_id.as_bytes()),
            },
            statement: update.statement,
            mode: update.mode,
            timeout: update.timeout,
        })
    }
}

/// By the statement's `key`, or else by the statement and its first parameter.
fn row(statement: &Statement, params: &[Value]) -> u64 {
    let mut hash = DefaultHasher::new();
    let mut add = |param: Option<&Value>| {
        // Never fails: see `Update::encode`.
        let bytes = param.map(|param| postcard::to_stdvec(param).unwrap_or_default());
        bytes.hash(&mut hash);
    };
    let Some(key) = &statement.config().key else {
        add(params.first());
        statement.digest().hash(&mut hash);
        return hash.finish();
    };
    for part in key.split('$').skip(1) {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        let number = digits.parse::<usize>().unwrap_or_default();
        add(number.checked_sub(1).and_then(|i| params.get(i)));
    }
    key.hash(&mut hash);
    hash.finish()
}

struct Checked {
    weight: usize,
    row: u64,
    body: Digest,
    submission: Submission,
    statement: String,
    mode: Mode,
    timeout: Option<Duration>,
}

impl Intake for IntakeQueue {
    fn submit(&self, updates: Vec<NewUpdate>) -> Result<Pending, Failure> {
        let timeouts: Vec<_> = updates.iter().map(|u| u.timeout.is_some()).collect();
        let checked: Vec<_> = updates.into_iter().map(|u| self.checked(u)).collect();
        let good = || checked.iter().flatten();
        let (count, bytes) = (good().count(), good().map(|c| c.weight).sum::<usize>());
        let mut inner = self.lock();
        if inner.closed {
            return Err(Failure::Draining);
        }
        // An array larger than the whole queue is let in alone, or it could never run.
        let full =
            inner.updates + count > self.capacity || inner.bytes + bytes > self.capacity_bytes;
        if inner.updates > 0 && full {
            return Err(Failure::Busy);
        }
        let (request, pending) = Request::new(timeouts.into_iter());
        let mut chain = Chain::with_capacity(count);
        let arrived = Instant::now();
        for (index, checked) in checked.into_iter().enumerate() {
            let ticket = Ticket::new(&request, index);
            let checked = match checked {
                Ok(checked) => checked,
                Err(failure) => {
                    ticket.answer(Answer::Failed(failure));
                    continue;
                }
            };
            let id = checked.submission.request_id.unwrap_or_default();
            if let Some(flight) = inner.flights.get_mut(&id) {
                if flight.body == checked.body {
                    flight.others.push(ticket);
                    inner.updates += 1;
                } else {
                    ticket.answer(Answer::Failed(Failure::RequestReused));
                }
                continue;
            }
            // After the flights: what leaves them for the journal is in its index before.
            match self.spool.holds(&id, &checked.body) {
                Some(true) => ticket.answer(Answer::Spooled),
                Some(false) => ticket.answer(Answer::Failed(Failure::RequestReused)),
                None => {
                    let flight = Flight {
                        body: checked.body,
                        others: Vec::new(),
                    };
                    inner.flights.insert(id, flight);
                    inner.updates += 1;
                    inner.bytes += checked.weight;
                    chain.push_back(Item {
                        submission: checked.submission,
                        statement: checked.statement,
                        body: checked.body,
                        row: checked.row,
                        mode: checked.mode,
                        timeout: checked.timeout,
                        arrived,
                        weight: checked.weight,
                        ticket,
                    });
                }
            }
        }
        if !chain.is_empty() {
            inner.chains.push_back(chain);
        }
        drop(inner);
        self.arrived.notify_one();
        Ok(pending)
    }

    fn find(&self, request_id: uuid::Uuid) -> Result<Finding, Failure> {
        let id = request_id.into_bytes();
        let pending = self.lock().flights.contains_key(&id);
        if pending {
            return Ok(Finder::known(Found::Pending));
        }
        if self.spool.lists(&id) {
            return Ok(Finder::known(Found::Spooled));
        }
        self.finder.find(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::runtime::board::Board;
    use crate::runtime::names::Names;
    use prism_proto::{NodeId, RegionId, Seq};
    use std::path::Path;

    const CONFIG: &str = "cluster = \"t\"\n[[region]]\nname = \"NA\"\ndatabase = \"sqlite:na.db\"\n\
        [[region.node]]\nname = \"NA1\"\nudp = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"\n\
        [[statement]]\nname = \"s\"\nsql = \"UPDATE t SET n = n + $1 WHERE id = 1\"\n\
        params = [\"text\"]\nkind = \"delta\"\n";

    fn queue(dir: &Path, capacity: usize, bytes: usize) -> IntakeQueue {
        let config = Config::parse(CONFIG, Path::new("/prism.toml")).expect("a configuration");
        let names = Names {
            me: NodeId(0),
            own: RegionId(0),
            rank: 0,
            siblings: 1,
            nodes: vec![("NA1".into(), RegionId(0))],
            regions: vec!["NA".into()],
        };
        let board = Arc::new(Board::new(Arc::new(names)));
        let spool = Spool::open(
            &prism_db::journal::AnyDisk::default(),
            &dir.join("journal"),
            1 << 20,
            1 << 18,
            board,
        )
        .expect("a journal");
        IntakeQueue::new(
            capacity,
            bytes,
            config.catalogue,
            Arc::new(spool),
            Finder::new().0,
        )
    }

    fn update(text: &str) -> NewUpdate {
        NewUpdate {
            statement: "s".into(),
            params: vec![Value::Text(text.into())],
            request_id: uuid::Uuid::new_v4(),
            mode: Mode::Background,
            timeout: None,
        }
    }

    fn updates(n: usize, text: &str) -> Vec<NewUpdate> {
        (0..n).map(|_| update(text)).collect()
    }

    fn taken(queue: &IntakeQueue) -> Vec<Item> {
        let mut chains = VecDeque::new();
        assert!(queue.take(&mut chains));
        chains.into_iter().flatten().collect()
    }

    #[test]
    fn large_updates_fill_the_queue_as_well() {
        let dir = tempfile::tempdir().expect("a directory");
        let queue = queue(dir.path(), 1000, 10_000);
        let large = "x".repeat(4000);
        let _first = queue.submit(updates(2, &large)).expect("room");
        assert_eq!(queue.submit(updates(1, &large)).err(), Some(Failure::Busy));
        let items = taken(&queue);
        queue.finish(&items[0], &Answer::Spooled);
        assert!(queue.submit(updates(1, &large)).is_ok());
    }

    #[test]
    fn a_full_queue_refuses_before_anything_is_queued() {
        let dir = tempfile::tempdir().expect("a directory");
        let queue = queue(dir.path(), 4, 1 << 20);
        let _first = queue.submit(updates(3, "")).expect("room");
        assert_eq!(queue.submit(updates(2, "")).err(), Some(Failure::Busy));
        assert_eq!(queue.len(), 3);
        for item in taken(&queue) {
            queue.finish(&item, &Answer::Spooled);
        }
        assert!(
            queue.submit(updates(9, "")).is_ok(),
            "larger than all: alone"
        );
    }

    #[test]
    fn a_closed_queue_works_off_what_waits_and_what_is_lent() {
        let dir = tempfile::tempdir().expect("a directory");
        let queue = Arc::new(queue(dir.path(), 4, 1 << 20));
        let _answer = queue.submit(updates(2, "")).expect("room");
        queue.close();
        assert_eq!(queue.submit(updates(1, "")).err(), Some(Failure::Draining));
        let mut items: Chain = taken(&queue).into();
        items.pop_front();
        queue.lend();
        let other = Arc::clone(&queue);
        let lender = std::thread::spawn(move || other.give_back(items));
        assert_eq!(taken(&queue).len(), 1);
        lender.join().expect("no panic");
        assert!(!queue.take(&mut VecDeque::new()));
    }

    #[test]
    fn callers_of_a_worker_that_died_do_not_wait_for_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let queue = queue(dir.path(), 4, 1 << 20);
        let waiting = queue.submit(updates(1, "")).expect("room");
        queue.abandon();
        assert!(waiting.wait().is_err(), "told at once");
        assert_eq!(queue.submit(updates(1, "")).err(), Some(Failure::Draining));
    }

    #[test]
    fn one_id_at_once_runs_once_and_both_get_the_answer() {
        let dir = tempfile::tempdir().expect("a directory");
        let queue = queue(dir.path(), 10, 1 << 20);
        let first = update("a");
        let again = queue
            .submit(vec![first.clone(), first.clone()])
            .expect("room");
        let third = queue.submit(vec![first.clone()]).expect("room");
        let other = NewUpdate {
            params: vec![Value::Text("b".into())],
            ..first.clone()
        };
        let other = queue.submit(vec![other]).expect("room");
        assert_eq!(
            other.wait(),
            Ok(vec![Answer::Failed(Failure::RequestReused)])
        );
        assert!(
            queue
                .find(first.request_id)
                .is_ok_and(|mut found| { matches!(found.try_recv(), Ok(Ok(Found::Pending))) })
        );
        let items = taken(&queue);
        assert_eq!(items.len(), 1, "runs once");
        let answer = Answer::Committed { seq: Seq(7) };
        queue.finish(&items[0], &answer);
        assert_eq!(again.wait(), Ok(vec![answer.clone(), answer.clone()]));
        assert_eq!(third.wait(), Ok(vec![answer]));
        assert_eq!(queue.len(), 0);
    }
}
