//! Received updates that wait to be applied.
//!
//! Updates arrive in any order and in fragments, leave in order, and their number and bytes are
//! bounded by what the engine has advertised. They lie in chunks of one arena per stream: no
//! allocation per update, no fragmentation, and room for everything within the credit:
//!
//! ```text
//!   slots (seq % window)   | 17 | 18 |    | 20 | ...
//!                             |    +-> chunk 3 -> chunk 9       a larger update
//!                             +-> chunk 0                       a small one
//! ```

use prism_proto::{Inbox, InboxFull, RegionId, Seq, canary};

use crate::host::Batch;

/// Small updates take one chunk. An update wastes less than one, so `window` chunks more than the
/// credit's bytes always suffice.
const CHUNK: usize = 256;
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// 0: free.
    seq: u64,
    total: u32,
    first: u32,
    /// Where the last fragment ended, so that fragments in order need no walk: number of the
    /// chunk within the update, and the chunk.
    near: (u32, u32),
}

const FREE: Slot = Slot {
    seq: 0,
    total: 0,
    first: NONE,
    near: (0, NONE),
};

#[derive(Debug, Default)]
struct Stream {
    slots: Vec<Slot>,
    chunks: Vec<[u8; CHUNK]>,
    /// The chunk behind this one, in its update or in the free list.
    next: Vec<u32>,
    free: u32,
    free_count: usize,
    released: u64,
    bytes: usize,
}

impl Stream {
    fn new() -> Self {
        Self {
            free: NONE,
            ..Self::default()
        }
    }

    fn allocate(&mut self, count: usize, limit: usize) -> Result<u32, InboxFull> {
        if count > self.free_count + limit.saturating_sub(self.chunks.len()) {
            return Err(InboxFull);
        }
        let mut first = NONE;
        for _ in 0..count {
            let chunk = if self.free == NONE {
                self.chunks.push([0; CHUNK]);
                self.next.push(NONE);
                self.chunks.len() as u32 - 1
            } else {
                self.free_count -= 1;
                let chunk = self.free;
                self.free = self.next[chunk as usize];
                chunk
            };
            self.next[chunk as usize] = first;
            first = chunk;
        }
        Ok(first)
    }

    fn drop_slot(&mut self, at: usize) {
        let slot = std::mem::replace(&mut self.slots[at], FREE);
        if canary!(InboxLeak) {
            return;
        }
        self.bytes -= slot.total as usize;
        let mut chunk = slot.first;
        while chunk != NONE {
            let next = self.next[chunk as usize];
            self.next[chunk as usize] = self.free;
            self.free = chunk;
            self.free_count += 1;
            chunk = next;
        }
    }

    fn write(&mut self, at: usize, offset: usize, mut bytes: &[u8]) {
        let slot = &mut self.slots[at];
        let wanted = (offset / CHUNK) as u32;
        let (mut number, mut chunk) = if slot.near.0 <= wanted && slot.near.1 != NONE {
            slot.near
        } else {
            (0, slot.first)
        };
        while number < wanted && chunk != NONE {
            chunk = self.next[chunk as usize];
            number += 1;
        }
        let mut within = offset % CHUNK;
        while !bytes.is_empty() && chunk != NONE {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - within));
            self.chunks[chunk as usize][within..within + now.len()].copy_from_slice(now);
            slot.near = (number, chunk);
            bytes = later;
            within = 0;
            number += 1;
            chunk = self.next[chunk as usize];
        }
    }
}

/// The inbox of an endpoint: one arena per stream, made when its first update arrives.
#[derive(Debug)]
pub(crate) struct Arena {
    streams: Vec<Stream>,
    window: usize,
    max_update: usize,
    chunk_limit: usize,
}

impl Arena {
    pub(crate) fn new(streams: usize, window: u32, window_bytes: u32, max_update: u32) -> Self {
        let window = window as usize;
        Self {
            streams: (0..streams).map(|_| Stream::new()).collect(),
            window,
            max_update: max_update as usize,
            chunk_limit: window + (window_bytes.max(max_update) as usize).div_ceil(CHUNK),
        }
    }

    /// Bytes of updates that wait, of all streams.
    pub(crate) fn bytes(&self) -> usize {
        self.streams.iter().map(|stream| stream.bytes).sum()
    }

