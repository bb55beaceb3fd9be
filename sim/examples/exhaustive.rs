//! A search of the core's states as long as one likes:
//!
//! ```text
//! cargo run --release -p prism-sim --example exhaustive -- \
//!     updates=3 losses=2 duplicates=1 overtakes=0 crashes=1 directs=1 outages=0 delays=0 states=300000000
//! ```
//!
//! Whatever is not named is 0 (`states`: ten million); `overtakes=255`: packets arrive in any order.
//! `from=` begins elsewhere: `fresh`, or near the end of the `seqs`, the `packets`, the low 32 bits of
//! them (`packets32`), the `openings` or the `clock`, or (`ends`) of all of these; `large` makes update 2
//! one that takes two datagrams, `narrow` the window one of two updates. Exit status 1: something was found.

use prism_sim::exhaustive::{Budget, Limit, Setup, search_watched};

fn main() {
    let mut budget = Budget::default();
    let mut limit = Limit {
        states: 10_000_000,
        depth: u32::MAX,
    };
    let mut setup = Setup::FRESH;
    for argument in std::env::args().skip(1) {
        let (name, value) = argument.split_once('=').unwrap_or((&argument, ""));
        if name == "from" {
            setup = Setup::named(value).unwrap_or_else(|| panic!("from={value}: see the source"));
            continue;
        }
        let number: usize = value
            .parse()
            .unwrap_or_else(|_| panic!("{argument}: a number"));
        let small = || u8::try_from(number).expect("at most 255");
        match name {
            "updates" => budget.updates = small(),
            "losses" => budget.losses = small(),
            "overtakes" => budget.overtakes = small(),
            "duplicates" => budget.duplicates = small(),
            "crashes" => budget.crashes = small(),
            "directs" => budget.directs = small(),
            "outages" => budget.outages = small(),
            "delays" => budget.delays = small(),
            "states" => limit.states = number,
            "depth" => limit.depth = number as u32,
            _ => panic!("{name}: see the source"),
        }
    }
    let report = search_watched(setup, budget, limit, |depth, states| {
        eprint!("\r{states} states, {depth} steps");
    });
    eprintln!();
    println!("{budget:?}\n{report}");
    std::process::exit(i32::from(report.counterexample.is_some()));
}
