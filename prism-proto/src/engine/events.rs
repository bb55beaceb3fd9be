//! Facts from the host.

use core::time::Duration;

use crate::{
    ApplyCause, DirectFailure, Epoch, Event, Inbox, InletState, Instant, NodeId, Notice, Position,
    RegionId, Seq, Storage, SwitchReason, Verdict, backoff,
    engine::Engine,
    lane::{Phase, SOON},
    link::due,
};

/// Longest pause before an update that was not found is asked for again, and after how many of them
/// (more than a second) the host hears of it.
const MISSED: Duration = Duration::from_secs(1);
const MISSING: u8 = 5;

impl<S: Storage> Engine<S> {
    pub(super) fn take_event(&mut self, now: Instant, event: Event, inbox: &mut impl Inbox) {
        match event {
            Event::Available { upto } => self.available(upto, true, now),
            Event::Fetched { upto } => self.fetched(upto, now),
            Event::LaneHeld { peer, acked, own } if self.is_peer(peer) => {
                self.lane_held(peer, acked, own, now);
            }
            Event::LaneLost { peer } if self.is_peer(peer) => {
                let lane = &mut self.regions[usize::from(peer.0)].lane;
                lane.leave();
                lane.phase = Phase::Off;
                lane.tell_acked = false;
            }
            Event::Verified {
                peer,
                position,
                verdict,
            } if self.is_peer(peer) => self.verified(peer, position, verdict, now),
            Event::Position {
                stream,
                position,
                clean,
            } if self.is_peer(stream) => {
                self.position_read(stream, position, clean, now, inbox);
            }
            Event::PositionOld { stream } if self.is_peer(stream) => {
                let inlet = &mut self.regions[usize::from(stream.0)].inlet;
                inlet.read_wanted |= inlet.position.is_some();
                inlet.quiet = inlet.position.is_some() && !core::mem::take(&mut inlet.fresh);
                self.touch_region(stream);
            }
            Event::Applied {
                stream,
                position,
                clean,
            } if self.is_peer(stream) => {
                self.applied(stream, position, clean, now, inbox);
            }
            Event::Clean { stream, clean } if self.is_peer(stream) => {
                let inlet = &mut self.regions[usize::from(stream.0)].inlet;
                if core::mem::replace(&mut inlet.clean, clean) != clean {
                    self.ack_now(stream, now);
                }
            }
            Event::ApplyFailed {
                stream,
                cause,
                retry_at,
            } if self.is_peer(stream) => self.apply_failed(stream, cause, retry_at, now, inbox),
            Event::Refused { stream, refusal } if self.is_peer(stream) => {
                let inlet = &mut self.regions[usize::from(stream.0)].inlet;
                // (epoch 0: nobody has said Hello yet)
                if [refusal.epoch, Epoch(0)].contains(&inlet.epoch) {
                    inlet.untold.add(refusal, now);
                    // The timer does the telling, this time and every other.
                    self.timers_at = Some(now);
                }
            }
            Event::RefusalHandled { peer, seq } if self.is_peer(peer) => {
                self.refusal_handled(peer, seq);
            }
            Event::DirectDone {
                peer,
                position,
                clean,
            } if self.is_peer(peer) => {
                self.direct_done(peer, position, clean, now);
            }
            Event::DirectFailed { peer, why } if self.is_peer(peer) => {
                self.direct_failed(peer, why, now);
            }
            Event::NodeUp { node } => self.node_up(node, now),
            Event::NodeDown { node } => self.node_down(node, now),
            // A region that does not exist, or the own one: nothing of it is here.
            _ => {}
        }
    }

    /// The own stream exists up to `upto`. `local`: the siblings do not know yet.
    pub(super) fn available(&mut self, upto: Seq, local: bool, now: Instant) {
        if upto <= self.tail {
            return;
        }
        self.tail = upto;
        for r in 0..self.regions.len() {
            let phase = self.regions[r].lane.phase;
            if matches!(phase, Phase::Streaming | Phase::Direct) {
                self.touch_lane(RegionId(r as u16));
            }
        }
        if local {
            self.tell_siblings(due::APPENDED, now);
        }
    }

    fn fetched(&mut self, upto: Seq, now: Instant) {
        if canary!(FetchNotRepeated) && self.fetching.asked.is_some_and(|from| upto < from) {
            return;
        }
        let Some(from) = self.fetching.asked.take() else {
            return;
        };
        for r in 0..self.regions.len() {
            let lane = &mut self.regions[r].lane;
            if lane.fetch.is_some_and(|seq| seq >= from && seq <= upto) {
                lane.granted = lane.fetch.take();
                lane.missed = 0;
                self.touch_lane(RegionId(r as u16));
            } else if lane.fetch == Some(from) {
                let pause = backoff::next(lane.missed, SOON.0, MISSED, 0);
                lane.fetch_at = Some(now.after(pause));
                lane.missed = lane.missed.saturating_add(1);
                if lane.missed == MISSING {
                    let peer = RegionId(r as u16);
                    self.notify(Notice::RowsMissing { peer, from });
                }
            }
        }
    }

