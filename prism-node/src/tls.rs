//! TLS of the HTTP API: what a node shows, and whom its clients believe.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::private_file::{self, PrivateFileError};

/// A key is far smaller.
const MAX_KEY: u64 = 64 << 10;
/// The certificates of all public authorities together have a quarter of it.
const MAX_CERTIFICATES: u64 = 1 << 20;

/// Why TLS cannot be used. Nothing of a key's content is ever in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The key cannot be read, or others can.
    #[error("tls_key {0}")]
    Key(#[from] PrivateFileError),
    /// The key is none.
    #[error(
        "tls_key {}: there is no private key in PEM (PKCS#8, PKCS#1 or SEC1) in it", .0.display()
    )]
    NoKey(PathBuf),
    /// The certificates cannot be read.
    #[error("{key} {}: {source}", .path.display())]
    Io {
        /// Key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// There are none.
    #[error("{key} {}: there is no certificate in PEM in it", .path.display())]
    NoCertificate {
        /// Key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// They do not belong together, or are not understood.
    #[error(
        "tls_cert {} with tls_key {}: {reason}; the first certificate in the file has to be the one of the key", .cert.display(), .key.display()
    )]
    Pair {
        /// The certificates.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What rustls says.
        reason: String,
    },
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What a node shows to its clients, from a PEM file with its certificate and those between it and
/// the authority, and a PEM file with the key, which only its owner can read.
///
/// # Errors
/// [`TlsError`].
pub fn server(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(cert, "tls_cert")?;
    let secret = private_file::read(key, MAX_KEY)?;
    let secret =
        PrivateKeyDer::from_pem_slice(&secret).map_err(|_| TlsError::NoKey(key.to_owned()))?;
    let pair = |e: rustls::Error| TlsError::Pair {
        cert: cert.to_owned(),
        key: key.to_owned(),
        reason: e.to_string(),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// How `prism status` and the other clients check a node: against the authorities in `ca` and
/// nothing else, and with the address that they have called.
///
/// # Errors
/// [`TlsError`].
pub fn client(ca: &Path) -> Result<TlsConfig, TlsError> {
    let trusted: Vec<_> = certificates(ca, "tls_ca")?
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect();
    Ok(TlsConfig::builder()
        .unversioned_rustls_crypto_provider(provider())
        .root_certs(RootCerts::new_with_certs(&trusted))
        .build())
}

fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CERTIFICATES).read_to_end(&mut pem))
        .map_err(|source| TlsError::Io {
            key,
            path: path.to_owned(),
            source,
        })?;
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::NoCertificate {
            key,
            path: path.to_owned(),
        }),
    }
}
