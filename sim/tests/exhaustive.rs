//! All states of the core within small bounds. The larger ones: `--example exhaustive`.

use prism_sim::exhaustive::{Budget, Limit, Setup, search};

/// In a debug build an engine takes twenty times as long.
const SHARE: usize = if cfg!(debug_assertions) { 20 } else { 1 };

const NONE: Budget = Budget {
    updates: 0,
    losses: 0,
    duplicates: 0,
    overtakes: u8::MAX,
    crashes: 0,
    directs: 0,
    outages: 0,
    delays: 0,
};

/// `states`: give up after so many (fewer in a debug build); 0: all of them.
#[track_caller]
fn visit(name: &str, setup: Setup, budget: Budget, states: usize) -> usize {
    let all = states == 0;
    let limit = Limit {
        states: if all { usize::MAX } else { states / SHARE },
        depth: u32::MAX,
    };
    let report = search(setup, budget, limit);
    println!("{name}: {budget:?}\n  {report}");
    assert!(report.counterexample.is_none(), "{name}: {report}");
    assert_eq!(report.complete, all, "{name}: {report}");
    report.states
}

#[test]
fn no_state_of_the_core_is_bad() {
    let two = Budget {
        updates: if cfg!(debug_assertions) { 1 } else { 2 },
        ..NONE
    };
    let one = Budget { updates: 1, ..NONE };
    let three = Budget { updates: 3, ..NONE };
    let all = [
        ("three updates", three),
        ("a loss", Budget { losses: 1, ..two }),
        (
            "a duplicate",
            Budget {
                duplicates: 1,
                ..two
            },
        ),
        ("a delay", Budget { delays: 1, ..one }),
        ("a database away", Budget { outages: 1, ..two }),
        (
            "a crash",
            Budget {
                updates: 1,
                crashes: 1,
                directs: 1,
                ..NONE
            },
        ),
    ];
    let in_order = Budget {
        overtakes: 0,
        ..NONE
    };
    let faults = [(
        "every fault once, in order",
        Budget {
            updates: 1,
            losses: if cfg!(debug_assertions) { 0 } else { 1 },
            duplicates: 1,
            crashes: 1,
            directs: 1,
            ..in_order
        },
    )];
    let mut states = 0;
    for (name, budget) in all.into_iter().chain(faults) {
        states += visit(name, Setup::FRESH, budget, 0);
    }
    let everything = Budget {
        updates: 3,
        losses: 2,
        duplicates: 1,
        overtakes: u8::MAX,
        crashes: 1,
        directs: 1,
        outages: 1,
        delays: 1,
    };
    states += visit("everything", Setup::FRESH, everything, 200_000);
    println!("{states} states");
}

#[test]
fn no_state_is_bad_where_a_counter_ends_or_wraps() {
    let budget = Budget {
        updates: 3,
        losses: 1,
        ..NONE
    };
    let crash = Budget {
        updates: 1,
        crashes: 1,
        directs: 1,
        ..NONE
    };
    let in_order = Budget {
        losses: if cfg!(debug_assertions) { 1 } else { 2 },
        overtakes: 0,
        ..budget
    };
    let crash_in_order = Budget {
        updates: if cfg!(debug_assertions) { 1 } else { 2 },
        losses: if cfg!(debug_assertions) { 0 } else { 1 },
        overtakes: 0,
        ..crash
    };
    let large = ("an update in two datagrams", Setup::LARGE);
    for (name, setup) in Setup::PLACES.into_iter().skip(1).chain([large]) {
        visit(name, setup, budget, 20_000);
        visit(name, setup, crash, 20_000);
        visit(name, setup, in_order, 0);
        visit(name, setup, crash_in_order, 0);
    }
    for budget in [budget, in_order, crash_in_order] {
        visit("a window of two updates", Setup::NARROW, budget, 0);
    }
}

/// The search is worth something only if it is the same search every time.
#[test]
fn the_same_states_are_visited_every_time() {
    let budget = Budget {
        updates: 2,
        losses: 1,
        ..NONE
    };
    let visited = || {
        let report = search(
            Setup::FRESH,
            budget,
            Limit {
                states: usize::MAX,
                depth: u32::MAX,
            },
        );
        (report.states, report.transitions, report.depth, report.ends)
    };
    assert_eq!(visited(), visited());
}
