//! The PostgreSQL backend when servers die, stop, lose connections, and when others want the same
//! rows at the same time. Every update adds 1, so that once more or once less is seen.
#![cfg(unix)]

mod pg;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg::proxy::{Cut, Proxy};
use pg::*;
use prism_db::apply::Applier;
use prism_db::throwaway::Cluster;
use prism_db::{ApplyItem, ApplyReport, DbError, ErrorClass, Submission, Value};
use prism_proto::{Epoch, Seq};

const KILLS: &str = "SELECT kills FROM users WHERE id = 1";

/// A user with no kills in every region, and a stream of `n` updates of NA that each add one.
fn stream_of(na: &mut Region, n: u64) -> (Epoch, Vec<ApplyItem>) {
    let mut batch = vec![user(1)];
    batch.extend((0..n).map(|_| kills(1, 1)));
    let committed = na.db.submit(&batch).unwrap();
    (na.epoch(), items(&committed))
}

#[test]
fn numbers_are_in_the_order_of_commits_and_of_visibility() {
    const THREADS: u64 = 4;
    const EACH: u64 = 40;
    let mut na = Region::new(shared(), "order_na", "NA");
    for id in 1..=THREADS as i64 {
        na.db.submit(&[user(id)]).unwrap();
    }
    let writing = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let (mut db, writing_still) = (na.another(), &writing);
        let reader = scope.spawn(move || {
            // What was visible once stays, and nothing appears below it later.
            let (mut last, mut reads) = (Seq(0), 0);
            let mut finishing = false;
            loop {
                let mut expected = last.next();
                last = db
                    .outbox_read(last.next(), Seq(u64::MAX >> 1), 1 << 24, &mut |seq, _| {
                        assert_eq!(seq, expected);
                        expected = seq.next();
                    })
                    .unwrap();
                reads += 1;
                if finishing {
                    return (last, reads);
                }
                finishing = !writing_still.load(Ordering::SeqCst);
            }
        });
        let writers: Vec<_> = (1..=THREADS as i64)
            .map(|id| {
                let mut db = na.another();
                scope.spawn(move || {
                    for n in 0..EACH {
                        // Different rows at different times: only the numbering brings them in order.
                        let batch: Vec<_> = (0..=n % 3).map(|_| kills(id, 1)).collect();
                        let committed = db.submit(&batch).unwrap();
                        for pair in committed.windows(2) {
                            assert_eq!(pair[1].seq, pair[0].seq.next());
                        }
                    }
                })
            })
            .collect();
        let ends: Vec<_> = writers.into_iter().map(|w| w.join()).collect();
        writing.store(false, Ordering::SeqCst);
        assert!(ends.iter().all(Result::is_ok), "a submit failed");
        let (last, reads) = reader.join().unwrap();
        let total = na.number("SELECT sum(kills)::bigint FROM users");
        assert_eq!(last.0, THREADS + total.cast_unsigned());
        assert!(reads > 2, "the reader saw only the end");
    });
    // The chain of tags, over all threads.
    let breaks = na.number(
        "SELECT count(*) FROM (SELECT prev_tag, lag(tag, 1, 0) OVER (ORDER BY seq) AS tag
                               FROM prism.outbox) x WHERE prev_tag <> tag",
    );
    assert_eq!(breaks, 0);
}

#[test]
fn two_appliers_at_once_apply_once() {
    let mut na = Region::new(shared(), "race_na", "NA");
    let mut eu = Region::new(shared(), "race_eu", "EU");
    let (epoch, items) = stream_of(&mut na, 300);
    let executed: u64 = std::thread::scope(|scope| {
        let appliers: Vec<_> = (0..3)
            .map(|n| {
                let (mut db, items) = (eu.another(), &items);
                scope.spawn(move || {
                    let mut executed = 0;
                    // Overlapping, unequal batches.
                    let mut from = 0;
                    while from < items.len() {
                        let to = (from + 5 + n).min(items.len());
                        match apply(&mut *db, "NA", epoch, &items[from..to]) {
                            Ok(ApplyReport::Done {
                                position,
                                executed: e,
                                ..
                            }) => {
                                executed += e;
                                from = usize::try_from(position.seq.0).unwrap();
                            }
                            Err(DbError::Sql {
                                class: ErrorClass::Transient,
                                ..
                            }) => {}
                            other => panic!("{other:?}"),
                        }
                    }
                    executed
                })
            })
            .collect();
        appliers.into_iter().map(|a| a.join().unwrap()).sum()
    });
    assert_eq!(executed, 301);
    assert_eq!(eu.number(KILLS), 300);
    assert_eq!(eu.db.position("NA").unwrap().seq, Seq(301));
}

