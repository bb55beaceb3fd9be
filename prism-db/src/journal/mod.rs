//! The journal: a spool on disk for updates accepted while the local database could not be written.
//!
//! [`Journal::append`] takes a group of records and returns when all of them are durable. The
//! oldest are read with [`Journal::peek`], done, and then forgotten with [`Journal::trim`].
//!
//! What holds, through kill -9 and power loss at any instant:
//! - Every entry of an acknowledged group is handed out after a restart, in order, until trimmed.
//! - An entry that was trimmed durably is not handed out again, unless the file `progress` is
//!   damaged ([`Damage::Progress`]). An entry that was done, but not trimmed before the crash, is:
//!   whoever runs it makes it idempotent (request ids).
//! - A group whose `append` failed, or never returned, may be found in full, in part from its
//!   beginning, or not at all.
//! - Damage to acknowledged entries is found by checksum, reported ([`Damage`]) and put aside; later
//!   entries are still handed out. One limit: when the newest group is damaged *and* the durable
//!   mark was lost in the same power cut, it looks like a torn write and is reported as one.
//! - After a failed write or fsync nothing is appended any more through this [`Journal`]; opening it
//!   again reads everything and writes again what may only be in the page cache. A full disk is no
//!   such failure as long as what had been written can be taken back durably.
//!
//! Layout: `lock`, `progress`, `reserve`, segments `FIRST-ID.seg`, `quarantine/`.

mod any_disk;
mod disk;
mod error;
mod frame;
#[cfg(any(test, feature = "memory-disk"))]
#[doc(hidden)]
pub mod memory;
mod progress;
mod quarantine;
mod recover;
mod reserve;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use any_disk::AnyDisk;
pub use disk::{Disk, DiskFile, RealDisk};
pub use error::{Damage, JournalError, Recovery, TornTail};

use error::failed;
use frame::{HEADER, Piece, Pieces, Record};
use prism_proto::canary;
use progress::Progress;
use reserve::Reserve;
use writer::Writer;

/// At most this much is handed out by one [`Journal::peek`] (beyond the first entry).
const PEEK_BYTES: usize = 4 << 20;

/// Limits of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// All segments together.
    pub max_bytes: u64,
    /// A segment is closed when the next group would make it longer.
    pub segment_bytes: u64,
    /// Longest payload.
    pub max_record: usize,
    /// Space set aside for a full disk; 0 for none.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 30,
            segment_bytes: 4 << 20,
            // An update of 256 KiB, its request id and the framing around it.
            max_record: 1 << 20,
            reserve_bytes: 256 << 10,
        }
    }
}

/// Numbers of a group's entries, in the order of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Of the first record.
    pub first: u64,
    /// Of the last record.
    pub last: u64,
}

/// An entry that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Ascending. Numbers skip what was lost.
    pub number: u64,
    /// When it was appended, in milliseconds since 1970 by the wall clock.
    pub at_ms: u64,
    /// The record.
    pub payload: Vec<u8>,
}

/// The state of a journal, for status and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Entries that wait.
    pub entries: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Bytes allowed.
    pub limit: u64,
    /// Age of the oldest entry.
    pub oldest: Option<Duration>,
    /// Why nothing is appended any more.
    pub latched: Option<Arc<str>>,
    /// Space is set aside for a full disk.
    pub reserve: bool,
    /// Durable marks that could not be written: damage to the newest group would look like a torn
    /// write.
    pub marks_failed: u64,
}

/// A segment that may hold entries which wait.
#[derive(Debug, Clone)]
struct Segment {
    path: PathBuf,
    id: u64,
    first: u64,
    /// Its highest number; below `first` as long as there is none.
    last: u64,
    /// Bytes that are acknowledged.
    end: u64,
}

/// The segment that is read, as far as it has been read.
#[derive(Default)]
struct Front {
    id: u64,
    bytes: Vec<u8>,
    /// Everything before is trimmed.
    at: usize,
}

