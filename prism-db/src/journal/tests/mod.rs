//! The journal on a faulty disk, on a damaged one, against a model, and on the real one.

mod crash;
mod damage;
mod limits;
mod model;
mod real;

use std::path::Path;

use super::memory::{self, MemDisk};
use super::{Disk, Entry, Journal, JournalError, Options};

const DIR: &str = "/j";

/// Small segments, so that short tests cross many of them.
const SMALL: Options = Options {
    max_bytes: 1 << 20,
    segment_bytes: 1200,
    max_record: 4096,
    reserve_bytes: 0,
};

fn dir() -> &'static Path {
    Path::new(DIR)
}

/// A payload that tells its origin, of a length that varies.
fn payload(n: u64) -> Vec<u8> {
    let len = usize::try_from(memory::scramble(n) % 240).unwrap_or(0);
    let mut out = format!("update {n} ").into_bytes();
    out.extend((0..len).map(|i| memory::scramble(n ^ i as u64).to_le_bytes()[0]));
    out
}

/// Everything that waits, without forgetting any of it.
fn waiting(journal: &Journal<MemDisk>) -> Vec<Entry> {
    let mut out: Vec<Entry> = Vec::new();
    journal.scan(|entry| out.push(entry.clone())).expect("read");
    out
}

/// Takes everything out by `peek` and `trim`, as a node does.
fn drain<D: Disk>(journal: &mut Journal<D>, step: usize) -> Result<Vec<Entry>, JournalError> {
    let mut out = Vec::new();
    loop {
        let entries = journal.peek(step)?;
        let Some(last) = entries.last() else {
            return Ok(out);
        };
        journal.trim(last.number)?;
        out.extend(entries);
    }
}
