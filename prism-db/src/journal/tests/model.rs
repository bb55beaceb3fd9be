//! Random appends, peeks, trims and reopenings against a `Vec`.

use proptest::prelude::*;

use super::super::memory::{MemDisk, Plan};
use super::{Options, SMALL, dir, drain};
use crate::journal::{Journal, JournalError};

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Vec<u8>>),
    Peek(usize),
    Trim(usize),
    Reopen,
    PowerCycle,
}

fn step() -> impl Strategy<Value = Step> {
    let record = prop::collection::vec(any::<u8>(), 0..400);
    prop_oneof![
        6 => prop::collection::vec(record, 1..5).prop_map(Step::Append),
        3 => (1_usize..10).prop_map(Step::Peek),
        3 => (0_usize..12).prop_map(Step::Trim),
        1 => Just(Step::Reopen),
        1 => Just(Step::PowerCycle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_vec(steps in prop::collection::vec(step(), 1..60), seed: u64) {
        let options = Options { max_bytes: 6000, ..SMALL };
        let disk = MemDisk::new(seed);
        let open = || Journal::open_on(disk.clone(), dir(), options);
        let short = Plan { short_writes: true, ..Plan::default() };
        disk.plan(short);
        let mut journal = Some(open()?.0);
        let mut model: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut next = 1;
        for step in steps {
            let open_journal = journal.as_mut().expect("open");
            match step {
                Step::Append(group) => match open_journal.append(&group) {
                    Ok(numbers) => {
                        prop_assert_eq!(numbers.first, next);
                        model.extend((next..).zip(group));
                        next = numbers.last + 1;
                    }
                    Err(JournalError::Full { .. }) => prop_assert!(!model.is_empty()),
                    Err(e) => return Err(e.into()),
                },
                Step::Peek(max) => {
                    let got = open_journal.peek(max)?;
                    prop_assert!(got.len() <= max && got.is_empty() == model.is_empty());
                    for (entry, (number, payload)) in got.iter().zip(&model) {
                        prop_assert_eq!((entry.number, &entry.payload), (*number, payload));
                    }
                }
                Step::Trim(count) => {
                    let count = count.min(model.len());
                    if let Some((number, _)) = model.drain(..count).next_back() {
                        open_journal.trim(number)?;
                    }
                }
                Step::Reopen | Step::PowerCycle => {
                    drop(journal.take());
                    if matches!(step, Step::PowerCycle) {
                        disk.power_cycle();
                        disk.plan(short);
                    }
                    let (again, recovery) = open()?;
                    prop_assert_eq!(recovery.damage, vec![]);
                    prop_assert_eq!(recovery.torn, None);
                    prop_assert_eq!(recovery.next, next);
                    journal = Some(again);
                }
            }
            let figures = journal.as_mut().expect("open").figures();
            prop_assert_eq!(figures.entries, model.len() as u64);
            prop_assert_eq!(figures.oldest.is_some(), !model.is_empty());
            prop_assert!(figures.bytes <= options.max_bytes);
        }
        let out = drain(journal.as_mut().expect("open"), 4)?;
        let out: Vec<_> = out.into_iter().map(|e| (e.number, e.payload)).collect();
        prop_assert_eq!(out, model);
    }
}
