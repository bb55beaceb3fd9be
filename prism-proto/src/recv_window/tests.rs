//! The window against a naive map.

use std::{collections::BTreeMap, collections::BTreeSet, vec};

use proptest::prelude::*;

use super::*;

const N: u64 = 8;
const BUDGET: u32 = 400;

#[derive(Debug, Clone)]
enum Op {
    Whole { ahead: u64 },
    Piece { ahead: u64, cut: u16, index: u16 },
    Advance { by: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0u64..12).prop_map(|ahead| Op::Whole { ahead }),
        6 => (0u64..12, prop_oneof![Just(20u16), Just(50u16)], 0u16..5).prop_map(|(ahead, cut, index)| Op::Piece { ahead, cut, index }),
        1 => (0u64..10).prop_map(|by| Op::Advance { by }),
    ]
}

/// The length of an update does not change however it is cut.
fn total(seq: u64) -> u32 {
    (seq * 37 % 100) as u32 + 1
}

#[derive(Debug, Clone, Default)]
struct Entry {
    cut: u16,
    have: BTreeSet<u16>,
    complete: bool,
}

proptest! {
    #[test]
    fn stores_what_it_should(ops in proptest::collection::vec(op(), 0..300)) {
        let mut window = RecvWindow::new(vec![RecvSlot::EMPTY; N as usize], BUDGET);
        let mut model: BTreeMap<u64, Entry> = BTreeMap::new();
        let mut base = 1u64;
        for op in ops {
            let complete = |model: &BTreeMap<u64, Entry>, base: u64| {
                (base..).take_while(|s| model.get(s).is_some_and(|e| e.complete)).last().unwrap_or(base - 1)
            };
            let used = |model: &BTreeMap<u64, Entry>| model.keys().map(|s| total(*s)).sum::<u32>();
            let (seq, piece) = match op {
                Op::Advance { by } => {
                    base += by;
                    window.advance(Seq(base - 1));
                    model.retain(|s, _| *s >= base);
                    (0, None)
                }
                // Some below the window as well.
                Op::Whole { ahead } => ((base + ahead).saturating_sub(2).max(1), None),
                Op::Piece { ahead, cut, index } => ((base + ahead).saturating_sub(2).max(1), Some((cut, index))),
            };
            if seq > 0 && piece.is_none_or(|(cut, index)| u32::from(cut) * u32::from(index) < total(seq)) {
                let part = Part { seq: Seq(seq), total: total(seq), piece };
                let entry = model.get(&seq);
                let want = if seq < base || entry.is_some_and(|e| e.complete) {
                    Offer::Duplicate
                } else if seq >= base + N {
                    Offer::Refuse
                } else if entry.is_some_and(|e| piece.is_some_and(|(cut, i)| e.cut == cut && e.have.contains(&i))) {
                    Offer::Duplicate
                } else if entry.is_none() && used(&model) + total(seq) > BUDGET && seq != complete(&model, base) + 1 {
                    Offer::Refuse
                } else {
                    Offer::Store
                };
                // Replacing what is begun may be refused or not when the budget is overdrawn.
                let got = window.offer(&part);
                if used(&model) <= BUDGET { prop_assert_eq!(got, want, "{:?}", part); }
                if got == Offer::Store {
                    let entry = model.entry(seq).or_default();
                    match piece {
                        None => entry.complete = true,
                        Some((cut, index)) => {
                            if entry.cut != cut { *entry = Entry { cut, ..Entry::default() }; }
                            entry.have.insert(index);
                            entry.complete = entry.have.len() as u32 == total(seq).div_ceil(u32::from(cut));
                        }
                    }
                    let done = entry.complete;
                    prop_assert_eq!(window.accept(&part), done);
                }
            }
            prop_assert_eq!(window.base().0, base);
            prop_assert_eq!(window.complete().0, complete(&model, base));
            prop_assert_eq!(window.bytes, u64::from(used(&model)));
            // Only ever overdrawn by the one update that is needed next.
            prop_assert!(window.bytes <= u64::from(BUDGET) + 100);
            let from = complete(&model, base) + 1;
            let gap = model.keys().next_back().filter(|last| **last >= from).and_then(|last| {
                (from..*last).take_while(|s| !model.contains_key(s)).last().map(|to| (Seq(from), Seq(to)))
            });
            prop_assert_eq!(window.gap(), gap);
        }
    }
}