    /// Appends the updates from `from` to `to` to `batch`, up to the first that is not here.
    pub(crate) fn read(&self, stream: RegionId, from: Seq, to: Seq, batch: &mut Batch) {
        batch.reset(from);
        let Some(stream) = self.streams.get(usize::from(stream.0)) else {
            return;
        };
        if stream.slots.is_empty() {
            return;
        }
        for seq in from.0..=to.0 {
            let slot = &stream.slots[seq as usize & (self.window - 1)];
            if slot.seq != seq {
                return;
            }
            let (mut left, mut chunk) = (slot.total as usize, slot.first);
            while chunk != NONE {
                let here = left.min(CHUNK);
                batch.extend(&stream.chunks[chunk as usize][..here]);
                left -= here;
                chunk = stream.next[chunk as usize];
            }
            batch.finish();
        }
    }
}

impl Inbox for Arena {
    fn put(
        &mut self,
        stream: RegionId,
        seq: Seq,
        total: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), InboxFull> {
        let end = offset.checked_add(bytes.len()).ok_or(InboxFull)?;
        let stream = self
            .streams
            .get_mut(usize::from(stream.0))
            .ok_or(InboxFull)?;
        if end > total || total > self.max_update || seq.0 <= stream.released {
            return Err(InboxFull);
        }
        if stream.slots.is_empty() {
            stream.slots = vec![FREE; self.window];
        }
        let at = seq.0 as usize & (self.window - 1);
        if stream.slots[at].seq == 0 {
            let first = stream.allocate(total.div_ceil(CHUNK), self.chunk_limit)?;
            stream.bytes += total;
            stream.slots[at] = Slot {
                seq: seq.0,
                total: total as u32,
                first,
                near: (0, NONE),
            };
        } else if stream.slots[at].seq != seq.0 || stream.slots[at].total as usize != total {
            return Err(InboxFull);
        }
        stream.write(at, offset, bytes);
        Ok(())
    }

    fn release(&mut self, stream: RegionId, upto: Seq) {
        let Some(stream) = self.streams.get_mut(usize::from(stream.0)) else {
            return;
        };
        if upto.0 <= stream.released {
            return;
        }
        // Far ahead (somebody else applied it): one look at every slot is enough.
        let first = (stream.released + 1).max((upto.0 + 1).saturating_sub(self.window as u64));
        if !stream.slots.is_empty() {
            let upto = Seq(upto.0 + u64::from(canary!(InboxReleasesOneMore)));
            for seq in first..=upto.0 {
                let at = seq as usize & (self.window - 1);
                if (1..=upto.0).contains(&stream.slots[at].seq) {
                    stream.drop_slot(at);
                }
            }
        }
        stream.released = upto.0;
    }

