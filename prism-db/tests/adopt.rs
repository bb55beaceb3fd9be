//! What `prism adopt` does to PostgreSQL databases, as an ordinary role, call by call.

mod pg;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pg::{
    REGIONS, Region, apply, catalogue, items, kills, open, options, parse, shared, until, user,
};
use prism_db::adopt::{AdoptError, Adopted, Adoption, Site, adopt};
use prism_db::{Committed, DbError};
use prism_proto::{RegionKey, Seq, Verdict};

/// NA, EU and AS, each with a user.
fn regions() -> [Region; 3] {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let id = COUNT.fetch_add(1, Ordering::Relaxed);
    REGIONS.map(|name| {
        let database = format!("adopt_{}_{id}", name.to_lowercase());
        let region = Region::new(shared(), &database, name);
        let sql = "INSERT INTO users (id, name) VALUES (1, 'steve')";
        region.sql().batch_execute(sql).expect("a user");
        region
    })
}

fn adoption(regions: &[Region; 3], target: &str, donor: &str) -> Adoption {
    Adoption {
        target: target.to_owned(),
        donor: donor.to_owned(),
        sites: regions
            .iter()
            .map(|region| Site {
                region: region.name.clone(),
                key: RegionKey::of(&region.name),
                addresses: vec![parse(&region.url)],
            })
            .collect(),
        catalogue: catalogue(),
        without: Vec::new(),
        overwrite: true,
        force: false,
    }
}

/// Name of its database.
fn database(region: &Region) -> String {
    let path = region.url.rsplit('/').next().unwrap_or_default();
    path.split('?').next().unwrap_or_default().to_owned()
}

fn run(adoption: &Adoption) -> Result<Adopted, AdoptError> {
    adopt(adoption, &mut |line| eprintln!("{line}"))
}

/// Gives `to` what `from` has committed.
fn deliver(from: &mut Region, committed: &[Committed], to: &mut Region) {
    let epoch = from.epoch();
    apply(to.db.as_mut(), &from.name, epoch, &items(committed)).expect("applied");
}

/// Without its database: nothing of it can be delivered any more.
fn wipe(region: &Region) {
    let sql = "DROP SCHEMA prism CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public";
    region.sql().batch_execute(sql).expect("wiped");
}

