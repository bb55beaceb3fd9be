//! Applying: once, in order, and what is refused, missing or late.

use prism_db::apply::Applier;
use prism_db::catalogue::OnReject;
use prism_db::{ApplyReport, ApplyRequest, DbError, Drift, Update, Value};
use prism_proto::{ApplyCause, Epoch, Position, RefusalClass, Seq, Tag};

use crate::flaky::{Fate, Flaky};
use crate::world::{Backend, Site, World, items, text};

fn position(at: &Site, stream: &Site) -> Position {
    at.open().position(stream.region).expect("position")
}

pub fn two_appliers_race_and_every_update_takes_effect_once<B: Backend>(world: &World<B>) {
    const UPDATES: u64 = 120;
    let batch: Vec<_> = (0..UPDATES)
        .map(|n| match n % 3 {
            0 => world.append(&n.to_string()),
            _ => world.kills(1),
        })
        .collect();
    world.submit(&world.na, &batch);
    let (updates, epoch) = (world.outbox(&world.na), world.epoch(&world.na));
    let mut options = world.eu.options.clone();
    options.lock_timeout = std::time::Duration::from_secs(30);
    let executed: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = [7usize, 16]
            .into_iter()
            .map(|size| {
                let (updates, options, world_na) = (&updates, options.clone(), world.na.region);
                let (url, mut applier) = (&world.eu.url, world.applier());
                scope.spawn(move || {
                    let mut db = prism_db::open(url, options).expect("address");
                    let mut executed = 0;
                    // Each sends every range twice.
                    for chunk in updates.chunks(size) {
                        for _ in 0..2 {
                            let done = applier.apply(&mut *db, world_na, epoch, chunk);
                            assert_eq!(done.wait, None);
                            assert!(done.drift.is_empty() && done.rejected.is_empty());
                            executed += done.executed;
                        }
                    }
                    executed
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().expect("worker")).sum()
    });
    assert_eq!(executed, UPDATES, "each was executed by one of them");
    assert_eq!(position(&world.eu, &world.na).seq, Seq(UPDATES));
    assert_eq!(world.kills_at(&world.eu), world.kills_at(&world.na));
    assert_eq!(world.trace_at(&world.eu), world.trace_at(&world.na));
}

pub fn a_gap_writes_nothing_and_tells_the_position<B: Backend>(world: &World<B>) {
    world.submit(
        &world.na,
        &[
            world.kills(1),
            world.kills(1),
            world.kills(1),
            world.kills(1),
        ],
    );
    let (updates, epoch) = (world.outbox(&world.na), world.epoch(&world.na));
    let mut db = world.eu.open();
    let mut send = |range: std::ops::Range<usize>| {
        world
            .applier()
            .apply(&mut *db, "NA", epoch, &updates[range])
    };
    let gap = send(1..3);
    assert_eq!(
        (gap.position, gap.executed, gap.wait),
        (Some(Position::default()), 0, None)
    );
    assert_eq!(world.kills_at(&world.eu), 0);
    assert_eq!(send(0..1).executed, 1);
    let gap = send(2..4);
    assert_eq!(
        (gap.position.map(|p| p.seq), gap.executed),
        (Some(Seq(1)), 0)
    );
    // Overlapping: what is there is skipped.
    let rest = send(0..4);
    assert_eq!((rest.executed, rest.skipped), (3, 1));
    assert_eq!(world.kills_at(&world.eu), 4);
    // A hole inside a batch is a gap as well, never a jump.
    world.submit(&world.na, &[world.kills(1), world.kills(1), world.kills(1)]);
    let mut holed = items(&world.outbox(&world.na)[4..]);
    holed.remove(1);
    let request = ApplyRequest {
        stream: "NA",
        epoch,
        items: &holed,
        ignore_dependencies: false,
    };
    let report = world.eu.open().apply(&request).expect("gap");
    assert!(matches!(report, ApplyReport::Gap { position } if position.seq == Seq(4)));
    assert_eq!(world.kills_at(&world.eu), 4);
}

pub fn another_epoch_or_another_tag_is_a_fork<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[world.kills(1), world.kills(1), world.kills(1)]);
    let (updates, epoch) = (world.outbox(&world.na), world.epoch(&world.na));
    let mut db = world.eu.open();
    world.applier().apply(&mut *db, "NA", epoch, &updates[..2]);

    let other = world
        .applier()
        .apply(&mut *db, "NA", Epoch(epoch.0 ^ 1), &updates[2..]);
    let wait = other.wait.expect("another epoch");
    assert_eq!(wait.cause, ApplyCause::Forked);
    assert!(wait.remedy.contains("prism adopt"), "{wait:?}");

    let forge = |change: fn(&mut Update), index: usize| {
        let mut update = Update::decode(&updates[index].1).expect("update");
        change(&mut update);
        (updates[index].0, update.encode())
    };
    // The same seq with another tag; the next one on another predecessor.
    for forged in [
        forge(|update| update.tag = Tag(update.tag.0 ^ 1), 1),
        forge(|update| update.prev_tag = Tag(update.prev_tag.0 ^ 1), 2),
    ] {
        let outcome = world.applier().apply(&mut *db, "NA", epoch, &[forged]);
        assert_eq!(outcome.wait.map(|w| w.cause), Some(ApplyCause::Forked));
        assert_eq!(outcome.executed, 0);
    }
    assert_eq!(world.kills_at(&world.eu), 2);
    assert_eq!(world.ship(&world.na, &world.eu).executed, 1);
    let unknown = db.position("nowhere");
    assert!(matches!(unknown, Err(DbError::Schema(_))), "{unknown:?}");
}

