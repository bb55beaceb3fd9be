//! The file `progress`: up to which entry everything is done, and up to which entry everything is
//! known to be durable.
//!
//! Four fixed slots, each in its own block, overwritten in place: no space is needed on a full disk.
//! Two hold the progress and are written in turn with an fsync, so that a torn one leaves the other.
//! Two hold the durable mark, written after each group *without* an fsync: it can be behind, never
//! ahead, and tells an acknowledged entry that is damaged from a write that never finished.

use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::error::{JournalError, failed};
use super::frame;

/// Name of the file.
pub(super) const NAME: &str = "progress";
/// Longest physical block in use: a slot never shares one with another.
const BLOCK: usize = 4096;
const SLOT: usize = 36;
const SLOTS: usize = 4;
const TRIM_MAGIC: [u8; 8] = *b"PRISMTRM";
const MARK_MAGIC: [u8; 8] = *b"PRISMMRK";

/// What the file said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Everything up to here is done.
    pub trimmed: u64,
    /// Everything up to here has been durable.
    pub durable: u64,
    /// All slots are readable.
    pub intact: bool,
}

/// The open file.
pub(super) struct Progress<F> {
    file: F,
    path: PathBuf,
    trims: u64,
    marks: u64,
    pub trimmed: u64,
    /// Marks that could not be written; recovery is then less sure, never wrong.
    pub marks_failed: u64,
}

fn slot(magic: [u8; 8], generation: u64, value: u64) -> [u8; SLOT] {
    let mut out = [0; SLOT];
    out[..16].copy_from_slice(&frame::prefix(magic, frame::VERSION));
    out[16..24].copy_from_slice(&generation.to_le_bytes());
    out[24..32].copy_from_slice(&value.to_le_bytes());
    let crc = crc32c::crc32c(&out[..32]);
    out[32..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Generation and value of a good slot; `Err` is a newer version.
fn read_slot(bytes: &[u8], index: usize) -> Result<Option<(u64, u64)>, u32> {
    let magic = if index < 2 { TRIM_MAGIC } else { MARK_MAGIC };
    let Some(slot) = bytes.get(index * BLOCK..index * BLOCK + SLOT) else {
        return Ok(None);
    };
    match frame::version(slot, magic) {
        Some(frame::VERSION) => {}
        Some(newer) if newer > frame::VERSION => return Err(newer),
        _ => return Ok(None),
    }
    let good = frame::u32_at(slot, 32) == Some(crc32c::crc32c(&slot[..32]));
    Ok(match (frame::u64_at(slot, 16), frame::u64_at(slot, 24)) {
        (Some(generation), Some(value)) if good => Some((generation, value)),
        _ => None,
    })
}

/// Reads the file; `None` if there is none.
pub(super) fn read<D: Disk>(disk: &D, dir: &Path) -> Result<Option<State>, JournalError> {
    let path = dir.join(NAME);
    let file = match disk.open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("open", &path)(e)),
    };
    let mut bytes = Vec::new();
    file.read_range(&mut bytes, 0, (SLOTS * BLOCK) as u64)
        .map_err(failed("read", &path))?;
    let mut state = State {
        intact: true,
        ..State::default()
    };
    for index in 0..SLOTS {
        let value = read_slot(&bytes, index).map_err(|found| JournalError::Version {
            file: path.clone(),
            found,
            known: frame::VERSION,
        })?;
        match value {
            // Both only ever grow, so the greater of two good slots is the newer one.
            Some((_, value)) if index < 2 => state.trimmed = state.trimmed.max(value),
            Some((_, value)) => state.durable = state.durable.max(value),
            None => state.intact = false,
        }
    }
    Ok(Some(state))
}

impl<F: DiskFile> Progress<F> {
    /// Opens the undamaged file, or makes it anew, with these values, durably. What is read back
    /// may only be in the page cache after a failed fsync, hence the fresh write in either case.
    pub fn settle<D: Disk<File = F>>(
        disk: &D,
        dir: &Path,
        keep: bool,
        trimmed: u64,
        durable: u64,
    ) -> Result<Self, JournalError> {
        let path = dir.join(NAME);
        let at = if keep {
            path.clone()
        } else {
            dir.join("progress.tmp")
        };
        let file = if keep {
            disk.open(&at).map_err(failed("open", &at))?
        } else {
            super::remove_if_there(disk, &at)?;
            disk.create(&at).map_err(failed("create", &at))?
        };
        if !keep {
            // All blocks exist from the start: later writes only replace.
            file.write_all_at(&[0; SLOTS * BLOCK], 0)
                .map_err(failed("write", &at))?;
        }
        // One slot of each pair after the other, so that a crash between leaves the other good.
        for first in [0, 1] {
            for (index, magic, value) in [
                (first, TRIM_MAGIC, trimmed),
                (first + 2, MARK_MAGIC, durable),
            ] {
                file.write_all_at(&slot(magic, first, value), index * BLOCK as u64)
                    .map_err(failed("write", &at))?;
            }
            file.sync().map_err(failed("fsync", &at))?;
        }
        if !keep {
            disk.rename(&at, &path).map_err(failed("rename", &at))?;
            disk.sync_dir(dir).map_err(failed("fsync", dir))?;
        }
        Ok(Self {
            file,
            path,
            trims: 2,
            marks: 2,
            trimmed,
            marks_failed: 0,
        })
    }

    /// Everything up to `upto` is done: durable when it returns.
    pub fn trim(&mut self, upto: u64) -> Result<(), JournalError> {
        let bytes = slot(TRIM_MAGIC, self.trims, upto);
        let offset = (self.trims % 2) * BLOCK as u64;
        self.file
            .write_all_at(&bytes, offset)
            .map_err(failed("write", &self.path))?;
        self.file.sync().map_err(failed("fsync", &self.path))?;
        self.trims += 1;
        self.trimmed = upto;
        Ok(())
    }

    /// Everything up to `durable` has been fsynced.
    pub fn mark(&mut self, durable: u64) {
        let bytes = slot(MARK_MAGIC, self.marks, durable);
        let offset = (2 + self.marks % 2) * BLOCK as u64;
        match self.file.write_all_at(&bytes, offset) {
            Ok(()) => self.marks += 1,
            Err(_) => self.marks_failed += 1,
        }
    }
}
