//! Datagrams in: whose they are, and what their frames say of the own stream.

use core::time::Duration;

use crate::{
    ApplyCause, Inbox, Instant, NodeId, Notice, RegionId, Storage, SwitchReason,
    engine::{Engine, timers::settle},
    lane::Phase,
    link::due,
    packets::Verdict,
    wire::{self, Ack, Frame, Header, Nack, Progress},
};

/// What a datagram asks of the link in the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gathered {
    pn: u64,
    /// Everything in it has been kept, so it may be acknowledged.
    pub(super) kept: bool,
    pub(super) eliciting: bool,
    /// Acknowledge at once.
    pub(super) prompt: bool,
    /// It acknowledges something for the first time.
    answered: bool,
    unavailable: bool,
}

impl<S: Storage> Engine<S> {
    pub(super) fn receive(
        &mut self,
        now: Instant,
        from: NodeId,
        plaintext: &[u8],
        inbox: &mut impl Inbox,
    ) {
        let i = usize::from(from.0);
        if from == self.me || i >= self.links.len() || !self.links[i].up {
            return;
        }
        let Ok((header, frames)) = wire::decode(plaintext) else {
            return self.notify(Notice::Dropped { from });
        };
        let mut opening = false;
        for frame in frames.clone() {
            if let Some(what) = self.violation(i, &header, &frame) {
                return self.notify(Notice::Violation { from, what });
            }
            opening |= matches!(frame, Frame::Ping | Frame::Hello { .. });
        }
        if !self.admit(i, &header, opening, now) {
            return;
        }
        if self.links[i].received.contains(header.pn) {
            // The network has doubled it; whatever it says has been heard. Only what wanted an answer
            // gets one again, or two nodes would acknowledge doubled ACKs for ever.
            let eliciting = frames.clone().any(|frame| elicits(&frame));
            self.links[i].note_received(header.pn, eliciting, false, now, &self.timing);
            return self.touch_link(i);
        }
        let mut gathered = Gathered {
            pn: header.pn,
            kept: true,
            eliciting: false,
            prompt: false,
            answered: false,
            unavailable: false,
        };
        for frame in frames {
            gathered.eliciting |= elicits(&frame);
            self.take_frame(i, frame, &mut gathered, now, inbox);
        }
        if gathered.kept {
            let (eliciting, prompt) = (gathered.eliciting, gathered.prompt);
            self.links[i].note_received(header.pn, eliciting, prompt, now, &self.timing);
        } else {
            // Say at once what has been kept, and how far the database is.
            self.links[i].ack_at = Some(now);
        }
        if gathered.answered {
            self.links[i].standing.unavailable = gathered.unavailable;
            self.proven(i, now);
        }
        self.touch_link(i);
    }

    /// Whether the datagram is from the incarnation that this side talks to. A new one is adopted
    /// when it introduces itself.
    fn admit(&mut self, i: usize, header: &Header, opening: bool, now: Instant) -> bool {
        let link = &mut self.links[i];
        if header.to != 0 && header.to != self.incarnation {
            // Meant for a predecessor of this process: introduce the new one.
            link.due |= due::PING;
            self.touch_link(i);
            return false;
        }
        let knows_us = header.to == self.incarnation;
        match link.judge(header.from, opening, knows_us) {
            None => return false,
            Some(true) => {
                link.reset();
                link.adopt(header.from);
                self.restart_link(i, true, now);
            }
            Some(false) => {
                if link.peer.is_none() {
                    link.adopt(header.from);
                }
            }
        }
        true
    }

    fn take_frame(
        &mut self,
        i: usize,
        frame: Frame<'_>,
        gathered: &mut Gathered,
        now: Instant,
        inbox: &mut impl Inbox,
    ) {
        let r = self.links[i].region;
        match frame {
            Frame::Ack(ack) => {
                gathered.answered |= self.take_ack(i, gathered.pn, &ack, now);
            }
            Frame::Nack(nack) => {
                gathered.unavailable |= matches!(nack, Nack::Unavailable { .. });
                let refused = matches!(nack, Nack::Refused(_));
                gathered.prompt |= refused;
                self.take_nack(i, nack, now);
            }
            Frame::RefusedAck { epoch, seq } => {
                self.regions[usize::from(r.0)]
                    .inlet
                    .untold
                    .confirm(epoch, seq);
                self.touch_region(r);
            }
            Frame::Ping => gathered.prompt = true,
            Frame::Hello { token, epoch, tail } => {
                gathered.prompt = true;
                self.take_hello(i, (token, epoch, tail), now, inbox);
            }
            Frame::Welcome {
                token,
                position,
                clean,
                credit,
            } => {
                let lane = &mut self.regions[usize::from(r.0)].lane;
                if lane.token == token && lane.phase == Phase::Opening && self.is_target(i) {
                    let lane = &mut self.regions[usize::from(r.0)].lane;
                    lane.phase = Phase::Verifying(position);
                    lane.offered = clean;
                    lane.acked_by = gathered.pn;
                    lane.verify_due = true;
                    lane.credit = credit;
                    lane.hello_at = None;
                    self.links[i].due &= !due::HELLO;
                    self.touch_region(r);
                }
                gathered.prompt = true;
            }
            Frame::Updates { first, run } => self.take_run(i, first, run, gathered, now, inbox),
            Frame::Fragment {
                seq,
                total,
                chunk,
                index,
                bytes,
            } => {
                let piece = Some((chunk, index));
                self.take_part(i, seq, total, piece, bytes, gathered, now, inbox);
            }
            Frame::Appended { tail } => {
                gathered.prompt = true;
                if tail > self.tail {
                    self.available(tail, false, now);
                    self.notify(Notice::SiblingTail { upto: tail });
                }
            }
            Frame::Acked { region, seq, clean } => {
                gathered.prompt = true;
                let means = |key| key == region || canary!(SiblingAckOfAnother);
                let peer = self.regions.iter().position(|other| means(other.key));
                if let Some(peer) = peer {
                    let news = &mut self.regions[peer].sibling;
                    // (datagrams overtake each other)
                    let (s, c) = news.unwrap_or_default();
                    *news = Some((s.max(seq), c.max(clean)));
                    self.touch_region(RegionId(peer as u16));
                }
            }
        }
    }

