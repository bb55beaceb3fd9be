//! Real databases, with the tables of the simulation's catalogue.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use prism_db::DatabaseUrl;
use prism_db::throwaway::{Cluster, ClusterOptions};
use prism_sim::database::catalogue;

/// What a real database does otherwise than the PostgreSQL that the model follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Postgres,
    Sqlite,
}

pub trait Backend {
    fn dialect(&self) -> Dialect;
    /// A database of that name in which these statements were run.
    fn fresh(&self, name: &str, sql: &str) -> DatabaseUrl;
    /// All rows of a query that gives texts, with `|` between the columns.
    fn rows(&self, url: &DatabaseUrl, sql: &str) -> Vec<String>;
}

/// The tables, and the accounts that are there at the beginning.
pub fn schema((min, max): (i64, i64), accounts: &[&str]) -> String {
    let tables = catalogue::TABLES
        .replace("{min}", &min.to_string())
        .replace("{max}", &max.to_string());
    let rows = accounts
        .iter()
        .map(|id| format!("INSERT INTO accounts (id, n, name) VALUES ('{id}', 0, 'first');"));
    tables + &rows.collect::<String>()
}

pub struct Sqlite(tempfile::TempDir);

impl Sqlite {
    pub fn new() -> Self {
        // In memory where there is such a place: nothing here is about durability.
        let memory = tempfile::tempdir_in("/dev/shm");
        Self(
            memory
                .or_else(|_| tempfile::tempdir())
                .expect("a directory"),
        )
    }
}

impl Backend for Sqlite {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn fresh(&self, name: &str, sql: &str) -> DatabaseUrl {
        let path = self.0.path().join(format!("{name}.db"));
        let db = rusqlite::Connection::open(&path).expect("a file");
        db.execute_batch(sql).expect("tables");
        DatabaseUrl::Sqlite(path)
    }

    fn rows(&self, url: &DatabaseUrl, sql: &str) -> Vec<String> {
        let DatabaseUrl::Sqlite(path) = url else {
            panic!("{url}");
        };
        let db = rusqlite::Connection::open(path).expect("the file");
        let mut query = db.prepare(sql).expect(sql);
        let columns = query.column_count();
        let read = |row: &rusqlite::Row<'_>| {
            let text = |i| row.get::<_, Option<String>>(i);
            let all: Result<Vec<_>, _> = (0..columns).map(text).collect();
            all.map(|all| join(&all))
        };
        let rows = query.query_map([], read).expect(sql);
        rows.collect::<Result<_, _>>().expect(sql)
    }
}

fn join(columns: &[Option<String>]) -> String {
    let texts = columns.iter().map(|c| c.as_deref().unwrap_or("NULL"));
    texts.collect::<Vec<_>>().join("|")
}

pub struct Postgres {
    cluster: Cluster,
    clients: Mutex<BTreeMap<String, postgres::Client>>,
}

impl Postgres {
    pub fn new() -> Self {
        let options = ClusterOptions {
            fsync: false,
            ..ClusterOptions::default()
        };
        Self {
            cluster: Cluster::start_with(options).unwrap_or_else(|e| panic!("{e}")),
            clients: Mutex::default(),
        }
    }
}

impl Backend for Postgres {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn fresh(&self, name: &str, sql: &str) -> DatabaseUrl {
        let name = name.to_lowercase();
        self.cluster.create_database(&name).expect("a database");
        let text = self.cluster.url(&name);
        let mut client = postgres::Client::connect(&text, postgres::NoTls).expect("connects");
        client.batch_execute(sql).expect("tables");
        let mut clients = self.clients.lock().expect("one thread");
        // Those of the seed before are of no use any more.
        if clients.len() == 3 {
            clients.clear();
        }
        clients.insert(text.clone(), client);
        drop(clients);
        DatabaseUrl::parse(&text, Path::new("/")).expect("an address")
    }

    fn rows(&self, url: &DatabaseUrl, sql: &str) -> Vec<String> {
        let DatabaseUrl::Postgres(text) = url else {
            panic!("{url}");
        };
        let mut clients = self.clients.lock().expect("one thread");
        let client = clients.get_mut(text).expect("a database of this seed");
        let rows = client.query(sql, &[]).expect(sql);
        let read = |row: &postgres::Row| {
            let all: Vec<_> = (0..row.len()).map(|i| row.get(i)).collect();
            join(&all)
        };
        rows.iter().map(read).collect()
    }
}
