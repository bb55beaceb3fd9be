//! Every kind of fault strikes in every phase of a cluster's life, over the seeds that are run.

use prism_sim::cluster::{Case, Kinds, Size, run};
use prism_sim::coverage::Table;

/// A debug build takes ten times as long.
const SEEDS: u64 = if cfg!(debug_assertions) { 40 } else { 1500 };

#[test]
fn every_fault_strikes_in_every_phase() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let runs: Vec<_> = (0..threads)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut table = Table::default();
                for seed in (thread..SEEDS).step_by(threads as usize) {
                    table.add(&run(Case::new(seed, Size::Small)).struck);
                    if seed % 10 == 0 {
                        table.add(&run(Case::new(seed, Size::Full)).struck);
                    }
                }
                table
            })
        })
        .collect();
    let mut table = Table::default();
    for run in runs {
        table.merge(&run.join().expect("no panic of the simulator itself"));
    }
    println!("{}", table.show());
    if !cfg!(debug_assertions) {
        assert_eq!(
            table.empty(Kinds::all()),
            [],
            "a fault that never struck in a phase"
        );
    }
}