pub fn a_refused_update_is_recorded_and_the_others_are_applied<B: Backend>(world: &World<B>) {
    // EU has a user whom NA is about to add, and less room for kills.
    world.sql(&world.eu).run(
        "INSERT INTO users (username, name) VALUES ('herobrine', 'EU');
         UPDATE users SET kills = 995 WHERE username = 'steve'",
    );
    let batch = [
        world.append("1"),
        world.kills(10),
        world.append("2"),
        world.call("add_user", &[text("herobrine"), text("NA")]),
        world.append("3"),
    ];
    world.submit(&world.na, &batch);
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!(outcome.wait, None);
    assert_eq!((outcome.executed, outcome.skipped), (5, 0));
    assert_eq!(outcome.position.map(|p| p.seq), Some(Seq(5)));
    let refused: Vec<_> = outcome
        .rejected
        .iter()
        .map(|r| {
            (
                r.seq.0,
                r.sqlstate.as_str(),
                r.statement.as_deref(),
                r.on_reject,
                r.class,
            )
        })
        .collect();
    let constraint = RefusalClass::Constraint;
    assert_eq!(
        refused,
        [
            (2, "23514", Some("add_kills"), OnReject::Undo, constraint),
            (
                4,
                "23505",
                Some("add_user"),
                OnReject::DeadLetter,
                constraint
            ),
        ]
    );
    assert_eq!(world.trace_at(&world.eu), "1 2 3");
    assert_eq!(world.kills_at(&world.eu), 995);

    let mut db = world.eu.open();
    assert_eq!(db.rejected_count().expect("count"), 2);
    let rows = db.rejected(10).expect("rejected");
    let rows: Vec<_> = rows
        .iter()
        .map(|r| {
            (
                r.stream.as_str(),
                r.seq.map_or(0, |seq| seq.0),
                &r.update.params,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [("NA", 2, &batch[1].params), ("NA", 4, &batch[3].params)]
    );
    // Sent again: nothing more happens, and nothing is recorded twice.
    let again = world.ship(&world.na, &world.eu);
    assert_eq!(
        (again.executed, again.skipped, again.rejected.len()),
        (0, 5, 0)
    );
    assert_eq!(db.rejected_count().expect("count"), 2);
}

pub fn every_update_refused<B: Backend>(world: &World<B>) {
    world.sql(&world.eu).run("UPDATE users SET kills = 999");
    let batch: Vec<_> = (0..20).map(|_| world.kills(1)).collect();
    world.submit(&world.na, &batch);
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!((outcome.rejected.len(), outcome.wait), (20, None));
    assert_eq!(outcome.position.map(|p| p.seq), Some(Seq(20)));
    assert_eq!(world.kills_at(&world.eu), 999);
}

pub fn a_deferred_constraint_finds_its_offender<B: Backend>(world: &World<B>) {
    let later = |id: &str, user: &str| world.call("add_later", &[text(id), text(user)]);
    world.submit(
        &world.na,
        &[
            world.append("1"),
            later("x", "steve"),
            later("y", "alex"),
            world.append("2"),
        ],
    );
    // `alex` is gone at EU by a hand from outside: nothing that prism knows of.
    world
        .sql(&world.eu)
        .run("DELETE FROM users WHERE username = 'alex'");
    let outcome = world.ship(&world.na, &world.eu);
    let refused: Vec<_> = outcome
        .rejected
        .iter()
        .map(|r| (r.seq.0, r.sqlstate.as_str()))
        .collect();
    assert_eq!(refused, [(3, "23503")]);
    assert_eq!(
        (outcome.wait, outcome.position.map(|p| p.seq)),
        (None, Some(Seq(4)))
    );
    assert_eq!(world.trace_at(&world.eu), "1 2");
    assert_eq!(world.sql(&world.eu).one("SELECT id FROM later"), "x");
}

pub fn a_different_row_count_is_drift<B: Backend>(world: &World<B>) {
    world
        .sql(&world.eu)
        .run("DELETE FROM users WHERE username = 'steve'");
    world.submit(
        &world.na,
        &[world.append("1"), world.kills(1), world.append("2")],
    );
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!(
        outcome.drift,
        [Drift {
            seq: Seq(2),
            expected: 1,
            actual: 0
        }]
    );
    assert_eq!((outcome.executed, outcome.wait), (3, None));
    assert_eq!(world.trace_at(&world.eu), "1 2");
}

/// AS adds a row, NA sees it and updates it; EU hears of NA's update first.
pub fn a_missing_row_that_another_stream_brings_is_waited_for<B: Backend>(world: &World<B>) {
    world.submit(
        &world.asia,
        &[
            world.append("as"),
            world.call("add_user", &[text("zoe"), text("Zoe")]),
        ],
    );
    world.ship(&world.asia, &world.na);
    let kill = world.call("add_kills", &[text("zoe"), Value::Int(3)]);
    world.submit(&world.na, &[world.append("1"), kill, world.append("2")]);

    let mut applier = world.applier();
    let (updates, epoch) = (world.outbox(&world.na), world.epoch(&world.na));
    let mut db = world.eu.open();
    let mut pauses = Vec::new();
    for round in 0..3 {
        let outcome = applier.apply(&mut *db, "NA", epoch, &updates);
        let wait = outcome.wait.expect("must wait");
        assert_eq!(
            (wait.cause, wait.seq),
            (ApplyCause::Dependency, Some(Seq(2)))
        );
        assert!(wait.detail.contains("update 2 of AS"), "{}", wait.detail);
        assert_eq!(
            outcome.executed,
            u64::from(round == 0),
            "what does not depend goes on"
        );
        assert_eq!(outcome.position.map(|p| p.seq), Some(Seq(1)));
        pauses.push(wait.retry_after);
    }
    assert!(pauses[0] < pauses[1] && pauses[1] < pauses[2], "{pauses:?}");
    world.ship(&world.asia, &world.eu);
    let outcome = applier.apply(&mut *db, "NA", epoch, &updates);
    assert_eq!(
        (outcome.executed, outcome.wait, outcome.drift),
        (2, None, vec![])
    );
    assert_eq!(
        world
            .sql(&world.eu)
            .one("SELECT kills FROM users WHERE username = 'zoe'"),
        "3"
    );
    assert_eq!(db.rejected_count().expect("count"), 0);
}

pub fn a_missing_reference_that_another_stream_brings_is_waited_for<B: Backend>(world: &World<B>) {
    world.submit(
        &world.asia,
        &[world.call("add_user", &[text("zoe"), text("Zoe")])],
    );
    world.ship(&world.asia, &world.na);
    world.submit(
        &world.na,
        &[
            world.call("add_note", &[text("n"), text("zoe")]),
            world.append("1"),
        ],
    );
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!(
        outcome.wait.map(|w| (w.cause, w.seq)),
        Some((ApplyCause::Dependency, Some(Seq(1))))
    );
    assert_eq!((outcome.executed, outcome.rejected), (0, vec![]));
    // The wait can be given up: then it is a refusal.
    let epoch = world.epoch(&world.na);
    let all = items(&world.outbox(&world.na));
    let request = ApplyRequest {
        stream: "NA",
        epoch,
        items: &all,
        ignore_dependencies: true,
    };
    let given_up = world.eu.open().apply(&request).expect_err("refused");
    assert!(
        matches!(given_up, DbError::Sql { index: Some(0), ref sqlstate, .. } if sqlstate == "23503"),
        "{given_up:?}"
    );
    world.ship(&world.asia, &world.eu);
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!((outcome.executed, outcome.wait), (2, None));
    assert_eq!(world.sql(&world.eu).one("SELECT count(*) FROM notes"), "1");
}

/// The same with a constraint that is judged at COMMIT, where nobody names the offender.
pub fn a_missing_deferred_reference_that_another_stream_brings_is_waited_for<B: Backend>(
    world: &World<B>,
) {
    world.submit(
        &world.asia,
        &[world.call("add_user", &[text("zoe"), text("Zoe")])],
    );
    world.ship(&world.asia, &world.na);
    let later = world.call("add_later", &[text("n"), text("zoe")]);
    world.submit(&world.na, &[world.append("1"), later, world.append("2")]);
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!(outcome.rejected, []);
    let wait = outcome.wait.expect("must wait");
    assert_eq!(
        (wait.cause, wait.seq),
        (ApplyCause::Dependency, Some(Seq(2)))
    );
    world.ship(&world.asia, &world.eu);
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!((outcome.wait, outcome.rejected), (None, vec![]));
    assert_eq!(world.trace_at(&world.eu), "1 2");
    assert_eq!(
        world.sql(&world.eu).one("SELECT username FROM later"),
        "zoe"
    );
}

pub fn a_missing_table_parks_the_stream_and_rejects_nothing<B: Backend>(world: &World<B>) {
    let bump = world.call("bump", &[text("e")]);
    world.submit(&world.na, &[world.append("1"), bump, world.append("2")]);
    let mut eu = world.sql(&world.eu);
    eu.run("ALTER TABLE extras RENAME TO hidden");
    for executed in [1, 0] {
        let outcome = world.ship(&world.na, &world.eu);
        let wait = outcome.wait.expect("parked");
        assert_eq!((wait.cause, wait.seq), (ApplyCause::Parked, Some(Seq(2))));
        assert!(
            wait.detail.contains("extras") && wait.detail.contains("bump"),
            "{}",
            wait.detail
        );
        assert!(!wait.remedy.is_empty());
        assert_eq!(
            (outcome.executed, outcome.position.map(|p| p.seq)),
            (executed, Some(Seq(1)))
        );
        assert!(outcome.rejected.is_empty());
    }
    assert_eq!(world.trace_at(&world.eu), "1");
    eu.run("ALTER TABLE hidden RENAME TO extras");
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!((outcome.executed, outcome.wait), (2, None));
    assert_eq!(eu.one("SELECT n FROM extras"), "1");
    assert_eq!(world.eu.open().rejected_count().expect("count"), 0);
}

pub fn a_lock_is_waited_for_and_nothing_is_rejected<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[world.kills(1), world.append("1")]);
    let mut other = world.sql(&world.eu);
    other.hold_users();
    let outcome = world.ship(&world.na, &world.eu);
    let wait = outcome.wait.expect("busy");
    assert_eq!(wait.cause, ApplyCause::Busy, "{wait:?}");
    assert!(wait.retry_after < std::time::Duration::from_secs(1));
    assert_eq!(outcome.executed, 0);
    other.let_go();
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!((outcome.executed, outcome.wait), (2, None));
    assert_eq!(world.kills_at(&world.eu), 1);
    assert_eq!(world.eu.open().rejected_count().expect("count"), 0);
}

