//! What is particular to SQLite: the file itself, and death in the middle of a write.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use prism_db::apply::Applier;
use prism_db::catalogue::{Catalogue, StatementConfig};
use prism_db::direct::{DirectOutcome, DirectWriter};
use prism_db::submit::{SubmitError, submit};
use prism_db::{
    Database, DatabaseUrl, DbError, OpenOptions, Submission, Topology, Value, migrate, open,
};
use prism_proto::{ApplyCause, DirectFailure, RegionKey, Seq, Verdict};
use rusqlite::Connection;

fn catalogue() -> Arc<Catalogue> {
    let configs: Vec<StatementConfig> = serde_json::from_value(serde_json::json!([
        {"name": "bump", "kind": "delta", "params": ["text", "int"],
         "sql": "UPDATE counters SET n = n + $2 WHERE id = $1"},
        {"name": "guarded", "kind": "insert", "params": ["int"],
         "sql": "INSERT INTO guarded (x) VALUES ($1)"},
        {"name": "endless", "kind": "delta", "params": ["text"], "reads": "others",
         "sql": "UPDATE counters SET n = (SELECT count(*) FROM big a, big b, big c, big d) WHERE id = $1"},
    ]))
    .expect("statements");
    Arc::new(Catalogue::load(&configs).expect("catalogue"))
}

fn options(region: &str) -> OpenOptions {
    let regions = ["NA", "EU"].map(|name| (name.to_owned(), RegionKey::of(name)));
    let topology = Topology {
        region: region.to_owned(),
        regions: Arc::new(regions),
    };
    let mut options = OpenOptions::new(topology, catalogue());
    options.lock_timeout = Duration::from_secs(10);
    options
}

const TABLES: &str = "
    CREATE TABLE counters (id TEXT PRIMARY KEY, n INTEGER NOT NULL);
    INSERT INTO counters VALUES ('a', 0), ('b', 0);
    CREATE TABLE guarded (x INTEGER PRIMARY KEY);
    CREATE TRIGGER guard BEFORE INSERT ON guarded WHEN NEW.x = 13
        BEGIN SELECT RAISE(ROLLBACK, 'thirteen'); END;
    CREATE TABLE big (x INTEGER);
    WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2000)
        INSERT INTO big SELECT x FROM c;
";

fn create(dir: &Path, region: &str) -> PathBuf {
    let path = dir.join(format!("{region}.db"));
    let topology = options(region).topology;
    migrate(&DatabaseUrl::Sqlite(path.clone()), &topology, &catalogue()).expect("migrate");
    plain(&path).execute_batch(TABLES).expect("tables");
    path
}

fn connect(path: &Path, region: &str) -> Box<dyn Database> {
    open(&DatabaseUrl::Sqlite(path.to_owned()), options(region)).expect("address")
}

fn plain(path: &Path) -> Connection {
    Connection::open(path).expect("file")
}

fn number(path: &Path, sql: &str) -> i64 {
    plain(path).query_row(sql, [], |row| row.get(0)).expect(sql)
}

fn call(name: &str, params: &[Value]) -> Submission {
    let catalogue = catalogue();
    let statement = catalogue.get(name).expect("statement");
    Submission {
        statement: statement.digest(),
        params: statement.bind(params).expect("parameters"),
        request_id: None,
    }
}

fn bump(id: &str) -> Submission {
    call("bump", &[Value::Text(id.into()), Value::Int(1)])
}

#[test]
fn the_file_is_durable_and_shared() {
    let dir = tempfile::tempdir().expect("directory");
    let path = create(dir.path(), "NA");
    let mode: String = plain(&path)
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .expect("mode");
    assert_eq!(mode, "wal");
    // A reader's open transaction does not stop a writer.
    let reader = plain(&path);
    reader
        .execute_batch("BEGIN; SELECT * FROM counters")
        .expect("read");
    let answers = submit(&mut *connect(&path, "NA"), &[bump("a")]);
    assert!(answers[0].is_ok(), "{answers:?}");
}

