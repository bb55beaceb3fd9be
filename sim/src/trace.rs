//! What has happened, as a number that is equal if and only if it was the same, and for people.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::rng::mix;

/// See the module.
#[derive(Debug, Default)]
pub struct Trace {
    hash: Cell<u64>,
    events: Cell<u64>,
    /// Whether it is written for people, too.
    on: Cell<bool>,
    text: RefCell<String>,
    /// Straight to standard output instead of being kept.
    live: Cell<bool>,
}

impl Trace {
    /// Written out as it happens, if `live`.
    #[must_use]
    pub fn new(live: bool) -> Self {
        let trace = Self::default();
        trace.on.set(live);
        trace.live.set(live);
        trace
    }

    /// Keeps the text from now on.
    pub fn keep(&self) {
        self.on.set(true);
    }

    /// Something has happened that these numbers tell.
    pub fn mix(&self, kind: u8, a: u64, b: u64) {
        let hash = self.hash.get() ^ (u64::from(kind) << 56);
        self.hash.set(mix(mix(hash ^ a).wrapping_add(b)));
        self.events.set(self.events.get() + 1);
    }

    /// The same for bytes.
    pub fn mix_bytes(&self, kind: u8, bytes: &[u8]) {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        let hash = words.fold(bytes.len() as u64, |hash, word| {
            (hash ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        });
        self.mix(kind, hash, bytes.len() as u64);
    }

    /// A line for people. What it says is not part of the hash.
    pub fn say(&self, now: Duration, who: &str, what: fmt::Arguments<'_>) {
        if !self.on.get() {
            return;
        }
        let time = now.as_micros();
        let (seconds, micros) = (time / 1_000_000, time % 1_000_000);
        if self.live.get() {
            println!("{seconds:>5}.{micros:06} {who:<14} {what}");
        } else {
            let mut text = self.text.borrow_mut();
            let _ = writeln!(text, "{seconds:>5}.{micros:06} {who:<14} {what}");
        }
    }

    /// Whether lines are wanted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.get()
    }

    /// Of everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash.get()
    }

    /// How much has happened.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.get()
    }

    /// The lines kept so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.text.borrow().clone()
    }
}