pub fn interleaved_statements_run_in_seq_order<B: Backend>(world: &World<B>) {
    let batch: Vec<_> = (0..100)
        .map(|n: i32| match n % 4 {
            0 | 3 => world.append(&n.to_string()),
            1 => world.call("bracket", &[text("t"), text(&n.to_string())]),
            _ => world.call("rename", &[text("steve"), text(&n.to_string())]),
        })
        .collect();
    world.submit(&world.na, &batch);
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!((outcome.executed, outcome.wait), (100, None));
    let expected: Vec<_> = (0..100)
        .filter_map(|n| match n % 4 {
            0 | 3 => Some(n.to_string()),
            1 => Some(format!("<{n}>")),
            _ => None,
        })
        .collect();
    for site in [&world.na, &world.eu] {
        assert_eq!(world.trace_at(site), expected.join(" "), "{}", site.region);
        assert_eq!(
            world
                .sql(site)
                .one("SELECT name FROM users WHERE username = 'steve'"),
            "98"
        );
    }
}

/// Rewrites an update to name another statement version.
fn with_statement(bytes: &[u8], digest: prism_db::Digest) -> Vec<u8> {
    let mut update = Update::decode(bytes).expect("update");
    update.statement = digest;
    update.encode()
}

pub fn an_unknown_statement_waits<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[world.append("1"), world.append("2")]);
    let mut updates = world.outbox(&world.na);
    updates[1].1 = with_statement(&updates[1].1, prism_db::Digest([9; 16]));
    let outcome = world.applier().apply(
        &mut *world.eu.open(),
        "NA",
        world.epoch(&world.na),
        &updates,
    );
    let wait = outcome.wait.expect("parked");
    assert_eq!((wait.cause, wait.seq), (ApplyCause::Parked, Some(Seq(2))));
    assert!(
        wait.detail.contains("unknown statement version"),
        "{wait:?}"
    );
    assert!(wait.remedy.contains("prism.toml"), "{wait:?}");
    assert_eq!((outcome.executed, outcome.rejected.len()), (1, 0));
}

