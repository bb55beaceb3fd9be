//! TLS: what a client sees, and what a client that does not speak it sees. And what a reload changes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use prism_node::client::{Client, ClientError};
use prism_node::reload::Reloadable;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

/// An authority, and a certificate of it for loopback.
struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = Self {
            dir: tempfile::tempdir().expect("a directory"),
            issuer: CertifiedIssuer::self_signed(params, key).expect("an authority"),
        };
        authority.write("ca.crt", &authority.issuer.pem(), 0o644);
        authority.renew(&["127.0.0.1"]);
        authority.write("http.token", TOKEN, 0o600);
        authority
    }

    fn renew(&self, names: &[&str]) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("parameters");
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        self.write("http.crt", &cert.pem(), 0o644);
        self.write("http-tls.key", &key.serialize_pem(), 0o600);
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
    }

    fn config(&self, address: Option<SocketAddr>) -> Config {
        let http = "[http]\ntoken_file = \"http.token\"\ntls_cert = \"http.crt\"\ntls_key = \"http-tls.key\"\ntls_ca = \"ca.crt\"\n";
        let address = address.map_or_else(|| "127.0.0.1:8101".to_owned(), |a| a.to_string());
        let text = format!("{}{http}", CONFIG.replace("127.0.0.1:8101", &address));
        Config::parse(&text, &self.dir.path().join("prism.toml")).expect("config")
    }

    fn start(&self) -> Node {
        let (mut server, intake, board) = server_config(None);
        server.access = self.config(None).http_access().expect("usable files");
        run(server, intake, board)
    }

    /// As `prism status` asks.
    fn ask(&self, node: &Node) -> Result<Status, ClientError> {
        let config = self.config(Some(node.address));
        let credentials = config.http_credentials().expect("usable files");
        Client::new(&config.nodes[0], &credentials, Duration::from_secs(20)).get("/v1/status")
    }
}

#[test]
fn our_client_speaks_tls_and_believes_its_authority_only() {
    let authority = Authority::new();
    let node = authority.start();
    assert_eq!(authority.ask(&node).expect("an answer").node, "NA1");
    // Another authority, with certificates for the same address.
    let stranger = Authority::new();
    let e = stranger.ask(&node).expect_err("not believed").to_string();
    assert!(e.contains("https://") && e.contains("certificate"), "{e}");
    assert!(!e.contains(TOKEN), "{e}");
    // A certificate for another address.
    authority.renew(&["127.0.0.2", "localhost"]);
    let other = authority.start();
    let e = authority.ask(&other).expect_err("not believed").to_string();
    assert!(e.contains("certificate"), "{e}");
}

#[test]
fn plain_http_is_cut_off_and_nothing_is_told() {
    let authority = Authority::new();
    let node = authority.start();
    let request = format!("GET /v1/status HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    let mut stream = TcpStream::connect(node.address).expect("connect");
    stream.write_all(request.as_bytes()).expect("write");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    // An alert of TLS at most, and no HTTP.
    assert!(answer.len() <= 7, "{answer:?}");
    assert_eq!(authority.ask(&node).expect("an answer").node, "NA1");
    // A client that is told to use TLS does not fall back to a server without.
    let plain = start(Some(TOKEN));
    let e = authority.ask(&plain).expect_err("no TLS there").to_string();
    assert!(e.contains("https://"), "{e}");
}

#[test]
fn a_handshake_that_does_not_come_to_its_end_is_cut_off() {
    let authority = Authority::new();
    let (mut server, intake, board) = server_config(None);
    server.access = authority.config(None).http_access().expect("usable files");
    server.patience.headers = Duration::from_millis(100);
    let node = run(server, intake, board);
    for hello in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(node.address).expect("connect");
        stream.write_all(hello).expect("write");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("timeout");
        stream.read_to_end(&mut Vec::new()).expect("closed");
    }
}

#[test]
fn certificate_and_token_are_changed_while_it_runs() {
    let authority = Authority::new();
    let node = authority.start();
    let server = node.server.as_ref().expect("running");
    assert!(authority.ask(&node).is_ok());
    authority.write("http.token", "another-token-altogether", 0o600);
    assert!(authority.ask(&node).is_err(), "the server has the old one");
    authority.renew(&["127.0.0.1"]);
    // Everything is read first: what cannot be used changes nothing.
    let entrance = server.entrance();
    authority.write("http.token", "another-token-altogether", 0o644);
    assert!(entrance.prepare(&authority.config(None)).is_err());
    authority.write("http.token", "another-token-altogether", 0o600);
    let Ok(commit) = entrance.prepare(&authority.config(None)) else {
        panic!("usable files");
    };
    assert!(authority.ask(&node).is_err(), "only prepared");
    commit();
    assert!(authority.ask(&node).is_ok());
    authority.write("http.token", TOKEN, 0o600);
    let e = authority.ask(&node).expect_err("the old token");
    assert!(matches!(e, ClientError::Refused { status: 401, .. }), "{e}");
}

#[test]
fn secrets_that_others_can_read_are_refused_and_never_shown() {
    let authority = Authority::new();
    let key = fs::read_to_string(authority.dir.path().join("http-tls.key")).expect("key");
    let refused = |authority: &Authority| {
        let Err(e) = authority.config(None).http_access() else {
            panic!("accepted");
        };
        let e = e.to_string();
        assert!(!e.contains(TOKEN) && !e.contains(&key[40..60]), "{e}");
        e
    };
    authority.write("http.token", TOKEN, 0o640);
    assert!(refused(&authority).contains("chmod 600"));
    authority.write("http.token", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", 0o600);
    assert!(refused(&authority).contains("prism keygen"));
    authority.write("http.token", &"x1y2z3w4".repeat(10_000), 0o600);
    assert!(refused(&authority).contains("larger than"));
    authority.write("http.token", TOKEN, 0o600);
    authority.write("http-tls.key", &key, 0o644);
    assert!(refused(&authority).contains("chmod 600"));
    authority.write("http-tls.key", "not a key", 0o600);
    assert!(refused(&authority).contains("no private key"));
    // Of another certificate.
    let other = KeyPair::generate().expect("a key").serialize_pem();
    authority.write("http-tls.key", &other, 0o600);
    assert!(refused(&authority).contains("tls_cert"));
    authority.write("http-tls.key", &key, 0o600);
    authority.write("http.crt", &key, 0o600);
    let e = refused(&authority);
    assert!(e.contains("no certificate"), "{e}");
}
