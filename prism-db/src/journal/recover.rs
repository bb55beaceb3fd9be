//! Opening: read everything, decide what is good, put damage aside, make the rest certain.
//!
//! Nothing read is believed to be durable just because it can be read: after a failed fsync the
//! page cache shows bytes that the disk does not have. Entries above the durable mark are therefore
//! written again, the same bytes in the same place, and fsynced through a fresh descriptor. Nobody
//! appends to a segment of an earlier life: the first append makes a new one.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::Segment;
use super::disk::{Disk, DiskFile};
use super::error::{Damage, JournalError, Recovery, TornTail, failed};
use super::frame::{HEADER, Header, Identity, Piece, Pieces, VERSION};
use super::progress::{self, Progress, State};
use super::quarantine::Quarantine;
use super::reserve::Reserve;

/// A journal that has been read.
pub(super) struct Opened<F> {
    pub segments: VecDeque<Segment>,
    pub progress: Progress<F>,
    pub reserve: Reserve,
    /// Numbers above the progress that can't be read.
    pub lost: Vec<RangeInclusive<u64>>,
    pub next: u64,
    pub report: Recovery,
}

/// A segment file, of which only the header has been looked at.
struct Found {
    path: PathBuf,
    name: String,
    who: Identity,
    header_good: bool,
}

/// What walking one segment found.
#[derive(Default)]
struct Walk {
    /// Its highest good number.
    last: Option<u64>,
    /// First bad byte, number of bad bytes.
    bad: Option<(usize, usize)>,
    /// The bad bytes reach the end.
    bad_end: bool,
    /// Acknowledged numbers that are missing inside.
    lost: Vec<RangeInclusive<u64>>,
    /// Where the first entry begins that is not known to be durable.
    uncertain: Option<usize>,
    /// Where an unfinished write begins.
    torn: Option<usize>,
}

