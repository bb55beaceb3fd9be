//! `prism adopt` with real processes, on both kinds of databases, while the other regions go on
//! writing. The statements are non-idempotent; the checks are plain SQL.

mod adopting;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use adopting::{Backend, World};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const THREE: [&str; 3] = ["NA", "EU", "AS"];

#[test]
fn a_wiped_region_is_rebuilt_under_load_postgres() {
    wiped(Backend::Postgres);
}

#[test]
fn a_wiped_region_is_rebuilt_under_load_sqlite() {
    wiped(Backend::Sqlite);
}

fn wiped(backend: Backend) {
    let mut w = World::plan(backend, &THREE, "");
    w.start(&["NA1", "EU1", "AS1"]);
    let load = w.load(&["NA1", "EU1"]);
    let mut before = w.load(&["AS1"]);
    load.wait(20);
    before.wait(20);
    before.stop();
    w.wait_delivered("AS1");
    w.kill("AS1");
    w.wait_direct("NA1", "AS");
    w.wipe("AS");
    load.wait(20);

    let said = w.adopt(&["AS", "--from", "NA"]).expect("adopted");
    assert!(said.contains("next: start AS1"), "{said}");
    assert!(!said.contains("WARNING"), "{said}");
    // Without its nodes: the lanes go on by SQL, on their own.
    w.wait_direct("NA1", "AS");
    w.start(&["AS1"]);
    let after = w.load(&["AS1"]);
    after.wait(20);
    load.wait(20);
    w.finish(&[load, before, after]);
}

#[test]
fn a_region_that_was_restored_from_an_old_backup_alarms_and_is_rebuilt_postgres() {
    restored(Backend::Postgres);
}

#[test]
fn a_region_that_was_restored_from_an_old_backup_alarms_and_is_rebuilt_sqlite() {
    restored(Backend::Sqlite);
}

fn restored(backend: Backend) {
    let mut w = World::plan(backend, &THREE, "");
    w.start(&["NA1", "EU1", "AS1"]);
    let load = w.load(&["NA1", "EU1"]);
    let mut first = w.load(&["AS1"]);
    first.wait(20);
    first.stop();
    w.wait_delivered("AS1");
    w.kill("AS1");
    w.back_up("AS");
    w.start(&["AS1"]);
    let mut second = w.load(&["AS1"]);
    second.wait(20);
    second.stop();
    w.wait_delivered("AS1");
    w.kill("AS1");
    w.restore("AS");
    w.start(&["AS1"]);
    w.wait("AS1 finds out that its database is an old one", || {
        w.alarm("AS1", "fork").is_some()
    });

    let said = w
        .adopt(&["AS", "--from", "EU", "--yes"])
        .expect_err("it runs");
    assert!(
        said.contains("AS1") && said.contains("stop them first"),
        "{said}"
    );
    w.kill("AS1");
    let said = w.adopt(&["AS", "--from", "EU"]).expect_err("not empty");
    assert!(
        said.contains("--yes") && said.contains("another history"),
        "{said}"
    );
    let said = w.adopt(&["AS", "--from", "EU", "--yes"]).expect("adopted");
    assert!(!said.contains("WARNING"), "{said}");
    w.start(&["AS1"]);
    let after = w.load(&["AS1"]);
    after.wait(20);
    load.wait(20);
    w.finish(&[load, first, second, after]);
}

#[test]
fn a_region_that_is_too_far_behind_keeps_what_it_had_accepted_postgres() {
    too_far_behind(Backend::Postgres);
}

#[test]
fn a_region_that_is_too_far_behind_keeps_what_it_had_accepted_sqlite() {
    too_far_behind(Backend::Sqlite);
}

/// AS has been away for so long that the others have given it up; it has accepted updates itself
/// that nobody has.
fn too_far_behind(backend: Backend) {
    let mut w = World::plan(backend, &THREE, "[limits]\nmax_backlog = \"1MiB\"");
    // Nobody gets what AS accepts, not by SQL either.
    w.hide("NA");
    w.hide("EU");
    w.start(&["AS1"]);
    let mut alone = w.load(&["AS1"]);
    alone.wait(30);
    alone.stop();
    w.kill("AS1");
    w.unhide("NA");
    w.unhide("EU");
    // Nobody can write into AS by SQL meanwhile.
    w.hide("AS");
    w.start(&["NA1", "EU1"]);
    let mut heavy = w.padded_load(&["NA1", "EU1"], 16 << 10);
    for node in ["NA1", "EU1"] {
        w.wait("AS has to be rebuilt", || w.alarm(node, "stale").is_some());
    }
    heavy.stop();
    let load = w.load(&["NA1", "EU1"]);
    w.unhide("AS");

    let said = w.adopt(&["AS", "--from", "NA", "--yes"]).expect("adopted");
    assert!(said.contains("which NA lacks, are delivered"), "{said}");
    w.start(&["AS1"]);
    let after = w.load(&["AS1"]);
    after.wait(20);
    load.wait(20);
    w.finish(&[load, heavy, alone, after]);
    for node in ["NA1", "EU1", "AS1"] {
        w.wait("no alarm is left", || w.status(node).alarms.is_empty());
    }
}

#[test]
fn a_fourth_region_is_added_under_load_postgres() {
    added(Backend::Postgres);
}

#[test]
fn a_fourth_region_is_added_under_load_sqlite() {
    added(Backend::Sqlite);
}

