//! A journal from long ago, with nodes in this process, on SQLite.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use prism_db::journal::{Disk, Journal, Options, RealDisk};
use prism_db::{Digest, Value};
use rusqlite::Connection;

use super::entry::Entry;
use super::tests::{alarm, bump, cluster, start, until};

/// Its clock runs two days late.
struct Late;

impl Disk for Late {
    type File = fs::File;
    type Lock = fs::File;

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<fs::File> {
        RealDisk.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<fs::File> {
        RealDisk.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<fs::File>> {
        RealDisk.lock(path)
    }
    fn random(&self) -> u64 {
        RealDisk.random()
    }
    fn now_ms(&self) -> u64 {
        RealDisk.now_ms() - 2 * 86_400_000
    }
}

fn spooled_long_ago(data_dir: &Path, statement: Digest) {
    let entry = Entry {
        name: "bump".into(),
        statement,
        params: vec![Value::Int(1)],
        request_id: [7; 16],
        body: Digest([1; 16]),
    };
    fs::create_dir_all(data_dir).expect("a directory");
    let opened = Journal::open_on(Late, &data_dir.join("journal"), Options::default());
    let (mut journal, _) = opened.expect("a journal");
    journal.append(&[entry.encode()]).expect("written");
}

/// Its caller got no answer, and went to NA2. NA1 comes back when nobody remembers that.
#[test]
fn what_nobody_can_tell_any_more_is_not_executed_a_second_time_but_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, path) = cluster(dir.path());
    let statement = config.catalogue.get("bump").expect("there").digest();
    let count = || {
        let db = Connection::open(&path).expect("opens");
        db.busy_timeout(Duration::from_secs(10)).expect("set");
        db.query_row("SELECT n FROM counters", [], |row| row.get::<_, i64>(0))
            .expect("a number")
    };
    spooled_long_ago(&dir.path().join("NA1"), statement);
    let node = start(&config, "NA1", dir.path());
    let status = || node.board().status();
    until("it is a dead letter", || {
        status().journal.entries == 0 && status().rejected == 1
    });
    assert!(alarm(&node, "rejected"));
    assert_eq!(count(), 0);
    let _ = node.drain(Duration::ZERO);

    // The database was away for two days: what it remembers reaches back to before them.
    spooled_long_ago(&dir.path().join("NA2"), statement);
    let db = Connection::open(&path).expect("opens");
    db.execute_batch(
        "DELETE FROM prism_request;
         INSERT INTO prism_request (request_id, body_digest, stream, state, at)
         VALUES (zeroblob(16), zeroblob(16), 'EU', 'committed',
                 CAST((unixepoch() - 3 * 86400) * 1000000 AS INTEGER))",
    )
    .expect("a request");
    drop(db);
    let node = start(&config, "NA2", dir.path());
    until("it is executed", || count() == 1);
    assert!(bump(&node).is_ok());
    let _ = node.drain(Duration::ZERO);
}
