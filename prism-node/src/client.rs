//! Talks to the HTTP API of a node, for `prism submit` and `prism status`.

use std::io;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::tls::TlsConfig;

use crate::config::Node;
use crate::http::{ErrorBody, NODE_HEADER};
use crate::token::Token;

/// Longest answer that is read: a status of hundreds of lanes is far smaller.
const MAX_ANSWER: u64 = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("node {node} does not answer at {url}: {reason}")]
    Unreachable {
        /// The node.
        node: String,
        /// Where it was sought.
        url: String,
        /// The error.
        reason: String,
        /// Nobody listens there: nothing has been asked.
        refused: bool,
    },
    /// It answered no.
    #[error("{} ({}, HTTP {status})", .error.message, .error.code)]
    Refused {
        /// HTTP status.
        status: u16,
        /// The node's words.
        error: ErrorBody,
        /// The whole answer.
        body: Box<serde_json::Value>,
    },
    /// It answered something else.
    #[error("{url} answered HTTP {status} with something that no node says: {reason}")]
    Nonsense {
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
        /// The error.
        reason: String,
    },
}

/// What a client sends, and whom it believes.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The bearer token.
    pub token: Option<Token>,
    /// It speaks TLS, and nothing else, if it is there.
    pub tls: Option<TlsConfig>,
}

/// A node's HTTP API.
pub struct Client {
    agent: ureq::Agent,
    node: String,
    url: String,
    token: Option<Token>,
}

#[derive(Deserialize)]
struct Wrapped {
    error: ErrorBody,
}

impl Client {
    /// Prepares calls to `node`; connects at each call.
    #[must_use]
    pub fn new(node: &Node, credentials: &Credentials, timeout: Duration) -> Self {
        let mut address = node.http;
        // A node that listens everywhere is found where its peers find it.
        if address.ip().is_unspecified() {
            address.set_ip(node.udp.ip());
        }
        let tls = credentials.tls.clone();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let agent = ureq::Agent::config_builder()
            .https_only(tls.is_some())
            .tls_config(tls.unwrap_or_default())
            .timeout_global(Some(timeout))
            .timeout_connect(Some(timeout.min(Duration::from_secs(3))))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build()
            .new_agent();
        Self {
            agent,
            node: node.name.clone(),
            url: format!("{scheme}://{address}"),
            token: credentials.token.clone(),
        }
    }

    /// A call without a body.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let mut request = self
            .agent
            .get(format!("{}{path}", self.url))
            .header(NODE_HEADER, &self.node);
        if let Some(token) = &self.token {
            request = request.header("authorization", token.header().as_str());
        }
        self.answer(request.call())
    }

    /// A call with a JSON body.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, ClientError> {
        let mut request = self
            .agent
            .post(format!("{}{path}", self.url))
            .header(NODE_HEADER, &self.node);
        if let Some(token) = &self.token {
            request = request.header("authorization", token.header().as_str());
        }
        self.answer(request.send_json(body))
    }

    fn answer<T: DeserializeOwned>(
        &self,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, ClientError> {
        let unreachable = |e: &ureq::Error| {
            let refused = match e {
                ureq::Error::Io(e) => e.kind() == io::ErrorKind::ConnectionRefused,
                ureq::Error::ConnectionFailed => true,
                _ => false,
            };
            ClientError::Unreachable {
                node: self.node.clone(),
                url: self.url.clone(),
                reason: if refused {
                    "connection refused".to_owned()
                } else {
                    e.to_string()
                },
                refused,
            }
        };
        let response = response.map_err(|e| unreachable(&e))?;
        let status = response.status().as_u16();
        let bytes = response
            .into_body()
            .into_with_config()
            .limit(MAX_ANSWER)
            .read_to_vec()
            .map_err(|e| unreachable(&e))?;
        if (200..300).contains(&status) {
            return serde_json::from_slice(&bytes).map_err(|e| ClientError::Nonsense {
                url: self.url.clone(),
                status,
                reason: e.to_string(),
            });
        }
        Err(match serde_json::from_slice::<Wrapped>(&bytes) {
            Ok(wrapped) => ClientError::Refused {
                status,
                error: wrapped.error,
                body: Box::new(serde_json::from_slice(&bytes).unwrap_or_default()),
            },
            Err(e) => ClientError::Nonsense {
                url: self.url.clone(),
                status,
                reason: e.to_string(),
            },
        })
    }
}
