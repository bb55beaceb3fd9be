//! TLS to a server, by libpq's words (`sslmode`, `sslrootcert`, `sslcert`, `sslkey`).
//!
//! The files are read at every connection, so that renewed ones are used without a restart.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::verify::AnyName;

/// A root file of all the world's authorities has about 250 KB.
const MAX_FILE: u64 = 4 << 20;

/// `sslmode`, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Mode {
    const ALL: [(&'static str, Self); 6] = [
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, mode)| *mode).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            format!("the database address has an unknown sslmode; it is one of {names}")
        })
    }

    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, mode)| *mode == self)
            .map_or("", |(name, _)| name)
    }

    /// Never without TLS.
    pub(super) fn is_required(self) -> bool {
        self >= Self::Require
    }
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Those of a file (PEM).
    File(PathBuf),
    /// Those of the operating system.
    System,
}

impl Roots {
    pub(super) fn parse(text: &str) -> Self {
        match text {
            "system" => Self::System,
            path => Self::File(path.into()),
        }
    }
}

/// How a connection is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    pub mode: Mode,
    pub roots: Option<Roots>,
    /// The client's certificate and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// `local`: a socket of this machine, which never has TLS.
    pub(super) fn new(
        mode: Option<Mode>,
        roots: Option<Roots>,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
        local: bool,
    ) -> Result<Self, String> {
        let system = roots == Some(Roots::System);
        let mut mode = mode.unwrap_or(if system {
            Mode::VerifyFull
        } else {
            Mode::Prefer
        });
        // Anybody gets a certificate from one of the world's authorities, for a name of their own.
        if system && mode < Mode::VerifyFull && !local {
            return Err(format!(
                "sslmode={} is too weak for sslrootcert=system: write sslmode=verify-full",
                mode.name()
            ));
        }
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err("sslcert needs sslkey as well".to_owned()),
            (None, Some(_)) => return Err("sslkey needs sslcert as well".to_owned()),
        };
        if local {
            mode = Mode::Disable;
        } else if mode == Mode::Require && roots.is_some() {
            mode = Mode::VerifyCa;
        }
        Ok(Self {
            mode,
            roots,
            identity,
        })
    }

    /// What the client makes its connections with, for this mode.
    ///
    /// # Errors
    /// A text that says which file is missing or wrong.
    pub(super) fn connector(&self, direct: bool) -> Result<MakeRustlsConnect, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS: {e}"))?;
        let any_name = |roots| {
            let provider = Arc::clone(&provider);
            Arc::new(AnyName { roots, provider })
        };
        let builder = match (self.mode, self.roots.as_ref()) {
            (Mode::Disable, _) | (Mode::Allow | Mode::Prefer | Mode::Require, None) => builder
                .dangerous()
                .with_custom_certificate_verifier(any_name(None)),
            (Mode::VerifyFull, Some(roots)) => builder.with_root_certificates(load(roots)?),
            (_, Some(roots)) => builder
                .dangerous()
                .with_custom_certificate_verifier(any_name(Some(load(roots)?))),
            (Mode::VerifyCa | Mode::VerifyFull, None) => {
                return Err(format!(
                    "sslmode={} needs the authority that signed the server's certificate: add \
                     sslrootcert=FILE (relative to prism.toml), or sslrootcert=system for one \
                     that this machine trusts",
                    self.mode.name()
                ));
            }
        };
        let mut config = match &self.identity {
            Some((certificate, key)) if self.mode != Mode::Disable => {
                let key = private_key(key)?;
                builder
                    .with_client_auth_cert(certificates("sslcert", certificate)?, key)
                    .map_err(|e| format!("sslcert and sslkey cannot be used: {e}"))?
            }
            _ => builder.with_no_client_auth(),
        };
        if direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(MakeRustlsConnect::new(config))
    }
}

/// The algorithms with which a handshake may be signed.
pub(super) fn algorithms(provider: &CryptoProvider) -> &rustls::crypto::WebPkiSupportedAlgorithms {
    &provider.signature_verification_algorithms
}

fn load(roots: &Roots) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                return Err(
                    "sslrootcert=system: this machine has no trusted certificates; install its \
                     package of them (ca-certificates), or write sslrootcert=FILE"
                        .to_owned(),
                );
            }
        }
        Roots::File(path) => {
            for certificate in certificates("sslrootcert", path)? {
                store
                    .add(certificate)
                    .map_err(|e| format!("sslrootcert {}: {e}", path.display()))?;
            }
        }
    }
    Ok(store)
}

fn read(what: &str, path: &Path, secret: bool) -> Result<Vec<u8>, String> {
    let fail = |e: &dyn std::fmt::Display| format!("{what} {}: {e}", path.display());
    let file = File::open(path).map_err(|e| fail(&e))?;
    #[cfg(unix)]
    if secret {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = file.metadata().map_err(|e| fail(&e))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(fail(&format!(
                "others may read this private key (mode {mode:04o}); chmod 600 it, and replace the \
                 key if somebody may have"
            )));
        }
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(|e| fail(&e))?;
    Ok(bytes)
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(what, path, false)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!(
            "{what} {}: there is no certificate in it (PEM)",
            path.display()
        )),
        Err(e) => Err(format!("{what} {}: {e}", path.display())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    // Nothing of the parser's words: they may hold a part of the file.
    PrivateKeyDer::from_pem_slice(&read("sslkey", path, true)?).map_err(|_| {
        format!(
            "sslkey {}: there is no private key in it that can be read (PEM, without a passphrase)",
            path.display()
        )
    })
}
