//! A transaction at work, as the server sees it: reads, writes, row locks, and the points at which
//! others run.
//!
//! READ COMMITTED: each read sees what is committed at that moment, under the transaction's own
//! writes. A writer has locked the row, so that what lies over it can simply replace it at COMMIT.

use std::ops::Bound;
use std::sync::PoisonError;
use std::time::Duration;

use prism_db::{DbError, ErrorClass};
use prism_net::platform::{self, MutexGuard};

use super::locks::{Mode, TxId};
use super::rows::{Key, Row};
use super::server::{Data, Fate, Server};
use super::store::Execution;
use super::trouble::{Fault, Point};

/// After so long a wait the server looks for a deadlock (`deadlock_timeout`).
const DEADLOCK: Duration = Duration::from_secs(1);

/// Why a piece of work ended without a result.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fail {
    /// The server says so.
    Db(DbError),
    /// The connection broke.
    Lost,
    /// The client's deadline has passed.
    Late,
}

impl From<DbError> for Fail {
    fn from(error: DbError) -> Self {
        Self::Db(error)
    }
}

impl Fail {
    /// With the place in the batch.
    pub fn at(mut self, place: usize) -> Self {
        if let Self::Db(DbError::Sql { index, .. }) = &mut self {
            *index = Some(place);
        }
        self
    }

    /// Whether the server reports that SQLSTATE.
    pub fn is(&self, state: &str) -> bool {
        matches!(self, Self::Db(DbError::Sql { sqlstate, .. }) if sqlstate == state)
    }
}

/// A failure that the server reports.
pub(super) fn sql(state: &str, message: impl Into<String>) -> Fail {
    Fail::Db(DbError::sql(state, message, None))
}

/// Limits of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub verb: &'static str,
    pub lock: Duration,
    /// By the server's clock.
    pub deadline: Duration,
    /// The whole transaction was sent at once: a server that hangs does it when it goes on.
    pub at_once: bool,
}

/// See the module's text.
pub(super) struct Work<'s> {
    pub server: &'s Server,
    data: Option<MutexGuard<'s, Data>>,
    pub tx: TxId,
    pub limits: Limits,
    /// It has ended, or stays open for a later call.
    done: bool,
    /// The server has stopped until then, which the client does not live to see.
    stopped: Option<Duration>,
}

impl<'s> Work<'s> {
    /// Begins a transaction on that connection.
    pub fn begin(server: &'s Server, session: u64, limits: Limits) -> Result<Self, Fail> {
        let mut data = server.data();
        if !data.sessions.contains(&session) {
            return Err(Fail::Lost);
        }
        let tx = data.begin(session);
        let mut work = Self {
            server,
            data: Some(data),
            tx,
            limits,
            done: false,
            stopped: None,
        };
        match work.step(Point::Begin) {
            Ok(()) => Ok(work),
            Err(Fail::Db(error)) => work.roll_back().and(Err(error.into())),
            Err(fail) => Err(fail),
        }
    }

    /// Goes on with one that was left open.
    pub fn resume(server: &'s Server, tx: TxId, limits: Limits) -> Result<Self, Fail> {
        let mut data = server.data();
        let session = data.open.get(&tx).map(|open| open.session);
        let alive = session.is_some_and(|session| data.sessions.contains(&session));
        if !alive {
            return Err(Fail::Lost);
        }
        data.resume(tx);
        Ok(Self {
            server,
            data: Some(data),
            tx,
            limits,
            done: false,
            stopped: None,
        })
    }

    /// The data, locked as long as nothing is waited for.
    pub fn data(&mut self) -> &mut Data {
        self.data.get_or_insert_with(|| self.server.data())
    }

    /// Still there?
    fn alive(&mut self) -> Result<(), Fail> {
        let tx = self.tx;
        let open = self.data().open.get(&tx).map(|open| open.session);
        match open {
            Some(session) if self.data().sessions.contains(&session) => Ok(()),
            _ => {
                self.done = !self.data().open.contains_key(&tx);
                Err(Fail::Lost)
            }
        }
    }

    /// Others may run, faults may strike.
    pub fn step(&mut self, point: Point) -> Result<(), Fail> {
        self.data = None;
        let fault = self.server.fault(point, self.limits.verb);
        match fault {
            Fault::None => self.alive(),
            Fault::Delay(time) => {
                let left = self.left();
                platform::sleep(time.min(left));
                self.alive()?;
                if time >= left {
                    return Err(sql("57014", "canceling statement due to statement timeout"));
                }
                Ok(())
            }
            Fault::Sql(state) if ErrorClass::of(state) == ErrorClass::Unreachable => {
                self.alive()?;
                self.disconnect();
                Err(Fail::Lost)
            }
            Fault::Sql(state) => {
                self.alive()?;
                Err(sql(state, "a fault"))
            }
            Fault::Disconnect => {
                self.alive()?;
                self.disconnect();
                Err(Fail::Lost)
            }
            Fault::Hang(time) if self.limits.at_once && time >= self.left() => {
                self.stopped = Some(self.server.now().saturating_add(time));
                self.alive()
            }
            Fault::Hang(time) => self.hang(time, Fate::RollBack),
        }
    }

