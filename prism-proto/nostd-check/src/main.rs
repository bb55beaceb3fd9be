//! Links the whole core into a program that has neither std nor an allocator, with all windows in
//! static memory. `run.sh` builds it and looks at its symbols. Running it ends with status 0 if a
//! lane has opened.
#![no_std]
#![no_main]

use core::cell::UnsafeCell;
use core::panic::PanicInfo;

use prism_proto::{
    Config, Engine, Event, Inbox, InboxFull, Instant, NodeConfig, NodeId, Output, PacketSlot,
    Payloads, Position, RecvSlot, RegionConfig, RegionId, RegionKey, Seq, Storage, UpdateSlot,
};

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(101)
}

/// Memory that is handed out once.
struct Once<T>(UnsafeCell<T>);
// SAFETY: this program has one thread.
unsafe impl<T> Sync for Once<T> {}

const WINDOW: usize = 64;
static UPDATES: Once<[UpdateSlot; WINDOW]> = Once(UnsafeCell::new([UpdateSlot::EMPTY; WINDOW]));
static PACKETS: Once<[PacketSlot; WINDOW]> = Once(UnsafeCell::new([PacketSlot::EMPTY; WINDOW]));
static RECEIVED: Once<[RecvSlot; WINDOW]> = Once(UnsafeCell::new([RecvSlot::EMPTY; WINDOW]));

/// One lane, one link, one inlet; the own region and node ask for nothing.
struct Static;

fn take<T>(memory: &'static Once<[T; WINDOW]>, len: usize) -> &'static mut [T] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: each is asked for once.
    unsafe { &mut (&mut *memory.0.get())[..len] }
}

impl Storage for Static {
    type Updates = &'static mut [UpdateSlot];
    type Packets = &'static mut [PacketSlot];
    type Received = &'static mut [RecvSlot];

    fn updates(&mut self, len: usize) -> Self::Updates {
        take(&UPDATES, len)
    }
    fn packets(&mut self, len: usize) -> Self::Packets {
        take(&PACKETS, len)
    }
    fn received(&mut self, len: usize) -> Self::Received {
        take(&RECEIVED, len)
    }
}

struct Host;

impl Payloads for Host {
    fn get(&self, seq: Seq) -> Option<&[u8]> {
        (seq.0 < 10).then_some(b"update")
    }
}

impl Inbox for Host {
    fn put(
        &mut self,
        _: RegionId,
        _: Seq,
        _: usize,
        _: usize,
        _: &[u8],
    ) -> Result<(), InboxFull> {
        Ok(())
    }
    fn release(&mut self, _: RegionId, _: Seq) {}
    fn clear(&mut self, _: RegionId) {}
}

// The kernel enters with an aligned stack; a function expects it as after a call.
core::arch::global_asm!(".globl _start", "_start:", "call {main}", main = sym main);

extern "C" fn main() -> ! {
    let (own, peer) = (RegionId(0), RegionId(1));
    let nodes = [own, peer].map(|region| NodeConfig { id: NodeId(region.0), region });
    let regions = [("NA", own), ("EU", peer)].map(|(name, id)| RegionConfig {
        id,
        key: RegionKey::of(name),
        direct: false,
    });
    let mut config = Config::new(NodeId(0), &nodes, &regions, 7);
    config.window = WINDOW as u32;
    let Ok(mut engine) = Engine::new(&config, &mut Static) else {
        exit(1)
    };
    let now = Instant::from_micros(1);
    let acked = Position::default();
    engine.handle_event(now, Event::NodeUp { node: NodeId(1) }, &mut Host);
    engine.handle_event(now, Event::LaneHeld { peer, acked, own: acked }, &mut Host);
    let mut buffer = [0; 1500];
    let mut sent = 0;
    loop {
        match engine.poll(now, &Host, &mut buffer) {
            Output::Transmit { len, .. } => {
                sent += 1;
                engine.handle_datagram(now, NodeId(1), &buffer[..len], &mut Host);
            }
            Output::Wait { .. } => break,
            _ => {}
        }
    }
    exit(if sent > 0 { 0 } else { 2 })
}

/// `exit(2)` of Linux on `x86_64`, so that nothing of libc is needed either.
fn exit(status: i32) -> ! {
    // SAFETY: the system call does not return.
    unsafe {
        core::arch::asm!("syscall", in("rax") 60, in("edi") status, options(noreturn));
    }
}

// What compilers call behind everybody's back; a target without libc brings its own. Written by
// volatile access, or the compiler would turn the loops into calls of themselves.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    for i in 0..n {
        // SAFETY: as C says.
        unsafe { to.add(i).write_volatile(from.add(i).read()) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    if to.cast_const() < from {
        // SAFETY: as C says.
        return unsafe { memcpy(to, from, n) };
    }
    for i in (0..n).rev() {
        // SAFETY: as C says.
        unsafe { to.add(i).write_volatile(from.add(i).read()) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, n: usize) -> *mut u8 {
    for i in 0..n {
        // SAFETY: as C says.
        unsafe { to.add(i).write_volatile(byte as u8) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    for i in 0..n {
        // SAFETY: as C says.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: as C says.
    unsafe { memcmp(a, b, n) }
}