    fn clear(&mut self, stream: RegionId) {
        if let Some(stream) = self.streams.get_mut(usize::from(stream.0)) {
            for at in 0..stream.slots.len() {
                stream.drop_slot(at);
            }
            stream.released = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const STREAM: RegionId = RegionId(1);
    const WINDOW: u32 = 16;
    const BYTES: u32 = 8192;

    fn arena() -> Arena {
        Arena::new(2, WINDOW, BYTES, 4096)
    }

    fn content(seq: u64, len: usize) -> Vec<u8> {
        (0..len).map(|i| (seq as usize * 31 + i) as u8).collect()
    }

    fn read(arena: &Arena, from: u64, to: u64) -> Vec<(u64, Vec<u8>)> {
        let mut batch = Batch::default();
        arena.read(STREAM, Seq(from), Seq(to), &mut batch);
        batch.iter().map(|(seq, b)| (seq.0, b.to_vec())).collect()
    }

    proptest! {
        /// Any order, fragments in any order, releases in between: what comes out is what went in.
        #[test]
        fn behaves_like_a_map(
            rounds in proptest::collection::vec(
                (proptest::collection::vec(0usize..1500, 1..16), any::<u64>(), 1usize..700), 1..20)
        ) {
            let mut arena = arena();
            let mut base = 0u64;
            for (lens, order, fragment) in rounds {
                let model: BTreeMap<u64, Vec<u8>> = lens.iter().enumerate()
                    .map(|(i, &len)| (base + 1 + i as u64, content(base + i as u64, len)))
                    .collect();
                if model.values().map(Vec::len).sum::<usize>() > BYTES as usize {
                    continue;
                }
                let mut parts: Vec<(u64, usize, usize, &[u8])> = model.iter().flat_map(|(&seq, bytes)| {
                    let total = bytes.len();
                    let whole = total == 0;
                    bytes.chunks(fragment).enumerate()
                        .map(move |(i, part)| (seq, total, i * fragment, part))
                        .chain(whole.then_some((seq, 0, 0, &[][..])))
                }).collect();
                let mut rng = order;
                for i in (1..parts.len()).rev() {
                    rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1);
                    parts.swap(i, (rng >> 33) as usize % (i + 1));
                }
                for (seq, total, offset, part) in parts {
                    prop_assert_eq!(arena.put(STREAM, Seq(seq), total, offset, part), Ok(()));
                }
                let last = base + model.len() as u64;
                let expected: Vec<_> = model.iter().map(|(&s, b)| (s, b.clone())).collect();
                prop_assert_eq!(read(&arena, base + 1, last), expected);
                let half = (base + last) / 2;
                arena.release(STREAM, Seq(half));
                prop_assert_eq!(read(&arena, half + 1, last).len() as u64, last - half);
                arena.release(STREAM, Seq(last));
                prop_assert_eq!(arena.bytes(), 0);
                base = last;
            }
            let stream = &arena.streams[1];
            prop_assert_eq!(stream.free_count, stream.chunks.len(), "a chunk leaked");
        }
    }

    #[test]
    fn the_whole_credit_fits_in_the_worst_case() {
        let mut arena = arena();
        // One byte over a chunk wastes the most.
        let count = u64::from(WINDOW);
        let len = BYTES as usize / WINDOW as usize;
        for seq in 1..=count {
            arena
                .put(STREAM, Seq(seq), len, 0, &content(seq, len))
                .expect("within the credit");
        }
        assert_eq!(
            arena.put(STREAM, Seq(count + 1), 1, 0, &[1]),
            Err(InboxFull),
            "beyond the window"
        );
        assert_eq!(read(&arena, 1, count).len() as u64, count);
    }

    #[test]
    fn what_does_not_fit_leaves_no_trace() {
        let mut arena = arena();
        assert_eq!(arena.put(STREAM, Seq(1), 4097, 0, &[]), Err(InboxFull));
        assert_eq!(arena.put(STREAM, Seq(1), 3, 2, &[1, 2]), Err(InboxFull));
        assert_eq!(
            arena.put(STREAM, Seq(1), 3, usize::MAX, &[1]),
            Err(InboxFull)
        );
        assert_eq!(arena.put(RegionId(9), Seq(1), 1, 0, &[1]), Err(InboxFull));
        assert_eq!(arena.put(STREAM, Seq(0), 1, 0, &[1]), Err(InboxFull));
        for seq in [1, 2] {
            let _ = arena.put(STREAM, Seq(seq), 4096, 0, &[0; 4096]);
        }
        arena.put(STREAM, Seq(3), 4096, 0, &[0; 4096]).unwrap();
        assert_eq!(arena.put(STREAM, Seq(4), 4096, 0, &[]), Err(InboxFull));
        assert_eq!(arena.bytes(), 3 * 4096);
        assert!(read(&arena, 4, 4).is_empty());
        arena.clear(STREAM);
        assert_eq!(arena.bytes(), 0);
    }

    #[test]
    fn a_jump_ahead_frees_everything_behind_it() {
        let mut arena = arena();
        for seq in 5..=12 {
            arena
                .put(STREAM, Seq(seq), 10, 0, &content(seq, 10))
                .unwrap();
        }
        arena.release(STREAM, Seq(1_000_000));
        assert_eq!(arena.bytes(), 0);
        assert_eq!(arena.put(STREAM, Seq(7), 1, 0, &[1]), Err(InboxFull));
        arena.put(STREAM, Seq(1_000_001), 1, 0, &[1]).unwrap();
        assert_eq!(read(&arena, 1_000_001, 1_000_001), [(1_000_001, vec![1])]);
    }
}
