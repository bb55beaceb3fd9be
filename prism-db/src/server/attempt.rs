//! Connecting, with TLS or without it, as the mode says; and in which words it fails.

use postgres::config::{SslMode, SslNegotiation};
use postgres::error::SqlState;
use postgres::{Client, Error};
use rustls::CertificateError;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;
use super::tls::{Mode, Roots, Tls};

/// A client, and what another connection for it (to cancel a query) is made with.
pub(crate) struct Connected {
    pub client: Client,
    pub tls: MakeRustlsConnect,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Before anything was sent: a file is missing, a certificate is not believed. In full words.
    Unprotected(String),
    /// The client's error.
    Client(Error),
}

/// What the client is asked for, one after the other. The client's own `Prefer` asks the server
/// whether it has TLS; one that refuses the login by `pg_hba.conf` gets the other kind as well.
fn attempts(mode: Mode) -> &'static [SslMode] {
    match mode {
        Mode::Disable => &[SslMode::Disable],
        Mode::Allow => &[SslMode::Disable, SslMode::Require],
        Mode::Prefer => &[SslMode::Prefer, SslMode::Disable],
        Mode::Require | Mode::VerifyCa | Mode::VerifyFull => &[SslMode::Require],
    }
}

/// One connection.
///
/// # Errors
/// [`Refusal`].
pub(crate) fn connect(address: &Address) -> Result<Connected, Refusal> {
    let direct = address.config.get_ssl_negotiation() == SslNegotiation::Direct;
    let tls = address
        .tls
        .connector(direct)
        .map_err(Refusal::Unprotected)?;
    let mut config = address.config.clone();
    let mut first = None;
    for mode in attempts(address.tls.mode) {
        config.ssl_mode(*mode);
        match config.connect(tls.clone()) {
            Ok(client) => return Ok(Connected { client, tls }),
            Err(error) if error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
                first.get_or_insert(error);
            }
            Err(error) => return Err(refused(address, error)),
        }
    }
    Err(first.map_or_else(
        || Refusal::Unprotected("no way to connect".to_owned()),
        |error| refused(address, error),
    ))
}

/// Failures of TLS say what to do.
fn refused(address: &Address, error: Error) -> Refusal {
    let text = error.to_string();
    if !text.starts_with("error performing TLS handshake") {
        return Refusal::Client(error);
    }
    let mode = address.tls.mode.name();
    let mut source = std::error::Error::source(&error);
    let mut said = String::new();
    while let Some(inner) = source {
        said = inner.to_string();
        let io = inner.downcast_ref::<std::io::Error>();
        let held = io.and_then(|io| io.get_ref());
        let tls = inner.downcast_ref::<rustls::Error>();
        let tls = tls.or_else(|| held.and_then(|held| held.downcast_ref()));
        if let Some(tls) = tls {
            return Refusal::Unprotected(format!(
                "TLS (sslmode={mode}): {}",
                explain(address, tls)
            ));
        }
        source = inner.source();
    }
    let advice = match &*said {
        "server does not support TLS" => {
            "the server has no TLS, or somebody on the way says so: switch it on at the server (ssl = on); \
             write sslmode=disable only for a network that nobody else can touch"
        }
        "no hostname provided for TLS handshake" => {
            "TLS needs the server's name: write host as well as hostaddr"
        }
        other => other,
    };
    Refusal::Unprotected(format!("TLS (sslmode={mode}): {advice}"))
}

fn explain(address: &Address, error: &rustls::Error) -> String {
    use rustls::Error::InvalidCertificate;
    let Tls {
        roots, identity, ..
    } = &address.tls;
    let roots = match roots {
        Some(Roots::File(path)) => path.display().to_string(),
        _ => "this machine's trusted certificates".to_owned(),
    };
    match error {
        // Of the handshake, in every mode; or of the certificate.
        InvalidCertificate(CertificateError::BadSignature) => {
            "the server cannot sign as its certificate says, or the signature of the certificate is wrong: somebody else may be answering".to_owned()
        }
        InvalidCertificate(CertificateError::UnknownIssuer) => {
            format!("the server's certificate was not signed by an authority in {roots}: somebody else may be answering, or sslrootcert is not the right file")
        }
        InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("{error}: somebody else may be answering; or write a host that the certificate names (as subjectAltName)"),
        InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => format!("{error}: renew the server's certificate (and look at the clocks)"),
        InvalidCertificate(CertificateError::Other(_)) if error.to_string().contains("CaUsedAsEndEntity") => {
            "the server's certificate is that of an authority (openssl req -x509 makes such ones): make an authority, and sign a certificate for the server with it".to_owned()
        }
        rustls::Error::AlertReceived(_) if identity.is_some() => {
            format!("{error}: the server does not accept the certificate of sslcert")
        }
        other => other.to_string(),
    }
}
