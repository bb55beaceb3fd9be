//! Deliberate bugs, one of which can be switched on at a time: the simulator has to notice each.
//!
//! A bug is one line where somebody could really have made it, e.g.
//!
//! ```ignore
//! if canary!(AckBeforeCommit) {
//!     position.seq = self.window.complete();
//! }
//! ```
//! Without the feature `canary` of this crate the macro is the constant `false`, in whichever crate
//! it stands: nothing of a canary is in a product, and `prism` does not compile with them
//! ([`CANARIES`](crate::CANARIES)).

/// Whether this deliberate bug is switched on; without the feature `canary` the constant `false`.
#[cfg(feature = "canary")]
#[doc(hidden)]
#[macro_export]
macro_rules! canary {
    ($name:ident) => {
        $crate::canary::on($crate::canary::Canary::$name)
    };
}

/// Whether this deliberate bug is switched on; without the feature `canary` the constant `false`.
#[cfg(not(feature = "canary"))]
#[doc(hidden)]
#[macro_export]
macro_rules! canary {
    ($name:ident) => {
        false
    };
}

#[cfg(feature = "canary")]
pub use switch::{Canary, on, set};

#[cfg(feature = "canary")]
mod switch {
    use core::sync::atomic::{AtomicU8, Ordering};

    macro_rules! canaries {
        ($($(#[doc = $words:literal])+ $name:ident,)+) => {
            /// A deliberate bug.
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
            pub enum Canary {
                $($(#[doc = $words])+ $name,)+
            }

            impl Canary {
                /// All of them.
                pub const ALL: &[Self] = &[$(Self::$name),+];

                /// What is wrong with it on, in a few words.
                #[must_use]
                pub const fn words(self) -> &'static str {
                    match self {
                        $(Self::$name => concat!($($words),+),)+
                    }
                }
            }
        };
    }

    canaries! {
        // ---- prism-proto
        /// an ACK reports what is complete in the receive window, not what the database has committed
        AckBeforeCommit,
        /// a lane forgets an update when a node has received it
        ReceivedIsApplied,
        /// `<=` for `<` in the update window: one more in flight than there are slots
        WindowOffByOne,
        /// what has been sent again keeps its mark
        PendingNotCleared,
        /// the probe timer is not armed again after the first probe
        PtoNotRearmed,
        /// bytes of lost packets stay counted as being on their way
        CreditLeak,
        /// a lane that has left a node never climbs back to it
        NeverClimbs,
        /// a lane goes on behind what it has sent to the node that it leaves
        SwitchForgetsInFlight,
        /// a NACK that the receiver knows of no opening is not heeded
        GapIgnored,
        /// what a database has applied counts as clean although a refusal is still to be told
        CleanTooEarly,
        /// a sibling's word about one region is taken for another
        SiblingAckOfAnother,
        /// updates that could not be read back once are not asked for again
        FetchNotRepeated,
        /// a refusal is told once and not until it is confirmed
        RefusalToldOnce,
        // ---- prism-net
        /// the room of one update too many is given back
        InboxReleasesOneMore,
        /// the room of updates that are applied is not given back
        InboxLeak,
        // ---- prism-db
        /// the journal says that a group is durable before its fsync
        AnsweredBeforeFsync,
        /// a failed fsync is tried again on the same descriptor, and believed
        FsyncRetried,
        /// the name of a new segment is not made durable
        DirectoryNotSynced,
        /// a segment goes when its first entry is done
        SegmentRemovedEarly,
        /// the check sum of a journal's record is not compared
        CrcNotChecked,
        /// a refused update is skipped without a record
        RefusalNotRecorded,
        /// an error that passes by itself is taken for a refusal
        TransientIsRefusal,
        /// an apply whose COMMIT got lost is reported as done without a look at the watermark
        AmbiguousIsDone,
        /// a submit whose COMMIT got lost is reported as not done without a look at the outbox
        AmbiguousIsFailure,
        /// nobody compares tags: a number alone tells which update it was
        TagNotChecked,
        /// an update that is applied already is applied again
        AppliedAgain,
        /// an undo also runs where the original was refused
        UndoWhereRefused,
        /// a request that was submitted in two regions runs twice in each
        DoubleRuns,
        /// an update that needs another stream's does not wait for it
        DependencyIgnored,
        // ---- prism-node
        /// a submit goes into the database although earlier ones wait in the journal
        SpoolOvertaken,
        /// entries of the journal are forgotten before they are committed
        ForgottenBeforeRun,
        /// entries of the journal run without their request ids
        ReplayWithoutId,
        /// `spooled` is answered although the journal took nothing
        SpooledAlthoughFull,
        /// a database that has lost its newest commits gives out their numbers again
        HistoryNotLooked,
        /// a node goes on with a lane whose lease has run out
        LeaseNotFenced,
        /// an awaited update counts as applied when one region has it
        AwaitAnyRegion,
        /// a refusal counts as dealt with although its undo has failed
        RefusalToldTooEarly,
        /// updates committed by others are not looked for
        TailNotPolled,
        /// the whole stream is written down as acknowledged
        LaneRowAhead,
        /// the number of a start comes from the clock alone
        BootNotCounted,
        /// a second process with the same name goes unnoticed
        TwinNotNoticed,
        // ---- the simulator's model of a database; what stands for the same in the real ones is
        // covered by their conformance tests
        /// appliers do not lock the watermark's row
        WatermarkNotLocked,
        /// the numbering is not locked until the commit
        NumbersNotLocked,
        /// a held update becomes final although it was undone
        UndoneBecomesFinal,
        /// the outbox is trimmed to what the fastest region has
        TrimmedToFastest,
    }

    static ON: AtomicU8 = AtomicU8::new(u8::MAX);

    /// Switches this one on, in the whole process, and the one before off.
    pub fn set(canary: Option<Canary>) {
        ON.store(canary.map_or(u8::MAX, |c| c as u8), Ordering::SeqCst);
    }

    /// Whether it is switched on.
    #[must_use]
    pub fn on(canary: Canary) -> bool {
        ON.load(Ordering::Relaxed) == canary as u8
    }
}
