//! Operators: they read alarms and do what these ask for, once everything has healed and an alarm
//! stays.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use prism_net::platform::sleep;

use prism_node::status::Alarm;

use super::case::Kind;
use super::{Cluster, config, current};
use crate::database::adopt;

/// An alarm that stays for so long is for a person.
const STAYS: Duration = Duration::from_secs(8);
/// After one thing was done, the next is not done before its effect can be seen.
const REST: Duration = Duration::from_secs(6);
/// How often the alarms are read.
const READ: Duration = Duration::from_secs(1);

/// Somebody who reads alarms.
pub(super) fn start(cluster: &Rc<Cluster>) {
    cluster.world.spawn_on(cluster.people, "operator", || {
        let cluster = current();
        let mut seen = BTreeMap::new();
        loop {
            sleep(READ);
            if cluster.act(&mut seen) {
                sleep(REST);
                seen.clear();
            }
        }
    });
}

impl Cluster {
    /// Does one thing, if there is one to do.
    fn act(self: &Rc<Self>, seen: &mut BTreeMap<String, Duration>) -> bool {
        let now = self.world.time();
        let mut present = Vec::new();
        let there = (0..self.plan.node_count()).filter_map(|place| {
            let board = self.live(place)?.board;
            Some((place, board.status().alarms, board))
        });
        let there: Vec<_> = there.collect();
        let alarms = there.iter().flat_map(|(_, alarms, _)| alarms);
        let sick: Vec<usize> = alarms
            .filter_map(|alarm| adoption(&alarm.remedy))
            .map(|(target, _)| target)
            .collect();
        for (place, alarms, board) in there {
            for alarm in alarms {
                let adoption = adoption(&alarm.remedy).or_else(|| self.forked(place, &alarm));
                if alarm.remedy.contains("prism migrate") {
                    // A backup from before the upgrade has come back.
                    for (region, server) in self.servers.iter().enumerate() {
                        let catalogue = &self.site.upgraded.catalogue;
                        server.migrate(&self.topology(region), catalogue);
                    }
                }
                if alarm.remedy.contains("restart this node") {
                    present.push((format!("{place} restart"), None, place));
                }
                if let Some((target, donor)) = adoption {
                    // "From a healthy region": one that nobody wants rebuilt; best whose stream it is.
                    let own = self.region_of(self.processes.borrow()[place].node);
                    let others = std::iter::once(own).chain(0..self.region_count());
                    let is_well = |region: &usize| *region != target && !sick.contains(region);
                    let donor = donor.or_else(|| others.into_iter().find(is_well));
                    present.push((
                        format!("{place} adopt {target}"),
                        Some((target, donor)),
                        place,
                    ));
                }
            }
            if board.ready().is_err() {
                present.push((format!("{place} restart"), None, place));
            }
        }
        seen.retain(|what, _| present.iter().any(|(other, ..)| other == what));
        present.retain(|(what, adoption, _)| {
            let since = *seen.entry(what.clone()).or_insert(now);
            let stays = if adoption.is_some() { STAYS } else { STAYS * 2 };
            now - since >= stays
        });
        // What was done before did not help, so that this may be of more use.
        let before = |(_, adoption, place): &(String, Option<(usize, Option<usize>)>, usize)| {
            let region = adoption.map_or(self.region_of(*place), |(target, _)| target);
            let acted = self.acted.borrow();
            (
                acted.iter().filter(|other| **other == region).count(),
                *place,
            )
        };
        let Some((_, adoption, place)) = present.into_iter().min_by_key(before) else {
            return false;
        };
        let region = adoption.map_or(self.region_of(place), |(target, _)| target);
        self.acted.borrow_mut().push(region);
        self.read_out(place);
        match adoption {
            Some((target, donor)) => self.rebuild(target, donor),
            None => {
                // All of them at once: what one has forgotten another would tell it again.
                let name = self.name(region);
                self.world.say(format_args!("the operator restarts {name}"));
                self.restart(region);
            }
        }
        true
    }

    /// What made the operator act. (Read whether it is written down or not: reading takes a lock, and a run
    /// with its trace has to be the same run.)
    fn read_out(&self, place: usize) {
        let Some(live) = self.live(place) else {
            return;
        };
        for alarm in live.board.status().alarms {
            self.world.say(format_args!(
                "reads at place {place}: {}: {}",
                alarm.name, alarm.detail
            ));
        }
    }