fn added(backend: Backend) {
    let mut w = World::without_last(backend, &["NA", "EU", "AS", "SA"], "");
    w.start(&["NA1", "EU1", "AS1"]);
    let load = w.load(&["NA1", "EU1", "AS1"]);
    load.wait(30);
    w.configure_new();
    let said = w.adopt(&["SA", "--from", "AS"]).expect("adopted");
    assert!(said.contains("NA: SA is known here now"), "{said}");
    assert!(said.contains("restart the nodes"), "{said}");
    w.start(&["SA1"]);
    for node in ["NA1", "EU1", "AS1"] {
        w.stop(node);
        w.start(&[node]);
    }
    let new = w.load(&["SA1"]);
    new.wait(20);
    load.wait(30);
    w.finish(&[load, new]);
}

#[test]
fn adopt_that_is_killed_between_its_steps_is_run_again_postgres() {
    killed(Backend::Postgres);
}

#[test]
fn adopt_that_is_killed_between_its_steps_is_run_again_sqlite() {
    killed(Backend::Sqlite);
}

fn killed(backend: Backend) {
    let mut w = World::plan(backend, &THREE, "");
    w.start(&["NA1", "EU1", "AS1"]);
    let load = w.load(&["NA1", "EU1"]);
    let mut before = w.load(&["AS1"]);
    before.wait(20);
    before.stop();
    w.wait_delivered("AS1");
    w.kill("AS1");
    // After the seal, after the first fence, after all of them, in the copy.
    for line in ["AS: the old", "EU: has AS", "NA: has AS", "NA: copying"] {
        let mut child = w
            .adopt_command(&["AS", "--from", "NA", "--yes"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("prism runs");
        let stdout = child.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        // The seal is there only the first time.
        let found = lines.any(|l| l.starts_with(line) || l.starts_with("NA: copying"));
        assert!(found, "{line}");
        let pid = Pid::from_raw(child.id().cast_signed());
        let _ = kill(pid, Signal::SIGKILL);
        let _ = child.wait();
        load.wait(5);
    }
    w.adopt(&["AS", "--from", "NA", "--yes"]).expect("adopted");
    w.start(&["AS1"]);
    let after = w.load(&["AS1"]);
    after.wait(20);
    load.wait(20);
    w.finish(&[load, before, after]);
}

#[test]
fn a_region_that_cannot_be_reached_is_told_later() {
    let mut w = World::plan(Backend::Postgres, &THREE, "");
    w.start(&["NA1", "EU1", "AS1"]);
    let mut load = w.load(&["NA1", "EU1"]);
    let mut before = w.load(&["AS1"]);
    load.wait(20);
    before.wait(20);
    before.stop();
    load.stop();
    for node in ["AS1", "NA1", "EU1"] {
        w.wait_delivered(node);
    }
    w.kill("AS1");
    w.kill("EU1");
    w.hide("EU");
    let said = w
        .adopt(&["AS", "--from", "NA", "--yes"])
        .expect_err("EU is away");
    assert!(said.contains("--without EU"), "{said}");
    let said = w
        .adopt(&["AS", "--from", "NA", "--yes", "--without", "EU"])
        .expect("adopted");
    assert!(said.contains("--finish"), "{said}");
    w.start(&["AS1"]);
    let after = w.load(&["AS1"]);
    after.wait(20);
    w.unhide("EU");
    w.start(&["EU1"]);
    w.wait("EU is not taken for one that knows", || {
        w.alarm("AS1", "fork").is_some()
    });
    for _ in 0..2 {
        w.adopt(&["AS", "--finish"]).expect("finished");
    }
    w.finish(&[load, before, after]);
}

#[test]
fn what_cannot_work_is_refused_and_changes_nothing() {
    let mut w = World::plan(Backend::Postgres, &THREE, "");
    w.start(&["NA1", "EU1", "AS1"]);
    let mut load = w.load(&["NA1", "EU1", "AS1"]);
    load.wait(10);
    let usage = [
        (vec!["XX", "--from", "NA"], "has no region \"XX\""),
        (vec!["AS", "--from", "XX"], "has no region \"XX\""),
        (vec!["AS", "--from", "AS"], "name another"),
        (vec!["AS"], "--from"),
    ];
    for (args, words) in usage {
        let output = w.adopt_command(&args).output().expect("prism runs");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(words), "{said}");
    }
    let said = w
        .adopt(&["AS", "--from", "NA", "--yes"])
        .expect_err("AS1 runs");
    assert!(said.contains("AS1"), "{said}");
    // One that is stopped may go on.
    w.signal("AS1", Signal::SIGSTOP);
    let said = w
        .adopt(&["AS", "--from", "NA", "--yes"])
        .expect_err("AS1 hangs");
    assert!(said.contains("AS1"), "{said}");
    w.signal("AS1", Signal::SIGCONT);
    w.kill("AS1");
    let said = w.adopt(&["AS", "--from", "NA"]).expect_err("not empty");
    assert!(
        said.contains("2 tables") && said.contains("--yes"),
        "{said}"
    );
    let output = w
        .adopt_command(&["AS", "--from", "NA", "--yes"])
        .env("PRISM_PG_BIN", "/nowhere")
        .output()
        .expect("prism runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("postgresql-client"), "{said}");
    w.hide("NA");
    let said = w
        .adopt(&["AS", "--from", "NA", "--yes"])
        .expect_err("NA is away");
    assert!(said.contains("the donor's database (NA)"), "{said}");
    w.unhide("NA");
    // Not even fenced: AS goes on as if nothing had been.
    w.start(&["AS1"]);
    load.wait(10);
    load.stop();
    w.finish(&[load]);
}
