//! The PostgreSQL backend against real servers: what each verb promises.
#![cfg(unix)]

mod pg;

use pg::*;
use prism_db::{ApplyReport, DbError, Drift, ErrorClass, ItemAction, Value};
use prism_proto::{Position, RegionKey, Seq, Tag, Verdict};

#[test]
fn an_update_travels_and_takes_effect_once() {
    let mut na = Region::new(shared(), "once_na", "NA");
    let mut eu = Region::new(shared(), "once_eu", "EU");
    let epoch = na.epoch();
    let sent = na
        .db
        .submit(&[user(1), kills(1, 2), user(2), kills(2, 1), kills(1, 3)])
        .unwrap();
    let seqs: Vec<u64> = sent.iter().map(|c| c.seq.0).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    assert_eq!(sent[0].update.prev_tag, Tag(0));
    for pair in sent.windows(2) {
        assert_eq!(pair[1].update.prev_tag, pair[0].update.tag);
        assert!(pair[1].update.hlc > pair[0].update.hlc);
    }
    // As the lanes read it from the outbox: the same bytes.
    let mut read = Vec::new();
    let last = na
        .db
        .outbox_read(Seq(1), Seq(99), 1 << 20, &mut |seq, bytes| {
            read.push((seq, bytes.to_vec()));
        })
        .unwrap();
    assert_eq!(last, Seq(5));
    let expected: Vec<_> = sent.iter().map(|c| (c.seq, c.update.encode())).collect();
    assert_eq!(read, expected);

    let items = items(&sent);
    assert_done(
        &apply(&mut *eu.db, "NA", epoch, &items[..2]).unwrap(),
        2,
        2,
        0,
    );
    assert_done(
        &apply(&mut *eu.db, "NA", epoch, &items[..4]).unwrap(),
        4,
        2,
        2,
    );
    assert_done(&apply(&mut *eu.db, "NA", epoch, &items).unwrap(), 5, 1, 4);
    assert_done(&apply(&mut *eu.db, "NA", epoch, &items).unwrap(), 5, 0, 5);
    assert_eq!(eu.number("SELECT sum(kills)::bigint FROM users"), 6);
    assert_eq!(na.number("SELECT sum(kills)::bigint FROM users"), 6);
    let at = eu.db.position("NA").unwrap();
    assert_eq!(
        (at.epoch, at.seq, at.tag),
        (epoch, Seq(5), sent[4].update.tag)
    );
    assert_eq!(na.db.outbox_verify(at).unwrap(), Verdict::Matches);
}

