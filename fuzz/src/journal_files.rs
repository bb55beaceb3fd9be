//! Any bytes as the files of a journal: it opens or says why not, and what it hands out has valid
//! checksums (they are random, so nothing is handed out unless the fuzzer has copied it whole), in
//! ascending order, and only once it works as a journal again.

use std::path::Path;

use prism_db::journal::{Entry, Journal, Options};

use crate::disk::Memory;

pub const OPTIONS: Options = Options {
    max_bytes: 1 << 20,
    segment_bytes: 2048,
    max_record: 4096,
    reserve_bytes: 0,
};

/// Everything that waits, as the node takes it: piece by piece, trimmed when done.
pub fn drain(journal: &mut Journal<Memory>) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        let some = journal.peek(3).expect("nothing has changed since it was opened");
        let Some(last) = some.last().map(|entry| entry.number) else {
            return all;
        };
        all.extend(some);
        assert!(all.len() < 100_000, "it never ends");
        journal.trim(last).expect("memory is never full");
    }
}

/// Files one after the other: kind, two numbers for a segment's name, length (u16), bytes.
fn unpack(mut bytes: &[u8]) -> Vec<(String, &[u8])> {
    let mut files = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<19>() {
        let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight"));
        let (first, id) = (long(1), long(9));
        let name = match head[0] % 8 {
            0 => "progress".to_owned(),
            1 => "progress.tmp".to_owned(),
            2 => format!("{first}.seg"),
            _ => format!("{first:020}-{id:016x}.seg"),
        };
        let len = usize::from(u16::from_le_bytes([head[17], head[18]])).min(rest.len());
        let (file, rest) = rest.split_at(len);
        files.push((name, file));
        bytes = rest;
    }
    files
}

/// The reverse, for seeds.
pub fn pack(disk: &Memory) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, bytes) in disk.files().iter() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let numbers = name.strip_suffix(".seg").and_then(|name| {
            let (first, id) = name.split_once('-')?;
            Some((first.parse().ok()?, u64::from_str_radix(id, 16).ok()?))
        });
        let (first, id) = numbers.unwrap_or((0, 0));
        let bytes = bytes.lock().expect("one thread");
        out.push(if numbers.is_some() { 3 } else { 0 });
        out.extend_from_slice(&u64::to_le_bytes(first));
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let (disk, dir) = (Memory::default(), Path::new("/j"));
    for (name, bytes) in unpack(bytes).into_iter().take(10) {
        disk.put(dir.join(name), bytes);
    }
    let (mut journal, report) = match Journal::open_on(disk.clone(), dir, OPTIONS) {
        Ok(opened) => opened,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(report.damage.iter().all(|d| !d.to_string().is_empty()));
    let before = drain(&mut journal);
    assert!(before.is_sorted_by(|a, b| a.number < b.number));
    assert_eq!(journal.entries(), 0);
    // It is a journal now, whatever it was. (Unless the numbers are used up.)
    if report.next > u64::MAX / 2 {
        return;
    }
    let numbers = journal.append(&[b"one", b"two"]).expect("memory is never full");
    assert!(numbers.first >= report.next);
    drop(journal);
    let open = || Journal::open_on(disk.clone(), dir, OPTIONS).expect("a journal of its own");
    let (mut journal, report) = open();
    assert_eq!(report.torn, None);
    let payloads: Vec<_> = drain(&mut journal).into_iter().map(|e| e.payload).collect();
    assert_eq!(payloads, [b"one", b"two"]);
    // What was lost is told until something behind it is done.
    drop(journal);
    let (_, report) = open();
    assert_eq!((report.lost(), &report.torn), (0, &None), "{report:?}");
}
