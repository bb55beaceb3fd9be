//! What can go wrong with a journal, and what its opening found.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A journal operation that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has this directory.
    #[error(
        "journal {} is in use by another process: is the same node running twice? Stop the other \
         one, or give this one its own --data-dir", dir.display()
    )]
    Locked {
        /// The journal's directory.
        dir: PathBuf,
    },
    /// Written by a newer Prism. Nothing was changed.
    #[error(
        "{} has journal format {found}, this version of Prism knows {known}: start the newer \
         version again, at least until the journal is empty", file.display()
    )]
    Version {
        /// Which file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The configured limit is reached; nothing was written.
    #[error(
        "journal is full: {entries} updates in {bytes} of {limit} bytes wait for the database; try \
         again later"
    )]
    Full {
        /// Entries that wait.
        entries: u64,
        /// Bytes used.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The file system is full; what had been written of the group was taken back.
    #[error("no space left for the journal in {}; free some, then try again", dir.display())]
    DiskFull {
        /// The journal's directory.
        dir: PathBuf,
    },
    /// A record is longer than `max_record`.
    #[error("a record of {len} bytes is too large for the journal (at most {limit})")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A group without records.
    #[error("an empty group cannot be appended")]
    EmptyGroup,
    /// A write or an fsync has failed. What was being written may or may not be found when the
    /// journal is opened again; everything acknowledged before is safe.
    #[error(
        "journal takes no more entries because of a disk error ({cause}): check the disk, then \
         restart the node"
    )]
    Latched {
        /// The first failure.
        cause: Arc<str>,
    },
    /// An entry that was good when the journal was opened no longer is.
    #[error(
        "entry {number} in {} can no longer be read: check the disk, then restart the node, which \
         puts the damage aside and goes on with the rest", file.display()
    )]
    Damaged {
        /// Its segment.
        file: PathBuf,
        /// Its number.
        number: u64,
    },
    /// `trim` names an entry that does not exist.
    #[error("cannot trim up to {upto}: the newest entry is {last}")]
    BeyondEnd {
        /// What was asked for.
        upto: u64,
        /// The newest entry's number.
        last: u64,
    },
    /// The system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its words.
        source: io::Error,
    },
}

/// Adds what was tried, and on what, to an I/O error.
pub(super) fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> JournalError + 'a {
    move |source| JournalError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

impl JournalError {
    /// Whether there was no space, found out in time: never after an fsync, which is not repeated.
    pub(super) fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, action, .. } if *action != "fsync" && no_space(source))
    }
}

pub(super) fn no_space(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Entries that wait.
    pub entries: u64,
    /// Number of the next entry.
    pub next: u64,
    /// The end of a write that a crash interrupted. Ordinary: nobody had been told it was done.
    pub torn: Option<TornTail>,
    /// Everything that is not ordinary: raise an alarm for each.
    pub damage: Vec<Damage>,
}

impl Recovery {
    /// Acknowledged entries that can't be read any more.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.damage
            .iter()
            .flat_map(|d| match d {
                Damage::Segment { lost, .. } => lost.as_slice(),
                Damage::Missing { lost } => std::slice::from_ref(lost),
                Damage::Progress { .. } => &[],
            })
            .map(|r| r.end() - r.start() + 1)
            .sum()
    }
}

/// An unfinished write that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Its length now.
    pub offset: u64,
    /// Bytes cut off.
    pub bytes: u64,
    /// Where they are kept; `None` if there was no room.
    pub saved: Option<PathBuf>,
}

/// Damage to what had been durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// Bytes of a segment are not what was written. Its good entries are kept.
    Segment {
        /// The segment.
        file: PathBuf,
        /// The first bad byte.
        offset: u64,
        /// Bad bytes.
        bytes: u64,
        /// Acknowledged entries that are gone; empty if only framing was hit.
        lost: Vec<RangeInclusive<u64>>,
        /// The segment as it was found; `None` if it could not be kept.
        saved: Option<PathBuf>,
        /// It had been put aside by an earlier opening, so it was reported then.
        known: bool,
    },
    /// Acknowledged entries are gone without a trace: a file is missing or was shortened.
    Missing {
        /// Their numbers.
        lost: RangeInclusive<u64>,
    },
    /// The record of what is done is damaged: entries that were done may be handed out again.
    Progress {
        /// The file.
        file: PathBuf,
        /// The file as it was found.
        saved: Option<PathBuf>,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, lost: &[RangeInclusive<u64>]| {
            for (i, r) in lost.iter().enumerate() {
                let comma = if i == 0 { "" } else { ", " };
                if r.start() == r.end() {
                    write!(f, "{comma}{}", r.start())?;
                } else {
                    write!(f, "{comma}{}-{}", r.start(), r.end())?;
                }
            }
            Ok(())
        };
        match self {
            Self::Segment {
                file,
                offset,
                bytes,
                lost,
                saved,
                ..
            } => {
                write!(
                    f,
                    "{bytes} bytes of {} are damaged from byte {offset}; ",
                    file.display()
                )?;
                if lost.is_empty() {
                    write!(f, "no acknowledged entry is lost")?;
                } else {
                    write!(f, "acknowledged entries lost: ")?;
                    list(f, lost)?;
                }
                match saved {
                    Some(path) => write!(f, "; the file is kept as {}", path.display()),
                    None => write!(f, "; the file could not be kept"),
                }
            }
            Self::Missing { lost } => {
                write!(f, "acknowledged entries are missing from the journal: ")?;
                list(f, std::slice::from_ref(lost))
            }
            Self::Progress { file, saved } => {
                write!(
                    f,
                    "{} is damaged: entries that were done may run again (request ids stop that)",
                    file.display()
                )?;
                match saved {
                    Some(path) => write!(f, "; the file is kept as {}", path.display()),
                    None => Ok(()),
                }
            }
        }
    }
}
