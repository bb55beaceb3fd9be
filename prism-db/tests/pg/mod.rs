//! Regions on throwaway servers.
#![allow(dead_code)]

pub mod proxy;
pub mod tls;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use prism_db::apply::{Applier, ApplyOutcome};
use prism_db::catalogue::{Catalogue, Kind, OnReject, Reads, StatementConfig};
use prism_db::throwaway::Cluster;
use prism_db::{
    ApplyItem, ApplyReport, ApplyRequest, Committed, Database, DatabaseUrl, DbError, ItemAction,
    OpenOptions, ParamType, Submission, Topology, Update, Value,
};
use prism_proto::{Epoch, RegionKey, Seq};

pub const REGIONS: [&str; 3] = ["NA", "EU", "AS"];

pub fn topology(region: &str) -> Topology {
    Topology {
        region: region.to_owned(),
        regions: REGIONS
            .iter()
            .map(|name| ((*name).to_owned(), RegionKey::of(name)))
            .collect(),
    }
}

pub fn statement(name: &str, sql: &str, params: &[ParamType], kind: Kind) -> StatementConfig {
    StatementConfig {
        name: name.to_owned(),
        sql: sql.to_owned(),
        params: params.to_vec(),
        kind,
        key: matches!(kind, Kind::Absolute | Kind::Delete).then(|| "users/$1".to_owned()),
        old: None,
        undo: None,
        on_reject: OnReject::DeadLetter,
        reads: Reads::Own,
    }
}

pub fn catalogue() -> Arc<Catalogue> {
    use ParamType::{Bool, Bytes, Decimal, Float, Int, Json, Text, Timestamp, Uuid};
    let mut rename = statement(
        "rename",
        "UPDATE users SET name = $2 WHERE id = $1",
        &[Int, Text],
        Kind::Absolute,
    );
    rename.old = Some("SELECT name, kills FROM users WHERE id = $1".to_owned());
    rename.undo =
        Some("UPDATE users SET name = $old1 WHERE id = $1 AND name = $2 AND $old2 >= 0".to_owned());
    rename.on_reject = OnReject::Undo;
    let mut clear_odd = statement(
        "clear_odd",
        "UPDATE odd SET n = NULL, c = NULL, v = NULL, r = NULL, d = NULL, t = NULL, z = NULL, i = NULL,
            a = NULL, y = NULL, u = NULL, j = NULL, b = NULL, s = NULL WHERE id = $1",
        &[Int],
        Kind::Absolute,
    );
    clear_odd.old =
        Some("SELECT n, c, v, r, d, t, z, i, a, y, u, j, b, s FROM odd WHERE id = $1".to_owned());
    clear_odd.undo = Some(
        "UPDATE odd SET n = $old1, c = $old2, v = $old3, r = $old4, d = $old5, t = $old6, z = $old7,
            i = $old8, a = $old9, y = $old10, u = $old11, j = $old12, b = $old13, s = $old14
         WHERE id = $1 AND n IS NULL"
            .to_owned(),
    );
    let mut add_kills = statement(
        "add_kills",
        "UPDATE users SET kills = kills + $2 WHERE id = $1",
        &[Int, Int],
        Kind::Delta,
    );
    add_kills.undo = Some("UPDATE users SET kills = kills - $2 WHERE id = $1".to_owned());
    add_kills.on_reject = OnReject::Undo;
    let configs = [
        statement(
            "add_user",
            "INSERT INTO users (id, name) VALUES ($1, $2)",
            &[Int, Text],
            Kind::Insert,
        ),
        add_kills,
        clear_odd,
        rename,
        statement(
            "add_item",
            "INSERT INTO items (user_id, item) VALUES ($1, $2)",
            &[Int, Text],
            Kind::Insert,
        ),
        statement(
            "add_late_item",
            "INSERT INTO late_items (user_id, item) VALUES ($1, $2)",
            &[Int, Text],
            Kind::Insert,
        ),
        statement(
            "everything",
            "INSERT INTO everything VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                Int, Bool, Float, Decimal, Text, Bytes, Uuid, Timestamp, Json,
            ],
            Kind::Insert,
        ),
        statement(
            "add_tagged",
            "INSERT INTO everything (id, u, z) VALUES ($1, $2, $3)",
            &[Int, ParamType::GenUuid, ParamType::GenNow],
            Kind::Insert,
        ),
        statement(
            "missing",
            "UPDATE nowhere SET n = n + $1 WHERE id = 1",
            &[Int],
            Kind::Delta,
        ),
        statement(
            "guarded",
            "UPDATE guarded SET n = n + $1 WHERE id = 1",
            &[Int],
            Kind::Delta,
        ),
    ];
    Arc::new(Catalogue::load(&configs).unwrap_or_else(|e| panic!("{e:?}")))
}

const TABLES: &str = "
    CREATE TABLE users (id bigint PRIMARY KEY, name text, kills bigint NOT NULL DEFAULT 0,
                        CHECK (kills < 1000000));
    CREATE TABLE items (user_id bigint NOT NULL REFERENCES users, item text);
    CREATE TABLE late_items (
        user_id bigint NOT NULL REFERENCES users DEFERRABLE INITIALLY DEFERRED, item text);
    CREATE TABLE everything (id bigint PRIMARY KEY, b boolean, f double precision, d numeric, t text,
                             y bytea, u uuid, z timestamptz, j jsonb);
    CREATE TABLE guarded (id bigint PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO guarded VALUES (1, 0);
    CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.n < 0 THEN RAISE EXCEPTION 'n would be %', NEW.n; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER guard BEFORE UPDATE ON guarded FOR EACH ROW EXECUTE FUNCTION guard();
";

/// One for all tests of a program that do not hurt it. It goes with the program.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start().unwrap_or_else(|e| panic!("{e}")))
}

