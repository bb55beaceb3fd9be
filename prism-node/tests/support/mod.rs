//! What the tests of the binary share.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

pub fn temp() -> TempDir {
    tempfile::tempdir().expect("temp dir")
}

pub fn prism(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_prism"))
        .args(args)
        .current_dir(dir)
        .env_remove("RUST_LOG")
        .output()
        .expect("prism runs")
}

#[track_caller]
pub fn expect(output: &Output, status: i32) -> (String, String) {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(status),
        "stdout: {out}\nstderr: {err}"
    );
    assert!(!err.contains("panicked"), "{err}");
    (out, err)
}

/// Ports that nobody uses at this moment, below the range that the kernel hands out itself.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + u16::try_from(std::process::id() % 1000).expect("small") * 10;
    loop {
        let port = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
}

/// `prism init` with ports of its own, so that tests do not meet.
pub fn cluster(dir: &Path) -> String {
    cluster_and_output(dir).0
}

/// The same, with what init printed.
pub fn cluster_and_output(dir: &Path) -> (String, String) {
    let (printed, _) = expect(&prism(dir, &["init"]), 0);
    let path = dir.join("prism.toml");
    let mut text = fs::read_to_string(&path).expect("prism.toml");
    for port in [7101, 7102, 7111, 7112, 7121, 7122] {
        for port in [port, port + 1000] {
            let from = format!("127.0.0.1:{port}\"");
            assert!(text.contains(&from), "{text}");
            text = text.replace(&from, &format!("127.0.0.1:{}\"", free_port()));
        }
    }
    fs::write(&path, &text).expect("write");
    (text, printed)
}
