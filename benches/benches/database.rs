//! Submit and apply in batches, with statements that interleave.
//!
//! `submit` runs at the origin (statements, outbox rows, numbers, one commit), `apply` at a peer
//! (watermark check, statements, watermark, one commit). Both are durable: fsync as in production.
//! Figures are updates per second.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prism_db::apply::Applier;
use prism_db::catalogue::{Catalogue, StatementConfig};
use prism_db::submit::submit;
use prism_db::throwaway::Cluster;
use prism_db::{
    Database, DatabaseUrl, Hlc, OpenOptions, Submission, Topology, Update, Value, migrate, open,
};
use prism_proto::{Epoch, RegionKey, Seq, Tag};

const BATCHES: [usize; 3] = [1, 64, 512];

/// Rows that the updates are spread over.
const ROWS: usize = 1000;

/// Tables that a backend creates in a fresh database before [`Bed::new`].
const TABLES: &str = "
    CREATE TABLE users (username TEXT PRIMARY KEY, name TEXT NOT NULL, kills BIGINT NOT NULL);
    CREATE TABLE items (id TEXT PRIMARY KEY, n BIGINT NOT NULL);
";

/// Another one for each update, in order as those that Prism makes.
fn request_id(n: u64) -> [u8; 16] {
    (u128::from(n) << 64 | u128::from(n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).to_be_bytes()
}

/// A region's database with the schema.
struct Bed {
    url: DatabaseUrl,
    options: OpenOptions,
}

impl Bed {
    /// Adds the schema to a database with [`TABLES`], and the rows.
    fn new(url: DatabaseUrl) -> Self {
        let configs: Vec<StatementConfig> = serde_json::from_value(serde_json::json!([
            {"name": "add_user", "kind": "insert", "params": ["text"],
             "sql": "INSERT INTO users (username, name, kills) VALUES ($1, '', 0)"},
            {"name": "add_item", "kind": "insert", "params": ["text"],
             "sql": "INSERT INTO items (id, n) VALUES ($1, 0)"},
            {"name": "add_kills", "kind": "delta", "params": ["text", "int"],
             "sql": "UPDATE users SET kills = kills + $2 WHERE username = $1"},
            {"name": "rename", "kind": "absolute", "key": "users/$1", "params": ["text", "text"],
             "sql": "UPDATE users SET name = $2 WHERE username = $1"},
            {"name": "use_item", "kind": "delta", "params": ["text"],
             "sql": "UPDATE items SET n = n - 1 WHERE id = $1"},
        ]))
        .expect("statements");
        let catalogue = Arc::new(Catalogue::load(&configs).expect("catalogue"));
        let topology = Topology {
            region: "NA".to_owned(),
            regions: Arc::new(["NA", "EU"].map(|n| (n.to_owned(), RegionKey::of(n)))),
        };
        migrate(&url, &topology, &catalogue).expect("migrate");
        let options = OpenOptions::new(topology, catalogue);
        let bed = Self { url, options };
        let users = (0..ROWS).map(|n| bed.call("add_user", &[key(n)]));
        let items = (0..ROWS).map(|n| bed.call("add_item", &[key(n)]));
        let answers = submit(&mut *bed.open(), &users.chain(items).collect::<Vec<_>>());
        assert!(answers.iter().all(Result::is_ok));
        bed
    }

    fn open(&self) -> Box<dyn Database> {
        open(&self.url, self.options.clone()).expect("address")
    }

    fn call(&self, name: &str, params: &[Value]) -> Submission {
        let statement = self.options.catalogue.get(name).expect("statement");
        Submission {
            statement: statement.digest(),
            params: statement.bind(params).expect("parameters"),
            // Made by `submit`: each is another request.
            request_id: None,
        }
    }

    /// The n-th update: three statements in turn, over all rows.
    fn nth(&self, n: usize) -> Submission {
        match n % 3 {
            0 => self.call("add_kills", &[key(n), Value::Int(1)]),
            1 => self.call("rename", &[key(n), Value::Text(format!("name {n}"))]),
            _ => self.call("use_item", &[key(n)]),
        }
    }
}

fn key(n: usize) -> Value {
    Value::Text(format!("row {}", n % ROWS))
}

/// A stream that goes on for ever, as region EU would send it.
struct Stream<'a> {
    bed: &'a Bed,
    next: u64,
}

