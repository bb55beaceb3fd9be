//! Three regions with a database each, and what the cases do with them.

use std::sync::Arc;
use std::time::Duration;

use prism_db::apply::{Applier, ApplyOutcome};
use prism_db::catalogue::{Catalogue, StatementConfig};
use prism_db::submit::{SubmitError, submit};
use prism_db::{
    ApplyItem, Committed, Database, DatabaseUrl, ItemAction, Migrated, OpenOptions, Submission,
    Topology, Update, Value, migrate, open,
};
use prism_proto::{Epoch, RegionKey, Seq};

/// What differs between backends: how a database comes to be, and a client that knows only SQL.
pub trait Backend {
    /// Address of a fresh database without any table.
    fn fresh(&self, name: &str) -> DatabaseUrl;
    /// The same database as nodes reach it, once it has tables: by a role that can do no more than it
    /// has to.
    fn for_nodes(&self, url: &DatabaseUrl, catalogue: &Catalogue) -> DatabaseUrl {
        let _ = catalogue;
        url.clone()
    }
    /// A plain client.
    fn client(&self, url: &DatabaseUrl) -> Box<dyn Sql>;
    /// The table `types`, a column per parameter type in the order of [`ALL_TYPES`].
    fn types_table(&self) -> &'static str;
}

/// A connection that knows nothing of Prism.
pub trait Sql {
    /// Runs statements, separated by semicolons.
    fn run(&mut self, sql: &str);
    /// The rows of a query, each value as text, NULL as `NULL`.
    fn rows(&mut self, sql: &str) -> Vec<Vec<String>>;
    /// Begins a transaction that makes updates of `users` elsewhere wait, until [`Sql::let_go`].
    fn hold_users(&mut self);
    /// Ends it.
    fn let_go(&mut self);

    /// The only value of a query.
    fn one(&mut self, sql: &str) -> String {
        let mut rows = self.rows(sql);
        assert_eq!((rows.len(), rows[0].len()), (1, 1), "{sql}: {rows:?}");
        rows.remove(0).remove(0)
    }
}

const REGIONS: [&str; 3] = ["NA", "EU", "AS"];

