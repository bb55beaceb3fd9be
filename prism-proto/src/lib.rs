//! The state machine of Prism: everything that decides, nothing that does.
//!
//! [`Engine`] carries one region's stream of updates to its peer regions, and receives theirs. It
//! does no I/O, owns no clock, allocates nothing and has no unsafe code. The caller feeds it
//! datagrams and events and then drains [`Engine::poll`] until it returns [`Output::Wait`]:
//!
//! ```text
//!   datagram --> handle_datagram --+                +--> Transmit: send this datagram
//!                                  |   +--------+   +--> Apply: write this range to the database
//!   fact     --> handle_event -----+-->| Engine |---+--> Fetch, Verify, ReadPosition, Direct ...
//!                                  |   +--------+   +--> Notify: a change worth a log line
//!   clock    --> (now, everywhere) +                +--> Wait: nothing to do until this deadline
//! ```
//!
//! The same state fed with the same events gives the same outputs, always.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

#[macro_use]
#[doc(hidden)]
pub mod canary;

mod ack_policy;
mod backoff;
mod bits;
mod config;
mod congestion;
mod engine;
mod event;
pub mod failover;
mod host;
mod ids;
mod inlet;
mod lane;
mod link;
mod loss;
mod output;
mod pacing;
mod packets;
mod path_mtu;
mod pto;
mod ranges;
mod recv_window;
mod refusals;
mod rng;
mod rtt;
mod stats;
mod storage;
mod time;
mod update_window;
pub mod wire;

/// Whether deliberate bugs are compiled in, for the simulator to find. Never in a product.
#[doc(hidden)]
pub const CANARIES: bool = cfg!(feature = "canary");

pub use config::{Config, ConfigError, NodeConfig, Policy, RegionConfig, Retry};
pub use engine::{Engine, MAX_NODES, MAX_REGION_NODES, MAX_REGIONS};
pub use event::{ApplyCause, DirectFailure, Event, Refusal, RefusalClass, Verdict};
pub use host::{Inbox, InboxFull, Payloads};
pub use ids::{Epoch, NodeId, Position, RegionId, RegionKey, Seq, Tag};
pub use output::{InletState, Notice, Output, SwitchReason, Target, Violation, WaitReason};
pub use packets::PacketSlot;
pub use path_mtu::MTU_STEPS;
pub use recv_window::RecvSlot;
pub use stats::{InletStats, LaneStats};
pub use storage::Storage;
pub use time::Instant;
pub use update_window::{MAX_FRAGMENTS, UpdateSlot};
