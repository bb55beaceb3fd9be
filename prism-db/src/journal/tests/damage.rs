//! Every truncation and every bit flip: recovered or put aside and reported, never a wrong record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::memory::MemDisk;
use super::{DIR, Options, SMALL, dir, drain, payload, waiting};
use crate::journal::frame::{self, Record};
use crate::journal::{Damage, Journal, JournalError, Recovery};

type Files = BTreeMap<PathBuf, Vec<u8>>;

const OPTIONS: Options = Options {
    segment_bytes: 4096,
    ..SMALL
};
const TRIMMED: u64 = 3;

/// A journal of a little over 16 KiB in several segments, cleanly closed.
fn sample() -> (Files, BTreeMap<u64, Vec<u8>>) {
    let disk = MemDisk::new(1);
    let (mut journal, _) = Journal::open_on(disk.clone(), dir(), OPTIONS).expect("open");
    let mut all = BTreeMap::new();
    let mut n = 0;
    while journal.bytes() < 16 << 10 {
        let long = |n| payload(3 * n).repeat(3);
        let group: Vec<_> = (n..=n + n % 3).map(long).collect();
        n += group.len() as u64;
        let numbers = journal.append(&group).expect("append");
        all.extend((numbers.first..).zip(group));
    }
    journal.trim(TRIMMED).expect("trim");
    drop(journal);
    (disk.files(), all)
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "seg")
}

/// Opens a damaged journal and holds it against the truth.
fn check(files: &Files, truth: &BTreeMap<u64, Vec<u8>>, thorough: bool) -> Recovery {
    let disk = MemDisk::with_files(files);
    let (mut journal, recovery) =
        Journal::open_on(disk.clone(), dir(), OPTIONS).expect("opens in spite of damage");
    let mut reported = Vec::new();
    let mut progress = false;
    for damage in &recovery.damage {
        match damage {
            Damage::Segment { lost, saved, .. } => {
                reported.extend(lost.iter().cloned().flatten());
                let saved = saved.as_ref().expect("kept as evidence");
                assert!(saved.starts_with("/j/quarantine"));
                assert!(disk.files().contains_key(saved));
            }
            Damage::Missing { lost } => reported.extend(lost.clone()),
            Damage::Progress { .. } => progress = true,
        }
        assert!(!damage.to_string().is_empty());
    }
    let found = waiting(&journal);
    for pair in found.windows(2) {
        assert!(pair[0].number < pair[1].number);
    }
    for entry in &found {
        assert_eq!(
            truth.get(&entry.number),
            Some(&entry.payload),
            "a wrong record"
        );
        assert!(
            entry.number > TRIMMED || progress,
            "done, and back without a word"
        );
        assert!(
            !reported.contains(&entry.number),
            "reported as lost, and there"
        );
    }
    for number in truth.keys().filter(|n| **n > TRIMMED) {
        let there = found.binary_search_by_key(number, |e| e.number).is_ok();
        assert!(
            there || reported.contains(number),
            "{number} is gone without a word"
        );
    }
    assert_eq!(recovery.entries, found.len() as u64);
    assert_eq!(recovery.lost(), reported.len() as u64);
    let last = truth.keys().last().copied().unwrap_or(0);
    assert_eq!(recovery.next, last + 1, "no number is used twice");
    if thorough {
        // It works on, and what was reported once is not made up again after the next start.
        let added = journal.append(&[b"more"]).expect("append").first;
        assert_eq!(added, last + 1);
        drop(journal);
        let (mut journal, again) =
            Journal::open_on(disk.clone(), dir(), OPTIONS).expect("opens again");
        assert_eq!(again.lost(), recovery.lost());
        assert_eq!(again.entries, recovery.entries + 1);
        for damage in &again.damage {
            assert!(
                !matches!(damage, Damage::Segment { known: false, .. }),
                "{damage}"
            );
        }
        let out = drain(&mut journal, 7).expect("drain");
        assert_eq!(out[..found.len()], found);
        assert_eq!(out.len(), found.len() + 1);
        drop(journal);
        let (_, last) = Journal::open_on(disk, dir(), OPTIONS).expect("opens empty");
        assert_eq!((last.entries, last.damage.len()), (0, 0));
    }
    recovery
}

#[test]
fn an_undamaged_journal_reports_nothing() {
    let (files, truth) = sample();
    let segments = files.keys().filter(|p| is_segment(p)).count();
    assert!(segments >= 4, "{segments}");
    let recovery = check(&files, &truth, true);
    assert_eq!((recovery.damage.len(), recovery.torn), (0, None));
}

/// One test per byte position modulo 4, so that they run side by side.
#[test]
fn every_bit_flip_is_reported_and_costs_at_most_one_entry_0() {
    flip_every_bit(0);
}

#[test]
fn every_bit_flip_is_reported_and_costs_at_most_one_entry_1() {
    flip_every_bit(1);
}

#[test]
fn every_bit_flip_is_reported_and_costs_at_most_one_entry_2() {
    flip_every_bit(2);
}

#[test]
fn every_bit_flip_is_reported_and_costs_at_most_one_entry_3() {
    flip_every_bit(3);
}

fn flip_every_bit(quarter: usize) {
    let (mut files, truth) = sample();
    let paths: Vec<_> = files.keys().cloned().collect();
    let mut flips = 0;
    for path in paths {
        let len = files[&path].len();
        for at in (quarter..len).step_by(4) {
            // Padding of the progress file: nothing to find there, one bit per byte will do.
            let padding = !is_segment(&path) && at % 4096 >= 36;
            for bit in 0..if padding { 1 } else { 8 } {
                let flip = |files: &mut Files| {
                    files.get_mut(&path).expect("file")[at] ^= 1 << bit;
                };
                flip(&mut files);
                let recovery = check(&files, &truth, bit == at / 16 % 8 && at % 16 == quarter);
                flip(&mut files);
                flips += 1;
                assert_eq!(recovery.torn, None, "{} {at}.{bit}", path.display());
                assert_eq!(
                    recovery.damage.is_empty(),
                    padding,
                    "{} {at}.{bit}",
                    path.display()
                );
                assert!(recovery.lost() <= 1);
            }
        }
    }
    assert!(flips > 2 * (16 << 10), "{flips}");
}

