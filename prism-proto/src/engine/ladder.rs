//! The failover ladder: falling, climbing, and what proves a node.

use core::time::Duration;

use heapless::Vec;

use crate::{
    Instant, NodeId, Notice, Position, RegionId, Storage, SwitchReason, Verdict, backoff,
    engine::{Engine, MAX_REGION_NODES},
    failover::{Health, Rung, select},
    lane::Phase,
    link::due,
};

/// Background probes without an answer after which a node no longer counts as steady.
const SILENT: u8 = 3;
/// A node that fails within this many `climb_after` of having been climbed to has to prove itself
/// twice as long the next time, up to 2^5 times.
const SOON: u32 = 10;
const MAX_FLAPS: u8 = 5;

impl<S: Storage> Engine<S> {
    pub(super) fn node_at(&self, r: RegionId, place: u8) -> Option<NodeId> {
        let region = self.regions.get(usize::from(r.0))?;
        region.nodes.get(usize::from(place)).copied()
    }

    fn link_at(&mut self, r: RegionId, rung: Rung) -> Option<usize> {
        match rung {
            Rung::Node(place) => self.node_at(r, place).map(|n| usize::from(n.0)),
            _ => None,
        }
    }

    /// The best rung as things stand.
    fn choose(&self, r: RegionId) -> Rung {
        let region = &self.regions[usize::from(r.0)];
        let health: Vec<Health, MAX_REGION_NODES> = region
            .nodes
            .iter()
            .map(|node| {
                let link = &self.links[usize::from(node.0)];
                Health {
                    failed: link.standing.failed,
                    srtt: link.rtt.smoothed(),
                }
            })
            .collect();
        let direct = region.direct && !region.lane.direct_failed;
        let policy = self.timing.retry.policy;
        select(&health, direct, Some(region.lane.rung), policy)
    }

    /// The lane starts at the top of its ladder.
    pub(super) fn start(&mut self, r: RegionId, now: Instant) {
        self.forgive(r);
        let lane = &mut self.regions[usize::from(r.0)].lane;
        lane.direct_failed = false;
        lane.parked = 0;
        let rung = self.choose(r);
        self.enter(r, rung, SwitchReason::Start, now);
    }

    /// Every node gets another chance.
    fn forgive(&mut self, r: RegionId) {
        for link in self.links.iter_mut().filter(|l| l.region == r) {
            link.standing.failed = false;
            link.standing.steady_since = None;
            link.standing.probe_at = None;
        }
    }

    /// The current rung does not work: take the next one.
    pub(super) fn descend(&mut self, r: RegionId, reason: SwitchReason, now: Instant) {
        let lane = &mut self.regions[usize::from(r.0)].lane;
        lane.counters.failovers += 1;
        let rung = lane.rung;
        match self.link_at(r, rung) {
            Some(i) => {
                let climb_after = self.climb_after;
                let probe_at = now.after(self.timing.keep_alive);
                let standing = &mut self.links[i].standing;
                let soon = standing
                    .climbed
                    .is_some_and(|at| now.since(at) < climb_after.saturating_mul(SOON));
                standing.flaps = if soon {
                    (standing.flaps + 1).min(MAX_FLAPS)
                } else {
                    0
                };
                standing.failed = true;
                standing.climbed = None;
                standing.steady_since = None;
                standing.silent_probes = 0;
                standing.probe_at = Some(probe_at);
            }
            None => {
                self.regions[usize::from(r.0)].lane.direct_failed = true;
            }
        }
        let rung = self.choose(r);
        self.enter(r, rung, reason, now);
    }

    /// Something has become better: climb if that is a better rung than the current one.
    pub(super) fn reconsider(&mut self, r: RegionId, reason: SwitchReason, now: Instant) {
        let lane = &self.regions[usize::from(r.0)].lane;
        if !lane.is_active() || lane.direct_busy && lane.phase == Phase::Direct {
            return;
        }
        let rung = self.choose(r);
        if rung != lane.rung {
            self.enter(r, rung, reason, now);
        }
    }

