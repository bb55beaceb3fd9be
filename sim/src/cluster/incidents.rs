//! What goes wrong at a time, and how it is put right.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prism_net::platform::{self, Simulation as _};

use super::case::Kind;
use super::plan::Incident;
use super::{Cluster, Order, Process, current};
use crate::disk::{self, Failure, MemDisk, Operation};
use crate::network::Link;

const MS: Duration = Duration::from_millis(1);

impl Cluster {
    /// All incidents of the plan, and the end of them.
    pub(super) fn schedule(self: &Rc<Self>) {
        for (i, incident) in self.plan.incidents.iter().enumerate() {
            self.world.at(incident.at, move || {
                let cluster = current();
                let incident = cluster.plan.incidents[i];
                cluster.strike(incident);
            });
        }
        self.world.at(self.plan.length, || current().heal());
        self.set_links(self.plan.link);
    }

    fn set_links(&self, like: Link) {
        let nodes = self.plan.node_count();
        for from in 0..nodes {
            for to in 0..nodes {
                let delay = self.delay(self.region_of(from), self.region_of(to));
                self.network.set(from, to, Link { delay, ..like });
            }
        }
    }

    /// Both ways, or one way, between all nodes of two regions.
    fn cut(&self, from: usize, to: usize, cut: bool) {
        let nodes = self.plan.node_count();
        for a in (0..nodes).filter(|&node| self.region_of(node) == from) {
            for b in (0..nodes).filter(|&node| self.region_of(node) == to) {
                self.network.cut(a, b, cut);
            }
        }
    }

    fn later(&self, after: Duration, what: impl FnOnce(&Rc<Self>) + 'static) {
        self.world
            .at(self.world.time() + after, move || what(&current()));
    }

    fn strike(self: &Rc<Self>, incident: Incident) {
        let Incident {
            kind,
            lasting,
            whom,
            other,
            ..
        } = incident;
        let places = self.plan.node_count();
        let place = whom % places;
        let regions = self.region_count();
        let region = whom % regions;
        let far = (region + 1 + other % (regions - 1)) % regions;
        self.world.say(format_args!(
            "{kind:?} strikes {place}/{region}/{far} for {lasting:?}"
        ));
        self.world.trace.mix(3, kind as u64, whom as u64);
        self.strikes(kind);
        match kind {
            Kind::OneWay => {
                self.cut(region, far, true);
                self.later(lasting, move |cluster| cluster.cut(region, far, false));
            }
            Kind::Partition => {
                for (from, to) in [(region, far), (far, region)] {
                    self.cut(from, to, true);
                    self.later(lasting, move |cluster| cluster.cut(from, to, false));
                }
            }
            Kind::Blocked => self.block(lasting),
            Kind::Address => self.network.readdress(place),
            Kind::Pause => {
                let machine = self.processes.borrow()[place].machine;
                self.world.pause(machine, true);
                self.later(lasting, move |cluster| cluster.world.pause(machine, false));
            }
            // Half of them strike whoever writes to its disk.
            Kind::PowerLoss if other % 2 == 0 => self.power_cuts.borrow_mut().push(lasting),
            Kind::Crash | Kind::PowerLoss => {
                // At any step: so many of its own from here.
                let power = kind == Kind::PowerLoss;
                self.crash_at_step(place, other as u64 % 200, power, lasting);
            }
            Kind::Restart => self.order(place, Order::Drain),
            Kind::Wipe => {
                self.crash(place, true, lasting);
                self.processes.borrow()[place].disk.wipe();
                self.check.journal_lost(self.region_of(place));
            }
            Kind::Clone => self.copy(place, lasting),
            Kind::Clock => {
                let by = (other as i64 - (1 << 15)) * 2000;
                if whom % 3 == 0 {
                    self.wall.borrow_mut()[region] += by / 10;
                } else {
                    let machine = self.processes.borrow()[place].machine;
                    self.world.jump(machine, by);
                }
            }
            Kind::DbCrash => {
                let server = self.servers[region].clone();
                server.crash();
                server.set_reachable(false);
                self.later(lasting, move |_| server.set_reachable(true));
            }
            Kind::DbAway | Kind::Stale => {
                let server = self.servers[region].clone();
                server.set_reachable(false);
                let lasting = match kind {
                    Kind::Stale if self.plan.has_small_backlog() => MS * 15_000,
                    Kind::Stale => MS * 9000,
                    _ => lasting,
                };
                self.later(lasting, move |_| server.set_reachable(true));
            }
            Kind::NoWay => {
                let way = (place, if other % 2 == 0 { region } else { far });
                self.no_way.borrow_mut().push(way);
                self.later(lasting, move |cluster| {
                    cluster.no_way.borrow_mut().retain(|other| *other != way);
                });
            }
            Kind::LoseNewest => {
                if whom % 4 == 0 {
                    self.dark(region, lasting);
                }
                self.lose(region, 1 + other % 8, lasting / 2);
            }
            Kind::Restore => self.restore(region, lasting),
            Kind::Upgrade => self.upgrade(),
            Kind::Adopt => self.rebuild_anyway(region),
            // Rates, or what clients do.
            _ => {}
        }
    }