#[test]
fn a_check_finds_what_is_missing_and_what_differs_between_regions() {
    let dir = tempfile::tempdir().expect("directory");
    let path = create(dir.path(), "NA");
    plain(&path)
        .execute_batch(
            "CREATE TABLE log (id INTEGER PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP,
                               who TEXT DEFAULT (lower('X')), r INTEGER DEFAULT (random()), t TEXT)",
        )
        .expect("table");
    let check = |sql: &str| {
        let config: StatementConfig = serde_json::from_value(serde_json::json!(
            {"name": "s", "kind": "insert", "params": ["text"], "sql": sql}
        ))
        .expect("configuration");
        let catalogue = Catalogue::load(&[config]).expect("catalogue");
        let statement = Arc::clone(catalogue.get("s").expect("statement"));
        let errors = connect(&path, "NA").check(&statement).expect("check");
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let found = check("INSERT INTO log (t) VALUES ($1)").join("\n");
    for column in ["column id", "column at", "column r"] {
        assert!(found.contains(column), "{found}");
    }
    assert!(
        !found.contains("column who") && found.contains("gen_now"),
        "{found}"
    );
    assert!(check("INSERT INTO log (id, at, r, t) VALUES (1, 2, 3, $1)").is_empty());
    assert!(check("INSERT INTO nowhere (t) VALUES ($1)")[0].contains("nowhere"));
    assert!(check("INSERT INTO log (nothing) VALUES ($1)")[0].contains("nothing"));
}

#[test]
fn a_missing_file_is_not_created() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("none.db");
    let error = connect(&path, "NA").region().expect_err("missing");
    assert!(
        matches!(&error, DbError::Unreachable(why) if why.contains("prism migrate")),
        "{error}"
    );
    assert!(!path.exists());
    std::fs::write(
        &path,
        "this is no database, but long enough to have a header of its own",
    )
    .expect("file");
    let error = connect(&path, "NA").region().expect_err("no database");
    assert!(error.to_string().contains("no SQLite database"), "{error}");
}

