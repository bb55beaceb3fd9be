//! Acknowledged is recovered once and in order; what was never appended is never found.

use std::collections::BTreeMap;

use super::super::memory::{MemDisk, Plan, scramble};
use super::{DIR, SMALL, dir, drain, payload, waiting};
use crate::journal::{Journal, JournalError, Options};

const OPTIONS: Options = Options {
    reserve_bytes: 4096,
    ..SMALL
};

/// What the outside knows.
#[derive(Default, Clone)]
struct Known {
    /// Answered by `append` (or found by an opening, which promises as much).
    acknowledged: BTreeMap<u64, Vec<u8>>,
    /// Tried since the last opening, never answered.
    tried: BTreeMap<u64, Vec<u8>>,
    trimmed: u64,
    trim_tried: u64,
    serial: u64,
}

impl Known {
    /// Opens, and holds what is found against what must be there.
    fn open(&mut self, disk: &MemDisk) -> Result<Journal<MemDisk>, JournalError> {
        let (journal, recovery) = Journal::open_on(disk.clone(), dir(), OPTIONS)?;
        assert_eq!(recovery.damage, [], "an ordinary crash is no damage");
        let found = waiting(&journal);
        let trimmed = journal.trimmed();
        assert!(trimmed >= self.trimmed, "a durable trim came back");
        assert!(
            trimmed <= self.trim_tried.max(self.trimmed),
            "nobody asked for that trim"
        );
        for (entry, number) in found.iter().zip(trimmed + 1..) {
            assert_eq!(entry.number, number, "in order, without gaps");
            let acknowledged = self.acknowledged.get(&number);
            let known = acknowledged.or_else(|| self.tried.get(&number));
            assert_eq!(
                known,
                Some(&entry.payload),
                "entry {number} was never appended like that"
            );
        }
        let end = trimmed + found.len() as u64;
        if let Some((last, _)) = self.acknowledged.last_key_value() {
            assert!(end >= *last, "acknowledged {last}, found up to {end}");
        }
        assert_eq!(recovery.entries, found.len() as u64);
        assert_eq!(recovery.next, end + 1);
        self.acknowledged = found.into_iter().map(|e| (e.number, e.payload)).collect();
        self.tried.clear();
        self.trimmed = trimmed;
        self.trim_tried = trimmed;
        Ok(journal)
    }

    /// One append or trim. Errors other than "not now" end the life.
    fn act(&mut self, journal: &mut Journal<MemDisk>, r: u64) -> Result<(), JournalError> {
        let next = journal.next;
        if !r.is_multiple_of(4) || self.acknowledged.is_empty() {
            let group: Vec<Vec<u8>> = (0..=r / 4 % 4)
                .map(|_| {
                    self.serial += 1;
                    payload(self.serial)
                })
                .collect();
            self.tried.extend((next..).zip(group.iter().cloned()));
            match journal.append(&group) {
                Ok(numbers) => {
                    assert_eq!(numbers.first, next);
                    for number in numbers.first..=numbers.last {
                        let payload = self.tried.remove(&number).expect("tried");
                        self.acknowledged.insert(number, payload);
                    }
                    assert!(self.tried.is_empty());
                }
                Err(JournalError::DiskFull { .. } | JournalError::Full { .. }) => {
                    // Not now: certainly not there.
                    self.tried.clear();
                }
                Err(e) => return Err(e),
            }
        } else {
            let entries = journal.peek(1 + usize::try_from(r / 4 % 5).unwrap_or(0))?;
            let first = entries.first().expect("something waits").number;
            assert_eq!(first, self.trimmed + 1, "the oldest first");
            for entry in &entries {
                assert_eq!(self.acknowledged.get(&entry.number), Some(&entry.payload));
            }
            let upto = entries.last().map_or(0, |e| e.number);
            self.trim_tried = upto;
            journal.trim(upto)?;
            self.trimmed = upto;
            self.acknowledged = self.acknowledged.split_off(&(upto + 1));
        }
        Ok(())
    }

    fn live(&mut self, disk: &MemDisk, seed: u64, steps: u64) -> Result<(), JournalError> {
        let mut journal = self.open(disk)?;
        for step in 0..steps {
            self.act(&mut journal, scramble(seed ^ (step << 20)) >> 7)?;
        }
        Ok(())
    }

