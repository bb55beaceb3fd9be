//! The same seed is the same run, to the last step; another one is another.

use std::collections::BTreeSet;

use prism_sim::cluster::{Case, run, run_traced};

#[test]
fn the_same_seed_is_the_same_run() {
    let seeds = 0..if cfg!(debug_assertions) { 8 } else { 200 };
    let mut hashes = BTreeSet::new();
    for seed in seeds.clone() {
        let case = Case::small(seed);
        let [one, other] = [run(case), run(case)];
        assert_eq!((one.hash, one.steps), (other.hash, other.steps), "{case:?}");
        hashes.insert(one.hash);
    }
    assert_eq!(
        hashes.len() as u64,
        seeds.end,
        "another seed is another run"
    );
}

/// Also where the operator reads the alarms.
#[test]
fn a_run_that_is_written_down_is_the_same_run() {
    for seed in (0..20).chain([3_300_342]) {
        let case = Case::small(seed);
        let [plain, told] = [run(case), run_traced(case)];
        assert_eq!(
            (plain.hash, plain.steps),
            (told.hash, told.steps),
            "{case:?}"
        );
    }
}

#[test]
fn a_large_one_is_the_same_run_too_on_another_thread() {
    let case = Case::full(3);
    let here = run(case);
    let there = std::thread::spawn(move || run(case).hash).join();
    assert_eq!(here.hash, there.expect("no panic of the simulator itself"));
}
