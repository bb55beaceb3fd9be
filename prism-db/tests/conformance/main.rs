//! One suite that every backend passes.
//!
//! A case is a function over a [`world::World`]; it knows no backend. To add a backend: implement
//! [`world::Backend`] in a module of its own and add one `suite!` line below. The checks are plain
//! SQL, by a client that knows nothing of Prism, and the updates are not idempotent on purpose.

mod flaky;
#[cfg(unix)]
mod mixed;
#[cfg(unix)]
mod postgres;
mod sqlite;
mod world;

mod apply;
mod direct;
mod doubles;
mod held;
mod lanes;
mod letters;
mod model;
mod outbox;
mod requests;
mod schema;
mod submit;
mod types;
mod undo;

/// A test per case.
macro_rules! suite {
    ($name:ident, $start:expr) => {
        mod $name {
            suite!(@cases $start,
                apply: [
                    two_appliers_race_and_every_update_takes_effect_once,
                    a_gap_writes_nothing_and_tells_the_position,
                    another_epoch_or_another_tag_is_a_fork,
                    a_refused_update_is_recorded_and_the_others_are_applied,
                    every_update_refused,
                    a_deferred_constraint_finds_its_offender,
                    a_different_row_count_is_drift,
                    a_missing_row_that_another_stream_brings_is_waited_for,
                    a_missing_reference_that_another_stream_brings_is_waited_for,
                    a_missing_deferred_reference_that_another_stream_brings_is_waited_for,
                    a_missing_table_parks_the_stream_and_rejects_nothing,
                    a_lock_is_waited_for_and_nothing_is_rejected,
                    interleaved_statements_run_in_seq_order,
                    an_unknown_statement_waits,
                    bytes_that_are_no_update_wait_and_say_so,
                    an_older_version_of_a_statement_is_still_applied,
                    an_ambiguous_commit_is_looked_up,
                    malformed_bytes_park_the_stream_behind_what_is_good,
                ],
                direct: [
                    the_own_stream_is_written_into_the_peers_database,
                    a_node_and_the_direct_path_write_the_same_range_once,
                    a_database_that_is_not_the_peers_is_refused,
                    another_epoch_is_a_fork,
                    a_database_ahead_of_the_stream_or_too_far_behind_is_told,
                    a_database_that_is_away_is_unreachable,
                ],
                doubles: [
                    any_mix_of_doubles_refusals_and_undos_ends_alike_everywhere,
                ],
                held: [
                    a_held_update_is_final_when_every_region_has_it,
                    a_held_update_that_is_undone_never_becomes_final,
                    the_undo_of_a_crashed_held_update_comes_before_later_writes,
                    a_later_write_to_a_held_row_waits,
                    what_is_refused_or_repeated_is_not_held,
                    a_held_update_is_applied_alone,
                    a_held_update_is_never_trimmed,
                    a_copy_of_a_held_request_waits_for_its_outcome,
                ],
                lanes: [
                    a_lease_is_taken_renewed_and_taken_over,
                    the_newest_word_of_a_position_counts_also_backwards,
                    a_lane_is_asked_for,
                    a_backlog_is_counted_per_lane,
                    a_stale_lane_keeps_no_rows,
                    a_node_is_the_process_that_claimed_it_last,
                    a_commit_of_others_is_heard_of,
                ],
                letters: [
                    refusals_are_told_until_they_are_heard,
                    the_direct_path_brings_refusals_home,
                    dead_letters_are_shown_retried_and_dropped,
                    a_dead_letter_whose_request_was_carried_out_elsewhere_is_not_submitted,
                    a_dead_letter_of_the_journal_is_submitted_again,
                    an_operator_goes_past_a_parked_update,
                    an_operator_goes_past_parameters_that_do_not_fit,
                ],
                model: [
                    any_sequence_of_submits_and_applies_gives_what_the_model_says,
                ],
                outbox: [
                    reading_stops_at_the_byte_limit,
                    trimming_respects_the_slowest_lane_and_retention,
                    a_position_is_judged_by_the_chain_of_tags,
                    a_restored_destination_is_refilled_from_what_is_kept,
                    a_wiped_origin_is_another_stream,
                    the_clock_goes_on_though_another_region_is_ahead,
                    the_highest_clock_of_a_peer_leaves_the_own_stream_readable,
                ],
                requests: [
                    a_repeated_request_is_answered_and_executed_once,
                    a_request_comes_twice_in_one_batch,
                    concurrent_doubles_take_effect_once,
                    a_request_of_two_regions_takes_effect_once_everywhere,
                    a_request_is_found_after_an_ambiguous_commit,
                    a_request_that_was_undone_is_found_itself,
                    a_request_that_was_undone_after_an_ambiguous_commit_is_told_as_undone,
                    a_request_that_was_trimmed_after_an_ambiguous_commit_is_told_as_committed,
                    a_refused_request_keeps_its_answer,
                    a_request_refused_here_and_taken_elsewhere_leaves_a_trace,
                    requests_are_forgotten_when_nobody_needs_them,
                ],
                schema: [
                    migrating_twice_changes_nothing,
                    new_regions_and_statements_are_added,
                    another_regions_database_is_refused,
                    a_missing_schema_is_named_with_its_remedy,
                    a_schema_of_a_newer_version_is_refused,
                ],
                submit: [
                    concurrent_submitters_get_gapless_seqs_in_commit_order,
                    a_bad_update_fails_alone_and_the_order_is_kept,
                    a_deferred_constraint_fails_alone,
                    an_update_over_the_limit_fails_alone,
                    parameters_that_no_peer_could_read_fail_alone,
                    a_missing_table_is_the_operators_matter,
                    a_locked_row_blocks_and_nothing_is_written,
                    old_values_are_read_just_before,
                    an_ambiguous_commit_is_found_by_its_request_id,
                    nothing_overtakes_an_update_that_the_database_lost_in_between,
                    nothing_overtakes_an_update_that_was_not_tried,
                    what_runs_in_turn_stops_behind_a_refusal,
                    updates_name_what_their_origin_had_seen,
                ],
                types: [
                    every_type_arrives_as_it_left,
                    hostile_texts_are_data,
                    whatever_is_taken_arrives_exactly,
                ],
                undo: [
                    an_update_is_undone_once_in_every_region_that_has_it,
                    old_values_come_back_and_later_writes_stay,
                    an_undo_that_its_origin_refuses_is_told_everywhere,
                    an_undo_that_a_peer_refuses_is_a_dead_letter_there,
                    a_retried_undo_of_a_copy_is_one_of_the_request,
                    a_request_of_two_regions_is_undone_once_everywhere,
                    what_was_retried_is_undone_after_all,
                    what_is_gone_or_cannot_be_undone_is_said,
                    concurrent_undos_undo_once,
                ],
            );
        }
    };
    (@cases $start:expr, $($theme:ident: [$($case:ident,)*],)*) => {
        $(mod $theme {
            $(#[test]
            fn $case() {
                crate::$theme::$case(&crate::world::World::new($start));
            })*
        })*
    };
}

suite!(on_sqlite, crate::sqlite::Sqlite::start());
#[cfg(unix)]
suite!(on_postgres, crate::postgres::Postgres::start());

/// Between backends only what crosses from one to the other is of interest.
#[cfg(unix)]
mod on_both {
    suite!(@cases crate::mixed::Mixed::start(),
        types: [
            hostile_texts_are_data,
            whatever_is_taken_arrives_exactly,
        ],
        apply: [
            bytes_that_are_no_update_wait_and_say_so,
        ],
    );
}