pub(super) fn open<D: Disk>(
    disk: &D,
    dir: &Path,
    reserve_bytes: u64,
) -> Result<Opened<D::File>, JournalError> {
    // Looking only, until every file is known to be of a version that is understood.
    let state = progress::read(disk, dir)?;
    let names = disk.list(dir).map_err(failed("list", dir))?;
    let (mut found, nameless) = headers(disk, dir, &names)?;
    // What was seen may not be durable yet (a crash before the directory's fsync).
    disk.sync_dir(dir).map_err(failed("fsync", dir))?;
    for name in names.iter().filter(|n| n.ends_with(".tmp")) {
        super::remove_if_there(disk, &dir.join(name))?;
    }
    let mut reserve = Reserve::find(disk, dir, reserve_bytes);
    let mut quarantine = Quarantine::open(disk, dir)?;
    let mut report = Recovery::default();
    for (path, name) in nameless {
        let bytes = disk.open(&path).and_then(|f| f.len()).unwrap_or(0);
        report.damage.push(Damage::Segment {
            saved: quarantine.take(disk, &path, &name),
            file: path,
            offset: 0,
            bytes,
            lost: Vec::new(),
            known: false,
        });
    }

    let State {
        mut trimmed,
        mut durable,
        intact,
    } = match state {
        Some(state) => state,
        None => State {
            intact: found.is_empty(),
            ..State::default()
        },
    };
    if !intact {
        let path = dir.join(progress::NAME);
        let (saved, _) = quarantine.link(disk, &path, &format!("progress-{:016x}", disk.random()));
        report.damage.push(Damage::Progress { file: path, saved });
        // What is gone from the front was most likely done, not lost.
        if let Some(front) = found.first() {
            trimmed = trimmed.max(front.who.first.saturating_sub(1));
        }
    }
    let mut done = Vec::new();
    while found.get(1).is_some_and(|f| f.who.first <= trimmed + 1) {
        done.push(found.remove(0).path);
    }

    let mut segments = VecDeque::new();
    let mut lost = Vec::new();
    let mut expected = found
        .first()
        .map_or(trimmed + 1, |f| f.who.first.min(trimmed + 1));
    // The damage that reaches the end of the segment before: missing numbers belong to it.
    let mut open_end: Option<usize> = None;
    let count = found.len();
    for (index, file) in found.into_iter().enumerate() {
        // Everything below a segment's first number was durable before it was made.
        durable = durable.max(file.who.first.saturating_sub(1));
        if file.who.first > expected {
            let gap = expected..=file.who.first - 1;
            attribute(&mut report, open_end.take(), clip(gap, trimmed), &mut lost);
            expected = file.who.first;
        }
        let handle = disk.open(&file.path).map_err(failed("open", &file.path))?;
        let mut bytes = Vec::new();
        handle
            .read_range(&mut bytes, 0, u64::MAX)
            .map_err(failed("read", &file.path))?;
        let is_last = index + 1 == count;
        if is_last {
            durable = durable.max(durable_inside(&bytes, file.who.id, expected));
        }
        let walk = walk(
            &bytes,
            file.who.id,
            &mut expected,
            is_last.then_some(durable),
            trimmed,
        );
        lost.extend(walk.lost.iter().cloned());
        let bad = if file.header_good {
            walk.bad
        } else {
            Some((0, HEADER.min(bytes.len()) + walk.bad.map_or(0, |b| b.1)))
        };
        let mut kept = true;
        open_end = None;
        if let Some((offset, count)) = bad {
            let (saved, known) = quarantine.link(disk, &file.path, &file.name);
            kept = saved.is_some();
            if walk.bad_end || (!file.header_good && bytes.len() <= HEADER) {
                open_end = Some(report.damage.len());
            }
            report.damage.push(Damage::Segment {
                file: file.path.clone(),
                offset: offset as u64,
                bytes: count as u64,
                lost: walk.lost.clone(),
                saved,
                known,
            });
        }
        let end = walk.torn.unwrap_or(bytes.len());
        if let Some(torn) = walk.torn {
            report.torn = Some(TornTail {
                file: file.path.clone(),
                offset: torn as u64,
                bytes: (bytes.len() - torn) as u64,
                saved: quarantine.copy(disk, &file.name, torn, bytes.get(torn..).unwrap_or(&[])),
            });
        }
        make_certain(&handle, &file.path, &bytes, end, &walk)?;
        match walk.last {
            Some(last) if last > trimmed => segments.push_back(Segment {
                path: file.path,
                id: file.who.id,
                first: file.who.first,
                last,
                end: end as u64,
            }),
            _ if kept => done.push(file.path),
            // Nothing in it can be read, and a second name for it could not be made.
            _ => drop(quarantine.take(disk, &file.path, &file.name)),
        }
    }
    if durable >= expected {
        attribute(
            &mut report,
            open_end,
            clip(expected..=durable, trimmed),
            &mut lost,
        );
    }
    let next = expected.max(durable + 1).max(trimmed + 1);

    let keep = intact && state.is_some();
    let progress = reserve.spend(disk, dir, || {
        Progress::settle(disk, dir, keep, trimmed, next - 1)
    })?;
    for path in &done {
        super::remove_if_there(disk, path)?;
    }
    disk.sync_dir(dir).map_err(failed("fsync", dir))?;
    reserve.fill(disk, dir);
    report.next = next;
    report.entries = super::live(trimmed, next, &lost);
    Ok(Opened {
        segments,
        progress,
        reserve,
        lost,
        next,
        report,
    })
}