    /// After everything: what is left comes out once.
    fn finish(&mut self, disk: &MemDisk) {
        let mut journal = self.open(disk).expect("no more faults");
        let out = drain(&mut journal, 3).expect("no more faults");
        let out: Vec<_> = out.into_iter().map(|e| (e.number, e.payload)).collect();
        let must: Vec<_> = std::mem::take(&mut self.acknowledged).into_iter().collect();
        assert_eq!(out, must);
        self.trimmed = journal.trimmed();
        self.trim_tried = self.trimmed;
        drop(journal);
        disk.power_cycle();
        let journal = self.open(disk).expect("no more faults");
        assert_eq!(journal.entries(), 0);
    }
}

#[test]
fn crash_at_every_operation_loses_nothing_acknowledged() {
    for seed in 0..4 {
        let mut at = 0;
        let total = loop {
            at += 1;
            let disk = MemDisk::new(seed);
            let mut known = Known::default();
            disk.plan(Plan {
                crash_at: Some(at),
                short_writes: true,
                ..Plan::default()
            });
            let ended = known.live(&disk, seed, 40);
            if !disk.crashed() {
                ended.expect("without a crash all goes well");
                break at;
            }
            // The crash may come again during each recovery, ever later, until one gets through.
            let mut during = 1;
            loop {
                disk.power_cycle();
                disk.plan(Plan {
                    crash_at: Some(during),
                    ..Plan::default()
                });
                let opened = known.open(&disk).is_ok();
                if opened && !disk.crashed() {
                    break;
                }
                during += 1 + scramble(at ^ during) % 5;
            }
            // What an opening has found is as good as acknowledged: it survives the next one.
            disk.power_cycle();
            known.live(&disk, seed ^ at, 6).expect("no faults");
            disk.power_cycle();
            known.finish(&disk);
        };
        assert!(total > 100, "the workload in {DIR} is long enough: {total}");
    }
}

#[test]
fn a_failed_fsync_latches_and_loses_nothing_acknowledged() {
    for seed in 100..104 {
        let mut at = 0;
        let total = loop {
            at += 1;
            let disk = MemDisk::new(seed);
            let mut known = Known::default();
            disk.plan(Plan {
                eio_at_sync: Some(at),
                short_writes: true,
                ..Plan::default()
            });
            let failed = match known.open(&disk) {
                Err(_) => true,
                Ok(mut journal) => {
                    let act = |step: u64| scramble(seed ^ (step << 20)) >> 7;
                    let failed = (0..40).any(|step| known.act(&mut journal, act(step)).is_err());
                    if failed {
                        for _ in 0..3 {
                            let again = journal.append(&[b"again"]);
                            assert!(matches!(again, Err(JournalError::Latched { .. })));
                        }
                        assert!(journal.figures().latched.is_some());
                    }
                    failed
                }
            };
            if !disk.fired() {
                assert!(!failed);
                break at;
            }
            // The page cache still shows what the disk may not have. Open on that, then lose it.
            known.live(&disk, seed ^ at, 5).expect("the disk is mended");
            disk.power_cycle();
            known.live(&disk, seed ^ at ^ 77, 5).expect("no faults");
            disk.power_cycle();
            known.finish(&disk);
        };
        assert!(total > 40, "{total}");
    }
}

#[test]
fn a_failed_trim_is_not_repeated_on_the_same_descriptor() {
    let disk = MemDisk::new(5);
    let mut known = Known::default();
    let mut journal = known.open(&disk).expect("open");
    journal.append(&[b"a", b"b"]).expect("append");
    disk.plan(Plan {
        eio_at_sync: Some(1),
        ..Plan::default()
    });
    assert!(matches!(journal.trim(1), Err(JournalError::Latched { .. })));
    assert!(matches!(journal.trim(1), Err(JournalError::Latched { .. })));
    assert!(matches!(
        journal.append(&[b"c"]),
        Err(JournalError::Latched { .. })
    ));
    assert_eq!(journal.trimmed(), 0);
}

#[test]
fn no_space_at_any_write_is_survived() {
    for seed in 200..202 {
        for count in [1, 2, 5] {
            let mut at = 0;
            loop {
                at += 1;
                let disk = MemDisk::new(seed);
                let mut known = Known::default();
                disk.plan(Plan {
                    no_space: Some((at, count)),
                    short_writes: true,
                    ..Plan::default()
                });
                let ended = known.live(&disk, seed, 40);
                if !disk.fired() {
                    ended.expect("without a fault all goes well");
                    break;
                }
                // Opening may have failed; nothing else latches.
                if ended.is_err() {
                    assert!(
                        known.serial == 0 || known.trim_tried > known.trimmed,
                        "{ended:?}"
                    );
                }
                disk.power_cycle();
                known
                    .live(&disk, seed ^ at, 10)
                    .expect("there is space again");
                disk.power_cycle();
                known.finish(&disk);
            }
        }
    }
}
