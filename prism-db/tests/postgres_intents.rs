//! Updates that applications write in their own transactions, by SQL and by Rust.
#![cfg(unix)]

mod pg;

use std::time::Duration;

use pg::*;
use prism_db::{DbError, ErrorClass, RequestState, Retried, UndoReason, Undone, Value, submit_in};
use prism_proto::{Seq, Tag};

const KILLS: &str = "SELECT kills FROM users WHERE id = 1";

fn regions(name: &str) -> [Region; 2] {
    ["NA", "EU"].map(|region| {
        let database = format!("{name}_{}", region.to_lowercase());
        let new = Region::new(shared(), &database, region);
        new.sql()
            .batch_execute("INSERT INTO users (id, name) VALUES (1, 'one'), (2, 'two')")
            .unwrap();
        new
    })
}

fn refused() -> UndoReason {
    UndoReason::Refused {
        region: "AS".into(),
        sqlstate: "23514".into(),
        message: "no".into(),
    }
}

#[test]
fn an_applications_write_and_its_update_exist_both_or_neither() {
    let [mut na, mut eu] = regions("both");
    let mut sql = na.sql();
    let write = "UPDATE users SET kills = kills + 1 WHERE id = 1";
    let submit = "SELECT prism.submit('add_kills', '[1, \"1\"]')";
    sql.batch_execute(&format!("BEGIN; {write}; {submit}; ROLLBACK"))
        .unwrap();
    sql.batch_execute(&format!(
        "BEGIN; {write}; {submit}; SAVEPOINT s; {write}; {submit}; ROLLBACK TO s; {write}; {submit}; COMMIT"
    ))
    .unwrap();
    // Outside a transaction, between ordinary submits: one chain.
    na.db.submit(&[kills(2, 1)]).unwrap();
    sql.batch_execute(&format!("{write}; {submit}")).unwrap();
    na.db.submit(&[kills(2, 1)]).unwrap();
    let stream = outbox(&mut na);
    assert_eq!(stream.len(), 5);
    let mut before = Tag(0);
    for item in &stream {
        assert_eq!(item.update.prev_tag, before);
        before = item.update.tag;
    }
    assert_eq!(stream[0].update.rows, u64::MAX);
    assert!(stream.is_sorted_by_key(|item| item.update.hlc));
    ship_all(&mut na, &mut eu);
    assert_eq!((na.number(KILLS), eu.number(KILLS)), (3, 3));
    assert_eq!(na.number("SELECT count(*) FROM prism.intent"), 0);
    let bytes = na.number("SELECT bytes FROM prism.region");
    let counted = na.number(
        "SELECT (sum(octet_length(params) + 64) FILTER (WHERE params IS NOT NULL))::bigint FROM prism.outbox",
    );
    assert!(bytes > counted);
    // It is undone as any other.
    assert!(matches!(
        na.db.undo(Seq(1), &refused()).unwrap(),
        Undone::Published(_)
    ));
    ship_all(&mut na, &mut eu);
    assert_eq!((na.number(KILLS), eu.number(KILLS)), (2, 2));
}

#[test]
fn numbers_are_taken_at_commit() {
    let [mut na, _] = regions("late");
    let mut first = na.sql();
    first
        .batch_execute("BEGIN; SELECT prism.submit('add_kills', '[1, 1]')")
        .unwrap();
    // Nobody waits for it.
    assert_eq!(na.db.submit(&[kills(2, 1)]).unwrap()[0].seq, Seq(1));
    let mut ear = na.another();
    while ear.wait_for_outbox(Duration::from_millis(1)).unwrap() {}
    std::thread::scope(|scope| {
        let heard = scope.spawn(move || ear.wait_for_outbox(Duration::from_secs(20)).unwrap());
        first.batch_execute("COMMIT").unwrap();
        assert!(heard.join().unwrap());
    });
    let stream = outbox(&mut na);
    assert_eq!(stream[1].update.params, [Value::Int(1), Value::Int(1)]);
}

