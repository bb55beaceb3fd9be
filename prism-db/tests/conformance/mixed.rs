//! EU has PostgreSQL, the others have SQLite: what one takes the other has to take.

use prism_db::DatabaseUrl;

use crate::postgres::Postgres;
use crate::sqlite::Sqlite;
use crate::world::{Backend, Sql};

pub struct Mixed(Postgres, Sqlite);

impl Mixed {
    pub fn start() -> Self {
        Self(Postgres::start(), Sqlite::start())
    }
}

impl Backend for Mixed {
    fn fresh(&self, name: &str) -> DatabaseUrl {
        match name {
            "EU" => self.0.fresh(name),
            _ => self.1.fresh(name),
        }
    }

    fn client(&self, url: &DatabaseUrl) -> Box<dyn Sql> {
        match url {
            DatabaseUrl::Postgres(_) => self.0.client(url),
            DatabaseUrl::Sqlite(_) => self.1.client(url),
        }
    }

    fn types_table(&self) -> &'static str {
        // Of the parameters' types PostgreSQL makes texts on its own.
        "CREATE TABLE types (id text PRIMARY KEY, b text, i bigint, f double precision, d text,
                             t text, y bytea, u text, at text, j text)"
    }
}