    /// Of two regions with different histories, the one whose database has been replaced.
    fn forked(&self, place: usize, alarm: &Alarm) -> Option<(usize, Option<usize>)> {
        if alarm.name != "fork" {
            return None;
        }
        let own = self.region_of(self.processes.borrow()[place].node);
        let other = config::REGIONS
            .iter()
            .position(|name| alarm.detail.contains(name) && *name != self.name(own));
        let replaced = |region: &usize| self.check.had_disaster_at(*region);
        let target = [Some(own), other].into_iter().flatten().find(replaced)?;
        Some((target, None))
    }

    /// Stops all nodes of a region at once: a region that is away for long is stale for the others.
    fn stop(self: &Rc<Self>, region: usize) -> Vec<usize> {
        let places: Vec<usize> = (0..self.processes.borrow().len())
            .filter(|&place| self.region_of(self.processes.borrow()[place].node) == region)
            .collect();
        for &place in &places {
            self.processes.borrow_mut()[place].wanted = false;
            self.crash(place, false, Duration::ZERO);
        }
        places
    }

    fn start_all(self: &Rc<Self>, places: Vec<usize>) {
        for place in places {
            let is_clone = self.processes.borrow()[place].is_clone;
            self.processes.borrow_mut()[place].wanted = !is_clone;
            self.start_in(place, Duration::from_millis(10));
        }
    }

    fn restart(self: &Rc<Self>, region: usize) {
        let places = self.stop(region);
        self.start_all(places);
    }

    /// Rebuilds a region's database from another's, with its nodes stopped meanwhile; and those whose
    /// copy of its stream ends elsewhere than the donor's, as `prism adopt` says then.
    pub(super) fn rebuild(self: &Rc<Self>, target: usize, donor: Option<usize>) {
        let far = |region: usize, stream: usize| {
            let positions = self.servers[region].positions();
            let at = positions.iter().find(|(name, _)| name == self.name(stream));
            at.map(|(_, at)| (at.seq, at.tag))
        };
        let donor = donor.unwrap_or_else(|| {
            let others = (0..self.region_count()).filter(|&region| region != target);
            others
                .max_by_key(|&region| far(region, target))
                .unwrap_or_default()
        });
        let mut to_do = vec![target];
        let mut done = Vec::new();
        while let Some(target) = to_do.pop() {
            done.push(target);
            for other in (0..self.region_count()).filter(|&other| other != target && other != donor)
            {
                if far(other, target) != far(donor, target)
                    && !done.contains(&other)
                    && !to_do.contains(&other)
                {
                    to_do.push(other);
                }
            }
            if !self.rebuild_one(target, donor) {
                return;
            }
        }
    }

    /// `false`: not now.
    fn rebuild_one(self: &Rc<Self>, target: usize, donor: usize) -> bool {
        let places = self.stop(target);
        let stream = self.name(target);
        self.world.say(format_args!(
            "the operator rebuilds {stream} from {}",
            self.name(donor)
        ));
        // Awaited writes of a node that has crashed: somebody has to publish their undo.
        let mut database = self.connect(donor);
        for _ in 0..200 {
            if database.settle_held().is_ok() && self.servers[donor].held() == 0 {
                break;
            }
            sleep(Duration::from_millis(200));
        }
        if self.servers[donor].held() > 0 {
            // As the product does: another time.
            self.start_all(places);
            return false;
        }
        self.check.adopted();
        self.check.disaster(target);
        self.coverage.adopting(self.world.time() + REST);
        let others: Vec<_> = (0..self.region_count())
            .filter(|&region| region != target && region != donor)
            .map(|region| &self.servers[region])
            .collect();
        // What is being applied there with the old numbering does not come to its end. (A person's
        // transaction would wait for it.)
        for other in &others {
            other.crash();
        }
        self.servers[donor].crash();
        adopt(stream, &self.servers[target], &self.servers[donor], &others);
        self.start_all(places);
        true
    }

    /// A region is rebuilt although nothing is wrong with it.
    pub(super) fn rebuild_anyway(self: &Rc<Self>, target: usize) {
        self.strikes(Kind::Adopt);
        self.spawn_person("rebuild", move || {
            let cluster = current();
            cluster.rebuild(target, None);
            cluster.strikes(Kind::Adopt);
        });
    }
}

/// What a remedy says to rebuild, and from what.
fn adoption(remedy: &str) -> Option<(usize, Option<usize>)> {
    let mut words = remedy.split("prism adopt ").nth(1)?.split_whitespace();
    let region = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_alphanumeric());
        config::REGIONS.iter().position(|region| *region == word)
    };
    let target = region(words.next()?)?;
    let donor = words.nth(1).and_then(region);
    Some((target, donor))
}
