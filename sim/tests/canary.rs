//! A simulator that finds nothing proves nothing. So bugs are put into the product on purpose, one
//! at a time (`prism_proto::canary`), and each has to be noticed.
//!
//! `sim/canaries.txt` is what came out when it was last written (PRISM_BLESS=1 writes it): which
//! invariant noticed each canary, in which seed. How many seeds it takes changes with every harmless
//! change of the simulator and is not compared; that one is noticed stays so.
//!
//! PRISM_CANARY=Name looks at one of them only.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use prism_proto::canary::{self, Canary};
use prism_sim::cluster::{Case, Kind, run};

/// What the table says of one that no seed has noticed.
const NOT_YET: &str = "not noticed:";
/// Each must be noticed within so many seeds.
const SEEDS: u64 = 2_000;

/// Where to look. What is seldom drawn together is drawn more often there; nothing else differs from
/// what every seed may draw.
fn case(canary: Canary, seed: u64) -> Case {
    use Kind::{
        Ambiguous, Await, Blocked, Burst, Clock, Clone, Crash, DbAway, DbCrash, DiskError,
        DiskFull, Elsewhere, LoseNewest, Loss, NoWay, OneWay, Overload, Partition, PowerLoss,
        Refuse, Restart, Restore, ShortWrite, Sql, Stale, Transient,
    };
    let only: &[Kind] = match canary {
        // "Any region for every region", "another region's": they need a third one.
        Canary::AwaitAnyRegion | Canary::SiblingAckOfAnother => {
            return Case::full(seed).updates(60).millis(6_000);
        }
        Canary::DependencyIgnored => {
            return Case::full(seed).only(&[Loss, OneWay, Partition]);
        }
        // A region has to be away for longer than what all others have is kept.
        Canary::TrimmedToFastest => {
            return Case::full(seed).only(&[Stale, Await]);
        }
        Canary::CreditLeak => &[Loss, Burst],
        Canary::GapIgnored => &[Restore, Blocked, LoseNewest],
        Canary::FetchNotRepeated => &[Overload, Transient, Ambiguous, DbCrash, DbAway],
        Canary::RefusalToldOnce => &[Refuse, Loss, Partition, Crash],
        Canary::RefusalToldTooEarly => &[Refuse, Transient, Ambiguous, DbCrash],
        Canary::AnsweredBeforeFsync
        | Canary::FsyncRetried
        | Canary::DirectoryNotSynced
        | Canary::CrcNotChecked => &[DbAway, DbCrash, DiskError, ShortWrite, PowerLoss, Crash],
        Canary::SpooledAlthoughFull => &[DiskFull, DiskError, DbAway, Ambiguous],
        Canary::ForgottenBeforeRun => &[DbAway, DbCrash, Ambiguous],
        Canary::TransientIsRefusal => &[Transient],
        Canary::HistoryNotLooked => &[LoseNewest, Restore],
        Canary::DoubleRuns => &[Elsewhere, Ambiguous],
        // Longer than a small run.
        Canary::LeaseNotFenced => {
            return Case::full(seed).only(&[NoWay]).updates(20);
        }
        Canary::BootNotCounted => &[Clock, Crash, Restart],
        Canary::TwinNotNoticed => {
            return Case::full(seed).only(&[Clone]).updates(20);
        }
        // Two submits at a time.
        Canary::NumbersNotLocked => {
            return Case::full(seed)
                .only(&[Sql, Overload])
                .updates(80)
                .millis(3_000);
        }
        Canary::UndoneBecomesFinal => &[Await, Refuse, Ambiguous],
        _ => return Case::small(seed),
    };
    Case::small(seed).only(only)
}

/// The first seed from there on that fails, and what was found.
fn hunt(from: u64, case: impl Fn(u64) -> Case + Sync) -> Option<(u64, String)> {
    let next = AtomicU64::new(from);
    let first = Mutex::new(None::<(u64, String)>);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let found = first
                        .lock()
                        .expect("no panic")
                        .as_ref()
                        .map(|found| found.0);
                    if seed > found.unwrap_or(SEEDS) {
                        return;
                    }
                    let findings = run(case(seed)).findings;
                    let Some(finding) = findings.first() else {
                        continue;
                    };
                    let mut first = first.lock().expect("no panic");
                    if first.as_ref().is_none_or(|found| seed < found.0) {
                        *first = Some((seed, finding.invariant.to_string()));
                    }
                }
            });
        }
    });
    first.into_inner().expect("no panic")
}

/// The first seed that fails with the canary and not without it.
fn notice(canary: Canary) -> Option<(u64, String)> {
    let mut from = 1;
    loop {
        canary::set(Some(canary));
        let found = hunt(from, |seed| case(canary, seed));
        canary::set(None);
        let (seed, invariant) = found?;
        if run(case(canary, seed)).findings.is_empty() {
            return Some((seed, invariant));
        }
        // That one is `tests/seeds.rs`' business.
        println!("{:?} fails without {canary:?} as well", case(canary, seed));
        from = seed + 1;
    }
}

#[test]
fn every_canary_of_the_table_is_noticed() {
    const { assert!(prism_proto::CANARIES) };
    let bless = std::env::var_os("PRISM_BLESS").is_some();
    let only = std::env::var("PRISM_CANARY").ok();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("canaries.txt");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let listed = |name: &str| {
        kept.lines()
            .find(|line| line.split(' ').next() == Some(name))
    };
    let mut table = String::new();
    let mut missed = Vec::new();
    let mut noticed = 0;
    for &canary in Canary::ALL {
        let name = format!("{canary:?}");
        let line = match (&only, listed(&name)) {
            (Some(only), _) if *only != name => continue,
            // Not noticed so far: looked for again when the table is written anew.
            (None, Some(line)) if line.contains(NOT_YET) && !bless => line.to_owned(),
            _ => match notice(canary) {
                Some((seed, invariant)) => format!("{name:22} {seed:4}  {invariant}"),
                None => format!("{name:22}    -  {NOT_YET} {}", canary.words().trim()),
            },
        };
        println!("{line}");
        let _ = writeln!(table, "{line}");
        noticed += usize::from(!line.contains(NOT_YET));
        if line.contains(NOT_YET) && listed(&name).is_none_or(|line| !line.contains(NOT_YET)) {
            missed.push(name);
        }
    }
    if only.is_some() {
        return;
    }
    if bless {
        std::fs::write(&path, &table).expect("the table is written");
    }
    assert!(noticed >= 25, "only {noticed} are noticed");
    assert!(bless || missed.is_empty(), "no longer noticed: {missed:?}");
}
