//! Request ids: one effect, one answer, however often and wherever it is asked for.

use std::time::Duration;

use prism_db::submit::{SubmitError, submit};
use prism_db::{RequestRow, RequestState, Value};
use prism_proto::Seq;

use crate::flaky::{Fate, Flaky};
use crate::world::{Answer, Backend, Site, World, pattern, text, with_id};

/// What is said of a repeated one.
fn known(answer: &Answer) -> RequestRow {
    match answer {
        Err(SubmitError::Repeated(row)) => row.clone(),
        other => panic!("{other:?}"),
    }
}

fn state(site: &Site, id: u8) -> Option<RequestState> {
    let row = site.open().request(&[id; 16]).expect("request");
    row.map(|row| row.state)
}

pub fn a_repeated_request_is_answered_and_executed_once<B: Backend>(world: &World<B>) {
    let once = with_id(world.kills(1), 1);
    let first = world.submit(&world.na, std::slice::from_ref(&once));
    assert_eq!(first[0].seq, Seq(1));
    let batch = [
        world.append("1"),
        once.clone(),
        with_id(world.kills(2), 1),
        world.append("2"),
        once,
    ];
    let answers = world.answers(&world.na, &batch);
    assert_eq!(pattern(&answers), "+=!+=");
    for index in [1, 4] {
        let row = known(&answers[index]);
        assert_eq!(
            (row.stream.as_str(), row.seq, row.state),
            ("NA", Some(Seq(1)), RequestState::Committed)
        );
    }
    assert_eq!(world.kills_at(&world.na), 1);
    assert_eq!(world.trace_at(&world.na), "1 2");
    // What is generated differs from try to try.
    assert_eq!(state(&world.na, 2), None);
    // A whole batch once more, as after a restart.
    let again: Vec<_> = (10..60).map(|id| with_id(world.kills(1), id)).collect();
    world.submit(&world.na, &again);
    let answers = world.answers(&world.na, &again);
    assert_eq!(pattern(&answers), "=".repeat(50));
    assert_eq!(world.kills_at(&world.na), 51);
}

pub fn a_request_comes_twice_in_one_batch<B: Backend>(world: &World<B>) {
    let batch = [
        with_id(world.kills(1), 1),
        world.append("1"),
        with_id(world.kills(1), 1),
        with_id(world.kills(2), 1),
        world.append("2"),
        with_id(world.kills(5000), 2),
        with_id(world.kills(5000), 2),
    ];
    let answers = world.answers(&world.na, &batch);
    assert_eq!(pattern(&answers), "++=!+RR");
    assert_eq!(known(&answers[2]).seq, Some(Seq(1)));
    assert_eq!(world.kills_at(&world.na), 1);
    assert_eq!(world.trace_at(&world.na), "1 2");
}