/// A node of the stream's region that lies, or whose memory is damaged.
pub fn bytes_that_are_no_update_wait_and_say_so<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[world.kills(1), world.kills(2), world.kills(4)]);
    let good = world.outbox(&world.na);
    let middle = good[1].1.clone();
    let epoch = world.epoch(&world.na);
    let change = |with: &dyn Fn(&mut Update)| {
        let mut update = Update::decode(&middle).expect("update");
        with(&mut update);
        update.encode()
    };
    let hostile = [
        Vec::new(),
        vec![0xFF; 300],
        middle[..middle.len() - 1].to_vec(),
        [middle.as_slice(), &[0]].concat(),
        change(&|u| u.params[1] = Value::Float(f64::NAN)),
        change(&|u| u.params[0] = text("a\0b")),
        change(&|u| u.params[1] = Value::Timestamp(i64::MAX)),
        change(&|u| u.params[1] = Value::Json("\"\\u0000\"".into())),
        change(&|u| u.params[1] = Value::Json("1e99999".into())),
        change(&|u| u.params[1] = Value::Decimal("1e1000000000".into())),
        change(&|u| u.params[1] = Value::Decimal("NaN".into())),
        change(&|u| u.params.clear()),
        change(&|u| u.params = vec![Value::Null; 10_000]),
        change(&|u| u.hlc = prism_db::Hlc(i64::MAX as u64)),
        change(&|u| u.hlc = prism_db::Hlc(u64::MAX)),
    ];
    for bytes in hostile {
        let mut updates = good.clone();
        updates[1].1 = bytes;
        let outcome = world
            .applier()
            .apply(&mut *world.eu.open(), "NA", epoch, &updates);
        let wait = outcome.wait.expect("parked");
        assert_eq!((wait.cause, wait.seq), (ApplyCause::Parked, Some(Seq(2))));
        assert!(!wait.remedy.is_empty() && !wait.detail.is_empty());
        assert_eq!(world.kills_at(&world.eu), 1);
    }
    // Its own updates go on: no number in it has moved the region's clock to the end.
    world.submit(&world.eu, &[world.append("x")]);
    // The true one is taken as if nothing had been.
    assert_eq!(world.ship(&world.na, &world.eu).wait, None);
    assert_eq!(world.kills_at(&world.eu), 7);
}

