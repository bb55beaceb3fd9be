//! The three databases of the demo, and plain SQL on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prism_db::throwaway::Cluster;

use super::{Backend, DemoError};

/// Rows that all regions count on.
pub(super) const COUNTERS: usize = 100;

/// What the demo's updates do: neither may happen twice, and neither hides it if it does.
pub(super) const STATEMENTS: &str = r#"
[[statement]]
name = "count"
sql = "UPDATE counters SET n = n + $2 WHERE id = $1"
params = ["text", "int"]
kind = "delta"

[[statement]]
name = "note"
sql = "INSERT INTO notes (id, origin) VALUES ($1, $2)"
params = ["text", "text"]
kind = "insert"
"#;

/// One region's database.
#[derive(Debug)]
pub(super) enum RegionDatabase {
    Sqlite(PathBuf),
    Postgres(Box<Cluster>, String),
}

/// Everything in one region's database that the demo's updates have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// Value per counter.
    pub(super) counters: BTreeMap<String, i64>,
    /// How often each note is there, with where it came from.
    pub(super) notes: BTreeMap<(String, String), i64>,
}

impl RegionDatabase {
    /// Makes the databases of the regions, with the application's tables.
    pub(super) fn create(
        backend: Backend,
        regions: &[&str],
        dir: &Path,
    ) -> Result<Vec<Self>, DemoError> {
        // Servers take seconds to start: at the same time.
        let databases: Vec<Self> = std::thread::scope(|scope| {
            let starts: Vec<_> = regions
                .iter()
                .map(|region| scope.spawn(move || Self::start(backend, region, dir)))
                .collect();
            starts
                .into_iter()
                .map(|start| {
                    start
                        .join()
                        .unwrap_or_else(|e| std::panic::resume_unwind(e))
                })
                .collect::<Result<_, _>>()
        })?;
        for (database, region) in databases.iter().zip(regions) {
            database
                .tables()
                .map_err(|e| DemoError::Sql((*region).to_owned(), e))?;
        }
        Ok(databases)
    }

    fn start(backend: Backend, region: &str, dir: &Path) -> Result<Self, DemoError> {
        let name = region.to_lowercase();
        match backend {
            Backend::Sqlite => Ok(Self::Sqlite(dir.join(format!("{name}.db")))),
            Backend::Postgres => {
                let cluster = Cluster::start()?;
                cluster.create_database(&name)?;
                Ok(Self::Postgres(Box::new(cluster), name))
            }
        }
    }

    /// As it stands in `prism.toml`.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
            Self::Postgres(cluster, name) => cluster.url(name),
        }
    }

    fn tables(&self) -> Result<(), String> {
        let mut sql = String::from(
            "CREATE TABLE counters (id text PRIMARY KEY, n bigint NOT NULL);
             CREATE TABLE notes (id text NOT NULL, origin text NOT NULL);",
        );
        for i in 0..COUNTERS {
            sql.push_str(&format!(
                "INSERT INTO counters VALUES ('{}', 0);",
                counter(i)
            ));
        }
        match self {
            Self::Sqlite(_) => {
                let db = self.sqlite()?;
                db.pragma_update(None, "journal_mode", "wal")
                    .map_err(text)?;
                db.execute_batch(&format!("BEGIN;{sql}COMMIT;"))
                    .map_err(text)
            }
            Self::Postgres(..) => self.postgres()?.batch_execute(&sql).map_err(text),
        }
    }

    /// What is there now.
    pub(super) fn content(&self) -> Result<Content, String> {
        const COUNTS: &str = "SELECT id, n FROM counters";
        const NOTES: &str = "SELECT id, origin, count(*) FROM notes GROUP BY id, origin";
        match self {
            Self::Sqlite(_) => {
                let db = self.sqlite()?;
                let mut counts = db.prepare(COUNTS).map_err(text)?;
                let counts = counts.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
                let mut notes = db.prepare(NOTES).map_err(text)?;
                let notes =
                    notes.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)));
                Ok(Content {
                    counters: counts
                        .map_err(text)?
                        .collect::<Result<_, _>>()
                        .map_err(text)?,
                    notes: notes
                        .map_err(text)?
                        .collect::<Result<_, _>>()
                        .map_err(text)?,
                })
            }
            Self::Postgres(..) => {
                let mut db = self.postgres()?;
                let counts = db.query(COUNTS, &[]).map_err(text)?;
                let notes = db.query(NOTES, &[]).map_err(text)?;
                Ok(Content {
                    counters: counts.iter().map(|row| (row.get(0), row.get(1))).collect(),
                    notes: notes
                        .iter()
                        .map(|row| ((row.get(0), row.get(1)), row.get(2)))
                        .collect(),
                })
            }
        }
    }

    fn sqlite(&self) -> Result<rusqlite::Connection, String> {
        let Self::Sqlite(path) = self else {
            return Err("not a SQLite database".to_owned());
        };
        let db = rusqlite::Connection::open(path).map_err(text)?;
        db.busy_timeout(std::time::Duration::from_secs(10))
            .map_err(text)?;
        Ok(db)
    }

    fn postgres(&self) -> Result<postgres::Client, String> {
        postgres::Client::connect(&self.url(), postgres::NoTls).map_err(text)
    }
}

/// Name of a counter.
pub(super) fn counter(i: usize) -> String {
    format!("counter-{i:03}")
}

fn text(error: impl std::error::Error) -> String {
    // The outer message of a PostgreSQL error is only "db error".
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