    /// Nobody hears anybody.
    fn block(self: &Rc<Self>, lasting: Duration) {
        let regions = self.region_count();
        for from in 0..regions {
            for to in (0..regions).filter(|&to| to != from) {
                self.cut(from, to, true);
                self.later(lasting, move |cluster| cluster.cut(from, to, false));
            }
        }
    }

    /// kill -9, or, if `power` is lost, worse: so many steps of the machine from here.
    fn crash_at_step(&self, place: usize, steps: u64, power: bool, again: Duration) {
        let machine = self.processes.borrow()[place].machine;
        self.doomed
            .borrow_mut()
            .push((machine, (place, power, again)));
        self.world.trip(machine, steps);
    }

    /// A node does something with its disk: the power may be lost meanwhile, or soon after it.
    fn power_may_fail(&self, operation: Operation) {
        let Some(place) = self.here() else {
            return;
        };
        let rng = &mut *self.chance.borrow_mut();
        if self.power_cuts.borrow().is_empty() || !rng.permille(200) {
            return;
        }
        let Some(lasting) = self.power_cuts.borrow_mut().pop() else {
            return;
        };
        let most = *rng.pick(&[10u64, 100, 1000]);
        self.world
            .say(format_args!("place {place} loses its power when it writes"));
        self.strikes(Kind::PowerLoss);
        if operation == Operation::Sync && rng.permille(600) {
            let soon = rng.time(MS / 20..MS / 2);
            self.later(soon, move |cluster| cluster.crash(place, true, lasting));
        } else {
            self.crash_at_step(place, rng.below(most), true, lasting);
        }
    }

    /// Who has seen an error of its disk is often switched off and on.
    fn power_cycle_after_error(&self) {
        let Some(place) = self.here() else {
            return;
        };
        let rng = &mut *self.chance.borrow_mut();
        if self.plan.kinds.has(Kind::PowerLoss) && rng.permille(500) {
            let soon = rng.time(MS..MS * 1500);
            self.later(soon, move |cluster| {
                if cluster.is_faulty() {
                    cluster.strikes(Kind::PowerLoss);
                    cluster.crash(place, true, MS * 300);
                }
            });
        }
    }

    /// The place of the process whose task runs.
    fn here(&self) -> Option<usize> {
        let machine = self.world.here()?;
        let processes = self.processes.borrow();
        processes
            .iter()
            .position(|process| process.machine == machine)
    }

    /// The nodes of a region are gone with its database, and come back before the way to the others
    /// does.
    fn dark(self: &Rc<Self>, region: usize, lasting: Duration) {
        let places = (0..self.plan.node_count()).filter(|&place| self.region_of(place) == region);
        for place in places {
            self.crash(place, false, lasting);
        }
        for far in (0..self.region_count()).filter(|&far| far != region) {
            for (from, to) in [(region, far), (far, region)] {
                self.cut(from, to, true);
                self.later(lasting * 3, move |cluster| cluster.cut(from, to, false));
            }
        }
    }

    /// A machine has come to the step at which it crashes.
    pub(super) fn tripped(self: &Rc<Self>, machine: crate::sched::MachineId) {
        let doomed = {
            let mut doomed = self.doomed.borrow_mut();
            let at = doomed.iter().position(|(other, _)| *other == machine);
            at.map(|at| doomed.swap_remove(at).1)
        };
        if let Some((place, power, again)) = doomed {
            self.world.say(format_args!("place {place} crashes"));
            self.crash(place, power, again);
        }
    }

