//! Beginnings of large updates that never end, from a node with real keys.

use prism_proto::wire::Frame;
use prism_proto::{Epoch, NodeId, Position, Seq};

use crate::common::files::{Files, kills};
use crate::insider::Insider;
use crate::target::{count_up, log, memory, metric, wait_kills};

const NA: NodeId = NodeId(0);
/// What may wait of one stream: the credit of 4 MiB; one update that is needed next on top.
const INBOX: u64 = (4 << 20) + (256 << 10);
/// The same in chunks with one begun for each of 4096 updates, the slots, and room for what a
/// process needs anyway.
const GROWTH: u64 = 12 << 20;

/// One piece of an update of AS's, of `total` bytes, in pieces of `chunk`.
fn piece(seq: u64, total: u32, chunk: u16, index: u16) -> Frame<'static> {
    static BYTES: [u8; 1100] = [7; 1100];
    let left = u64::from(total) - u64::from(chunk) * u64::from(index);
    let len = left.min(u64::from(chunk)) as usize;
    let bytes = &BYTES[..len];
    Frame::Fragment {
        seq: Seq(seq),
        total,
        chunk,
        index,
        bytes,
    }
}

#[test]
fn updates_that_never_end_take_bounded_room_and_hold_up_nobody_else() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1), ("AS", 1)], "");
    w.start(&["NA1", "EU1", "AS1"]);
    w.submit("AS1", &[kills("alex", 1)]);
    count_up(&w, "NA1", 1);
    w.wait_acked("AS1", "NA");
    w.wait_acked("AS1", "EU");
    let epoch = Epoch(w.status("AS1").epoch);
    let before = memory(&w, "NA1");
    w.kill("AS1");

    let mut attacker = Insider::new(&w, "AS1");
    attacker.meet(NA);
    let opened = Frame::Hello {
        token: 9,
        epoch,
        tail: Seq(1 << 30),
    };
    attacker.say(NA, &[opened]);
    let position: Position = {
        attacker.wait("NA1 says where it is", |me| welcomed(me).is_some());
        welcomed(&attacker).expect("waited for")
    };
    assert_eq!(position.seq, Seq(1));
    let mut most = 0;
    let mut sent = 0u32;
    let first = position.seq.0 + 1;
    let kinds: [&dyn Fn(u64) -> Frame<'static>; 6] = [
        // First pieces of the largest updates there are.
        &|n| piece(first + n, 256 << 10, 1100, 0),
        // Of short ones, one for each place of the window.
        &|n| piece(first + n % 4096, 1300, 1100, 0),
        // The same updates, cut and sized otherwise: over each other.
        &|n| {
            piece(
                first + n % 64,
                2000 + n as u32 % 900,
                700 + n as u16 % 300,
                n as u16 % 2,
            )
        },
        // Beyond the window, and at the end of all numbers.
        &|n| piece(first + 4096 + n, 1300, 1100, 0),
        &|n| piece(u64::MAX - 1 - n, 1300, 1100, 1),
        // Last pieces first.
        &|n| piece(first + n % 4096, 256 << 10, 1100, 238),
    ];
    for (k, kind) in kinds.iter().enumerate() {
        for n in 0..1500 {
            attacker.say(NA, &[kind(n)]);
            sent += 1;
            if n % 50 == 0 {
                attacker.pump();
            }
        }
        // (its figures are renewed once a second)
        w.submit("NA1", &[kills("steve", 1)]);
        w.submit("EU1", &[kills("steve", 1)]);
        wait_kills(&w, &["NA", "EU"], 3 + 2 * k);
        most = most.max(metric(&w, "NA1", "prism_inbox_bytes"));
        attacker.pump();
    }
    w.wait("the room is taken", || {
        most = most.max(metric(&w, "NA1", "prism_inbox_bytes"));
        most > 100_000
    });
    let after = memory(&w, "NA1");
    println!(
        "{sent} pieces: {most} bytes wait, memory {} -> {} KiB",
        before >> 10,
        after >> 10
    );
    assert!(most <= INBOX, "{most} bytes of updates wait");
    assert!(
        after < before + GROWTH,
        "memory has grown from {before} to {after}"
    );
    assert!(!log(&w, "NA1").contains("panicked"));
    drop(attacker);

    // Once the true node is back, nothing of it is left.
    w.start(&["AS1"]);
    w.submit("AS1", &[kills("alex", 1)]);
    w.wait("AS1's update is everywhere, once", || {
        w.kills(&["NA", "EU", "AS"], "alex")
            .iter()
            .all(|n| n == "2")
    });
    wait_kills(&w, &["NA", "EU", "AS"], 13);
}

fn welcomed(me: &Insider) -> Option<Position> {
    me.newest(NA, |frame| match frame {
        Frame::Welcome {
            token: 9, position, ..
        } => Some(*position),
        _ => None,
    })
}
