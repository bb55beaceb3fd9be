//! A connection: made when it is needed, and what the client makes of one that breaks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prism_db::{DbError, Digest, OpenOptions};
use prism_net::platform;
use prism_proto::RegionKey;

use super::ModelServer;
use super::locks::TxId;
use super::rows::{Installed, Key, Row};
use super::trouble::{Fault, Point};
use super::work::{Fail, Limits, Work};

/// What the server's own timeout is given to speak first, and a cancelled call to say so.
const SLACK: Duration = Duration::from_secs(1);

/// A connection used this recently is taken to be alive.
const IDLE: Duration = Duration::from_millis(500);

/// How a call meets a broken connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It may be repeated at will: once more on a new connection.
    Repeat,
    /// BEGIN, work, COMMIT: each known by itself.
    Steps,
    /// One statement that commits by itself.
    Single,
}

/// Whether a transaction is kept.
pub(super) enum End<T> {
    Commit(T),
    RollBack(T),
    /// It stays open for so long.
    Keep(T, Duration),
}

/// See [`ModelServer::connect`].
pub(super) struct Client {
    pub server: ModelServer,
    pub options: OpenOptions,
    /// All regions but the own one.
    pub peers: BTreeMap<RegionKey, String>,
    session: Option<u64>,
    used: Duration,
    /// The open transaction of a held update.
    pub held: Option<TxId>,
    /// What `wait_for_outbox` knows: the numbering, and what was notified.
    pub heard: Option<(u64, u64)>,
}

fn gone() -> DbError {
    DbError::Unreachable("the server closed the connection".to_owned())
}

fn late() -> DbError {
    DbError::Unreachable("no answer within the deadline".to_owned())
}

impl Client {
    pub fn new(server: ModelServer, options: OpenOptions) -> Self {
        let own = options.topology.region.as_str();
        let others = options.topology.regions.iter();
        let others = others.filter(|(name, _)| name != own);
        Self {
            peers: others.map(|(name, key)| (*key, name.clone())).collect(),
            server,
            options,
            session: None,
            used: Duration::ZERO,
            held: None,
            heard: None,
        }
    }

    pub fn limits(&self, verb: &'static str, kind: Kind) -> Limits {
        let now = self.server.inner().now();
        Limits {
            verb,
            lock: self.options.lock_timeout,
            deadline: now.saturating_add(self.options.statement_timeout + SLACK),
            at_once: kind == Kind::Single,
        }
    }

    fn connect(&mut self, verb: &'static str) -> Result<u64, DbError> {
        if let Some(session) = self.session {
            return Ok(session);
        }
        self.heard = None;
        let server = self.server.inner();
        let refuse = |why: &str| Err(DbError::Unreachable(why.to_owned()));
        let limit = self.options.connect_timeout;
        match server.fault(Point::Connect, verb) {
            Fault::None => {}
            Fault::Delay(time) | Fault::Hang(time) => {
                platform::sleep(time.min(limit));
                if time >= limit {
                    return refuse("no answer while connecting");
                }
            }
            Fault::Disconnect => return refuse("the connection was closed"),
            Fault::Sql(state) => {
                return match DbError::sql(state, "cannot log in: a fault", None) {
                    error if error.is_away() && !state.starts_with("53") => refuse("a fault"),
                    error => Err(error),
                };
            }
        }
        let mut data = server.data();
        if !data.reachable {
            return refuse("connection refused");
        }
        let wanted = &self.options.topology.region;
        match data.get(None, &Key::Region).map(Row::region) {
            None => {
                let text = format!("the database of {wanted} has no schema prism");
                return Err(DbError::Schema(text));
            }
            Some(own) if own.name != *wanted => {
                return Err(DbError::Schema(format!(
                    "the database belongs to region {}, not to {wanted}",
                    own.name
                )));
            }
            Some(_) => {}
        }
        let session = data.new_session();
        self.session = Some(session);
        Ok(session)
    }

    /// The connection is of no use any more.
    pub fn drop_connection(&mut self) {
        if let Some(session) = self.session.take() {
            self.server.inner().data().sessions.remove(&session);
        }
        self.heard = None;
    }