/// Portable; keys are texts so that no sequence is involved.
const TABLES: &str = "
    CREATE TABLE users (username TEXT PRIMARY KEY, name TEXT,
                        kills BIGINT NOT NULL DEFAULT 0 CHECK (kills < 1000));
    CREATE TABLE notes (id TEXT PRIMARY KEY, username TEXT NOT NULL REFERENCES users (username));
    CREATE TABLE later (id TEXT PRIMARY KEY, username TEXT NOT NULL
                        REFERENCES users (username) DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE traces (id TEXT PRIMARY KEY, trace TEXT NOT NULL);
    CREATE TABLE extras (id TEXT PRIMARY KEY, n BIGINT NOT NULL);
    INSERT INTO users (username, name) VALUES ('steve', 'Steve'), ('alex', 'Alex');
    INSERT INTO traces VALUES ('t', '');
    INSERT INTO extras VALUES ('e', 0);
";

fn statements() -> Vec<StatementConfig> {
    let json = serde_json::json!([
        {"name": "add_kills", "kind": "delta", "params": ["text", "int"], "on_reject": "undo",
         "sql": "UPDATE users SET kills = kills + $2 WHERE username = $1",
         "undo": "UPDATE users SET kills = kills - $2 WHERE username = $1"},
        {"name": "add_user", "kind": "insert", "params": ["text", "text"],
         "sql": "INSERT INTO users (username, name) VALUES ($1, $2)"},
        {"name": "rename", "kind": "absolute", "key": "users/$1", "params": ["text", "text"],
         "sql": "UPDATE users SET name = $2 WHERE username = $1",
         "old": "SELECT name, kills FROM users WHERE username = $1",
         "undo": "UPDATE users SET name = $old1 WHERE username = $1 AND name = $2"},
        {"name": "drop_user", "kind": "delete", "key": "users/$1", "params": ["text"],
         "sql": "DELETE FROM users WHERE username = $1"},
        {"name": "add_note", "kind": "insert", "params": ["text", "text"],
         "sql": "INSERT INTO notes (id, username) VALUES ($1, $2)"},
        {"name": "add_later", "kind": "insert", "params": ["text", "text"],
         "sql": "INSERT INTO later (id, username) VALUES ($1, $2)"},
        {"name": "append", "kind": "delta", "params": ["text"],
         "sql": "UPDATE traces SET trace = trace || $1 || ' ' WHERE id = 't'"},
        // The same parameter in another order of appearance: `$2` comes first in the text.
        {"name": "bracket", "kind": "delta", "params": ["text", "text"],
         "sql": "UPDATE traces SET trace = trace || '<' || $2 || '> ' WHERE id = $1"},
        {"name": "bump", "kind": "delta", "params": ["text"],
         "sql": "UPDATE extras SET n = n + 1 WHERE id = $1"},
        {"name": "store", "kind": "insert", "params": ALL_TYPES,
         "sql": "INSERT INTO types (id, b, i, f, d, t, y, u, at, j) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"},
    ]);
    serde_json::from_value(json).expect("statements")
}

/// Parameters of `store`: an id, then every type.
pub const ALL_TYPES: [&str; 10] = [
    "text",
    "bool",
    "int",
    "float",
    "decimal",
    "text",
    "bytes",
    "uuid",
    "timestamp",
    "json",
];

/// One region's database.
pub struct Site {
    pub region: &'static str,
    /// The owner's.
    pub url: DatabaseUrl,
    /// The nodes'.
    pub node: DatabaseUrl,
    pub options: OpenOptions,
}

impl Site {
    /// A connection of its own.
    pub fn open(&self) -> Box<dyn Database> {
        open(&self.node, self.options.clone()).expect("address")
    }
}

/// The cluster of one test.
pub struct World<B> {
    pub backend: B,
    pub catalogue: Arc<Catalogue>,
    pub regions: Arc<[(String, RegionKey)]>,
    pub na: Site,
    pub eu: Site,
    pub asia: Site,
}

impl<B: Backend> World<B> {
    /// Three fresh databases with tables and the prism schema.
    pub fn new(backend: B) -> Self {
        let catalogue = Arc::new(Catalogue::load(&statements()).expect("catalogue"));
        let regions: Arc<[_]> = REGIONS
            .iter()
            .map(|name| ((*name).to_owned(), RegionKey::of(name)))
            .collect();
        let site = |region: &'static str| {
            let topology = Topology {
                region: region.to_owned(),
                regions: Arc::clone(&regions),
            };
            let mut options = OpenOptions::new(topology, Arc::clone(&catalogue));
            options.lock_timeout = Duration::from_millis(300);
            let url = backend.fresh(region);
            let mut site = Site {
                region,
                node: url.clone(),
                url,
                options,
            };
            migrate(&site.url, &site.options.topology, &catalogue).expect("migrate");
            let mut sql = backend.client(&site.url);
            sql.run(TABLES);
            sql.run(backend.types_table());
            site.node = backend.for_nodes(&site.url, &catalogue);
            site
        };
        Self {
            na: site("NA"),
            eu: site("EU"),
            asia: site("AS"),
            backend,
            catalogue,
            regions,
        }
    }

    pub fn sql(&self, site: &Site) -> Box<dyn Sql> {
        self.backend.client(&site.url)
    }

    pub fn migrate(&self, site: &Site) -> Migrated {
        migrate(&site.url, &site.options.topology, &self.catalogue).expect("migrate")
    }

    /// A submission of a statement by name.
    pub fn call(&self, name: &str, params: &[Value]) -> Submission {
        let statement = self.catalogue.get(name).expect("statement");
        Submission {
            statement: statement.digest(),
            params: statement.bind(params).expect("parameters"),
            request_id: None,
        }
    }

    pub fn kills(&self, n: i64) -> Submission {
        self.call("add_kills", &[text("steve"), Value::Int(n)])
    }

    pub fn append(&self, word: &str) -> Submission {
        self.call("append", &[text(word)])
    }

    /// Submits; every update must be taken.
    pub fn submit(&self, site: &Site, batch: &[Submission]) -> Vec<Committed> {
        let answers = submit(&mut *site.open(), batch);
        let taken: Result<Vec<_>, _> = answers.into_iter().collect();
        taken.expect("every update is taken")
    }

    /// Submits, whatever becomes of it.
    pub fn answers(&self, site: &Site, batch: &[Submission]) -> Vec<Answer> {
        submit(&mut *site.open(), batch)
    }

    pub fn epoch(&self, site: &Site) -> Epoch {
        site.open().region().expect("region").epoch
    }

    /// The whole outbox, encoded.
    pub fn outbox(&self, site: &Site) -> Vec<(Seq, Vec<u8>)> {
        let mut updates = Vec::new();
        site.open()
            .outbox_read(Seq(1), Seq(u64::MAX >> 1), usize::MAX, &mut |seq, bytes| {
                updates.push((seq, bytes.to_vec()));
            })
            .expect("outbox");
        updates
    }

    pub fn applier(&self) -> Applier {
        Applier::new(Arc::clone(&self.catalogue), Arc::clone(&self.regions))
    }

    /// Applies all of `from`'s stream at `to`.
    pub fn ship(&self, from: &Site, to: &Site) -> ApplyOutcome {
        let updates = self.outbox(from);
        let epoch = self.epoch(from);
        self.applier()
            .apply(&mut *to.open(), from.region, epoch, &updates)
    }

    /// Applies every stream everywhere.
    pub fn ship_all(&self) {
        let sites = [&self.na, &self.eu, &self.asia];
        for from in sites {
            for to in sites.into_iter().filter(|to| to.region != from.region) {
                let outcome = self.ship(from, to);
                assert_eq!(outcome.wait, None, "{} to {}", from.region, to.region);
            }
        }
    }

    pub fn name_at(&self, site: &Site) -> String {
        self.sql(site)
            .one("SELECT name FROM users WHERE username = 'steve'")
    }

    pub fn rename(&self, name: &str) -> Submission {
        self.call("rename", &[text("steve"), text(name)])
    }

    pub fn kills_at(&self, site: &Site) -> i64 {
        let kills = self
            .sql(site)
            .one("SELECT kills FROM users WHERE username = 'steve'");
        kills.parse().expect("a number")
    }

    pub fn trace_at(&self, site: &Site) -> String {
        let trace = self.sql(site).one("SELECT trace FROM traces");
        trace.trim_end().to_owned()
    }
}