    /// Whether anything is acknowledged for the first time.
    fn take_ack(&mut self, i: usize, pn: u64, ack: &Ack, now: Instant) -> bool {
        let link = &mut self.links[i];
        let Some(ranges) = ack.ranges() else {
            return false;
        };
        // A probe of the background is no longer in the ring when its answer takes longer than the
        // path used to take; it is an answer all the same.
        let newest = Some(ack.largest) > link.ring.largest_acked();
        let r = link.region;
        let lane = &mut self.regions[usize::from(r.0)].lane;
        let loss_delay = link.rtt.loss_delay();
        let (mut bytes, mut lost) = (0, 0);
        let path = &mut link.path;
        let outcome = link
            .ring
            .acknowledge(&ranges, loss_delay, now, |verdict, slot| {
                path.settled(verdict, slot, now);
                let leaks = canary!(CreditLeak) && verdict == Verdict::Lost;
                if !slot.requeued() && !leaks {
                    bytes += u64::from(slot.bytes);
                }
                if verdict == Verdict::Received {
                    settle(lane, verdict, slot);
                } else if !slot.requeued() {
                    lost |= slot.control;
                    settle(lane, verdict, slot);
                }
            });
        link.in_flight = link.in_flight.saturating_sub(bytes);
        link.loss_at = outcome.loss_at;
        if let Some(sent) = outcome.largest_sent {
            let delay = Duration::from_micros(u64::from(ack.delay_us));
            link.rtt.update(now.since(sent), delay);
        }
        let answered = newest || outcome.newly > 0;
        if answered {
            link.answered(now);
        }
        if lost != 0 {
            self.requeue_control(i, lost);
        }
        if let Some(progress) = ack.progress {
            self.take_progress(i, pn, progress, now);
        }
        self.touch_link(i);
        answered
    }

    /// How far the peer's database is in the own stream.
    fn take_progress(&mut self, i: usize, pn: u64, progress: Progress, now: Instant) {
        if self.links[i].sibling || !self.is_target(i) {
            return;
        }
        let r = self.links[i].region;
        let tail = self.tail;
        let late = now.after(self.apply_timeout);
        let lane = &mut self.regions[usize::from(r.0)].lane;
        let position = progress.position;
        let other = position.epoch != self.epoch;
        // (Before its first update of this epoch a database says what it said in the Welcome.)
        if lane.phase != Phase::Streaming || pn < lane.acked_by || other && position == lane.acked {
            return;
        }
        if other || position.seq > tail || position.seq < lane.acked.seq {
            // Further than this node knows its own stream, or the peer's database was put back: let
            // the outbox judge.
            return self.reopen(r, now);
        }
        lane.acked_by = pn;
        lane.credit = progress.credit;
        let before = lane.acked.seq;
        if lane.advance(position, progress.clean) {
            if lane.acked.seq > before {
                lane.progress_at = lane.window.is_open().then_some(late);
            }
            self.lane_advanced(r, now);
        }
    }

    fn take_nack(&mut self, i: usize, nack: Nack, now: Instant) {
        let r = self.links[i].region;
        let target = self.is_target(i);
        let late = now.after(self.apply_timeout);
        let lane = &mut self.regions[usize::from(r.0)].lane;
        match nack {
            // Whoever holds the lane meanwhile: it is this region's update. One that this node has not
            // heard of (yet) is told again.
            Nack::Refused(refusal) if refusal.epoch == self.epoch && refusal.seq <= self.tail => {
                self.regions[usize::from(r.0)].heard.hear(refusal, i);
                self.touch_region(r);
            }
            Nack::Unavailable { .. } if target => {
                self.links[i].standing.unavailable = true;
                self.descend(r, SwitchReason::Unavailable, now);
            }
            Nack::Gap { .. } if canary!(GapIgnored) => {}
            Nack::Gap { .. } if target && lane.phase == Phase::Streaming => self.reopen(r, now),
            Nack::Missing { from, to } if target && lane.phase == Phase::Streaming => {
                if let Some(largest) = self.links[i].ring.largest_acked() {
                    lane.window.missing(from, to, largest);
                }
            }
            Nack::Waiting { cause } if target => {
                if lane.progress_at.is_some() {
                    // It is the database that takes its time, not the node.
                    lane.progress_at = Some(late);
                }
                self.peer_waits(r, cause);
            }
            _ => {}
        }
    }

    fn peer_waits(&mut self, r: RegionId, cause: ApplyCause) {
        let lane = &mut self.regions[usize::from(r.0)].lane;
        if lane.peer_waiting != Some(cause) {
            lane.peer_waiting = Some(cause);
            self.notify(Notice::PeerWaiting { peer: r, cause });
        }
    }
}

/// Whether it wants to be acknowledged.
const fn elicits(frame: &Frame<'_>) -> bool {
    !matches!(
        frame,
        Frame::Ack(_)
            | Frame::RefusedAck { .. }
            | Frame::Nack(
                Nack::Missing { .. }
                    | Nack::Unavailable { .. }
                    | Nack::Gap { .. }
                    | Nack::Waiting { .. }
            )
    )
}
