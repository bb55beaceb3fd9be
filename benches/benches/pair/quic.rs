//! One QUIC stream between two threads with a runtime each, for comparison.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::{PAYLOAD, PER_WRITE};

/// What a connection is encrypted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// What rustls prefers: AES-256-GCM, for which the processor has instructions.
    Aes,
    /// ChaCha20-Poly1305, as our packets.
    ChaCha,
}

/// Both ends of a QUIC connection.
pub fn configs(cipher: Cipher) -> (quinn::ServerConfig, quinn::ClientConfig) {
    use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
    use rustls::crypto::ring::{cipher_suite, default_provider};

    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key");
    let certificate = certified.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der())
        .expect("a key");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let mut provider = default_provider();
    if cipher == Cipher::ChaCha {
        // QUIC's first packets need the second one (RFC 9001, 5.2).
        provider.cipher_suites = vec![
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
        ];
    }
    let (provider, tls13) = (Arc::new(provider), [&rustls::version::TLS13]);
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&tls13)
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a server configuration");
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&tls13)
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = QuicServerConfig::try_from(server).expect("a server for QUIC");
    let client = QuicClientConfig::try_from(client).expect("a client for QUIC");
    (
        quinn::ServerConfig::with_crypto(Arc::new(server)),
        quinn::ClientConfig::new(Arc::new(client)),
    )
}

/// One for each thread.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A connection; the bytes that it carries are counted.
pub struct Quic {
    orders: Option<UnboundedSender<u64>>,
    read: Arc<AtomicU64>,
    sent: u64,
    threads: Vec<JoinHandle<()>>,
}

impl Quic {
    pub fn start(cipher: Cipher) -> Self {
        let (server_config, client_config) = configs(cipher);
        let read = Arc::new(AtomicU64::new(0));
        let (address_out, address_in) = channel();
        let counter = read.clone();
        let server = std::thread::spawn(move || {
            runtime().block_on(async move {
                let at = SocketAddr::from(([127, 0, 0, 1], 0));
                let endpoint = quinn::Endpoint::server(server_config, at).expect("loopback");
                let _ = address_out.send(endpoint.local_addr().expect("bound"));
                let incoming = endpoint.accept().await.expect("open");
                let connection = incoming.await.expect("client");
                let mut stream = connection.accept_uni().await.expect("a stream");
                while let Ok(Some(chunk)) = stream.read_chunk(1 << 16, true).await {
                    counter.fetch_add(chunk.bytes.len() as u64, Ordering::Release);
                }
            });
        });
        let to = address_in.recv().expect("the server is up");
        let (orders, mut todo) = tokio::sync::mpsc::unbounded_channel::<u64>();
        let client = std::thread::spawn(move || {
            runtime().block_on(async move {
                let at = SocketAddr::from(([127, 0, 0, 1], 0));
                let endpoint = quinn::Endpoint::client(at).expect("loopback");
                let connecting = endpoint.connect_with(client_config, to, "localhost");
                let connection = connecting.expect("a name").await.expect("the server");
                let mut stream = connection.open_uni().await.expect("a stream");
                let write = PAYLOAD.repeat(PER_WRITE as usize);
                while let Some(count) = todo.recv().await {
                    for _ in 0..count / PER_WRITE {
                        stream.write_all(&write).await.expect("the server reads");
                    }
                }
                let _ = stream.finish();
                let _ = stream.stopped().await;
            });
        });
        Self {
            orders: Some(orders),
            read,
            sent: 0,
            threads: vec![client, server],
        }
    }

    /// Sends so many messages and waits until the other side has read them.
    pub fn send(&mut self, count: u64) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(count);
        }
        self.sent += count * PAYLOAD.len() as u64;
        while self.read.load(Ordering::Acquire) < self.sent {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.orders = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
