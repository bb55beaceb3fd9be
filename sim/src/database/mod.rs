//! A region's database as a model: transactions, row locks, commit order, refusals, and everything
//! that can happen to a server and to the connections to it.
//!
//! It does what the PostgreSQL backend and its schema do (READ COMMITTED, row locks that are waited
//! for, one numbering row whose lock orders the commits, a watermark row per stream), on rows in
//! memory, with the statements of one small [catalogue]. `tests/model_is_true.rs` compares it with a
//! real database, verb by verb. Whether it was right, and not only the same, each commit is looked at
//! once more apart from how it was decided ([`ModelServer::findings`]).

mod adopt;
mod apply;
pub mod catalogue;
mod client;
mod held;
mod lanes;
mod locks;
mod numbering;
mod outbox;
mod random;
mod rejected;
mod requests;
mod rows;
mod server;
mod statements;
mod store;
mod submit;
mod trouble;
mod undo;
mod verbs;
mod work;

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;
use std::time::Duration;

use prism_db::catalogue::Catalogue;
use prism_db::{
    Committed, Database, DbError, Hlc, OpenOptions, OutboxFigures, RegionRow, RejectedRow,
    RequestRow, Submission, Topology,
};
use prism_proto::{Epoch, Position, RegionKey, Seq, Tag};

pub use adopt::adopt;
use client::{Client, End, Kind};
use random::random_u64;
pub use rows::Account;
use rows::{Installed, Key, Lane, Region, Row, Watermark};
pub use server::Clock;
use server::Server;
use statements::Program;
use store::Store;
pub use store::{Effect, Execution};
pub use trouble::{Calm, Fault, Point, Trouble};

/// What `prism adopt` puts behind the name of a database that takes part in nothing any more.
const SEALED: &str = " (being rebuilt)";

/// The server of one region's database. Clones are the same server.
#[derive(Clone)]
pub struct ModelServer(Arc<Server>);

/// A copy of everything that was committed. Clones share it.
#[derive(Clone)]
pub struct Backup(Store);

/// The application's tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// `accounts`, by id.
    pub accounts: BTreeMap<Arc<str>, Account>,
    /// `notes`, by id: the account that each names.
    pub notes: BTreeMap<Arc<str>, Arc<str>>,
}

impl ModelServer {
    /// An empty database in which `accounts.n` is kept between these bounds.
    #[must_use]
    pub fn new(bounds: (i64, i64)) -> Self {
        Self(Arc::new(Server::new(bounds)))
    }

    fn inner(&self) -> &Server {
        &self.0
    }

    /// What `prism migrate` does: the region's row, a watermark and a lane per peer, the versions of
    /// the statements. Idempotent. Returns the names of the statements whose version is new.
    ///
    /// # Panics
    /// If the database belongs to another region.
    pub fn migrate(&self, topology: &Topology, catalogue: &Catalogue) -> Vec<String> {
        let mut data = self.0.data();
        let mut writes = BTreeMap::new();
        match data.get(None, &Key::Region).map(Row::region) {
            Some(own) => assert_eq!(own.name, topology.region, "the database of another region"),
            None => {
                let own = Region {
                    name: topology.region.clone(),
                    epoch: Epoch(random_u64()),
                    next_seq: Seq(1),
                    last_tag: Tag(0),
                    hlc: Hlc(0),
                    bytes: 0,
                };
                writes.insert(Key::Region, Some(Arc::new(own).into()));
            }
        }
        for (name, key) in topology.regions.iter() {
            if *name == topology.region || data.get(None, &Key::Watermark(*key)).is_some() {
                continue;
            }
            let watermark = Watermark {
                stream: name.clone(),
                at: Position::default(),
                hlc: Hlc(0),
            };
            writes.insert(Key::Watermark(*key), Some(Arc::new(watermark).into()));
            let lane = Lane {
                peer: name.clone(),
                acked: Position::default(),
                holder: None,
                wanted: None,
                stale: false,
            };
            writes.insert(Key::Lane(*key), Some(Arc::new(lane).into()));
        }
        let mut added = Vec::new();
        for statement in catalogue.iter() {
            let key = Key::Statement(statement.digest());
            if data.get(None, &key).is_none() {
                added.push(statement.name().to_owned());
                let installed = Installed {
                    statement: Arc::clone(statement),
                    program: Program::of(statement.name()),
                };
                writes.insert(key, Some(Arc::new(installed).into()));
            }
        }
        let _ = data.store.commit(writes, &[]);
        data.store.recall();
        added
    }

