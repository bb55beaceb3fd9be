//! Undo on PostgreSQL: once, in order, everywhere where there is something to undo.
#![cfg(unix)]

mod pg;

use pg::proxy::{Cut, Proxy};
use pg::*;
use prism_db::{DbError, RequestState, Retried, UndoReason, Undone, Value};
use prism_proto::Seq;

const KILLS: &str = "SELECT kills FROM users WHERE id = 1";

fn refused_by(region: &str) -> UndoReason {
    UndoReason::Refused {
        region: region.into(),
        sqlstate: "23514".into(),
        message: "no".into(),
    }
}

fn three(name: &str) -> [Region; 3] {
    REGIONS.map(|region| {
        let database = format!("{name}_{}", region.to_lowercase());
        let new = Region::new(shared(), &database, region);
        new.sql()
            .batch_execute("INSERT INTO users (id, name) VALUES (1, 'one'), (2, 'two')")
            .unwrap();
        new
    })
}

/// EU refuses, AS has not even got the original yet when the undo is made.
#[test]
fn an_undo_arrives_while_the_original_is_in_flight_elsewhere() {
    let [mut na, mut eu, mut asia] = three("flight");
    eu.sql()
        .execute("UPDATE users SET kills = 999990 WHERE id = 1", &[])
        .unwrap();
    na.db
        .submit(&[kills(2, 1), with_id(kills(1, 50), 1), kills(1, 1)])
        .unwrap();
    ship_all(&mut na, &mut eu);
    assert_eq!(eu.number(KILLS), 999_991);
    let refusal = eu.db.refusals("NA", 9).unwrap().remove(0);
    assert_eq!(refusal.seq, Seq(2));
    let reason = refused_by("EU");
    // By two at once, and again.
    let (mut one, mut two) = (na.another(), na.another());
    let published = std::thread::scope(|scope| {
        let reasons = [&reason, &reason];
        let asked = [&mut one, &mut two]
            .into_iter()
            .zip(reasons)
            .map(|(db, reason)| scope.spawn(move || db.undo(Seq(2), reason).unwrap()))
            .collect::<Vec<_>>();
        let said: Vec<_> = asked.into_iter().map(|a| a.join().unwrap()).collect();
        let published = |u: &&Undone| matches!(u, Undone::Published(_));
        said.iter().filter(published).count()
    });
    assert_eq!(published, 1);
    assert_eq!(na.db.undo(Seq(2), &reason).unwrap(), Undone::Before);
    assert_eq!(na.number(KILLS), 1);
    assert_eq!(na.db.region().unwrap().next_seq, Seq(5));
    let row = na.db.request(&id(1)).unwrap().unwrap();
    assert_eq!(row.state, RequestState::Undone(reason));
    // Original and undo in one batch, in two, and where it was refused.
    ship_all(&mut na, &mut asia);
    ship_all(&mut na, &mut eu);
    assert_eq!(asia.number(KILLS), 1);
    assert_eq!(eu.number(KILLS), 999_991);
    let row = asia.db.request(&id(1)).unwrap().unwrap();
    assert!(matches!(row.state, RequestState::Undone(_)), "{row:?}");
    let row = eu.db.rejected_get(1).unwrap().unwrap();
    assert_eq!(row.resolution.as_deref(), Some("undone"));
    assert_eq!(eu.db.rejected_retry(1).unwrap(), Retried::Unknown);
}

#[test]
fn a_guarded_undo_brings_back_the_old_value_and_harms_no_later_write() {
    let [mut na, mut eu, mut asia] = three("guarded");
    let rename = |id, to: &str| submission("rename", &[Value::Int(id), Value::Text(to.into())]);
    na.db
        .submit(&[rename(1, "first"), rename(2, "second"), rename(2, "third")])
        .unwrap();
    ship_all(&mut na, &mut eu);
    for seq in [1, 2] {
        let undone = na.db.undo(Seq(seq), &refused_by("AS")).unwrap();
        assert!(matches!(undone, Undone::Published(_)), "{undone:?}");
    }
    ship_all(&mut na, &mut eu);
    ship_all(&mut na, &mut asia);
    for region in [&na, &eu, &asia] {
        let names: String = region
            .sql()
            .query_one(
                "SELECT string_agg(name, ' ' ORDER BY id) FROM users WHERE id < 3",
                &[],
            )
            .unwrap()
            .get(0);
        assert_eq!(names, "one third", "{}", region.name);
        assert_eq!(region.number("SELECT count(*) FROM prism.rejected"), 0);
    }
}

