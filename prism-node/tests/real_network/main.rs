//! A real network that loses, cuts off and heals: six nodes and three PostgreSQL servers in network
//! namespaces, a router between them whose packet filter drops what it is told to, of UDP between
//! nodes and of TCP to databases alike. Callers submit at all nodes all the time. In the end every
//! update that was acknowledged is in each database once.
//!
//! `docs/testing.md` says what it needs.
#![cfg(target_os = "linux")]

mod callers;
mod check;
mod namespace;
mod network;
mod story;
mod world;

const STORY: &str = "through_loss_partitions_kills_and_heals_every_update_is_everywhere_once";

#[test]
fn through_loss_partitions_kills_and_heals_every_update_is_everywhere_once() {
    namespace::with_namespaces(STORY, story::tell);
}
