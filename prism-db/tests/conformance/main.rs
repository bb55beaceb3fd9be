//! One suite that every backend passes.
//!
//! A case is a function over a [`world::World`]; it knows no backend. To add a backend: implement
//! [`world::Backend`] in a module of its own and add one `suite!` line below. The checks are plain
//! SQL, by a client that knows nothing of Prism, and the updates are not idempotent on purpose.

mod flaky;
#[cfg(unix)]
mod postgres;
mod sqlite;
mod world;

mod apply;
mod direct;
mod lanes;
mod model;
mod outbox;
mod schema;
mod submit;
mod types;

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
                lanes: [
                    a_lease_is_taken_renewed_and_taken_over,
                    acknowledged_positions_never_move_back,
                ],
                model: [
                    any_sequence_of_submits_and_applies_gives_what_the_model_says,
                ],
                outbox: [
                    reading_stops_at_the_byte_limit,
                    trimming_respects_the_slowest_lane_and_retention,
                    a_position_is_judged_by_the_chain_of_tags,
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
                    updates_name_what_their_origin_had_seen,
                ],
                types: [
                    every_type_arrives_as_it_left,
                    hostile_texts_are_data,
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
