//! What a node has around it: this machine's network and files, and the databases that it reaches
//! from here. A simulation of whole clusters has its own.

use std::net::SocketAddr;

use prism_db::journal::AnyDisk;
use prism_db::{Database, DatabaseUrl, DbError, OpenOptions};
use prism_net::{BindError, Driver, DriverError, Endpoint, Handle, Host, Limits};

/// See the module. Clock, threads and random numbers are those of [`prism_net::platform`].
pub trait Surroundings: Send + Sync {
    /// A connection to a database, made when it is used first.
    ///
    /// # Errors
    /// The address itself is unusable.
    fn database(
        &self,
        url: &DatabaseUrl,
        options: OpenOptions,
    ) -> Result<Box<dyn Database>, DbError>;

    /// Where the data directory is.
    fn disk(&self) -> AnyDisk;

    /// What the endpoint may hold; of `max_update` the configuration decides.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// The loop that `endpoint` runs in, at the address `bind`; `commands` of other threads find
    /// room.
    ///
    /// # Errors
    /// [`BindError`].
    fn packets(
        &self,
        endpoint: Endpoint,
        bind: SocketAddr,
        commands: usize,
    ) -> Result<(Box<dyn PacketLoop>, Handle), BindError>;
}

/// A loop that is ready to run, on a thread of its own.
pub trait PacketLoop: Send {
    /// Until [`prism_net::Command::Stop`].
    ///
    /// # Errors
    /// [`DriverError`]: it cannot go on.
    fn run(self: Box<Self>, host: &mut dyn Host) -> Result<(), DriverError>;
}

/// This machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine;

impl Surroundings for Machine {
    fn database(
        &self,
        url: &DatabaseUrl,
        options: OpenOptions,
    ) -> Result<Box<dyn Database>, DbError> {
        prism_db::open(url, options)
    }

    fn disk(&self) -> AnyDisk {
        AnyDisk::default()
    }

    fn packets(
        &self,
        endpoint: Endpoint,
        bind: SocketAddr,
        commands: usize,
    ) -> Result<(Box<dyn PacketLoop>, Handle), BindError> {
        let (driver, handle) = Driver::bind(endpoint, bind, commands)?;
        Ok((Box::new(driver), handle))
    }
}

impl PacketLoop for Driver {
    fn run(self: Box<Self>, host: &mut dyn Host) -> Result<(), DriverError> {
        Self::run(*self, host)
    }
}
