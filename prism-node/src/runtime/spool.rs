//! The journal of a node: updates accepted while the database is away, with an index of their ids.
//!
//! The index costs some 30 bytes of memory per entry: without it, whoever repeats a request while
//! the database is away could not be answered.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use prism_db::Digest;
use prism_db::journal::{AnyDisk, Damage, Disk, Journal, JournalError, Options, Recovery};
use prism_net::platform::{Condvar, Mutex, MutexGuard, wall};

use super::alarms::name;
use super::board::Board;
use super::entropy;
use super::entry::Entry;
use super::queue::Item;
use crate::intake::Failure;

const FULL: &str = "bring the database back: the journal empties by itself then; or give it more \
    room ([limits] max_journal, free disk space)";
const LATCHED: &str = "check the disk, then restart this node: what the journal holds is safe and \
    runs then";
const DAMAGED: &str = "find out from the quarantined file and the callers' logs which updates are \
    lost, and submit them again (the same request_id is safe); check the disk";

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The journal itself.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The file that holds its identity.
    #[error("cannot use {path}: {source}")]
    Identity {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// See the module.
pub(super) struct Spool {
    journal: Mutex<Journal<AnyDisk>>,
    index: Mutex<HashMap<[u8; 16], u32>>,
    changed: Condvar,
    board: Arc<Board>,
    max_update: usize,
    identity: u64,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").finish_non_exhaustive()
    }
}

impl Spool {
    /// Opens or makes the journal in `dir`. Damage becomes an alarm, and is no reason not to go on
    /// with the rest.
    pub(super) fn open(
        disk: &AnyDisk,
        dir: &Path,
        max_bytes: u64,
        max_update: usize,
        board: Arc<Board>,
    ) -> Result<Self, SpoolError> {
        let usual = Options::default();
        let options = Options {
            max_bytes,
            // Room is given back by the segment: also a small journal has many.
            segment_bytes: usual.segment_bytes.min(max_bytes / 64),
            ..usual
        };
        let (journal, recovery) = Journal::open_on(disk.clone(), dir, options)?;
        report(&board, &recovery);
        let mut index = HashMap::new();
        journal.scan(|entry| {
            if let Some(entry) = Entry::decode(&entry.payload) {
                index.insert(entry.request_id, short(&entry.body));
            }
        })?;
        let spool = Self {
            identity: identity(disk, &dir.join("identity"))?,
            journal: Mutex::new(journal),
            index: Mutex::new(index),
            changed: Condvar::new(),
            board,
            max_update,
        };
        spool.tell(&mut spool.lock());
        Ok(spool)
    }

    /// A number that stays with this journal: another one means that it was replaced or wiped.
    pub(super) fn identity(&self) -> u64 {
        self.identity
    }

    fn lock(&self) -> MutexGuard<'_, Journal<AnyDisk>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> MutexGuard<'_, HashMap<[u8; 16], u32>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an update with this id waits, and if so whether it is the same one.
    pub(super) fn holds(&self, id: &[u8; 16], body: &Digest) -> Option<bool> {
        self.index().get(id).map(|known| *known == short(body))
    }

    /// Whether an update with this id waits.
    pub(super) fn lists(&self, id: &[u8; 16]) -> bool {
        self.index().contains_key(id)
    }