#[test]
fn a_file_replaced_under_a_running_node_is_noticed() {
    let dir = tempfile::tempdir().expect("directory");
    let path = create(dir.path(), "NA");
    let mut db = connect(&path, "NA");
    assert!(submit(&mut *db, &[bump("a")])[0].is_ok());
    let other = tempfile::tempdir().expect("directory");
    let fresh = create(other.path(), "NA");
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
    std::fs::rename(&fresh, &path).expect("replace");
    let answers = submit(&mut *db, &[bump("a")]);
    assert!(
        matches!(&answers[0], Err(SubmitError::NotReady(why)) if why.contains("replaced")),
        "{answers:?}"
    );
    std::fs::remove_file(&path).expect("delete");
    let error = db.region().expect_err("deleted");
    assert!(matches!(error, DbError::Unreachable(_)), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_trigger_that_rolls_back_takes_nobody_with_it() {
    let dir = tempfile::tempdir().expect("directory");
    let path = create(dir.path(), "NA");
    let batch = [bump("a"), call("guarded", &[Value::Int(13)]), bump("a")];
    let answers = submit(&mut *connect(&path, "NA"), &batch);
    let seqs: Vec<_> = answers
        .iter()
        .map(|a| a.as_ref().ok().map(|c| c.seq.0))
        .collect();
    assert_eq!(seqs, [Some(1), None, Some(2)], "{answers:?}");
    assert_eq!(number(&path, "SELECT n FROM counters WHERE id = 'a'"), 2);
}

#[test]
fn a_statement_that_never_ends_is_stopped() {
    let dir = tempfile::tempdir().expect("directory");
    let path = create(dir.path(), "NA");
    let mut options = options("NA");
    options.statement_timeout = Duration::from_millis(200);
    let mut db = open(&DatabaseUrl::Sqlite(path.clone()), options).expect("address");
    let batch = [
        bump("a"),
        call("endless", &[Value::Text("b".into())]),
        bump("a"),
    ];
    let answers = submit(&mut *db, &batch);
    assert!(
        matches!(&answers[1], Err(SubmitError::Blocked(why)) if why.contains("57014")),
        "{answers:?}"
    );
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert_eq!(number(&path, "SELECT n FROM counters WHERE id = 'b'"), 0);
}

/// Run by the test below under a limit of the file size: writes until it fails.
#[test]
fn child_that_fills() {
    let Some(dir) = std::env::var_os("PRISM_TEST_DIR").map(PathBuf::from) else {
        return;
    };
    let mut na = connect(&dir.join("NA.db"), "NA");
    loop {
        let answers = submit(&mut *na, &[bump("a"), bump("b")]);
        match answers.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(committed) => println!("committed {}", committed[1].seq.0),
            Err(error @ (SubmitError::Unavailable(_) | SubmitError::NotReady(_))) => {
                println!("failed {error}");
                return;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_is_told_and_nothing_is_half_written() {
    let dir = tempfile::tempdir().expect("directory");
    let na = create(dir.path(), "NA");
    // The ignored signal and the limit (in blocks of 512 or 1024 bytes) survive exec.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 600; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", "child_that_fills", "--nocapture"])
        .env("PRISM_TEST_DIR", dir.path())
        .output()
        .expect("child");
    let text = String::from_utf8_lossy(&output.stdout);
    let told = text
        .lines()
        .filter_map(|line| line.split("committed ").nth(1)?.parse().ok());
    let told: i64 = told.max().expect("something was committed");
    assert!(
        text.contains("failed the database cannot be written"),
        "{text}"
    );
    let tail = number(&na, "SELECT next_seq - 1 FROM prism_region");
    assert_eq!(tail, told, "{text}");
    assert_eq!(number(&na, "SELECT sum(n) FROM counters"), tail);
    // With room again it goes on.
    let answers = submit(&mut *connect(&na, "NA"), &[bump("a")]);
    assert_eq!(
        answers[0].as_ref().map(|c| c.seq.0.cast_signed()),
        Ok(tail + 1)
    );
}

/// Run by the test below in a process of its own: writes until it is killed.
#[test]
fn child_that_writes() {
    let Some(dir) = std::env::var_os("PRISM_TEST_DIR").map(PathBuf::from) else {
        return;
    };
    let (na, eu) = (dir.join("NA.db"), dir.join("EU.db"));
    let (mut na, mut eu) = (connect(&na, "NA"), connect(&eu, "EU"));
    let mut applier = Applier::new(catalogue(), Arc::clone(&options("EU").topology.regions));
    let epoch = na.region().expect("region").epoch;
    loop {
        let batch: Vec<_> = (0..5)
            .map(|i| bump(if i % 2 == 0 { "a" } else { "b" }))
            .collect();
        let answers = submit(&mut *na, &batch);
        let last = answers
            .last()
            .and_then(|a| a.as_ref().ok())
            .expect("taken")
            .seq;
        println!("committed {}", last.0);
        let from = eu.position("NA").expect("position").seq.next();
        let mut updates = Vec::new();
        na.outbox_read(from, last, usize::MAX, &mut |seq, bytes| {
            updates.push((seq, bytes.to_vec()));
        })
        .expect("outbox");
        let outcome = applier.apply(&mut *eu, "NA", epoch, &updates);
        println!("applied {}", outcome.position.expect("position").seq.0);
    }
}

#[test]
fn killed_at_any_instant_nothing_acknowledged_is_lost_or_done_twice() {
    let dir = tempfile::tempdir().expect("directory");
    let (na, eu) = (create(dir.path(), "NA"), create(dir.path(), "EU"));
    let mut told = [0i64; 2];
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "child_that_writes", "--nocapture"])
            .env("PRISM_TEST_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut note = |line: &str| {
            let n = line.rsplit(' ').next().and_then(|n| n.parse().ok());
            if let (Some(n), Some(i)) = (
                n,
                ["committed", "applied"]
                    .iter()
                    .position(|w| line.contains(w)),
            ) {
                told[i] = n;
            }
        };
        for line in lines.by_ref().map_while(Result::ok).take(8 + round * 7) {
            note(&line);
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("reaped");
        // What it had said before it died counts as well.
        lines.map_while(Result::ok).for_each(|line| note(&line));

        let count = number(&na, "SELECT count(*) FROM prism_outbox");
        let tail = number(&na, "SELECT next_seq - 1 FROM prism_region");
        let bumps = number(&na, "SELECT sum(n) FROM counters");
        assert!(
            tail >= told[0] && told[0] > 0,
            "acknowledged {} and has {tail}",
            told[0]
        );
        assert_eq!((count, bumps), (tail, tail), "each update with its effect");
        let applied = number(
            &eu,
            "SELECT applied FROM prism_watermark WHERE region = 'NA'",
        );
        assert!(applied >= told[1]);
        assert_eq!(number(&eu, "SELECT sum(n) FROM counters"), applied);
    }
}

/// As the first version of Prism has left it.
fn first_version(path: &Path) -> (Vec<u8>, Vec<u8>) {
    let other = tempfile::tempdir().expect("directory");
    let newer = create(other.path(), "NA");
    let answers = submit(&mut *connect(&newer, "NA"), &[bump("a"), bump("b")]);
    let bodies: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.expect("taken").update.encode())
        .collect();
    let db = plain(path);
    db.execute_batch("PRAGMA journal_mode = WAL")
        .expect("write-ahead log");
    db.execute_batch(include_str!("../src/sqlite/migrations/0001_ledger.sql"))
        .expect("schema");
    db.execute_batch(TABLES).expect("tables");
    db.execute_batch(&format!(
        "ATTACH '{}' AS newer;
         INSERT INTO prism_region SELECT one, name, epoch, next_seq, last_tag, hlc, 1
             FROM newer.prism_region;
         INSERT INTO prism_outbox (seq, tag, prev_tag, statement, body, request_id, at)
             SELECT seq, tag, prev_tag, statement, body, request_id, at FROM newer.prism_outbox;
         INSERT INTO prism_lane (peer, epoch, acked) VALUES ('EU', 0, 0);
         INSERT INTO prism_watermark (region) VALUES ('EU');
         INSERT INTO prism_rejected (stream, epoch, seq, statement, body, sqlstate, message, at)
             SELECT 'EU', 5, 9, statement, body, '23505', 'words', 1 FROM newer.prism_outbox
             WHERE seq = 1;
         UPDATE counters SET n = 1;",
        newer.display()
    ))
    .expect("rows");
    (bodies[0].clone(), bodies[1].clone())
}

#[test]
fn a_file_of_the_first_version_is_upgraded_with_all_that_it_holds() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("NA.db");
    let (first, second) = first_version(&path);
    let before = connect(&path, "NA").region().expect_err("too old");
    assert!(before.to_string().contains("prism migrate"), "{before}");

    let url = DatabaseUrl::Sqlite(path.clone());
    let migrated = migrate(&url, &options("NA").topology, &catalogue()).expect("migrate");
    assert_eq!((migrated.from_version, migrated.to_version), (1, 2));
    let mut na = connect(&path, "NA");
    let mut found = Vec::new();
    let last = na
        .outbox_read(Seq(1), Seq(9), usize::MAX, &mut |_, bytes| {
            found.push(bytes.to_vec());
        })
        .expect("outbox");
    assert_eq!(
        (last, &found),
        (Seq(2), &vec![first.clone(), second.clone()])
    );
    let bytes = (first.len() + second.len()) as u64;
    let figures = na.outbox_figures().expect("figures");
    assert_eq!((figures.rows, figures.bytes), (2, bytes));
    assert_eq!(na.lanes().expect("lanes")[0].backlog, bytes);
    let letters = na.rejected(10).expect("rejected");
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (
            letters[0].stream.as_str(),
            letters[0].seq,
            letters[0].message.as_str()
        ),
        ("EU", Some(Seq(9)), "words")
    );
    assert_eq!(na.refusals("EU", 10), Ok(vec![]), "told long ago");
    assert_eq!(na.rejected_drop(letters[0].id), Ok(true));
    let answers = submit(&mut *na, &[bump("a")]);
    assert_eq!(answers[0].as_ref().map(|c| c.seq), Ok(Seq(3)));
    assert_eq!(number(&path, "SELECT n FROM counters WHERE id = 'a'"), 2);
    assert!(na.outbox_figures().expect("figures").bytes > bytes);
    assert_eq!(
        migrate(&url, &options("NA").topology, &catalogue())
            .expect("migrate")
            .from_version,
        2
    );
}

