//! What to do about one lane, from what a node of the region sees of it.

use std::mem;
use std::time::Duration;

use prism_net::platform::Instant;
use prism_proto::{LaneStats, Position, Seq, Target};

/// At its start a node leaves a lane to those before it in the order for this time each.
const HEAD_START: Duration = Duration::from_millis(1_500);
/// A node asks for its lanes when it has been up and well for so long.
const WELL: Duration = Duration::from_secs(5);
/// A lane that a node has given up is left to the others for this time.
const PAUSE: Duration = Duration::from_secs(2);
/// A lane that was given up is asked for again no sooner than this, doubled each time.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(10);
/// A parked lane is given up when nothing has got through for this time, a lane that writes by SQL
/// when it has written nothing (connecting may take three seconds); doubled each time, so that a
/// region that is down does not keep its lane going to and fro.
const PARKED: Duration = Duration::from_millis(1_500);
const DIRECT: Duration = Duration::from_millis(3_500);
/// A node that has heard nobody, or got nothing through, for so long looks more often.
pub(super) const QUIET: Duration = Duration::from_secs(1);
/// Doublings.
const MAX_DOUBLINGS: u32 = 7;

/// What this node remembers of a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// How often it was given up without anything getting through in between.
    pub(super) given_up: u32,
    pub(super) given_up_at: Option<Instant>,
    pub(super) held_since: Instant,
    pub(super) acked: Seq,
    /// When something got through, or nothing was waiting.
    pub(super) progress: Instant,
    /// Since when the lane writes by SQL.
    pub(super) direct: Option<Instant>,
    /// What the row said at the last look and what the engine did, if that was not the same.
    behind: Option<(Position, Position)>,
}

impl Memory {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            given_up: 0,
            given_up_at: None,
            held_since: now,
            acked: Seq::ZERO,
            progress: now,
            direct: None,
            behind: None,
        }
    }

    /// Whether the row of a lane that is held has not followed the engine since the last look: what
    /// was acknowledged was not written (the lease seemed to have run out), or the database was put
    /// back.
    pub(super) fn row_stays_behind(&mut self, row: Position, engine: Position) -> bool {
        let behind = (row != engine).then_some((row, engine));
        let before = mem::replace(&mut self.behind, behind);
        behind.is_some() && before == behind
    }

    pub(super) fn doubled(&self, time: Duration) -> Duration {
        time.saturating_mul(1 << self.given_up.min(MAX_DOUBLINGS))
    }

    /// What the loop says of a lane that is held.
    pub(super) fn note(&mut self, lane: &LaneStats, now: Instant) {
        if lane.acked.seq > self.acked {
            self.given_up = 0;
        }
        if lane.acked.seq != self.acked || lane.acked.seq >= lane.tail {
            self.progress = now;
            self.direct = None;
        }
        self.acked = lane.acked.seq;
        match lane.target {
            Some(Target::Direct) => {
                self.direct.get_or_insert(now);
            }
            _ => self.direct = None,
        }
    }

    pub(super) fn waits(&self, now: Instant) -> bool {
        now - self.progress >= QUIET
    }

    pub(super) fn gets_through(&self, lane: &LaneStats, alone: bool, now: Instant) -> bool {
        match lane.target {
            Some(Target::Parked(_)) => now - self.progress < self.doubled(PARKED),
            Some(_) if alone => now - self.progress < self.doubled(PARKED),
            Some(Target::Direct) => self
                .direct
                .is_none_or(|since| now - since < self.doubled(DIRECT)),
            _ => true,
        }
    }
}

/// Whether the peer of a lane at work has another update than the own database under the newest
/// number. (Under an older one it is noticed with the next update, which follows the own one.)
pub(super) fn contradicts(lane: &LaneStats, own: Option<Position>) -> bool {
    let acked = lane.acked;
    lane.target.is_some()
        && own.is_some_and(|own| acked.seq > Seq::ZERO && acked.seq == own.seq && acked != own)
}

