//! How single operations end.

use std::sync::Arc;

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Reading a file.
    Read,
    /// Writing into one, or changing its length.
    Write,
    /// Making a file durable.
    Sync,
    /// Making a directory's names durable.
    SyncDir,
    /// Making, moving or removing a name.
    Name,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failure {
    /// As it should.
    #[default]
    None,
    /// EIO. Of a sync: the dirty pages count as clean, and may be lost.
    Io,
    /// ENOSPC.
    NoSpace,
    /// A write takes less than it is given.
    Short,
}

/// Decides how each operation ends. Called without any lock held: it may wait, as disks do.
pub type Trouble = Arc<dyn Fn(Operation) -> Failure + Send + Sync>;
