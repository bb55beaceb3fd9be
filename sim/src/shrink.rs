//! A failing case made smaller: fewer kinds of faults, fewer updates, a shorter run, as long as the
//! same thing is not as it must be.

use crate::check::Invariant;
use crate::cluster::{Case, Kinds, Plan, run};

fn fails(case: Case, invariant: Invariant) -> bool {
    let findings = run(case).findings;
    findings
        .iter()
        .any(|finding| finding.invariant == invariant)
}

/// The smallest one that was found.
#[must_use]
pub fn shrink(case: Case, invariant: Invariant) -> Case {
    // What is not on cannot be left out.
    let mut best = Case {
        only: Plan::draw(case).kinds,
        ..case
    };
    if !fails(best, invariant) {
        return case;
    }
    loop {
        let before = best;
        // Half of the kinds at once, then one by one.
        let kinds: Vec<_> = best.only.iter().collect();
        for half in kinds.chunks(kinds.len().div_ceil(2).max(1)) {
            let rest = half
                .iter()
                .fold(best.only, |rest, kind| rest.without(*kind));
            best = try_it(best, Case { only: rest, ..best }, invariant);
        }
        for kind in Kinds::iter(best.only) {
            let rest = best.only.without(kind);
            best = try_it(best, Case { only: rest, ..best }, invariant);
        }
        let plan = Plan::draw(best);
        let updates: u32 = plan.clients.iter().map(|client| client.updates).sum();
        for fewer in [updates / 4, updates / 2, updates.saturating_sub(1)] {
            best = try_it(best, best.updates(fewer), invariant);
        }
        let millis = plan.length.as_millis() as u32;
        for shorter in [millis / 4, millis / 2, millis / 4 * 3] {
            best = try_it(best, best.millis(shorter), invariant);
        }
        if best == before {
            return best;
        }
    }
}

fn try_it(best: Case, other: Case, invariant: Invariant) -> Case {
    if other != best && fails(other, invariant) {
        other
    } else {
        best
    }
}