/// Server process that waits for a lock in database `name`.
fn waiting_backend(cluster: &Cluster, name: &str) -> Option<Pid> {
    let mut admin = cluster.admin("postgres").unwrap();
    let row = admin
        .query_opt(
            "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'",
            &[&name],
        )
        .unwrap();
    row.map(|row| Pid::from_raw(row.get(0)))
}

#[test]
fn an_applier_stopped_in_the_middle_of_its_apply_and_continued_applies_nothing_twice() {
    let mut na = Region::new(shared(), "stopped_na", "NA");
    let mut eu = Region::new(shared(), "stopped_eu", "EU");
    let (epoch, items) = stream_of(&mut na, 20);
    apply(&mut *eu.db, "NA", epoch, &items[..1]).unwrap();
    // An application's transaction makes the first applier wait in its middle.
    let mut application = eu.sql();
    let mut transaction = application.transaction().unwrap();
    transaction
        .execute("SELECT * FROM users WHERE id = 1 FOR UPDATE", &[])
        .unwrap();
    let mut slow_options = options("EU");
    slow_options.lock_timeout = Duration::from_secs(30);
    slow_options.statement_timeout = Duration::from_secs(2);
    let mut slow = open(&eu.url, slow_options);
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| apply(&mut *slow, "NA", epoch, &items[1..]));
        let mut backend = None;
        until("the applier waits", || {
            backend = waiting_backend(shared(), "stopped_eu");
            backend.is_some()
        });
        let backend = backend.unwrap();
        kill(backend, Signal::SIGSTOP).unwrap();
        transaction.rollback().unwrap();
        // It holds the watermark: the direct writer does not get past it, and says so.
        let blocked = apply(&mut *eu.db, "NA", epoch, &items[1..]);
        assert!(
            matches!(&blocked, Err(DbError::Sql { class: ErrorClass::Transient, sqlstate, .. })
                if sqlstate == "55P03"),
            "{blocked:?}"
        );
        let given_up = stopped.join().unwrap();
        assert!(
            matches!(given_up, Err(DbError::Unreachable(_))),
            "{given_up:?}"
        );
        kill(backend, Signal::SIGCONT).unwrap();
        until("the direct writer gets through", || {
            match apply(&mut *eu.db, "NA", epoch, &items[1..]) {
                Ok(report) => {
                    matches!(report, ApplyReport::Done { position, .. } if position.seq == Seq(21))
                }
                Err(DbError::Sql {
                    class: ErrorClass::Transient,
                    ..
                }) => false,
                Err(error) => panic!("{error:?}"),
            }
        });
    });
    assert_done(
        &apply(&mut *slow, "NA", epoch, &items[1..]).unwrap(),
        21,
        0,
        20,
    );
    assert_eq!(eu.number(KILLS), 20);
}

#[test]
fn a_lock_of_the_application_is_transient_and_named() {
    let mut na = Region::new(shared(), "lock_na", "NA");
    let mut eu = Region::new(shared(), "lock_eu", "EU");
    let committed = na
        .db
        .submit(&[user(1), user(2), kills(2, 1), kills(1, 1)])
        .unwrap();
    let items = items(&committed);
    let epoch = na.epoch();
    apply(&mut *eu.db, "NA", epoch, &items[..2]).unwrap();
    let transient = |error: &DbError, state: &str, at: usize| {
        assert!(
            matches!(error, DbError::Sql { class: ErrorClass::Transient, sqlstate, index: Some(i), .. }
                if sqlstate == state && *i == at),
            "{error:?}"
        );
    };
    for region in [&mut na, &mut eu] {
        let mut application = region.sql();
        let mut transaction = application.transaction().unwrap();
        transaction
            .execute("UPDATE users SET name = 'x' WHERE id = 1", &[])
            .unwrap();
        if region.name == "NA" {
            transient(
                &region.db.submit(&[kills(2, 1), kills(1, 1)]).unwrap_err(),
                "55P03",
                1,
            );
        } else {
            let error = apply(&mut *region.db, "NA", epoch, &items[2..]).unwrap_err();
            transient(&error, "55P03", 1);
        }
    }
    // A deadlock: the application's second update waits for ours, ours for its first.
    let mut patient = options("EU");
    patient.lock_timeout = Duration::from_secs(30);
    let mut db = open(&eu.url, patient);
    let mut application = eu.sql();
    application
        .batch_execute("SET deadlock_timeout = '10s'")
        .ok();
    std::thread::scope(|scope| {
        let mut transaction = application.transaction().unwrap();
        transaction
            .execute("UPDATE users SET name = 'x' WHERE id = 1", &[])
            .unwrap();
        let applying = scope.spawn(|| apply(&mut *db, "NA", epoch, &items[2..]));
        until("the applier waits", || {
            waiting_backend(shared(), "lock_eu").is_some()
        });
        let theirs = transaction.execute("UPDATE users SET name = 'x' WHERE id = 2", &[]);
        let ours = applying.join().unwrap();
        // Either may be the victim.
        match ours {
            Err(error) => transient(&error, "40P01", 1),
            Ok(_) => assert!(theirs.is_err()),
        }
    });
    assert_eq!(eu.db.rejected_count().unwrap(), 0);
    apply(&mut *eu.db, "NA", epoch, &items[2..]).unwrap();
    assert_eq!(eu.number("SELECT sum(kills)::bigint FROM users"), 2);
}

