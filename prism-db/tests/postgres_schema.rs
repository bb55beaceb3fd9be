//! Migrating and connecting on PostgreSQL: ordinary roles, grants, versions, addresses.
#![cfg(unix)]

mod pg;

use std::sync::Arc;

use pg::*;
use prism_db::{DatabaseUrl, DbError, ErrorClass, OpenOptions, Submission, Value, migrate};
use prism_proto::Seq;

/// A database of another owner than `prism`, and a second role without any rights.
fn with_roles(name: &str) -> (DatabaseUrl, String) {
    let mut admin = shared().admin("postgres").unwrap();
    admin
        .batch_execute(&format!("CREATE ROLE {name}_node LOGIN PASSWORD 'secret'"))
        .unwrap();
    shared().create_database(name).unwrap();
    let url = shared().url(name);
    let (_, host) = url.split_once('@').unwrap();
    (parse(&url), format!("postgres://{name}_node:secret@{host}"))
}

#[test]
fn a_role_without_grants_is_told_which() {
    let (owner, node) = with_roles("grants");
    let refused = migrate(&parse(&node), &topology("NA"), &catalogue()).unwrap_err();
    assert!(
        matches!(&refused, DbError::Sql { class: ErrorClass::Operator, sqlstate, message, .. }
            if sqlstate == "42501" && message.contains("GRANT CREATE ON DATABASE")),
        "{refused:?}"
    );
    migrate(&owner, &topology("NA"), &catalogue()).unwrap();
    let mut db = open(&node, options("NA"));
    let refused = db.region().unwrap_err();
    assert!(
        matches!(&refused, DbError::Sql { class: ErrorClass::Operator, sqlstate, message, .. }
            if sqlstate == "42501" && message.contains("prism migrate --role NAME")),
        "{refused:?}"
    );
    let DatabaseUrl::Postgres(url) = &owner else {
        unreachable!()
    };
    let mut sql = postgres::Client::connect(url, postgres::NoTls).unwrap();
    sql.batch_execute(
        "GRANT USAGE ON SCHEMA prism TO grants_node;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA prism TO grants_node;
         CREATE TABLE users (id bigint PRIMARY KEY, name text, kills bigint NOT NULL DEFAULT 0);
         GRANT ALL ON users TO grants_node",
    )
    .unwrap();
    assert_eq!(db.submit(&[user(1), kills(1, 1)]).unwrap().len(), 2);
    // It created its table where applications expect it, not among the ledger.
    let schema: String = sql
        .query_one(
            "SELECT schemaname::text FROM pg_tables WHERE tablename = 'users'",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(schema, "public");
}

#[test]
fn many_migrations_at_once_make_one_region() {
    let (owner, _) = with_roles("many");
    let epochs: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| migrate(&owner, &topology("NA"), &catalogue()).unwrap()))
            .collect();
        all.into_iter().map(|m| m.join().unwrap()).collect()
    });
    assert_eq!(epochs.iter().filter(|m| m.from_version == 0).count(), 1);
    assert!(epochs.iter().all(|m| m.region == epochs[0].region));
}

#[test]
fn an_unusable_address_says_why_and_hides_the_password() {
    let unreachable = |url: &str| -> String {
        let result = prism_db::open(&parse(url), options("NA"));
        let error = match result {
            Err(error) => error,
            Ok(mut db) => db.region().unwrap_err(),
        };
        assert!(!error.to_string().contains("s3cret"), "{error}");
        error.to_string()
    };
    let unknown = "postgres://a:s3cret@127.0.0.1/b?colour=blue";
    let unknown = DatabaseUrl::parse(unknown, std::path::Path::new("/")).unwrap_err();
    let unknown = unknown.to_string();
    assert!(
        unknown.contains("colour") && !unknown.contains("s3cret"),
        "{unknown}"
    );
    let nobody = unreachable("postgres://a:s3cret@127.0.0.1:1/b");
    assert!(nobody.contains("refused"), "{nobody}");
    let port = shared().port();
    let login = unreachable(&format!(
        "postgres://prism:s3cret@127.0.0.1:{port}/postgres"
    ));
    assert!(login.contains("cannot log in"), "{login}");
    let database = shared().url("no_such_database");
    let mut db = open(&database, options("NA"));
    let error = db.region().unwrap_err().to_string();
    assert!(error.contains("no_such_database"), "{error}");
}