    /// Puts a row into the application's `accounts`, as its owner may do at any time.
    pub fn set_account(&self, id: &str, account: Account) {
        let mut data = self.0.data();
        let row: Row = Arc::new(account).into();
        let writes = BTreeMap::from([(Key::Account(id.into()), Some(row))]);
        let _ = data.store.commit(writes, &[]);
    }

    /// A connection, made at its first call, and again after a loss.
    #[must_use]
    pub fn connect(&self, options: OpenOptions) -> Box<dyn Database> {
        Box::new(Client::new(self.clone(), options))
    }

    /// A transaction of the application, on a connection of its own: it does these writes itself, and
    /// calls `prism.submit` for each of them.
    ///
    /// # Errors
    /// As an application sees them: nothing was committed, unless it is `Ambiguous`.
    pub fn sql_transaction(
        &self,
        options: &OpenOptions,
        writes: &[Submission],
    ) -> Result<Vec<Committed>, DbError> {
        let mut client = Client::new(self.clone(), options.clone());
        let mut batch = client.batch(writes)?;
        for submission in &mut batch.submissions {
            submission.request_id.get_or_insert_with(random::random_id);
        }
        client.call("sql", Kind::Steps, |work| {
            batch.application(work).map(End::Commit)
        })
    }

    /// What happens at the points of every call from now on.
    pub fn set_trouble(&self, trouble: Arc<dyn Trouble>) {
        self.0.set_trouble(trouble);
    }

    /// The machine's clocks; until then those of whoever calls.
    pub fn set_clock(&self, clock: Arc<dyn Clock>) {
        self.0.set_clock(clock);
    }

    /// The wall clock goes so many microseconds ahead, or back.
    pub fn jump_clock(&self, micros: i64) {
        let mut data = self.0.data();
        data.jumped = data.jumped.saturating_add(micros);
    }

    /// The server's process dies and is there again: what was not committed is gone, with every
    /// connection.
    pub fn crash(&self) {
        let mut data = self.0.data();
        self.0.cut(&mut data);
    }

    /// False: nobody can connect any more, and all connections are cut.
    pub fn set_reachable(&self, reachable: bool) {
        let mut data = self.0.data();
        data.reachable = reachable;
        if !reachable {
            self.0.cut(&mut data);
        }
    }