#[test]
fn everything_that_the_role_may_drop_is_replaced_and_grants_are_kept() {
    let mut all = regions();
    let mut admin = shared().admin("postgres").expect("the superuser");
    admin
        .batch_execute("DROP ROLE IF EXISTS adopt_app; CREATE ROLE adopt_app")
        .expect("a role");
    let objects = |word: &str| {
        format!(
            "CREATE TYPE mood AS ENUM ('{word}');
             CREATE DOMAIN small AS int CHECK (VALUE < 10);
             CREATE TYPE pair AS (a int, b mood);
             CREATE FUNCTION {word}(m mood DEFAULT '{word}') RETURNS mood LANGUAGE sql
                 AS $$ SELECT m $$;
             CREATE TABLE parent (id serial PRIMARY KEY, m mood, s small) PARTITION BY RANGE (id);
             CREATE TABLE child PARTITION OF parent FOR VALUES FROM (1) TO (10);
             INSERT INTO parent (m) VALUES ('{word}');
             CREATE VIEW seen AS SELECT m FROM parent;
             CREATE MATERIALIZED VIEW stored AS SELECT m FROM seen;
             CREATE SCHEMA \"An app\"; CREATE TABLE \"An app\".\"It's\" (t text);
             INSERT INTO \"An app\".\"It's\" VALUES (E'{word}\\n\\\\.\\ttab');
             SELECT lo_from_bytea(4711, '{word}');"
        )
    };
    all[0].sql().batch_execute(&objects("glad")).expect("NA's");
    all[0]
        .sql()
        .batch_execute(
            "GRANT USAGE ON SCHEMA \"An app\" TO adopt_app;
             GRANT SELECT, UPDATE ON \"An app\".\"It's\" TO adopt_app; GRANT SELECT ON seen TO PUBLIC;
             REVOKE ALL ON FUNCTION glad FROM PUBLIC",
        )
        .expect("grants");
    all[2].sql().batch_execute(&objects("old")).expect("AS's");
    let committed = all[0].db.submit(&[kills(1, 5)]).expect("committed");

    let done = run(&adoption(&all, "AS", "NA")).expect("adopted");
    assert_eq!((done.first, done.warnings), (Seq(1), vec![]));
    let mut sql = all[2].sql();
    let row = sql
        .query_one(
            "SELECT glad()::text, (SELECT m::text FROM stored), (SELECT t FROM \"An app\".\"It's\"),
                    convert_from(lo_get(4711), 'UTF8'), (SELECT kills FROM users),
                    to_regprocedure('old(mood)') IS NULL,
                    has_table_privilege('adopt_app', '\"An app\".\"It''s\"', 'UPDATE')
                        AND NOT has_table_privilege('adopt_app', '\"An app\".\"It''s\"', 'DELETE')
                        AND has_schema_privilege('adopt_app', 'An app', 'USAGE')
                        AND has_table_privilege('adopt_app', 'seen', 'SELECT')
                        AND NOT has_function_privilege('adopt_app', 'glad(mood)', 'EXECUTE')
                        AND has_function_privilege('prism', 'glad(mood)', 'EXECUTE')",
            &[],
        )
        .expect("the copy");
    let text = |i| row.get::<_, String>(i);
    assert_eq!(
        (text(0), text(1), text(2), text(3)),
        (
            "glad".into(),
            "glad".into(),
            "glad\n\\.\ttab".into(),
            "glad".into()
        )
    );
    assert_eq!((row.get::<_, i64>(4), row.get::<_, bool>(5)), (5, true));
    assert!(row.get::<_, bool>(6), "grants");
    drop(admin);

    // It is a region like any other: knows NA's stream, has an own one.
    let mut target = all[2].another();
    let epoch = all[0].epoch();
    let at = target.position("NA").expect("a position");
    assert_eq!(
        (at.epoch, at.seq, at.tag),
        (epoch, Seq(1), committed[0].update.tag)
    );
    assert_eq!(target.region().expect("a region").epoch, done.epoch);
    let own = target.submit(&[kills(1, 1), user(7)]).expect("committed");
    assert_eq!(own[0].seq, Seq(1));
    let na = all[0].db.as_mut();
    apply(na, "AS", done.epoch, &items(&own)).expect("applied");
    assert_eq!(all[0].number("SELECT kills FROM users WHERE id = 1"), 6);
}

#[test]
fn what_belongs_to_another_role_stops_it_and_the_old_content_stays() {
    let all = regions();
    let mut admin = shared().admin(&database(&all[2])).expect("the superuser");
    admin
        .batch_execute("CREATE TABLE public.theirs (id int)")
        .expect("a table of another role");
    let error = run(&adoption(&all, "AS", "NA"))
        .expect_err("not possible")
        .to_string();
    assert!(error.contains("public.theirs of role postgres"), "{error}");
    assert!(error.contains("is as it was"), "{error}");
    assert_eq!(all[2].number("SELECT count(*) FROM users"), 1);
    // The same when it turns out in the middle of the copy.
    let same = "CREATE COLLATION public.same (locale = 'C')";
    all[0].sql().batch_execute(same).expect("NA's");
    let theirs = format!("DROP TABLE public.theirs; {same}");
    admin.batch_execute(&theirs).expect("another role's");
    let error = run(&adoption(&all, "AS", "NA")).expect_err("not possible");
    assert!(error.to_string().contains("already exists"), "{error}");
    assert_eq!(all[2].number("SELECT count(*) FROM users"), 1);
    admin
        .batch_execute("DROP COLLATION public.same")
        .expect("dropped");
    run(&adoption(&all, "AS", "NA")).expect("adopted");
}

