//! Who may come in: the token and the certificate, which can be changed while the server runs.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use super::ServerError;
use crate::config::Config;
use crate::reload::{Commit, Reloadable};
use crate::token::TokenDigest;

/// What a client needs, and what it is shown.
#[derive(Clone, Default)]
pub struct Access {
    /// Required from every client if it is there.
    pub token: Option<TokenDigest>,
    /// The server speaks TLS, and nothing else, if it is there.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// The access as it is now. A connection keeps the certificate with which it has begun; the token
/// is looked at anew for each request.
pub(super) struct Door {
    address: SocketAddr,
    access: RwLock<Access>,
}

impl Door {
    pub(super) fn new(address: SocketAddr, access: Access) -> Result<Self, ServerError> {
        check(address, &access)?;
        Ok(Self {
            address,
            access: RwLock::new(access),
        })
    }

    pub(super) fn token(&self) -> Option<TokenDigest> {
        self.read().token
    }

    pub(super) fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.read().tls
    }

    fn read(&self) -> Access {
        self.access
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The door of a running server: a reload of the configuration changes the token and the
/// certificate. Connections stay.
pub struct Entrance(pub(super) Arc<Door>);

impl Reloadable for Entrance {
    fn prepare(&self, config: &Config) -> Result<Commit, String> {
        let access = config.http_access().map_err(|e| e.to_string())?;
        check(self.0.address, &access).map_err(|e| e.to_string())?;
        let door = Arc::clone(&self.0);
        Ok(Box::new(move || {
            *door.access.write().unwrap_or_else(PoisonError::into_inner) = access;
        }))
    }
}

fn check(address: SocketAddr, access: &Access) -> Result<(), ServerError> {
    if access.token.is_none() && !address.ip().is_loopback() {
        return Err(ServerError::NoToken(address));
    }
    Ok(())
}