    fn left(&self) -> Duration {
        self.limits.deadline.saturating_sub(self.server.now())
    }

    /// The server stops; it goes on before the client's deadline, or ends what it has as `fate` says.
    fn hang(&mut self, time: Duration, fate: Fate) -> Result<(), Fail> {
        let left = self.left();
        if time < left {
            platform::sleep(time);
            return self.alive();
        }
        let at = self.server.now().saturating_add(time);
        self.leave_behind(at, fate);
        Err(Fail::Late)
    }

    /// The client gives up at its deadline; the server ends the transaction then.
    fn leave_behind(&mut self, at: Duration, fate: Fate) {
        let (tx, left) = (self.tx, self.left());
        let data = self.data();
        if let Some(session) = data.open.get(&tx).map(|open| open.session) {
            data.sessions.remove(&session);
        }
        data.expire(tx, at, fate);
        self.done = true;
        self.data = None;
        platform::sleep(left);
    }

    /// The connection breaks here and now.
    fn disconnect(&mut self) {
        self.data = None;
        let notices_in = self.server.notices_in(self.limits.verb);
        self.server.lose(self.server.data(), self.tx, notices_in);
        self.done = true;
    }

    pub fn get(&mut self, key: &Key) -> Option<Row> {
        let tx = self.tx;
        self.data().get(Some(tx), key)
    }

    pub fn has(&mut self, key: &Key) -> bool {
        self.get(key).is_some()
    }

    pub fn put(&mut self, key: Key, row: impl Into<Row>) {
        self.write(key, Some(row.into()));
    }

    pub fn delete(&mut self, key: Key) {
        self.write(key, None);
    }

    fn write(&mut self, key: Key, row: Option<Row>) {
        let tx = self.tx;
        if let Some(open) = self.data().open.get_mut(&tx) {
            open.writes.insert(key, row);
        }
    }

    pub fn log(&mut self, execution: Execution) {
        let tx = self.tx;
        if let Some(open) = self.data().open.get_mut(&tx) {
            open.log.push(execution);
        }
    }

    /// Rows of a range, in order, as long as `f` says true.
    pub fn scan(
        &mut self,
        from: Bound<&Key>,
        to: Bound<&Key>,
        mut f: impl FnMut(&Key, &Row) -> bool,
    ) {
        let tx = self.tx;
        let data = self.data();
        let own = data.open.get(&tx).map(|open| &open.writes);
        let mut own = own
            .into_iter()
            .flat_map(|writes| writes.range::<Key, _>((from, to)))
            .peekable();
        let mut committed = data.store.range(from, to).peekable();
        loop {
            let next = match (committed.peek(), own.peek()) {
                (None, None) => return,
                (Some((theirs, _)), Some((ours, _))) if theirs < ours => committed.next(),
                (Some(_), None) => committed.next(),
                (theirs, Some((ours, _))) => {
                    if theirs.is_some_and(|(theirs, _)| theirs == ours) {
                        committed.next();
                    }
                    own.next().and_then(|(key, row)| Some((key, row.as_ref()?)))
                }
            };
            if let Some((key, row)) = next
                && !f(key, row)
            {
                return;
            }
        }
    }

    /// Waits for a row's lock, at most as long as the limits say.
    pub fn lock(&mut self, key: &Key, mode: Mode) -> Result<(), Fail> {
        let tx = self.tx;
        if self.data().take_lock(tx, key, mode) {
            return Ok(());
        }
        let start = self.server.now();
        let limit = start.saturating_add(self.limits.lock);
        let mut look = Some(start.saturating_add(DEADLOCK));
        loop {
            let now = self.server.now();
            if look.is_some_and(|at| at <= now) {
                look = None;
                if self.data().locks.is_deadlocked(tx) {
                    self.data().locks.give_up(tx);
                    return Err(sql("40P01", "deadlock detected"));
                }
            }
            if limit <= now {
                self.data().locks.give_up(tx);
                return Err(sql("55P03", "canceling statement due to lock timeout"));
            }
            if self.limits.deadline <= now {
                self.data().locks.give_up(tx);
                return Err(sql("57014", "canceling statement due to statement timeout"));
            }
            let next = [look, self.data().next_end(), Some(self.limits.deadline)];
            let next = next.into_iter().flatten().fold(limit, Duration::min);
            // Nobody has to be earlier than the one that ends by itself.
            let time = next.saturating_sub(now).max(Duration::from_micros(1));
            let server = self.server;
            let guard = self.data.take().unwrap_or_else(|| server.data());
            let waited = server.ended.wait_timeout(guard, time);
            let (mut guard, _) = waited.unwrap_or_else(PoisonError::into_inner);
            server.catch_up(&mut guard);
            self.data = Some(guard);
            self.alive()?;
            if self.data().take_lock(tx, key, mode) {
                return Ok(());
            }
        }
    }