    /// Whether nothing waits: everything accepted before is in the database.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().entries() == 0
    }

    /// Entries that wait.
    pub(super) fn entries(&self) -> u64 {
        self.lock().entries()
    }

    /// Writes these in order, as one group; those that are `Ok` are durable when it returns.
    pub(super) fn append(&self, items: &[&Item]) -> Vec<Result<(), Failure>> {
        let payloads: Vec<Result<Vec<u8>, Failure>> = items
            .iter()
            .map(|item| {
                let entry = Entry::new(&item.statement, &item.submission, item.body).encode();
                let (size, limit) = (entry.len(), self.max_update);
                // Somewhat longer than the update that it becomes, or shorter: whatever is within
                // the limit here and not there is refused when it runs.
                if size > limit + 256 {
                    Err(Failure::TooLarge { size, limit })
                } else {
                    Ok(entry)
                }
            })
            .collect();
        let records: Vec<&[u8]> = payloads.iter().flatten().map(Vec::as_slice).collect();
        let written = if records.is_empty() {
            Ok(())
        } else {
            let mut journal = self.lock();
            let was_latched = journal.is_latched();
            let written = journal.append(&records).map(drop);
            if written.is_ok() {
                let mut index = self.index();
                let taken = items.iter().zip(&payloads).filter(|(_, p)| p.is_ok());
                for (item, _) in taken {
                    index.insert(item.id(), short(&item.body));
                }
            }
            self.tell(&mut journal);
            drop(journal);
            self.changed.notify_all();
            written.map_err(|error| self.failed(&error, was_latched))
        };
        let answer = |payload: Result<Vec<u8>, Failure>| payload.and(written.clone());
        payloads.into_iter().map(answer).collect()
    }

    fn failed(&self, error: &JournalError, was_latched: bool) -> Failure {
        match error {
            JournalError::Latched { cause } => {
                self.latched(cause);
                if was_latched {
                    Failure::Journal(error.to_string())
                } else {
                    // This very group may have reached the disk, and would run after a restart.
                    Failure::Unknown(format!(
                        "{error}; this update may be executed when the node runs again: ask by its \
                         request_id then"
                    ))
                }
            }
            error => {
                self.board
                    .raise(name::JOURNAL_FULL, "", error.to_string(), FULL);
                Failure::Journal(error.to_string())
            }
        }
    }

    fn latched(&self, cause: &str) {
        let detail = format!("the journal takes no more updates because of a disk error: {cause}");
        self.board.raise(name::JOURNAL_LATCHED, "", detail, LATCHED);
    }

    /// Waits until something is there to be run; false if nothing has come.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let journal = self.lock();
        if journal.entries() > 0 {
            return true;
        }
        let waited = self.changed.wait_timeout(journal, limit);
        waited.unwrap_or_else(PoisonError::into_inner).0.entries() > 0
    }

    /// The oldest entries with their numbers; `None` for one that can't be understood.
    pub(super) fn oldest(&self, max: usize) -> Result<Vec<(u64, Option<Entry>)>, JournalError> {
        let entries = self.lock().peek(max)?;
        let entries = entries.into_iter();
        Ok(entries
            .map(|e| (e.number, Entry::decode(&e.payload)))
            .collect())
    }

    /// How long the oldest entry has waited.
    pub(super) fn age(&self) -> Option<Duration> {
        self.lock().figures().oldest
    }

    /// Everything up to `upto` has its outcome in the database; these are its entries.
    pub(super) fn done(&self, upto: u64, entries: &[Entry]) -> Result<(), JournalError> {
        let mut journal = self.lock();
        let trimmed = journal.trim(upto);
        let mut index = self.index();
        for entry in entries {
            index.remove(&entry.request_id);
        }
        if index.is_empty() {
            index.shrink_to_fit();
        }
        drop(index);
        self.tell(&mut journal);
        drop(journal);
        if let Err(JournalError::Latched { cause }) = &trimmed {
            self.latched(cause);
        } else {
            self.board.lock().alarms.clear(name::JOURNAL_FULL, "");
        }
        self.changed.notify_all();
        trimmed
    }

    /// Its figures, for status and metrics.
    fn tell(&self, journal: &mut Journal<AnyDisk>) {
        let figures = journal.figures();
        let mut state = self.board.lock();
        state.journal.entries = figures.entries;
        state.journal.bytes = figures.bytes;
        state.journal.oldest = figures.oldest.and_then(|age| wall().checked_sub(age));
        state.journal.latched = figures.latched.is_some();
    }
}

/// Enough to tell another update from a retry, whose id is the same by intent.
fn short(body: &Digest) -> u32 {
    u32::from_le_bytes([body.0[0], body.0[1], body.0[2], body.0[3]])
}

fn report(board: &Board, recovery: &Recovery) {
    if let Some(torn) = &recovery.torn {
        tracing::info!(
            file = %torn.file.display(),
            bytes = torn.bytes,
            "the end of an unfinished write was cut off the journal; nobody had been told it was \
             done"
        );
    }
    let lost = recovery.lost();
    for (i, damage) in recovery.damage.iter().enumerate() {
        if matches!(damage, Damage::Segment { known: true, .. }) {
            tracing::warn!("still in the journal's quarantine: {damage}");
            continue;
        }
        board.raise(
            name::JOURNAL_DAMAGED,
            &i.to_string(),
            format!("{damage} ({lost} acknowledged updates lost in all)"),
            DAMAGED,
        );
    }
    if recovery.entries > 0 {
        tracing::info!(
            updates = recovery.entries,
            "updates wait in the journal from before; they run as soon as the database answers"
        );
    }
}

/// Reads the identity, or draws one for a new journal.
fn identity(disk: &AnyDisk, path: &Path) -> Result<u64, SpoolError> {
    const MAX_FILE: u64 = 32;
    let fail = |source| SpoolError::Identity {
        path: path.to_owned(),
        source,
    };
    if let Some(bytes) = disk.read_whole(path, MAX_FILE).map_err(fail)? {
        let text = str::from_utf8(&bytes).unwrap_or_default();
        if let Ok(identity) = u64::from_str_radix(text.trim(), 16) {
            return Ok(identity);
        }
        tracing::warn!(path = %path.display(), "not an identity; a new one is drawn");
    }
    let identity = entropy::number();
    disk.replace(path, format!("{identity:016x}\n").as_bytes())
        .map_err(fail)?;
    Ok(identity)
}