    fn enter(&mut self, r: RegionId, rung: Rung, reason: SwitchReason, now: Instant) {
        let old = self.target(r);
        let silent = match self.link_at(r, self.regions[usize::from(r.0)].lane.rung) {
            Some(i) if reason != SwitchReason::Start => self.links[i].silence(now),
            _ => Duration::ZERO,
        };
        let (first, longest) = self.park;
        let jitter = self.rng.jitter();
        let lane = &mut self.regions[usize::from(r.0)].lane;
        lane.leave();
        lane.rung = rung;
        if matches!(
            reason,
            SwitchReason::Unanswered { .. } | SwitchReason::NoProgress
        ) {
            let us = u64::try_from(silent.as_micros()).unwrap_or(u64::MAX);
            lane.counters.failover_us = lane.counters.failover_us.max(us);
        }
        match rung {
            Rung::Node(_) => self.open(r, true, now),
            Rung::Direct => {
                lane.phase = Phase::Direct;
                // Also if there is nothing to deliver: the two may have different histories.
                lane.direct_ask = true;
            }
            Rung::Parked => {
                let pause = backoff::next(lane.parked, first, longest, jitter);
                lane.parked = lane.parked.saturating_add(1);
                lane.phase = Phase::Parked(now.after(pause));
            }
        }
        self.touch_lane(r);
        self.schedule_probes(r, now);
        if let Some(to) = self.target(r) {
            let from = old.unwrap_or(to);
            self.notify(Notice::Switched {
                peer: r,
                from,
                to,
                reason,
                silent,
            });
        }
    }

    /// Says `Hello` to the node of the current rung, or asks for a session first. `afresh`: nothing
    /// that went unanswered before counts.
    pub(super) fn open(&mut self, r: RegionId, afresh: bool, now: Instant) {
        let progress_at = now.after(self.apply_timeout);
        let Some(i) = self.link_at(r, self.regions[usize::from(r.0)].lane.rung) else {
            return;
        };
        let jitter = self.rng.jitter();
        let (link, lane) = (&mut self.links[i], &mut self.regions[usize::from(r.0)].lane);
        if afresh {
            link.unanswered = 0;
            link.jitter = jitter;
            link.silent_since = Some(now);
            if !link.ring.carries_content() {
                link.ring.clear();
                link.in_flight = 0;
            }
        }
        if link.unanswered == 0 {
            link.last_probe = Some(now);
        }
        link.standing.probe_at = None;
        if link.up {
            lane.phase = Phase::Opening;
            lane.progress_at.get_or_insert(progress_at);
            link.due |= due::HELLO;
        } else {
            lane.phase = Phase::Connecting;
            link.due |= due::CONNECT;
        }
        self.touch_link(i);
    }

    /// The opening is void (the peer is elsewhere, or was restarted): `Hello` again, same node.
    pub(super) fn reopen(&mut self, r: RegionId, now: Instant) {
        // Time that has passed without progress still counts, or a node that is restarted over and
        // over again would never be left.
        let lane = &mut self.regions[usize::from(r.0)].lane;
        let progress_at = lane.progress_at;
        lane.leave();
        lane.progress_at = progress_at;
        self.open(r, false, now);
    }

    /// A lane stops until an operator has acted and the host says `LaneHeld` again.
    pub(super) fn stop(&mut self, r: RegionId, position: Position, verdict: Verdict) {
        let lane = &mut self.regions[usize::from(r.0)].lane;
        lane.leave();
        lane.phase = Phase::Stopped;
        self.forgive(r);
        self.notify(Notice::LaneStopped {
            peer: r,
            position,
            verdict,
        });
    }