    fn lane_held(&mut self, r: RegionId, acked: Position, own: Position, now: Instant) {
        self.epoch = own.epoch;
        self.available(own.seq, false, now);
        let lane = &mut self.regions[usize::from(r.0)].lane;
        if lane.is_active() {
            // The peer's database says what it has, not what was sent to it: it may have had the
            // update of a history that the own database has lost since, and kept it while a new one
            // took its number.
            if lane.acked.seq > Seq::ZERO && lane.acked.seq == own.seq && lane.acked != own {
                let acked = lane.acked;
                return self.stop(r, acked, Verdict::Forked);
            }
            // What the host was told has not come to where it is kept.
            lane.tell_acked |= lane.acked != acked;
            return self.touch_region(r);
        }
        lane.acked = acked;
        // The peer knows; until it has said so nothing may be taken for clean.
        lane.clean = Seq::ZERO;
        lane.missed = 0;
        lane.leave();
        self.start(r, now);
    }

    fn verified(&mut self, r: RegionId, position: Position, verdict: Verdict, now: Instant) {
        let lane = &mut self.regions[usize::from(r.0)].lane;
        if lane.phase != Phase::Verifying(position) {
            return;
        }
        match verdict {
            Verdict::Matches => {
                lane.phase = Phase::Streaming;
                lane.attempts = 0;
                lane.parked = 0;
                let (moved, news) = lane.settle_at(position, lane.offered);
                if moved || self.tail <= position.seq {
                    lane.progress_at = None;
                }
                self.tail = self.tail.max(position.seq);
                self.touch_lane(r);
                if news {
                    self.lane_advanced(r, now);
                }
            }
            Verdict::Forked | Verdict::TooOld => self.stop(r, position, verdict),
            Verdict::Unknown => {
                let jitter = self.rng.jitter();
                let lane = &mut self.regions[usize::from(r.0)].lane;
                let pause = backoff::next(lane.attempts, SOON.0, SOON.1, jitter);
                lane.attempts = lane.attempts.saturating_add(1);
                lane.again_at = Some(now.after(pause));
                // It is not the peer that takes its time.
                lane.progress_at = None;
            }
        }
    }

    fn position_read(
        &mut self,
        r: RegionId,
        position: Position,
        clean: Seq,
        now: Instant,
        inbox: &mut impl Inbox,
    ) {
        let inlet = &mut self.regions[usize::from(r.0)].inlet;
        inlet.busy = None;
        inlet.retry_at = None;
        inlet.read_wanted = false;
        let opened = inlet.position.is_some();
        let back = position.seq.next() < inlet.window.base();
        let news = (inlet.position, inlet.clean) != (Some(position), clean);
        inlet.position = Some(position);
        inlet.clean = clean;
        inlet.window.advance(position.seq);
        // It is of a lane that is gone, or of a history that the origin's database has lost, with which
        // the new one would be mixed.
        let in_vain = core::mem::take(&mut inlet.quiet) && inlet.window.waits();
        let afresh = back || in_vain;
        if afresh || !opened {
            inlet.start_over(r, position.seq, inbox);
        } else {
            inbox.release(r, position.seq);
        }
        if afresh {
            self.ask_again(r, None, now);
        }
        for i in 0..self.links.len() {
            let link = &mut self.links[i];
            if link.region == r && core::mem::take(&mut link.welcome_wanted) {
                link.due |= due::WELCOME;
                self.touch_link(i);
            }
        }
        self.set_inlet_state(r, InletState::Running);
        self.touch_region(r);
        if news {
            self.ack_now(r, now);
        }
    }

    fn applied(
        &mut self,
        r: RegionId,
        position: Position,
        clean: Seq,
        now: Instant,
        inbox: &mut impl Inbox,
    ) {
        let inlet = &mut self.regions[usize::from(r.0)].inlet;
        inlet.busy = None;
        inlet.retry_at = None;
        inlet.doubted = false;
        if position.seq < inlet.window.base() && position.seq.next() != inlet.window.base() {
            // Not what an apply can say; the database has moved back.
            return self.position_read(r, position, clean, now, inbox);
        }
        inlet.position = Some(position);
        inlet.clean = clean;
        inlet.window.advance(position.seq);
        if inlet.window.gap().is_none() {
            inlet.gap_since = None;
        }
        inbox.release(r, position.seq);
        self.set_inlet_state(r, InletState::Running);
        self.touch_region(r);
        self.ack_now(r, now);
    }

    /// Whoever sends this stream is told at once how things stand.
    fn ack_now(&mut self, r: RegionId, now: Instant) {
        for i in 0..self.links.len() {
            let link = &mut self.links[i];
            if link.region == r && link.up && link.hello.is_some() {
                link.ack_at = Some(now);
                self.touch_link(i);
            }
        }
    }

