//! What happens because time has passed.

use crate::{
    Instant, RegionId, Storage, SwitchReason, WaitReason,
    engine::Engine,
    lane::Phase,
    link::{Timing, due},
    packets::{Content, PacketSlot, Verdict},
};

impl<S: Storage> Engine<S> {
    /// The earliest thing that anything waits for.
    pub(super) fn deadline(&self) -> Option<(Instant, WaitReason)> {
        let links = self
            .links
            .iter()
            .enumerate()
            .filter_map(|(i, link)| link.deadline(self.keep_alive(i), &self.timing));
        let regions = self
            .regions
            .iter()
            .flat_map(|r| [r.lane.deadline(), r.inlet.deadline()])
            .flatten();
        links.chain(regions).min_by_key(|(at, _)| *at)
    }

    /// How long a link may be idle before the other side is asked whether it lives; `None`: no lane
    /// depends on it.
    fn keep_alive(&self, i: usize) -> Option<core::time::Duration> {
        let Timing {
            keep_alive, retry, ..
        } = self.timing;
        self.is_target(i).then(|| {
            let lane = &self.regions[usize::from(self.links[i].region.0)].lane;
            if lane.window.is_open() || lane.is_unclean() {
                // All has been received and nothing is on its way: the word that it is applied, or
                // that it is clean, may have been lost, and somebody may wait for it.
                keep_alive.min(retry.initial)
            } else {
                keep_alive
            }
        })
    }

    /// Acts on every deadline that has passed.
    pub(super) fn expire(&mut self, now: Instant) {
        let past = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for i in 0..self.links.len() {
            let link = &mut self.links[i];
            let mut touch = link.up && past(link.ack_at);
            if past(link.pace_at) {
                link.pace_at = None;
                touch = true;
            }
            if past(link.loss_at) {
                self.expire_losses(i, now);
                touch = true;
            }
            let target = self.is_target(i);
            if past(self.links[i].probe_deadline(target, &self.timing)) {
                self.probe_timeout(i, target, now);
            }
            let every = self.keep_alive(i);
            let link = &mut self.links[i];
            if past(link.keep_alive_deadline(every)) {
                link.due |= due::PING;
                touch = true;
            }
            if past(link.standing.probe_at) {
                self.probe_background(i, now);
            }
            if touch {
                self.touch_link(i);
            }
        }
        for r in 0..self.regions.len() {
            self.expire_lane(RegionId(r as u16), now);
            self.expire_inlet(RegionId(r as u16), now);
        }
    }

    fn expire_lane(&mut self, r: RegionId, now: Instant) {
        let past = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let keep_asking = now.after(self.timing.retry.max);
        let lane = &mut self.regions[usize::from(r.0)].lane;
        if !lane.is_active() {
            return;
        }
        if let Phase::Parked(until) = lane.phase
            && until <= now
        {
            return self.unpark(r, now);
        }
        if past(lane.again_at) {
            lane.again_at = None;
            lane.verify_due = matches!(lane.phase, Phase::Verifying(_));
            self.dirty_regions |= 1 << r.0;
        }
        if past(lane.fetch_at) {
            lane.fetch_at = None;
        }
        if past(lane.progress_at) {
            lane.progress_at = None;
            let late = matches!(lane.phase, Phase::Connecting | Phase::Opening)
                || lane.phase == Phase::Streaming && lane.window.is_open();
            if late {
                return self.descend(r, SwitchReason::NoProgress, now);
            }
        }
        if past(lane.hello_at) {
            lane.hello_at = None;
            if lane.phase == Phase::Opening {
                // It has arrived, or the probe timeout would have sent it again; the answer takes
                // its time, or is lost.
                lane.hello_at = Some(keep_asking);
                let place = lane.node().unwrap_or(u8::MAX);
                if let Some(node) = self.node_at(r, place)
                    && self.links[usize::from(node.0)].ring.is_empty()
                {
                    self.links[usize::from(node.0)].due |= due::HELLO;
                    self.touch_link(usize::from(node.0));
                }
            }
        }
    }

    fn expire_inlet(&mut self, r: RegionId, now: Instant) {
        let inlet = &mut self.regions[usize::from(r.0)].inlet;
        if inlet.retry_at.is_some_and(|at| at <= now) {
            inlet.retry_at = None;
            self.touch_region(r);
        }
        let inlet = &mut self.regions[usize::from(r.0)].inlet;
        if inlet.untold.at.is_some_and(|at| at <= now) {
            // Scheduled here and not where the datagram is written: until the origin confirms there
            // is always a next time, also when the link is down or the sender changes meanwhile.
            inlet.untold.repeat(now);
            for i in 0..self.links.len() {
                // Every node of the origin that has opened a lane to this one: its present holder
                // is among them, and each of them can deal with it.
                if self.links[i].region == r && self.links[i].hello.is_some() {
                    self.links[i].due |= due::REFUSED;
                    self.touch_link(i);
                }
            }
        }
    }

