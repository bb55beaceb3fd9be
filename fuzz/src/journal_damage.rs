//! A journal is written, then its files are damaged: whatever is handed out afterwards is what was
//! written under that number; what was not damaged is handed out, in order; what is missing is
//! reported as lost; and opening it once more changes nothing.

use std::collections::BTreeMap;
use std::path::Path;

use arbitrary::Arbitrary;
use prism_db::journal::Journal;

use crate::disk::Memory;
use crate::journal_files::{OPTIONS, drain};

#[derive(Debug, Arbitrary)]
struct Story {
    groups: Vec<Group>,
    damage: Vec<Damage>,
}

#[derive(Debug, Arbitrary)]
enum Group {
    Append(Vec<Vec<u8>>),
    /// This many of those that wait are done.
    Trim(u8),
    Reopen,
}

#[derive(Debug, Arbitrary)]
enum Damage {
    Flip { file: u8, at: u16, bit: u8 },
    Zero { file: u8, at: u16, len: u16 },
    Cut { file: u8, by: u16 },
    Extend { file: u8, bytes: Vec<u8> },
    Remove { file: u8 },
    /// A block of one file over a place in another.
    Copy { from: u8, to: u8, at: u16, target: u16, len: u16 },
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let Some(story) = super::structured::<Story>(bytes) else {
        return;
    };
    let (disk, dir) = (Memory::default(), Path::new("/j"));
    let open = || Journal::open_on(disk.clone(), dir, OPTIONS);
    let (mut journal, _) = open().expect("an empty directory");
    // What waits, by number.
    let mut waits: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut trimmed = 0;
    for group in story.groups.iter().take(32) {
        match group {
            Group::Append(records) => {
                // Written as any update would be: the contents do not matter.
                let Ok(numbers) = journal.append(records) else {
                    continue;
                };
                waits.extend((numbers.first..=numbers.last).zip(records.iter().cloned()));
            }
            Group::Trim(count) => {
                if let Some(number) = waits.keys().copied().take((*count).into()).next_back() {
                    journal.trim(number).expect("memory is never full");
                    waits.retain(|n, _| *n > number);
                    trimmed = number;
                }
            }
            Group::Reopen => {
                drop(journal);
                let (again, report) = open().expect("an intact journal");
                assert_eq!((&report.damage[..], &report.torn), (&[][..], &None));
                journal = again;
            }
        }
    }
    assert_eq!(journal.entries(), waits.len() as u64);
    drop(journal);
    let mut hurt = Hurt::default();
    for damage in &story.damage {
        apply(&disk, damage, &mut hurt);
    }
    let Ok((mut journal, report)) = open() else {
        // A flipped bit cannot make a file of another version: that has a checksum.
        panic!("damage is no reason not to open");
    };
    let progress_lost = (report.damage.iter())
        .any(|d| matches!(d, prism_db::journal::Damage::Progress { .. }));
    let mut found = BTreeMap::new();
    journal
        .scan(|entry| {
            found.insert(entry.number, entry.payload.clone());
        })
        .expect("memory is readable");
    for (number, payload) in &found {
        match waits.get(number) {
            Some(written) => assert_eq!(payload, written, "entry {number}"),
            None => assert!(
                *number <= trimmed && progress_lost,
                "entry {number} was never written, or was done"
            ),
        }
    }
    if !hurt.anything {
        assert_eq!((found.len(), report.damage.len()), (waits.len(), 0), "{report:?}");
    }
    if !hurt.progress {
        // The durable mark stands: it knows what must be there.
        let missing = waits.keys().filter(|n| !found.contains_key(n)).count();
        assert_eq!(report.lost(), missing as u64, "{report:?}");
        assert_eq!(journal.entries(), found.len() as u64);
    }
    let handed: BTreeMap<_, _> = {
        drop(journal);
        let (again, second) = open().expect("it has been opened before");
        // Damage that was told looks like an unfinished write once its segment has become the newest.
        assert!(second.torn.is_none() || !report.damage.is_empty(), "{second:?}");
        journal = again;
        drain(&mut journal).into_iter().map(|e| (e.number, e.payload)).collect()
    };
    assert_eq!(handed, found, "the second opening finds the same as the first");
    let numbers = journal.append(&[b"new"]).expect("memory is never full");
    let known = if hurt.progress { &found } else { &waits };
    assert!(known.keys().all(|n| *n < numbers.first), "a number is used twice");
    assert_eq!(drain(&mut journal).len(), 1);
}

#[derive(Default)]
struct Hurt {
    anything: bool,
    progress: bool,
}

fn apply(disk: &Memory, damage: &Damage, hurt: &mut Hurt) {
    let mut files = disk.files();
    let names: Vec<_> = files.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let pick = |file: u8| &names[usize::from(file) % names.len()];
    let (Damage::Flip { file, .. }
    | Damage::Zero { file, .. }
    | Damage::Cut { file, .. }
    | Damage::Extend { file, .. }
    | Damage::Remove { file }
    | Damage::Copy { to: file, .. }) = damage;
    hurt.anything = true;
    hurt.progress |= pick(*file).ends_with("progress");
    let bytes = |file: u8| files[pick(file)].clone();
    let place = |at: u16, len: usize| usize::from(at) % len.max(1);
    match damage {
        Damage::Flip { file, at, bit } => {
            let file = bytes(*file);
            let mut file = file.lock().expect("one thread");
            let at = place(*at, file.len());
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Damage::Zero { file, at, len } => {
            let file = bytes(*file);
            let mut file = file.lock().expect("one thread");
            let at = place(*at, file.len());
            let end = file.len().min(at + usize::from(*len));
            file[at..end].fill(0);
        }
        Damage::Cut { file, by } => {
            let file = bytes(*file);
            let mut file = file.lock().expect("one thread");
            let len = file.len().saturating_sub(place(*by, file.len() + 1));
            file.truncate(len);
        }
        Damage::Extend { file, bytes: more } => {
            bytes(*file).lock().expect("one thread").extend_from_slice(more);
        }
        Damage::Remove { file } => {
            let name = pick(*file).clone();
            files.remove(&name);
        }
        Damage::Copy { from, to, at, target, len } => {
            let from = bytes(*from).lock().expect("one thread").clone();
            let at = place(*at, from.len());
            let block = &from[at..from.len().min(at + usize::from(*len))];
            let to = bytes(*to);
            let mut to = to.lock().expect("one thread");
            let target = place(*target, to.len());
            let end = to.len().min(target + block.len());
            to[target..end].copy_from_slice(&block[..end - target]);
        }
    }
}
