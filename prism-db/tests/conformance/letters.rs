//! Refusals that are told to their origin, and what people do about dead letters.

use prism_db::apply::RejectionKind;
use prism_db::direct::DirectWriter;
use prism_db::{DbError, RequestState, Retried, Update, Value};
use prism_proto::{Epoch, RefusalClass, Seq};

use crate::world::{Backend, World, text, with_id};

/// EU refuses updates 2 and 3 of NA.
fn refuse<B: Backend>(world: &World<B>) {
    world
        .sql(&world.eu)
        .run("UPDATE users SET kills = 999 WHERE username = 'steve'");
    world.submit(
        &world.na,
        &[
            world.append("1"),
            world.kills(1),
            with_id(world.kills(2), 1),
            world.append("2"),
        ],
    );
}

pub fn refusals_are_told_until_they_are_heard<B: Backend>(world: &World<B>) {
    refuse(world);
    world.ship(&world.na, &world.eu);
    let epoch = world.epoch(&world.na);
    let untold = |limit| {
        let rows = world.eu.open().refusals("NA", limit).expect("refusals");
        rows.iter()
            .map(|row| {
                assert_eq!((row.epoch, row.class), (epoch, RefusalClass::Constraint));
                assert_eq!(row.sqlstate, "23514");
                assert!(!row.message.is_empty());
                row.seq.0
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        untold(10),
        [2, 3],
        "on another connection, as after a crash"
    );
    assert_eq!(untold(1), [2]);
    let mut eu = world.eu.open();
    eu.refusals_told("NA", Epoch(1), &[Seq(2)])
        .expect("another numbering: nothing");
    assert_eq!(untold(10), [2, 3]);
    eu.refusals_told("NA", epoch, &[Seq(2)]).expect("told");
    assert_eq!(untold(10), [3]);
    eu.refusals_told("NA", epoch, &[Seq(2), Seq(3)])
        .expect("told");
    assert_eq!(untold(10), [] as [u64; 0]);
    world.ship(&world.na, &world.eu);
    assert_eq!(untold(10), [] as [u64; 0], "told once");
    assert_eq!(eu.rejected_count().expect("count"), 2, "kept for a person");
    assert_eq!(eu.refusals("AS", 10).expect("refusals"), []);
}

pub fn the_direct_path_brings_refusals_home<B: Backend>(world: &World<B>) {
    refuse(world);
    // A node of EU has applied them, and died before it told anybody.
    world.ship(&world.na, &world.eu);
    let mut writer =
        DirectWriter::new("NA", &world.eu.url, world.eu.options.clone()).expect("address");
    let write = |writer: &mut DirectWriter, upto| {
        let outcome = writer.write(&mut *world.na.open(), Seq(upto), || false);
        assert_eq!(outcome.failure, None);
        outcome.refusals.iter().map(|r| r.seq.0).collect::<Vec<_>>()
    };
    assert_eq!(write(&mut writer, 4), [2, 3], "there was nothing to write");
    world.submit(&world.na, &[world.kills(3)]);
    assert_eq!(write(&mut writer, 5), [2, 3, 5]);
    let epoch = world.epoch(&world.na);
    writer
        .refusals_told(epoch, &[Seq(2), Seq(5)])
        .expect("told");
    assert_eq!(write(&mut writer, 5), [3]);
}

pub fn dead_letters_are_shown_retried_and_dropped<B: Backend>(world: &World<B>) {
    refuse(world);
    world.ship(&world.na, &world.eu);
    let mut eu = world.eu.open();
    let letters = eu.rejected(10).expect("rejected");
    assert_eq!(letters.len(), 2);
    assert_eq!(eu.rejected(1).expect("rejected"), letters[..1]);
    let (first, second) = (letters[0].id, letters[1].id);
    assert_ne!(first, second);
    assert_eq!(letters[0].epoch, world.epoch(&world.na));
    assert!(letters[0].at > 1_700_000_000_000_000, "microseconds");
    assert_eq!(
        eu.rejected_get(first).expect("get"),
        Some(letters[0].clone())
    );
    assert_eq!(eu.rejected_get(4711).expect("get"), None);

    let refused = eu.rejected_retry(second).expect_err("refused again");
    assert!(
        matches!(&refused, DbError::Sql { sqlstate, .. } if sqlstate == "23514"),
        "{refused:?}"
    );
    assert_eq!(
        eu.rejected_get(second).expect("get"),
        Some(letters[1].clone()),
        "it stays as it was"
    );
    world
        .sql(&world.eu)
        .run("UPDATE users SET kills = 0 WHERE username = 'steve'");
    assert_eq!(eu.rejected_retry(second), Ok(Retried::Applied(1)));
    assert_eq!(eu.rejected_retry(second), Ok(Retried::Unknown), "once");
    assert_eq!(world.kills_at(&world.eu), 2);
    let untold = eu.refusals("NA", 10).expect("refusals");
    let untold: Vec<_> = untold.into_iter().map(|row| Some(row.seq)).collect();
    assert_eq!(untold, [letters[0].seq], "NA need not undo what is there");
    let row = eu.request(&[1; 16]).expect("request").expect("known");
    assert_eq!(row.state, RequestState::Committed);
    assert_eq!(eu.rejected_drop(first), Ok(true));
    assert_eq!(eu.rejected_drop(first), Ok(false));
    assert_eq!(eu.rejected_drop(second), Ok(false));
    assert_eq!(eu.rejected_retry(4711), Ok(Retried::Unknown));
    let resolution = |db: &mut dyn prism_db::Database, id| {
        let row = db.rejected_get(id).expect("get").expect("kept");
        row.resolution.expect("resolved")
    };
    assert_eq!(resolution(&mut *eu, first), "dropped");
    assert_eq!(resolution(&mut *eu, second), "retried");
    assert_eq!(eu.rejected_count(), Ok(0));
    assert!(world.outbox(&world.eu).is_empty(), "it ran here only");
}

pub fn a_dead_letter_of_the_journal_is_submitted_again<B: Backend>(world: &World<B>) {
    let late = with_id(world.kills(2000), 1);
    let mut na = world.na.open();
    na.request_refused(&late, "23514", "too many", true)
        .expect("recorded");
    let id = na.rejected(10).expect("rejected")[0].id;
    assert!(na.rejected_retry(id).is_err(), "still too many");
    world
        .sql(&world.na)
        .run("UPDATE users SET kills = -5000 WHERE username = 'steve'");
    let retried = na.rejected_retry(id).expect("retried");
    assert!(matches!(&retried, Retried::Submitted(c) if c.seq == Seq(1)));
    let row = na.request(&[1; 16]).expect("request").expect("known");
    assert_eq!(
        (row.seq, row.state),
        (Some(Seq(1)), RequestState::Committed)
    );
    assert_eq!(na.rejected_retry(id), Ok(Retried::Unknown));
    assert_eq!(world.kills_at(&world.na), -3000);
    assert_eq!(world.outbox(&world.na).len(), 1);
}

/// The client has found another region that took it.
pub fn a_dead_letter_whose_request_was_carried_out_elsewhere_is_not_submitted<B: Backend>(
    world: &World<B>,
) {
    let late = with_id(world.kills(2), 1);
    let mut na = world.na.open();
    na.request_refused(&late, "23514", "too many", true)
        .expect("recorded");
    world.submit(&world.eu, &[late]);
    world.ship(&world.eu, &world.na);
    assert_eq!(world.kills_at(&world.na), 2);
    let id = na.rejected(10).expect("rejected")[0].id;
    let again = na.rejected_retry(id).unwrap_err();
    assert!(matches!(&again, DbError::Repeated(_)), "{again:?}");
    world.ship(&world.na, &world.eu);
    assert_eq!(
        (world.kills_at(&world.na), world.kills_at(&world.eu)),
        (2, 2)
    );
}

pub fn an_operator_goes_past_a_parked_update<B: Backend>(world: &World<B>) {
    let bump = world.call("bump", &[text("e")]);
    let batch = [world.append("1"), bump.clone(), world.append("2"), bump];
    world.submit(&world.na, &batch);
    world
        .sql(&world.eu)
        .run("ALTER TABLE extras RENAME TO hidden");
    assert!(world.ship(&world.na, &world.eu).wait.is_some());
    let mut eu = world.eu.open();
    assert_eq!(eu.skip("NA", Seq(1)), Ok(false), "the database is past it");
    assert_eq!(eu.skip("NA", Seq(2)), Ok(true));
    assert_eq!(eu.skip("NA", Seq(2)), Ok(true));
    assert_eq!(eu.skips("NA"), Ok(vec![Seq(2)]));
    assert!(matches!(eu.skip("MARS", Seq(2)), Err(DbError::Schema(_))));
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!(
        outcome.wait.map(|w| w.seq),
        Some(Some(Seq(4))),
        "that one only"
    );
    assert_eq!(outcome.position.map(|p| p.seq), Some(Seq(3)));
    let rejected: Vec<_> = outcome.rejected.iter().map(|r| (r.seq, r.kind)).collect();
    assert_eq!(rejected, [(Seq(2), RejectionKind::Skipped)]);
    assert_eq!(world.trace_at(&world.eu), "1 2");
    assert_eq!(eu.skips("NA"), Ok(vec![]));
    assert_eq!(eu.rejected_count(), Ok(0), "a person has dealt with it");
    let told = eu.refusals("NA", 10).expect("refusals");
    assert_eq!(told.len(), 1, "its origin is told");
    assert_eq!((told[0].seq, told[0].sqlstate.as_str()), (Seq(2), "PR020"));
    // What has been mended meanwhile is executed, whatever was wanted.
    assert_eq!(eu.skip("NA", Seq(4)), Ok(true));
    world
        .sql(&world.eu)
        .run("ALTER TABLE hidden RENAME TO extras");
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!((outcome.executed, outcome.wait), (1, None));
    assert_eq!(world.sql(&world.eu).one("SELECT n FROM extras"), "1");
    assert_eq!(eu.skips("NA"), Ok(vec![]));
}

pub fn an_operator_goes_past_parameters_that_do_not_fit<B: Backend>(world: &World<B>) {
    world.submit(
        &world.na,
        &[world.append("1"), world.append("2"), world.append("3")],
    );
    let mut updates = world.outbox(&world.na);
    let mut strange = Update::decode(&updates[1].1).expect("update");
    strange.params.push(Value::Int(1));
    updates[1].1 = strange.encode();
    let epoch = world.epoch(&world.na);
    let mut eu = world.eu.open();
    let send = || {
        world
            .applier()
            .apply(&mut *world.eu.open(), "NA", epoch, &updates)
    };
    assert_eq!(send().wait.map(|w| w.seq), Some(Some(Seq(2))));
    assert_eq!(eu.skip("NA", Seq(2)), Ok(true));
    let outcome = send();
    assert_eq!((outcome.wait, outcome.rejected.len()), (None, 1));
    assert_eq!(outcome.position.map(|p| p.seq), Some(Seq(3)));
    assert_eq!(send().skipped, 2, "what can be read of the range");
    assert_eq!(world.trace_at(&world.eu), "1 3");
}
