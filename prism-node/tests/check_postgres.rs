//! `prism check` and `prism migrate` on a real PostgreSQL.

mod support;

use std::fs;

use prism_db::throwaway::Cluster;

use support::{expect, prism, temp};

#[test]
fn check_finds_missing_tables_columns_and_grants() {
    let cluster = Cluster::start().expect("PostgreSQL");
    cluster.create_database("na").expect("database");
    let dir = temp();
    let text = format!(
        r#"
cluster = "game"
[[region]]
name = "NA"
database = "{}"
[[region.node]]
name = "NA1"
udp = "127.0.0.1:{}"
http = "127.0.0.1:{}"
[[statement]]
name = "add_kills"
sql = "UPDATE users SET kills = kills + $2 WHERE username = $1"
params = ["text", "int"]
kind = "delta"
[[statement]]
name = "rename"
sql = "UPDATE users SET name = $2 WHERE username = $1"
params = ["text", "text"]
kind = "absolute"
key = "users/$1"
old = "SELECT name FROM users WHERE username = $1"
undo = "UPDATE users SET name = $old1 WHERE username = $1 AND name = $2"
"#,
        cluster.url("na"),
        support::free_port(),
        support::free_port(),
    );
    fs::write(dir.path().join("prism.toml"), text).expect("write");
    let check = |status: i32| expect(&prism(dir.path(), &["check"]), status).0;
    let sql = |text: &str| {
        let mut admin = cluster.admin("na").expect("admin");
        admin.batch_execute(text).expect(text);
    };

    let out = check(1);
    assert!(
        out.contains("migrate --config prism.toml --region NA"),
        "{out}"
    );
    // What the statements need may come after the schema.
    let (out, _) = expect(&prism(dir.path(), &["migrate"]), 0);
    assert!(
        out.starts_with("NA: schema ") && out.contains(" created"),
        "{out}"
    );
    let out = check(1);
    assert!(
        out.contains("add_kills, sql: relation \"users\" does not exist (SQLSTATE 42P01)"),
        "{out}"
    );

    sql("CREATE TABLE users (username text PRIMARY KEY, kills int NOT NULL)");
    let out = check(1);
    assert!(
        out.contains("add_kills, sql: permission denied for table users (SQLSTATE 42501)"),
        "{out}"
    );

    sql("GRANT SELECT, UPDATE ON users TO PUBLIC");
    let out = check(1);
    assert!(!out.contains("add_kills"), "{out}");
    for key in ["sql", "old", "undo"] {
        assert!(
            out.contains(&format!("rename, {key}: column \"name\"")),
            "{key}: {out}"
        );
    }
    sql("ALTER TABLE users ADD COLUMN name varchar(40)");
    let out = check(0);
    assert!(out.contains("statements in NA: all 2 can be run"), "{out}");

    let mut cluster = cluster;
    cluster.stop();
    let out = check(1);
    assert!(
        out.contains("PROBLEM  database of NA: cannot reach the database"),
        "{out}"
    );
    assert!(out.contains("fix: start the database"), "{out}");
}