#[test]
fn old_values_of_every_type_come_back_as_they_were() {
    let mut na = Region::new(shared(), "oldtypes_na", "NA");
    let mut eu = Region::new(shared(), "oldtypes_eu", "EU");
    for region in [&na, &eu] {
        region
            .sql()
            .batch_execute(
                "CREATE TABLE odd (id bigint PRIMARY KEY, n numeric(12,4), c char(4), v varchar(9),
                    r real, d date, t timestamp, z timestamptz, i interval, a int[], y bytea, u uuid,
                    j jsonb, b boolean, s smallint);
                 INSERT INTO odd VALUES (1, 1.5, 'ab', 'it''s', 0.1, '2026-02-28', '2026-01-31 12:00:00.25',
                    '0031-01-31 12:00:00+02', '1 mon 2 days 03:04:05', '{1,NULL,3}', '\\x00ff',
                    'abababab-abab-abab-abab-abababababab', '{\"a\": 1}', true, -7),
                   (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);",
            )
            .unwrap();
        // The functions were made before the table was there.
    }
    let clear = |id| submission("clear_odd", &[Value::Int(id)]);
    na.db.submit(&[clear(1), clear(2)]).unwrap();
    ship_all(&mut na, &mut eu);
    for region in [&na, &eu] {
        assert_eq!(region.number("SELECT count(*) FROM odd WHERE n IS NULL"), 2);
    }
    for seq in [1, 2] {
        let undone = na.db.undo(Seq(seq), &refused_by("AS")).unwrap();
        assert!(matches!(undone, Undone::Published(_)), "{undone:?}");
    }
    ship_all(&mut na, &mut eu);
    for region in [&na, &eu] {
        let row: String = region
            .sql()
            .query_one("SELECT odd::text FROM odd WHERE id = 1", &[])
            .unwrap()
            .get(0);
        assert_eq!(
            row,
            "(1,1.5000,\"ab  \",it's,0.1,2026-02-28,\"2026-01-31 12:00:00.25\",\
             \"0031-01-31 10:00:00+00\",\"1 mon 2 days 03:04:05\",\"{1,NULL,3}\",\"\\\\x00ff\",\
             abababab-abab-abab-abab-abababababab,\"{\"\"a\"\": 1}\",t,-7)"
        );
        assert_eq!(region.number("SELECT count(*) FROM odd WHERE s IS NULL"), 1);
    }
}

#[test]
fn an_undo_refused_at_its_origin_is_a_dead_letter_everywhere() {
    let [mut na, mut eu, mut asia] = three("notice");
    na.db.submit(&[kills(1, 5)]).unwrap();
    na.sql()
        .batch_execute("ALTER TABLE users ADD CHECK (kills >= 5 OR id = 2)")
        .ok();
    na.sql()
        .batch_execute("ALTER TABLE users ADD CONSTRAINT c CHECK (kills >= 5) NOT VALID")
        .unwrap();
    let undone = na.db.undo(Seq(1), &refused_by("AS")).unwrap();
    let Undone::Refused {
        notice, sqlstate, ..
    } = &undone
    else {
        panic!("{undone:?}");
    };
    assert_eq!((notice.seq, sqlstate.as_str()), (Seq(2), "23514"));
    assert_eq!(notice.update.notice().unwrap().0, "23514");
    assert_eq!(
        na.db.undo(Seq(1), &refused_by("AS")).unwrap(),
        Undone::Before
    );
    ship_all(&mut na, &mut eu);
    ship_all(&mut na, &mut asia);
    for region in [&mut na, &mut eu, &mut asia] {
        assert_eq!(region.number(KILLS), 5);
        let rows = region.db.rejected(9).unwrap();
        assert_eq!(
            (rows.len(), rows[0].seq, rows[0].sqlstate.as_str()),
            (1, Some(Seq(2)), "23514")
        );
        // Nobody has to be told; only the origin can do something about it.
        assert_eq!(region.db.refusals("NA", 9).unwrap(), []);
        let retry = region.db.rejected_retry(rows[0].id).unwrap_err();
        let (is_origin, text) = (region.name == "NA", retry.to_string());
        assert_eq!(text.contains("retry it there"), !is_origin, "{text}");
        assert_eq!(text.contains("23514"), is_origin, "{text}");
    }
}

#[test]
fn what_is_retried_by_hand_is_undone_by_a_later_undo() {
    let [mut na, mut eu, _] = three("retried");
    let full = "UPDATE users SET kills = 999990 WHERE id = 1";
    eu.sql().execute(full, &[]).unwrap();
    na.db.submit(&[with_id(kills(1, 50), 1)]).unwrap();
    ship_all(&mut na, &mut eu);
    let refused = eu.db.rejected_retry(1).unwrap_err();
    assert!(
        matches!(&refused, DbError::Sql { sqlstate, message, .. }
            if sqlstate == "23514" && message.contains("add_kills")),
        "{refused:?}"
    );
    eu.sql().execute("UPDATE users SET kills = 0", &[]).unwrap();
    assert_eq!(eu.db.rejected_retry(1).unwrap(), Retried::Applied(1));
    assert_eq!(eu.db.rejected_retry(1).unwrap(), Retried::Unknown);
    assert_eq!(eu.number(KILLS), 50);
    assert_eq!(eu.db.refusals("NA", 9).unwrap(), []);
    // The origin had heard of the refusal before.
    na.db.undo(Seq(1), &refused_by("EU")).unwrap();
    ship_all(&mut na, &mut eu);
    assert_eq!((eu.number(KILLS), na.number(KILLS)), (0, 0));
}