/// Decoded, to be run.
pub fn items(updates: &[(Seq, Vec<u8>)]) -> Vec<ApplyItem> {
    let item = |(seq, bytes): &(Seq, Vec<u8>)| ApplyItem {
        seq: *seq,
        update: Update::decode(bytes).expect("update"),
        action: ItemAction::Run,
    };
    updates.iter().map(item).collect()
}

pub fn text(s: &str) -> Value {
    Value::Text(s.to_owned())
}

/// Tries until it holds; fails after a deadline.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// With a request id.
pub fn with_id(submission: Submission, id: u8) -> Submission {
    Submission {
        request_id: Some([id; 16]),
        ..submission
    }
}

/// What became of one submission.
pub type Answer = Result<Committed, SubmitError>;

/// `+` for taken, else what went wrong.
pub fn pattern(answers: &[Answer]) -> String {
    let sign = |answer: &Answer| match answer {
        Ok(_) => '+',
        Err(SubmitError::Refused { .. }) => 'R',
        Err(SubmitError::TooLarge { .. }) => 'L',
        Err(SubmitError::Unavailable(_)) => 'U',
        Err(SubmitError::NotReady(_)) => 'N',
        Err(SubmitError::Unknown(_)) => '?',
        Err(SubmitError::Blocked(_)) => 'B',
        Err(SubmitError::NotTried) => '-',
        Err(SubmitError::Repeated(_)) => '=',
        Err(SubmitError::Reused) => '!',
    };
    answers.iter().map(sign).collect()
}

/// Numbers of those that were taken.
pub fn seqs(answers: &[Answer]) -> Vec<u64> {
    let taken = answers.iter().filter_map(|a| a.as_ref().ok());
    taken.map(|committed| committed.seq.0).collect()
}