#[test]
fn every_truncation_of_every_file_is_reported() {
    let (files, truth) = sample();
    for (path, whole) in &files {
        for len in 0..whole.len() {
            let mut cut = files.clone();
            cut.insert(path.clone(), whole[..len].to_vec());
            let recovery = check(&cut, &truth, len % 16 == 0);
            // The last slot ends before the padding does.
            let padding = !is_segment(path) && len >= 3 * 4096 + 36;
            assert_eq!(
                recovery.damage.is_empty(),
                padding,
                "{} {len}",
                path.display()
            );
            assert_eq!(recovery.torn, None);
        }
    }
}

#[test]
fn a_lost_file_is_reported() {
    let (files, truth) = sample();
    for path in files.keys() {
        let mut cut = files.clone();
        cut.remove(path);
        if is_segment(path) || path.ends_with("progress") {
            assert_ne!(check(&cut, &truth, true).damage, []);
        }
    }
}

/// The journal as a whole is cut, all later segments gone, the progress file as well: what a
/// stale image of the disk looks like. Nothing can know what was acknowledged; nothing is invented.
#[test]
fn every_prefix_without_the_mark_gives_a_prefix_of_the_entries() {
    let (files, truth) = sample();
    let segments: Vec<_> = files.keys().filter(|p| is_segment(p)).cloned().collect();
    for (index, path) in segments.iter().enumerate() {
        for len in frame::HEADER..files[path].len() {
            let mut cut: Files = segments[..index]
                .iter()
                .map(|p| (p.clone(), files[p].clone()))
                .collect();
            cut.insert(path.clone(), files[path][..len].to_vec());
            let disk = MemDisk::with_files(&cut);
            let (journal, recovery) = Journal::open_on(disk, dir(), OPTIONS).expect("open");
            assert!(matches!(recovery.damage[..], [Damage::Progress { .. }]));
            let found: Vec<_> = waiting(&journal)
                .into_iter()
                .map(|e| (e.number, e.payload))
                .collect();
            let prefix: Vec<_> = truth
                .iter()
                .take(found.len())
                .map(|(n, p)| (*n, p.clone()))
                .collect();
            assert_eq!(found, prefix);
            assert_eq!(recovery.next, found.len() as u64 + 1);
        }
    }
}

#[test]
fn bytes_of_another_segment_are_never_taken_for_records() {
    let (mut files, truth) = sample();
    let last = files
        .keys()
        .rfind(|p| is_segment(p))
        .cloned()
        .expect("segment");
    let next = truth.keys().last().expect("entries") + 1;
    // What a recycled block may hold: a good record with just the next number, of another life.
    let mut stale = Vec::new();
    let record = Record {
        number: next,
        group: next,
        at_ms: 0,
        payload: b"from another life",
    };
    record.encode(12345, &mut stale).expect("short");
    files
        .get_mut(&last)
        .expect("file")
        .extend_from_slice(&stale);
    let disk = MemDisk::with_files(&files);
    let (journal, recovery) = Journal::open_on(disk.clone(), dir(), OPTIONS).expect("open");
    assert_eq!(recovery.next, next);
    assert!(
        waiting(&journal)
            .iter()
            .all(|e| truth.get(&e.number) == Some(&e.payload))
    );
    let torn = recovery.torn.expect("reported as an unfinished write");
    assert_eq!(torn.bytes, stale.len() as u64);
    assert_eq!(disk.files()[&torn.saved.expect("kept")], stale);
}

#[test]
fn a_newer_version_is_refused_and_left_alone() {
    let (files, _) = sample();
    for path in files.keys().filter(|p| !p.ends_with("lock")) {
        let mut newer = files.clone();
        let bytes = newer.get_mut(path).expect("file");
        let magic = bytes[..8].try_into().expect("magic");
        bytes[..16].copy_from_slice(&frame::prefix(magic, 2));
        let disk = MemDisk::with_files(&newer);
        let error = Journal::open_on(disk.clone(), dir(), OPTIONS)
            .err()
            .expect("refused");
        assert!(
            matches!(&error, JournalError::Version { found: 2, known: 1, file } if file == path),
            "{error}"
        );
        assert!(error.to_string().contains("newer version"), "{error}");
        assert_eq!(disk.files(), newer);
    }
}

#[test]
fn damage_that_comes_while_it_is_open_is_not_handed_out() {
    let disk = MemDisk::new(1);
    let (mut journal, _) = Journal::open_on(disk.clone(), dir(), OPTIONS).expect("open");
    journal.append(&[b"first", b"other"]).expect("append");
    let path = journal.segments[0].path.clone();
    {
        use crate::journal::{Disk, DiskFile};
        let file = disk.open(&path).expect("segment");
        file.write_all_at(b"X", (frame::HEADER + frame::RECORD) as u64)
            .expect("write");
    }
    assert!(matches!(
        journal.peek(9),
        Err(JournalError::Damaged { number: 1, .. })
    ));
    drop(journal);
    let (mut journal, recovery) = Journal::open_on(disk, Path::new(DIR), OPTIONS).expect("open");
    assert_eq!(recovery.lost(), 1);
    let left = journal.peek(9).expect("the rest");
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].payload, b"other");
}