    /// The pause of a parked lane is over.
    pub(super) fn unpark(&mut self, r: RegionId, now: Instant) {
        let region = &mut self.regions[usize::from(r.0)];
        region.lane.direct_failed = false;
        if !region.direct {
            self.forgive(r);
        }
        let rung = self.choose(r);
        self.enter(r, rung, SwitchReason::Retry, now);
    }

    /// A node has answered: whether that is reason enough to climb to it.
    pub(super) fn proven(&mut self, i: usize, now: Instant) {
        let climb_after = self.climb_after;
        let r = self.links[i].region;
        let lane = &self.regions[usize::from(r.0)].lane;
        if self.links[i].sibling || !lane.is_active() {
            return;
        }
        let parked = matches!(lane.phase, Phase::Parked(_));
        let standing = &mut self.links[i].standing;
        standing.silent_probes = 0;
        if !standing.failed {
            if self.fastest() {
                self.compare(r, now);
            }
            return;
        }
        if standing.unavailable {
            standing.steady_since = None;
            return;
        }
        let since = *standing.steady_since.get_or_insert(now);
        if canary!(NeverClimbs) {
            standing.steady_since = None;
        }
        let hold = climb_after.saturating_mul(1 << standing.flaps.min(MAX_FLAPS));
        if parked || now.since(since) >= hold {
            standing.failed = false;
            standing.steady_since = None;
            standing.climbed = Some(now);
            let reason = if parked {
                SwitchReason::Retry
            } else {
                SwitchReason::ClimbBack
            };
            self.reconsider(r, reason, now);
        }
    }

    /// Policy `fastest`: a node that has been the better choice for long enough gets the lane. One
    /// lucky measurement moves nobody.
    fn compare(&mut self, r: RegionId, now: Instant) {
        let rung = self.choose(r);
        let climb_after = self.climb_after;
        let lane = &mut self.regions[usize::from(r.0)].lane;
        if rung == lane.rung {
            lane.better = None;
            return;
        }
        let since = match lane.better {
            Some((better, since)) if better == rung => since,
            _ => now,
        };
        lane.better = Some((rung, since));
        if !matches!(lane.rung, Rung::Node(_)) || now.since(since) >= climb_after {
            self.reconsider(r, SwitchReason::ClimbBack, now);
        }
    }

    /// Time for a background probe of a node that no lane depends on.
    pub(super) fn probe_background(&mut self, i: usize, now: Instant) {
        self.links[i].standing.probe_at = None;
        if i == usize::from(self.me.0) {
            return;
        }
        let sibling = self.links[i].sibling;
        let wanted = if sibling {
            // Worth the trouble only while there is something to tell.
            self.links[i].due & (due::APPENDED | due::ACKED) != 0
        } else {
            let lane = &self.regions[usize::from(self.links[i].region.0)].lane;
            lane.is_active()
                && !self.is_target(i)
                && (self.links[i].standing.failed || self.fastest())
        };

        if !wanted {
            return;
        }
        let jitter = self.rng.jitter();
        let pace = self.timing.keep_alive.min(self.climb_after / 2);
        let link = &mut self.links[i];
        let standing = &mut link.standing;
        let attempt = standing.silent_probes.min(3);
        if standing.silent_probes >= SILENT {
            standing.steady_since = None;
        }
        standing.silent_probes = standing.silent_probes.saturating_add(1);
        let pause = backoff::next(attempt, pace, self.timing.keep_alive * 4, jitter);
        standing.probe_at = Some(now.after(pause));
        if link.up && !sibling {
            link.due |= due::PING;
        }
        if !link.up || attempt > 0 {
            // It may have been restarted and have forgotten the session.
            link.due |= due::CONNECT;
        }
        self.touch_link(i);
    }

    /// To find the fastest node one has to measure all of them.
    fn schedule_probes(&mut self, r: RegionId, now: Instant) {
        if !self.fastest() {
            return;
        }
        for link in self
            .links
            .iter_mut()
            .filter(|l| l.region == r && !l.sibling)
        {
            link.standing.probe_at.get_or_insert(now);
        }
    }
}
