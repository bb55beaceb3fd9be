//! No secret leaves a node: not in its log at the most talkative level, not in answers, metrics,
//! error messages or its command line; whatever goes wrong.

mod support;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prism_node::config::Config;

use support::{cluster, expect, prism, temp};

const DEADLINE: Duration = Duration::from_secs(60);
const TOKEN: &str = "t0ken-CLASSIFIED-31415926535897932384";
const PASSWORD: &str = "pw-CLASSIFIED-27182818284590452353";
const OTHER_PASSWORD: &str = "pq-CLASSIFIED-16180339887498948482";

struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < DEADLINE, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What 32 secret bytes look like in the ways in which a program might write them.
fn spellings(base64: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = STANDARD.decode(base64).expect("base64");
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    // Half of it would be bad enough.
    let list = |bytes: &[u8]| format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    vec![
        ("base64", STANDARD_NO_PAD.encode(&bytes).into_bytes()),
        ("base64 for URLs", URL_SAFE.encode(&bytes).into_bytes()),
        ("hex", hex.as_bytes()[..32].to_vec()),
        ("HEX", hex[..32].to_uppercase().into_bytes()),
        ("a list of numbers", list(&bytes[..12]).into_bytes()),
        ("bytes", bytes[..16].to_vec()),
    ]
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|w| w == part)
}

fn get(dir: &Path, path: &str, token: &str) -> Option<(u16, String)> {
    let config = Config::load(&dir.join("prism.toml")).ok()?;
    let http = config.node_named("NA1").expect("node").http;
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(10)))
        .build()
        .new_agent();
    let call = agent.get(format!("http://{http}{path}"));
    let mut answer = call
        .header("Authorization", format!("Bearer {token}"))
        .call()
        .ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.body_mut().read_to_string().ok()?))
}

