//! Held updates: published, and final in their own region only when every region has them.

use std::time::Duration;

use prism_db::submit::submit;
use prism_db::{
    Database, DbError, ErrorClass, HeldState, RequestState, UndoReason, Undone, Update,
};
use prism_proto::{Position, Seq};

use crate::flaky::Flaky;
use crate::world::{Backend, World, eventually, pattern, with_id};

const LONG: Duration = Duration::from_secs(60);

/// Begins and publishes on two connections; the first one keeps it.
fn hold<B: Backend>(
    world: &World<B>,
    submission: prism_db::Submission,
    limit: Duration,
) -> (Box<dyn Database>, Seq) {
    let mut keeper = world.na.open();
    let held = keeper.held_begin(&submission, limit).expect("executed");
    assert_eq!((held.rows, held.limit), (1, limit));
    let committed = world.na.open().held_publish(&held).expect("published");
    assert!(committed.update.held);
    assert_eq!(committed.update.old, held.old);
    (keeper, committed.seq)
}

pub fn a_held_update_is_final_when_every_region_has_it<B: Backend>(world: &World<B>) {
    let (mut keeper, seq) = hold(world, with_id(world.kills(1), 1), LONG);
    assert_eq!(seq, Seq(1));
    let mut na = world.na.open();
    assert_eq!(
        world.kills_at(&world.na),
        0,
        "not before every region has it"
    );
    assert_eq!(na.held_state(seq), Ok(HeldState::Held));
    let state = |db: &mut dyn Database| db.request(&[1; 16]).expect("request").map(|r| r.state);
    assert_eq!(state(&mut *na), Some(RequestState::Held));
    assert_eq!(na.settle_held(), Ok(vec![]), "it is still held");
    for site in [&world.eu, &world.asia] {
        let outcome = world.ship(&world.na, site);
        assert_eq!((outcome.executed, outcome.wait), (1, None));
        assert_eq!(world.kills_at(site), 1);
    }
    assert_eq!(keeper.held_finish(seq), Ok(true));
    assert_eq!(world.kills_at(&world.na), 1);
    assert_eq!(na.held_state(seq), Ok(HeldState::Final));
    assert_eq!(state(&mut *na), Some(RequestState::Committed));
    assert_eq!(na.held_state(Seq(9)), Ok(HeldState::Unknown));
    assert_eq!(pattern(&submit(&mut *keeper, &[world.kills(1)])), "+");
    // It can be undone as any other; not for what concerns held ones only, which may have crossed
    // with its end.
    let late = na.undo(seq, &UndoReason::Crashed).expect("answer");
    assert!(matches!(late, Undone::Impossible(_)), "{late:?}");
    let reason = UndoReason::Refused {
        region: "EU".to_owned(),
        sqlstate: "23514".to_owned(),
        message: "no".to_owned(),
    };
    let undone = na.undo(seq, &reason).expect("undo");
    assert!(matches!(undone, Undone::Published(_)));
    world.ship_all();
    for site in [&world.na, &world.eu, &world.asia] {
        assert_eq!(world.kills_at(site), 1, "{}", site.region);
    }
}

pub fn a_held_update_that_is_undone_never_becomes_final<B: Backend>(world: &World<B>) {
    let (mut keeper, seq) = hold(world, with_id(world.kills(1), 1), LONG);
    world.ship(&world.na, &world.eu);
    assert_eq!(world.kills_at(&world.eu), 1);
    let mut na = world.na.open();
    let reason = UndoReason::Unconfirmed {
        regions: vec!["AS".into()],
    };
    let undone = na.undo(seq, &reason).expect("undo");
    assert!(matches!(&undone, Undone::Published(c) if c.update.undoes == Some(seq)));
    assert_eq!(na.undo(seq, &reason), Ok(Undone::Before));
    assert_eq!(na.held_state(seq), Ok(HeldState::Undone(reason.clone())));
    assert_eq!(keeper.held_finish(seq), Ok(false));
    let row = na.request(&[1; 16]).expect("request").expect("known");
    assert_eq!(row.state, RequestState::Undone(reason));
    world.ship_all();
    for site in [&world.na, &world.eu, &world.asia] {
        assert_eq!(world.kills_at(site), 0, "{}", site.region);
        assert_eq!(site.open().rejected_count(), Ok(0));
    }
    // The connection goes on, and the one that gives up by itself as well.
    assert_eq!(pattern(&submit(&mut *keeper, &[world.kills(1)])), "+");
    let (mut keeper, seq) = hold(world, world.kills(10), LONG);
    na.undo(seq, &UndoReason::Crashed).expect("undo");
    keeper.held_cancel().expect("rolled back");
    assert_eq!(pattern(&submit(&mut *keeper, &[world.kills(1)])), "+");
    world.ship_all();
    for site in [&world.na, &world.eu, &world.asia] {
        assert_eq!(world.kills_at(site), 2, "{}", site.region);
    }
}

