//! Space set aside, so that a full disk can still be told that entries are done.
//!
//! The progress file is overwritten in place, which needs no space on most file systems. On those
//! that copy on write it does, and a new progress file does everywhere: then the reserve goes first.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::error::JournalError;

/// The file `reserve`.
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    pub filled: bool,
}

impl Reserve {
    pub fn find<D: Disk>(disk: &D, dir: &Path, bytes: u64) -> Self {
        let path = dir.join("reserve");
        let len = disk.open(&path).and_then(|f| f.len()).unwrap_or(0);
        Self {
            path,
            bytes,
            filled: len > 0,
        }
    }

    /// Runs `action`, once more without the reserve if there was no space for it.
    pub fn spend<D: Disk, T>(
        &mut self,
        disk: &D,
        dir: &Path,
        mut action: impl FnMut() -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        match action() {
            Err(e) if e.is_no_space() && self.filled => {
                let _ = disk.remove(&self.path);
                let _ = disk.sync_dir(dir);
                self.filled = false;
                action()
            }
            other => other,
        }
    }

    /// Makes the reserve if it is missing and there is space; without it life goes on.
    pub fn fill<D: Disk>(&mut self, disk: &D, dir: &Path) {
        if self.filled || self.bytes == 0 {
            return;
        }
        let write = || -> io::Result<()> {
            let _ = disk.remove(&self.path);
            let file = disk.create(&self.path)?;
            // Not zeros: those take no space on a file system that compresses.
            let mut noise = disk.random() | 1;
            let mut block = [0_u8; 4096];
            let mut at = 0;
            while at < self.bytes {
                for chunk in block.chunks_mut(8) {
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    chunk.copy_from_slice(&noise.to_le_bytes()[..chunk.len()]);
                }
                file.write_all_at(&block, at)?;
                at += block.len() as u64;
            }
            file.sync()?;
            disk.sync_dir(dir)
        };
        self.filled = write().is_ok();
        if !self.filled {
            let _ = disk.remove(&self.path);
        }
    }
}