pub fn concurrent_doubles_take_effect_once<B: Backend>(world: &World<B>) {
    const IDS: u8 = 24;
    let mut options = world.na.options.clone();
    options.lock_timeout = Duration::from_secs(30);
    let taken: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = [1usize, 5, 7]
            .into_iter()
            .map(|size| {
                let mut all: Vec<_> = (0..IDS).map(|id| with_id(world.kills(1), id)).collect();
                if size == 5 {
                    all.reverse();
                }
                let (url, options) = (&world.na.url, options.clone());
                scope.spawn(move || {
                    let mut db = prism_db::open(url, options).expect("address");
                    let answers = all.chunks(size).flat_map(|part| submit(&mut *db, part));
                    let taken = answers.filter(|answer| match answer {
                        Ok(_) => true,
                        Err(SubmitError::Repeated(row)) => {
                            assert_eq!(row.state, RequestState::Committed);
                            false
                        }
                        other => panic!("{other:?}"),
                    });
                    taken.count()
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().expect("worker")).sum()
    });
    assert_eq!(taken, usize::from(IDS), "one of them was first, each time");
    assert_eq!(world.kills_at(&world.na), i64::from(IDS));
    assert_eq!(world.outbox(&world.na).len(), usize::from(IDS));
}

pub fn a_request_of_two_regions_takes_effect_once_everywhere<B: Backend>(world: &World<B>) {
    for site in [&world.na, &world.eu] {
        world.submit(
            site,
            &[
                world.append(site.region),
                with_id(world.kills(1), 1),
                world.append(site.region),
            ],
        );
    }
    // The same id for two different things: both are updates of their own, everywhere.
    world.submit(&world.na, &[with_id(world.kills(10), 2)]);
    world.submit(&world.eu, &[with_id(world.kills(20), 2)]);
    // AS hears of them in another order than the two.
    let outcome = world.ship(&world.eu, &world.asia);
    assert_eq!((outcome.executed, outcome.wait), (4, None));
    world.ship_all();
    for site in [&world.na, &world.eu, &world.asia] {
        assert_eq!(world.kills_at(site), 31, "{}", site.region);
        assert_eq!(world.trace_at(site).split(' ').count(), 4);
        assert_eq!(state(site, 1), Some(RequestState::Committed));
        for (_, position) in site.open().positions().expect("positions") {
            assert!(position.seq.0 == 4 || position.seq.0 == 0);
        }
    }
    // Whoever asks there again hears of it too.
    let answers = world.answers(&world.asia, &[with_id(world.kills(1), 1)]);
    assert_eq!(known(&answers[0]).stream, "EU");
    assert_eq!(world.kills_at(&world.asia), 31);
}

pub fn a_request_is_found_after_an_ambiguous_commit<B: Backend>(world: &World<B>) {
    let mut db = Flaky::new(world.na.open(), vec![Fate::Lost, Fate::CommittedUnheard]);
    let once = with_id(world.kills(1), 1);
    let other = with_id(world.kills(1), 2);
    assert_eq!(pattern(&submit(&mut db, std::slice::from_ref(&once))), "+");
    assert_eq!(pattern(&submit(&mut db, std::slice::from_ref(&other))), "U");
    // The callers have not heard of it and ask again.
    let answers = submit(&mut db, &[once, other]);
    assert_eq!(pattern(&answers), "=+");
    assert_eq!(known(&answers[0]).seq, Some(Seq(1)));
    assert_eq!(world.kills_at(&world.na), 2);
}

/// Its undo, which comes behind it, bears the same id.
pub fn a_request_that_was_undone_is_found_itself<B: Backend>(world: &World<B>) {
    let once = with_id(world.kills(1), 1);
    let committed = world.submit(&world.na, &[once]);
    let mut na = world.na.open();
    let reason = prism_db::UndoReason::Refused {
        region: "EU".into(),
        sqlstate: "23514".into(),
        message: String::new(),
    };
    na.undo(Seq(1), &reason).expect("undone");
    let found = na.outbox_find(&[1; 16]).expect("found");
    assert_eq!(found.as_ref(), committed.first());
}

/// Whoever asks meanwhile hears that it was undone: so must the one whose COMMIT got no answer.
pub fn a_request_that_was_undone_after_an_ambiguous_commit_is_told_as_undone<B: Backend>(
    world: &World<B>,
) {
    let once = with_id(world.kills(1), 1);
    world.submit(&world.na, std::slice::from_ref(&once));
    let mut db = Flaky::new(world.na.open(), vec![Fate::Lost]);
    let reason = prism_db::UndoReason::Refused {
        region: "EU".into(),
        sqlstate: "23514".into(),
        message: String::new(),
    };
    db.inner.undo(Seq(1), &reason).expect("undone");
    let answers = submit(&mut db, &[once]);
    assert_eq!(pattern(&answers), "=");
    assert_eq!(known(&answers[0]).state, RequestState::Undone(reason));
    assert_eq!(world.kills_at(&world.na), 0);
}

/// By the time somebody looks, all regions have it, and its row is gone.
pub fn a_request_that_was_trimmed_after_an_ambiguous_commit_is_told_as_committed<B: Backend>(
    world: &World<B>,
) {
    let once = with_id(world.kills(1), 1);
    world.submit(&world.na, std::slice::from_ref(&once));
    world.ship_all();
    let mut db = Flaky::new(world.na.open(), vec![Fate::Lost]);
    let position = world.eu.open().position("NA").expect("position");
    for peer in ["EU", "AS"] {
        db.inner.lane_acked(peer, position).expect("acknowledged");
    }
    assert_eq!(db.inner.outbox_trim(Duration::ZERO, 10).expect("trims"), 1);
    let answers = submit(&mut db, &[once]);
    assert_eq!(pattern(&answers), "=");
    assert_eq!(known(&answers[0]).state, RequestState::Committed);
    assert_eq!(known(&answers[0]).seq, Some(Seq(1)));
    assert_eq!(world.kills_at(&world.na), 1);
}

pub fn a_refused_request_keeps_its_answer<B: Backend>(world: &World<B>) {
    let mut db = world.na.open();
    let (bad, worse) = (with_id(world.kills(5000), 1), with_id(world.kills(5000), 2));
    assert_eq!(pattern(&submit(&mut *db, std::slice::from_ref(&bad))), "R");
    db.request_refused(&bad, "23514", "too many", false)
        .expect("recorded");
    for _ in 0..2 {
        db.request_refused(&worse, "23514", "too many", true)
            .expect("recorded");
    }
    let refused = RequestState::Refused {
        sqlstate: "23514".into(),
        message: "too many".into(),
    };
    // It could be done now, but the caller was told otherwise.
    world
        .sql(&world.na)
        .run("UPDATE users SET kills = -9000 WHERE username = 'steve'");
    let answers = submit(&mut *db, &[bad, worse.clone(), with_id(world.kills(1), 2)]);
    assert_eq!(pattern(&answers), "==!");
    let row = known(&answers[0]);
    assert_eq!((row.seq, &row.state), (None, &refused));
    assert_eq!(world.kills_at(&world.na), -9000);
    let letters = db.rejected(10).expect("rejected");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0].stream.as_str(), letters[0].seq), ("NA", None));
    assert_eq!(letters[0].update.params, worse.params);
    assert_eq!(db.refusals("NA", 10).expect("refusals"), []);
    // What is on record is not overwritten.
    let fine = with_id(world.kills(1), 3);
    submit(&mut *db, std::slice::from_ref(&fine));
    db.request_refused(&fine, "23514", "late", true)
        .expect("nothing");
    assert_eq!(state(&world.na, 3), Some(RequestState::Committed));
    assert_eq!(db.rejected_count().expect("count"), 1);
}