pub fn an_older_version_of_a_statement_is_still_applied<B: Backend>(world: &World<B>) {
    use prism_db::catalogue::Catalogue;
    world.submit(&world.na, &[world.append("1")]);
    // EU's nodes run a newer configuration, without the statement.
    let mut options = world.eu.options.clone();
    options.catalogue = std::sync::Arc::new(Catalogue::default());
    let mut db = prism_db::open(&world.eu.url, options.clone()).expect("address");
    let mut applier = Applier::new(options.catalogue, std::sync::Arc::clone(&world.regions));
    let outcome = applier.apply(
        &mut *db,
        "NA",
        world.epoch(&world.na),
        &world.outbox(&world.na),
    );
    assert_eq!((outcome.executed, outcome.wait), (1, None));
    assert_eq!(world.trace_at(&world.eu), "1");
}

pub fn an_ambiguous_commit_is_looked_up<B: Backend>(world: &World<B>) {
    let batch = [1, 1, 5, 1].map(|n| world.kills(n));
    world.submit(&world.na, &batch);
    let (updates, epoch) = (world.outbox(&world.na), world.epoch(&world.na));
    // Taken from the end: the first attempt finds the refusal, the second commits.
    for (site, fate) in [
        (&world.eu, Fate::Lost),
        (&world.asia, Fate::CommittedUnheard),
    ] {
        world
            .sql(site)
            .run("UPDATE users SET kills = 994 WHERE username = 'steve'");
        let mut db = Flaky::new(site.open(), vec![fate, Fate::Fine]);
        let outcome = world.applier().apply(&mut db, "NA", epoch, &updates);
        assert_eq!(outcome.wait, None);
        assert_eq!(outcome.position.map(|p| p.seq), Some(Seq(4)));
        assert_eq!(world.kills_at(site), 997, "once each, the third refused");
        let rejected: Vec<_> = outcome.rejected.iter().map(|r| r.seq.0).collect();
        assert_eq!(rejected, [3], "reported although the answer was lost");
        assert_eq!(site.open().rejected_count().expect("count"), 1);
    }
    world.submit(&world.na, &[world.kills(1)]);
    let mut broken = Flaky::new(world.eu.open(), vec![Fate::Lost; 9]);
    let updates = world.outbox(&world.na);
    let mut applier = world.applier();
    let outcome = applier.apply(&mut broken, "NA", epoch, &updates);
    let cause = outcome.wait.map(|w| w.cause);
    assert_eq!(cause, Some(ApplyCause::Unreachable));
    // That it has lasted does not make the next trouble's pause any longer.
    applier.apply(&mut broken, "NA", epoch, &updates);
    let other = Epoch(epoch.0 ^ 1);
    let mut pause = |mut applier: Applier| {
        let outcome = applier.apply(&mut *broken.inner, "NA", other, &updates);
        outcome.wait.map(|wait| wait.retry_after)
    };
    assert_eq!(pause(applier), pause(world.applier()));
}

