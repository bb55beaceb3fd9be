//! Bytes of a segment: its header, its records, and how to read them when some are damaged.
//!
//! ```text
//! segment  magic 8 | version 4 | crc 4 | id 8 | first 8 | created 8 | 0 .. | crc 4      64 bytes
//! record   magic 4 | length 4 | number 8 | group 8 | at 8 | head crc 4 | crc 4 | payload
//! ```
//! All little-endian, all checksums CRC-32C. A record's head checksum starts from the segment's
//! id, which no other segment has, so bytes that a recycled block held before are never taken for
//! records; the payload's starts from the head's, so a payload belongs to its head.

use prism_proto::canary;

/// Format written here.
pub(super) const VERSION: u32 = 1;
/// Bytes of a segment's header.
pub(super) const HEADER: usize = 64;
/// Bytes of a record before its payload.
pub(super) const RECORD: usize = 40;

const SEGMENT_MAGIC: [u8; 8] = *b"PRISMJNL";
const RECORD_MAGIC: [u8; 4] = *b"PJr1";

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Magic, version and their checksum: the 16 bytes that every version of every file starts with,
/// so that a newer format is told apart from damage.
pub(super) fn prefix(magic: [u8; 8], version: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&magic);
    out[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c::crc32c(&out[..12]);
    out[12..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The version, if the 16 bytes are undamaged.
pub(super) fn version(bytes: &[u8], magic: [u8; 8]) -> Option<u32> {
    let version = u32_at(bytes, 8)?;
    (bytes.get(..16)? == prefix(magic, version)).then_some(version)
}

/// Who a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// Random, starts every checksum.
    pub id: u64,
    /// The lowest number that it may hold. All numbers below were durable when it was made.
    pub first: u64,
}

/// What the first bytes of a segment say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// Undamaged, of the version known here.
    Known(Identity),
    /// Undamaged, newer.
    Newer(u32),
    /// Not readable.
    Bad,
}

impl Identity {
    /// File name: it repeats the header, so that a damaged header costs no entry.
    pub fn name(self) -> String {
        format!("{:020}-{:016x}.seg", self.first, self.id)
    }

    pub fn from_name(name: &str) -> Option<Self> {
        let (first, id) = name.strip_suffix(".seg")?.split_once('-')?;
        Some(Self {
            id: u64::from_str_radix(id, 16).ok()?,
            first: first.parse().ok()?,
        })
    }

    pub fn header(self, created_ms: u64) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..16].copy_from_slice(&prefix(SEGMENT_MAGIC, VERSION));
        out[16..24].copy_from_slice(&self.id.to_le_bytes());
        out[24..32].copy_from_slice(&self.first.to_le_bytes());
        out[32..40].copy_from_slice(&created_ms.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

impl Header {
    pub fn read(bytes: &[u8]) -> Self {
        match version(bytes, SEGMENT_MAGIC) {
            Some(VERSION) => {}
            Some(newer) if newer > VERSION => return Self::Newer(newer),
            _ => return Self::Bad,
        }
        let Some(head) = bytes.get(..HEADER) else {
            return Self::Bad;
        };
        match (u64_at(head, 16), u64_at(head, 24), u32_at(head, 60)) {
            (Some(id), Some(first), Some(crc)) if crc == crc32c::crc32c(&head[..60]) => {
                Self::Known(Identity { id, first })
            }
            _ => Self::Bad,
        }
    }
}

/// One record as it lies in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub number: u64,
    /// Number of the first record that was made durable together with this one. All records
    /// before it were durable when this one was written.
    pub group: u64,
    pub at_ms: u64,
    pub payload: &'a [u8],
}

impl<'a> Record<'a> {
    pub fn encoded_len(payload: &[u8]) -> usize {
        RECORD + payload.len()
    }

    /// `None` if the payload is longer than the length field can say.
    pub fn encode(&self, id: u64, into: &mut Vec<u8>) -> Option<()> {
        let len = u32::try_from(self.payload.len()).ok()?;
        let mut head = [0; RECORD];
        head[..4].copy_from_slice(&RECORD_MAGIC);
        head[4..8].copy_from_slice(&len.to_le_bytes());
        head[8..16].copy_from_slice(&self.number.to_le_bytes());
        head[16..24].copy_from_slice(&self.group.to_le_bytes());
        head[24..32].copy_from_slice(&self.at_ms.to_le_bytes());
        let head_crc = head_crc(id, &head[..32]);
        head[32..36].copy_from_slice(&head_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(head_crc, self.payload);
        head[36..].copy_from_slice(&crc.to_le_bytes());
        into.extend_from_slice(&head);
        into.extend_from_slice(self.payload);
        Some(())
    }

    /// The record that starts at `at`, if every bit of it is right.
    pub fn decode(bytes: &'a [u8], at: usize, id: u64) -> Option<Self> {
        let rest = bytes.get(at..)?;
        if rest.get(..4)? != RECORD_MAGIC {
            return None;
        }
        let head = rest.get(..RECORD)?;
        let head_crc = head_crc(id, &head[..32]);
        if u32_at(head, 32)? != head_crc {
            return None;
        }
        let len = usize::try_from(u32_at(head, 4)?).ok()?;
        let payload = rest.get(RECORD..RECORD.checked_add(len)?)?;
        if u32_at(head, 36)? != crc32c::crc32c_append(head_crc, payload) && !canary!(CrcNotChecked)
        {
            return None;
        }
        Some(Self {
            number: u64_at(head, 8)?,
            group: u64_at(head, 16)?,
            at_ms: u64_at(head, 24)?,
            payload,
        })
    }
}

fn head_crc(id: u64, head: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&id.to_le_bytes()), head)
}

/// A stretch of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A good record and where it lies.
    Record(Record<'a>, usize, usize),
    /// Bytes that are no record, up to the next good one or the end.
    Bad(usize, usize),
}

/// Walks the records from `at`, over damage to the next good record with a higher number.
pub(super) struct Pieces<'a> {
    bytes: &'a [u8],
    id: u64,
    at: usize,
    expected: u64,
}

impl<'a> Pieces<'a> {
    /// Numbers below `expected` are not taken for records of this place.
    pub fn new(bytes: &'a [u8], at: usize, id: u64, expected: u64) -> Self {
        Self {
            bytes,
            id,
            at,
            expected,
        }
    }

    /// Where the next good record begins, or the end.
    fn resume(&self, mut at: usize) -> usize {
        while let Some(rest) = self.bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match rest.iter().position(|b| *b == RECORD_MAGIC[0]) {
                Some(skip) if self.record(at + skip).is_some() => return at + skip,
                Some(skip) => at += skip + 1,
                None => break,
            }
        }
        self.bytes.len()
    }

    fn record(&self, at: usize) -> Option<Record<'a>> {
        Record::decode(self.bytes, at, self.id).filter(|r| r.number >= self.expected)
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let from = self.at;
        if from >= self.bytes.len() {
            return None;
        }
        if let Some(record) = self.record(from) {
            self.at = from + Record::encoded_len(record.payload);
            self.expected = record.number.saturating_add(1);
            return Some(Piece::Record(record, from, self.at));
        }
        self.at = self.resume(from + 1);
        Some(Piece::Bad(from, self.at))
    }
}
