//! Seeds: each a cluster with its own faults, which must come through them.
//!
//! `PRISM_SEEDS=n`: so many small ones, and a twentieth as many large ones. `PRISM_SEED=n` (and
//! `PRISM_SIZE=full`): that one, with a trace to read.

use std::time::Instant;

use prism_sim::cluster::{Case, Report, Size, run, run_traced};
use prism_sim::shrink::shrink;

/// Without optimisation a small one takes a tenth of a second.
const SMALL: u64 = if cfg!(debug_assertions) { 60 } else { 2000 };
const LARGE: u64 = 20;
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Those that failed.
fn all(size: Size, seeds: u64) -> Vec<Report> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let threads = threads.clamp(1, seeds.max(1));
    let start = Instant::now();
    let runs: Vec<_> = (0..threads)
        .map(|thread| {
            std::thread::spawn(move || {
                let cases = (thread..seeds).step_by(threads as usize);
                let reports = cases.map(|seed| run(Case::new(seed, size)));
                let failed = reports.filter(|report| !report.findings.is_empty());
                failed.collect::<Vec<_>>()
            })
        })
        .collect();
    let failed = runs
        .into_iter()
        .flat_map(|run| run.join().expect("the simulator itself does not panic"))
        .collect();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds ({size:?}) in {seconds:.1} s: {:.0} a minute",
        seeds as f64 * 60.0 / seconds
    );
    failed
}

#[test]
fn every_seed_comes_through() {
    if let Some(seed) = variable("PRISM_SEED") {
        let full = std::env::var("PRISM_SIZE").is_ok_and(|size| size == "full");
        let size = if full { Size::Full } else { Size::Small };
        let report = run_traced(Case::new(seed, size));
        assert_eq!(report.findings, []);
        return;
    }
    let seeds = variable("PRISM_SEEDS").unwrap_or(SMALL);
    let mut failed = all(Size::Small, seeds);
    failed.extend(all(Size::Full, seeds.div_ceil(LARGE)));
    if let Some(first) = failed.first() {
        let list: Vec<_> = (failed.iter())
            .map(|report| format!("{:?}: {}", report.case, report.findings[0]))
            .collect();
        let smallest = shrink(first.case, first.findings[0].invariant);
        panic!(
            "{}\nthe first of them, made smaller: {smallest:?}",
            list.join("\n")
        );
    }
}