#[test]
fn every_type_arrives_as_over_http() {
    let [mut na, mut eu] = regions("sqltypes");
    let insert = "INSERT INTO everything VALUES (-9, true, 0.1, 12345678901234567890.0123456789, 'ä''\"',
        '\\x0001ff', 'abababab-abab-abab-abab-abababababab', '0001-01-01 00:00:00+00', '{\"a\": [1, null]}')";
    na.sql()
        .batch_execute(&format!(
            "SET TimeZone = 'Asia/Tokyo'; SET extra_float_digits = 0; SET DateStyle = 'German';
             {insert};
             SELECT prism.submit('everything', '[\"-9\", true, 0.1, \"12345678901234567890.0123456789\",
                \"ä''\\\"\", \"AAH/\", \"ABABABAB-abab-abab-abab-abababababab\", \"0001-01-01T01:00:00+01:00\",
                {{\"a\": [1, null]}}]');
             INSERT INTO everything VALUES (1);
             SELECT prism.submit('everything', '[1, null, null, null, null, null, null, null, null]')"
        ))
        .unwrap();
    ship_all(&mut na, &mut eu);
    let check = "SELECT string_agg(everything::text, '|' ORDER BY id) FROM everything";
    let rows: Vec<String> = [&na, &eu]
        .iter()
        .map(|r| r.sql().query_one(check, &[]).unwrap().get(0))
        .collect();
    assert_eq!(rows[0], rows[1]);
    assert!(
        rows[0].contains("0.1") && rows[0].contains("(1,,,,,,,,)"),
        "{}",
        rows[0]
    );
}

#[test]
fn what_does_not_fit_is_refused_and_says_what_to_do() {
    let [na, _] = regions("hostile");
    let everything = |n: usize, value: &str| {
        let mut params = ["null"; 9];
        params[n] = value;
        format!("'everything', '[{}]'", params.join(","))
    };
    let cases = [
        ("'nobody', '[]'".to_owned(), "not in the catalogue"),
        (
            "'add_kills', '[1]'".to_owned(),
            "takes 2 parameter(s), got 1",
        ),
        ("'add_kills', '{}'".to_owned(), "no JSON array"),
        ("'add_kills', NULL".to_owned(), "no JSON array"),
        (
            "'add_kills', '[1, 1.5]'".to_owned(),
            "parameter 2 of 2: expected int",
        ),
        (
            "'add_kills', '[1, 9223372036854775808]'".to_owned(),
            "expected int",
        ),
        ("'add_kills', '[1, \" 1\"]'".to_owned(), "expected int"),
        (
            "'rename', '[1, \"x\"]'".to_owned(),
            "needs its 2 old value(s)",
        ),
        (
            "'rename', '[1, \"x\"]', old => '[1]'".to_owned(),
            "needs its 2 old value(s)",
        ),
        (everything(1, "1"), "expected bool"),
        (everything(2, "1e400"), "expected float"),
        (everything(2, "\"1\""), "expected float"),
        (everything(3, "1.5"), "expected decimal"),
        (everything(3, "\"1e5\""), "expected decimal"),
        (everything(3, "\"NaN\""), "expected decimal"),
        (everything(4, "5"), "expected text"),
        (everything(5, "\"*\""), "expected bytes"),
        (everything(6, "\"x\""), "expected uuid"),
        (everything(7, "\"now\""), "expected timestamp"),
        (
            everything(7, "\"2026-02-30T00:00:00Z\""),
            "expected timestamp",
        ),
        (
            everything(7, "\"0000-01-01T00:00:00Z\""),
            "expected timestamp",
        ),
        (everything(8, "[1e309]"), "expected json"),
        (
            everything(8, &format!("{}{}", "[".repeat(120), "]".repeat(120))),
            "expected json",
        ),
        (
            everything(4, &format!("\"{}\"", "x".repeat(262_000))),
            "the limit is 256 KiB",
        ),
    ];
    let mut sql = na.sql();
    for (call, what) in cases {
        let error = sql
            .batch_execute(&format!("SELECT prism.submit({call})"))
            .unwrap_err();
        let error = error.as_db_error().unwrap();
        let shown: String = call.chars().take(60).collect();
        assert!(error.message().contains(what), "{shown}: {error}");
    }
    let error = sql
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT prism.submit('add_kills', '[1, 1]')",
        )
        .unwrap_err();
    assert!(
        error
            .as_db_error()
            .unwrap()
            .message()
            .contains("READ COMMITTED")
    );
    assert_eq!(na.number("SELECT next_seq FROM prism.region"), 1);
}

#[test]
fn a_request_id_is_used_once_whoever_submits() {
    let [mut na, mut eu] = regions("sqlid");
    let uuid = "abababab-abab-abab-abab-abababababab";
    let call = format!("SELECT prism.submit('add_kills', '[1, 1]', '{uuid}')");
    let mut sql = na.sql();
    sql.batch_execute(&call).unwrap();
    let error = sql.batch_execute(&call).unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(error.message().contains("submitted before") && error.message().contains(uuid));
    // The same by a node: known, with its content.
    let mut same = kills(1, 1);
    same.request_id = Some([0xAB; 16]);
    let repeated = na.db.submit(&[same.clone()]).unwrap_err();
    let DbError::Repeated(rows) = &repeated else {
        panic!("{repeated:?}");
    };
    assert_eq!(rows[0].body, rows[0].row.body);
    let mut other = kills(1, 2);
    other.request_id = same.request_id;
    let DbError::Repeated(rows) = na.db.submit(&[other]).unwrap_err() else {
        panic!("not repeated");
    };
    assert_ne!(rows[0].body, rows[0].row.body);
    let row = na.db.request(&[0xAB; 16]).unwrap().unwrap();
    assert_eq!(
        (row.seq, row.state),
        (Some(Seq(1)), RequestState::Committed)
    );
    // And submitted in the other region as well.
    eu.db.submit(&[same]).unwrap();
    ship_all(&mut na, &mut eu);
    ship_all(&mut eu, &mut na);
    // At NA the application's own write is missing in this test.
    assert_eq!((na.number(KILLS), eu.number(KILLS)), (0, 1));
}

#[test]
fn a_trigger_that_submits_can_not_make_updates_go_round() {
    let [mut na, mut eu] = regions("loop");
    let trigger = |condition: &str| {
        format!(
            "DROP TRIGGER IF EXISTS copy ON users;
             CREATE OR REPLACE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM prism.submit('add_kills', jsonb_build_array(NEW.id, NEW.kills - OLD.kills));
                 RETURN NEW;
             END $$;
             CREATE TRIGGER copy AFTER UPDATE ON users FOR EACH ROW {condition}
                 EXECUTE FUNCTION copy();"
        )
    };
    for region in [&na, &eu] {
        region.sql().batch_execute(&trigger("")).unwrap();
    }
    na.sql()
        .batch_execute("UPDATE users SET kills = kills + 4 WHERE id = 1")
        .unwrap();
    let parked = ship(&mut na, &mut eu).wait.unwrap();
    assert!(
        parked.seq == Some(Seq(1)) && parked.detail.contains("prism.applying"),
        "{parked:?}"
    );
    assert_eq!(eu.db.rejected_count().unwrap(), 0);
    let error = na.db.submit(&[kills(1, 1)]).unwrap_err();
    assert!(
        matches!(
            error,
            DbError::Sql {
                class: ErrorClass::Operator,
                ..
            }
        ),
        "{error:?}"
    );
    let quiet = "WHEN (current_setting('prism.applying', true) IS DISTINCT FROM 'on')";
    for region in [&na, &eu] {
        region.sql().batch_execute(&trigger(quiet)).unwrap();
    }
    ship_all(&mut na, &mut eu);
    ship_all(&mut eu, &mut na);
    assert_eq!((na.number(KILLS), eu.number(KILLS)), (4, 4));
    // Neither do an undo and a dead letter that is run once more.
    na.db.undo(Seq(1), &refused()).unwrap();
    ship_all(&mut na, &mut eu);
    assert_eq!((na.number(KILLS), eu.number(KILLS)), (0, 0));
    assert_eq!(eu.db.rejected_retry(1).unwrap(), Retried::Unknown);
    assert_eq!(eu.db.region().unwrap().next_seq, Seq(1));
}

#[test]
fn the_same_through_rust_and_as_another_role() {
    let [mut na, mut eu] = regions("rust");
    let catalogue = catalogue();
    let rename = catalogue.get("rename").unwrap();
    let mut sql = na.sql();
    let mut transaction = sql.transaction().unwrap();
    let old = transaction
        .query_one("SELECT name, kills FROM users WHERE id = 1", &[])
        .unwrap();
    let old = [Value::Text(old.get(0)), Value::Int(old.get(1))];
    transaction
        .execute("UPDATE users SET name = 'new' WHERE id = 1", &[])
        .unwrap();
    let new = [Value::Int(1), Value::Text("new".into())];
    let id = submit_in(&mut transaction, rename, &new, None, &old).unwrap();
    transaction.commit().unwrap();
    assert_eq!(na.db.request(&id).unwrap().unwrap().seq, Some(Seq(1)));
    let wrong = submit_in(&mut sql, rename, &new[..1], None, &old).unwrap_err();
    assert!(wrong.to_string().contains("rename"), "{wrong}");
    ship_all(&mut na, &mut eu);
    na.db.undo(Seq(1), &refused()).unwrap();
    ship_all(&mut na, &mut eu);
    for region in [&na, &eu] {
        assert_eq!(
            region.number("SELECT count(*) FROM users WHERE name = 'one'"),
            1
        );
    }
    // An application's role needs two grants and sees nothing of the ledger.
    let mut admin = shared().admin("rust_na").unwrap();
    admin
        .batch_execute("CREATE ROLE rust_app LOGIN PASSWORD 'secret'")
        .unwrap();
    let (_, host) = na.url.split_once('@').unwrap();
    let mut app = postgres::Client::connect(
        &format!("postgres://rust_app:secret@{host}"),
        postgres::NoTls,
    )
    .unwrap();
    let call = "SELECT prism.submit('add_kills', '[1, 1]')";
    assert!(app.batch_execute(call).is_err());
    na.sql()
        .batch_execute(
            "GRANT USAGE ON SCHEMA prism TO rust_app;
             GRANT EXECUTE ON FUNCTION prism.submit TO rust_app",
        )
        .unwrap();
    app.batch_execute(call).unwrap();
    assert!(app.batch_execute("SELECT * FROM prism.outbox").is_err());
    assert_eq!(outbox(&mut na).len(), 3);
}

/// The application's transaction wants a row that a crashed await has held.
#[test]
fn an_applications_write_comes_behind_the_undo_of_a_crashed_await() {
    let [mut na, mut eu] = regions("behind");
    let mut holder = na.another();
    let held = holder
        .held_begin(&kills(1, 5), Duration::from_secs(60))
        .unwrap();
    na.db.held_publish(&held).unwrap();
    let mut sql = na.sql();
    sql.batch_execute("BEGIN; SELECT prism.submit('add_kills', '[1, 1]')")
        .unwrap();
    drop(holder);
    sql.batch_execute("UPDATE users SET kills = kills + 1 WHERE id = 1; COMMIT")
        .unwrap();
    let undoes: Vec<_> = outbox(&mut na)
        .iter()
        .map(|item| item.update.undoes)
        .collect();
    assert_eq!(undoes, [None, Some(Seq(1)), None]);
    ship_all(&mut na, &mut eu);
    assert_eq!((na.number(KILLS), eu.number(KILLS)), (1, 1));
}