#[test]
fn a_file_that_cannot_be_written_is_away_and_not_blocked() {
    let dir = tempfile::tempdir().expect("directory");
    let path = create(dir.path(), "NA");
    let mut na = connect(&path, "NA");
    assert!(submit(&mut *na, &[bump("a")])[0].is_ok());
    // Whoever runs the test may be root, whom no rights stop: a file in place of the directory's
    // write-ahead log does.
    drop(na);
    for suffix in ["-wal", "-shm"] {
        let name = format!("{}{suffix}", path.display());
        let _ = std::fs::remove_file(&name);
        std::fs::create_dir(&name).expect("in the way");
    }
    let mut na = connect(&path, "NA");
    let answers = submit(&mut *na, &[bump("a"), bump("a")]);
    let away = |answer: &Result<_, _>| matches!(answer, Err(SubmitError::Unavailable(_)));
    assert!(answers.iter().all(away), "{answers:?}");
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_dir(format!("{}{suffix}", path.display())).expect("away");
    }
    assert!(submit(&mut *na, &[bump("a")])[0].is_ok());
    assert_eq!(number(&path, "SELECT n FROM counters WHERE id = 'a'"), 2);
}

/// The wall clock was an hour ahead when a lease was taken, and an update held.
#[test]
fn what_was_written_before_the_clock_went_back_does_not_last() {
    const HOUR: &str = "3600000000";
    let dir = tempfile::tempdir().expect("directory");
    let path = create(dir.path(), "NA");
    let mut na = connect(&path, "NA");
    let ttl = Duration::from_secs(3);
    let taken = na.lane_lease("EU", "NA1", ttl).expect("lease");
    assert_eq!(taken.holder.as_deref(), Some("NA1"));
    let other = na.lane_lease("EU", "NA2", ttl).expect("lease");
    assert_eq!(other.holder.as_deref(), Some("NA1"));
    plain(&path)
        .execute_batch(&format!(
            "UPDATE prism_lane SET lease_until = lease_until + {HOUR}"
        ))
        .expect("ahead");
    // The holder may be dead: nobody would ask for the lane as long as it looks held.
    assert_eq!(na.lanes().expect("lanes")[0].holder, None);
    let other = na.lane_lease("EU", "NA2", ttl).expect("lease");
    assert_eq!(other.holder.as_deref(), Some("NA2"));
    na.lane_want("EU", "NA1", ttl).expect("wish");
    plain(&path)
        .execute_batch(&format!(
            "UPDATE prism_lane SET wanted_until = wanted_until + {HOUR}"
        ))
        .expect("ahead");
    assert_eq!(na.lanes().expect("lanes")[0].wanted, None);

    let held = na
        .held_begin(&bump("a"), Duration::from_secs(60))
        .expect("executed");
    let seq = na.held_publish(&held).expect("published").seq;
    let answers = submit(&mut *na, &[bump("a")]);
    assert!(
        matches!(&answers[0], Err(SubmitError::Blocked(_))),
        "{answers:?}"
    );
    plain(&path)
        .execute_batch(&format!(
            "UPDATE prism_outbox SET at = at + {HOUR}, held_until = held_until + {HOUR}"
        ))
        .expect("ahead");
    assert!(submit(&mut *na, &[bump("a")])[0].is_ok());
    assert_eq!(
        na.held_state(seq),
        Ok(prism_db::HeldState::Undone(prism_db::UndoReason::Crashed))
    );
    assert_eq!(number(&path, "SELECT n FROM counters WHERE id = 'a'"), 1);
}