pub fn malformed_bytes_park_the_stream_behind_what_is_good<B: Backend>(world: &World<B>) {
    world.submit(
        &world.na,
        &[world.append("1"), world.append("2"), world.append("3")],
    );
    let mut updates = world.outbox(&world.na);
    let good = updates[1].1.clone();
    let mut newer = good.clone();
    newer[0] = 99;
    let mut strange = Update::decode(&good).expect("update");
    strange.params.push(Value::Int(1));
    let epoch = world.epoch(&world.na);
    for (bytes, word) in [
        (vec![1, 2, 3], "malformed"),
        (newer, "version 99"),
        (strange.encode(), "do not fit"),
    ] {
        updates[1].1 = bytes;
        let outcome = world
            .applier()
            .apply(&mut *world.eu.open(), "NA", epoch, &updates);
        let wait = outcome.wait.expect("parked");
        assert_eq!((wait.cause, wait.seq), (ApplyCause::Parked, Some(Seq(2))));
        assert!(
            wait.detail.contains(word) && !wait.remedy.is_empty(),
            "{wait:?}"
        );
        assert_eq!(outcome.position.map(|p| p.seq), Some(Seq(1)));
    }
    updates[1].1 = good;
    let outcome = world
        .applier()
        .apply(&mut *world.eu.open(), "NA", epoch, &updates);
    assert_eq!(
        (outcome.executed, outcome.skipped, outcome.wait),
        (2, 1, None)
    );
    assert_eq!(world.trace_at(&world.eu), "1 2 3");
}
