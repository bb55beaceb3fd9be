//! The search for the largest datagram that a path carries (RFC 8899).
//!
//! ```text
//!   base | 1st step | 2nd step | 3rd step        rising, as paths commonly have them
//!        current ---+--> probed next             one at a time, and only if there is use for it
//! ```
//! A probe is a datagram filled up with pings: what its loss costs is one answer, never data.

use core::time::Duration;

use crate::{
    Instant,
    packets::{PacketSlot, Verdict},
};

/// Sizes that are tried beyond the one that every path carries.
pub const MTU_STEPS: usize = 3;
/// Probes of one size before it counts as too large (`MAX_PROBES`, 5.1.2).
const TRIES: u8 = 3;
/// A path may have become better after this long (`PMTU_RAISE_TIMER`, 5.1.1).
const RAISE: Duration = Duration::from_secs(600);
/// A probe of which nothing is heard for so long is lost: its place in the packet ring is gone.
const FORGOTTEN: Duration = Duration::from_secs(3);
/// So many larger datagrams lost in a row, and none through: a black hole (4.3).
const HOLE: u8 = 24;

/// See the module's documentation.
#[derive(Debug, Clone, Hash)]
pub(crate) struct PathMtu {
    base: u16,
    steps: [u16; MTU_STEPS],
    current: u16,
    /// On its way: number, size, when it was sent.
    probe: Option<(u64, u16, Instant)>,
    tries: u8,
    /// There has been use for larger datagrams.
    wanted: bool,
    again_at: Option<Instant>,
    lost: u8,
}

impl PathMtu {
    pub(crate) const fn new(base: u16, steps: [u16; MTU_STEPS]) -> Self {
        Self {
            base,
            steps,
            current: base,
            probe: None,
            tries: 0,
            wanted: false,
            again_at: None,
            lost: 0,
        }
    }

    /// It may be another path now.
    pub(crate) const fn reset(&mut self) {
        *self = Self::new(self.base, self.steps);
    }

    /// Largest datagram for now.
    pub(crate) const fn current(&self) -> u16 {
        self.current
    }

    /// Updates have been sent in a datagram of this length; if it is nearly full, more of them would
    /// go into a larger one.
    pub(crate) fn note_used(&mut self, len: usize) {
        self.wanted |= len * 8 > usize::from(self.current) * 7;
    }

    /// The size to probe now.
    pub(crate) fn wants(&mut self, now: Instant) -> Option<u16> {
        if !self.wanted || self.again_at.is_some_and(|at| at > now) {
            return None;
        }
        let next = *self.steps.iter().find(|size| **size > self.current)?;
        if let Some((_, _, sent)) = self.probe {
            if now < sent.after(FORGOTTEN) {
                return None;
            }
            self.failed(now);
        }
        self.again_at.is_none_or(|at| at <= now).then_some(next)
    }

    /// The probe has been sent.
    pub(crate) fn probed(&mut self, pn: u64, size: u16, now: Instant) {
        self.again_at = None;
        self.probe = Some((pn, size, now));
    }

    /// What has become of a packet.
    pub(crate) fn settled(&mut self, verdict: Verdict, slot: &PacketSlot, now: Instant) {
        match (self.probe, verdict) {
            (Some((pn, size, _)), Verdict::Received) if pn == slot.pn => {
                self.probe = None;
                self.tries = 0;
                self.current = size;
                self.wanted = false;
                self.lost = 0;
            }
            (Some((pn, ..)), Verdict::Lost) if pn == slot.pn => self.failed(now),
            _ if slot.bytes <= self.base => {}
            (_, Verdict::Received) => self.lost = 0,
            (_, Verdict::Lost) => {
                self.lost += 1;
                if self.lost >= HOLE {
                    self.fall_back(now);
                }
            }
        }
    }

    /// Larger datagrams do not come through any more, as far as can be told.
    pub(crate) fn fall_back(&mut self, now: Instant) {
        if self.current > self.base {
            self.reset();
            self.again_at = Some(now.after(RAISE));
        }
    }

    fn failed(&mut self, now: Instant) {
        self.probe = None;
        self.tries += 1;
        if self.tries >= TRIES {
            self.tries = 0;
            self.again_at = Some(now.after(RAISE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets::Content;

    const STEPS: [u16; MTU_STEPS] = [1340, 1420, 8920];

    fn slot(pn: u64, bytes: u16, now: Instant) -> PacketSlot {
        PacketSlot::new(pn, now, bytes, Content::None, 0, 0)
    }

    /// Searches on a path that carries `carries`; the probes it took.
    fn search(path: &mut PathMtu, carries: u16, now: Instant) -> u64 {
        let mut probes = 0;
        path.note_used(path.current().into());
        while let Some(size) = path.wants(now) {
            assert!(size > path.current(), "a probe that cannot bring anything");
            probes += 1;
            assert!(probes < 100, "no end");
            path.probed(probes, size, now);
            assert_eq!(path.wants(now), None, "one at a time");
            let verdict = if size <= carries {
                Verdict::Received
            } else {
                Verdict::Lost
            };
            path.settled(verdict, &slot(probes, size, now), now);
            path.note_used(path.current().into());
        }
        probes
    }

    #[test]
    fn finds_what_the_path_carries() {
        let now = Instant::from_micros(1);
        for (carries, found, probes) in [
            (1200, 1200, 3),
            (1400, 1340, 1 + 3),
            (1500, 1420, 2 + 3),
            (9000, 8920, 3),
        ] {
            let mut path = PathMtu::new(1200, STEPS);
            assert_eq!(search(&mut path, carries, now), probes, "{carries}");
            assert_eq!(path.current(), found);
            // It has become better meanwhile.
            search(&mut path, 9000, now.after(RAISE));
            assert_eq!(path.current(), 8920);
            path.fall_back(now);
            assert_eq!((path.current(), path.wants(now)), (1200, None));
        }
    }

    #[test]
    fn nothing_is_probed_without_need() {
        let now = Instant::from_micros(1);
        let mut path = PathMtu::new(1200, STEPS);
        path.note_used(600);
        assert_eq!(path.wants(now), None);
        path.note_used(1100);
        assert_eq!(path.wants(now), Some(1340));
        let mut path = PathMtu::new(1200, [0; MTU_STEPS]);
        path.note_used(1200);
        assert_eq!(path.wants(now), None);
    }

    #[test]
    fn a_black_hole_is_left() {
        let now = Instant::from_micros(1);
        let mut path = PathMtu::new(1200, STEPS);
        search(&mut path, 1420, now);
        let each = |path: &mut PathMtu, verdict, bytes| {
            for pn in 0..u64::from(HOLE) - 1 {
                path.settled(verdict, &slot(100 + pn, bytes, now), now);
            }
        };
        each(&mut path, Verdict::Lost, 1400);
        path.settled(Verdict::Received, &slot(200, 1400, now), now);
        each(&mut path, Verdict::Lost, 1400);
        assert_eq!(path.current(), 1420, "one has come through");
        // Small ones prove nothing.
        each(&mut path, Verdict::Received, 100);
        path.settled(Verdict::Lost, &slot(300, 1400, now), now);
        assert_eq!(path.current(), 1200);
    }

    #[test]
    fn a_probe_that_is_forgotten_is_tried_again() {
        let now = Instant::from_micros(1);
        let mut path = PathMtu::new(1200, STEPS);
        path.note_used(1200);
        path.probed(1, 1340, now);
        assert_eq!(path.wants(now), None);
        assert_eq!(path.wants(now.after(FORGOTTEN)), Some(1340));
    }
}