#[test]
fn no_secret_is_written_anywhere() {
    let dir = temp();
    let dir = dir.path();
    let text = cluster(dir);
    let url = format!("postgres://prism:{PASSWORD}@127.0.0.1:1/as?password={OTHER_PASSWORD}");
    let text = text.replace("sqlite:data/as.db", &url) + "\n[http]\ntoken_file = \"http.token\"\n";
    let config = dir.join("prism.toml");
    fs::write(&config, &text).expect("written");
    fs::write(dir.join("http.token"), format!("{TOKEN}\n")).expect("written");
    expect(
        &Command::new("chmod")
            .args(["600", "http.token"])
            .current_dir(dir)
            .output()
            .expect("chmod"),
        0,
    );
    let (psk, key) = (dir.join("game.psk"), dir.join("data/NA1/node.key"));
    let read = |path: &Path| fs::read_to_string(path).expect("a key").trim().to_owned();
    let (psk_text, key_text) = (read(&psk), read(&key));

    let mut said: Vec<(String, Vec<u8>)> = Vec::new();
    for region in ["NA", "EU", "AS"] {
        let output = prism(dir, &["migrate", "--region", region]);
        said.push((
            format!("migrate {region}"),
            [output.stdout, output.stderr].concat(),
        ));
    }
    let log = dir.join("log");
    let child = Command::new(env!("CARGO_BIN_EXE_prism"))
        .args([
            "node",
            "--node",
            "NA1",
            "--data-dir",
            "data/NA1",
            "--log-level",
            "trace",
        ])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(File::create(dir.join("out")).expect("out"))
        .stderr(File::create(&log).expect("log"))
        .spawn()
        .expect("prism node");
    let node = Node(child);
    let pid = Pid::from_raw(i32::try_from(node.0.id()).expect("pid"));
    let logged = |part: &str| {
        let text = fs::read(&log).expect("log");
        contains(&text, part.as_bytes())
    };
    until("NA1 is ready", || {
        get(dir, "/readyz", TOKEN).is_some_and(|(status, _)| status == 200)
    });
    expect(
        &prism(dir, &["submit", "--node", "NA1", "add_kills", "steve", "1"]),
        0,
    );

    // Everything goes wrong: the database of AS is away, tokens are wrong, files are broken.
    until("the lane to AS has tried the database", || {
        let (_, status) = get(dir, "/v1/status", TOKEN).expect("answers");
        status.contains("\"parked\"")
    });
    for token in ["", "wrong", &TOKEN[..20]] {
        let (status, body) = get(dir, "/v1/status", token).expect("answers");
        assert_eq!(status, 401);
        said.push(("401".to_owned(), body.into_bytes()));
    }
    for (file, content) in [
        (&psk, format!("{psk_text}{key_text}\n")),
        (&psk, format!("\"{psk_text}\"\n")),
        (&key, format!("private = {key_text}\n")),
        (&config, text.replace("cluster = ", &format!("{TOKEN} = "))),
        (
            &config,
            text.replace(&url, &format!("mysql://u:{PASSWORD}@h/x")),
        ),
        (
            &config,
            text.replace(&url, &format!("postgres:/u:{PASSWORD}@h/x")),
        ),
        (
            &config,
            text.replace(&url, &format!("postgres://u:{PASSWORD}@h:port/x")),
        ),
    ] {
        let right = fs::read(file).expect("read");
        let before = fs::read(&log).expect("log").len();
        fs::write(file, &content).expect("written");
        let whole = ["check", "--node", "NA1", "--data-dir", "data/NA1"];
        let output = prism(dir, &whole);
        assert_ne!(output.status.code(), Some(0));
        // A file with a token for a key holds it: that is not for us to hide.
        if !content.contains(&format!("{TOKEN} = ")) {
            said.push((content, [output.stdout, output.stderr].concat()));
            kill(pid, Signal::SIGHUP).expect("signal");
            until("the node refuses it", || {
                let text = fs::read(&log).expect("log");
                contains(&text[before..], b"the new configuration is not used")
            });
            let (_, status) = get_from(dir, &text, "/v1/status");
            assert!(status.contains("config-not-reloaded"), "{status}");
            said.push(("status".to_owned(), status.into_bytes()));
        }
        fs::write(file, right).expect("written");
    }
    let output = prism(dir, &["check"]);
    said.push(("check".to_owned(), [output.stdout, output.stderr].concat()));
    for path in ["/v1/status", "/metrics", "/readyz", "/", "/v1/nothing"] {
        let (_, body) = get(dir, path, TOKEN).expect("answers");
        said.push((path.to_owned(), body.into_bytes()));
    }
    for file in ["cmdline", "comm", "status"] {
        let text = fs::read(format!("/proc/{pid}/{file}")).expect("of a process");
        said.push((file.to_owned(), text));
    }
    kill(pid, Signal::SIGTERM).expect("signal");
    until("it drains", || logged("stopping"));
    drop(node);
    said.push(("log".to_owned(), fs::read(&log).expect("log")));
    said.push(("out".to_owned(), fs::read(dir.join("out")).expect("out")));

    assert!(logged("TRACE"), "it was told to talk");
    let mut secrets = vec![
        ("token", vec![("text", TOKEN.as_bytes()[..28].to_vec())]),
        (
            "password",
            vec![("text", PASSWORD.as_bytes()[..28].to_vec())],
        ),
        (
            "password of the query",
            vec![("text", OTHER_PASSWORD.as_bytes()[..28].to_vec())],
        ),
    ];
    secrets.push(("psk", spellings(&psk_text)));
    secrets.push(("node.key", spellings(&key_text)));
    for (place, text) in &said {
        for (secret, spellings) in &secrets {
            for (how, spelling) in spellings {
                assert!(
                    !contains(text, spelling),
                    "{secret} as {how} in {place}:\n{}",
                    String::from_utf8_lossy(text)
                );
            }
        }
    }
}

/// The node's address as the right configuration has it.
fn get_from(dir: &Path, right: &str, path: &str) -> (u16, String) {
    let config = dir.join("prism.toml");
    let broken = fs::read(&config).expect("read");
    fs::write(&config, right).expect("written");
    let answer = get(dir, path, TOKEN).expect("answers");
    fs::write(&config, broken).expect("written");
    answer
}
