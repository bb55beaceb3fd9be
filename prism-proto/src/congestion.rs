//! How many bytes may be on their way to a node.

/// The congestion controller of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Congestion {
    /// The same window always.
    Fixed {
        /// In bytes.
        window: u32,
    },
}

impl Congestion {
    /// Bytes that may be unacknowledged.
    #[must_use]
    pub const fn window(&self) -> u32 {
        match self {
            Self::Fixed { window } => *window,
        }
    }
}
