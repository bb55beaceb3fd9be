//! The HTTP API on a real loopback port, with a fake node behind it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prism_db::{RequestRow, RequestState, UndoReason, Value};
use prism_node::config::Config;
use prism_node::http::{Patience, Server, ServerConfig, ServerError};
use prism_node::intake::{Answer, Failure, Finding, Found, Intake, NewUpdate, Pending};
use prism_node::status::{Alarm, Board, Lane, Status};
use prism_proto::Seq;
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

/// Takes every update and answers those of "mary" as it is told.
#[derive(Default)]
struct FakeIntake {
    taken: Mutex<Vec<NewUpdate>>,
    mary: Mutex<Option<Answer>>,
    found: Mutex<Option<Found>>,
    queue: Mutex<Option<Failure>>,
}

impl Intake for FakeIntake {
    fn submit(&self, updates: Vec<NewUpdate>) -> Result<Pending, Failure> {
        if let Some(failure) = &*self.queue.lock().expect("lock") {
            return Err(failure.clone());
        }
        let mut taken = self.taken.lock().expect("lock");
        let mary = self.mary.lock().expect("lock");
        let answers = updates.iter().map(|u| {
            taken.push(u.clone());
            match &*mary {
                Some(answer) if u.params.first() == Some(&Value::Text("mary".into())) => {
                    answer.clone()
                }
                _ => Answer::Committed {
                    seq: Seq(taken.len() as u64),
                },
            }
        });
        Ok(Pending::ready(answers.collect()))
    }

    fn find(&self, _: uuid::Uuid) -> Result<Finding, Failure> {
        let (sender, receiver) = oneshot::channel();
        let found = self.found.lock().expect("lock").clone();
        let _ = sender.send(Ok(found.unwrap_or(Found::Unknown)));
        Ok(receiver)
    }
}

struct FakeBoard(Mutex<Result<(), String>>);

impl Board for FakeBoard {
    fn status(&self) -> Status {
        Status {
            node: "NA1".into(),
            region: "NA".into(),
            epoch: u64::MAX,
            next_seq: 18,
            lanes: vec![Lane {
                region: "EU".into(),
                target: Some("EU1".into()),
                ..Lane::default()
            }],
            alarms: vec![Alarm {
                name: "parked".into(),
                detail: "<script>alert(1)</script>".into(),
                ..Alarm::default()
            }],
            ..Status::default()
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.0.lock().expect("lock").clone()
    }

    fn metrics(&self) -> String {
        "prism_next_seq 18\n".into()
    }
}

struct Node {
    server: Option<Server>,
    address: SocketAddr,
    intake: Arc<FakeIntake>,
    board: Arc<FakeBoard>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

const CONFIG: &str = r#"
cluster = "game"
[[region]]
name = "NA"
database = "sqlite:na.db"
[[region.node]]
name = "NA1"
udp = "127.0.0.1:7101"
http = "127.0.0.1:8101"
[[statement]]
name = "add_kills"
sql = "UPDATE users SET kills = kills + $2 WHERE username = $1"
params = ["text", "int"]
kind = "delta"
"#;

fn server_config(token: Option<&str>) -> (ServerConfig, Arc<FakeIntake>, Arc<FakeBoard>) {
    let config = Config::parse(CONFIG, Path::new("/prism.toml")).expect("config");
    let intake = Arc::new(FakeIntake::default());
    let board = Arc::new(FakeBoard(Mutex::new(Ok(()))));
    let server = ServerConfig {
        address: "127.0.0.1:0".parse().expect("address"),
        node: "NA1".into(),
        region: "NA".into(),
        await_timeout: Duration::from_secs(10),
        token: token.map(str::to_owned),
        max_update: 256 << 10,
        patience: Patience::default(),
        binder: config.catalogue,
        intake: intake.clone(),
        board: board.clone(),
    };
    (server, intake, board)
}

fn start(token: Option<&str>) -> Node {
    let (config, intake, board) = server_config(token);
    let server = Server::start(config).expect("server");
    Node {
        address: server.address(),
        server: Some(server),
        intake,
        board,
    }
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .expect("a code")
            .into()
    }