#[test]
fn every_type_and_every_null_arrives_as_it_was() {
    let mut na = Region::new(shared(), "types_na", "NA");
    let mut eu = Region::new(shared(), "types_eu", "EU");
    let full = [
        Value::Int(i64::MIN),
        Value::Bool(true),
        Value::Float(0.1),
        Value::Decimal("12345678901234567890.0123456789".into()),
        Value::Text("'; DROP TABLE users; -- $1 ä\u{1F600}".into()),
        Value::Bytes(vec![0, 1, 255]),
        Value::Uuid([0xAB; 16]),
        Value::Timestamp(-62_135_596_800_000_000),
        Value::Json(r#"{"a": [1, null, "$2"]}"#.into()),
    ];
    let mut nulls = vec![Value::Null; 9];
    nulls[0] = Value::Int(7);
    let batch = [
        submission("everything", &full),
        submission("everything", &nulls),
    ];
    let sent = na.db.submit(&batch).unwrap();
    let epoch = na.epoch();
    assert_done(
        &apply(&mut *eu.db, "NA", epoch, &items(&sent)).unwrap(),
        2,
        2,
        0,
    );
    let check = "SELECT string_agg(everything::text, '|' ORDER BY id) FROM everything";
    let rows: Vec<String> = [&na, &eu]
        .iter()
        .map(|r| r.sql().query_one(check, &[]).unwrap().get(0))
        .collect();
    assert_eq!(rows[0], rows[1]);
    assert_eq!(
        rows[0],
        "(-9223372036854775808,t,0.1,12345678901234567890.0123456789,\
         \"'; DROP TABLE users; -- $1 ä\u{1F600}\",\"\\\\x0001ff\",\
         abababab-abab-abab-abab-abababababab,\"0001-01-01 00:00:00+00\",\
         \"{\"\"a\"\": [1, null, \"\"$2\"\"]}\")|(7,,,,,,,,)"
    );
}

#[test]
fn old_values_are_those_just_before_the_statement() {
    let mut na = Region::new(shared(), "old_na", "NA");
    let rename = |to: &str| submission("rename", &[Value::Int(1), Value::Text(to.into())]);
    let sent = na
        .db
        .submit(&[
            rename("nobody"),
            user(1),
            kills(1, 4),
            rename("ann"),
            rename("bob"),
        ])
        .unwrap();
    assert_eq!(sent[0].update.old, [Value::Null, Value::Null]);
    assert_eq!(sent[0].update.rows, 0);
    assert_eq!(
        sent[3].update.old,
        [Value::Text("user 1".into()), Value::Int(4)]
    );
    assert_eq!(
        sent[4].update.old,
        [Value::Text("ann".into()), Value::Int(4)]
    );
}

#[test]
fn a_refusal_names_its_item_and_nothing_is_written() {
    let mut na = Region::new(shared(), "refuse_na", "NA");
    let mut eu = Region::new(shared(), "refuse_eu", "EU");
    let sent = na
        .db
        .submit(&[user(1), user(2), kills(1, 1), user(3)])
        .unwrap();
    let epoch = na.epoch();
    eu.sql()
        .execute("INSERT INTO users (id) VALUES (2)", &[])
        .unwrap();
    let error = apply(&mut *eu.db, "NA", epoch, &items(&sent)).unwrap_err();
    let DbError::Sql {
        class,
        sqlstate,
        message,
        index,
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(
        (*class, sqlstate.as_str(), *index),
        (ErrorClass::Refused, "23505", Some(1))
    );
    assert!(
        message.contains("add_user") && message.contains("(id)=(2)"),
        "{message}"
    );
    assert_eq!(eu.number("SELECT count(*) FROM users"), 1);
    assert_eq!(eu.db.position("NA").unwrap(), Position::default());

    // Recorded instead, the rest goes on.
    let mut rejecting = items(&sent);
    rejecting[1].action = ItemAction::Reject {
        sqlstate: "23505".into(),
        message: message.clone(),
    };
    assert_done(
        &apply(&mut *eu.db, "NA", epoch, &rejecting).unwrap(),
        4,
        4,
        0,
    );
    assert_eq!(eu.db.rejected_count().unwrap(), 1);
    let rejected = eu.db.rejected(10).unwrap();
    assert_eq!(
        (rejected[0].seq, &rejected[0].update),
        (Some(Seq(2)), &sent[1].update)
    );
    assert_eq!(
        eu.number("SELECT sum(kills)::bigint FROM users WHERE id = 1"),
        1
    );

    // The same at the origin; a trigger's own RAISE is a refusal as well.
    let guarded = |n| submission("guarded", &[Value::Int(n)]);
    let error = na
        .db
        .submit(&[kills(1, 1), guarded(1), guarded(-5)])
        .unwrap_err();
    assert!(
        matches!(&error, DbError::Sql { class: ErrorClass::Refused, sqlstate, index: Some(2), .. }
            if sqlstate == "P0001"),
        "{error:?}"
    );
    assert_eq!(na.db.region().unwrap().next_seq, Seq(5));
    assert_eq!(na.number("SELECT sum(kills)::bigint FROM users"), 1);
}

#[test]
fn a_deferred_constraint_is_judged_at_its_update() {
    let mut na = Region::new(shared(), "deferred_na", "NA");
    let late = |id| submission("add_late_item", &[Value::Int(id), Value::Null]);
    let error = na
        .db
        .submit(&[user(1), late(1), late(9), late(1)])
        .unwrap_err();
    assert!(
        matches!(&error, DbError::Sql { class: ErrorClass::Refused, sqlstate, index: Some(2), .. }
            if sqlstate == "23503"),
        "{error:?}"
    );
    let sent = na.db.submit(&[user(1), late(1)]).unwrap();
    let mut eu = Region::new(shared(), "deferred_eu", "EU");
    let epoch = na.epoch();
    let error = apply(&mut *eu.db, "NA", epoch, &[]).unwrap();
    assert_done(&error, 0, 0, 0);
    let mut sent = items(&sent);
    sent[0].action = ItemAction::Skip;
    let error = apply(&mut *eu.db, "NA", epoch, &sent).unwrap_err();
    assert!(
        matches!(error, DbError::Sql { index: Some(1), .. }),
        "{error:?}"
    );
}

#[test]
fn an_operators_slip_is_not_a_refusal() {
    let mut na = Region::new(shared(), "slip_na", "NA");
    let mut eu = Region::new(shared(), "slip_eu", "EU");
    na.sql()
        .batch_execute("CREATE TABLE nowhere (id int, n int); INSERT INTO nowhere VALUES (1, 0)")
        .unwrap();
    let sent = na
        .db
        .submit(&[user(1), submission("missing", &[Value::Int(1)])])
        .unwrap();
    let epoch = na.epoch();
    let error = apply(&mut *eu.db, "NA", epoch, &items(&sent)).unwrap_err();
    let DbError::Sql {
        class,
        sqlstate,
        message,
        index,
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(
        (*class, sqlstate.as_str(), *index),
        (ErrorClass::Operator, "42P01", Some(1))
    );
    assert!(
        message.contains("missing") && message.contains("nowhere"),
        "{message}"
    );
    // A table of somebody else: a missing grant. Then all is well on the same connection.
    let mut admin = shared().admin("slip_eu").unwrap();
    admin
        .batch_execute("CREATE TABLE nowhere (id int, n int); INSERT INTO nowhere VALUES (1, 0)")
        .unwrap();
    let error = apply(&mut *eu.db, "NA", epoch, &items(&sent)).unwrap_err();
    assert!(
        matches!(&error, DbError::Sql { class: ErrorClass::Operator, sqlstate, index: Some(1), .. }
            if sqlstate == "42501"),
        "{error:?}"
    );
    admin
        .batch_execute("GRANT ALL ON nowhere TO prism")
        .unwrap();
    assert_done(
        &apply(&mut *eu.db, "NA", epoch, &items(&sent)).unwrap(),
        2,
        2,
        0,
    );
    // A column changes its type: cached plans are made again.
    admin
        .batch_execute("ALTER TABLE nowhere ALTER n TYPE numeric; DROP TABLE IF EXISTS other")
        .unwrap();
    let more = na
        .db
        .submit(&[submission("missing", &[Value::Int(1)])])
        .unwrap();
    assert_done(
        &apply(&mut *eu.db, "NA", epoch, &items(&more)).unwrap(),
        3,
        1,
        0,
    );
    assert_eq!(eu.number("SELECT n::bigint FROM nowhere"), 2);
}

#[test]
fn gaps_forks_and_other_epochs_are_told_apart() {
    let mut na = Region::new(shared(), "fork_na", "NA");
    let mut eu = Region::new(shared(), "fork_eu", "EU");
    let sent = na
        .db
        .submit(&[user(1), kills(1, 1), kills(1, 1), kills(1, 1)])
        .unwrap();
    let items = items(&sent);
    let epoch = na.epoch();
    let gap = apply(&mut *eu.db, "NA", epoch, &items[1..]).unwrap();
    assert_eq!(
        gap,
        ApplyReport::Gap {
            position: Position::default()
        }
    );
    assert_done(
        &apply(&mut *eu.db, "NA", epoch, &items[..2]).unwrap(),
        2,
        2,
        0,
    );
    let other = prism_proto::Epoch(epoch.0 ^ 1);
    let error = apply(&mut *eu.db, "NA", other, &items[2..]).unwrap_err();
    assert!(matches!(error, DbError::Fork(_)), "{error:?}");
    // Another update 2 than the one applied.
    let mut forked = items.clone();
    forked[1].update.tag = Tag(12345);
    forked[2].update.prev_tag = Tag(12345);
    for range in [1..3, 2..3] {
        let error = apply(&mut *eu.db, "NA", epoch, &forked[range]).unwrap_err();
        assert!(matches!(error, DbError::Fork(_)), "{error:?}");
    }
    assert_done(
        &apply(&mut *eu.db, "NA", epoch, &items[2..]).unwrap(),
        4,
        2,
        0,
    );
    assert_eq!(eu.number("SELECT kills FROM users"), 3);

    // The origin's view of positions.
    let at = |seq, tag| Position {
        epoch,
        seq: Seq(seq),
        tag,
    };
    let verdicts = [
        (Position::default(), Verdict::Matches),
        (at(4, sent[3].update.tag), Verdict::Matches),
        (at(2, sent[1].update.tag), Verdict::Matches),
        (at(2, Tag(1)), Verdict::Forked),
        (at(5, Tag(1)), Verdict::Forked),
        (
            Position {
                epoch: other,
                ..at(2, sent[1].update.tag)
            },
            Verdict::Forked,
        ),
    ];
    for (position, verdict) in verdicts {
        assert_eq!(
            na.db.outbox_verify(position).unwrap(),
            verdict,
            "{position:?}"
        );
    }
}

#[test]
fn a_dependency_waits_and_drift_is_told() {
    let mut na = Region::new(shared(), "dep_na", "NA");
    let mut eu = Region::new(shared(), "dep_eu", "EU");
    let mut asia = Region::new(shared(), "dep_as", "AS");
    let (na_epoch, as_epoch) = (na.epoch(), asia.epoch());
    // AS makes a user; NA has it and changes it; EU gets NA's update first.
    let made = asia.db.submit(&[user(1)]).unwrap();
    assert_done(
        &apply(&mut *na.db, "AS", as_epoch, &items(&made)).unwrap(),
        1,
        1,
        0,
    );
    let item = submission("add_item", &[Value::Int(1), Value::Text("sword".into())]);
    let sent = na.db.submit(&[user(5), kills(1, 1), item]).unwrap();
    assert_eq!(sent[1].update.seen, [(RegionKey::of("AS"), Seq(1))]);
    let needs = (RegionKey::of("AS"), Seq(1));
    let waits = apply(&mut *eu.db, "NA", na_epoch, &items(&sent)).unwrap();
    assert_eq!(waits, ApplyReport::Behind { seq: Seq(2), needs });
    // Row counts aside, the foreign key alone waits too.
    let mut skipping = items(&sent);
    skipping[1].action = ItemAction::Skip;
    let waits = apply(&mut *eu.db, "NA", na_epoch, &skipping).unwrap();
    assert_eq!(waits, ApplyReport::Behind { seq: Seq(3), needs });
    assert_eq!(eu.number("SELECT count(*) FROM users"), 0);
    assert_done(
        &apply(&mut *eu.db, "AS", as_epoch, &items(&made)).unwrap(),
        1,
        1,
        0,
    );
    assert_done(
        &apply(&mut *eu.db, "NA", na_epoch, &items(&sent)).unwrap(),
        3,
        3,
        0,
    );
    // Nothing left to wait for: now it is drift, and now it is a refusal.
    eu.sql()
        .batch_execute("DELETE FROM items; DELETE FROM users WHERE id = 1")
        .unwrap();
    let more = na.db.submit(&[kills(5, 1), kills(1, 1)]).unwrap();
    let report = apply(&mut *eu.db, "NA", na_epoch, &items(&more)).unwrap();
    let ApplyReport::Done {
        drift, executed: 2, ..
    } = report
    else {
        panic!("{report:?}");
    };
    assert_eq!(
        drift,
        [Drift {
            seq: Seq(5),
            expected: 1,
            actual: 0
        }]
    );
    let item = submission("add_item", &[Value::Int(1), Value::Null]);
    let more = na.db.submit(&[item]).unwrap();
    let error = apply(&mut *eu.db, "NA", na_epoch, &items(&more)).unwrap_err();
    assert!(
        matches!(&error, DbError::Sql { sqlstate, .. } if sqlstate == "23503"),
        "{error:?}"
    );
}
