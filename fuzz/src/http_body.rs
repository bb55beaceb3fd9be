//! Any bytes as the body of `POST /v1/updates`: answered in JSON with a status that fits; what is
//! taken fits the catalogue; an array is answered element by element.

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use prism_db::Value;
use prism_node::config::Config;
use prism_node::hooks::BareHttp;
use prism_node::http::{Access, Crowd, Patience, ServerConfig};
use prism_node::intake::{Answer, Failure, Finding, Found, Intake, NewUpdate, Pending};
use prism_node::status::{Board, Status};
use prism_node::token::Token;
use prism_proto::Seq;
use tokio::sync::oneshot;

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
name = "all"
sql = "INSERT INTO t VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
params = ["bool", "int", "float", "decimal", "text", "bytes", "uuid", "timestamp", "json", "gen_uuid"]
kind = "insert"
[[statement]]
name = "add"
sql = "UPDATE users SET kills = kills + $2 WHERE username = $1"
params = ["text", "int"]
kind = "delta"
undo = "UPDATE users SET kills = kills - $2 WHERE username = $1"
"#;

/// Updates taken by a node that asks for a token.
static GUARDED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// A node that commits what it is given.
struct Node {
    config: Config,
    guarded: bool,
}

impl Intake for Node {
    fn submit(&self, updates: Vec<NewUpdate>) -> Result<Pending, Failure> {
        if self.guarded {
            GUARDED.fetch_add(updates.len() as u64, Ordering::Relaxed);
        }
        let answers = updates.iter().map(|update| {
            let statement = self.config.catalogue.get(&update.statement);
            let statement = statement.expect("only statements of the catalogue");
            assert!(statement.accepts(&update.params), "parameters of other types");
            assert!(update.params.iter().all(Value::is_valid));
            TAKEN.set(TAKEN.get() + 1);
            Answer::Committed {
                seq: Seq(TAKEN.get()),
            }
        });
        Ok(Pending::ready(answers.collect()))
    }

    fn find(&self, _: uuid::Uuid) -> Result<Finding, Failure> {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(Ok(Found::Unknown));
        Ok(receiver)
    }
}

struct Quiet;

impl Board for Quiet {
    fn status(&self) -> Status {
        Status::default()
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn metrics(&self) -> String {
        "prism_next_seq 18\n".into()
    }
}

fn server(token: Option<&str>) -> BareHttp {
    let config = || Config::parse(CONFIG, Path::new("/prism.toml")).expect("a configuration");
    BareHttp::new(ServerConfig {
        address: "127.0.0.1:0".parse().expect("an address"),
        node: "NA1".into(),
        region: "NA".into(),
        await_timeout: Duration::from_secs(1),
        access: Access {
            token: token.map(|token| Token::new(token).expect("a strong one").digest()),
            tls: None,
        },
        crowd: Crowd::default(),
        max_update: 4 << 10,
        patience: Patience::default(),
        binder: config().catalogue,
        intake: Arc::new(Node {
            config: config(),
            guarded: token.is_some(),
        }),
        board: Arc::new(Quiet),
    })
    .expect("a thread")
}

/// Without and with a token, and whether there is one.
pub fn servers() -> &'static [(bool, BareHttp); 2] {
    static SERVERS: LazyLock<[(bool, BareHttp); 2]> = LazyLock::new(|| {
        let token = "4f2c9a7b8e1d4c5fa0b3d6e7c8f90123";
        let servers = [(false, server(None)), (true, server(Some(token)))];
        for (_, http) in &servers {
            let healthy = http.connection(b"GET /healthz HTTP/1.0\r\n\r\n", true);
            let healthy = healthy.expect("room").starts_with(b"HTTP/1.0 200");
            assert!(healthy, "otherwise nothing is tested here");
        }
        servers
    });
    &SERVERS
}

/// Updates taken by the one with a token.
pub fn taken() -> u64 {
    GUARDED.load(Ordering::Relaxed)
}

/// See the module.
pub fn run(bytes: &[u8]) {
    let mut request = format!(
        "POST /v1/updates HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        bytes.len()
    )
    .into_bytes();
    request.extend_from_slice(bytes);
    let (_, http) = &servers()[0];
    let before = TAKEN.get();
    let answer = http.connection(&request, false).expect("room");
    let taken = TAKEN.get() - before;
    let text = String::from_utf8(answer).expect("answers are UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    let status: u16 = head[9..12].parse().expect("a status");
    let body: serde_json::Value = serde_json::from_str(body).expect("answers are JSON");
    match (status, body.as_array()) {
        (200, None) => assert_eq!(taken, 1),
        (200 | 207, Some(elements)) => {
            let failed = elements.iter().filter(|e| !e["error"].is_null()).count();
            assert_eq!(elements.len() - failed, taken as usize);
            assert_eq!(status == 200, failed == 0);
        }
        _ => {
            assert!((400..500).contains(&status), "{status} {body}");
            assert!(body["error"]["message"].is_string(), "{body}");
            assert_eq!(taken, 0);
        }
    }
}
