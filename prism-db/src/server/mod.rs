//! Reaching a PostgreSQL server: its address, and how the connection to it is protected.

mod address;
mod attempt;
mod tls;
mod verify;

pub(crate) use address::{Address, absolute, with_login};
pub(crate) use attempt::{Connected, Refusal, connect};
pub(crate) use tls::Roots;
