//! The `prism` binary as people and scripts meet it: exit status, stdout, stderr, files.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prism_db::UndoReason;
use prism_node::config::Config;
use prism_node::http::{Patience, Server, ServerConfig};
use prism_node::intake::{Answer, Failure, Finding, Intake, Mode, NewUpdate, Pending};
use prism_node::status::{Board, Lane, Status};
use prism_proto::Seq;

use support::{cluster, expect, prism, temp};

#[test]
fn help_and_version_are_on_stdout() {
    let dir = temp();
    let (out, _) = expect(&prism(dir.path(), &["--help"]), 0);
    for command in [
        "demo", "init", "keygen", "pubkey", "migrate", "check", "node", "submit", "status",
        "rejected", "skip",
    ] {
        assert!(out.contains(&format!("\n  {command} ")), "{command}: {out}");
        let (help, _) = expect(&prism(dir.path(), &[command, "--help"]), 0);
        assert!(help.lines().count() <= 24, "{help}");
    }
    expect(&prism(dir.path(), &["--version"]), 0);
}

#[test]
fn wrong_usage_is_status_2() {
    let dir = temp();
    for args in [
        &[][..],
        &["frobnicate"],
        &["node"],
        &["demo", "--loss", "1.5"],
        &["demo", "--updates", "0"],
        &["--log", "xml", "check"],
        &["--log-level", "a=b=c", "check"],
        &["submit", "--node", "NA1", "x", "--id", "no-uuid"],
        &["submit", "--node", "NA1", "x", "1", "--json-params", "[]"],
    ] {
        let (_, err) = expect(&prism(dir.path(), args), 2);
        assert!(!err.is_empty(), "{args:?}");
    }
    for later in ["verify", "repair"] {
        let (_, err) = expect(&prism(dir.path(), &[later, "NA", "--from", "EU", "7"]), 2);
        assert!(err.contains("is not built yet"), "{err}");
    }
}

#[test]
fn a_missing_or_wrong_configuration_is_status_2_for_every_command() {
    let dir = temp();
    let commands: &[&[&str]] = &[
        &["migrate"],
        &["check"],
        &["node", "--node", "NA1", "--data-dir", "."],
        &["submit", "--node", "NA1", "add_kills", "steve", "1"],
        &["status"],
    ];
    for args in commands {
        let (_, err) = expect(&prism(dir.path(), args), 2);
        assert!(err.contains("prism init"), "{err}");
    }
    fs::write(dir.path().join("prism.toml"), "cluster = 7\n").expect("write");
    for args in commands {
        let (_, err) = expect(&prism(dir.path(), args), 2);
        assert!(
            err.contains("prism.toml:1:11: `cluster` in the file is of type integer"),
            "{err}"
        );
        assert!(
            err.contains("no region is configured"),
            "all problems at once: {err}"
        );
    }
    // An endless file that is no file.
    let (_, err) = expect(&prism(dir.path(), &["check", "--config", "/dev/zero"]), 2);
    assert!(err.contains("larger than"), "{err}");
}

