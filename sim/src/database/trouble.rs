//! Where others may run, and faults strike.

use std::time::Duration;

/// A place in the life of a connection and of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// A connection is being made.
    Connect,
    /// A transaction begins: nothing has been sent of which one would wonder whether it arrived.
    Begin,
    /// In front of a read that stands alone.
    Read,
    /// In front of a statement of the application, or of a write to the ledger.
    Statement,
    /// Everything is done but the COMMIT.
    BeforeCommit,
    /// It is committed; the client has not heard of it.
    AfterCommit,
    /// A client's connection breaks while a transaction is open. Nobody waits here: [`Fault::Delay`]
    /// or [`Fault::Hang`] say how long the server does not notice, and keeps the locks.
    Lost,
}

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It takes so long.
    Delay(Duration),
    /// The server reports this SQLSTATE; one of the classes 08 and 57P ends the connection as well.
    Sql(&'static str),
    /// The connection breaks: before COMMIT nothing is written, after it everything, and the client
    /// does not know which.
    Disconnect,
    /// The server stops for so long; the client gives up at its own deadline. What it had sent by
    /// then the server still does: an apply is committed (and so is anything that was committing),
    /// anything else is rolled back.
    Hang(Duration),
}

/// Decides about the faults of one server. Called without any lock held: it may wait, too.
pub trait Trouble: Send + Sync {
    /// What happens at this point of this verb (the name of the method of `prism_db::Database`).
    fn at(&self, point: Point, verb: &'static str) -> Fault;
}

/// None at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Calm;

impl Trouble for Calm {
    fn at(&self, _: Point, _: &'static str) -> Fault {
        Fault::None
    }
}
