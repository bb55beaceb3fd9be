//! From the listening socket to requests: room, TLS, HTTP, and an end to each of them.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::Patience;
use super::access::Door;
use super::connections::{Connections, Crowd, Place};
use super::patient::Patient;

/// Bytes of headers; tokens and request lines are short.
const MAX_HEADER_BYTES: usize = 32 << 10;

/// Whoever has not finished by then when the node stops is cut off.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Out of descriptors: the others get this time to close theirs.
const NO_DESCRIPTORS: Duration = Duration::from_millis(50);

/// What every connection needs.
pub(super) struct Host {
    pub(super) router: Router,
    pub(super) door: Arc<Door>,
    pub(super) patience: Patience,
}

/// Takes connections until `stopped`.
pub(super) async fn serve(
    listener: TcpListener,
    host: Host,
    crowd: Crowd,
    mut stopped: watch::Receiver<bool>,
) {
    let connections = Connections::new(crowd);
    let graceful = GracefulShutdown::new();
    let host = Arc::new(host);
    loop {
        let accepted = tokio::select! {
            accepted = async {
                connections.room().await;
                listener.accept().await
            } => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(NO_DESCRIPTORS).await;
            continue;
        };
        let Some(place) = connections.admit(from.ip()) else {
            continue;
        };
        let (host, watcher) = (Arc::clone(&host), graceful.watcher());
        tokio::spawn(async move {
            tokio::select! {
                () = host.connection(stream, &place, watcher) => {}
                () = place.cut() => {}
            }
        });
    }
    let finished = pin!(graceful.shutdown());
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, finished).await;
}

impl Host {
    async fn connection(&self, stream: TcpStream, place: &Place, watcher: Watcher) {
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream, self.patience.answer);
        match self.door.tls() {
            None => self.requests(stream, place, watcher).await,
            Some(config) => {
                let hello = TlsAcceptor::from(config).accept(stream);
                // Whoever speaks something else, or nothing, is gone without a word in the log.
                if let Ok(Ok(stream)) = tokio::time::timeout(self.patience.headers, hello).await {
                    self.requests(stream, place, watcher).await;
                }
            }
        }
    }

    pub(super) async fn requests<S>(&self, stream: S, place: &Place, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.patience.headers)
            .max_buf_size(MAX_HEADER_BYTES);
        let router = TowerToHyperService::new(self.router.clone());
        let activity = place.activity();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(activity.clone());
            router.call(request)
        });
        let connection = watcher.watch(http.serve_connection(TokioIo::new(stream), service));
        // A client that goes away or talks nonsense is its own problem.
        let _ = connection.await;
    }
}
