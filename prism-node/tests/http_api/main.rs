//! The HTTP API on a real loopback port, with a fake node behind it.

mod flood;
mod hostile;
mod tls;
mod updates;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prism_db::{RequestRow, RequestState, UndoReason, Value};
use prism_node::config::Config;
use prism_node::http::{Access, Crowd, Patience, Server, ServerConfig, ServerError};
use prism_node::intake::{Answer, Failure, Finding, Found, Intake, NewUpdate, Pending};
use prism_node::status::{Alarm, Board, Lane, Status};
use prism_node::token::Token;
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
    /// The answer to the next question, when it comes.
    hold: Mutex<Option<Finding>>,
    holds: AtomicBool,
    /// Updates of "waits" are not answered as long as these are there.
    waiting: Mutex<Vec<oneshot::Sender<Vec<Answer>>>>,
}

impl FakeIntake {
    fn holding(&self) -> bool {
        self.holds.load(Ordering::SeqCst)
    }
}

impl Intake for FakeIntake {
    fn submit(&self, updates: Vec<NewUpdate>) -> Result<Pending, Failure> {
        if let Some(failure) = &*self.queue.lock().expect("lock") {
            return Err(failure.clone());
        }
        if updates
            .iter()
            .all(|u| u.params[0] == Value::Text("waits".into()))
        {
            let (sender, pending) = Pending::later();
            self.waiting.lock().expect("lock").push(sender);
            return Ok(pending);
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
        if let Some(held) = self.hold.lock().expect("lock").take() {
            self.holds.store(true, Ordering::SeqCst);
            return Ok(held);
        }
        let (sender, receiver) = oneshot::channel();
        let found = self.found.lock().expect("lock").clone();
        let _ = sender.send(Ok(found.unwrap_or(Found::Unknown)));
        Ok(receiver)
    }
}

struct FakeBoard {
    ready: Mutex<Result<(), String>>,
    metrics: Mutex<String>,
}

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
        self.ready.lock().expect("lock").clone()
    }

    fn metrics(&self) -> String {
        self.metrics.lock().expect("lock").clone()
    }
}

/// As in the file `http.token`.
const TOKEN: &str = "correct-horse-battery";

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::yield_now();
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

fn access(token: Option<&str>) -> Access {
    Access {
        token: token.map(|token| Token::new(token).expect("a strong token").digest()),
        tls: None,
    }
}

fn server_config(token: Option<&str>) -> (ServerConfig, Arc<FakeIntake>, Arc<FakeBoard>) {
    let config = Config::parse(CONFIG, Path::new("/prism.toml")).expect("config");
    let intake = Arc::new(FakeIntake::default());
    let board = Arc::new(FakeBoard {
        ready: Mutex::new(Ok(())),
        metrics: Mutex::new("prism_next_seq 18\n".into()),
    });
    let server = ServerConfig {
        address: "127.0.0.1:0".parse().expect("address"),
        node: "NA1".into(),
        region: "NA".into(),
        await_timeout: Duration::from_secs(10),
        access: access(token),
        max_update: 256 << 10,
        patience: Patience::default(),
        crowd: Crowd::default(),
        binder: config.catalogue,
        intake: intake.clone(),
        board: board.clone(),
    };
    (server, intake, board)
}

fn start(token: Option<&str>) -> Node {
    let (config, intake, board) = server_config(token);
    run(config, intake, board)
}

fn run(config: ServerConfig, intake: Arc<FakeIntake>, board: Arc<FakeBoard>) -> Node {
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
