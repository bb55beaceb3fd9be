//! Attacks on live nodes: real processes with keys, and somebody who wants to harm them. One file
//! per kind of attack; `docs/security.md` lists them.
//!
//! The updates are non-idempotent and are counted with plain SQL: an attack that got one of them
//! lost, doubled or invented would show.

#[path = "../common/mod.rs"]
mod common;

mod fragments;
mod identity;
mod insider;
mod liar;
mod replay;
mod strangers;
mod tamper;
mod target;