#[test]
fn a_weaker_default_of_the_server_does_not_weaken_commits() {
    let mut na = Region::new(shared(), "durable", "NA");
    na.sql()
        .batch_execute(
            "ALTER ROLE prism IN DATABASE durable SET synchronous_commit = off;
             ALTER ROLE prism IN DATABASE durable SET default_transaction_isolation = 'serializable';
             ALTER ROLE prism IN DATABASE durable SET DateStyle = 'German';
             ALTER ROLE prism IN DATABASE durable SET TimeZone = 'Asia/Tokyo';
             CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 NEW.name := concat_ws(' ', current_setting('synchronous_commit'),
                     current_setting('transaction_isolation'), current_setting('TimeZone'),
                     current_setting('DateStyle'), current_setting('search_path'));
                 RETURN NEW;
             END $$;
             CREATE TRIGGER witness BEFORE INSERT ON users
                 FOR EACH ROW EXECUTE FUNCTION witness();",
        )
        .unwrap();
    let mut db = na.another();
    db.submit(&[user(1)]).unwrap();
    let seen: String = na
        .sql()
        .query_one("SELECT name FROM users", &[])
        .unwrap()
        .get(0);
    assert_eq!(seen, "on read committed UTC ISO, MDY public, pg_temp");
    na.db.region().unwrap();
}

#[test]
fn what_a_statement_lacks_here_is_found_before_it_runs() {
    let mut na = Region::new(shared(), "lacks", "NA");
    let mut admin = shared().admin("lacks").unwrap();
    admin
        .batch_execute(
            "REVOKE ALL ON guarded FROM prism; ALTER TABLE guarded OWNER TO postgres;
             ALTER TABLE items ADD at timestamptz DEFAULT now(), ADD n bigserial",
        )
        .unwrap();
    let catalogue = catalogue();
    let mut problems = |name: &str| {
        let statement = catalogue.get(name).unwrap();
        let errors = na.db.check(statement).unwrap();
        errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    };
    for fine in ["add_user", "add_kills", "rename", "everything"] {
        assert_eq!(problems(fine), "", "{fine}");
    }
    assert!(problems("missing").contains("nowhere"));
    assert!(problems("guarded").contains("permission denied"));
    let defaults = problems("add_item");
    assert!(
        defaults.contains("column at") && defaults.contains("column n"),
        "{defaults}"
    );
    assert_eq!(na.number("SELECT count(*) FROM users"), 0);
}

/// What it reads is locked where that is possible; elsewhere it is run as it is.
#[test]
fn an_old_query_that_can_not_lock_is_run_all_the_same() {
    use prism_db::catalogue::{Catalogue, Kind};
    let na = Region::new(shared(), "counts", "NA");
    let mut config = statement(
        "count_kills",
        "UPDATE users SET kills = kills + 1 WHERE id = $1",
        &[prism_db::ParamType::Int],
        Kind::Delta,
    );
    config.old = Some("SELECT max(kills) FROM users WHERE id = $1".to_owned());
    config.undo = Some("UPDATE users SET kills = $old1 WHERE id = $1".to_owned());
    let catalogue = Arc::new(Catalogue::load(&[config]).unwrap());
    migrate(&parse(&na.url), &topology("NA"), &catalogue).unwrap();
    na.sql()
        .execute("INSERT INTO users (id, kills) VALUES (1, 7)", &[])
        .unwrap();
    let statement = catalogue.get("count_kills").unwrap();
    let submission = Submission {
        statement: statement.digest(),
        params: statement.bind(&[Value::Int(1)]).unwrap(),
        request_id: None,
    };
    let options = OpenOptions::new(topology("NA"), Arc::clone(&catalogue));
    let mut db = open(&na.url, options);
    assert_eq!(db.check(statement).unwrap(), []);
    let committed = db.submit(&[submission]).unwrap().remove(0);
    assert_eq!(committed.update.old, [Value::Int(7)]);
}