    fn apply_failed(
        &mut self,
        r: RegionId,
        cause: ApplyCause,
        retry_at: Instant,
        now: Instant,
        inbox: &mut impl Inbox,
    ) {
        let inlet = &mut self.regions[usize::from(r.0)].inlet;
        inlet.busy = None;
        inlet.retry_at = Some(retry_at);
        if cause == ApplyCause::Unreachable || inlet.position.is_none() {
            // Even if nobody sends any more, somebody waits to hear that it is back.
            inlet.read_wanted = true;
        }
        let mut links = self.links.iter();
        let is_sent = links.any(|link| link.region == r && link.hello.is_some());
        if cause == ApplyCause::Forked && !(is_sent && inlet.doubted) {
            // Of a history whose sender is gone, or mixed with what is left of one that the origin's
            // database has lost: the next one says Hello, and its outbox judges.
            inlet.start_over(r, Seq(inlet.window.base().0.saturating_sub(1)), inbox);
            inlet.read_wanted = true;
            if is_sent {
                inlet.doubted = true;
                inlet.retry_at = None;
                self.ask_again(r, None, now);
            }
        }
        self.set_inlet_state(r, InletState::Waiting(cause));
        self.ack_now(r, now);
    }

    /// Whoever has told of it need not do so again.
    fn refusal_handled(&mut self, r: RegionId, seq: Seq) {
        let Some((epoch, from)) = self.regions[usize::from(r.0)].heard.handled(seq) else {
            // Forgotten meanwhile (too many): it is told again, and handled already.
            return;
        };
        for i in (0..self.links.len()).filter(|i| from >> (i % 64) & 1 == 1) {
            let answers = &mut self.links[i].refused_acks;
            if !answers.contains(&(epoch, seq)) {
                // One that does not fit is asked for again.
                let _fits = answers.push((epoch, seq));
            }
            self.touch_link(i);
        }
    }

    fn direct_done(&mut self, r: RegionId, position: Position, clean: Seq, now: Instant) {
        let jitter = self.rng.jitter();
        let tail = self.tail;
        let lane = &mut self.regions[usize::from(r.0)].lane;
        lane.direct_busy = false;
        lane.direct_failed = false;
        if !lane.is_held() {
            return;
        }
        let before = lane.acked.seq;
        let news = lane.advance(position, clean);
        if lane.phase == Phase::Direct
            && !news
            && position.seq == before
            && (tail > before || lane.is_unclean())
        {
            // Nothing has changed although something should: not in a busy loop.
            let pause = backoff::next(lane.attempts, SOON.0, SOON.1, jitter);
            lane.attempts = lane.attempts.saturating_add(1);
            lane.again_at = Some(now.after(pause));
        } else {
            lane.attempts = 0;
        }
        if news {
            lane.counters.direct_writes += position.seq.0 - before.0;
            self.lane_advanced(r, now);
        } else if lane.phase == Phase::Direct && position.seq < before {
            // Read afresh from the database: it has been put back, and is refilled.
            lane.settle_at(position, clean);
            self.lane_advanced(r, now);
        }
        self.touch_region(r);
        self.reconsider(r, SwitchReason::ClimbBack, now);
    }

    fn direct_failed(&mut self, r: RegionId, why: DirectFailure, now: Instant) {
        let jitter = self.rng.jitter();
        let lane = &mut self.regions[usize::from(r.0)].lane;
        lane.direct_busy = false;
        if lane.phase != Phase::Direct {
            return;
        }
        match why {
            DirectFailure::Busy | DirectFailure::Dependency => {
                let pause = backoff::next(lane.attempts, SOON.0, SOON.1, jitter);
                lane.attempts = lane.attempts.saturating_add(1);
                lane.again_at = Some(now.after(pause));
                self.reconsider(r, SwitchReason::ClimbBack, now);
            }
            DirectFailure::Unreachable | DirectFailure::Parked => {
                self.descend(r, SwitchReason::Direct(why), now);
            }
            DirectFailure::Forked => {
                let acked = lane.acked;
                self.stop(r, acked, Verdict::Forked);
            }
        }
    }

    fn node_up(&mut self, node: NodeId, now: Instant) {
        let i = usize::from(node.0);
        if node == self.me || i >= self.links.len() {
            return;
        }
        let link = &mut self.links[i];
        let was_up = link.up;
        link.reset();
        link.up = true;
        if link.standing.probe_at.is_some() {
            link.standing.silent_probes = 0;
            link.standing.probe_at = Some(now);
            self.timers_at = Some(now);
        }
        self.restart_link(i, was_up, now);
    }

    /// The other side of a link knows nothing of what was before.
    pub(super) fn restart_link(&mut self, i: usize, was_up: bool, now: Instant) {
        let r = self.links[i].region;
        if self.links[i].sibling {
            if self.tail > Seq::ZERO {
                self.links[i].due |= due::APPENDED;
            }
            self.requeue_control(i, due::ACKED);
        } else if self.is_target(i) {
            if !was_up {
                self.links[i].unanswered = 0;
            }
            self.reopen(r, now);
        }
        self.touch_link(i);
    }

    fn node_down(&mut self, node: NodeId, now: Instant) {
        let i = usize::from(node.0);
        if node == self.me || i >= self.links.len() || !self.links[i].up {
            return;
        }
        self.links[i].reset();
        self.links[i].up = false;
        if self.is_target(i) {
            let r = self.links[i].region;
            self.reopen(r, now);
        }
    }
}
