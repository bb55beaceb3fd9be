//! Certificates, servers that use them, and people in the middle.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prism_db::throwaway::Cluster;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream,
};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// PEM: certificate, key.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For these host names; a client's too.
    pub fn issue(&self, names: &[&str], expired: bool) -> Issued {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names.clone()).expect("names");
        let common = names.first().map_or("nobody", String::as_str);
        params.distinguished_name.push(DnType::CommonName, common);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        Issued {
            certificate: params.signed_by(&key, &self.0).expect("signs").pem(),
            key: key.serialize_pem(),
        }
    }
}

/// Switches TLS on at a running server, and makes it ask for passwords by SCRAM.
pub fn switch_on(cluster: &Cluster, server: &Issued, clients: &Authority, rules: &str) {
    let dir = cluster.directory();
    let owner = fs::metadata(dir.join("data")).expect("data").uid();
    for (name, text) in [
        ("server.crt", &server.certificate),
        ("server.key", &server.key),
        ("clients.crt", &clients.pem()),
    ] {
        let path = dir.join(name);
        write_private(&path, text);
        chown(&path, Some(owner), None).expect("chown");
    }
    fs::write(dir.join("data/pg_hba.conf"), rules).expect("pg_hba.conf");
    let path = |name: &str| dir.join(name).display().to_string();
    let mut admin = cluster.admin("postgres").expect("connects");
    for (name, value) in [
        ("ssl_cert_file", path("server.crt")),
        ("ssl_key_file", path("server.key")),
        ("ssl_ca_file", path("clients.crt")),
        ("ssl", "on".to_owned()),
    ] {
        admin
            .batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'"))
            .expect("sets");
    }
    admin
        .batch_execute("SELECT pg_reload_conf()")
        .expect("reloads");
    super::until("the server has TLS", || {
        let mut stream = TcpStream::connect(("127.0.0.1", cluster.port())).expect("connects");
        let mut answer = [0];
        stream.write_all(&SSL_REQUEST).expect("asks");
        stream.read_exact(&mut answer).is_ok() && answer == *b"S"
    });
}

pub fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("writes");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
}

pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Takes connections until it is dropped.
pub struct Middle {
    pub port: u16,
    stop: Arc<AtomicBool>,
}

impl Middle {
    pub fn new(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, serve) = (Arc::clone(&stop), Arc::new(serve));
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let _ = client.set_read_timeout(Some(Duration::from_secs(10)));
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(client));
            }
        });
        Self { port, stop }
    }

    /// Says that the server has no TLS, and writes down what it hears then.
    pub fn downgrades() -> (Self, Arc<Mutex<Vec<u8>>>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let middle = Self::new(move |mut client| {
            let mut request = [0; 8];
            if client.read_exact(&mut request).is_err() || client.write_all(b"N").is_err() {
                return;
            }
            let mut buffer = [0; 1024];
            while let Ok(n @ 1..) = client.read(&mut buffer) {
                hears.lock().expect("lock").extend_from_slice(&buffer[..n]);
            }
        });
        (middle, heard)
    }

    /// Has TLS with both sides, under a certificate of its own.
    pub fn terminates(own: &Issued, server: u16) -> Self {
        let own = Arc::new(server_config(own));
        Self::new(move |mut client| {
            let _ = between(&mut client, &own, server);
        })
    }

    /// Passes everything on, until `deaf`; the first bytes of every connection are written down.
    pub fn listens(server: u16, deaf: Arc<AtomicBool>) -> (Self, Arc<Mutex<Vec<[u8; 8]>>>) {
        let first = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&first);
        let middle = Self::new(move |mut client| {
            let mut request = [0; 8];
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)) else {
                return;
            };
            if client.read_exact(&mut request).is_err() {
                return;
            }
            hears.lock().expect("lock").push(request);
            let _ = server.write_all(&request);
            let (mut back, mut to) = (
                server.try_clone().expect("clones"),
                client.try_clone().expect("clones"),
            );
            let ears = Arc::clone(&deaf);
            std::thread::spawn(move || pass(&mut back, &mut to, &ears));
            pass(&mut client, &mut server, &deaf);
        });
        (middle, first)
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass(from: &mut TcpStream, to: &mut TcpStream, deaf: &AtomicBool) {
    let mut buffer = [0; 65536];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if !deaf.load(Ordering::SeqCst) && to.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

fn server_config(own: &Issued) -> ServerConfig {
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
    let certificates = CertificateDer::pem_slice_iter(own.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .expect("certificates");
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        // Whether the key is that of the certificate is not looked at: whoever shows the certificate
        // of another one has not got its key.
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(
            certificates,
            rustls::crypto::ring::sign::any_supported_type(&key).expect("a key"),
        ))))
}

/// A login is a strict alternation of questions and answers.
fn between(client: &mut TcpStream, own: &Arc<ServerConfig>, server: u16) -> std::io::Result<()> {
    let mut byte = [0; 8];
    client.read_exact(&mut byte)?;
    client.write_all(b"S")?;
    let mut session = ServerConnection::new(Arc::clone(own)).expect("a session");
    let mut client = Stream::new(&mut session, client);

    let mut far = TcpStream::connect(("127.0.0.1", server))?;
    far.set_read_timeout(Some(Duration::from_secs(10)))?;
    far.write_all(&SSL_REQUEST)?;
    far.read_exact(&mut byte[..1])?;
    let mut session = ClientConnection::new(
        Arc::new(believes_anybody()),
        ServerName::try_from("localhost").expect("a name"),
    )
    .expect("a session");
    let mut far = Stream::new(&mut session, &mut far);
    let mut buffer = [0; 65536];
    loop {
        let n = client.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        far.write_all(&buffer[..n])?;
        let n = far.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        client.write_all(&buffer[..n])?;
    }
}

fn believes_anybody() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(Anybody(provider)));
    config
}

#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A file of this test.
pub fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    write_private(&path, text);
    path
}