    /// Whether one can connect.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.0.data().reachable
    }

    /// A copy of everything that is committed.
    #[must_use]
    pub fn backup(&self) -> Backup {
        let mut store = self.0.data().store.clone();
        store.forget_history();
        Backup(store)
    }

    /// Everything is as it was then.
    pub fn restore(&self, backup: &Backup) {
        let mut data = self.0.data();
        self.0.cut(&mut data);
        data.store = backup.0.clone();
        data.generation += 1;
    }

    /// A standby that lagged behind is promoted: the newest commits, so many at most, never happened.
    /// Returns how many that was.
    pub fn lose_newest(&self, count: usize) -> usize {
        let mut data = self.0.data();
        self.0.cut(&mut data);
        let lost = data.store.lose(count);
        data.generation += u64::from(lost > 0);
        lost
    }

    /// Counts restores, promotions and adoptions: within one, watermarks only move forward.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.data().generation
    }

    /// Whether there is such an account.
    #[must_use]
    pub fn has_account(&self, id: &str) -> bool {
        self.0.data().store.get(&Key::Account(id.into())).is_some()
    }

    /// What a request's id stands for, as committed.
    #[must_use]
    pub fn request(&self, id: &[u8; 16]) -> Option<RequestRow> {
        let data = self.0.data();
        let row = data.store.get(&Key::Request(*id))?.clone();
        Some(row.request().row.clone())
    }

    /// How far each region has acknowledged the own stream, as it is written down, and whether it is
    /// stale.
    #[must_use]
    pub fn lanes(&self) -> Vec<(String, Position, bool)> {
        let data = self.0.data();
        let (from, to) = (Key::Lane(RegionKey(0)), Key::Lane(RegionKey(u32::MAX)));
        let rows = data.store.range(Included(&from), Included(&to));
        let rows = rows.map(|(_, row)| row.clone().lane());
        rows.map(|row| (row.peer.clone(), row.acked, row.stale))
            .collect()
    }

    /// The oldest update of the own stream that is still kept.
    #[must_use]
    pub fn oldest_kept(&self) -> Option<Seq> {
        let data = self.0.data();
        let (from, to) = (Key::Outbox(Seq::ZERO), Key::Held(Seq::ZERO));
        let first = data.store.range(Included(&from), Excluded(&to)).next();
        first.and_then(|(key, _)| match key {
            Key::Outbox(seq) => Some(*seq),
            _ => None,
        })
    }

    /// The application's tables as committed.
    #[must_use]
    pub fn tables(&self) -> Tables {
        let data = self.0.data();
        let mut tables = Tables::default();
        let from = Key::Account("".into());
        let rows = data.store.range(Included(&from), Excluded(&Key::Region));
        for (key, row) in rows {
            match (key, row) {
                (Key::Account(id), Row::Account(account)) => {
                    let id = Arc::clone(id);
                    tables.accounts.insert(id, Account::clone(account));
                }
                (Key::Note(id), Row::Note(account)) => {
                    tables.notes.insert(Arc::clone(id), Arc::clone(account));
                }
                _ => {}
            }
        }
        tables
    }

    /// All dead letters, also those that were dealt with.
    #[must_use]
    pub fn letters(&self) -> Vec<RejectedRow> {
        let data = self.0.data();
        let (from, to) = (Key::Rejected(i64::MIN), Key::Rejected(i64::MAX));
        let rows = data.store.range(Included(&from), Included(&to));
        rows.map(|(_, row)| row.clone().rejected().row.clone())
            .collect()
    }

    /// What has been done with every update, in the order of the commits.
    #[must_use]
    pub fn execution_log(&self) -> Vec<Execution> {
        self.0.data().store.log.clone()
    }

    /// The same from entry `from` on. (A restore makes it shorter.)
    #[must_use]
    pub fn executions_from(&self, from: usize) -> Vec<Execution> {
        let data = self.0.data();
        data.store.log.get(from..).unwrap_or_default().to_vec()
    }

    /// What was wrong with commits: an update that was executed twice, or out of its order, or behind
    /// another one than its origin says; a watermark that says something else than was done.
    #[must_use]
    pub fn findings(&self) -> Vec<String> {
        self.0.data().findings.clone()
    }

    /// Own identity and numbering.
    ///
    /// # Panics
    /// Before [`ModelServer::migrate`].
    #[must_use]
    pub fn region(&self) -> RegionRow {
        let data = self.0.data();
        let own = data.get(None, &Key::Region).expect("migrated").region();
        RegionRow {
            name: own.name.clone(),
            epoch: own.epoch,
            next_seq: own.next_seq,
            last_tag: own.last_tag,
        }
    }

    /// All watermarks, by name.
    #[must_use]
    pub fn positions(&self) -> Vec<(String, Position)> {
        let data = self.0.data();
        let (from, to) = (Key::Watermark(RegionKey(0)), Key::Lane(RegionKey(0)));
        let rows = data.store.range(Included(&from), Excluded(&to));
        let rows = rows.map(|(_, row)| row.clone().watermark());
        let mut all: Vec<_> = rows.map(|row| (row.stream.clone(), row.at)).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// Size of the outbox.
    #[must_use]
    pub fn outbox(&self) -> OutboxFigures {
        let data = self.0.data();
        let (from, to) = (Key::Outbox(Seq::ZERO), Key::Held(Seq::ZERO));
        let mut figures = OutboxFigures {
            requests: data.store.requests,
            ..OutboxFigures::default()
        };
        for (_, row) in data.store.range(Included(&from), Excluded(&to)) {
            figures.rows += 1;
            figures.bytes += row.clone().outbox().encoded.len() as u64;
        }
        figures
    }

    /// Own updates that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        let data = self.0.data();
        let (from, to) = (Key::Held(Seq::ZERO), Key::Held(Seq(u64::MAX)));
        data.store.range(Included(&from), Included(&to)).count()
    }

    /// Open transactions and live connections.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        let data = self.0.data();
        (data.open.len(), data.sessions.len())
    }

    /// When the next transaction that lost its client ends, by the server's clock.
    #[must_use]
    pub fn next_end(&self) -> Option<Duration> {
        self.0.data().next_end()
    }
}
