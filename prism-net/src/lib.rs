//! The network side of Prism: sessions, the UDP socket, and the mio loop that drives the core.
//!
//! [`Endpoint`] is sans-IO (datagram in, datagram out, `now` passed in): sessions + engine + the
//! bytes of updates in flight. [`Driver`] adds the socket and the loop; other threads talk to it
//! through a [`Handle`]; it talks to them through a [`Host`].

mod host;

pub use host::{Batch, Command, Full, Host, Snapshot};

// The rest of the face, to be built: Endpoint, Driver, Handle.
//
//   EndpointConfig { me, nodes: Vec<NodeAddress{name, region, udp: SocketAddr}>,
//                    regions: Vec<RegionInfo{name, direct: bool}>, retry, limits, seed, cluster: String }
//   Endpoint::new(EndpointConfig) -> Result<Endpoint, EndpointError>
//   Driver::bind(endpoint, bind: SocketAddr, queue: usize) -> Result<(Driver, Handle), BindError>
//   Driver::run(self, host: &mut impl Host) -> Result<(), DriverError>   until Command::Stop
//   Handle: Clone + Send + Sync; try_send(Command) -> Result<(), Full>; send(Command) blocks until
//   there is room (never called on the loop thread); both wake the loop.
