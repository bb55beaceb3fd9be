//! The network side of Prism: sessions, the UDP socket, and the mio loop that drives the core.
//!
//! [`Endpoint`] is sans-IO (datagram in, datagram out, `now` passed in): sessions + engine + the
//! bytes of updates in flight. [`Driver`] adds the socket and the loop; other threads talk to it
//! through a [`Handle`]; it talks to them through a [`Host`].
//!
//! ```text
//!   other threads --Handle--> bounded queue --+
//!                                             v
//!   UDP socket <==== batches of datagrams ==> Driver { Endpoint { sessions, engine, updates } }
//!                                             |
//!   database workers <--------- Host ---------+
//! ```
#![forbid(unsafe_code)]

mod config;
mod driver;
mod endpoint;
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod host;
mod inbox;
mod payloads;
#[doc(hidden)]
pub mod platform;
mod pool;
mod session;
mod socket;

pub use config::{
    EndpointConfig, EndpointError, Limits, NodeAddress, Protection, RegionInfo, Reload, SessionKeys,
};
pub use driver::{BindError, Driver, DriverError};
pub use endpoint::{Endpoint, Step};
pub use handle::{Commands, Handle, Wake, commands};
pub use host::{Batch, Command, Drops, Full, Host, PeerInfo, Snapshot};
pub use session::public_key;
