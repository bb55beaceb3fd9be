//! Evidence: damaged files and cut-off tails, kept for a person to look at.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::error::{JournalError, failed};

/// A node that crashes in a loop must not fill the disk with evidence.
const MAX_FILES: usize = 64;

/// The directory `quarantine`.
pub(super) struct Quarantine {
    dir: PathBuf,
    names: Vec<String>,
}

impl Quarantine {
    pub fn open<D: Disk>(disk: &D, journal: &Path) -> Result<Self, JournalError> {
        let dir = journal.join("quarantine");
        disk.create_dir(&dir).map_err(failed("create", &dir))?;
        let names = disk.list(&dir).map_err(failed("list", &dir))?;
        Ok(Self { dir, names })
    }

    /// A second name for a damaged file, so that it outlives the segment; needs no space. Also
    /// whether it was there already. Losing evidence is no reason not to start.
    pub fn link<D: Disk>(&mut self, disk: &D, path: &Path, name: &str) -> (Option<PathBuf>, bool) {
        let to = self.dir.join(name);
        if self.names.iter().any(|n| n == name) {
            return (Some(to), true);
        }
        let saved = self.room() && disk.link(path, &to).is_ok() && disk.sync_dir(&self.dir).is_ok();
        (self.noted(saved, name, to), false)
    }

    /// Moves a file away that can't stay.
    pub fn take<D: Disk>(&mut self, disk: &D, path: &Path, name: &str) -> Option<PathBuf> {
        let to = self.dir.join(name);
        let saved = disk.rename(path, &to).is_ok() && disk.sync_dir(&self.dir).is_ok();
        self.noted(saved, name, to)
    }

    /// A copy of bytes that are about to be cut off.
    pub fn copy<D: Disk>(
        &mut self,
        disk: &D,
        segment: &str,
        offset: usize,
        bytes: &[u8],
    ) -> Option<PathBuf> {
        let name = format!("{segment}.tail-{offset}-{:016x}", disk.random());
        let to = self.dir.join(&name);
        if !self.room() {
            return None;
        }
        let write = || -> io::Result<()> {
            let file = disk.create(&to)?;
            file.write_all_at(bytes, 0)?;
            file.sync()?;
            disk.sync_dir(&self.dir)
        };
        let saved = write().is_ok();
        if !saved {
            // A part of it would only mislead; that it stays if this fails as well is harmless.
            let _ = disk.remove(&to);
        }
        self.noted(saved, &name, to)
    }

    fn room(&self) -> bool {
        self.names.len() < MAX_FILES
    }

    fn noted(&mut self, saved: bool, name: &str, to: PathBuf) -> Option<PathBuf> {
        if saved {
            self.names.push(name.to_owned());
        }
        saved.then_some(to)
    }
}
