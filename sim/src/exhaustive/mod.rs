//! All states of the real core, within bounds.
//!
//! Three real engines (`NA1`, the origin, and `EU1` and `EU2`, the nodes of its peer region), exact
//! models of the two databases, and everything that may happen in any order: an update is committed, a
//! packet arrives, arrives twice, is lost or overtaken, a database does what it was asked for, its answer
//! arrives, a process is killed (with what it has asked its database for under way) and starts again, a timer fires.
//! Every state is visited once, breadth first, so that a bad one is found with the shortest way to it.
//!
//! # What is exact
//!
//! The engines, their datagrams byte by byte, every interleaving. Two clusters are taken for the same
//! only if their engines agree in every field but figures (`Engine::canonical`), all times counted from
//! now, and what is under way is the same.
//!
//! # What is not
//!
//! - **Time.** It stands still while packets and answers move, and jumps to the earliest deadline of the
//!   three engines: free of charge when nothing is under way, else as one of the *delays* of the budget.
//!   So a packet takes no time at all, or until after one of the next timers; what lies between differs
//!   only in the round-trip times that the engines measure. All clocks run alike.
//! - **Jitter** is switched off (`Engine::without_jitter`): pauses have their full length.
//! - **Sessions** are three packets (call, answer, first data) without cryptography; both ends of a
//!   session know which process they talk to. There is none between `EU1` and `EU2`, which have nothing
//!   to tell each other.
//! - What reading an outbox or judging a position finds does not change once it is asked for, so asking
//!   and answering is one step; reading the watermark and writing are two, and a process may die between
//!   them: then a write that was under way is committed at any later time, or never.
//! - A packet is lost when all that were sent before it, the same way, are gone: nobody sees a loss, so
//!   that to lose it earlier makes no difference. A double comes at any time, before or after others.
//! - A datagram to a process that does not live any more vanishes at once: the session's keys died with it.
//!
//! # What must hold
//!
//! In every state: an engine applies only what has arrived, unchanged, and without a gap; it acknowledges,
//! and counts as acknowledged, only what the database has committed; what it has told its host never
//! falls; one question of a kind at a time; no alarm, no malformed or forbidden datagram, no window
//! overrun, no wait in the past, no panic. And a way on: as long as something is not acknowledged there
//! is something that will happen, and not only timers for ever. (That the database has every update
//! once and in order is what its watermark decides; that it is never asked to skip one is checked.)

mod act;
mod hash;
mod memo;
mod node;
mod search;
mod setup;
mod story;
mod world;

pub use search::{Report, search, search_watched};
pub use setup::{Budget, Limit, Setup};
pub use story::Story;
