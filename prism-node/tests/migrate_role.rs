//! `prism migrate --role`, `--print` and `--as`: the file names the role that nodes log in as, and
//! the schema and that role are made by the owner.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use prism_db::throwaway::Cluster;

use support::{expect, free_port, prism, temp};

const PASSWORD: &str = "of-the-nodes";

/// A cluster file whose database address is `url`.
fn write(dir: &Path, url: &str) {
    let text = format!(
        r#"
cluster = "game"
[[region]]
name = "NA"
database = "{url}"
[[region.node]]
name = "NA1"
udp = "127.0.0.1:{}"
http = "127.0.0.1:{}"
[[statement]]
name = "add_kills"
sql = "UPDATE users SET kills = kills + $2 WHERE username = $1"
params = ["text", "int"]
kind = "delta"
"#,
        free_port(),
        free_port(),
    );
    fs::write(dir.join("prism.toml"), text).expect("write");
}

fn with_password(dir: &Path, password: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_prism"))
        .args(args)
        .current_dir(dir)
        .env("PGPASSWORD", password)
        .env_remove("RUST_LOG")
        .output()
        .expect("prism runs")
}

/// The server with the application's table, and the owner's password.
fn server() -> (Cluster, String) {
    let cluster = Cluster::start().expect("PostgreSQL");
    cluster.create_database("na").expect("database");
    let url: postgres::Config = cluster.url("na").parse().expect("a URL");
    let password = url.get_password().expect("a password");
    let password = String::from_utf8(password.to_vec()).expect("text");
    let mut owner = postgres::Client::connect(&cluster.url("na"), postgres::NoTls).expect("owner");
    let tables = "CREATE TABLE users (username text PRIMARY KEY, kills int NOT NULL)";
    owner.batch_execute(tables).expect("the tables");
    (cluster, password)
}

/// The address as the role that nodes log in as.
fn node_url(cluster: &Cluster) -> String {
    let port = cluster.port();
    format!("postgres://na_node:{PASSWORD}@127.0.0.1:{port}/na?sslmode=disable")
}

fn roles(cluster: &Cluster) -> i64 {
    let mut admin = cluster.admin("na").expect("admin");
    let sql = "SELECT count(*) FROM pg_roles WHERE rolname = 'na_node'";
    admin.query_one(sql, &[]).expect("a query").get(0)
}

#[test]
fn print_connects_to_nothing_and_what_it_prints_makes_a_role_that_nodes_can_run_with() {
    let dir = temp();
    // Nobody listens there.
    let nowhere = format!("postgres://na_node:{PASSWORD}@127.0.0.1:1/na?sslmode=disable");
    write(dir.path(), &nowhere);
    let print = ["migrate", "--role", "na_node", "--print"];
    let (script, words) = expect(&prism(dir.path(), &print), 0);
    assert!(script.contains("CREATE ROLE"), "{script}");
    assert!(!script.contains(PASSWORD) && words.is_empty(), "{words}");

    let (cluster, owner) = server();
    write(dir.path(), &node_url(&cluster));
    expect(&prism(dir.path(), &print), 0);
    assert_eq!(roles(&cluster), 0, "--print made the role");
    let login = ["migrate", "--as", "prism"];
    let (out, _) = expect(&with_password(dir.path(), &owner, &login), 0);
    assert!(out.contains(" created"), "{out}");
    assert_eq!(roles(&cluster), 0, "nobody asked for the role");

    let mut admin = cluster.admin("na").expect("admin");
    admin.batch_execute(&script).expect("the script runs");
    let password = format!("ALTER ROLE na_node PASSWORD '{PASSWORD}'");
    admin.batch_execute(&password).expect("a password");
    let (out, _) = expect(&prism(dir.path(), &["check"]), 0);
    assert!(out.contains("statements in NA: all 1 can be run"), "{out}");
}

#[test]
fn the_owner_makes_schema_and_role_with_one_command_and_may_repeat_it() {
    let (cluster, owner) = server();
    let dir = temp();
    write(dir.path(), &node_url(&cluster));
    let mut admin = cluster.admin("na").expect("admin");
    let may = "ALTER ROLE prism CREATEROLE";
    admin.batch_execute(may).expect("as on managed servers");

    let migrate = ["migrate", "--as", "prism", "--role", "na_node"];
    let (out, _) = expect(&with_password(dir.path(), &owner, &migrate), 0);
    assert!(out.contains("NA: role na_node created"), "{out}");
    assert!(!out.contains(PASSWORD) && !out.contains(&owner), "{out}");
    let password = format!("ALTER ROLE na_node PASSWORD '{PASSWORD}'");
    admin.batch_execute(&password).expect("a password");
    expect(&prism(dir.path(), &["check"]), 0);

    let (out, _) = expect(&with_password(dir.path(), &owner, &migrate), 0);
    assert!(out.contains("is up to date"), "{out}");
    assert!(out.contains("NA: role na_node has its grants"), "{out}");
}

#[test]
fn the_owner_with_a_wrong_password_is_told_so_and_changes_nothing() {
    let (cluster, owner) = server();
    let dir = temp();
    write(dir.path(), &node_url(&cluster));
    let migrate = ["migrate", "--as", "prism", "--role", "na_node"];
    let (out, err) = expect(&with_password(dir.path(), "not-it", &migrate), 1);
    assert!(
        out.contains("NA: FAILED") && out.contains("password"),
        "{out}"
    );
    for secret in [PASSWORD, "not-it", &owner] {
        assert!(!out.contains(secret) && !err.contains(secret), "{out}{err}");
    }
    assert_eq!(roles(&cluster), 0);
}

#[test]
fn print_needs_a_role_and_no_login() {
    let dir = temp();
    write(dir.path(), "postgres://na_node@127.0.0.1:1/na");
    let (_, err) = expect(&prism(dir.path(), &["migrate", "--print"]), 2);
    assert!(err.contains("--role"), "{err}");
    let both = ["migrate", "--role", "na_node", "--print", "--as", "prism"];
    let (_, err) = expect(&prism(dir.path(), &both), 2);
    assert!(err.contains("--as") && err.contains("--print"), "{err}");
}
