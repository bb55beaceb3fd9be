//! Whole clusters in one thread, in virtual time, from one seed. Nothing of this is in the product.
#![forbid(unsafe_code)]

pub mod database;
pub mod disk;
pub mod exhaustive;
pub mod loss;
