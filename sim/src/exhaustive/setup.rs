//! What a search starts from and how far it goes.

/// How the nodes start.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Number of the last update before the first: both databases have it already.
    pub before: u64,
    /// Number of the first packet of every link.
    pub packets: u64,
    /// Number of openings that every lane has behind it.
    pub openings: u32,
    /// What the nodes' clocks show at first, in microseconds.
    pub time: u64,
    /// Unanswered retransmissions before the next rung.
    pub max_retries: u8,
    /// Updates in flight, at most.
    pub window: u8,
    /// An update that takes two datagrams.
    pub large: Option<u8>,
}

impl Setup {
    /// As a fresh cluster starts.
    pub const FRESH: Self = Self {
        before: 0,
        packets: 1,
        openings: 0,
        time: 3_600_000_000,
        max_retries: 1,
        window: 4,
        large: None,
    };

    /// Places to start from at which a counter is about to end or to wrap.
    pub const PLACES: [(&'static str, Self); 8] = [
        ("fresh", Self::FRESH),
        // The last number that a stream can have is 2^64 - 2.
        (
            "seqs",
            Self {
                before: u64::MAX - 4,
                ..Self::FRESH
            },
        ),
        // Half of the range: where a signed comparison would turn round.
        (
            "half",
            Self {
                before: (1 << 63) - 2,
                packets: (1 << 31) - 4,
                openings: (1 << 31) - 1,
                ..Self::FRESH
            },
        ),
        (
            "packets32",
            Self {
                packets: (1 << 32) - 4,
                ..Self::FRESH
            },
        ),
        (
            "packets",
            Self {
                packets: u64::MAX - 500,
                ..Self::FRESH
            },
        ),
        (
            "openings",
            Self {
                openings: u32::MAX - 1,
                ..Self::FRESH
            },
        ),
        (
            "clock",
            Self {
                time: u64::MAX - 10_000_000,
                ..Self::FRESH
            },
        ),
        // All of them at once.
        (
            "ends",
            Self {
                before: u64::MAX - 4,
                packets: (1 << 32) - 4,
                openings: u32::MAX - 1,
                time: u64::MAX - 10_000_000,
                ..Self::FRESH
            },
        ),
    ];

    /// The same with an update that takes two datagrams.
    pub const LARGE: Self = Self {
        large: Some(2),
        ..Self::FRESH
    };

    /// The same with a window that is full while one update still waits.
    pub const NARROW: Self = Self {
        window: 2,
        ..Self::FRESH
    };

    /// One of [`PLACES`](Self::PLACES), `large` or `narrow`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "large" => Some(Self::LARGE),
            "narrow" => Some(Self::NARROW),
            _ => {
                let mut places = Self::PLACES.iter();
                let place = places.find(|(place, _)| *place == name);
                place.map(|(_, setup)| *setup)
            }
        }
    }
}

/// What may happen, how often, and where the search stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// Updates submitted (at most 3).
    pub updates: u8,
    /// Datagrams or handshakes lost.
    pub losses: u8,
    /// Delivered twice.
    pub duplicates: u8,
    /// Datagrams that arrive before one that was sent earlier the same way; `u8::MAX`: however many.
    /// (Doubles and handshakes come at any time.)
    pub overtakes: u8,
    /// Processes killed.
    pub crashes: u8,
    /// Times that direct SQL works.
    pub directs: u8,
    /// Reads and applies that fail because the database cannot be reached.
    pub outages: u8,
    /// Times that a timer fires although something is under way (or with nothing to do).
    pub delays: u8,
}

/// Where the search gives up.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// States.
    pub states: usize,
    /// Steps from the start.
    pub depth: u32,
}