/// An open journal. One process at a time has it.
pub struct Journal<D: Disk = RealDisk> {
    disk: D,
    dir: PathBuf,
    options: Options,
    /// Oldest first. The last one is being written if `writer` is there.
    segments: VecDeque<Segment>,
    writer: Option<Writer<D::File>>,
    progress: Progress<D::File>,
    reserve: Reserve,
    /// Numbers above the progress that can't be read.
    lost: Vec<RangeInclusive<u64>>,
    next: u64,
    front: Front,
    /// Number and time of the oldest entry, once it has been looked up.
    oldest: Option<(u64, u64)>,
    latch: Option<Arc<str>>,
    /// The progress file itself has failed.
    trim_latch: Option<Arc<str>>,
    _lock: D::Lock,
}

impl Journal {
    /// Opens or makes the journal in `dir` and tells what was found.
    ///
    /// # Errors
    /// [`JournalError::Locked`], [`JournalError::Version`], [`JournalError::Io`].
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovery), JournalError> {
        Self::open_on(RealDisk, dir, options)
    }
}

impl<D: Disk> Journal<D> {
    /// The same on another file system.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_on(
        disk: D,
        dir: &Path,
        options: Options,
    ) -> Result<(Self, Recovery), JournalError> {
        disk.create_dir(dir).map_err(failed("create", dir))?;
        let lock = dir.join("lock");
        let lock = disk
            .lock(&lock)
            .map_err(failed("lock", &lock))?
            .ok_or_else(|| JournalError::Locked {
                dir: dir.to_path_buf(),
            })?;
        let opened = recover::open(&disk, dir, options.reserve_bytes)?;
        let journal = Self {
            disk,
            dir: dir.to_path_buf(),
            options,
            segments: opened.segments,
            writer: None,
            progress: opened.progress,
            reserve: opened.reserve,
            lost: opened.lost,
            next: opened.next,
            front: Front::default(),
            oldest: None,
            latch: None,
            trim_latch: None,
            _lock: lock,
        };
        Ok((journal, opened.report))
    }

    /// Writes all records, in order, as one group: durable when it returns.
    ///
    /// # Errors
    /// [`JournalError::Full`], [`JournalError::DiskFull`], [`JournalError::TooLarge`],
    /// [`JournalError::EmptyGroup`]: nothing was written. [`JournalError::Latched`]: the group may
    /// or may not be found when the journal is opened again, and no later append succeeds.
    pub fn append<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Numbers, JournalError> {
        if let Some(cause) = &self.latch {
            return Err(JournalError::Latched {
                cause: Arc::clone(cause),
            });
        }
        let need = self.measure(records)?;
        if !self.fits(need) && self.entries() == 0 {
            // Only done entries fill it.
            self.writer = None;
            self.drop_done_segments()?;
        }
        if !self.fits(need) {
            return Err(JournalError::Full {
                entries: self.entries(),
                bytes: self.bytes(),
                limit: self.options.max_bytes,
            });
        }
        if self
            .writer
            .as_ref()
            .is_some_and(|w| w.would_exceed(need, self.options.segment_bytes))
        {
            self.writer = None;
            if self.entries() == 0 {
                self.drop_done_segments()?;
            }
        }
        match self.write(records) {
            Ok(numbers) => Ok(numbers),
            Err(writer::Failure::NoSpace) => Err(JournalError::DiskFull {
                dir: self.dir.clone(),
            }),
            Err(writer::Failure::Broken(e)) => Err(self.latch(&e)),
        }
    }

    fn write<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Numbers, writer::Failure> {
        let first = self.next;
        let at_ms = self.disk.now_ms();
        if self.writer.is_none() {
            let (writer, segment) = Writer::create(&self.disk, &self.dir, first, at_ms)?;
            self.writer = Some(writer);
            self.segments.push_back(segment);
        }
        let (Some(writer), Some(segment)) = (&mut self.writer, self.segments.back_mut()) else {
            return Err(writer::Failure::NoSpace);
        };
        let mut bytes = Vec::new();
        for (number, record) in (first..).zip(records) {
            let record = Record {
                number,
                group: first,
                at_ms,
                payload: record.as_ref(),
            };
            // Lengths were checked against `max_record`; beyond 4 GiB there is no field for them.
            record
                .encode(segment.id, &mut bytes)
                .ok_or(writer::Failure::NoSpace)?;
        }
        match writer.append(&bytes) {
            Ok(end) => segment.end = end,
            Err(e) => return Err(e),
        }
        self.next = first + records.len() as u64;
        segment.last = self.next - 1;
        self.progress.mark(segment.last);
        Ok(Numbers {
            first,
            last: self.next - 1,
        })
    }

    fn measure<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<u64, JournalError> {
        if records.is_empty() {
            return Err(JournalError::EmptyGroup);
        }
        let limit = self.options.max_record.min(u32::MAX as usize);
        let mut need = 0;
        for record in records {
            let len = record.as_ref().len();
            if len > limit {
                return Err(JournalError::TooLarge { len, limit });
            }
            need += Record::encoded_len(record.as_ref()) as u64;
        }
        Ok(need)
    }

    fn fits(&self, need: u64) -> bool {
        let header = match &self.writer {
            Some(w) if !w.would_exceed(need, self.options.segment_bytes) => 0,
            _ => HEADER as u64,
        };
        self.bytes() + need + header <= self.options.max_bytes
    }

    /// The oldest entries, at most `max` of them: perhaps fewer although more wait, none only if
    /// nothing waits. They are handed out again until they are trimmed.
    ///
    /// # Errors
    /// [`JournalError::Io`]; [`JournalError::Damaged`]: open the journal again to get past it.
    pub fn peek(&mut self, max: usize) -> Result<Vec<Entry>, JournalError> {
        let trimmed = self.progress.trimmed;
        let Some(segment) = self
            .segments
            .iter()
            .find(|s| s.last > trimmed && s.last >= s.first)
        else {
            self.front = Front::default();
            return Ok(Vec::new());
        };
        if self.front.id != segment.id {
            self.front = Front {
                id: segment.id,
                bytes: Vec::new(),
                at: HEADER,
            };
        }
        let have = self.front.bytes.len() as u64;
        if have < segment.end {
            let path = &segment.path;
            let file = self.disk.open(path).map_err(failed("open", path))?;
            file.read_range(&mut self.front.bytes, have, segment.end)
                .map_err(failed("read", path))?;
        }
        let damaged = |number| JournalError::Damaged {
            file: segment.path.clone(),
            number,
        };
        let mut entries = Vec::new();
        let mut room = PEEK_BYTES;
        let mut expected = None;
        let start = self.front.at;
        for piece in Pieces::new(&self.front.bytes, start, segment.id, segment.first) {
            let Piece::Record(record, _, end) = piece else {
                continue;
            };
            if record.number <= trimmed {
                self.front.at = end;
                continue;
            }
            // The numbers between must be known to be lost.
            let from = expected.unwrap_or((trimmed + 1).max(segment.first));
            if let Some(number) = self.first_readable(from, record.number) {
                return Err(damaged(number));
            }
            let full = record.payload.len() > room && !entries.is_empty();
            if full || entries.len() == max {
                return Ok(entries);
            }
            room = room.saturating_sub(record.payload.len());
            expected = Some(record.number + 1);
            entries.push(Entry {
                number: record.number,
                at_ms: record.at_ms,
                payload: record.payload.to_vec(),
            });
            if record.number == segment.last {
                return Ok(entries);
            }
        }
        Err(damaged(expected.unwrap_or(trimmed + 1)))
    }

    /// Shows all entries that wait, oldest first, and changes nothing. What can't be read is left
    /// out: [`Journal::peek`] reports it.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn scan(&self, mut sink: impl FnMut(&Entry)) -> Result<(), JournalError> {
        let trimmed = self.progress.trimmed;
        let mut bytes = Vec::new();
        for segment in self.segments.iter().filter(|s| s.last > trimmed) {
            let path = &segment.path;
            let file = self.disk.open(path).map_err(failed("open", path))?;
            bytes.clear();
            file.read_range(&mut bytes, 0, segment.end)
                .map_err(failed("read", path))?;
            for piece in Pieces::new(&bytes, HEADER, segment.id, segment.first) {
                if let Piece::Record(record, _, _) = piece
                    && record.number > trimmed
                    && record.number <= segment.last
                {
                    sink(&Entry {
                        number: record.number,
                        at_ms: record.at_ms,
                        payload: record.payload.to_vec(),
                    });
                }
            }
        }
        Ok(())
    }

    /// The first number in `from..to` that is not known to be lost.
    fn first_readable(&self, from: u64, to: u64) -> Option<u64> {
        let mut at = from;
        while at < to {
            let range = self.lost.iter().find(|r| r.contains(&at));
            match range {
                Some(range) => at = range.end() + 1,
                None => return Some(at),
            }
        }
        None
    }

    /// Everything up to `upto` is done and is not handed out again: durable when it returns.
    /// Works on a full disk and after the journal has latched.
    ///
    /// # Errors
    /// [`JournalError::BeyondEnd`]; [`JournalError::Latched`] when the progress could not be made
    /// durable: entries may be handed out again after a restart.
    pub fn trim(&mut self, upto: u64) -> Result<(), JournalError> {
        if upto <= self.progress.trimmed {
            return Ok(());
        }
        if upto >= self.next {
            return Err(JournalError::BeyondEnd {
                upto,
                last: self.next - 1,
            });
        }
        if let Some(cause) = &self.trim_latch {
            return Err(JournalError::Latched {
                cause: Arc::clone(cause),
            });
        }
        let progress = &mut self.progress;
        let written = self
            .reserve
            .spend(&self.disk, &self.dir, || progress.trim(upto));
        if let Err(e) = written {
            let e = self.latch(&e);
            self.trim_latch = self.latch.clone();
            return Err(e);
        }
        self.lost.retain(|r| *r.end() > upto);
        self.drop_done_segments()
    }

    /// Removes segments whose entries are all done.
    fn drop_done_segments(&mut self) -> Result<(), JournalError> {
        let mut removed = false;
        while let Some(front) = self.segments.front() {
            let written = self.writer.is_some() && self.segments.len() == 1;
            let done = front.last <= self.progress.trimmed
                || canary!(SegmentRemovedEarly) && front.first <= self.progress.trimmed;
            if written || !done {
                break;
            }
            if remove_if_there(&self.disk, &front.path).is_err() {
                // Its bytes still count; the next trim, or the next opening, tries again.
                break;
            }
            self.segments.pop_front();
            removed = true;
        }
        if removed {
            if let Err(e) = self.disk.sync_dir(&self.dir) {
                let e = failed("fsync", &self.dir)(e);
                return Err(self.latch(&e));
            }
            self.reserve.fill(&self.disk, &self.dir);
        }
        Ok(())
    }

    fn latch(&mut self, e: &JournalError) -> JournalError {
        self.writer = None;
        let cause = self.latch.get_or_insert_with(|| e.to_string().into());
        JournalError::Latched {
            cause: Arc::clone(cause),
        }
    }

    /// Entries that wait.
    #[must_use]
    pub fn entries(&self) -> u64 {
        live(self.progress.trimmed, self.next, &self.lost)
    }

    /// Whether a disk error has ended all appending ([`JournalError::Latched`]).
    #[must_use]
    pub fn is_latched(&self) -> bool {
        self.latch.is_some()
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.end).sum()
    }

    /// Everything up to here is done.
    #[must_use]
    pub fn trimmed(&self) -> u64 {
        self.progress.trimmed
    }

    /// The state, for status and metrics. Looks up the oldest entry when that has changed.
    pub fn figures(&mut self) -> Figures {
        let trimmed = self.progress.trimmed;
        if self.oldest.is_none_or(|(number, _)| number <= trimmed) {
            let front = self.peek(1).unwrap_or_default();
            self.oldest = front.first().map(|e| (e.number, e.at_ms));
        }
        let now = self.disk.now_ms();
        Figures {
            entries: self.entries(),
            bytes: self.bytes(),
            limit: self.options.max_bytes,
            oldest: self
                .oldest
                .map(|(_, at)| Duration::from_millis(now.saturating_sub(at))),
            latched: self.latch.clone(),
            reserve: self.reserve.filled,
            marks_failed: self.progress.marks_failed,
        }
    }
}

/// Entries between the progress and the next number that can be read.
fn live(trimmed: u64, next: u64, lost: &[RangeInclusive<u64>]) -> u64 {
    let gone: u64 = lost
        .iter()
        .map(|r| (r.end() + 1).saturating_sub((*r.start()).max(trimmed + 1)))
        .sum();
    (next - 1).saturating_sub(trimmed).saturating_sub(gone)
}

fn remove_if_there<D: Disk>(disk: &D, path: &Path) -> Result<(), JournalError> {
    match disk.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}