#[test]
fn a_commit_whose_answer_is_lost_is_looked_up() {
    let mut na = Region::new(shared(), "cut_na", "NA");
    na.db.submit(&[user(1)]).unwrap();
    let proxy = Proxy::to(shared().port());
    let url = na
        .url
        .replace(&shared().port().to_string(), &proxy.port.to_string());
    let mut db = open(&url, options("NA"));
    for (n, cut) in [
        Cut::BeforeCommit,
        Cut::AfterCommit,
        Cut::BeforeExecute,
        Cut::AfterExecute,
    ]
    .into_iter()
    .enumerate()
    {
        db.region().unwrap();
        let batch = [with_id(kills(1, 1), n as u64)];
        let before = na.number(KILLS);
        proxy.cut(cut);
        let error = db.submit(&batch).unwrap_err();
        let found = db.outbox_find(&batch[0].request_id.unwrap()).unwrap();
        let moved = na.number(KILLS) - before;
        assert_eq!(moved, i64::from(found.is_some()), "{cut:?}");
        match cut {
            Cut::BeforeCommit => assert!(matches!(error, DbError::Ambiguous(_)) && moved == 0),
            Cut::AfterCommit => {
                assert!(matches!(error, DbError::Ambiguous(_)) && moved == 1);
                let found = found.unwrap();
                assert_eq!((found.seq, found.update.rows), (Seq(2), 1));
            }
            // Before COMMIT there is nothing to wonder about.
            _ => assert!(
                matches!(error, DbError::Unreachable(_)) && moved == 0,
                "{error:?}"
            ),
        }
    }
    assert_eq!(proxy.cuts(), 4);

    // The same at a peer: the position tells.
    let mut eu = Region::new(shared(), "cut_eu", "EU");
    let mut other_na = Region::new(shared(), "cut_na2", "NA");
    let (epoch, items) = stream_of(&mut other_na, 3);
    let url = eu
        .url
        .replace(&shared().port().to_string(), &proxy.port.to_string());
    let mut db = open(&url, options("EU"));
    for (i, cut) in [Cut::BeforeExecute, Cut::AfterExecute, Cut::BeforeExecute]
        .into_iter()
        .enumerate()
    {
        db.region().unwrap();
        let before = eu.db.position("NA").unwrap().seq.0;
        proxy.cut(cut);
        let error = apply(&mut *db, "NA", epoch, &items[..=i]).unwrap_err();
        assert!(matches!(error, DbError::Ambiguous(_)), "{error:?}");
        let moved = db.position("NA").unwrap().seq.0 - before;
        assert_eq!(moved > 0, cut == Cut::AfterExecute, "{cut:?}");
    }
    apply(&mut *db, "NA", epoch, &items).unwrap();
    assert_eq!(eu.number(KILLS), 3);
}

#[test]
fn a_commit_that_is_still_under_way_is_waited_for() {
    // A transaction that has taken its numbers and hangs: what `outbox_find` says is final.
    let mut na = Region::new(shared(), "find_na", "NA");
    na.db.submit(&[user(1)]).unwrap();
    let mut hanging = na.sql();
    let mut transaction = hanging.transaction().unwrap();
    transaction
        .execute("UPDATE prism.region SET next_seq = next_seq + 1", &[])
        .unwrap();
    let error = na.db.outbox_find(&[1; 16]).unwrap_err();
    assert!(
        matches!(
            error,
            DbError::Sql {
                class: ErrorClass::Transient,
                ..
            }
        ),
        "{error:?}"
    );
    transaction.rollback().unwrap();
    assert_eq!(na.db.outbox_find(&[1; 16]).unwrap(), None);
}

