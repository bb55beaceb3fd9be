//! Where the bytes of updates live: with the host, never in the core.

use crate::{RegionId, Seq};

/// Payloads of the own stream that are in memory.
pub trait Payloads {
    /// The encoded update, or `None` if it has to be fetched from the outbox first.
    fn get(&self, seq: Seq) -> Option<&[u8]>;

    /// Its length without touching the bytes.
    fn len_of(&self, seq: Seq) -> Option<usize> {
        self.get(seq).map(<[u8]>::len)
    }
}

/// There is no room; the packet is treated as if it had been lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxFull;

/// Received updates that wait for their turn to be applied.
pub trait Inbox {
    /// Stores `bytes` at `offset` of update `seq` (`total` bytes long). The engine calls it once
    /// for each fragment, within the window and the credit that it has advertised
    /// ([`Config::window_bytes`](crate::Config::window_bytes), and once more `max_update` for the
    /// update that is needed next, which may always come). With less room than that the stream
    /// still arrives, but slowly: the engine has to start over whenever later updates have taken
    /// the room of the next one.
    ///
    /// # Errors
    /// [`InboxFull`] if there is no room, or if `total` is not what it was with the parts of this
    /// update that are there (a sender that contradicts itself); nothing is kept then.
    fn put(
        &mut self,
        stream: RegionId,
        seq: Seq,
        total: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), InboxFull>;

    /// Updates up to and including `upto` are applied; their room is free again.
    fn release(&mut self, stream: RegionId, upto: Seq);

    /// Everything of the stream is void (the position moved back).
    fn clear(&mut self, stream: RegionId);
}
