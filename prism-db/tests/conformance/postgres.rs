//! PostgreSQL: databases of one throwaway server for all tests of this program.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::{Client, NoTls, SimpleQueryMessage};
use prism_db::DatabaseUrl;
use prism_db::catalogue::Catalogue;
use prism_db::throwaway::{Cluster, ClusterOptions};

use crate::world::{Backend, Sql};

/// Goes with the program that started it. No test here lets it crash, and creating a hundred
/// databases is mostly waiting for the disk.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let options = ClusterOptions {
            fsync: false,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start_with(options).unwrap_or_else(|e| panic!("{e}"));
        let mut admin = cluster.admin("postgres").expect("connects");
        admin
            .batch_execute(&format!(
                "ALTER ROLE prism CREATEROLE; CREATE ROLE {ROLE} LOGIN PASSWORD 'secret'"
            ))
            .expect("an owner as on managed servers");
        cluster
    })
}

/// With which the nodes run.
const ROLE: &str = "conformance_node";

pub struct Postgres {
    test: u32,
}

impl Postgres {
    pub fn start() -> Self {
        static TESTS: AtomicU32 = AtomicU32::new(0);
        Self {
            test: TESTS.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Backend for Postgres {
    fn fresh(&self, name: &str) -> DatabaseUrl {
        let name = format!("{name}_{}", self.test).to_lowercase();
        cluster().create_database(&name).expect("database");
        DatabaseUrl::parse(&cluster().url(&name), Path::new("/")).expect("address")
    }

    fn for_nodes(&self, url: &DatabaseUrl, catalogue: &Catalogue) -> DatabaseUrl {
        let DatabaseUrl::Postgres(text) = url else {
            panic!("not PostgreSQL: {url}");
        };
        let granted = prism_db::create_role(url, ROLE, catalogue).expect("grants");
        assert!(!granted.expect("PostgreSQL has roles").created);
        let mut owner = Client::connect(text, NoTls).expect("connects");
        // A test may create more of them.
        owner
            .batch_execute(&format!(
                "ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {ROLE}"
            ))
            .expect("later tables");
        let (_, host) = text.split_once('@').expect("a login");
        DatabaseUrl::Postgres(format!("postgres://{ROLE}:secret@{host}"))
    }

    fn client(&self, url: &DatabaseUrl) -> Box<dyn Sql> {
        let DatabaseUrl::Postgres(url) = url else {
            panic!("not PostgreSQL: {url}");
        };
        let mut client = Client::connect(url, NoTls).expect("connects");
        client.batch_execute("SET TimeZone = 'UTC'").expect("UTC");
        Box::new(Plain(client))
    }

    fn types_table(&self) -> &'static str {
        "CREATE TABLE types (id text PRIMARY KEY, b boolean, i bigint, f double precision, d numeric,
                             t text, y bytea, u uuid, at timestamptz, j jsonb)"
    }
}

struct Plain(Client);

impl Sql for Plain {
    fn run(&mut self, sql: &str) {
        self.0.batch_execute(sql).expect(sql);
    }

    fn rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        let messages = self.0.simple_query(sql).expect(sql);
        messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(
                    (0..row.len())
                        .map(|i| row.get(i).unwrap_or("NULL").to_owned())
                        .collect(),
                ),
                _ => None,
            })
            .collect()
    }

    fn hold_users(&mut self) {
        self.run("BEGIN; SELECT * FROM users FOR UPDATE");
    }

    fn let_go(&mut self) {
        self.run("ROLLBACK");
    }
}