/// An update of another region comes between the trial of a held one and its execution.
#[test]
fn a_held_update_that_would_do_something_else_by_now_is_not_executed() {
    let dir = tempfile::tempdir().expect("directory");
    let path = create(dir.path(), "NA");
    let mut na = connect(&path, "NA");
    let held = na
        .held_begin(&bump("a"), Duration::from_secs(60))
        .expect("executed");
    let seq = na.held_publish(&held).expect("published").seq;
    plain(&path)
        .execute_batch("DELETE FROM counters WHERE id = 'a'")
        .expect("deleted");
    let error = na.held_finish(seq).expect_err("another row count");
    assert!(error.to_string().contains("40001"), "{error}");
    assert_eq!(na.held_state(seq), Ok(prism_db::HeldState::Held));
    let reason = prism_db::UndoReason::Conflict {
        region: "EU".into(),
    };
    let undone = na.undo(seq, &reason).expect("undone");
    assert!(matches!(undone, prism_db::Undone::Published(_)));
    assert_eq!(na.held_finish(seq), Ok(false));
}

/// Copies a file as a backup would.
fn back_up(from: &Path, to: &Path) {
    let _ = std::fs::remove_file(to);
    plain(from)
        .execute("VACUUM INTO ?1", [to.to_str().expect("path")])
        .expect("backup");
}

