//! The HTTP API of a node (the calls are a fixed interface), on a small runtime of its own.
//!
//! Everything that a client can make large, slow or many is bounded: connections, header and body
//! time, body bytes of one request and of all together, elements of an array.

mod accept;
mod access;
mod at_most;
mod bare;
mod bind;
mod connections;
mod error;
mod guard;
mod outcome;
mod patient;
mod updates;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use crate::intake::Intake;
use crate::status::Board;
use accept::Host;
use access::Door;

pub use access::{Access, Entrance};
#[doc(hidden)]
pub use bare::BareHttp;
pub use bind::{Binder, Unbound};
pub use connections::Crowd;
pub use error::ErrorBody;
pub use guard::NODE_HEADER;

/// Bytes of request bodies held at once by all requests together.
const BODY_BUDGET: usize = 64 << 20;

/// How long slow clients are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Whoever has not sent all headers by then, or idles so long, is cut off.
    pub headers: Duration,
    /// Whoever has not sent the whole body by then is cut off.
    pub body: Duration,
    /// Whoever does not take an answer by then is cut off; large answers get more time.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(30),
            body: Duration::from_secs(15),
            answer: Duration::from_secs(15),
        }
    }
}

/// What a server needs to know.
pub struct ServerConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// Name of this node; a request that names another one is refused.
    pub node: String,
    /// Name of its region.
    pub region: String,
    /// Who may come in.
    pub access: Access,
    /// Largest encoded update; a request may be somewhat larger.
    pub max_update: usize,
    /// Longest wait of an awaited update.
    pub await_timeout: Duration,
    /// With slow clients.
    pub patience: Patience,
    /// Most connections.
    pub crowd: Crowd,
    /// Checks parameters against the catalogue.
    pub binder: Arc<dyn Binder>,
    /// Takes the updates.
    pub intake: Arc<dyn Intake>,
    /// Knows the node's state.
    pub board: Arc<dyn Board>,
}

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody else listens there, or the address is not this machine's.
    #[error("cannot listen on http address {address}: {source}{}", hint(.source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The operating system's words.
        source: io::Error,
    },
    /// No token, and the address is not loopback.
    #[error(
        "http address {0} can be reached by others and there is no token; add [http] token_file to the configuration"
    )]
    NoToken(SocketAddr),
    /// No threads.
    #[error("cannot start the HTTP threads: {0}")]
    Threads(io::Error),
}

fn hint(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::AddrInUse => {
            "; is this node running already? Stop it, or change `http` in the configuration"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        _ => "",
    }
}

/// Shared by all requests.
struct App {
    node: String,
    region: String,
    door: Arc<Door>,
    await_timeout: Duration,
    max_body: usize,
    body_timeout: Duration,
    body_budget: Semaphore,
    binder: Arc<dyn Binder>,
    intake: Arc<dyn Intake>,
    board: Arc<dyn Board>,
}

/// A running server. Dropping it stops it at once.
pub struct Server {
    runtime: Option<Runtime>,
    stop: watch::Sender<bool>,
    task: Option<tokio::task::JoinHandle<()>>,
    door: Arc<Door>,
    address: SocketAddr,
}

impl Server {
    /// Binds the address and serves until [`Server::stop`].
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start(config: ServerConfig) -> Result<Self, ServerError> {
        let address = config.address;
        let door = Arc::new(Door::new(address, config.access.clone())?);
        let bind = |source| ServerError::Bind { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(ServerError::Threads)?;
        let listener = {
            let _context = runtime.enter();
            TcpListener::from_std(listener).map_err(bind)?
        };
        let (stop, stopped) = watch::channel(false);
        let (patience, crowd) = (config.patience, config.crowd);
        let host = Host {
            router: router(config, Arc::clone(&door)),
            door: Arc::clone(&door),
            patience,
        };
        let task = runtime.spawn(accept::serve(listener, host, crowd, stopped));
        Ok(Self {
            runtime: Some(runtime),
            stop,
            task: Some(task),
            door,
            address,
        })
    }

    /// Where it listens (with the real port if 0 was asked for).
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a reload of the configuration changes.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        Entrance(Arc::clone(&self.door))
    }

    /// Lets running requests finish for a moment, then stops.
    pub fn stop(mut self) {
        self.stop.send_replace(true);
        if let (Some(runtime), Some(task)) = (&self.runtime, self.task.take()) {
            let _ = runtime.block_on(task);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn router(config: ServerConfig, door: Arc<Door>) -> Router {
    let app = Arc::new(App {
        node: config.node,
        region: config.region,
        door,
        await_timeout: config.await_timeout,
        max_body: updates::max_body(config.max_update),
        body_timeout: config.patience.body,
        body_budget: Semaphore::new(BODY_BUDGET),
        binder: config.binder,
        intake: config.intake,
        board: config.board,
    });
    Router::new()
        .route("/v1/updates", post(updates::post))
        .route("/v1/updates/{request_id}", get(updates::find))
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/", get(page))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}

async fn status(State(app): State<Arc<App>>) -> Response {
    // It asks the loop for fresh figures and waits for them (briefly, also if the loop is stuck).
    axum::Json(tokio::task::block_in_place(|| app.board.status())).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        tokio::task::block_in_place(|| app.board.metrics()),
    )
        .into_response()
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.board.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => {
            let body = ErrorBody::new("not_ready", why);
            error::with_status(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

/// Holds no data: it asks `/v1/status`, with the token that the reader gives it.
async fn page() -> Response {
    (
        [
            (
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            ),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        Html(include_str!("http/page.html")),
    )
        .into_response()
}