    fn expire_losses(&mut self, i: usize, now: Instant) {
        let link = &mut self.links[i];
        let loss_delay = link.rtt.loss_delay();
        let lane = &mut self.regions[usize::from(link.region.0)].lane;
        let (mut bytes, mut lost_due) = (0, 0);
        let path = &mut link.path;
        link.loss_at = link.ring.expire(loss_delay, now, |verdict, slot| {
            path.settled(verdict, slot, now);
            if !slot.requeued() {
                if !canary!(CreditLeak) {
                    bytes += u64::from(slot.bytes);
                }
                lost_due |= slot.control;
                settle(lane, Verdict::Lost, slot);
            }
        });
        link.in_flight = link.in_flight.saturating_sub(bytes);
        self.requeue_control(i, lost_due);
    }

    /// Nobody has answered for too long.
    fn probe_timeout(&mut self, i: usize, target: bool, now: Instant) {
        let jitter = self.rng.jitter();
        let max_retries = self.timing.retry.max_retries;
        let link = &mut self.links[i];
        let r = link.region;
        if link.unanswered >= max_retries {
            let attempts = link.unanswered.saturating_add(1);
            link.unanswered = 0;
            link.ring.clear();
            link.in_flight = 0;
            link.loss_at = None;
            link.probe = false;
            if target {
                self.descend(r, SwitchReason::Unanswered { attempts }, now);
            } else if self.links[i].sibling {
                // What it was told is lost with the packets; later, from the beginning.
                self.requeue_control(i, due::APPENDED | due::ACKED);
                self.dirty_links &= !(1 << (i % 64));
                let pause = self.timing.keep_alive * 4;
                self.links[i].standing.probe_at = Some(now.after(pause));
            }
            self.links[i].silent_since = None;
            return;
        }
        if !target && !link.ring.carries_content() {
            // A background probe; its schedule is that of the ladder.
            link.ring.clear();
            link.in_flight = 0;
            link.loss_at = None;
            link.silent_since = None;
            return;
        }
        link.unanswered += 1;
        if link.unanswered >= 2 {
            // Not even a probe comes through: perhaps because of its length (RFC 8899 4.3).
            link.path.fall_back(now);
        }
        link.jitter = jitter;
        link.last_probe = Some(now);
        if !link.up {
            link.due |= due::CONNECT;
            return self.touch_link(i);
        }
        if link.unanswered >= 2 {
            // It may have been restarted and have forgotten the session.
            link.due |= due::CONNECT;
        }
        link.probe = true;
        let oldest = link.ring.requeue_oldest();
        if let Some(slot) = oldest {
            link.in_flight = link.in_flight.saturating_sub(u64::from(slot.bytes));
            self.content_lost(i, &slot);
        }
        if target {
            self.regions[usize::from(r.0)].lane.counters.probes += 1;
        }
        self.touch_link(i);
    }

    /// What a packet carried has to go again.
    pub(super) fn content_lost(&mut self, i: usize, slot: &PacketSlot) {
        let lane = &mut self.regions[usize::from(self.links[i].region.0)].lane;
        settle(lane, Verdict::Lost, slot);
        self.requeue_control(i, slot.control);
    }

    pub(super) fn requeue_control(&mut self, i: usize, control: u8) {
        let link = &mut self.links[i];
        let lane = &self.regions[usize::from(link.region.0)].lane;
        if control & due::HELLO != 0 && lane.phase == Phase::Opening {
            link.due |= due::HELLO;
        }
        if control & due::WELCOME != 0 && link.hello.is_some() {
            link.due |= due::WELCOME;
        }
        link.due |= control & due::APPENDED;
        if control & due::ACKED != 0 {
            link.due |= due::ACKED;
            for (r, region) in self.regions.iter().enumerate() {
                link.acked_due |= u16::from(region.lane.is_held()) << (r % 16);
            }
        }
        self.touch_link(i);
    }
}

/// Tells the update window what has become of a packet.
pub(super) fn settle<U>(lane: &mut crate::lane::Lane<U>, verdict: Verdict, slot: &PacketSlot)
where
    U: AsRef<[crate::UpdateSlot]> + AsMut<[crate::UpdateSlot]>,
{
    if slot.opening != lane.token {
        return;
    }
    if canary!(ReceivedIsApplied)
        && let (Verdict::Received, Content::Run { first, count }) = (verdict, slot.content)
    {
        let seq = crate::Seq(first.0 + u64::from(count) - 1);
        lane.advance(crate::Position { seq, ..lane.acked }, lane.clean);
    }
    let window = &mut lane.window;
    match (verdict, slot.content) {
        (_, Content::None) => {}
        (Verdict::Received, Content::Run { first, count }) => window.received(first, count),
        (Verdict::Lost, Content::Run { first, count }) => window.lost(first, count, slot.pn),
        (Verdict::Received, Content::Fragment { seq, index }) => {
            window.received_piece(seq, index, slot.requeued());
        }
        (Verdict::Lost, Content::Fragment { seq, index }) => window.lost_piece(seq, index),
    }
}
