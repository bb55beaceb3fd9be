//! SQLite in files of a temporary directory.

use prism_db::DatabaseUrl;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::world::{Backend, Sql};

pub struct Sqlite {
    dir: tempfile::TempDir,
}

impl Sqlite {
    pub fn start() -> Self {
        Self {
            dir: tempfile::tempdir().expect("temporary directory"),
        }
    }
}

impl Backend for Sqlite {
    fn fresh(&self, name: &str) -> DatabaseUrl {
        let path = self.dir.path().join(format!("{name}.db"));
        Connection::open(&path).expect("file");
        DatabaseUrl::Sqlite(path)
    }

    fn client(&self, url: &DatabaseUrl) -> Box<dyn Sql> {
        let DatabaseUrl::Sqlite(path) = url else {
            panic!("not SQLite: {url}");
        };
        let db = Connection::open(path).expect("file");
        db.busy_timeout(std::time::Duration::from_secs(10))
            .expect("timeout");
        Box::new(Client(db))
    }

    fn types_table(&self) -> &'static str {
        "CREATE TABLE types (id TEXT PRIMARY KEY, b INTEGER, i INTEGER, f REAL, d TEXT, t TEXT,
                             y BLOB, u TEXT, at TEXT, j TEXT) STRICT"
    }
}

struct Client(Connection);

impl Sql for Client {
    fn run(&mut self, sql: &str) {
        self.0.execute_batch(sql).expect(sql);
    }

    fn rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        let mut query = self.0.prepare(sql).expect(sql);
        let columns = query.column_count();
        let mut rows = query.query([]).expect(sql);
        let mut all = Vec::new();
        while let Some(row) = rows.next().expect(sql) {
            let value = |column| match row.get_ref(column).expect(sql) {
                ValueRef::Null => "NULL".to_owned(),
                ValueRef::Integer(i) => i.to_string(),
                ValueRef::Real(f) => f.to_string(),
                ValueRef::Text(t) => String::from_utf8_lossy(t).into_owned(),
                ValueRef::Blob(b) => b.iter().map(|byte| format!("{byte:02x}")).collect(),
            };
            all.push((0..columns).map(value).collect());
        }
        all
    }

    fn hold_users(&mut self) {
        self.run("BEGIN IMMEDIATE");
    }

    fn let_go(&mut self) {
        self.run("ROLLBACK");
    }
}