    /// A row for update: locked if it is there, and as it is then.
    pub fn lock_row(&mut self, key: &Key, mode: Mode) -> Result<Option<Row>, Fail> {
        if !self.has(key) {
            return Ok(None);
        }
        self.lock(key, mode)?;
        Ok(self.get(key))
    }

    /// Now by the server's wall clock, microseconds since 1970.
    pub fn wall(&mut self) -> i64 {
        let wall = self.server.wall();
        wall.saturating_add(self.data().jumped)
    }

    /// Everything so far is taken back; the transaction begins anew.
    pub fn restart(&mut self) {
        let tx = self.tx;
        let data = self.data();
        let mut locks = Vec::new();
        if let Some(open) = data.open.get_mut(&tx) {
            open.writes.clear();
            open.log.clear();
            locks = std::mem::take(&mut open.locks);
        }
        data.locks.release(tx, &locks);
        let server = self.server;
        server.tell(self.data(), false);
    }

    /// # Errors
    /// The client does not hear of it.
    pub fn roll_back(mut self) -> Result<(), Fail> {
        if let Some(at) = self.stopped {
            self.leave_behind(at, Fate::RollBack);
            return Err(Fail::Late);
        }
        let tx = self.tx;
        self.data().roll_back(tx);
        self.done = true;
        let server = self.server;
        server.tell(self.data(), false);
        Ok(())
    }

    /// # Errors
    /// Those of the server; or the client does not know whether it is committed.
    pub fn commit(mut self) -> Result<(), Fail> {
        if let Some(at) = self.stopped {
            self.leave_behind(at, Fate::Commit);
            return Err(Fail::Late);
        }
        let tx = self.tx;
        let writes = match self.data().open.get(&tx) {
            Some(open) => !open.writes.is_empty(),
            None => false,
        };
        if writes {
            self.data = None;
            match self.server.fault(Point::BeforeCommit, self.limits.verb) {
                Fault::Hang(time) => self.hang(time, Fate::Commit)?,
                Fault::None => self.alive()?,
                fault => self.strike(fault)?,
            }
        }
        self.alive()?;
        let data = self.data();
        let notifies = data.open.get(&tx).is_some_and(|open| open.notifies);
        data.commit(tx);
        self.done = true;
        let server = self.server;
        server.tell(self.data(), notifies);
        if !writes {
            return Ok(());
        }
        self.data = None;
        match self.server.fault(Point::AfterCommit, self.limits.verb) {
            Fault::None | Fault::Sql(_) => Ok(()),
            Fault::Disconnect => Err(Fail::Lost),
            Fault::Delay(time) | Fault::Hang(time) => {
                let left = self.left();
                platform::sleep(time.min(left));
                if time < left { Ok(()) } else { Err(Fail::Late) }
            }
        }
    }

    fn strike(&mut self, fault: Fault) -> Result<(), Fail> {
        match fault {
            Fault::None | Fault::Hang(_) => Ok(()),
            Fault::Delay(time) => {
                // A COMMIT has no timeout.
                platform::sleep(time);
                self.alive()
            }
            Fault::Sql(state) if ErrorClass::of(state) != ErrorClass::Unreachable => {
                self.alive()?;
                Err(sql(state, "a fault"))
            }
            Fault::Sql(_) | Fault::Disconnect => {
                self.alive()?;
                self.disconnect();
                Err(Fail::Lost)
            }
        }
    }

    /// The transaction stays open, until the server ends it.
    pub fn keep(mut self, at_most: Duration) -> TxId {
        let tx = self.tx;
        let at = self.server.now().saturating_add(at_most);
        self.data().expire(tx, at, Fate::RollBack);
        self.done = true;
        tx
    }
}

impl Drop for Work<'_> {
    /// An error, or the client's machine has died: the server sees a connection that breaks.
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.data = None;
        let notices_in = self.server.notices_in(self.limits.verb);
        self.server.lose(self.server.data(), self.tx, notices_in);
    }
}
