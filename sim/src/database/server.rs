//! The server: committed rows, open transactions, connections, and what a person or a disaster does
//! to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use prism_net::platform::{self, Condvar, Instant, Mutex, MutexGuard};
use prism_proto::RegionKey;

use super::locks::{Locks, Mode, TxId};
use super::rows::{Key, Row};
use super::store::{Execution, Store};
use super::trouble::{Calm, Fault, Point, Trouble};

/// The server's own clocks.
pub trait Clock: Send + Sync {
    /// Monotonic.
    fn now(&self) -> Duration;
    /// Microseconds since 1970; it may jump.
    fn wall(&self) -> i64;
}

/// Those of whoever calls.
struct CallersClock(Instant);

impl Clock for CallersClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> i64 {
        let since = platform::wall().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| {
            i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
        })
    }
}

/// How an open transaction whose client is gone ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Commit,
    RollBack,
}

/// An apply while it runs, so that whoever keeps it waiting can be found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Applying {
    pub stream: RegionKey,
    /// Clock of what it applies, if that is held.
    pub held: Option<prism_db::Hlc>,
}

/// An open transaction: what it has written lies over what is committed.
#[derive(Default)]
pub(super) struct Tx {
    pub session: u64,
    pub writes: BTreeMap<Key, Option<Row>>,
    pub log: Vec<Execution>,
    pub locks: Vec<Key>,
    pub applying: Option<Applying>,
    /// When it ends without its client, and how.
    pub until: Option<(Duration, Fate)>,
    /// Whoever waits for the outbox is told at COMMIT.
    pub notifies: bool,
}

#[derive(Default)]
pub(super) struct Data {
    pub store: Store,
    pub open: BTreeMap<TxId, Tx>,
    pub locks: Locks,
    /// Live connections.
    pub sessions: BTreeSet<u64>,
    last_session: u64,
    last_tx: u64,
    /// Transactions that have an `until`.
    timed: BTreeSet<TxId>,
    pub reachable: bool,
    pub generation: u64,
    /// NOTIFYs so far.
    pub notified: u64,
    pub findings: Vec<String>,
    /// What a jump has added to the wall clock.
    pub jumped: i64,
}

impl Data {
    pub fn new_session(&mut self) -> u64 {
        self.last_session += 1;
        self.sessions.insert(self.last_session);
        self.last_session
    }

    pub fn begin(&mut self, session: u64) -> TxId {
        self.last_tx += 1;
        let tx = TxId(self.last_tx);
        self.open.insert(
            tx,
            Tx {
                session,
                ..Tx::default()
            },
        );
        tx
    }

    /// Its client is gone, or may be.
    pub fn expire(&mut self, tx: TxId, at: Duration, fate: Fate) {
        if let Some(open) = self.open.get_mut(&tx) {
            open.until = Some((at, fate));
            self.timed.insert(tx);
        }
    }

    /// It goes on.
    pub fn resume(&mut self, tx: TxId) {
        if let Some(open) = self.open.get_mut(&tx) {
            open.until = None;
            self.timed.remove(&tx);
        }
    }

    /// When the next one ends by itself.
    pub fn next_end(&self) -> Option<Duration> {
        let ends = self.timed.iter().filter_map(|tx| self.open.get(tx)?.until);
        ends.map(|(at, _)| at).min()
    }

    /// Ends the transactions whose time has come; true if there were any.
    fn reap(&mut self, now: Duration) -> bool {
        let mut any = false;
        while let Some((_, tx, fate)) = self
            .timed
            .iter()
            .filter_map(|tx| {
                let (at, fate) = self.open.get(tx)?.until?;
                (at <= now).then_some((at, *tx, fate))
            })
            .min_by_key(|(at, tx, _)| (*at, *tx))
        {
            any = true;
            match fate {
                Fate::Commit => self.commit(tx),
                Fate::RollBack => self.roll_back(tx),
            }
        }
        any
    }

    pub fn commit(&mut self, tx: TxId) {
        let Some(open) = self.end(tx) else { return };
        if !open.writes.is_empty() {
            for done in &open.log {
                let (seq, effect, rows) = (done.seq.0, done.effect, done.rows);
                tracing::debug!(stream = done.stream.0, seq, ?effect, rows, "committed");
            }
            let finding = self.store.commit(open.writes, &open.log);
            self.findings.extend(finding);
        }
        self.notified += u64::from(open.notifies);
    }