/// NA refuses what EU takes: NA's database lacks it, and that must not be taken for a double.
pub fn a_request_refused_here_and_taken_elsewhere_leaves_a_trace<B: Backend>(world: &World<B>) {
    let user = |id| with_id(world.call("add_user", &[text("zoe"), text("Zoe")]), id);
    world
        .sql(&world.na)
        .run("INSERT INTO users (username, name) VALUES ('zoe', 'mine')");
    let mut na = world.na.open();
    assert_eq!(pattern(&submit(&mut *na, &[user(1)])), "R");
    na.request_refused(&user(1), "23505", "taken", false)
        .expect("recorded");
    world.submit(&world.eu, &[user(1)]);
    let outcome = world.ship(&world.eu, &world.na);
    assert_eq!(outcome.rejected.len(), 1);
    assert_eq!(na.rejected_count().expect("count"), 1);
    assert_eq!(na.refusals("EU", 10).expect("refusals").len(), 1);
    let row = na.request(&[1; 16]).expect("request").expect("known");
    assert_eq!((row.stream.as_str(), row.seq), ("EU", Some(Seq(1))));
    // And where it fits by then, it is executed.
    let note = with_id(world.call("add_note", &[text("n"), text("late")]), 2);
    assert_eq!(pattern(&submit(&mut *na, std::slice::from_ref(&note))), "R");
    na.request_refused(&note, "23503", "nobody", false)
        .expect("recorded");
    for site in [&world.na, &world.eu] {
        world
            .sql(site)
            .run("INSERT INTO users (username) VALUES ('late')");
    }
    world.submit(&world.eu, &[note]);
    assert_eq!(world.ship(&world.eu, &world.na).rejected, []);
    assert_eq!(world.sql(&world.na).one("SELECT count(*) FROM notes"), "1");
    assert_eq!(state(&world.na, 2), Some(RequestState::Committed));
}

pub fn requests_are_forgotten_when_nobody_needs_them<B: Backend>(world: &World<B>) {
    let batch: Vec<_> = (0..5).map(|id| with_id(world.kills(1), id)).collect();
    let committed = world.submit(&world.na, &batch);
    world.ship(&world.na, &world.eu);
    let mut na = world.na.open();
    let requests = na.outbox_figures().expect("figures").requests;
    assert_eq!(requests, 5);
    let trim =
        |db: &mut dyn prism_db::Database, keep, limit| db.request_trim(keep, limit).expect("trim");
    assert_eq!(
        trim(&mut *na, Duration::ZERO, 100),
        0,
        "their updates are in the outbox"
    );
    let at = prism_proto::Position {
        epoch: world.epoch(&world.na),
        seq: Seq(3),
        tag: committed[2].update.tag,
    };
    for peer in ["EU", "AS"] {
        na.lane_acked(peer, at).expect("acked");
    }
    assert_eq!(na.outbox_trim(Duration::ZERO, 100).expect("trim"), 3);
    assert_eq!(trim(&mut *na, Duration::from_secs(3600), 100), 0);
    assert_eq!(trim(&mut *na, Duration::ZERO, 2), 2);
    // Only of what is younger than the oldest one left nothing can have been forgotten.
    assert_eq!(na.requests_reach(Duration::ZERO), Ok(true));
    assert_eq!(na.requests_reach(Duration::from_secs(3600)), Ok(false));
    assert_eq!(trim(&mut *na, Duration::ZERO, 100), 1);
    assert_eq!(na.requests_reach(Duration::ZERO), Ok(false), "kept anyway");
    assert_eq!((state(&world.na, 0), state(&world.na, 2)), (None, None));
    assert_eq!(state(&world.na, 3), Some(RequestState::Committed));
    let mut eu = world.eu.open();
    assert_eq!(trim(&mut *eu, Duration::ZERO, 100), 5, "a peer needs none");
    assert_eq!(
        pattern(&submit(
            &mut *na,
            &[with_id(
                world.call("add_kills", &[text("steve"), Value::Int(1)]),
                4
            )]
        )),
        "="
    );
}