    fn message(&self) -> String {
        self.json()["error"]["message"]
            .as_str()
            .expect("a message")
            .into()
    }
}

impl Node {
    fn raw(&self, request: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.address).expect("connect");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("timeout");
        // The server may answer and close before it has read all of a request that it refuses.
        let _ = stream.write_all(request);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        let status = head[9..12].parse().expect("status");
        Reply {
            status,
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    fn call(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            self.address,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.raw(&request)
    }

    fn get(&self, path: &str) -> Reply {
        self.call("GET", path, "", b"")
    }

    fn post(&self, body: impl AsRef<[u8]>) -> Reply {
        self.call("POST", "/v1/updates", "", body.as_ref())
    }

    fn taken(&self) -> Vec<NewUpdate> {
        self.intake.taken.lock().expect("lock").clone()
    }
}

#[test]
fn one_update_is_committed_and_its_id_given_back() {
    let node = start(None);
    let id = "11111111-2222-4333-8444-555555555555";
    let reply = node.post(
        json!({"statement": "add_kills", "params": ["steve", 1], "mode": "background", "request_id": id, "timeout_ms": 5000})
            .to_string(),
    );
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(
        reply.json(),
        json!({"seq": 1, "outcome": "committed", "request_id": id})
    );
    // An int may be a string; an id is made if there is none.
    let reply = node.post(r#"{"statement":"add_kills","params":["steve","9007199254740993"]}"#);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let made = reply.json()["request_id"].as_str().expect("id").to_owned();
    let taken = node.taken();
    assert_eq!(taken[0].request_id.to_string(), id);
    assert_eq!(taken[1].request_id.to_string(), made);
    assert_eq!(
        taken[1].params,
        [
            Value::Text("steve".into()),
            Value::Int(9_007_199_254_740_993)
        ]
    );
}

#[test]
fn bad_requests_are_explained_and_reach_nobody() {
    let node = start(None);
    let deep = format!(
        r#"{{"statement":"add_kills","params":[{}]}}"#,
        "[".repeat(100_000)
    );
    let cases: &[(&[u8], &str, &str)] = &[
        (b"", "bad_json", "EOF"),
        (b"{", "bad_json", "EOF"),
        (b"\xff\xfe", "bad_json", ""),
        (b"null", "bad_json", "invalid type: null"),
        (b"[{}", "bad_json", "EOF"),
        (deep.as_bytes(), "bad_json", "recursion limit"),
        (
            br#"{"statement":"add_kills","parms":["steve",1]}"#,
            "bad_json",
            "unknown field `parms`",
        ),
        (
            br#"{"statement":"add_kills","statement":"x"}"#,
            "bad_json",
            "duplicate field",
        ),
        (br#"{"params":[]}"#, "bad_json", "missing field `statement`"),
        (
            br#"{"statement":"add_kills","params":["a",1],"request_id":"7"}"#,
            "bad_json",
            "UUID",
        ),
        (
            br#"{"statement":"add_kills","params":["a",1],"mode":"later"}"#,
            "bad_json",
            "unknown variant `later`",
        ),
        (
            br#"{"statement":"add_kill","params":["a",1]}"#,
            "unknown_statement",
            "the catalogue has add_kills",
        ),
        (
            br#"{"statement":"add_kills","params":["a"]}"#,
            "bad_params",
            "takes 2 parameter(s) (text, int), got 1",
        ),
        (
            br#"{"statement":"add_kills","params":["a",1,2]}"#,
            "bad_params",
            "got 3",
        ),
        (
            br#"{"statement":"add_kills","params":["a",1.5]}"#,
            "bad_params",
            "parameter 2",
        ),
        (
            br#"{"statement":"add_kills","params":["a","many"]}"#,
            "bad_params",
            "parameter 2",
        ),
        (
            br#"{"statement":"add_kills","params":[7,1]}"#,
            "bad_params",
            "parameter 1",
        ),
        (
            br#"{"statement":"add_kills","params":["a\u0000",1]}"#,
            "bad_params",
            "parameter 1",
        ),
        (
            br#"{"statement":"add_kills","params":["a",9223372036854775808]}"#,
            "bad_params",
            "parameter 2",
        ),
    ];
    for (body, code, says) in cases {
        let reply = node.post(body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
        assert_eq!(reply.status, 400, "{shown}: {}", reply.body);
        assert_eq!(reply.code(), *code, "{shown}: {}", reply.body);
        assert!(reply.message().contains(says), "{shown}: {}", reply.body);
    }
    assert!(node.taken().is_empty());
}

#[test]
fn every_failure_has_its_status() {
    let node = start(None);
    let cases = [
        (Failure::Refused("CHECK failed".into()), 409, "refused"),
        (
            Failure::TooLarge {
                size: 300_000,
                limit: 262_144,
            },
            413,
            "too_large",
        ),
        (Failure::RequestReused, 422, "request_id_reused"),
        (
            Failure::Unavailable("gone".into()),
            503,
            "database_unavailable",
        ),
        (
            Failure::NotReady("no table".into()),
            503,
            "database_not_ready",
        ),
        (Failure::Busy, 503, "busy"),
        (Failure::Unknown("broke".into()), 503, "outcome_unknown"),
        (Failure::Draining, 503, "draining"),
        (Failure::NeedsUndo("x".into()), 400, "needs_undo"),
        (Failure::Locked("row".into()), 503, "locked"),
        (Failure::NotBegun, 503, "timeout"),
        (Failure::Spooling, 503, "spooling"),
        (Failure::Journal("full".into()), 503, "journal"),
    ];
    for (failure, status, code) in cases {
        *node.intake.mary.lock().expect("lock") = Some(Answer::Failed(failure.clone()));
        let reply = node.post(r#"{"statement":"add_kills","params":["mary",1]}"#);
        assert_eq!((reply.status, reply.code().as_str()), (status, code));
        assert_eq!(reply.message(), failure.to_string());
        assert_eq!(
            reply.head.contains("retry-after: 1"),
            status == 503,
            "{}",
            reply.head
        );
    }
    *node.intake.queue.lock().expect("lock") = Some(Failure::Busy);
    let reply = node.post(r#"{"statement":"add_kills","params":["steve",1]}"#);
    assert_eq!((reply.status, reply.code().as_str()), (503, "busy"));
    let reply = node.post(r#"[{"statement":"add_kills","params":["steve",1]},{"statement":"x"}]"#);
    assert_eq!(reply.status, 207);
    assert_eq!(reply.json()[0]["error"]["code"], "busy");
    assert_eq!(reply.json()[1]["error"]["code"], "unknown_statement");
}

const UPDATE: &str = r#"{"statement":"add_kills","params":["mary",1]}"#;
const AWAITED: &str = r#"{"statement":"add_kills","params":["mary",1],"mode":"await"}"#;

#[test]
fn every_outcome_has_its_status_and_body() {
    let node = start(None);
    let undone = |reason| Answer::Undone {
        seq: Some(Seq(17)),
        reason,
        regions: vec![("EU".into(), true), ("AS".into(), false)],
    };
    let refused = UndoReason::Refused {
        region: "EU".into(),
        sqlstate: "23514".into(),
        message: "CHECK failed".into(),
    };
    let late = UndoReason::Unconfirmed {
        regions: vec!["AS".into()],
    };
    let applied = Answer::Applied {
        seq: Seq(17),
        regions: vec!["EU".into(), "AS".into()],
    };
    let elsewhere = Answer::Elsewhere {
        region: "EU".into(),
        seq: Seq(3),
    };
    let all = json!({"EU": "applied", "AS": "applied"});
    let some = json!({"EU": "applied", "AS": "waiting"});
    for (answer, body, status, said) in [
        (Answer::Spooled, UPDATE, 202, json!({"outcome": "spooled"})),
        (
            elsewhere,
            UPDATE,
            200,
            json!({"seq": 3, "outcome": "committed", "region": "EU"}),
        ),
        (
            applied,
            AWAITED,
            200,
            json!({"seq": 17, "outcome": "applied", "regions": all}),
        ),
        (
            undone(refused.clone()),
            AWAITED,
            409,
            json!({"seq": 17, "outcome": "refused", "region": "EU"}),
        ),
        (
            undone(late),
            AWAITED,
            504,
            json!({"seq": 17, "outcome": "unconfirmed", "regions": some}),
        ),
        (
            undone(refused),
            UPDATE,
            409,
            json!({"seq": 17, "outcome": "undone", "region": "EU"}),
        ),
    ] {
        *node.intake.mary.lock().expect("lock") = Some(answer);
        let reply = node.post(body);
        assert_eq!(reply.status, status, "{}", reply.body);
        let mut got = reply.json();
        let got = got.as_object_mut().expect("an object");
        let id = got.remove("request_id").expect("an id");
        assert!(id.as_str().is_some_and(|id| id.len() == 36), "{id}");
        let error = got.remove("error");
        assert_eq!(error.is_some(), status > 400, "{}", reply.body);
        assert_eq!(json!(got), said);
        let several = node.post(format!("[{body}]"));
        assert_eq!(several.status, if status < 300 { 200 } else { 207 });
        assert_eq!(several.json()[0]["outcome"], said["outcome"]);
    }
}

#[test]
fn what_became_of_a_request_is_told() {
    let node = start(None);
    let id = "11111111-2222-4333-8444-555555555555";
    let path = format!("/v1/updates/{id}");
    let reply = node.get(&path);
    assert_eq!(
        (reply.status, reply.json()),
        (404, json!({"request_id": id, "outcome": "unknown"}))
    );
    assert_eq!(node.get("/v1/updates/xyz").status, 400);
    let row = |state| RequestRow {
        request_id: [0; 16],
        body: prism_db::Digest::default(),
        stream: "NA".into(),
        seq: Some(Seq(17)),
        state,
    };
    let recorded = |state, eu| Found::Recorded {
        row: row(state),
        regions: vec![("EU".into(), eu)],
    };
    let refused = RequestState::Refused {
        sqlstate: "23514".into(),
        message: "CHECK failed".into(),
    };
    let undone = RequestState::Undone(UndoReason::Crashed);
    for (found, outcome, seq) in [
        (Found::Spooled, "spooled", None),
        (Found::Pending, "pending", None),
        (
            recorded(RequestState::Committed, false),
            "committed",
            Some(17),
        ),
        (recorded(RequestState::Committed, true), "applied", Some(17)),
        (recorded(RequestState::Held, true), "pending", Some(17)),
        (recorded(refused, false), "refused", Some(17)),
        (recorded(undone, false), "undone", Some(17)),
    ] {
        *node.intake.found.lock().expect("lock") = Some(found);
        let reply = node.get(&path);
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(reply.json()["outcome"], outcome);
        assert_eq!(reply.json()["seq"].as_u64(), seq, "{}", reply.body);
        assert_eq!(reply.json()["request_id"], id);
    }
}

#[test]
fn an_array_is_answered_element_by_element_in_order() {
    let node = start(None);
    let good = |name: &str| json!({"statement": "add_kills", "params": [name, 1]});
    let reply = node.post(json!([good("a"), good("b")]).to_string());
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()[1]["seq"], 2);

    *node.intake.mary.lock().expect("lock") = Some(Answer::Failed(Failure::Refused("no".into())));
    let mixed = json!([good("c"), {"statement": "nope"}, good("mary"), 7, {"statement": "add_kills", "x": 1}, good("d")]);
    let reply = node.post(format!(" \n{mixed}"));
    assert_eq!(reply.status, 207);
    let body = reply.json();
    assert_eq!(body.as_array().expect("array").len(), 6);
    assert_eq!(body[0]["seq"], 3);
    assert_eq!(body[1]["error"]["code"], "unknown_statement");
    assert_eq!(body[2]["error"]["code"], "refused");
    assert_eq!(body[3]["error"]["code"], "bad_json");
    assert_eq!(body[4]["error"]["code"], "bad_json");
    assert_eq!(body[5]["seq"], 5);
    let id = node.taken()[4].request_id.to_string();
    assert_eq!(body[5]["request_id"], id);

    assert_eq!(node.post("[]").json(), json!([]));
    let many: Vec<_> = (0..1001).map(|_| good("e")).collect();
    let reply = node.post(json!(many).to_string());
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_many"));
    assert_eq!(node.taken().len(), 5);
}

#[test]
fn too_large_bodies_are_refused_announced_or_not() {
    let node = start(None);
    let huge = format!(
        r#"{{"statement":"add_kills","params":["{}",1]}}"#,
        "x".repeat(5 << 20)
    );
    let reply = node.call("POST", "/v1/updates", "expect: 100-continue\r\n", &[]);
    assert_eq!(reply.status, 400, "an empty body");
    let head = format!(
        "POST /v1/updates HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        node.address,
        huge.len()
    );
    let reply = node.raw(head.as_bytes());
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_large"));

    let mut chunked = format!(
        "POST /v1/updates HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n",
        node.address
    );
    // One byte more than fits, and no end: the answer must not wait for it.
    let chunk = 4usize << 20;
    chunked.push_str(&format!("{chunk:x}\r\n{}\r\n1\r\nx\r\n", " ".repeat(chunk)));
    let reply = node.raw(chunked.as_bytes());
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_large"));
}

#[test]
fn status_metrics_and_probes_answer() {
    let node = start(None);
    let status: Status = serde_json::from_str(&node.get("/v1/status").body).expect("status");
    assert_eq!(status, node.board.status());
    let metrics = node.get("/metrics");
    assert!(
        metrics
            .head
            .contains("content-type: text/plain; version=0.0.4")
    );
    assert_eq!(metrics.body, "prism_next_seq 18\n");
    assert_eq!(node.get("/healthz").status, 200);
    assert_eq!(node.get("/readyz").status, 200);
    *node.board.0.lock().expect("lock") = Err("no database".into());
    let reply = node.get("/readyz");
    assert_eq!((reply.status, reply.code().as_str()), (503, "not_ready"));
    assert_eq!(reply.message(), "no database");
    let page = node.get("/");
    assert_eq!(page.status, 200);
    assert!(
        page.head
            .contains("content-security-policy: default-src 'none'")
    );
    assert!(!page.body.contains("http://") && !page.body.contains("innerHTML"));
}

#[test]
fn wrong_paths_and_methods_are_json_errors() {
    let node = start(None);
    let reply = node.get("/v2/updates");
    assert_eq!((reply.status, reply.code().as_str()), (404, "not_found"));
    let reply = node.get("/v1/updates");
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (405, "method_not_allowed")
    );
    assert!(reply.head.contains("allow: post"), "{}", reply.head);
    let reply = node.call("DELETE", "/v1/status", "", b"");
    assert_eq!(reply.status, 405);
}

#[test]
fn a_token_is_asked_of_everybody() {
    let token = "correct-horse-battery";
    let node = start(Some(token));
    let body = br#"{"statement":"add_kills","params":["steve",1]}"#;
    for (header, status) in [
        ("", 401),
        ("authorization: Bearer correct-horse-batterz\r\n", 401),
        ("authorization: Bearer \r\n", 401),
        ("authorization: Basic correct-horse-battery\r\n", 401),
        ("authorization: Bearer correct-horse-battery\r\n", 200),
    ] {
        let reply = node.call("POST", "/v1/updates", header, body);
        assert_eq!(reply.status, status, "{header}");
        assert_eq!(node.call("GET", "/v1/status", header, b"").status, status);
        assert_eq!(node.call("GET", "/metrics", header, b"").status, status);
    }
    let reply = node.get("/v1/status");
    assert!(
        reply.head.contains("www-authenticate: bearer"),
        "{}",
        reply.head
    );
    assert_eq!(reply.code(), "unauthorized");
    // Probes and the page, which holds no data, are open.
    for path in ["/healthz", "/readyz", "/"] {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    assert_eq!(node.taken().len(), 1);
}

#[test]
fn web_pages_of_others_cannot_use_a_node_without_token() {
    let node = start(None);
    let body = br#"{"statement":"add_kills","params":["steve",1]}"#;
    for header in [
        "origin: http://evil.example\r\n",
        "origin: null\r\n",
        "origin: https://127.0.0.1\r\n",
    ] {
        let reply = node.call("POST", "/v1/updates", header, body);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (403, "foreign_origin")
        );
    }
    let rebound = "GET /v1/status HTTP/1.1\r\nhost: evil.example:8101\r\nconnection: close\r\n\r\n";
    assert_eq!(node.raw(rebound.as_bytes()).status, 403);
    let local = "GET /v1/status HTTP/1.1\r\nhost: localhost:8101\r\nconnection: close\r\n\r\n";
    assert_eq!(node.raw(local.as_bytes()).status, 200);
    let own = format!("origin: http://{}\r\n", node.address);
    assert_eq!(node.call("POST", "/v1/updates", &own, body).status, 200);
}

#[test]
fn a_request_for_another_node_is_misdirected() {
    let node = start(None);
    let reply = node.call("GET", "/v1/status", "prism-node: EU1\r\n", b"");
    assert_eq!((reply.status, reply.code().as_str()), (421, "wrong_node"));
    assert_eq!(
        node.call("GET", "/v1/status", "prism-node: NA1\r\n", b"")
            .status,
        200
    );
}

#[test]
fn garbage_is_cut_off_and_the_node_lives_on() {
    let node = start(None);
    for garbage in [
        &b"\x00\x01\x02\x03\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/updates HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/updates HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ] {
        let mut stream = TcpStream::connect(node.address).expect("connect");
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("timeout");
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let mut headers = String::from("GET / HTTP/1.1\r\nhost: localhost\r\n");
    for i in 0..5_000 {
        headers.push_str(&format!("x-{i}: {}\r\n", "y".repeat(50)));
    }
    let reply = node.raw(headers.as_bytes());
    assert_eq!(reply.status, 431);
    assert_eq!(node.get("/healthz").status, 200);
}

#[test]
fn slow_clients_are_cut_off() {
    let (mut config, intake, board) = server_config(None);
    config.patience = Patience {
        headers: Duration::from_millis(100),
        body: Duration::from_millis(100),
    };
    let server = Server::start(config).expect("server");
    let node = Node {
        address: server.address(),
        server: Some(server),
        intake,
        board,
    };
    // Silent, in the middle of the headers, idle after an answer: the end of the connection.
    for request in [
        "",
        "GET /healthz HTT",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(node.address).expect("connect");
        stream.write_all(request.as_bytes()).expect("write");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("timeout");
        stream
            .read_to_end(&mut Vec::new())
            .expect("the server closes it");
    }
    let body = format!(
        "POST /v1/updates HTTP/1.1\r\nhost: {}\r\ncontent-length: 100\r\n\r\n{{",
        node.address
    );
    let reply = node.raw(body.as_bytes());
    assert_eq!((reply.status, reply.code().as_str()), (408, "slow_body"));
    assert!(node.taken().is_empty());
}

#[test]
fn bodies_of_all_clients_together_are_bounded() {
    let node = start(None);
    let announce = |bytes: usize| {
        let head = format!(
            "POST /v1/updates HTTP/1.1\r\nhost: {}\r\ncontent-length: {bytes}\r\n\r\n",
            node.address
        );
        let mut stream = TcpStream::connect(node.address).expect("connect");
        stream.write_all(head.as_bytes()).expect("write");
        stream
    };
    // 64 MiB in all, 4 MiB each; these send nothing, so they hold their room.
    let mut hogs: Vec<_> = (0..16).map(|_| announce(4 << 20)).collect();
    let body = r#"{"statement":"add_kills","params":["steve",1]}"#;
    let started = std::time::Instant::now();
    loop {
        let reply = node.post(body);
        if reply.status == 503 {
            assert_eq!(reply.code(), "busy");
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "room for all");
    }
    hogs.truncate(15);
    while node.post(body).status != 200 {
        assert!(started.elapsed() < Duration::from_secs(10), "room again");
    }
}

#[test]
fn a_server_says_why_it_cannot_start() {
    let node = start(None);
    let (mut config, ..) = server_config(None);
    config.address = node.address;
    let Err(e) = Server::start(config) else {
        panic!("two servers on one port");
    };
    assert!(
        e.to_string().contains("is this node running already?"),
        "{e}"
    );
    let (mut config, ..) = server_config(None);
    config.address = "0.0.0.0:0".parse().expect("address");
    assert!(matches!(
        Server::start(config),
        Err(ServerError::NoToken(_))
    ));
}

#[test]
fn stop_lets_go_of_the_port_although_a_client_hangs() {
    let mut node = start(None);
    let mut hanging = TcpStream::connect(node.address).expect("connect");
    hanging
        .write_all(b"GET /healthz HTTP/1.1\r\n")
        .expect("write");
    node.server.take().expect("running").stop();
    std::net::TcpListener::bind(node.address).expect("the port is free");
}
