//! What seeds have found, named after what it hurt.

use prism_sim::cluster::{Case, run};

fn comes_through(case: Case) {
    let report = run(case);
    assert_eq!(report.findings, [], "{case:?}");
}

/// The watch over awaited writes looked at those whose end it knew again and again without a pause:
/// while one of them hung in the database, the node used up a processor.
#[test]
fn a_node_does_not_spin_while_an_awaited_write_hangs() {
    comes_through(Case::small(12));
    comes_through(Case::small(17));
}

/// A region that was rebuilt has the donor's rows, which its own bounds may not allow: it refuses to
/// take back what it has from there. That is told (`undo-refused`), and was found to be a difference.
#[test]
fn an_undo_that_a_rebuilt_region_refuses_is_told_and_no_other_row_differs() {
    comes_through(Case::small(44501));
    comes_through(Case::small(117031));
}

/// A lease ran out while its new holder still read where to begin: it began all the same, beside a
/// sibling, and nobody stopped it.
#[test]
fn a_node_that_gets_a_lane_too_late_does_not_deliver_it() {
    comes_through(Case::full(17078));
}

/// A rename that had waited for an awaited one remembered the name from before both; its undo brought
/// that back in the other regions.
#[test]
fn an_undo_brings_back_what_its_update_has_replaced() {
    comes_through(Case::full(302_638));
}
