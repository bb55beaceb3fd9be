//! A search that finds nothing proves nothing: bugs of the core that are put in on purpose
//! (`prism_proto::canary`) have to be among the states that it visits.

use prism_proto::canary::{self, Canary};
use prism_sim::exhaustive::{Budget, Limit, Setup, search};

#[test]
fn a_canary_of_the_core_is_among_all_states() {
    let budget = |updates, losses| Budget {
        updates,
        losses,
        ..Budget::default()
    };
    let limit = Limit {
        states: 1_000_000,
        depth: u32::MAX,
    };
    for (canary, setup, budget, wrong) in [
        (
            Canary::AckBeforeCommit,
            Setup::NARROW,
            budget(3, 1),
            "what its database has not committed",
        ),
        (
            Canary::ReceivedIsApplied,
            Setup::NARROW,
            budget(3, 1),
            "the lane counts 1 as acknowledged, the database has 0",
        ),
        (
            Canary::WindowOffByOne,
            Setup::NARROW,
            budget(3, 1),
            "more in flight than the window holds",
        ),
        (
            Canary::SwitchForgetsInFlight,
            Setup::LARGE,
            budget(3, 2),
            "no progress although",
        ),
    ] {
        canary::set(Some(canary));
        let report = search(setup, budget, limit);
        let story = report.counterexample.as_ref();
        let found = story.is_some_and(|story| story.wrong.contains(wrong));
        assert!(found, "{canary:?}: {report}");
    }
    canary::set(None);
}