fn restore(backup: &Path, to: &Path) {
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", to.display()));
    }
    std::fs::rename(backup, to).expect("restore");
    // A backup may be in another journal mode.
    plain(to)
        .execute_batch("PRAGMA journal_mode = WAL")
        .expect("write-ahead log");
}

fn write_to(own: &Path, peer: &Path, upto: u64) -> DirectOutcome {
    let url = DatabaseUrl::Sqlite(peer.to_owned());
    let mut writer = DirectWriter::new("NA", &url, options("EU")).expect("address");
    let mut own = connect(own, "NA");
    writer.write(&mut *own, Seq(upto), || false)
}

#[test]
fn a_destination_restored_from_a_backup_is_refilled() {
    let dir = tempfile::tempdir().expect("directory");
    let (na, eu) = (create(dir.path(), "NA"), create(dir.path(), "EU"));
    for seq in 1..=6 {
        assert!(submit(&mut *connect(&na, "NA"), &[bump("a")])[0].is_ok());
        assert_eq!(write_to(&na, &eu, seq).executed, 1);
        if seq == 3 {
            back_up(&eu, &dir.path().join("backup"));
        }
    }
    let before = connect(&eu, "EU").position("NA").expect("position");
    let mut own = connect(&na, "NA");
    own.lane_acked("EU", before).expect("acked");
    restore(&dir.path().join("backup"), &eu);
    let position = connect(&eu, "EU").position("NA").expect("position");
    assert_eq!(position.seq, Seq(3));
    assert_eq!(own.outbox_verify(position), Ok(Verdict::Matches));
    own.lane_acked("EU", position).expect("back");
    assert_eq!(own.lanes().expect("lanes")[0].acked, position);
    assert_eq!(own.outbox_trim(Duration::from_secs(3600), 100), Ok(0));
    let refilled = write_to(&na, &eu, 6);
    assert_eq!((refilled.executed, refilled.failure), (3, None));
    assert_eq!(number(&eu, "SELECT n FROM counters WHERE id = 'a'"), 6);
}

#[test]
fn a_source_restored_from_a_backup_is_a_fork_ahead_and_at_the_same_number() {
    let dir = tempfile::tempdir().expect("directory");
    let (na, eu) = (create(dir.path(), "NA"), create(dir.path(), "EU"));
    for seq in 1..=6 {
        assert!(submit(&mut *connect(&na, "NA"), &[bump("a")])[0].is_ok());
        if seq == 3 {
            back_up(&na, &dir.path().join("backup"));
        }
    }
    assert_eq!(write_to(&na, &eu, 6).executed, 6);
    restore(&dir.path().join("backup"), &na);
    let position = connect(&eu, "EU").position("NA").expect("position");
    // The peer is ahead; then its number stands for another update; then it is behind the tail.
    for seq in 4..=7 {
        assert!(submit(&mut *connect(&na, "NA"), &[bump("b")])[0].is_ok());
        let mut own = connect(&na, "NA");
        assert_eq!(own.outbox_verify(position), Ok(Verdict::Forked), "{seq}");
        let outcome = write_to(&na, &eu, seq);
        let failure = outcome.failure.map(|error| error.failure);
        assert_eq!(failure, Some(DirectFailure::Forked));
        let mut updates = Vec::new();
        own.outbox_read(Seq(1), Seq(9), usize::MAX, &mut |seq, bytes| {
            updates.push((seq, bytes.to_vec()));
        })
        .expect("outbox");
        let epoch = own.region().expect("region").epoch;
        let mut applier = Applier::new(catalogue(), Arc::clone(&options("EU").topology.regions));
        let outcome = applier.apply(&mut *connect(&eu, "EU"), "NA", epoch, &updates);
        assert_eq!(outcome.executed, 0);
        // What the two have in common tells nothing.
        let cause = outcome.wait.map(|wait| wait.cause);
        assert_eq!(cause, (seq >= 6).then_some(ApplyCause::Forked), "{seq}");
    }
    assert_eq!(number(&eu, "SELECT n FROM counters WHERE id = 'b'"), 0);
}
