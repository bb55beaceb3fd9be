//! The HTTP API without a socket, for the fuzz targets: the bytes of a connection in, the bytes of
//! the answer out, on the way that a real connection takes.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use super::accept::Host;
use super::access::Door;
use super::connections::Connections;
use super::{ServerConfig, ServerError, router};

/// Requests that are answered at once are answered within so many polls.
const TURNS: usize = 64;

/// See the module.
pub struct BareHttp {
    runtime: Runtime,
    host: Host,
    connections: Arc<Connections>,
    graceful: GracefulShutdown,
}

impl BareHttp {
    /// Nothing is bound to the address in `config`, but it has to be allowed.
    ///
    /// # Errors
    /// As [`Server::start`](super::Server::start).
    pub fn new(config: ServerConfig) -> Result<Self, ServerError> {
        let door = Arc::new(Door::new(config.address, config.access.clone())?);
        Ok(Self {
            // Status and metrics block in place, which the other flavour does not allow.
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .map_err(ServerError::Threads)?,
            connections: Connections::new(config.crowd),
            graceful: GracefulShutdown::new(),
            host: Host {
                patience: config.patience,
                router: router(config, Arc::clone(&door)),
                door,
            },
        })
    }

    /// What is answered to a client that sends these bytes and then nothing more. It also says that
    /// there is no more (`end`), or waits for the end of the connection.
    ///
    /// # Errors
    /// There is no room for a connection: an earlier one has not been taken down.
    pub fn connection(&self, bytes: &[u8], end: bool) -> io::Result<Vec<u8>> {
        let from = IpAddr::from(Ipv4Addr::LOCALHOST);
        let place = self
            .connections
            .admit(from)
            .ok_or(io::ErrorKind::QuotaExceeded)?;
        let (mut client, server) = tokio::io::duplex(bytes.len().max(64 << 10));
        let mut answer = Vec::new();
        self.runtime.block_on(async {
            let talk = async {
                // It may answer and close before it has read everything.
                let _ = client.write_all(bytes).await;
                if end {
                    // HTTP/1 servers take an end that comes at once for a client that has gone.
                    for _ in 0..TURNS {
                        tokio::task::yield_now().await;
                    }
                    let _ = client.shutdown().await;
                }
                client.read_to_end(&mut answer).await
            };
            let serve = self.host.requests(server, &place, self.graceful.watcher());
            // A stream that was broken off has told what it had to tell.
            let _ = tokio::join!(talk, serve);
        });
        Ok(answer)
    }
}