#[test]
fn nothing_is_copied_from_a_region_that_has_less_than_another() {
    let mut all = regions();
    let committed = all[2].db.submit(&vec![kills(1, 1); 5]).expect("committed");
    let epoch = all[2].epoch();
    let [na, eu, asia] = &mut all;
    deliver(asia, &committed[..3], na);
    deliver(asia, &committed, eu);
    wipe(asia);

    let error = run(&adoption(&all, "AS", "NA")).expect_err("NA has less");
    let words = error.to_string();
    assert!(matches!(error, AdoptError::Donor { .. }), "{words}");
    assert!(words.contains("copy from EU"), "{words}");
    // Nothing is fenced yet.
    assert_eq!(all[0].db.position("AS").expect("a position").epoch, epoch);

    let done = run(&adoption(&all, "AS", "EU")).expect("adopted");
    assert_eq!(done.first, Seq(6));
    assert_eq!(done.warnings.len(), 1);
    assert!(
        done.warnings[0].contains("NA lacks updates 4 to 5"),
        "{done:?}"
    );
    assert_eq!(all[2].number("SELECT kills FROM users WHERE id = 1"), 5);
    // And it is not forgotten: the new stream does not go on where NA is.
    let mut asia = all[2].another();
    let na = all[0].db.position("AS").expect("a position");
    let eu = all[1].db.position("AS").expect("a position");
    assert_eq!(asia.outbox_verify(na).expect("a verdict"), Verdict::TooOld);
    assert_eq!(asia.outbox_verify(eu).expect("a verdict"), Verdict::Matches);
    // What is still on its way from the old numbering comes too late.
    let late = apply(all[0].db.as_mut(), "AS", epoch, &items(&committed[3..]));
    assert!(matches!(late, Err(DbError::Fork(_))), "{late:?}");
    // Rebuilding NA as well brings them together.
    run(&adoption(&all, "NA", "EU")).expect("adopted");
    assert_eq!(all[0].number("SELECT kills FROM users WHERE id = 1"), 5);
    let na = all[0].another().position("AS").expect("a position");
    assert_eq!(asia.outbox_verify(na).expect("a verdict"), Verdict::Matches);
}

#[test]
fn the_copy_waits_for_the_end_of_a_held_update() {
    let mut all = regions();
    let mut holder = all[0].another();
    let mut submission = kills(1, 1);
    submission.request_id = Some([7; 16]);
    let held = holder
        .held_begin(&submission, Duration::from_secs(60))
        .expect("executed");
    let seq = all[0].db.held_publish(&held).expect("published").seq;
    let mut watch = all[0].sql();
    let finish = std::thread::spawn(move || {
        until("the copy waits", || {
            let waits = "SELECT count(*) FROM pg_stat_activity
                         WHERE datname = current_database() AND query LIKE '%state = ''h''%'
                           AND application_name = 'prism adopt'";
            watch
                .query_one(waits, &[])
                .expect("a query")
                .get::<_, i64>(0)
                > 0
        });
        assert!(holder.held_finish(seq).expect("final"));
    });
    let done = run(&adoption(&all, "AS", "NA"));
    finish.join().expect("finished");
    done.expect("adopted");
    assert_eq!(all[2].number("SELECT kills FROM users WHERE id = 1"), 1);
    let at = all[2].another().position("NA").expect("a position");
    assert_eq!(at.seq, seq);
}

#[test]
fn a_donor_that_is_at_odds_with_another_region_is_not_copied() {
    let mut all = regions();
    let committed = all[0].db.submit(&vec![kills(1, 1); 3]).expect("committed");
    let [na, eu, _] = &mut all;
    deliver(na, &committed, eu);
    // NA is restored from a backup that has none of them.
    let sql = "DELETE FROM prism.outbox; UPDATE prism.region SET next_seq = 1, last_tag = 0";
    na.sql().batch_execute(sql).expect("restored");
    let error = run(&adoption(&all, "AS", "NA")).expect_err("NA is a fork");
    let words = error.to_string();
    assert!(matches!(error, AdoptError::Donor { .. }), "{words}");
    assert!(words.contains("EU has 3 updates of it"), "{words}");
}

#[test]
fn another_regions_database_is_never_overwritten() {
    let all = regions();
    let mut wrong = adoption(&all, "AS", "NA");
    wrong.sites[2].addresses = vec![parse(&all[1].url)];
    let error = run(&wrong).expect_err("that is EU's").to_string();
    assert!(
        error.contains("leads to the database of region EU"),
        "{error}"
    );
    assert_eq!(all[1].number("SELECT count(*) FROM users"), 1);
}

