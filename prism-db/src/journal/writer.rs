//! The one descriptor that entries are written through.

use std::path::{Path, PathBuf};

use prism_proto::canary;

use super::Segment;
use super::disk::{Disk, DiskFile};
use super::error::{JournalError, failed, no_space};
use super::frame::{HEADER, Identity};

/// Why a group was not written.
pub(super) enum Failure {
    /// No space; everything is as it was before, durably.
    NoSpace,
    /// Anything else: what is on disk is not known.
    Broken(JournalError),
}

/// The newest segment, open.
pub(super) struct Writer<F> {
    file: F,
    path: PathBuf,
    end: u64,
}

impl<F: DiskFile> Writer<F> {
    /// Makes a segment under another name first, so that one with its proper name is always whole.
    pub fn create<D: Disk<File = F>>(
        disk: &D,
        dir: &Path,
        first: u64,
        now_ms: u64,
    ) -> Result<(Self, Segment), Failure> {
        let who = Identity {
            id: disk.random(),
            first,
        };
        let path = dir.join(who.name());
        let tmp = dir.join("segment.tmp");
        super::remove_if_there(disk, &tmp).map_err(Failure::Broken)?;
        let written = disk.create(&tmp).and_then(|file| {
            file.write_all_at(&who.header(now_ms), 0)?;
            Ok(file)
        });
        let file = match written {
            Ok(file) => file,
            Err(e) if no_space(&e) => {
                // Nobody reads it; the next attempt or opening removes it if this does not.
                let _ = disk.remove(&tmp);
                return Err(Failure::NoSpace);
            }
            Err(e) => return Err(Failure::Broken(failed("create", &tmp)(e))),
        };
        file.sync()
            .map_err(|e| Failure::Broken(failed("fsync", &tmp)(e)))?;
        disk.rename(&tmp, &path).map_err(|e| {
            if no_space(&e) {
                Failure::NoSpace
            } else {
                Failure::Broken(failed("rename", &tmp)(e))
            }
        })?;
        if !canary!(DirectoryNotSynced) {
            disk.sync_dir(dir)
                .map_err(|e| Failure::Broken(failed("fsync", dir)(e)))?;
        }
        let end = HEADER as u64;
        let segment = Segment {
            path: path.clone(),
            id: who.id,
            first,
            last: first - 1,
            end,
        };
        Ok((Self { file, path, end }, segment))
    }

    /// Whether `need` more bytes belong into the next segment.
    pub fn would_exceed(&self, need: u64, limit: u64) -> bool {
        self.end > HEADER as u64 && self.end + need > limit
    }

    /// Writes and fsyncs; returns the new length. After `Broken` the writer must be
    /// dropped; after `NoSpace` it is as it was.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64, Failure> {
        if let Err(e) = self.file.write_all_at(bytes, self.end) {
            if !no_space(&e) {
                return Err(Failure::Broken(failed("write", &self.path)(e)));
            }
            // Unlike a failed fsync, a write that found no space leaves nothing unknown behind,
            // if what it did write can be cut off for good.
            let undone = self.file.set_len(self.end).and_then(|()| self.file.sync());
            return Err(match undone {
                Ok(()) => Failure::NoSpace,
                Err(e) => Failure::Broken(failed("take back a write in", &self.path)(e)),
            });
        }
        let mut synced = if canary!(AnsweredBeforeFsync) {
            Ok(())
        } else {
            self.file.sync()
        };
        if canary!(FsyncRetried) && synced.is_err() {
            synced = self.file.sync();
        }
        synced.map_err(|e| Failure::Broken(failed("fsync", &self.path)(e)))?;
        self.end += bytes.len() as u64;
        Ok(self.end)
    }
}
