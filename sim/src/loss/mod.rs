//! What losses cost: the table `loss-table.txt`, measured in a simulated network.
//!
//! Real endpoints (sealed sessions, engine, memory of updates) over links of 100 Mbit/s with a queue,
//! a delay, and a loss that every datagram meets independently; databases that take 1 ms for a
//! transaction. Everything in virtual time and whole numbers, so that the table is the same on every
//! machine, and a change of the code that costs (or saves) something shows as a difference of the file.

mod cluster;
mod host;
mod link;
mod measure;
mod table;

pub use table::{LOSSES, RTTS, WINDOWS, block, table};