#[test]
fn a_dead_letter_of_the_journal_is_submitted_once_more() {
    let [mut na, mut eu, _] = three("journal");
    let late = with_id(
        submission("add_item", &[Value::Int(7), Value::Text("axe".into())]),
        3,
    );
    na.db
        .request_refused(&late, "23503", "no user 7", true)
        .unwrap();
    na.db
        .request_refused(&late, "23503", "no user 7", true)
        .unwrap();
    let rows = na.db.rejected(9).unwrap();
    assert_eq!((rows.len(), rows[0].seq), (1, None));
    assert!(na.db.rejected_retry(rows[0].id).is_err());
    assert_eq!(na.db.rejected_count().unwrap(), 1);
    na.db.submit(&[user(7)]).unwrap();
    let retried = na.db.rejected_retry(rows[0].id).unwrap();
    assert!(
        matches!(&retried, Retried::Submitted(c) if c.seq == Seq(2)),
        "{retried:?}"
    );
    assert_eq!(
        na.db.request(&id(3)).unwrap().unwrap().state,
        RequestState::Committed
    );
    ship_all(&mut na, &mut eu);
    assert_eq!(eu.number("SELECT count(*) FROM items"), 1);
}

#[test]
fn what_cannot_be_undone_says_why() {
    let [mut na, _, _] = three("cannot");
    na.db.submit(&[user(5), kills(1, 1)]).unwrap();
    let says = |undone: Undone, what: &str| {
        assert!(
            matches!(&undone, Undone::Impossible(why) if why.contains(what)),
            "{undone:?}"
        );
    };
    says(na.db.undo(Seq(1), &refused_by("EU")).unwrap(), "no undo");
    says(
        na.db.undo(Seq(9), &refused_by("EU")).unwrap(),
        "not in the outbox",
    );
    na.db.undo(Seq(2), &refused_by("EU")).unwrap();
    says(
        na.db.undo(Seq(3), &refused_by("EU")).unwrap(),
        "an undo itself",
    );
    // Waiting for an application's lock is no verdict.
    na.db.submit(&[kills(1, 1)]).unwrap();
    let mut application = na.sql();
    let mut transaction = application.transaction().unwrap();
    transaction
        .execute("SELECT FROM users WHERE id = 1 FOR UPDATE", &[])
        .unwrap();
    let blocked = na.db.undo(Seq(4), &refused_by("EU")).unwrap_err();
    assert!(
        matches!(&blocked, DbError::Sql { sqlstate, .. } if sqlstate == "55P03"),
        "{blocked:?}"
    );
    transaction.rollback().unwrap();
    assert_eq!(na.db.region().unwrap().next_seq, Seq(5));
}

#[test]
fn an_undo_whose_commit_is_not_heard_of_is_there_once() {
    let [na, mut eu, _] = three("cutundo");
    let mut na = na;
    na.db.submit(&[kills(1, 10), kills(1, 100)]).unwrap();
    let proxy = Proxy::to(shared().port());
    let url = na
        .url
        .replace(&shared().port().to_string(), &proxy.port.to_string());
    let mut db = open(&url, options("NA"));
    for (seq, cut) in [(1, Cut::BeforeCommit), (2, Cut::AfterCommit)] {
        db.region().unwrap();
        proxy.cut(cut);
        let error = db.undo(Seq(seq), &refused_by("EU")).unwrap_err();
        assert!(matches!(error, DbError::Ambiguous(_)), "{error:?}");
        let mut again = None;
        until("it is asked for again", || {
            again = db.undo(Seq(seq), &refused_by("EU")).ok();
            again.is_some()
        });
        match cut {
            Cut::BeforeCommit => assert!(matches!(again, Some(Undone::Published(_)))),
            _ => assert_eq!(again, Some(Undone::Before)),
        }
    }
    assert_eq!(proxy.cuts(), 2);
    assert_eq!(na.number(KILLS), 0);
    ship_all(&mut na, &mut eu);
    assert_eq!(eu.number(KILLS), 0);
    assert_eq!(na.db.region().unwrap().next_seq, Seq(5));
}
