//! The same on the machine's file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Options, SMALL, drain, payload};
use crate::journal::{Journal, JournalError};

#[test]
fn files_are_for_their_owner_alone_and_survive_reopening() {
    let tmp = tempfile::tempdir().expect("tempdir");
    let dir = tmp.path().join("data/journal");
    let options = Options {
        reserve_bytes: 8192,
        ..SMALL
    };
    let (mut journal, recovery) = Journal::open(&dir, options).expect("open");
    assert_eq!((recovery.entries, recovery.next), (0, 1));
    for n in 0..30 {
        journal
            .append(&[payload(n), payload(n + 100)])
            .expect("append");
    }
    journal.trim(25).expect("trim");
    let locked = Journal::open(&dir, options).err();
    assert!(matches!(locked, Some(JournalError::Locked { .. })));
    drop(journal);
    let mode = |path: &std::path::Path| fs::metadata(path).expect("file").permissions().mode();
    assert_eq!(mode(&dir) & 0o777, 0o700);
    assert_eq!(mode(&dir.join("quarantine")) & 0o777, 0o700);
    for entry in fs::read_dir(&dir).expect("dir") {
        let path = entry.expect("entry").path();
        if path.is_file() {
            assert_eq!(mode(&path) & 0o777, 0o600, "{}", path.display());
        }
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    let (mut journal, recovery) = Journal::open(&dir, options).expect("open");
    assert_eq!(mode(&dir) & 0o777, 0o700, "tightened");
    assert_eq!((recovery.entries, recovery.next), (35, 61));
    assert_eq!((recovery.damage, recovery.torn), (vec![], None));
    let out = drain(&mut journal, 4).expect("drain");
    assert_eq!(out[0].payload, payload(112));
    assert_eq!(out.len(), 35);
}