    /// Runs `work` in a transaction on the connection, which is made first if there is none.
    pub fn call<T>(
        &mut self,
        verb: &'static str,
        kind: Kind,
        mut work: impl FnMut(&mut Work<'_>) -> Result<End<T>, Fail>,
    ) -> Result<T, DbError> {
        if std::thread::panicking() {
            // The client's machine is being taken down: nobody would wait, and nothing is sent.
            return Err(gone());
        }
        assert_eq!(self.held, None, "{verb} while a transaction is held open");
        let server = self.server.clone();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let session = self.connect(verb)?;
            let idle = server.inner().now().saturating_sub(self.used) >= IDLE;
            let limits = self.limits(verb, kind);
            let mut begun = match Work::begin(server.inner(), session, limits) {
                Ok(begun) => begun,
                Err(Fail::Db(error)) => return Err(error),
                Err(Fail::Late) => {
                    self.drop_connection();
                    return Err(late());
                }
                Err(Fail::Lost) => {
                    self.drop_connection();
                    // An idle one is asked before anything is sent on it.
                    if kind == Kind::Single && !idle {
                        return Err(DbError::Ambiguous("the connection broke".to_owned()));
                    }
                    if attempt == 2 {
                        return Err(gone());
                    }
                    continue;
                }
            };
            let result = work(&mut begun);
            self.used = server.inner().now();
            let (result, committing) = match result {
                Ok(End::Commit(value)) => (begun.commit().map(|()| value), true),
                Ok(End::RollBack(value)) => (begun.roll_back().map(|()| value), false),
                Ok(End::Keep(value, limit)) => {
                    self.held = Some(begun.keep(limit));
                    (Ok(value), false)
                }
                Err(Fail::Db(error)) => (begun.roll_back().and(Err(error.into())), false),
                Err(fail) => {
                    drop(begun);
                    (Err(fail), false)
                }
            };
            let fail = match result {
                Ok(value) => return Ok(value),
                Err(fail) => fail,
            };
            let ambiguous = || DbError::Ambiguous("the connection broke".to_owned());
            match (fail, kind) {
                (Fail::Db(error), _) => return Err(error),
                (fail, _) => {
                    self.drop_connection();
                    return Err(match (fail, kind) {
                        (Fail::Lost, Kind::Repeat) if attempt == 1 => continue,
                        (Fail::Lost, Kind::Single) => ambiguous(),
                        (Fail::Lost, Kind::Steps) if committing => ambiguous(),
                        (Fail::Late, Kind::Steps) if committing => ambiguous(),
                        (Fail::Late, _) => late(),
                        _ => gone(),
                    });
                }
            }
        }
    }

    /// A read of what is committed.
    pub fn read<T>(
        &mut self,
        verb: &'static str,
        mut read: impl FnMut(&mut Work<'_>) -> Result<T, Fail>,
    ) -> Result<T, DbError> {
        self.call(verb, Kind::Repeat, |work| {
            work.step(Point::Read)?;
            read(work).map(End::RollBack)
        })
    }

    /// One statement that may be repeated at will.
    pub fn write<T>(
        &mut self,
        verb: &'static str,
        mut write: impl FnMut(&mut Work<'_>) -> Result<T, Fail>,
    ) -> Result<T, DbError> {
        self.call(verb, Kind::Repeat, |work| {
            work.step(Point::Statement)?;
            write(work).map(End::Commit)
        })
    }

    /// On the held transaction's connection, or not at all.
    pub fn with_held<T>(
        &mut self,
        verb: &'static str,
        work: impl FnOnce(&mut Work<'_>) -> Result<End<T>, Fail>,
    ) -> Result<T, DbError> {
        if std::thread::panicking() {
            return Err(gone());
        }
        let Some(tx) = self.held.take() else {
            return Err(DbError::Unreachable(
                "the connection of the held transaction is lost, which rolls it back".to_owned(),
            ));
        };
        let server = self.server.clone();
        let limits = self.limits(verb, Kind::Steps);
        let mut committing = false;
        let result =
            Work::resume(server.inner(), tx, limits).and_then(|mut held| match work(&mut held) {
                Ok(End::Commit(value)) => {
                    committing = true;
                    held.commit().map(|()| value)
                }
                Ok(End::RollBack(value) | End::Keep(value, _)) => held.roll_back().map(|()| value),
                Err(Fail::Db(error)) => held.roll_back().and(Err(error.into())),
                Err(fail) => Err(fail),
            });
        result.map_err(|fail| {
            // Whatever is still open on it ends with it.
            self.drop_connection();
            match fail {
                Fail::Db(error) => error,
                _ if committing => DbError::Ambiguous("the connection broke".to_owned()),
                Fail::Lost => gone(),
                Fail::Late => late(),
            }
        })
    }

    /// A version of a statement that the database knows.
    pub fn installed(&self, digest: Digest) -> Option<Arc<Installed>> {
        let data = self.server.inner().data();
        data.get(None, &Key::Statement(digest)).map(Row::statement)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let server = self.server.inner();
        if let Some(tx) = self.held.take() {
            let notices_in = server.notices_in("held_begin");
            server.lose(server.data(), tx, notices_in);
        }
        self.drop_connection();
    }
}