/// A region's database: migrated, with tables.
pub struct Region {
    pub name: String,
    pub url: String,
    pub db: Box<dyn Database>,
}

pub fn options(region: &str) -> OpenOptions {
    let mut options = OpenOptions::new(topology(region), catalogue());
    options.lock_timeout = Duration::from_millis(500);
    options.statement_timeout = Duration::from_secs(20);
    options
}

pub fn open(url: &str, options: OpenOptions) -> Box<dyn Database> {
    prism_db::open(&parse(url), options).expect("opens lazily")
}

pub fn parse(url: &str) -> DatabaseUrl {
    DatabaseUrl::parse(url, Path::new("/")).expect("an address")
}

impl Region {
    pub fn new(cluster: &Cluster, database: &str, region: &str) -> Self {
        cluster.create_database(database).expect("a database");
        let url = cluster.url(database);
        let mut client = Client::connect(&url, NoTls).expect("connects");
        client.batch_execute(TABLES).expect("tables");
        prism_db::migrate(&parse(&url), &topology(region), &catalogue()).expect("migrates");
        Self {
            name: region.to_owned(),
            db: open(&url, options(region)),
            url,
        }
    }

    /// Another handle, as another process would have.
    pub fn another(&self) -> Box<dyn Database> {
        open(&self.url, options(&self.name))
    }

    /// Plain SQL.
    pub fn sql(&self) -> Client {
        Client::connect(&self.url, NoTls).expect("connects")
    }

    pub fn number(&self, query: &str) -> i64 {
        self.sql().query_one(query, &[]).expect("a number").get(0)
    }

    pub fn epoch(&mut self) -> Epoch {
        self.db.region().expect("region").epoch
    }
}

pub fn submission(name: &str, params: &[Value]) -> Submission {
    let catalogue = catalogue();
    let statement = catalogue.get(name).expect("in the catalogue");
    Submission {
        statement: statement.digest(),
        params: statement.bind(params).expect("parameters fit"),
        request_id: None,
    }
}

pub fn user(id: i64) -> Submission {
    submission(
        "add_user",
        &[Value::Int(id), Value::Text(format!("user {id}"))],
    )
}

pub fn kills(id: i64, n: i64) -> Submission {
    submission("add_kills", &[Value::Int(id), Value::Int(n)])
}

pub fn items(committed: &[Committed]) -> Vec<ApplyItem> {
    committed
        .iter()
        .map(|c| ApplyItem {
            seq: c.seq,
            update: c.update.clone(),
            action: ItemAction::Run,
        })
        .collect()
}

pub fn apply(
    db: &mut dyn Database,
    stream: &str,
    epoch: Epoch,
    items: &[ApplyItem],
) -> Result<ApplyReport, DbError> {
    db.apply(&ApplyRequest {
        stream,
        epoch,
        items,
        ignore_dependencies: false,
    })
}

#[track_caller]
pub fn assert_done(report: &ApplyReport, upto: u64, ran: u64, had: u64) {
    match report {
        ApplyReport::Done {
            position,
            executed,
            skipped,
            drift,
        } => assert_eq!(
            (position.seq, *executed, *skipped, drift.as_slice()),
            (Seq(upto), ran, had, [].as_slice())
        ),
        other => panic!("not done: {other:?}"),
    }
}

/// The same submission under a caller's id.
pub fn with_id(mut submission: Submission, n: u64) -> Submission {
    submission.request_id = Some(id(n));
    submission
}

pub fn id(n: u64) -> [u8; 16] {
    let mut id = [7; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    id
}

/// The stream of `from` as its outbox holds it.
pub fn outbox(from: &mut Region) -> Vec<ApplyItem> {
    let mut items = Vec::new();
    from.db
        .outbox_read(Seq(1), Seq(u64::MAX >> 1), usize::MAX, &mut |seq, bytes| {
            items.push(ApplyItem {
                seq,
                update: Update::decode(bytes).expect("an update"),
                action: ItemAction::Run,
            });
        })
        .expect("the outbox");
    items
}

/// Applies all of `from`'s stream at `to`, as a node does.
pub fn ship(from: &mut Region, to: &mut Region) -> ApplyOutcome {
    let updates: Vec<_> = outbox(from)
        .iter()
        .map(|item| (item.seq, item.update.encode()))
        .collect();
    let epoch = from.epoch();
    Applier::new(catalogue(), topology(&to.name).regions).apply(
        &mut *to.db,
        &from.name,
        epoch,
        &updates,
    )
}

/// The same, and everything is applied.
#[track_caller]
pub fn ship_all(from: &mut Region, to: &mut Region) {
    let outcome = ship(from, to);
    assert_eq!(outcome.wait, None);
    let end = from.db.region().expect("region").next_seq;
    assert_eq!(outcome.position.map(|p| p.seq.next()), Some(end));
}

#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 60 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}