impl Stream<'_> {
    fn take(&mut self, count: usize) -> Vec<(Seq, Vec<u8>)> {
        let mut updates = Vec::with_capacity(count);
        for _ in 0..count {
            let n = self.next;
            self.next += 1;
            let one = self.bed.nth(n as usize);
            let update = Update {
                tag: Tag(n),
                prev_tag: Tag(n - 1),
                statement: one.statement,
                params: one.params,
                old: Vec::new(),
                hlc: Hlc(n << 16),
                rows: 1,
                seen: Vec::new(),
                undoes: None,
                held: false,
                request_id: Some(request_id(n)),
            };
            updates.push((Seq(n), update.encode()));
        }
        updates
    }
}

/// All benchmarks of one backend, given a database with [`TABLES`].
fn backend(c: &mut Criterion, name: &str, url: DatabaseUrl) {
    let bed = Bed::new(url);
    let mut db = bed.open();

    let mut group = c.benchmark_group(format!("submit/{name}"));
    tune(&mut group);
    for size in BATCHES {
        group.throughput(Throughput::Elements(size as u64));
        let batch: Vec<_> = (0..size).map(|n| bed.nth(n)).collect();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                let answers = submit(&mut *db, &batch);
                assert!(answers.iter().all(Result::is_ok));
            });
        });
    }
    group.finish();

    let mut stream = Stream { bed: &bed, next: 1 };
    let regions = Arc::clone(&bed.options.topology.regions);
    let mut applier = Applier::new(Arc::clone(&bed.options.catalogue), regions);
    let mut group = c.benchmark_group(format!("apply/{name}"));
    tune(&mut group);
    for size in BATCHES {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_custom(|iterations| {
                let mut busy = Duration::ZERO;
                for _ in 0..iterations {
                    let updates = stream.take(size);
                    let start = Instant::now();
                    let outcome = applier.apply(&mut *db, "EU", Epoch(1), &updates);
                    busy += start.elapsed();
                    assert_eq!((outcome.executed, outcome.wait), (size as u64, None));
                }
                busy
            });
        });
    }
    group.finish();
}

fn tune(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>) {
    group.sample_size(20);
    group.warm_up_time(Duration::from_secs(1));
    group.measurement_time(Duration::from_secs(3));
}

/// On the disk that holds the build, not in a temporary directory that may be memory.
fn sqlite(c: &mut Criterion) {
    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("directory");
    let path = dir.path().join("region.db");
    let file = rusqlite::Connection::open(&path).expect("file");
    file.execute_batch(TABLES).expect("tables");
    drop(file);
    backend(c, "sqlite", DatabaseUrl::Sqlite(path));
}

/// A throwaway server, its data on the disk that holds temporary files.
fn postgres(c: &mut Criterion) {
    let cluster = Cluster::start().unwrap_or_else(|e| panic!("{e}"));
    cluster.create_database("region").expect("database");
    let url = cluster.url("region");
    let mut client = ::postgres::Client::connect(&url, ::postgres::NoTls).expect("connects");
    client.batch_execute(TABLES).expect("tables");
    let address = DatabaseUrl::parse(&url, Path::new("/")).expect("address");
    backend(c, "postgres", address);
    by_hand(c, &mut client);
}

/// The same load on the same server as one would write it without Prism: a transaction with one
/// round trip per statement, each prepared beforehand.
fn by_hand(c: &mut Criterion, client: &mut ::postgres::Client) {
    let statements = [
        "UPDATE users SET kills = kills + $2 WHERE username = $1",
        "UPDATE users SET name = $2 WHERE username = $1",
        "UPDATE items SET n = n - 1 WHERE id = $1",
    ]
    .map(|sql| client.prepare(sql).expect("prepares"));
    let mut group = c.benchmark_group("by hand/postgres");
    tune(&mut group);
    for size in BATCHES {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                let mut transaction = client.transaction().expect("begins");
                for n in 0..size {
                    let (row, name) = (format!("row {}", n % ROWS), format!("name {n}"));
                    let rows = match n % 3 {
                        0 => transaction.execute(&statements[0], &[&row, &1i64]),
                        1 => transaction.execute(&statements[1], &[&row, &name]),
                        _ => transaction.execute(&statements[2], &[&row]),
                    };
                    assert_eq!(rows.expect("runs"), 1);
                }
                transaction.commit().expect("commits");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, sqlite, postgres);
criterion_main!(benches);
