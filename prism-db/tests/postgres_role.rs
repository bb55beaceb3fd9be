//! Nodes run with a role that can do what they do and nothing else.
#![cfg(unix)]

mod pg;

use std::sync::Once;
use std::time::Duration;

use pg::*;
use prism_db::throwaway::Cluster;
use prism_db::{
    DatabaseUrl, DbError, HeldState, Inspection, UndoReason, Value, create_role, inspect_role,
    role_script,
};
use prism_proto::Seq;

/// The server of these tests: the owner of the schema may create roles, as on managed ones.
fn server() -> &'static Cluster {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut admin = shared().admin("postgres").unwrap();
        admin.batch_execute("ALTER ROLE prism CREATEROLE").unwrap();
    });
    shared()
}

/// The address of the database for another role.
fn as_role(url: &str, role: &str) -> String {
    let (_, host) = url.split_once('@').unwrap();
    format!("postgres://{role}:secret@{host}")
}

/// A region whose database is used by a role of its own; the tables that its trigger touches.
fn region(database: &str, name: &str, role: &str) -> Region {
    let mut region = Region::new(server(), database, name);
    let mut admin = server().admin(database).unwrap();
    region
        .sql()
        .batch_execute("CREATE TABLE unrelated (id bigint); REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO PUBLIC")
        .unwrap_or_else(|_| {
            admin.batch_execute("CREATE TABLE unrelated (id bigint); REVOKE CREATE ON SCHEMA public FROM PUBLIC").unwrap();
        });
    let granted = create_role(&parse(&region.url), role, &catalogue())
        .unwrap()
        .unwrap();
    let remarks = granted.remarks.join("\n");
    assert!(
        remarks.contains("trigger guard of public.guarded"),
        "{remarks}"
    );
    assert!(!remarks.contains("GRANT"), "{remarks}");
    admin
        .batch_execute(&format!("ALTER ROLE {role} PASSWORD 'secret'"))
        .unwrap();
    region.url = as_role(&region.url, role);
    region.db = open(&region.url, options(name));
    region
}

fn inspect(url: &str) -> Inspection {
    inspect_role(&parse(url), &catalogue()).unwrap().unwrap()
}

#[test]
fn the_whole_ladder_runs_with_the_role_of_the_nodes() {
    let mut na = region("role_na", "NA", "ladder_node");
    let mut eu = region("role_eu", "EU", "ladder_node");
    let mut third = region("role_as", "AS", "ladder_node");
    let rename = |name: &str| submission("rename", &[Value::Int(1), Value::Text(name.into())]);

    // Submits, with old values; apply; direct SQL is the same from elsewhere.
    na.db
        .submit(&[user(1), with_id(kills(1, 1), 1), with_id(rename("x"), 2)])
        .unwrap();
    ship_all(&mut na, &mut eu);
    ship_all(&mut na, &mut third);
    // Twice, and out of turn.
    ship_all(&mut na, &mut eu);
    // A refusal: dead letter there, undone here, told.
    eu.db.submit(&[kills(1, 999_990)]).unwrap();
    na.db.submit(&[with_id(kills(1, 50), 3)]).unwrap();
    let outcome = ship(&mut na, &mut eu);
    assert_eq!(outcome.wait, None);
    assert!(!eu.db.rejected(10).unwrap().is_empty());
    na.db.undo(Seq(4), &UndoReason::Crashed).unwrap();
    ship_all(&mut na, &mut eu);
    // A held update becomes final, another is undone.
    let long = Duration::from_secs(10);
    let held = na.db.held_begin(&with_id(rename("y"), 4), long).unwrap();
    let published = na.another().held_publish(&held).unwrap();
    assert!(na.db.held_finish(published.seq).unwrap());
    let held = na.db.held_begin(&with_id(rename("z"), 5), long).unwrap();
    let mut other = na.another();
    let published = other.held_publish(&held).unwrap();
    na.db.held_cancel().unwrap();
    assert_eq!(other.settle_held().unwrap().len(), 1);
    assert_ne!(other.held_state(published.seq).unwrap(), HeldState::Final);
    assert!(other.held_conflicts().unwrap().is_empty());
    ship_all(&mut na, &mut third);
    // What a node does besides.
    assert_eq!(na.db.lanes().unwrap().len(), 2);
    na.db.lane_lease("EU", "NA1", long).unwrap();
    na.db.lane_want("EU", "NA2", long).unwrap();
    na.db.lane_stale("EU").unwrap();
    na.db.lane_release("EU", "NA1").unwrap();
    na.db.node_claim("NA1", 7, 0).unwrap();
    assert!(na.db.node_beat("NA1", 7).unwrap());
    na.db.skip("EU", Seq(5)).unwrap();
    assert_eq!(na.db.skips("EU").unwrap(), [Seq(5)]);
    na.db.outbox_figures().unwrap();
    na.db.outbox_trim(Duration::ZERO, 10).unwrap();
    na.db.request_trim(Duration::ZERO, 10).unwrap();
    na.db.wait_for_outbox(Duration::ZERO).unwrap();
    let letter = eu.db.rejected(1).unwrap().pop().expect("a dead letter");
    eu.db.submit(&[kills(1, -500)]).unwrap();
    let _ = eu.db.rejected_retry(letter.id).unwrap();
    for statement in catalogue().iter().filter(|s| s.name() != "missing") {
        if ["users", "items", "guarded", "everything"]
            .iter()
            .any(|t| statement.sql().contains(t))
        {
            assert_eq!(na.db.check(statement).unwrap(), [], "{}", statement.name());
        }
    }
}

