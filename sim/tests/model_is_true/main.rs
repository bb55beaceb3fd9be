//! The model database against real ones: the same calls, one after the other, and the same answers,
//! the same ledger, the same tables.
//!
//! What cannot be the same is named: tags and epochs are random, so they are compared by the update
//! that they belong to; times, and the words of an error, are left out.

mod backend;
mod names;
mod side;
mod steps;

use backend::{Backend, Postgres, Sqlite};
use side::Side;
use steps::Step;

/// splitmix64.
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Less than `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Which verbs have been compared, and how often.
type Coverage = std::collections::BTreeMap<&'static str, u64>;

fn run(backend: &dyn Backend, seed: u64, steps: u64, coverage: &mut Coverage) {
    let mut random = Random::new(seed);
    let mut model = Side::model(backend.dialect());
    let mut real = Side::real(backend, seed);
    let mut story = Vec::new();
    for _ in 0..steps {
        let step = Step::draw(&mut random, &mut model, backend.dialect());
        *coverage.entry(step.name()).or_default() += 1;
        story.push(format!("{step:?}"));
        let (ours, theirs) = (step.run(&mut model), step.run(&mut real));
        assert!(
            ours == theirs,
            "seed {seed}:\n{}\nmodel: {ours}\nreal:  {theirs}",
            story.join("\n")
        );
        let (ours, theirs) = (model.tables(), real.tables());
        assert!(
            ours == theirs,
            "seed {seed}:\n{}\nmodel: {ours}\nreal:  {theirs}",
            story.join("\n")
        );
    }
    assert_eq!(model.findings(), Vec::<String>::new(), "seed {seed}");
}

fn seeds(name: &str, default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    match number("PRISM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number(name).unwrap_or(default),
    }
}

#[test]
fn the_model_does_what_sqlite_does() {
    let mut coverage = Coverage::new();
    for seed in seeds("PRISM_SQLITE_SEEDS", 40) {
        run(&Sqlite::new(), seed, 120, &mut coverage);
    }
    println!("{coverage:?}");
}

#[test]
fn the_model_does_what_postgresql_does() {
    let postgres = Postgres::new();
    let mut coverage = Coverage::new();
    for seed in seeds("PRISM_POSTGRES_SEEDS", 5) {
        run(&postgres, seed, 150, &mut coverage);
    }
    println!("{coverage:?}");
}
