//! What an engine takes: `cargo run -p prism-proto --example sizes`.

use prism_proto::{Engine, MAX_NODES, MAX_REGIONS, PacketSlot, RecvSlot, Storage, UpdateSlot};

/// Only its types matter here.
struct Heap;

impl Storage for Heap {
    type Updates = Box<[UpdateSlot]>;
    type Packets = Box<[PacketSlot]>;
    type Received = Box<[RecvSlot]>;

    fn updates(&mut self, len: usize) -> Self::Updates {
        vec![UpdateSlot::EMPTY; len].into()
    }
    fn packets(&mut self, len: usize) -> Self::Packets {
        vec![PacketSlot::EMPTY; len].into()
    }
    fn received(&mut self, len: usize) -> Self::Received {
        vec![RecvSlot::EMPTY; len].into()
    }
}

fn main() {
    let (lane, link, inlet) = Engine::<Heap>::PART_SIZES;
    println!(
        "engine, room for {MAX_REGIONS} regions and {MAX_NODES} nodes: {} bytes",
        size_of::<Engine<Heap>>()
    );
    println!("  per region: lane {lane} + inlet {inlet};  per node: link {link}");
    println!(
        "storage handed in, bytes per slot: update {}, receive {}, packet {}",
        size_of::<UpdateSlot>(),
        size_of::<RecvSlot>(),
        size_of::<PacketSlot>()
    );
    for window in [64, 1024, 4096] {
        println!(
            "  window {window}: per peer region {} KiB, per other node {} KiB",
            window * (size_of::<UpdateSlot>() + size_of::<RecvSlot>()) / 1024,
            window * size_of::<PacketSlot>() / 1024
        );
    }
}
