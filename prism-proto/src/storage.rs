//! Where the engine keeps its windows: handed in by the host.

use crate::{packets::PacketSlot, recv_window::RecvSlot, update_window::UpdateSlot};

/// Hands out the arrays of an engine, once, while it is built.
///
/// `Vec<T>`, `Box<[T]>`, `heapless::Vec<T, N>` and `&'static mut [T]` all fit. Each array must have
/// exactly the length asked for, filled with `Default::default()`.
///
/// ```
/// use prism_proto::{PacketSlot, RecvSlot, Storage, UpdateSlot};
///
/// /// Everything on the heap.
/// struct Heap;
///
/// impl Storage for Heap {
///     type Updates = Box<[UpdateSlot]>;
///     type Packets = Box<[PacketSlot]>;
///     type Received = Box<[RecvSlot]>;
///
///     fn updates(&mut self, len: usize) -> Self::Updates {
///         vec![UpdateSlot::default(); len].into()
///     }
///     fn packets(&mut self, len: usize) -> Self::Packets {
///         vec![PacketSlot::default(); len].into()
///     }
///     fn received(&mut self, len: usize) -> Self::Received {
///         vec![RecvSlot::default(); len].into()
///     }
/// }
/// ```
pub trait Storage {
    /// The update window of one lane.
    type Updates: AsRef<[UpdateSlot]> + AsMut<[UpdateSlot]>;
    /// The packet ring of one link.
    type Packets: AsRef<[PacketSlot]> + AsMut<[PacketSlot]>;
    /// The receive window of one inlet.
    type Received: AsRef<[RecvSlot]> + AsMut<[RecvSlot]>;

    /// For one lane, that is once per peer region.
    fn updates(&mut self, len: usize) -> Self::Updates;
    /// For one link, that is once per other node.
    fn packets(&mut self, len: usize) -> Self::Packets;
    /// For one inlet, that is once per peer region.
    fn received(&mut self, len: usize) -> Self::Received;
}
