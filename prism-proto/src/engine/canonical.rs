//! For those who search all states of the core: when two engines are the same.
//!
//! Two engines that will answer every future input alike, up to a shift of time, should look alike.
//! [`canonical`](Engine::canonical) therefore counts every instant from now, and forgets what no
//! decision looks at: figures, and void slots of the rings. What it does not know of makes states
//! differ that are the same, which costs time and hides nothing.

use core::hash::{Hash, Hasher};

use crate::{
    Instant, Storage,
    engine::Engine,
    lane::{Counters, Phase},
    rng::Rng,
};

impl<S: Storage> Engine<S> {
    /// Timeouts and pauses in their full length from now on.
    #[doc(hidden)]
    pub fn without_jitter(&mut self) {
        self.rng = Rng::still();
        for link in &mut self.links {
            link.jitter = 0;
        }
    }

    /// As if as many packets had been sent on every link, and as many openings made on every lane.
    #[doc(hidden)]
    pub fn number_from(&mut self, packets: u64, openings: u32) {
        for link in &mut self.links {
            link.next_pn = packets;
        }
        for region in &mut self.regions {
            region.lane.token = openings;
        }
    }

    /// See the module. Good for comparing (`Hash`), not for going on with.
    #[doc(hidden)]
    pub fn canonical(&mut self, now: Instant) {
        let at = |at: &mut Instant| *at = at.seen_from(now);
        let some = |maybe: &mut Option<Instant>| {
            if let Some(instant) = maybe {
                at(instant);
            }
        };
        some(&mut self.timers_at);
        for link in &mut self.links {
            some(link.pacer.instant());
            some(&mut link.pace_at);
            some(&mut link.loss_at);
            some(&mut link.last_probe);
            some(&mut link.last_answer);
            some(&mut link.last_sent);
            some(&mut link.largest_at);
            some(&mut link.ack_at);
            some(&mut link.standing.steady_since);
            some(&mut link.standing.probe_at);
            some(&mut link.standing.climbed);
            link.ring.canonical(some);
            // Only told to people.
            link.silent_since = None;
        }
        for region in &mut self.regions {
            let lane = &mut region.lane;
            if let Phase::Parked(until) = &mut lane.phase {
                at(until);
            }
            some(&mut lane.hello_at);
            some(&mut lane.progress_at);
            some(&mut lane.again_at);
            some(&mut lane.fetch_at);
            if let Some((_, since)) = &mut lane.better {
                at(since);
            }
            lane.window.canonical();
            lane.counters = Counters::default();
            let inlet = &mut region.inlet;
            some(&mut inlet.retry_at);
            some(&mut inlet.untold.at);
            some(&mut inlet.gap_since);
            inlet.received = 0;
            inlet.duplicates = 0;
            inlet.no_room = 0;
        }
    }
}

impl<S: Storage> Hash for Engine<S>
where
    S::Updates: Hash,
    S::Packets: Hash,
    S::Received: Hash,
{
    fn hash<H: Hasher>(&self, state: &mut H) {
        // (taken apart, so that a new field is not forgotten)
        let Self {
            me,
            region,
            incarnation,
            rng,
            timing,
            window,
            max_update,
            max_apply,
            chunk,
            climb_after,
            apply_timeout,
            park,
            epoch,
            tail,
            links,
            regions,
            dirty_links,
            dirty_regions,
            served,
            timers_at,
            fetching,
            notices,
        } = self;
        (me, region, incarnation, rng, timing).hash(state);
        (window, max_update, max_apply, chunk).hash(state);
        (climb_after, apply_timeout, park).hash(state);
        (epoch, tail, links, regions).hash(state);
        (dirty_links, dirty_regions, served).hash(state);
        (timers_at, fetching).hash(state);
        for notice in notices {
            notice.hash(state);
        }
    }
}