#[test]
fn keygen_and_pubkey() {
    let dir = temp();
    let (key, _) = expect(&prism(dir.path(), &["keygen"]), 0);
    assert_eq!(key.trim().len(), 44);
    expect(&prism(dir.path(), &["keygen", "node.key"]), 0);
    let path = dir.path().join("node.key");
    let mode = fs::metadata(&path).expect("node.key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = fs::read(&path).expect("node.key");
    let (_, err) = expect(&prism(dir.path(), &["keygen", "node.key"]), 1);
    assert!(err.contains("not overwritten"), "{err}");
    assert_eq!(fs::read(&path).expect("node.key"), before);

    let (public, _) = expect(&prism(dir.path(), &["pubkey", "node.key"]), 0);
    assert_eq!(public.trim().len(), 44);
    assert_eq!(
        expect(&prism(dir.path(), &["pubkey", "node.key"]), 0).0,
        public
    );
    assert_ne!(public.as_bytes(), before);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
    let (_, err) = expect(&prism(dir.path(), &["pubkey", "node.key"]), 1);
    assert!(
        err.contains("mode 0644") && err.contains("chmod 600 node.key"),
        "{err}"
    );
    let (_, err) = expect(&prism(dir.path(), &["pubkey", "none.key"]), 1);
    assert!(err.contains("prism keygen none.key"), "{err}");
    for (name, content) in [("short", &b"AAAA"[..]), ("binary", &b"\0\xff\xfe"[..])] {
        let path = dir.path().join(name);
        fs::write(&path, content).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        let (_, err) = expect(&prism(dir.path(), &["pubkey", name]), 1);
        assert!(err.contains("44 characters of base64"), "{err}");
    }
    expect(&prism(dir.path(), &["pubkey", "."]), 1);
}

#[test]
fn init_check_migrate_check() {
    let dir = temp();
    cluster(dir.path());
    for secret in ["game.psk", "data/NA1/node.key", "data/AS2/node.key"] {
        let path = dir.path().join(secret);
        let mode = fs::metadata(path).expect(secret).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    // The public key in the file is that of the private one.
    let config = Config::load(&dir.path().join("prism.toml")).expect("config");
    let (public, _) = expect(&prism(dir.path(), &["pubkey", "data/EU2/node.key"]), 0);
    let eu2 = config.node_named("EU2").expect("EU2").public_key;
    assert_eq!(eu2.expect("a key").to_string(), public.trim());

    let (out, err) = expect(&prism(dir.path(), &["check"]), 1);
    assert!(
        out.contains("PROBLEM  database of NA: this database has no prism schema"),
        "{out}"
    );
    assert!(
        out.contains("migrate --config prism.toml --region NA"),
        "{out}"
    );
    assert_eq!(err, "error: 3 problems\n");

    let (out, _) = expect(&prism(dir.path(), &["migrate", "--region", "EU"]), 0);
    assert!(
        out.starts_with("EU: schema ") && out.contains(" created"),
        "{out}"
    );
    assert_eq!(
        expect(&prism(dir.path(), &["check"]), 1).1,
        "error: 2 problems\n"
    );
    let (out, _) = expect(&prism(dir.path(), &["migrate"]), 0);
    assert!(out.contains("EU: schema 2 is up to date\n"), "{out}");
    let (out, _) = expect(&prism(dir.path(), &["check"]), 0);
    assert!(!out.contains("PROBLEM"), "{out}");
    let (_, err) = expect(&prism(dir.path(), &["migrate", "--region", "MARS"]), 2);
    assert!(err.contains("its regions are NA, EU, AS"), "{err}");
}

#[test]
fn init_overwrites_nothing() {
    for existing in ["prism.toml", "game.psk", "data/EU1/node.key", "data/as.db"] {
        let dir = temp();
        let path = dir.path().join("first").join(existing);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(&path, "mine").expect("write");
        let (_, err) = expect(&prism(dir.path(), &["init", "first"]), 1);
        assert!(
            err.contains(existing) && err.contains("choose an empty directory"),
            "{err}"
        );
        assert_eq!(fs::read_to_string(&path).expect("still there"), "mine");
        assert_eq!(
            dir.path().join("first/prism.toml").exists(),
            existing == "prism.toml"
        );
    }
}

#[test]
fn check_names_what_the_databases_lack() {
    let dir = temp();
    let text = cluster(dir.path());
    expect(&prism(dir.path(), &["migrate"]), 0);
    let database = rusqlite::Connection::open(dir.path().join("data/eu.db")).expect("eu.db");
    database.execute_batch("DROP TABLE users").expect("drop");
    let (out, err) = expect(&prism(dir.path(), &["check"]), 1);
    assert!(
        out.contains("PROBLEM  statements in EU: add_kills, sql: no such table: users"),
        "{out}"
    );
    assert!(out.contains("statements in NA: all 3 can be run"), "{out}");
    assert!(err.ends_with("problems\n"), "{err}");

    // EU's database under NA's name; a port that somebody else has.
    let taken = TcpListener::bind("127.0.0.1:0").expect("port");
    let config = Config::load(&dir.path().join("prism.toml")).expect("config");
    let text = text
        .replace("sqlite:data/eu.db", "sqlite:data/other.db")
        .replace("sqlite:data/na.db", "sqlite:data/eu.db")
        .replace(
            &config.nodes[0].http.to_string(),
            &taken.local_addr().expect("address").to_string(),
        );
    fs::write(dir.path().join("prism.toml"), text).expect("write");
    drop(taken.set_nonblocking(true));
    let (out, _) = expect(&prism(dir.path(), &["check"]), 1);
    assert!(out.contains("PROBLEM  database of NA: "), "{out}");
    assert!(out.contains("PROBLEM  database of EU: "), "{out}");
    assert!(out.contains("PROBLEM  node NA1: "), "{out}");
    assert!(
        !dir.path().join("data/other.db").exists(),
        "check creates nothing"
    );
}

/// Says yes to every update but those of mary.
#[derive(Default)]
struct FakeNode(Mutex<Vec<NewUpdate>>);

impl Intake for FakeNode {
    fn submit(&self, updates: Vec<NewUpdate>) -> Result<Pending, Failure> {
        let mut taken = self.0.lock().expect("lock");
        let answers = updates.into_iter().map(|u| {
            let mary = format!("{:?}", u.params).contains("mary");
            let awaited = u.mode == Mode::Await;
            taken.push(u);
            let seq = Seq(16 + taken.len() as u64);
            if awaited && mary {
                Answer::Undone {
                    seq: Some(seq),
                    reason: UndoReason::Conflict {
                        region: "EU".into(),
                    },
                    regions: vec![("EU".into(), false)],
                }
            } else if awaited {
                Answer::Applied {
                    seq,
                    regions: vec!["EU".into()],
                }
            } else if mary {
                Answer::Failed(Failure::Refused("CHECK constraint failed: kills".into()))
            } else {
                Answer::Committed { seq }
            }
        });
        Ok(Pending::ready(answers.collect()))
    }

    fn find(&self, _: uuid::Uuid) -> Result<Finding, Failure> {
        Err(Failure::Busy)
    }
}

impl Board for FakeNode {
    fn status(&self) -> Status {
        Status {
            node: "NA1".into(),
            region: "NA".into(),
            next_seq: 17,
            lanes: vec![Lane {
                region: "EU".into(),
                holder: Some("NA1".into()),
                target: Some("EU2".into()),
                tail: 16,
                acked: 12,
                lag_updates: 4,
                ..Lane::default()
            }],
            ..Status::default()
        }
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn metrics(&self) -> String {
        String::new()
    }
}

/// A real server of NA1 with a fake node behind it.
fn serve(dir: &Path) -> (Server, Arc<FakeNode>) {
    let config = Config::load(&dir.join("prism.toml")).expect("config");
    let fake = Arc::new(FakeNode::default());
    let server = Server::start(ServerConfig {
        address: config.nodes[0].http,
        node: "NA1".into(),
        region: "NA".into(),
        await_timeout: Duration::from_secs(10),
        access: config.http_access().expect("token"),
        max_update: 256 << 10,
        patience: Patience::default(),
        crowd: prism_node::http::Crowd::default(),
        binder: config.catalogue,
        intake: fake.clone(),
        board: fake.clone(),
    });
    (server.expect("server"), fake)
}

#[test]
fn submit_prints_the_number_and_fails_with_status_1() {
    let dir = temp();
    cluster(dir.path());
    let (server, fake) = serve(dir.path());
    let submit = |args: &[&str]| {
        let mut all = vec!["submit", "--config", "prism.toml", "--node", "NA1"];
        all.extend(args);
        prism(dir.path(), &all)
    };
    let (out, _) = expect(&submit(&["add_kills", "steve", "1"]), 0);
    assert_eq!(out, "seq=17 outcome=committed\n");
    let (out, _) = expect(&submit(&["add_kills", "steve", "-1"]), 0);
    assert_eq!(out, "seq=18 outcome=committed\n");
    let id = "11111111-2222-4333-8444-555555555555";
    let (out, _) = expect(
        &submit(&[
            "add_kills",
            "--json-params",
            "[null, 1]",
            "--id",
            id,
            "--json",
        ]),
        0,
    );
    let answer: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        answer,
        serde_json::json!({"seq": 19, "outcome": "committed", "request_id": id})
    );
    {
        use prism_db::Value::{Int, Null, Text};
        let taken = fake.0.lock().expect("lock");
        assert_eq!(taken[1].params, [Text("steve".into()), Int(-1)]);
        assert_eq!(taken[2].params, [Null, Int(1)]);
        assert_eq!(taken[2].request_id.to_string(), id);
    }
    let (out, err) = expect(&submit(&["add_kills", "mary", "1"]), 1);
    assert_eq!(out, "");
    assert!(
        err.contains("CHECK constraint failed: kills (refused, HTTP 409)"),
        "{err}"
    );
    let (out, _) = expect(&submit(&["add_kills", "steve", "1", "--await"]), 0);
    assert_eq!(out, "seq=21 outcome=applied\n");
    let (out, err) = expect(&submit(&["add_kills", "mary", "1", "--await"]), 1);
    assert_eq!(out, "seq=22 outcome=refused region=EU\n");
    assert!(err.contains("undone in every region"), "{err}");

    let before = fake.0.lock().expect("lock").len();
    for wrong in [
        &["add_kill", "steve", "1"][..],
        &["add_kills", "steve"],
        &["add_kills", "steve", "one"],
        &["add_kills", "--json-params", "{}"],
        &["add_kills", "--json-params", "[\"steve\", 1.5]"],
    ] {
        expect(&submit(wrong), 2);
    }
    assert_eq!(fake.0.lock().expect("lock").len(), before);
    server.stop();
}

#[test]
fn an_unreachable_node_is_told_how_to_start() {
    let dir = temp();
    cluster(dir.path());
    let args = ["submit", "--node", "EU1", "add_kills", "steve", "1"];
    let (_, err) = expect(&prism(dir.path(), &args), 1);
    assert!(
        err.contains("node EU1 does not answer at http://127.0.0.1:"),
        "{err}"
    );
    assert!(
        err.contains("node --config prism.toml --node EU1 --data-dir"),
        "{err}"
    );
    let (_, err) = expect(&prism(dir.path(), &["status"]), 1);
    assert!(err.contains("no node can be reached"), "{err}");
}

#[test]
fn status_shows_lanes_and_who_is_missing() {
    let dir = temp();
    cluster(dir.path());
    let (server, _fake) = serve(dir.path());
    let (out, _) = expect(&prism(dir.path(), &["status"]), 0);
    let lane: Vec<_> = out
        .lines()
        .nth(1)
        .expect("a lane")
        .split_whitespace()
        .collect();
    assert_eq!(lane[..7], ["NA1", "EU", "NA1", "EU2", "16", "12", "4"]);
    assert_eq!(out.matches("unreachable: node ").count(), 5, "{out}");
    let (out, _) = expect(&prism(dir.path(), &["status", "--json"]), 0);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["nodes"][0]["lanes"][0]["acked"], 12);
    assert_eq!(json["unreachable"].as_array().expect("array").len(), 5);
    server.stop();
}

#[test]
fn the_token_is_read_from_the_configuration() {
    let dir = temp();
    let text = cluster(dir.path());
    expect(&prism(dir.path(), &["keygen", "http.token"]), 0);
    let path = dir.path().join("prism.toml");
    fs::write(
        &path,
        format!("{text}\n[http]\ntoken_file = \"http.token\"\n"),
    )
    .expect("write");
    let (server, _fake) = serve(dir.path());
    expect(&prism(dir.path(), &["status"]), 0);
    expect(
        &prism(
            dir.path(),
            &["submit", "--node", "NA1", "add_kills", "steve", "1"],
        ),
        0,
    );
    fs::write(dir.path().join("http.token"), "something-quite-different").expect("write");
    let (_, err) = expect(
        &prism(
            dir.path(),
            &["submit", "--node", "NA1", "add_kills", "steve", "1"],
        ),
        1,
    );
    assert!(err.contains("unauthorized"), "{err}");
    fs::remove_file(dir.path().join("http.token")).expect("remove");
    let (_, err) = expect(&prism(dir.path(), &["status"]), 2);
    assert!(err.contains("http.token"), "{err}");
    server.stop();
}