/// One lane as a node of the region sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    /// Of this node in the order in which the nodes should have this lane; 0: it is preferred.
    pub(super) place: u32,
    pub(super) alone: bool,
    pub(super) mine: bool,
    pub(super) free: bool,
    /// Another node asks for it.
    pub(super) wanted: bool,
    pub(super) stale: bool,
    pub(super) gets_through: bool,
    pub(super) up: Duration,
    pub(super) well: Duration,
    /// Since when it has been given up, if it has.
    pub(super) given_up: Option<Duration>,
    pub(super) ask_again: Duration,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Take or renew the lease.
    Hold,
    /// Ask whoever holds it.
    Want,
    /// Give it to the node that asks for it.
    Yield,
    /// Give it up: another one may do better.
    GiveUp,
    /// Nobody shall have it.
    Retire,
    /// Nothing.
    Leave,
}

pub(super) fn decide(view: &View) -> Step {
    let preferred = view.place == 0;
    if view.stale {
        return if view.mine { Step::Retire } else { Step::Leave };
    }
    if view.mine {
        // Two nodes that read different files must not play ball.
        return match (view.wanted && !preferred, view.alone || view.gets_through) {
            (true, _) => Step::Yield,
            (false, true) => Step::Hold,
            (false, false) => Step::GiveUp,
        };
    }
    if view.free {
        let others_first = view.wanted && !preferred
            || view.up < HEAD_START.saturating_mul(view.place)
            || view.given_up.is_some_and(|ago| ago < PAUSE);
        return if others_first {
            Step::Leave
        } else {
            Step::Hold
        };
    }
    let asks = preferred
        && view.up >= WELL
        && view.well >= WELL
        && view.given_up.is_none_or(|ago| ago >= view.ask_again);
    if asks { Step::Want } else { Step::Leave }
}

/// Why a node does not have a lane any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    /// Another node has it.
    Taken,
    /// Another node asks for it.
    Asked,
    /// Nothing gets through from here.
    Stuck,
    /// Its region is away for good.
    Stale,
    /// It was not renewed in time.
    Late,
}

impl Parting {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Taken => "another node has it",
            Self::Asked => "another node asks for it",
            Self::Stuck => "nothing gets through from here",
            Self::Stale => "its region is stale",
            Self::Late => "it was not renewed in time",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prism_proto::{Epoch, Tag};

    const VIEW: View = View {
        place: 0,
        alone: false,
        mine: false,
        free: false,
        wanted: false,
        stale: false,
        gets_through: true,
        up: Duration::from_secs(60),
        well: Duration::from_secs(60),
        given_up: None,
        ask_again: ASK_AGAIN,
    };

    #[test]
    fn a_lane_goes_to_its_preferred_node_and_stays_there() {
        let free = View { free: true, ..VIEW };
        let new = View {
            up: Duration::ZERO,
            well: Duration::ZERO,
            ..free
        };
        assert_eq!(decide(&new), Step::Hold);
        assert_eq!(decide(&View { place: 1, ..new }), Step::Leave);
        assert_eq!(decide(&View { place: 1, ..free }), Step::Hold);
        // Held by another one: asked for when this node has proven itself, by this node alone.
        assert_eq!(decide(&VIEW), Step::Want);
        assert_eq!(decide(&View { place: 1, ..VIEW }), Step::Leave);
        let well = Duration::from_secs(4);
        assert_eq!(decide(&View { well, ..VIEW }), Step::Leave);
        // The holder gives way, and does not take it before the one that asked.
        let mine = View {
            mine: true,
            wanted: true,
            ..VIEW
        };
        assert_eq!(decide(&View { place: 1, ..mine }), Step::Yield);
        assert_eq!(decide(&mine), Step::Hold);
        let asked = View {
            wanted: true,
            place: 1,
            ..free
        };
        assert_eq!(decide(&asked), Step::Leave);
    }

    #[test]
    fn a_lane_that_gets_nothing_through_is_given_up_for_a_while() {
        let stuck = View {
            mine: true,
            gets_through: false,
            ..VIEW
        };
        assert_eq!(decide(&stuck), Step::GiveUp);
        // Nobody else could do it.
        let alone = View {
            alone: true,
            ..stuck
        };
        assert_eq!(decide(&alone), Step::Hold);
        let given_up = |seconds| View {
            given_up: Some(Duration::from_secs(seconds)),
            ..VIEW
        };
        // Free: somebody else first, but not for ever.
        let free = |view| View { free: true, ..view };
        assert_eq!(decide(&free(given_up(1))), Step::Leave);
        assert_eq!(decide(&free(given_up(3))), Step::Hold);
        // Held by another one, who may get it through.
        assert_eq!(decide(&given_up(3)), Step::Leave);
        assert_eq!(decide(&given_up(11)), Step::Want);
    }

