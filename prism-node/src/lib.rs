//! The composition: configuration, node runtime, HTTP API, command line, demo.
//!
//! ```text
//!   HTTP (axum) --> Intake --> submit worker --+--> Database (own region)
//!                                              |
//!                   loop thread (prism-net) <--+ Committed
//!                     | apply, position   -> inlet workers  --> Database (own region)
//!                     | fetch, verify     -> outbox worker  --> Database (own region)
//!                     | direct            -> lane workers   --> Database (peer region)
//!                     + notices, figures  -> Board --> status, metrics, log
//! ```
#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
mod commands;
pub mod config;
pub mod demo;
#[doc(hidden)]
pub mod hooks;
pub mod http;
pub mod intake;
pub mod keys;
mod metrics;
pub mod private_file;
pub mod reload;
pub mod runtime;
pub mod secrets;
pub mod status;
pub mod tls;
pub mod token;
mod words;
