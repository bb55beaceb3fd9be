//! What stands around an engine: storage, the network's faults, a model database, memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use prism_proto::*;

/// Storage on the heap.
#[derive(Debug, Clone)]
pub struct Heap;

impl Storage for Heap {
    type Updates = Box<[UpdateSlot]>;
    type Packets = Box<[PacketSlot]>;
    type Received = Box<[RecvSlot]>;

    fn updates(&mut self, len: usize) -> Self::Updates {
        vec![UpdateSlot::default(); len].into()
    }
    fn packets(&mut self, len: usize) -> Self::Packets {
        vec![PacketSlot::default(); len].into()
    }
    fn received(&mut self, len: usize) -> Self::Received {
        vec![RecvSlot::default(); len].into()
    }
}

#[derive(Debug, Clone)]
pub struct Net {
    pub loss: f64,
    pub duplicate: f64,
    /// One-way delay; the spread reorders.
    pub delay: (u64, u64),
    /// Extra delay on the way to these nodes.
    pub slow: HashMap<usize, u64>,
    /// Directed pairs of nodes that do not reach each other.
    pub blocked: HashSet<(usize, usize)>,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplicate: 0.0,
            delay: (500, 500),
            slow: HashMap::new(),
            blocked: HashSet::new(),
        }
    }
}

/// A region's database.
#[derive(Debug, Default)]
pub struct Db {
    pub epoch: Epoch,
    /// The own stream: tag and payload.
    pub outbox: Vec<(Tag, Vec<u8>)>,
    /// Per stream: what has been applied, in order.
    pub applied: HashMap<u16, Vec<(Tag, Vec<u8>)>>,
    pub up: bool,
    /// Reachable by SQL from other regions.
    pub direct_up: bool,
    pub apply_us: u64,
    /// If set, applies fail with this.
    pub sick: Option<ApplyCause>,
    /// Updates (stream, seq) that it refuses: recorded, then skipped.
    pub refuse: HashSet<(u16, u64)>,
    /// Those that it has refused, with their numbering, and whether their origin knows.
    pub rejected: BTreeMap<(u16, u64), (Epoch, bool)>,
    /// Refusals (region, seq) of its own stream that have been dealt with.
    pub handled: BTreeSet<(u16, u64)>,
    /// Numbering that a stream was applied with; its origin's, if nothing is said.
    pub epochs: HashMap<u16, Epoch>,
    pub direct_rows: u64,
}

impl Db {
    pub fn position(&self, stream: u16, epoch: Epoch) -> Position {
        let applied = self.applied.get(&stream).map_or(&[][..], |a| a);
        match applied.last() {
            None => Position::default(),
            Some((tag, _)) => Position {
                epoch: self.epochs.get(&stream).copied().unwrap_or(epoch),
                seq: Seq(applied.len() as u64),
                tag: *tag,
            },
        }
    }
}

impl Db {
    /// Refusals that the origin does not know of, as far as an engine has room for them.
    pub fn untold(&self, stream: u16) -> Vec<Refusal> {
        (self.rejected.iter())
            .filter(|((s, _), (_, told))| *s == stream && !told)
            .take(16)
            .map(|((_, seq), (epoch, _))| Refusal {
                epoch: *epoch,
                seq: Seq(*seq),
                class: RefusalClass::Constraint,
                sqlstate: *b"23505",
            })
            .collect()
    }

    pub fn clean(&self, stream: u16) -> Seq {
        match self.untold(stream).first() {
            Some(lowest) => Seq(lowest.seq.0 - 1),
            None => self.position(stream, Epoch(0)).seq,
        }
    }
}

/// What a node has in memory of its own stream.
#[derive(Default)]
pub struct Memory {
    pub map: BTreeMap<u64, Vec<u8>>,
}

impl Payloads for Memory {
    fn get(&self, seq: Seq) -> Option<&[u8]> {
        self.map.get(&seq.0).map(Vec::as_slice)
    }
}

/// Length, bytes, and which of them have arrived.
type Stored = (usize, Vec<u8>, Vec<bool>);

#[derive(Default)]
pub struct Inboxes {
    pub(super) map: HashMap<(u16, u64), Stored>,
    /// Bytes it refuses to go beyond.
    pub limit: usize,
    pub most: usize,
    /// Refuses the next so many.
    pub refuse: u32,
}

impl Inboxes {
    pub fn bytes(&self) -> usize {
        self.map.values().map(|(total, ..)| total).sum()
    }
    pub(super) fn complete(&self, stream: u16, seq: u64) -> Vec<u8> {
        let (_, bytes, have) = &self.map[&(stream, seq)];
        assert!(
            have.iter().all(|b| *b),
            "asked to apply what has not arrived"
        );
        bytes.clone()
    }
}

impl Inbox for Inboxes {
    fn put(
        &mut self,
        stream: RegionId,
        seq: Seq,
        total: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), InboxFull> {
        if self.refuse > 0 {
            self.refuse -= 1;
            return Err(InboxFull);
        }
        let new = !self.map.contains_key(&(stream.0, seq.0));
        if new && self.bytes() + total > self.limit {
            return Err(InboxFull);
        }
        let entry = self
            .map
            .entry((stream.0, seq.0))
            .or_insert_with(|| (total, vec![0; total], vec![false; total]));
        assert_eq!(entry.0, total);
        entry.1[offset..offset + bytes.len()].copy_from_slice(bytes);
        entry.2[offset..offset + bytes.len()].fill(true);
        self.most = self.most.max(self.bytes());
        Ok(())
    }
    fn release(&mut self, stream: RegionId, upto: Seq) {
        self.map
            .retain(|(s, seq), _| *s != stream.0 || *seq > upto.0);
    }
    fn clear(&mut self, stream: RegionId) {
        self.map.retain(|(s, _), _| *s != stream.0);
    }
}