#[test]
fn the_others_keep_what_the_target_will_need_even_if_they_had_given_it_up() {
    let mut all = regions();
    let committed = all[1].db.submit(&vec![kills(1, 1); 5]).expect("committed");
    let [na, eu, asia] = &mut all;
    deliver(eu, &committed, asia);
    deliver(eu, &committed[..3], na);
    let end = asia.db.position("EU").expect("a position");
    eu.db.lane_acked("AS", end).expect("acknowledged");
    eu.db.lane_stale("AS").expect("stale");

    run(&adoption(&all, "AS", "NA")).expect("adopted");
    // NA goes on meanwhile, and retention is over.
    let [na, eu, _] = &mut all;
    deliver(eu, &committed[3..], na);
    eu.db.lane_acked("NA", end).expect("acknowledged");
    eu.db.outbox_trim(Duration::ZERO, 100).expect("trimmed");
    let lanes = eu.db.lanes().expect("lanes");
    let lane = lanes.iter().find(|lane| lane.peer == "AS").expect("a lane");
    assert_eq!((lane.acked.seq, lane.stale), (Seq(3), false));
    let at = all[2].another().position("EU").expect("a position");
    assert_eq!(
        all[1].db.outbox_verify(at).expect("a verdict"),
        Verdict::Matches
    );
    let [_, eu, asia] = &mut all;
    asia.db = open(&asia.url, options("AS"));
    deliver(eu, &committed[3..], asia);
    assert_eq!(all[2].number("SELECT kills FROM users WHERE id = 1"), 5);
}

#[test]
fn nobody_writes_into_the_old_database_once_its_end_is_decided() {
    let mut all = regions();
    let committed = all[0].db.submit(&vec![kills(1, 1); 2]).expect("committed");
    let [na, _, asia] = &mut all;
    deliver(na, &committed[..1], asia);
    let url = shared().admin_url(&database(asia));
    let mut other_role = open(&url, options("AS"));
    other_role.region().expect("connected");
    // The copy fails after the fences.
    let mut admin = shared().admin(&database(asia)).expect("the superuser");
    let theirs = "CREATE TABLE public.theirs (id int)";
    admin
        .batch_execute(theirs)
        .expect("a table of another role");
    run(&adoption(&all, "AS", "NA")).expect_err("not possible");
    // On connections of before, also another role's, and on new ones.
    let epoch = all[0].epoch();
    for db in [&mut all[2].another(), &mut all[2].db, &mut other_role] {
        apply(db.as_mut(), "NA", epoch, &items(&committed)).expect_err("sealed");
    }
    assert_eq!(all[2].number("SELECT kills FROM users WHERE id = 1"), 1);
    admin
        .batch_execute("DROP TABLE public.theirs")
        .expect("dropped");
    run(&adoption(&all, "AS", "NA")).expect("adopted");
    assert_eq!(all[2].number("SELECT kills FROM users WHERE id = 1"), 2);
}

#[test]
fn what_the_target_alone_has_is_delivered_and_undone_where_one_refuses_it() {
    let mut all = regions();
    let all_but_two = all[2].db.submit(&vec![kills(1, 1); 5]).expect("committed");
    let [na, eu, asia] = &mut all;
    deliver(asia, &all_but_two[..3], na);
    deliver(asia, &all_but_two[..2], eu);
    // Too much for EU, which says so.
    let check = "ALTER TABLE users ADD CONSTRAINT few CHECK (kills < 5)";
    eu.sql().batch_execute(check).expect("a constraint");

    let done = run(&adoption(&all, "AS", "NA")).expect("adopted");
    assert_eq!(done.warnings, Vec::<String>::new());
    // Five updates and the undo of the fifth.
    assert_eq!(done.first, Seq(7));
    for region in &all {
        let kills = region.number("SELECT kills FROM users WHERE id = 1");
        assert_eq!(kills, 4, "{}", region.name);
    }
}