    /// A second process with a node's name and data, on a machine of its own.
    fn copy(self: &Rc<Self>, place: usize, lasting: Duration) {
        let clone = {
            let mut processes = self.processes.borrow_mut();
            let original = &processes[place];
            let (node, disk) = (original.node, original.disk.copy(self.plan.case.seed ^ 1));
            let upgraded = original.upgraded;
            let number = processes.len();
            processes.push(Process {
                node,
                is_clone: true,
                machine: self.world.machine(&format!("clone {number}")),
                disk,
                upgraded,
                wanted: true,
                running: false,
                order: None,
                live: None,
                starts: 0,
            });
            number
        };
        self.start(clone);
        self.later(lasting, move |cluster| {
            cluster.processes.borrow_mut()[clone].wanted = false;
            cluster.crash(clone, false, Duration::ZERO);
        });
        // What it has accepted is on its disk for ever.
        self.check.journal_lost(self.region_of(place));
    }

    /// The newest commits of a database are lost.
    fn lose(self: &Rc<Self>, region: usize, commits: usize, away: Duration) {
        let server = self.servers[region].clone();
        let lost = server.lose_newest(commits);
        server.set_reachable(false);
        self.check.disaster(region);
        self.world.say(format_args!(
            "{lost} commits of {} are lost",
            self.name(region)
        ));
        self.later(away, move |_| server.set_reachable(true));
    }

    /// A database comes back from the backup that was made some time before.
    fn restore(self: &Rc<Self>, region: usize, away: Duration) {
        let server = self.servers[region].clone();
        let backup = server.backup();
        // While things may still go wrong.
        let left = self.plan.length.saturating_sub(self.world.time());
        self.later((away.max(MS * 200) * 2).min(left * 4 / 5), move |cluster| {
            server.restore(&backup);
            server.set_reachable(false);
            cluster.check.disaster(region);
            let server = server.clone();
            cluster.later(away, move |_| server.set_reachable(true));
        });
    }

    /// The new catalogue: the databases, then one node after the other.
    fn upgrade(self: &Rc<Self>) {
        for (region, server) in self.servers.iter().enumerate() {
            server.migrate(&self.topology(region), &self.site.upgraded.catalogue);
        }
        for place in 0..self.plan.node_count() {
            self.later(MS * 700 * place as u32, move |cluster| {
                cluster.processes.borrow_mut()[place].upgraded = true;
                cluster.order(place, Order::Drain);
            });
        }
    }

    /// Everything that is broken is put right.
    fn heal(self: &Rc<Self>) {
        self.world.say(format_args!("everything heals"));
        self.faulty.set(false);
        self.doomed.borrow_mut().clear();
        self.power_cuts.borrow_mut().clear();
        self.set_links(Link::calm(MS));
        let regions = self.region_count();
        for from in 0..regions {
            for to in 0..regions {
                self.cut(from, to, false);
            }
        }
        self.no_way.borrow_mut().clear();
        for server in &self.servers {
            server.set_reachable(true);
        }
        let count = self.processes.borrow().len();
        for place in 0..count {
            let (machine, is_clone) = {
                let process = &mut self.processes.borrow_mut()[place];
                if process.is_clone {
                    process.wanted = false;
                }
                (process.machine, process.is_clone)
            };
            self.world.pause(machine, false);
            if is_clone {
                self.crash(place, false, Duration::ZERO);
            } else if self.live(place).is_none() {
                self.start_in(place, MS * 10);
            }
        }
        super::operator::start(self);
    }
}

/// The disk of a place, before anything is on it.
pub(super) fn new_disk(seed: u64, place: usize) -> MemDisk {
    let disk = disk::disk(seed ^ (place as u64) << 32);
    disk.set_trouble(Arc::new(wear));
    disk
}

/// What befalls an operation of a disk.
fn wear(operation: Operation) -> Failure {
    let Some(cluster) = super::try_current() else {
        return Failure::None;
    };
    if operation != Operation::Read && cluster.is_faulty() && !cluster.world.is_unwinding() {
        cluster.power_may_fail(operation);
    }
    if operation == Operation::Sync && cluster.world.here().is_some() {
        let time = cluster.chance.borrow_mut().time(MS / 10..MS);
        platform::sleep(time);
    }
    if !cluster.is_faulty() {
        return Failure::None;
    }
    let rates = cluster.plan.wear;
    let mut rng = cluster.chance.borrow_mut();
    let (kind, failure) = if rng.permille(rates.error) {
        (Kind::DiskError, Failure::Io)
    } else if operation == Operation::Write && rng.permille(rates.full) {
        (Kind::DiskFull, Failure::NoSpace)
    } else if operation == Operation::Write && rng.permille(rates.short) {
        (Kind::ShortWrite, Failure::Short)
    } else {
        return Failure::None;
    };
    drop(rng);
    cluster.strikes(kind);
    if (operation, failure) == (Operation::Sync, Failure::Io) && !cluster.world.is_unwinding() {
        cluster.power_cycle_after_error();
    }
    failure
}
