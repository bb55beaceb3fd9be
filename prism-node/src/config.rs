//! `prism.toml`: one file for the whole cluster, read, checked and typed.
//!
//! [`Config::load`] either gives a configuration in which every reference is resolved, or a
//! [`ConfigError`] that lists everything that is wrong, each with file, line, column and fix.

mod addresses;
mod build;
mod convert;
mod expand;
mod keys;
mod problem;
mod section;
mod statements;
mod tuning;
mod units;
mod values;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prism_db::DatabaseUrl;
use prism_db::catalogue::Catalogue;
use prism_proto::{NodeId, RegionId, RegionKey, Retry};

use crate::client::Credentials;
use crate::http::Access;
use crate::keys::{KeyError, PublicKey, SecretKey};
use crate::tls::{self, TlsError};
use crate::token::{Token, TokenError};

pub use problem::{ConfigError, Problem};
pub(crate) use units::{show_duration, show_size};

/// A cluster of hundreds of nodes with a thousand statements stays far below.
const MAX_FILE: u64 = 4 << 20;

/// The whole cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// Its directory, absolute: relative paths in the file start here.
    pub base_dir: PathBuf,
    /// Name of the cluster.
    pub cluster: String,
    /// The cluster's pre-shared key.
    pub psk_file: Option<PathBuf>,
    /// Position `i` has `RegionId(i)`.
    pub regions: Vec<Region>,
    /// All nodes; position `i` has `NodeId(i)`; the order within a region is the failover order.
    pub nodes: Vec<Node>,
    /// Retransmission and failover.
    pub retry: Retry,
    /// Bounds.
    pub limits: Limits,
    /// Who may use the HTTP API.
    pub http: HttpFiles,
    /// All statements.
    pub catalogue: Arc<Catalogue>,
}

/// Files of the HTTP API; each machine has its own under these names.
#[derive(Debug, Clone, Default)]
pub struct HttpFiles {
    /// The bearer token.
    pub token: Option<PathBuf>,
    /// A node's certificate and those between it and the authority.
    pub cert: Option<PathBuf>,
    /// The key of the certificate; there if the certificate is.
    pub key: Option<PathBuf>,
    /// Whom clients believe; default: the file of the certificate.
    pub ca: Option<PathBuf>,
}

/// One region.
#[derive(Debug, Clone)]
pub struct Region {
    /// Its index.
    pub id: RegionId,
    /// Its name.
    pub name: String,
    /// Its name on the wire.
    pub key: RegionKey,
    /// As the region's own nodes reach its database.
    pub database: DatabaseUrl,
    /// As other regions reach it.
    pub direct: DatabaseUrl,
    /// Its nodes in failover order.
    pub nodes: Vec<NodeId>,
    /// Line in the file.
    pub line: usize,
}

/// One node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its index.
    pub id: NodeId,
    /// Its region.
    pub region: RegionId,
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub udp: SocketAddr,
    /// What its socket is bound to.
    pub bind_udp: SocketAddr,
    /// Where its HTTP API listens.
    pub http: SocketAddr,
    /// Its public key.
    pub public_key: Option<PublicKey>,
    /// The key that it is about to change to.
    pub next_public_key: Option<PublicKey>,
    /// Line in the file.
    pub line: usize,
}

/// Bounds that an operator can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest encoded update in bytes.
    pub max_update: u32,
    /// How long acknowledged outbox rows stay.
    pub retention: Duration,
    /// Bytes that may wait for one region before it is stale.
    pub max_backlog: u64,
    /// How long an update may wait for one region before it is stale; for ever, if absent.
    pub max_backlog_age: Option<Duration>,
    /// How long an awaited write waits for all regions.
    pub await_timeout: Duration,
    /// Awaited writes that a node carries out at once; each holds a connection to the database.
    pub max_awaits: u32,
    /// Bytes of a node's journal: updates accepted while the database is away.
    pub max_journal: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_update: 256 << 10,
            retention: Duration::from_secs(24 * 3600),
            max_backlog: 8 << 30,
            max_backlog_age: None,
            await_timeout: Duration::from_secs(10),
            max_awaits: 32,
            max_journal: 1 << 30,
        }
    }
}

/// The files of the HTTP API cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Certificates or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let fail = |e: std::io::Error| {
            let fix = match e.kind() {
                std::io::ErrorKind::NotFound => {
                    "name the right file with --config, or make a first cluster with: prism init"
                }
                std::io::ErrorKind::PermissionDenied => "let this user read the file",
                _ => "name a readable file with --config",
            };
            ConfigError::single(path, format!("cannot read it: {e}"), fix)
        };
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes))
            .map_err(fail)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(ConfigError::single(
                path,
                format!("it is larger than {}", units::show_size(MAX_FILE)),
                "is this a prism.toml?",
            ));
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            ConfigError::single(
                path,
                format!("byte {} is not UTF-8", e.utf8_error().valid_up_to()),
                "save the file as UTF-8",
            )
        })?;
        Self::parse(&text, path)
    }

    /// Checks a text as if it stood in `path`, with this process's environment.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::parse_with(text, path, &|name| std::env::var(name).ok())
    }

    /// Checks a text as if it stood in `path`, with the environment given.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse_with(
        text: &str,
        path: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        build::build(text, path, env)
    }

    /// A region by index.
    ///
    /// # Panics
    /// If the id is not of this configuration.
    #[must_use]
    pub fn region(&self, id: RegionId) -> &Region {
        &self.regions[usize::from(id.0)]
    }

    /// A node by index.
    ///
    /// # Panics
    /// If the id is not of this configuration.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[usize::from(id.0)]
    }

    /// A region by name.
    #[must_use]
    pub fn region_named(&self, name: &str) -> Option<&Region> {
        self.regions.iter().find(|r| r.name == name)
    }

    /// A node by name.
    #[must_use]
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// The bearer token of the HTTP API, if one is configured.
    ///
    /// # Errors
    /// [`TokenError`] if the file cannot be read, can be read by others, or holds nothing usable.
    pub fn token(&self) -> Result<Option<Token>, TokenError> {
        self.http.token.as_deref().map(Token::read).transpose()
    }

    /// What a node's HTTP server asks of its clients and shows to them.
    ///
    /// # Errors
    /// [`AccessError`] names the file and the fix.
    pub fn http_access(&self) -> Result<Access, AccessError> {
        let tls = match (&self.http.cert, &self.http.key) {
            (Some(cert), Some(key)) => Some(tls::server(cert, key)?),
            _ => None,
        };
        Ok(Access {
            token: self.token()?.map(|token| token.digest()),
            tls,
        })
    }

    /// What a client of a node's HTTP server sends and expects.
    ///
    /// # Errors
    /// [`AccessError`] names the file and the fix.
    pub fn http_credentials(&self) -> Result<Credentials, AccessError> {
        let ca = self.http.ca.as_deref().or(self.http.cert.as_deref());
        let tls = match (&self.http.cert, ca) {
            (Some(_), Some(ca)) => Some(tls::client(ca)?),
            _ => None,
        };
        Ok(Credentials {
            token: self.token()?,
            tls,
        })
    }

    /// Whether packets are encrypted: the file has keys, and then it has all of them.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.psk_file.is_some()
    }

    /// The cluster's pre-shared key, if one is configured.
    ///
    /// # Errors
    /// [`KeyError`] names the file and the fix.
    pub fn psk(&self) -> Result<Option<SecretKey>, KeyError> {
        self.psk_file.as_deref().map(SecretKey::read).transpose()
    }
}
