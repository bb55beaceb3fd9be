//! Runs many seeds, or one of them with a trace to read.

use std::process::ExitCode;

use clap::Parser;
use prism_sim::cluster::{Case, Kind, Size, run, run_traced};
use prism_sim::shrink::shrink;

/// Whole clusters in one thread, in virtual time, from one seed.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Large clusters.
    #[arg(long)]
    full: bool,
    /// One seed, with a trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Make what fails smaller.
    #[arg(long)]
    shrink: bool,
    /// Only these kinds of faults, with commas between them.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// At most so many updates.
    #[arg(long, default_value_t = u32::MAX)]
    updates: u32,
    /// At most so many milliseconds until everything heals.
    #[arg(long, default_value_t = u32::MAX)]
    millis: u32,
    /// With this deliberate bug.
    #[cfg(feature = "canary")]
    #[arg(long)]
    canary: Option<String>,
    /// How many at a time.
    #[arg(long, default_value_t = 2)]
    threads: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    #[cfg(feature = "canary")]
    if let Some(name) = &args.canary {
        use prism_proto::canary::{Canary, set};
        let known = Canary::ALL
            .iter()
            .find(|known| format!("{known:?}") == *name);
        set(Some(*known.unwrap_or_else(|| panic!("no canary {name}"))));
    }
    let size = if args.full { Size::Full } else { Size::Small };
    let case = |seed| {
        let mut case = Case::new(seed, size)
            .updates(args.updates)
            .millis(args.millis);
        if !args.only.is_empty() {
            let named = |name: &String| Kind::ALL.iter().copied().find(|kind| kind.name() == name);
            let kinds: Vec<_> = args.only.iter().filter_map(named).collect();
            case = case.only(&kinds);
        }
        case
    };
    if let Some(seed) = args.seed {
        let report = run_traced(case(seed));
        println!("{report:#?}");
        return ExitCode::from(u8::from(!report.findings.is_empty()));
    }
    let start = std::time::Instant::now();
    let runs: Vec<_> = (0..args.threads)
        .map(|thread| {
            let seeds = (args.from + thread..args.from + args.seeds).step_by(args.threads as usize);
            let cases: Vec<_> = seeds.map(case).collect();
            std::thread::spawn(move || {
                let mut found = 0;
                let (mut steps, mut time) = (0, 0.0);
                for case in cases {
                    let report = run(case);
                    steps += report.steps;
                    time += report.time.as_secs_f64();
                    for finding in &report.findings {
                        println!("{:?}: {finding}", report.case);
                    }
                    if let Some(first) = report.findings.first().filter(|_| args.shrink) {
                        println!("  smaller: {:?}", shrink(report.case, first.invariant));
                    }
                    found += u64::from(!report.findings.is_empty());
                }
                (found, steps, time)
            })
        })
        .collect();
    let (mut found, mut steps, mut time) = (0, 0, 0.0);
    for run in runs {
        let (f, s, t) = run.join().expect("no panic of the simulator itself");
        found += f;
        steps += s;
        time += t;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} seeds in {seconds:.1} s: {:.0} a minute; {:.0} steps and {:.1} virtual seconds each; \
         {found} with findings",
        args.seeds,
        args.seeds as f64 * 60.0 / seconds,
        steps as f64 / args.seeds as f64,
        time / args.seeds as f64
    );
    ExitCode::from(u8::from(found > 0))
}
