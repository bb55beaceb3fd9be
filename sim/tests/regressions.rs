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