pub fn the_undo_of_a_crashed_held_update_comes_before_later_writes<B: Backend>(world: &World<B>) {
    let limit = Duration::from_millis(400);
    let (keeper, seq) = hold(world, with_id(world.rename("held"), 1), limit);
    // EU has it already when its node dies.
    world.ship(&world.na, &world.eu);
    assert_eq!(world.name_at(&world.eu), "held");
    drop(keeper);
    let mut na = world.na.open();
    eventually("a later write to the same row", || {
        pattern(&submit(&mut *na, &[world.rename("later")])) == "+"
    });
    assert_eq!(
        na.held_state(seq),
        Ok(HeldState::Undone(UndoReason::Crashed))
    );
    let updates = world.outbox(&world.na);
    let undoes: Vec<_> = updates
        .iter()
        .map(|(_, bytes)| Update::decode(bytes).expect("update").undoes)
        .collect();
    assert_eq!(undoes, [None, Some(seq), None]);
    world.ship_all();
    for site in [&world.na, &world.eu, &world.asia] {
        assert_eq!(world.name_at(site), "later", "{}", site.region);
    }
    // Nobody writes: it is settled all the same.
    let (keeper, seq) = hold(world, world.rename("again"), limit);
    drop(keeper);
    let mut settled = Vec::new();
    eventually("somebody settles it", || {
        settled = na.settle_held().expect("settle");
        !settled.is_empty()
    });
    assert_eq!(settled.len(), 1);
    assert_eq!(settled[0].update.undoes, Some(seq));
    world.ship_all();
    assert_eq!(world.name_at(&world.asia), "later");
}

pub fn a_later_write_to_a_held_row_waits<B: Backend>(world: &World<B>) {
    let (mut keeper, seq) = hold(world, world.kills(1), LONG);
    let mut na = world.na.open();
    let answers = submit(&mut *na, &[world.kills(1)]);
    assert_eq!(pattern(&answers), "B", "{answers:?}");
    assert_eq!(keeper.held_finish(seq), Ok(true));
    assert_eq!(pattern(&submit(&mut *na, &[world.kills(1)])), "+");
    assert_eq!(world.kills_at(&world.na), 2);
}

pub fn what_is_refused_or_repeated_is_not_held<B: Backend>(world: &World<B>) {
    let mut db = world.na.open();
    let refused = db
        .held_begin(&world.kills(5000), LONG)
        .expect_err("refused");
    assert!(
        matches!(&refused, DbError::Sql { class: ErrorClass::Refused, sqlstate, .. } if sqlstate == "23514"),
        "{refused:?}"
    );
    world.submit(&world.na, &[with_id(world.kills(1), 1)]);
    let repeated = db.held_begin(&with_id(world.kills(1), 1), LONG);
    let Err(DbError::Repeated(known)) = repeated else {
        panic!("{repeated:?}");
    };
    assert_eq!(known.len(), 1);
    assert_eq!((known[0].index, known[0].row.seq), (0, Some(Seq(1))));
    assert_eq!(known[0].body, known[0].row.body);
    // Nothing is open.
    assert_eq!(pattern(&submit(&mut *db, &[world.kills(1)])), "+");
    assert_eq!(world.kills_at(&world.na), 2);
}

pub fn a_held_update_is_applied_alone<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[world.append("1"), world.append("2")]);
    let (mut keeper, seq) = hold(world, world.kills(1), LONG);
    assert_eq!(keeper.held_finish(seq), Ok(true));
    world.submit(&world.na, &[world.append("3"), world.append("4")]);
    let mut eu = Flaky::new(world.eu.open(), vec![]);
    let (updates, epoch) = (world.outbox(&world.na), world.epoch(&world.na));
    let outcome = world.applier().apply(&mut eu, "NA", epoch, &updates);
    assert_eq!((outcome.executed, outcome.wait), (5, None));
    assert_eq!(eu.applied, [2, 1, 2]);
    assert_eq!(world.kills_at(&world.eu), 1);
}

pub fn a_held_update_is_never_trimmed<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[world.append("1")]);
    let (mut keeper, seq) = hold(world, with_id(world.kills(1), 1), LONG);
    let (_, bytes) = world.outbox(&world.na).pop().expect("update");
    let at = Position {
        epoch: world.epoch(&world.na),
        seq,
        tag: Update::decode(&bytes).expect("update").tag,
    };
    let mut na = world.na.open();
    for peer in ["EU", "AS"] {
        na.lane_acked(peer, at).expect("acked");
    }
    assert_eq!(na.outbox_trim(Duration::ZERO, 100), Ok(1));
    assert_eq!(na.outbox_trim(Duration::ZERO, 100), Ok(0), "held");
    assert_eq!(keeper.held_finish(seq), Ok(true));
    assert_eq!(na.outbox_trim(Duration::ZERO, 100), Ok(1));
}

/// Its client has asked two regions at once; EU has taken it without waiting for anybody.
pub fn a_copy_of_a_held_request_waits_for_its_outcome<B: Backend>(world: &World<B>) {
    for (id, is_final) in [(1, true), (2, false)] {
        let (mut keeper, seq) = hold(world, with_id(world.kills(1), id), LONG);
        world.submit(&world.eu, &[with_id(world.kills(1), id), world.append("e")]);
        let outcome = world.ship(&world.eu, &world.na);
        let wait = outcome.wait.expect("must wait");
        assert_eq!(wait.cause, prism_proto::ApplyCause::Busy, "{wait:?}");
        assert_eq!(outcome.rejected, []);
        // EU skips NA's copy, so that NA gets its answer.
        let outcome = world.ship(&world.na, &world.eu);
        assert_eq!(outcome.wait, None);
        if is_final {
            assert_eq!(keeper.held_finish(seq), Ok(true));
        } else {
            let undone = world.na.open().undo(seq, &UndoReason::Crashed);
            assert!(matches!(undone, Ok(Undone::Published(_))), "{undone:?}");
            assert_eq!(keeper.held_finish(seq), Ok(false));
        }
        world.ship_all();
        for site in [&world.na, &world.eu, &world.asia] {
            assert_eq!(world.kills_at(site), 1, "{}", site.region);
        }
    }
}
