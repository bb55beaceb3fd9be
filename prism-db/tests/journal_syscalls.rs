//! The journal in a real process on a real file system: killed, or failed, at the N-th system call,
//! for N = 1, 2, ... until the work completes. `strace` injects; without it these tests fail.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn example() -> PathBuf {
    // target/debug/deps/this_test -> target/debug/examples/journal_spool, which cargo has built.
    let mut path = std::env::current_exe().expect("own path");
    path.pop();
    path.pop();
    let path = path.join("examples/journal_spool");
    assert!(
        path.exists(),
        "{} is missing: `cargo test -p prism-db` builds it, `--test` alone does not",
        path.display()
    );
    path
}

fn strace(inject: &str, dir: &Path) -> Output {
    let call = inject.split(':').next().unwrap_or_default();
    Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={call}"))
        .arg("-e")
        .arg(format!("inject={inject}"))
        .arg(example())
        .arg("fill")
        .arg(dir)
        .arg("8")
        .output()
        .expect("strace is needed for this test: install the package `strace`")
}

/// The greatest number on the lines that begin with `word`.
fn last(out: &Output, word: &str) -> u64 {
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(|line| line.strip_prefix(word)?.trim().parse().ok())
        .max()
        .unwrap_or(0)
}

/// What a restart finds, in order. Everything printed as durable and not trimmed must be there.
fn check(dir: &Path, filled: &Output, what: &str) {
    let list = Command::new(example())
        .arg("list")
        .arg(dir)
        .output()
        .expect("the example runs");
    let text = String::from_utf8_lossy(&list.stdout);
    let errors = String::from_utf8_lossy(&list.stderr);
    assert!(list.status.success(), "{what}: {errors}");
    assert!(!text.contains("damage"), "{what}: {text}");
    let mut entries = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let number: u64 = words.nth(1).and_then(|w| w.parse().ok()).expect("number");
        assert_eq!(words.next(), Some("update"), "{what}: {line}");
        assert_eq!(
            words.next(),
            Some(number.to_string().as_str()),
            "{what}: a wrong record"
        );
        entries.push(number);
    }
    let trimmed = last(filled, "trimmed");
    let durable = last(filled, "durable");
    for pair in entries.windows(2) {
        assert_eq!(pair[0] + 1, pair[1], "{what}");
    }
    if durable > trimmed {
        // A trim whose answer was not printed may have happened: then the first are gone.
        let first = *entries.first().expect(what);
        assert!(
            first > trimmed && first <= trimmed + 7,
            "{what}: {first} after {trimmed}"
        );
        assert!(
            *entries.last().expect(what) >= durable,
            "{what}: {entries:?} up to {durable}"
        );
    }
    let again = Command::new(example())
        .arg("list")
        .arg(dir)
        .output()
        .expect("the example runs");
    assert!(
        again.status.success() && again.stdout.is_empty(),
        "{what}: handed out twice"
    );
}

/// Runs with the fault at the N-th call until a run is not hit any more; returns how many were.
fn for_every(call: &str, fault: &str) -> u32 {
    let mut hit = 0;
    for n in 1.. {
        let tmp = tempfile::tempdir().expect("tempdir");
        let dir = tmp.path().join("journal");
        let inject = format!("{call}:{fault}:when={n}");
        let filled = strace(&inject, &dir);
        if filled.status.success() && last(&filled, "durable") == 16 {
            let errors = String::from_utf8_lossy(&filled.stderr);
            assert!(errors.is_empty(), "strace: {errors}");
            // A fault that was survived (a mark that could not be written) is no end yet.
            check(&dir, &filled, &inject);
            if n > 60 {
                break;
            }
            continue;
        }
        hit += 1;
        check(&dir, &filled, &inject);
    }
    hit
}

#[test]
fn killed_at_every_write() {
    let hit = for_every("pwrite64", "signal=KILL");
    assert!(
        hit >= 15,
        "only {hit} runs were killed: does strace inject at all?"
    );
}

#[test]
fn killed_at_every_fdatasync() {
    let hit = for_every("fdatasync", "signal=KILL");
    assert!(
        hit >= 10,
        "only {hit} runs were killed: does strace inject at all?"
    );
}

#[test]
fn fdatasync_fails_at_every_call() {
    let hit = for_every("fdatasync", "error=EIO");
    assert!(
        hit >= 8,
        "only {hit} runs failed: does strace inject at all?"
    );
}

#[test]
fn no_space_at_every_write() {
    let hit = for_every("pwrite64", "error=ENOSPC");
    assert!(
        hit >= 5,
        "only {hit} runs failed: does strace inject at all?"
    );
}

#[test]
fn killed_at_every_rename_and_unlink() {
    assert!(for_every("rename", "signal=KILL") >= 2);
    assert!(for_every("unlink", "signal=KILL") >= 1);
}
