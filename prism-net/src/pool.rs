//! Batches that have done their work and wait for more.

use crate::host::Batch;

/// As many as are under way at once in a node: one apply per stream, a few commits and fetches.
const MOST: usize = 64;
/// A batch that once held a few huge updates is not worth its memory.
const LARGEST: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Pool(Vec<Batch>);

impl Pool {
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(MOST))
    }

    pub(crate) fn take(&mut self) -> Batch {
        self.0.pop().unwrap_or_default()
    }

    pub(crate) fn give(&mut self, batch: Batch) {
        if self.0.len() < MOST && batch.footprint() <= LARGEST {
            self.0.push(batch);
        }
    }
}
