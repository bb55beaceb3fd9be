//! Whole clusters in one thread, in virtual time, from one seed. Nothing of this is in the product.
#![forbid(unsafe_code)]

pub mod check;
pub mod cluster;
pub mod coverage;
pub mod database;
pub mod disk;
pub mod exhaustive;
pub mod log;
pub mod loss;
pub mod network;
pub mod rng;
pub mod sched;
pub mod shrink;
pub mod trace;
