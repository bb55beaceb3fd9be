//! Full, too large, latched, locked: typed, and before anything is lost.

use std::time::Duration;

use super::super::memory::{MemDisk, Plan};
use super::{SMALL, dir, drain, payload};
use crate::journal::{Journal, JournalError, Options};

#[test]
fn a_full_journal_says_so_and_goes_on_after_a_trim() {
    let options = Options {
        max_bytes: 5000,
        ..SMALL
    };
    let disk = MemDisk::new(1);
    let (mut journal, _) = Journal::open_on(disk, dir(), options).expect("open");
    let mut appended = 0;
    for round in 0..20 {
        let error = loop {
            match journal.append(&[payload(appended)]) {
                Ok(_) => appended += 1,
                Err(e) => break e,
            }
            assert!(journal.bytes() <= options.max_bytes);
        };
        assert!(matches!(error, JournalError::Full { .. }), "{error}");
        let waiting = journal.entries();
        assert!(waiting > 10);
        let out = drain(&mut journal, 4).expect("drain");
        assert_eq!(out.len() as u64, waiting, "round {round}");
    }
}

#[test]
fn a_journal_smaller_than_a_segment_is_not_full_for_ever() {
    let options = Options {
        max_bytes: 1000,
        segment_bytes: 1 << 20,
        ..SMALL
    };
    let (mut journal, _) = Journal::open_on(MemDisk::new(1), dir(), options).expect("open");
    for _ in 0..50 {
        journal.append(&[[7; 300]]).expect("space was freed");
        drain(&mut journal, 10).expect("drain");
    }
}

#[test]
fn a_full_disk_still_learns_what_is_done() {
    for copy_on_write in [false, true] {
        let disk = MemDisk::new(3);
        let options = Options {
            reserve_bytes: 8192,
            ..SMALL
        };
        let (mut journal, _) = Journal::open_on(disk.clone(), dir(), options).expect("open");
        for n in 0..20 {
            journal.append(&[payload(n)]).expect("space");
        }
        assert!(journal.figures().reserve);
        let used: usize = disk.files().values().map(Vec::len).sum();
        let full = Plan {
            space: Some(used as u64),
            copy_on_write,
            ..Plan::default()
        };
        disk.plan(full);
        let error = journal.append(&[payload(20)]).expect_err("full disk");
        assert!(matches!(error, JournalError::DiskFull { .. }), "{error}");
        journal.trim(2).expect("trim on a full disk");
        drop(journal);
        let (mut journal, recovery) =
            Journal::open_on(disk.clone(), dir(), options).expect("open on a full disk");
        assert_eq!((recovery.entries, recovery.next), (18, 21));
        assert_eq!(drain(&mut journal, 5).expect("drain").len(), 18);
        assert!(journal.figures().reserve, "made again once there is space");
        journal
            .append(&[payload(20)])
            .expect("and entries are taken again");
    }
}

#[test]
fn oversized_and_empty_groups_are_refused() {
    let (mut journal, _) = Journal::open_on(MemDisk::new(1), dir(), SMALL).expect("open");
    let big = vec![0; SMALL.max_record + 1];
    let error = journal.append(&[vec![1], big]).expect_err("too large");
    assert!(matches!(
        error,
        JournalError::TooLarge {
            len: 4097,
            limit: 4096
        }
    ));
    let none: [&[u8]; 0] = [];
    assert!(matches!(
        journal.append(&none),
        Err(JournalError::EmptyGroup)
    ));
    assert!(matches!(
        journal.trim(1),
        Err(JournalError::BeyondEnd { upto: 1, last: 0 })
    ));
    assert_eq!(journal.figures().entries, 0);
    journal
        .append(&[vec![1; SMALL.max_record]])
        .expect("longer than a segment, and fine");
    assert_eq!(journal.peek(5).expect("peek").len(), 1);
}

#[test]
fn only_one_at_a_time() {
    let disk = MemDisk::new(1);
    let held = Journal::open_on(disk.clone(), dir(), SMALL).expect("open");
    let second = Journal::open_on(disk.clone(), dir(), SMALL).err();
    assert!(matches!(second, Some(JournalError::Locked { .. })));
    drop(held);
    Journal::open_on(disk, dir(), SMALL).expect("free again");
}

#[test]
fn age_of_the_oldest() {
    let disk = MemDisk::new(1);
    let (mut journal, _) = Journal::open_on(disk.clone(), dir(), SMALL).expect("open");
    assert_eq!(journal.figures().oldest, None);
    journal.append(&[b"a"]).expect("append");
    disk.advance(5000);
    journal.append(&[b"b"]).expect("append");
    disk.advance(1000);
    assert_eq!(journal.figures().oldest, Some(Duration::from_secs(6)));
    journal.trim(1).expect("trim");
    assert_eq!(journal.figures().oldest, Some(Duration::from_secs(1)));
    journal.trim(2).expect("trim");
    assert_eq!(journal.figures().oldest, None);
}