/// As the first version left it, with updates under way.
#[test]
fn a_database_of_the_first_version_is_upgraded_with_what_it_holds() {
    let (owner, node) = with_roles("upgrade");
    let DatabaseUrl::Postgres(url) = &owner else {
        unreachable!()
    };
    let mut sql = postgres::Client::connect(url, postgres::NoTls).unwrap();
    let catalogue = catalogue();
    let statement = catalogue.get("add_kills").unwrap();
    sql.batch_execute("CREATE SCHEMA prism").unwrap();
    sql.batch_execute(include_str!("../src/postgres/migrations/0001_ledger.sql"))
        .unwrap();
    sql.execute(
        "INSERT INTO prism.statement (digest, name, definition, params, old_columns)
         VALUES ($1, 'add_kills', $2, '{int,int}', 0)",
        &[&statement.digest().0.as_slice(), &statement.definition()],
    )
    .unwrap();
    let update = prism_db::Update {
        tag: prism_proto::Tag(8),
        prev_tag: prism_proto::Tag(0),
        statement: statement.digest(),
        params: vec![Value::Int(1), Value::Int(2)],
        old: vec![],
        hlc: prism_db::Hlc(5),
        rows: 1,
        seen: vec![],
        undoes: None,
        held: false,
        request_id: None,
    };
    sql.execute(
        "INSERT INTO prism.rejected (stream, epoch, seq, statement, update, sqlstate, message)
         VALUES ('EU', 5, 3, $1, $2, '23514', 'no')",
        &[&statement.digest().0.as_slice(), &update.encode()],
    )
    .unwrap();
    let params = [2u8, 2, 2, 2, 4];
    sql.batch_execute(
        "CREATE TABLE users (id bigint PRIMARY KEY, name text, kills bigint NOT NULL DEFAULT 0);
         INSERT INTO users VALUES (1, 'a', 2);
         CREATE FUNCTION prism.s_1(bigint, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
         CREATE FUNCTION prism.submit_batch(p_ids integer[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
         INSERT INTO prism.region (name, epoch, next_seq, last_tag, hlc, schema_version)
             VALUES ('NA', 77, 3, 9, 5, 1);
         INSERT INTO prism.watermark (stream, key, epoch, applied)
             VALUES ('EU', 4, 5, 3);
         INSERT INTO prism.lane (peer) VALUES ('EU');",
    )
    .unwrap();
    for (seq, tag, prev) in [(1i64, 8i64, 0i64), (2, 9, 8)] {
        sql.execute(
            "INSERT INTO prism.outbox (seq, tag, prev_tag, hlc, rows, statement, params, seen)
             VALUES ($1, $2, $3, $1, 1, 1, $4, '{}')",
            &[&seq, &tag, &prev, &params.as_slice()],
        )
        .unwrap();
    }
    sql.batch_execute(
        "GRANT USAGE ON SCHEMA prism TO upgrade_node; GRANT ALL ON users TO upgrade_node;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA prism TO upgrade_node",
    )
    .unwrap();
    let migrated = migrate(&owner, &topology("NA"), &catalogue).unwrap();
    assert_eq!((migrated.from_version, migrated.to_version), (1, 3));
    // A node whose role does not own the schema goes on as it is.
    let mut db = open(&node, options("NA"));
    assert_eq!(db.node_claim("NA1", 1, 1).unwrap(), None);
    let mut read = Vec::new();
    db.outbox_read(Seq(1), Seq(9), 1 << 20, &mut |seq, bytes| {
        read.push((seq.0, prism_db::Update::decode(bytes).unwrap()));
    })
    .unwrap();
    assert_eq!(read.len(), 2);
    assert_eq!(read[0].1.params, update.params);
    let lane = db.lanes().unwrap().remove(1);
    assert_eq!((lane.peer.as_str(), lane.backlog > 0), ("EU", true));
    assert_eq!(lane.backlog, db.outbox_figures().unwrap().bytes);
    // What was refused before is told now, its origin never heard of it durably.
    assert_eq!(db.refusals("EU", 9).unwrap().len(), 1);
    let committed = db.submit(&[kills(1, 1)]).unwrap();
    assert_eq!(committed[0].seq.0, 3);
    assert!(db.lanes().unwrap().remove(1).backlog > lane.backlog);
    // Twice is as good as once.
    let again = migrate(&owner, &topology("NA"), &catalogue).unwrap();
    assert_eq!((again.from_version, again.region.next_seq.0), (3, 4));
}