    #[test]
    fn two_updates_under_the_newest_number_contradict_each_other() {
        let at = |seq, tag| Position {
            epoch: Epoch(1),
            seq: Seq(seq),
            tag: Tag(tag),
        };
        let mut lane = LaneStats::default();
        lane.acked = at(5, 50);
        lane.target = Some(Target::Direct);
        assert!(!contradicts(&lane, None));
        assert!(!contradicts(&lane, Some(at(5, 50))));
        assert!(contradicts(&lane, Some(at(5, 51))));
        // The own row is read now and then.
        assert!(!contradicts(&lane, Some(at(4, 40))));
        assert!(!contradicts(&lane, Some(at(6, 60))));
        // It has stopped: that is looked at again in its own time.
        lane.target = None;
        assert!(!contradicts(&lane, Some(at(5, 51))));
        // Nothing was written yet, also not in a stream that has begun anew.
        lane.target = Some(Target::Direct);
        lane.acked = Position::default();
        assert!(!contradicts(&lane, Some(at(0, 0))));
    }

    #[test]
    fn patience_doubles_until_something_gets_through() {
        let start = Instant::now();
        let mut memory = Memory::new(start);
        let mut lane = LaneStats::default();
        lane.held = true;
        lane.tail = Seq(5);
        lane.target = Some(Target::Parked(prism_proto::Instant::from_micros(1)));
        let after = |ms| start + Duration::from_millis(ms);
        memory.note(&lane, after(1_000));
        assert!(memory.gets_through(&lane, false, after(1_000)));
        assert!(!memory.gets_through(&lane, false, after(1_600)));
        memory.given_up = 1;
        assert!(memory.gets_through(&lane, false, after(1_600)));
        assert!(!memory.gets_through(&lane, false, after(3_100)));
        lane.acked.seq = Seq(1);
        memory.note(&lane, after(3_100));
        assert_eq!(memory.given_up, 0);
        // A node that hears nobody does not wait for its ladder.
        lane.target = Some(Target::Node(prism_proto::NodeId(0)));
        assert!(memory.gets_through(&lane, false, after(9_000)));
        assert!(!memory.gets_through(&lane, true, after(9_000)));
        // SQL that writes is as good as a node.
        lane.target = Some(Target::Direct);
        memory.note(&lane, after(4_000));
        assert!(memory.gets_through(&lane, false, after(7_400)));
        assert!(!memory.gets_through(&lane, false, after(7_600)));
    }

    /// Once may be that the last acknowledgement is on its way to the row.
    #[test]
    fn a_row_stays_behind_only_if_nothing_moves_from_look_to_look() {
        let at = |seq, tag| Position {
            epoch: Epoch(1),
            seq: Seq(seq),
            tag: Tag(tag),
        };
        let mut memory = Memory::new(Instant::now());
        // Always the same, and level: nothing is wrong.
        assert!(!memory.row_stays_behind(at(5, 5), at(5, 5)));
        assert!(!memory.row_stays_behind(at(5, 5), at(5, 5)));
        // The row follows, some way behind.
        assert!(!memory.row_stays_behind(at(5, 5), at(7, 7)));
        assert!(!memory.row_stays_behind(at(7, 7), at(9, 9)));
        assert!(!memory.row_stays_behind(at(7, 7), at(10, 10)));
        // Neither moves any more.
        assert!(memory.row_stays_behind(at(7, 7), at(10, 10)));
        assert!(memory.row_stays_behind(at(7, 7), at(10, 10)));
        // It has caught up in between: it begins anew.
        assert!(!memory.row_stays_behind(at(10, 10), at(10, 10)));
        assert!(!memory.row_stays_behind(at(7, 7), at(10, 10)));
        // The same number with another tag is another update.
        assert!(!memory.row_stays_behind(at(10, 11), at(10, 10)));
        assert!(memory.row_stays_behind(at(10, 11), at(10, 10)));
    }
}
