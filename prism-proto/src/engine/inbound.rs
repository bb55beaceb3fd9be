//! Frames of a peer region's stream: into the inlet.

use crate::{
    Epoch, Inbox, InletState, Instant, NodeId, Notice, RegionId, Seq, Storage,
    engine::{Engine, receive::Gathered},
    link::due,
    recv_window::{Offer, Part},
    wire::Run,
};

impl<S: Storage> Engine<S> {
    /// A lane of the other side opens: it gets a `Welcome` with the position read afresh.
    pub(super) fn take_hello(
        &mut self,
        i: usize,
        (token, epoch, tail): (u32, Epoch, Seq),
        now: Instant,
        inbox: &mut impl Inbox,
    ) {
        let link = &mut self.links[i];
        let r = link.region;
        let known = link.hello.map(|(token, _)| token).or(link.void);
        let ahead = known.map_or(1, |known| token.wrapping_sub(known) as i32);
        if ahead < 0 {
            // Its successor has overtaken it.
            return;
        }
        let is_new = ahead > 0;
        link.hello = Some((token, epoch));
        link.welcome_wanted = true;
        // Whether it is a late copy of one that is void, or asks again because it heard nothing, cannot
        // be seen: it is answered, and asked for the next one.
        link.gap = link.void == Some(token);
        let inlet = &mut self.regions[usize::from(r.0)].inlet;
        let from = Some(NodeId(i as u16));
        let moved = inlet.from != from;
        inlet.from = from;
        if inlet.epoch != epoch {
            inlet.epoch = epoch;
            inlet.position = None;
            // Whatever could not be applied was of another history.
            inlet.retry_at = None;
            inlet.untold.renumber(epoch);
            inlet.start_over(r, Seq::ZERO, inbox);
        } else if is_new && (!moved || inlet.window.highest() > tail) {
            // What is not applied may be of a history that the origin's database has lost; it is
            // sent again in any case.
            inlet.start_over(r, Seq(inlet.window.base().0.saturating_sub(1)), inbox);
            self.ask_again(r, Some(i), now);
        }
        let inlet = &mut self.regions[usize::from(r.0)].inlet;
        inlet.read_wanted = true;
        if inlet.untold.to_tell().next().is_some() {
            self.links[i].due |= due::REFUSED;
        }
        if inlet.position.is_none() && inlet.retry_at.is_none() {
            self.set_inlet_state(r, InletState::Opening);
        } else if moved {
            let state = inlet.state;
            self.notify(Notice::Inlet {
                stream: r,
                state,
                from,
            });
        }
        self.touch_region(r);
    }

    pub(super) fn take_run(
        &mut self,
        i: usize,
        first: Seq,
        run: &[u8],
        gathered: &mut Gathered,
        now: Instant,
        inbox: &mut impl Inbox,
    ) {
        // (counted from 0: a range that starts at the last number there is runs over)
        for (n, payload) in (0..).zip(Run::new(run)) {
            let seq = Seq(first.0 + n);
            let total = payload.len() as u32;
            self.take_part(i, seq, total, None, payload, gathered, now, inbox);
        }
    }

    /// One update, or a piece of one.
    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of a frame, and where it came from"
    )]
    pub(super) fn take_part(
        &mut self,
        i: usize,
        seq: Seq,
        total: u32,
        piece: Option<(u16, u16)>,
        bytes: &[u8],
        gathered: &mut Gathered,
        now: Instant,
        inbox: &mut impl Inbox,
    ) {
        let link = &mut self.links[i];
        let r = link.region;
        let inlet = &mut self.regions[usize::from(r.0)].inlet;
        let opened = link.hello.is_some_and(|(_, epoch)| epoch == inlet.epoch);
        if !opened || inlet.position.is_none() {
            // Nobody has said Hello, or not to this incarnation: say so.
            link.gap = !opened;
            gathered.kept = false;
            return;
        }
        let part = Part { seq, total, piece };
        let offset = piece.map_or(0, |(chunk, index)| usize::from(chunk) * usize::from(index));
        let offer = if total > self.max_update {
            Offer::Refuse
        } else {
            inlet.window.offer(&part)
        };
        match offer {
            Offer::Duplicate => {
                inlet.duplicates += 1;
                if seq < inlet.window.base() {
                    gathered.prompt = true;
                }
            }
            Offer::Store if inbox.put(r, seq, total as usize, offset, bytes).is_ok() => {
                inlet.fresh = true;
                inlet.quiet = false;
                let before = inlet.window.complete();
                if inlet.window.accept(&part) {
                    inlet.received += 1;
                }
                if inlet.window.gap().is_none() {
                    inlet.gap_since = None;
                } else if inlet.gap_since.is_none() || inlet.window.complete() > before {
                    inlet.gap_since = Some(now);
                }
                self.dirty_regions |= 1 << (r.0 % 16);
            }
            Offer::Store | Offer::Refuse => {
                inlet.no_room += 1;
                gathered.kept = false;
                // The host's room is full of later updates, so the one that is needed next can
                // never come in: start over from what is applied.
                let next = inlet.window.complete().next();
                let stuck = offer == Offer::Store
                    && seq == next
                    && next == inlet.window.base()
                    && inlet.busy.is_none();
                if stuck && let Some(position) = inlet.position {
                    inlet.start_over(r, position.seq, inbox);
                    self.ask_again(r, None, now);
                }
            }
        }
    }

    /// Whoever sends this stream is further on than is needed: it has to say Hello again. `but`: it has
    /// just done so.
    pub(super) fn ask_again(&mut self, r: RegionId, but: Option<usize>, now: Instant) {
        for i in 0..self.links.len() {
            let link = &mut self.links[i];
            if link.region == r
                && Some(i) != but
                && let Some((token, _)) = link.hello.take()
            {
                link.void = Some(token);
                link.gap = true;
                link.ack_at = Some(now);
                self.touch_link(i);
            }
        }
    }
}
