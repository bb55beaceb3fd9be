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

mod config;
mod engine;
mod event;
mod host;
mod ids;
mod output;
mod time;

pub use config::{Config, ConfigError, NodeConfig, Policy, RegionConfig, Retry};
pub use engine::{Engine, InletStats, LaneStats};
pub use event::{ApplyCause, DirectFailure, Event, Refusal, RefusalClass, Verdict};
pub use host::{Inbox, InboxFull, Payloads};
pub use ids::{Epoch, NodeId, Position, RegionId, RegionKey, Seq, Tag};
pub use output::{InletState, Notice, Output, SwitchReason, Target, WaitReason};
pub use time::Instant;