#[test]
fn it_can_do_nothing_else() {
    let na = region("role_less", "NA", "less_node");
    let mut sql = na.sql();
    for forbidden in [
        "SELECT * FROM unrelated",
        "DELETE FROM prism.region",
        "INSERT INTO prism.watermark (stream, key) VALUES ('X', 1)",
        "SELECT * FROM prism.intent",
        "DELETE FROM prism.rejected",
        "UPDATE prism.statement SET name = 'x'",
        "TRUNCATE users",
        "DELETE FROM users",
        "CREATE TABLE prism.mine ()",
        "CREATE TABLE public.mine ()",
        "CREATE SCHEMA mine",
        "ALTER TABLE users ADD x int",
        "CREATE OR REPLACE FUNCTION prism.new_tag() RETURNS bigint LANGUAGE sql AS 'SELECT 1'",
        "SELECT prism.submit('add_kills', '[1, 1]'::jsonb)",
        "CREATE ROLE another",
        "SET session_replication_role = replica",
    ] {
        let error = sql.batch_execute(forbidden).expect_err(forbidden);
        let code = error.code().map(|c| c.code().to_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{forbidden}: {error}");
    }
    let found = inspect(&na.url);
    assert_eq!((found.role.as_str(), found.missing), ("less_node", vec![]));
    assert_eq!(found.notes, [""; 0]);
}

#[test]
fn what_it_lacks_is_named_with_the_grant() {
    let na = region("role_lacks", "NA", "lacks_node");
    let mut admin = server().admin("role_lacks").unwrap();
    admin
        .batch_execute(
            "REVOKE UPDATE ON users FROM lacks_node; REVOKE INSERT ON prism.outbox FROM lacks_node",
        )
        .unwrap();
    let found = inspect(&na.url);
    assert_eq!(found.missing.len(), 2, "{found:?}");
    for (what, grant) in &found.missing {
        assert!(what.contains("may not"), "{what}");
        admin.batch_execute(grant).unwrap();
    }
    assert_eq!(inspect(&na.url).missing, []);
    // Nothing at all, yet.
    admin
        .batch_execute("CREATE ROLE lacks_all LOGIN PASSWORD 'secret'")
        .unwrap();
    let found = inspect(&as_role(&na.url, "lacks_all"));
    assert!(
        found.missing[0].1.contains("GRANT USAGE ON SCHEMA prism"),
        "{found:?}"
    );
    // Policies hide rows.
    admin
        .batch_execute("ALTER TABLE users ENABLE ROW LEVEL SECURITY")
        .unwrap();
    let notes = inspect(&na.url).notes;
    assert!(
        notes.iter().any(|n| n.contains("public.users")),
        "{notes:?}"
    );
}

#[test]
fn too_much_is_named_and_a_new_version_reaches_the_role() {
    let na = region("role_more", "NA", "more_node");
    let owner = inspect(&server().url("role_more"));
    assert!(owner.notes[0].contains("CREATEROLE"), "{owner:?}");
    let superuser = inspect(&server().admin_url("role_more"));
    assert!(superuser.notes[0].contains("SUPERUSER"), "{superuser:?}");
    let mut admin = server().admin("role_more").unwrap();
    admin
        .batch_execute("REVOKE DELETE ON prism.request FROM more_node; GRANT CREATE ON SCHEMA public TO PUBLIC")
        .unwrap();
    prism_db::migrate(
        &parse(&server().url("role_more")),
        &topology("NA"),
        &catalogue(),
    )
    .unwrap();
    let found = inspect(&na.url);
    assert_eq!(found.missing, []);
    assert!(found.notes[0].contains("REVOKE CREATE"), "{found:?}");
}

#[test]
fn the_printed_role_is_the_created_one() {
    let na = Region::new(server(), "role_print", "NA");
    na.sql()
        .batch_execute(
            "CREATE TABLE late (id int); CREATE TABLE odd (id int); CREATE TABLE nowhere (n int)",
        )
        .unwrap();
    let script = role_script("print\"node", &catalogue()).unwrap();
    let mut admin = server().admin("role_print").unwrap();
    admin.batch_execute(&script).unwrap();
    admin
        .batch_execute("ALTER ROLE \"print\"\"node\" PASSWORD 'secret'")
        .unwrap();
    assert_eq!(inspect(&as_role(&na.url, "print%22node")).missing, []);
    for bad in ["", "public", "pg_x", "a\0b"] {
        assert!(role_script(bad, &catalogue()).is_err(), "{bad:?}");
    }
    // An ordinary owner may not create roles everywhere, and is told what to do then.
    admin.batch_execute("CREATE ROLE plain_owner LOGIN PASSWORD 'secret'; GRANT ALL ON DATABASE role_print TO plain_owner").unwrap();
    let url = DatabaseUrl::Postgres(as_role(&na.url, "plain_owner"));
    let refused = create_role(&url, "never", &catalogue()).unwrap_err();
    assert!(
        matches!(&refused, DbError::Sql { message, .. } if message.contains("--print")),
        "{refused:?}"
    );
}

#[test]
fn names_that_need_quotes_are_granted_checked_and_written() {
    use prism_db::catalogue::{Catalogue, Kind};
    let na = Region::new(server(), "role_names", "NA");
    let table = r#""my.app"."T.1; "" --""#;
    let other = r#""Mixed.Case""#;
    na.sql()
        .batch_execute(&format!(
            "CREATE SCHEMA \"my.app\"; CREATE TABLE {table} (id bigint PRIMARY KEY);
             CREATE TABLE {other} (id bigint PRIMARY KEY, n bigint DEFAULT (random() * 9)::int)"
        ))
        .unwrap();
    let insert = |name: &str, table: &str| {
        let sql = format!("INSERT INTO {table} (id) VALUES ($1)");
        statement(name, &sql, &[prism_db::ParamType::Int], Kind::Insert)
    };
    let configs = [insert("quoted", table), insert("chance", other)];
    let catalogue = std::sync::Arc::new(Catalogue::load(&configs).unwrap());
    let owner = parse(&na.url);
    prism_db::migrate(&owner, &topology("NA"), &catalogue).unwrap();
    let granted = create_role(&owner, "names_node", &catalogue)
        .unwrap()
        .unwrap();
    assert_eq!(granted.remarks, [""; 0]);
    let mut admin = server().admin("role_names").unwrap();
    admin
        .batch_execute("ALTER ROLE names_node PASSWORD 'secret'")
        .unwrap();
    let mut options = options("NA");
    options.catalogue = std::sync::Arc::clone(&catalogue);
    let mut db = open(&as_role(&na.url, "names_node"), options);
    let [quoted, chance] = ["quoted", "chance"].map(|name| catalogue.get(name).unwrap());
    let one = prism_db::Submission {
        statement: quoted.digest(),
        params: quoted.bind(&[Value::Int(1)]).unwrap(),
        request_id: None,
    };
    db.submit(&[one]).unwrap();
    assert_eq!(na.number(&format!("SELECT count(*) FROM {table}")), 1);
    assert_eq!(db.check(quoted).unwrap(), []);
    // The default that differs between regions is found, whatever the table is called.
    assert_eq!(db.check(chance).unwrap().len(), 1);
    admin
        .batch_execute("DROP OWNED BY names_node; DROP ROLE names_node")
        .unwrap();
    admin
        .batch_execute(&role_script("names_node", &catalogue).unwrap())
        .unwrap();
}
