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

/// Two regions took back their copies of one request at once: a third one took the update back twice.
#[test]
fn the_undos_of_two_copies_take_effect_once() {
    comes_through(Case::full(7093));
    comes_through(Case::full(11196));
    comes_through(Case::full(11985));
}

/// A peer had an update of a history that the own database had lost; another one took its number, and
/// nothing was written behind it.
#[test]
fn a_fork_under_the_newest_number_is_found_although_nothing_is_written() {
    comes_through(Case::small(36907));
    comes_through(Case::small(92700));
}

/// A database was put back while nothing but SQL reached it, and nothing was written.
#[test]
fn a_database_that_was_put_back_is_refilled_by_sql_although_nothing_is_written() {
    comes_through(Case::small(79161));
    comes_through(Case::small(10056));
}

/// An update of the journal was refused, nobody could write that down, and it was executed behind those
/// that had been accepted after it.
#[test]
fn what_waits_in_the_journal_runs_in_the_order_in_which_it_was_accepted() {
    comes_through(Case::full(300_376));
    comes_through(Case::full(18171));
}

/// A region's mark was taken back while a sibling deleted what it missed.
#[test]
fn a_region_is_taken_back_only_if_all_that_it_misses_is_there() {
    comes_through(Case::full(9406));
}

/// The answer to a COMMIT was lost, and the update undone before anybody looked: one caller was told
/// `committed`, the others `undone`.
#[test]
fn everybody_who_asks_for_a_request_is_told_the_same() {
    comes_through(Case::small(647_394));
}

/// Updates of a history that the origin's database had lost waited in a peer's memory for good, for
/// ones before them that nobody would send, to be mixed with what was numbered so next.
#[test]
fn nothing_is_kept_that_waits_in_vain() {
    comes_through(Case::small(234_094));
    comes_through(Case::small(283_024));
}

/// What the old history had been refused for kept a rebuilt region's stream waiting for half a minute,
/// and its node asked eight times a second.
#[test]
fn a_rebuilt_region_is_heard_at_once() {
    comes_through(Case::small(653_538));
}

/// A node had received updates of a history that the origin's database lost before they were applied,
/// and applied them when its own database was back.
#[test]
fn a_history_that_is_lost_before_it_is_applied_is_never_applied() {
    comes_through(Case::small(1_043_925));
}

/// What a node had received, and could not apply before something else arrived, its origin's database
/// lost; half a minute later the node applied it. That is a fork, which is told and mended; it was judged
/// before it came about.
#[test]
fn what_is_applied_late_and_lost_at_its_origin_is_told_as_a_fork() {
    comes_through(Case::small(3_280_697));
}

/// An awaited update whose publication got no answer is rolled back, and for a moment on record elsewhere.
#[test]
fn what_is_being_undone_is_not_taken_for_committed() {
    comes_through(Case::full(523_111));
}

/// Lost ACKs made a round trip of 50 ms look like one of seconds, and six tries take twelve of them.
#[test]
fn a_lane_leaves_a_node_whose_round_trip_looked_long() {
    comes_through(Case::small(3_294_772));
}
