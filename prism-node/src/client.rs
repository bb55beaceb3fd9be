//! Talks to the HTTP API of a node, for `prism submit` and `prism status`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::Node;
use crate::http::{ErrorBody, NODE_HEADER};

/// Longest answer that is read: a status of hundreds of lanes is far smaller.
const MAX_ANSWER: u64 = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("node {node} does not answer at http://{address}: {reason}")]
    Unreachable {
        /// The node.
        node: String,
        /// Where it was sought.
        address: SocketAddr,
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
    #[error("http://{address} answered HTTP {status} with something that no node says: {reason}")]
    Nonsense {
        /// Where.
        address: SocketAddr,
        /// HTTP status.
        status: u16,
        /// The error.
        reason: String,
    },
}

/// A node's HTTP API.
pub struct Client {
    agent: ureq::Agent,
    node: String,
    address: SocketAddr,
    token: Option<String>,
}

#[derive(Deserialize)]
struct Wrapped {
    error: ErrorBody,
}

impl Client {
    /// Prepares calls to `node`; connects at each call.
    #[must_use]
    pub fn new(node: &Node, token: Option<&str>, timeout: Duration) -> Self {
        let mut address = node.http;
        // A node that listens everywhere is found where its peers find it.
        if address.ip().is_unspecified() {
            address.set_ip(node.udp.ip());
        }
        let agent = ureq::Agent::config_builder()
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
            address,
            token: token.map(str::to_owned),
        }
    }

    /// A call without a body.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let mut request = self
            .agent
            .get(format!("http://{}{path}", self.address))
            .header(NODE_HEADER, &self.node);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
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
            .post(format!("http://{}{path}", self.address))
            .header(NODE_HEADER, &self.node);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
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
                address: self.address,
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
                address: self.address,
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
                address: self.address,
                status,
                reason: e.to_string(),
            },
        })
    }
}