#[test]
fn a_server_killed_again_and_again_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start().unwrap();
    let mut na = Region::new(&cluster, "na", "NA");
    let mut eu = Region::new(&cluster, "eu", "EU");
    na.db.submit(&[user(1)]).unwrap();
    let epoch = na.epoch();
    let done = AtomicBool::new(false);
    // Known when the submitter has ended.
    let total = AtomicU64::new(u64::MAX);
    let na_url = na.url.clone();
    let acknowledged = std::thread::scope(|scope| {
        let submitter = scope.spawn(|| {
            let (mut acknowledged, mut n) = (1u64, 0);
            'next: while !done.load(Ordering::SeqCst) {
                n += 1;
                let batch = [with_id(kills(1, 1), n)];
                loop {
                    match na.db.submit(&batch) {
                        Ok(_) => {
                            acknowledged += 1;
                            continue 'next;
                        }
                        Err(DbError::Ambiguous(_)) => {
                            let mut found = None;
                            until("looking it up", || {
                                found = na.db.outbox_find(&batch[0].request_id.unwrap()).ok();
                                found.is_some()
                            });
                            if found.flatten().is_some() {
                                acknowledged += 1;
                                continue 'next;
                            }
                        }
                        Err(DbError::Unreachable(_)) => {
                            std::thread::sleep(Duration::from_millis(5))
                        }
                        Err(DbError::Sql {
                            class: ErrorClass::Transient,
                            ..
                        }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
            total.store(acknowledged, Ordering::SeqCst);
            acknowledged
        });
        let applier = scope.spawn(|| {
            let mut own = open(&na_url, options("NA"));
            let mut at = 0;
            while at < total.load(Ordering::SeqCst) {
                let mut updates = Vec::new();
                let _ = own.outbox_read(Seq(at + 1), Seq(at + 64), 1 << 20, &mut |seq, bytes| {
                    updates.push(ApplyItem {
                        seq,
                        update: prism_db::Update::decode(bytes).unwrap(),
                        action: prism_db::ItemAction::Run,
                    });
                });
                match apply(&mut *eu.db, "NA", epoch, &updates) {
                    Ok(ApplyReport::Done { position, .. }) => at = position.seq.0.max(at),
                    Ok(other) => panic!("{other:?}"),
                    Err(DbError::Ambiguous(_) | DbError::Unreachable(_)) => {}
                    Err(DbError::Sql {
                        class: ErrorClass::Transient,
                        ..
                    }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            at
        });
        for round in 0..6 {
            // At no particular moment: some tens of commits later.
            std::thread::sleep(Duration::from_millis(150 + 37 * round));
            cluster.kill9();
            cluster.restart().unwrap();
        }
        std::thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::SeqCst);
        let at = applier.join().unwrap();
        let acknowledged = submitter.join().unwrap();
        assert_eq!(at, acknowledged);
        acknowledged
    });
    assert!(acknowledged > 20, "only {acknowledged} updates");
    for url in [cluster.url("na"), cluster.url("eu")] {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        let found: i64 = client.query_one(KILLS, &[]).unwrap().get(0);
        assert_eq!(found.cast_unsigned(), acknowledged - 1, "{url}");
    }
}

#[test]
fn a_stopped_server_is_unreachable_by_the_deadline() {
    let cluster = Cluster::start().unwrap();
    let mut na = Region::new(&cluster, "na", "NA");
    let mut eu = Region::new(&cluster, "eu", "EU");
    let (epoch, items) = stream_of(&mut na, 3);
    let mut short = options("NA");
    short.statement_timeout = Duration::from_millis(500);
    short.connect_timeout = Duration::from_millis(500);
    na.db = open(&na.url, short.clone());
    short.topology = topology("EU");
    eu.db = open(&eu.url, short);
    na.db.region().unwrap();
    eu.db.region().unwrap();
    cluster.sigstop();
    let limit = Duration::from_secs(5);
    let started = Instant::now();
    let error = na.db.submit(&[kills(1, 1)]).unwrap_err();
    assert!(matches!(error, DbError::Unreachable(_)), "{error:?}");
    let error = apply(&mut *eu.db, "NA", epoch, &items).unwrap_err();
    assert!(matches!(error, DbError::Unreachable(_)), "{error:?}");
    // Now it does not even get a connection: bounded, and at some point at once.
    for _ in 0..10 {
        let error = na.db.region().unwrap_err();
        assert!(matches!(error, DbError::Unreachable(_)), "{error:?}");
    }
    assert!(started.elapsed() < limit, "{:?}", started.elapsed());
    let hanging = prism_db::abandoned_connections();
    assert!((2..=8).contains(&hanging), "{hanging} connections hang");
    cluster.sigcont();
    until("it answers again", || {
        na.db.region().is_ok() && eu.db.region().is_ok()
    });
    until("what hung has ended", || {
        prism_db::abandoned_connections() == 0
    });
    // What was given up before COMMIT has not happened, also not later.
    assert_eq!(na.number(KILLS), 3);
    assert_eq!(na.db.region().unwrap().next_seq, Seq(5));
    until("EU has it once", || {
        apply(&mut *eu.db, "NA", epoch, &items).is_ok()
    });
    assert_eq!(eu.number(KILLS), 3);
}

#[test]
fn a_restarted_server_is_found_again_without_an_error() {
    let mut cluster = Cluster::start().unwrap();
    let mut na = Region::new(&cluster, "na", "NA");
    na.db.submit(&[user(1)]).unwrap();
    cluster.restart().unwrap();
    assert_eq!(na.db.submit(&[kills(1, 1)]).unwrap()[0].seq, Seq(2));
    cluster.kill9();
    let error = na.db.submit(&[kills(1, 1)]).unwrap_err();
    assert!(matches!(error, DbError::Unreachable(_)), "{error:?}");
    cluster.restart().unwrap();
    assert_eq!(na.db.submit(&[kills(1, 1)]).unwrap()[0].seq, Seq(3));
}

/// An applier, as a node has one.
fn applier() -> Applier {
    Applier::new(catalogue(), topology("EU").regions)
}

fn encoded(items: &[ApplyItem]) -> Vec<(Seq, Vec<u8>)> {
    let encode = |item: &ApplyItem| (item.seq, item.update.encode());
    items.iter().map(encode).collect()
}

const GUARDED: &str = "SELECT n FROM guarded";

fn bump() -> Submission {
    submission("guarded", &[Value::Int(1)])
}

/// Each update is quick enough, all of them together are not: the same batch again would fail for
/// ever.
#[test]
fn a_batch_that_takes_longer_than_the_deadline_is_done_in_parts() {
    let mut na = Region::new(shared(), "slow_na", "NA");
    let mut eu = Region::new(shared(), "slow_eu", "EU");
    let batch: Vec<_> = (0..24).map(|_| bump()).collect();
    let committed = na.db.submit(&batch).unwrap();
    let updates = encoded(&items(&committed));
    let epoch = na.epoch();
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE UPDATE ON guarded FOR EACH ROW EXECUTE FUNCTION slow();";
    for region in [&na, &eu] {
        region.sql().batch_execute(slow).unwrap();
    }
    let short = |region: &str| {
        let mut options = options(region);
        options.statement_timeout = Duration::from_millis(800);
        options
    };
    eu.db = open(&eu.url, short("EU"));
    let mut applier = applier();
    until("everything is applied", || {
        let outcome = applier.apply(&mut *eu.db, "NA", epoch, &updates);
        assert_eq!(outcome.rejected, []);
        outcome.position.is_some_and(|p| p.seq == Seq(24))
    });
    assert_eq!(eu.number(GUARDED), 24);

    na.db = open(&na.url, short("NA"));
    let answers = prism_db::submit::submit(&mut *na.db, &batch);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(na.number(GUARDED), 48);
}

/// PL/pgSQL does not catch a failed assertion with all other errors, so it names no update.
#[test]
fn a_failed_assertion_holds_up_nothing_before_it() {
    let mut na = Region::new(shared(), "assert_na", "NA");
    let mut eu = Region::new(shared(), "assert_eu", "EU");
    let committed = na.db.submit(&(0..9).map(|_| bump()).collect::<Vec<_>>());
    let updates = encoded(&items(&committed.unwrap()));
    let assertion = "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN ASSERT NEW.n <> 6, 'six'; RETURN NEW; END $$;
        CREATE TRIGGER never BEFORE UPDATE ON guarded FOR EACH ROW EXECUTE FUNCTION never();";
    eu.sql().batch_execute(assertion).unwrap();
    let mut applier = applier();
    let mut apply = || applier.apply(&mut *eu.db, "NA", na.epoch(), &updates);
    until("the update is named", || {
        let outcome = apply();
        assert_eq!(outcome.rejected, []);
        outcome.wait.is_some_and(|wait| wait.seq == Some(Seq(6)))
    });
    assert_eq!(eu.number(GUARDED), 5);
    eu.sql()
        .batch_execute("DROP TRIGGER never ON guarded")
        .unwrap();
    until("it goes on by itself", || {
        let outcome = applier.apply(&mut *eu.db, "NA", na.epoch(), &updates);
        outcome.position.is_some_and(|p| p.seq == Seq(9))
    });
    assert_eq!(eu.number(GUARDED), 9);
}
