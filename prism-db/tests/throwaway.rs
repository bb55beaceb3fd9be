//! The throwaway PostgreSQL server starts, survives what tests do to it, and leaves nothing.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use prism_db::throwaway::Cluster;

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn killed_and_restarted_it_keeps_what_was_committed() {
    let mut cluster = Cluster::start().unwrap();
    cluster.create_database("app").unwrap();
    let port = cluster.port();
    let mut client = Client::connect(&cluster.url("app"), NoTls).unwrap();
    client
        .batch_execute("CREATE TABLE t (n bigint); INSERT INTO t VALUES (1)")
        .unwrap();
    let superuser: bool = client
        .query_one(
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(
        !superuser,
        "tests would not notice a need for superuser rights"
    );

    let backends = cluster.backends();
    assert!(!backends.is_empty());
    cluster.kill9();
    assert!(client.batch_execute("SELECT 1").is_err());
    assert!(Client::connect(&cluster.url("app"), NoTls).is_err());
    cluster.restart().unwrap();
    assert_eq!(cluster.port(), port);
    let mut client = Client::connect(&cluster.url("app"), NoTls).unwrap();
    let n: i64 = client.query_one("SELECT n FROM t", &[]).unwrap().get(0);
    assert_eq!(n, 1);

    cluster.sigstop();
    cluster.sigcont();
    client.batch_execute("UPDATE t SET n = n + 1").unwrap();
    cluster.stop();
    cluster.restart().unwrap();
    let mut client = Client::connect(&cluster.url("app"), NoTls).unwrap();
    let n: i64 = client.query_one("SELECT n FROM t", &[]).unwrap().get(0);
    assert_eq!(n, 2);
}

/// Not a test: the program that is killed by the test below.
#[test]
fn start_and_wait_to_be_killed() {
    if std::env::var_os("PRISM_TEST_CHILD").is_none() {
        return;
    }
    let cluster = Cluster::start().unwrap();
    println!("directory={}", cluster.directory().display());
    println!("url={}", cluster.admin_url("postgres"));
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn it_goes_when_its_parent_is_killed() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "start_and_wait_to_be_killed", "--nocapture"])
        .env("PRISM_TEST_CHILD", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut directory, mut url) = (String::new(), String::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The test harness writes the test's name into the same line.
        if let Some((_, d)) = line.split_once("directory=") {
            directory = d.to_owned();
        } else if let Some((_, u)) = line.split_once("url=") {
            url = u.to_owned();
            break;
        }
    }
    assert!(Client::connect(&url, NoTls).is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
    until("the server stops", || Client::connect(&url, NoTls).is_err());
    until("the directory goes", || {
        !std::path::Path::new(&directory).exists()
    });
}
