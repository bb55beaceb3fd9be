//! Migrating and connecting on PostgreSQL: ordinary roles, grants, versions, addresses.
#![cfg(unix)]

mod pg;

use pg::*;
use prism_db::{DatabaseUrl, DbError, ErrorClass, migrate};

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
            if sqlstate == "42501" && message.contains("GRANT USAGE ON SCHEMA prism")),
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
    let tls = unreachable("postgres://a:s3cret@127.0.0.1/b?sslmode=require");
    assert!(tls.contains("TLS"), "{tls}");
    let unknown = unreachable("postgres://a:s3cret@127.0.0.1/b?colour=blue");
    assert!(unknown.contains("colour"), "{unknown}");
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