/// All segments in order of their numbers, and files that can't be told to be one.
#[allow(clippy::type_complexity)]
fn headers<D: Disk>(
    disk: &D,
    dir: &Path,
    names: &[String],
) -> Result<(Vec<Found>, Vec<(PathBuf, String)>), JournalError> {
    let mut found = Vec::new();
    let mut nameless = Vec::new();
    for name in names.iter().filter(|n| n.ends_with(".seg")) {
        let path = dir.join(name);
        let file = disk.open(&path).map_err(failed("open", &path))?;
        let mut head = Vec::new();
        file.read_range(&mut head, 0, HEADER as u64)
            .map_err(failed("read", &path))?;
        let (who, header_good) = match Header::read(&head) {
            Header::Known(who) => (Some(who), true),
            Header::Newer(version) => {
                return Err(JournalError::Version {
                    file: path,
                    found: version,
                    known: VERSION,
                });
            }
            Header::Bad => (Identity::from_name(name), false),
        };
        match who {
            Some(who) => found.push(Found {
                path,
                name: name.clone(),
                who,
                header_good,
            }),
            None => nameless.push((path, name.clone())),
        }
    }
    found.sort_by_key(|f| (f.who.first, f.who.id));
    Ok((found, nameless))
}

/// Up to where the newest segment itself shows that its entries are durable: a group is written
/// only after the group before it has been fsynced.
fn durable_inside(bytes: &[u8], id: u64, expected: u64) -> u64 {
    Pieces::new(bytes, HEADER, id, expected)
        .filter_map(|piece| match piece {
            Piece::Record(record, ..) => Some(record.group.min(record.number).saturating_sub(1)),
            Piece::Bad(..) => None,
        })
        .max()
        .unwrap_or(0)
}

/// Walks a segment. `newest` is the durable mark if an unfinished write may be found here.
fn walk(bytes: &[u8], id: u64, expected: &mut u64, newest: Option<u64>, trimmed: u64) -> Walk {
    let mut out = Walk::default();
    for piece in Pieces::new(bytes, HEADER, id, *expected) {
        let unfinished = newest.is_some_and(|durable| *expected > durable);
        match piece {
            Piece::Record(record, from, _) => {
                if record.number > *expected {
                    if unfinished {
                        out.torn = Some(from);
                        break;
                    }
                    out.lost
                        .extend(clip(*expected..=record.number - 1, trimmed));
                }
                *expected = record.number.saturating_add(1);
                out.last = Some(record.number);
                out.bad_end = false;
                if out.uncertain.is_none() && newest.is_some_and(|d| record.number > d) {
                    out.uncertain = Some(from);
                }
            }
            Piece::Bad(from, _) if unfinished => {
                out.torn = Some(from);
                break;
            }
            Piece::Bad(from, to) => {
                let (offset, count) = out.bad.unwrap_or((from, 0));
                out.bad = Some((offset, count + to - from));
                out.bad_end = true;
            }
        }
    }
    out
}

/// Cuts off the unfinished write, and writes again what may only be in the page cache.
fn make_certain<F: DiskFile>(
    file: &F,
    path: &Path,
    bytes: &[u8],
    end: usize,
    walk: &Walk,
) -> Result<(), JournalError> {
    if walk.torn.is_none() && walk.uncertain.is_none() {
        return Ok(());
    }
    if walk.torn.is_some() {
        file.set_len(end as u64).map_err(failed("truncate", path))?;
    }
    if let Some(from) = walk.uncertain
        && let Some(again) = bytes.get(from..end)
    {
        file.write_all_at(again, from as u64)
            .map_err(failed("write", path))?;
    }
    file.sync().map_err(failed("fsync", path))
}

/// The part of the numbers that is not done yet.
fn clip(range: RangeInclusive<u64>, trimmed: u64) -> Option<RangeInclusive<u64>> {
    let from = (*range.start()).max(trimmed + 1);
    (from <= *range.end()).then(|| from..=*range.end())
}

/// Missing numbers go to the damaged segment that they must have been in, if there is one.
fn attribute(
    report: &mut Recovery,
    damaged: Option<usize>,
    gap: Option<RangeInclusive<u64>>,
    all: &mut Vec<RangeInclusive<u64>>,
) {
    let Some(gap) = gap else { return };
    all.push(gap.clone());
    match damaged.and_then(|index| report.damage.get_mut(index)) {
        Some(Damage::Segment { lost, .. }) => lost.push(gap),
        _ => report.damage.push(Damage::Missing { lost: gap }),
    }
}
