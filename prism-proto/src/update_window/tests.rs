//! The window against a naive map.

use std::{collections::BTreeMap, collections::BTreeSet, vec, vec::Vec};

use proptest::prelude::*;

use super::*;

/// Per update: its length, and what has to be sent of it (piece numbers; 0 stands for the whole),
/// what the peer has, and the packet that carried it last.
#[derive(Debug, Clone, Default)]
struct Entry {
    len: u64,
    pieces: u16,
    todo: BTreeSet<u16>,
    have: BTreeSet<u16>,
    pn: u64,
}

#[derive(Debug, Clone)]
enum Op {
    Send,
    Open { len: usize, pieces: u16 },
    Received { which: usize },
    Lost { which: usize },
    Slide { by: u64 },
    Reset,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::Send),
        4 => (0usize..50, prop_oneof![3 => Just(0u16), 1 => 2u16..=256]).prop_map(|(len, pieces)| Op::Open { len, pieces }),
        3 => (0usize..64).prop_map(|which| Op::Received { which }),
        3 => (0usize..64).prop_map(|which| Op::Lost { which }),
        1 => (0u64..6).prop_map(|by| Op::Slide { by }),
        1 => Just(Op::Reset),
    ]
}

proptest! {
    #[test]
    fn knows_what_must_still_go(ops in proptest::collection::vec(op(), 0..400)) {
        const N: u64 = 8;
        let mut window = UpdateWindow::new(vec![UpdateSlot::EMPTY; N as usize]);
        let mut model: BTreeMap<u64, Entry> = BTreeMap::new();
        let (mut acked, mut next, mut pn) = (0u64, 1u64, 0u64);
        // On their way: packet, update, piece.
        let mut packets: Vec<(u64, u64, u16)> = Vec::new();
        for op in ops {
            match op {
                Op::Open { len, pieces } => {
                    let room = next - 1 - acked < N;
                    prop_assert_eq!(window.fits(len, u32::MAX, u32::MAX), room);
                    if !room { continue; }
                    pn += 1;
                    window.open(len, pn, pieces);
                    let todo = (0..pieces).collect();
                    model.insert(next, Entry { len: len as u64, pieces, todo, pn, ..Entry::default() });
                    if pieces == 0 { packets.push((pn, next, 0)); }
                    next += 1;
                }
                Op::Send => {
                    let want = model.iter().find(|(_, e)| !e.todo.is_empty()).map(|(s, _)| *s);
                    prop_assert_eq!(window.first_pending().map(|s| s.0), want);
                    let Some(seq) = want else { continue };
                    let entry = model.get_mut(&seq).expect("there");
                    pn += 1;
                    let piece = *entry.todo.first().expect("something");
                    if entry.pieces > 0 {
                        prop_assert_eq!(window.next_piece(Seq(seq)), Some(piece));
                        prop_assert!(!window.is_pending_whole(Seq(seq)));
                        window.send_piece(Seq(seq), piece);
                    } else {
                        prop_assert!(window.is_pending_whole(Seq(seq)));
                        window.resend(Seq(seq), pn);
                    }
                    entry.todo.remove(&piece);
                    entry.pn = pn;
                    packets.push((pn, seq, piece));
                }
                Op::Received { which } | Op::Lost { which } if packets.is_empty() => { let _ = which; }
                Op::Received { which } => {
                    let (_, seq, piece) = packets.remove(which % packets.len());
                    let entry = model.entry(seq).or_default();
                    if seq > acked && seq < next {
                        entry.have.insert(piece);
                        entry.todo.remove(&piece);
                        if entry.pieces > 0 { window.received_piece(Seq(seq), piece, false); }
                        else { window.received(Seq(seq), 1); }
                    }
                }
                Op::Lost { which } => {
                    let (carried, seq, piece) = packets.remove(which % packets.len());
                    let entry = model.entry(seq).or_default();
                    if seq > acked && seq < next {
                        if entry.pieces > 0 {
                            entry.todo.insert(piece);
                            window.lost_piece(Seq(seq), piece);
                        } else {
                            if entry.pn == carried && !entry.have.contains(&0) { entry.todo.insert(0); }
                            window.lost(Seq(seq), 1, carried);
                        }
                    }
                }
                Op::Slide { by } => {
                    acked += by;
                    window.slide(Seq(acked));
                    if acked >= next { next = acked + 1; model.clear(); packets.clear(); }
                    packets.retain(|(_, seq, _)| *seq > acked);
                }
                Op::Reset => {
                    window.reset(Seq(acked));
                    next = acked + 1;
                    packets.clear();
                    model.clear();
                }
            }
            model.retain(|seq, _| *seq > acked && *seq < next);
            prop_assert_eq!(window.acked().0, acked);
            prop_assert_eq!(window.next().0, next);
            prop_assert_eq!(window.bytes, model.values().map(|e| e.len).sum::<u64>());
            let first = model.iter().find(|(_, e)| !e.todo.is_empty()).map(|(s, _)| Seq(*s));
            prop_assert_eq!(window.first_pending(), first);
        }
    }
}

#[test]
fn a_nack_does_not_repeat_what_has_gone_again_since() {
    let mut window = UpdateWindow::new(vec![UpdateSlot::EMPTY; 8]);
    for pn in 1..=4 {
        window.open(10, pn, 0);
    }
    // Packet 3 is acknowledged, so the loss of packets 1 and 2 is credible, that of 4 is not.
    window.received(Seq(3), 1);
    window.missing(Seq(1), Seq(4), 3);
    assert_eq!(window.first_pending(), Some(Seq(1)));
    window.resend(Seq(1), 5);
    window.resend(Seq(2), 6);
    assert_eq!(window.first_pending(), None, "4 may still arrive");
    window.missing(Seq(1), Seq(2), 4);
    assert_eq!(window.first_pending(), None, "5 and 6 may still arrive");
    // And the late verdict on packet 1 says nothing of packet 5.
    window.lost(Seq(1), 1, 1);
    assert_eq!(window.first_pending(), None);
}

#[test]
fn a_piece_that_went_twice_counts_once() {
    let mut window = UpdateWindow::new(vec![UpdateSlot::EMPTY; 8]);
    window.open(2000, 1, 2);
    window.send_piece(Seq(1), 0);
    window.send_piece(Seq(1), 1);
    // A probe takes piece 0 out of packet 1 and sends it again; then both packets arrive.
    window.lost_piece(Seq(1), 0);
    window.send_piece(Seq(1), 0);
    window.received_piece(Seq(1), 0, true);
    window.received_piece(Seq(1), 0, false);
    assert_eq!(window.first_pending(), None);
    // Piece 1 is still on its way, and lost.
    window.lost_piece(Seq(1), 1);
    assert_eq!(window.next_piece(Seq(1)), Some(1));
}