    pub fn roll_back(&mut self, tx: TxId) {
        self.end(tx);
    }

    fn end(&mut self, tx: TxId) -> Option<Tx> {
        self.timed.remove(&tx);
        let open = self.open.remove(&tx)?;
        self.locks.release(tx, &open.locks);
        Some(open)
    }

    /// All connections and what was open on them.
    fn cut(&mut self) {
        self.open.clear();
        self.timed.clear();
        self.locks.clear();
        self.sessions.clear();
    }

    /// The row as a transaction sees it.
    pub fn get(&self, tx: Option<TxId>, key: &Key) -> Option<Row> {
        let own = tx.and_then(|tx| self.open.get(&tx)?.writes.get(key));
        match own {
            Some(written) => written.clone(),
            None => self.store.get(key).cloned(),
        }
    }

    pub fn take_lock(&mut self, tx: TxId, key: &Key, mode: Mode) -> bool {
        match self.locks.take(tx, key, mode) {
            Some(is_new) => {
                if is_new && let Some(open) = self.open.get_mut(&tx) {
                    open.locks.push(key.clone());
                }
                true
            }
            None => false,
        }
    }
}

/// Shared by all handles and connections.
pub(super) struct Server {
    data: Mutex<Data>,
    /// A transaction has ended.
    pub ended: Condvar,
    /// Something was notified, or everything was cut.
    pub news: Condvar,
    settings: std::sync::Mutex<(Arc<dyn Trouble>, Arc<dyn Clock>)>,
    /// Bounds of `accounts.n` in this region.
    pub bounds: (i64, i64),
}

impl Server {
    pub fn new(bounds: (i64, i64)) -> Self {
        Self {
            data: Mutex::new(Data {
                reachable: true,
                generation: 1,
                ..Data::default()
            }),
            ended: Condvar::new(),
            news: Condvar::new(),
            settings: std::sync::Mutex::new((
                Arc::new(Calm),
                Arc::new(CallersClock(Instant::now())),
            )),
            bounds,
        }
    }

    fn settings(&self) -> std::sync::MutexGuard<'_, (Arc<dyn Trouble>, Arc<dyn Clock>)> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_trouble(&self, trouble: Arc<dyn Trouble>) {
        self.settings().0 = trouble;
    }

    pub fn set_clock(&self, clock: Arc<dyn Clock>) {
        self.settings().1 = clock;
    }

    pub fn now(&self) -> Duration {
        let clock = Arc::clone(&self.settings().1);
        clock.now()
    }

    /// Without what the clock has jumped.
    pub fn wall(&self) -> i64 {
        let clock = Arc::clone(&self.settings().1);
        clock.wall()
    }

    pub fn fault(&self, point: Point, verb: &'static str) -> Fault {
        let trouble = Arc::clone(&self.settings().0);
        trouble.at(point, verb)
    }

    /// Everything as it is now: what was to end by itself has ended.
    pub fn data(&self) -> MutexGuard<'_, Data> {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        self.catch_up(&mut data);
        data
    }

    pub fn catch_up(&self, data: &mut Data) {
        if !data.timed.is_empty() && data.reap(self.now()) {
            self.ended.notify_all();
            self.news.notify_all();
        }
    }

    /// A transaction has ended: whoever waits for its locks, or for news, may look again.
    pub fn tell(&self, data: &Data, news: bool) {
        if data.locks.is_contended() {
            self.ended.notify_all();
        }
        if news {
            self.news.notify_all();
        }
    }

    /// The connection is gone; what is open on it ends when the server notices.
    pub fn lose(&self, mut data: MutexGuard<'_, Data>, tx: TxId, notices_in: Duration) {
        let session = data.open.get(&tx).map(|open| open.session);
        if let Some(session) = session {
            data.sessions.remove(&session);
        }
        if notices_in.is_zero() {
            data.roll_back(tx);
            self.tell(&data, false);
        } else {
            let at = self.now().saturating_add(notices_in);
            data.expire(tx, at, Fate::RollBack);
        }
    }

    /// How long the server takes to see that a connection is lost.
    pub fn notices_in(&self, verb: &'static str) -> Duration {
        match self.fault(Point::Lost, verb) {
            Fault::Delay(time) | Fault::Hang(time) => time,
            _ => Duration::ZERO,
        }
    }

    /// Ends all connections at once.
    pub fn cut(&self, data: &mut Data) {
        data.cut();
        self.ended.notify_all();
        self.news.notify_all();
    }
}
