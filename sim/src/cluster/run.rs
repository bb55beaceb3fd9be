//! A run, from nothing to its end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prism_db::{Database, OpenOptions, Topology};
use prism_net::platform;
use prism_proto::{Position, Seq};

use super::case::{Case, Kind};
use super::node::Process;
use super::plan::Plan;
use super::trouble::{ServerClock, ServerTrouble};
use super::{CURRENT, Cluster, application, client, config, current, incidents};
use crate::check::{Check, Finding, Invariant, ledger, outcome, quiet, rest};
use crate::coverage::{Coverage, Phases};
use crate::database::{Account, ModelServer};
use crate::network::Network;
use crate::rng::Rng;
use crate::sched::{Ended, World, panics};
use crate::trace::Trace;

/// After everything has healed: longer than any pause, lease, alarm and patience of the product
/// together.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is asked whether it is over.
const LOOK: Duration = Duration::from_millis(250);

/// What a run was.
#[derive(Debug, Clone)]
pub struct Report {
    /// What it was drawn from.
    pub case: Case,
    /// Of everything that happened.
    pub hash: u64,
    /// What is not as it must be.
    pub findings: Vec<Finding>,
    /// Virtual time.
    pub time: Duration,
    /// Virtual time from the healing to when all was equal.
    pub healed_in: Duration,
    /// Steps of tasks.
    pub steps: u64,
    /// Datagrams.
    pub datagrams: u64,
    /// Calls of databases.
    pub calls: u64,
    /// Requests of clients.
    pub requests: usize,
    /// Acknowledgements looked at.
    pub acks: u64,
    /// Which faults struck, in which phases.
    pub struck: Vec<(Kind, Phases)>,
    /// The readable trace, if it was kept.
    pub text: String,
}

/// Runs a case.
#[must_use]
pub fn run(case: Case) -> Report {
    run_with(case, Trace::default())
}

/// Runs a case and writes down what happens as it happens.
#[must_use]
pub fn run_traced(case: Case) -> Report {
    crate::log::collect();
    println!("{:#?}", Plan::draw(case));
    run_with(case, Trace::new(true))
}

fn run_with(case: Case, trace: Trace) -> Report {
    let plan = Plan::draw(case);
    let world = World::new(case.seed, trace);
    let inside = world.enter();
    let cluster = Cluster::new(&world, plan);
    CURRENT.set(Some(Rc::clone(&cluster)));
    let mut go = Run::new(&cluster);
    go.go();
    let report = go.report();
    world.kill_all();
    drop(go);
    CURRENT.take();
    drop(cluster);
    drop(inside);
    report
}

impl Cluster {
    fn new(world: &Rc<World>, plan: Plan) -> Rc<Self> {
        let seed = plan.case.seed;
        let site = config::site(&plan);
        let nodes = plan.node_count();
        let regions: Vec<usize> = (plan.nodes.iter().enumerate())
            .flat_map(|(region, &nodes)| std::iter::repeat_n(region, nodes))
            .collect();
        let refuse = plan.kinds.has(Kind::Refuse);
        let mut rng = Rng::new(seed, "bounds");
        let servers: Vec<_> = (0..plan.nodes.len())
            .map(|_| {
                let most = if refuse {
                    rng.of(400..4000) as i64
                } else {
                    i64::MAX
                };
                ModelServer::new((i64::MIN, most))
            })
            .collect();
        let processes = (0..nodes)
            .map(|place| Process {
                node: place,
                is_clone: false,
                machine: world.machine(&site.config.nodes[place].name),
                disk: incidents::new_disk(seed, place),
                upgraded: false,
                wanted: true,
                running: false,
                order: None,
                live: None,
                starts: 0,
            })
            .collect();
        let network = Network::new(world, seed, nodes);
        network.tell(|kind| current().strikes(kind));
        network.check_sums(!plan.sealed);
        let cluster = Rc::new(Self {
            world: Rc::clone(world),
            network,
            wall: RefCell::new(vec![0; servers.len()]),
            servers,
            processes: RefCell::new(processes),
            people: world.machine("people"),
            requests: RefCell::default(),
            lots: RefCell::default(),
            check: Check::default(),
            coverage: Coverage::default(),
            chance: RefCell::new(Rng::new(seed, "chance")),
            regions,
            no_way: RefCell::default(),
            faulty: Cell::new(true),
            doomed: RefCell::default(),
            power_cuts: RefCell::default(),
            calls: RefCell::new(BTreeMap::new()),
            busy: Cell::new(0),
            acted: RefCell::default(),
            unsettled: RefCell::new(Some("it has not healed".to_owned())),
            site,
            plan,
        });
        for (region, server) in cluster.servers.iter().enumerate() {
            server.set_clock(Arc::new(ServerClock { region }));
            server.migrate(&cluster.topology(region), &cluster.site.config.catalogue);
            let rows = (0..cluster.plan.rows).map(client::shared_row);
            let rows = rows.chain((0..cluster.plan.clients.len()).map(client::own_row));
            for row in rows {
                server.set_account(&row, Account { n: 0, name: None });
            }
            // What is there at the start is never lost.
            server.restore(&server.backup());
            server.set_trouble(Arc::new(ServerTrouble { region }));
        }
        cluster
    }

    /// Names of all regions, as the database of one knows them.
    #[must_use]
    pub fn topology(&self, region: usize) -> Topology {
        let regions = &self.site.config.regions;
        Topology {
            region: self.name(region).to_owned(),
            regions: regions.iter().map(|r| (r.name.clone(), r.key)).collect(),
        }
    }

    /// A connection of somebody who is no node.
    #[must_use]
    pub fn connect(&self, region: usize) -> Box<dyn Database> {
        let catalogue = Arc::clone(&self.site.upgraded.catalogue);
        self.servers[region].connect(OpenOptions::new(self.topology(region), catalogue))
    }

    /// Looks whether everything is everywhere, until it is.
    fn spawn_monitor(self: &Rc<Self>) {
        self.world.spawn_on(self.people, "monitor", || {
            let cluster = current();
            platform::sleep(cluster.plan.length);
            let late = platform::Instant::now() + PATIENCE - Duration::from_secs(10);
            let mut told = false;
            loop {
                platform::sleep(LOOK);
                if !told && platform::Instant::now() >= late {
                    told = true;
                    cluster.tell_all();
                }
                let why = cluster.missing().or_else(|| cluster.untold());
                if cluster.world.trace.is_on()
                    && let Some(why) = &why
                    && cluster.unsettled.borrow().as_ref() != Some(why)
                {
                    cluster.world.say(format_args!("not yet: {why}"));
                }
                let is_settled = why.is_none();
                cluster.unsettled.replace(why);
                if is_settled {
                    return;
                }
            }
        });
    }

    /// How things stand, for whoever reads the trace.
    fn tell_all(&self) {
        for place in 0..self.plan.node_count() {
            let Some(live) = self.live(place) else {
                continue;
            };
            let status = live.board.status();
            self.world.say(format_args!("{}:", status.node));
            for lane in &status.lanes {
                self.world.say(format_args!("  {lane:?}"));
            }
            for inlet in &status.inlets {
                self.world.say(format_args!("  {inlet:?}"));
            }
            for lane in self.check.lanes.of(place) {
                self.world.say(format_args!("  {lane:?}"));
            }
        }
    }

    /// Why not everything is everywhere yet.
    fn missing(&self) -> Option<String> {
        if self.busy.get() > 0 {
            return Some(format!("{} people are busy", self.busy.get()));
        }
        for place in 0..self.plan.node_count() {
            let name = &self.site.config.nodes[place].name;
            let Some(live) = self.live(place) else {
                return Some(format!("{name} does not run (place {place})"));
            };
            if let Err(why) = live.board.ready() {
                return Some(format!("{name} is not ready: {why}"));
            }
            let entries = live.board.status().journal.entries;
            if entries > 0 {
                return Some(format!("{name} has {entries} entries in its journal"));
            }
            // (It is applied when what comes before it is there, though its origin may have lost it.)
            let kept = self.check.lanes.inbox_of(place);
            if kept > 0 {
                return Some(format!(
                    "{name} has received {kept} bytes and not applied them"
                ));
            }
        }
        for (origin, server) in self.servers.iter().enumerate() {
            let own = server.region();
            let end = Position {
                epoch: own.epoch,
                seq: Seq(own.next_seq.0 - 1),
                tag: own.last_tag,
            };
            let (open, _) = server.load();
            if open > 0 {
                return Some(format!("{}: {open} open transactions", own.name));
            }
            // (The transaction is gone, and its undo is published by whoever looks after it next.)
            let held = server.held();
            if held > 0 {
                return Some(format!("{}: {held} updates are held", own.name));
            }
            for (peer, other) in self.servers.iter().enumerate() {
                let positions = other.positions();
                let at = positions.iter().find(|(stream, _)| *stream == own.name);
                let at = at.map_or_else(Position::default, |(_, at)| *at);
                let same = at == end || (at.seq, end.seq) == (Seq::ZERO, Seq::ZERO);
                if peer != origin && !same {
                    let peer = self.name(peer);
                    return Some(format!("{peer} has {} up to {at:?} of {end:?}", own.name));
                }
            }
        }
        None
    }

    /// The same for what only connections tell; they wait, so this is for a task.
    fn untold(&self) -> Option<String> {
        for origin in 0..self.region_count() {
            let mut database = self.connect(origin);
            let tail = Seq(self.servers[origin].region().next_seq.0 - 1);
            for lane in database.lanes().unwrap_or_default() {
                if lane.acked.seq < tail {
                    let (own, at) = (self.name(origin), lane.acked.seq.0);
                    return Some(format!(
                        "{own}'s lane to {} is at {at} of {}",
                        lane.peer, tail.0
                    ));
                }
            }
            for peer in (0..self.region_count()).filter(|&peer| peer != origin) {
                let refusals = database.refusals(self.name(peer), 1).unwrap_or_default();
                if !refusals.is_empty() {
                    return Some(format!("{} has refusals to tell", self.name(origin)));
                }
            }
        }
        None
    }
}

struct Run {
    cluster: Rc<Cluster>,
    watermarks: Rc<ledger::Watermarks>,
    healed_in: Duration,
}

impl Run {
    fn new(cluster: &Rc<Cluster>) -> Self {
        Self {
            cluster: Rc::clone(cluster),
            watermarks: Rc::default(),
            healed_in: Duration::ZERO,
        }
    }

    fn fail(&self, invariant: Invariant, what: String) {
        self.cluster
            .check
            .fail(&self.cluster.world, invariant, what);
    }

    fn go(&mut self) {
        let cluster = Rc::clone(&self.cluster);
        for place in 0..cluster.plan.node_count() {
            cluster.start(place);
        }
        client::start(&cluster);
        application::start(&cluster);
        cluster.schedule();
        cluster.spawn_monitor();
        let end = cluster.plan.length + PATIENCE;
        if !self.until(end, Self::is_settled) {
            if !cluster.check.has_found() {
                let why = cluster.unsettled.borrow().clone();
                self.fail(Invariant::Progress, why.unwrap_or_default());
            }
            return;
        }
        self.healed_in = cluster.world.time().saturating_sub(cluster.plan.length);
        let before = quiet::begin(&cluster);
        let quiet_until = cluster.world.time() + quiet::WINDOW;
        if !self.until(quiet_until, |_| false) && cluster.check.has_found() {
            return;
        }
        quiet::end(&cluster, before);
        let climbed = cluster.world.time() + rest::CLIMB;
        if !self.until(climbed, |run| rest::unrest(&run.cluster).is_none())
            && !cluster.check.has_found()
            && let Some((invariant, what)) = rest::unrest(&cluster)
        {
            self.fail(invariant, what);
        }
        ledger::look(&cluster, &self.watermarks);
        outcome::judge(&cluster);
    }

    fn is_settled(&self) -> bool {
        self.cluster.unsettled.borrow().is_none()
    }

    /// Runs until that is so; false: it never was, or something was found.
    fn until(&self, end: Duration, so: fn(&Self) -> bool) -> bool {
        let cluster = &self.cluster;
        let mut next = cluster.world.time();
        let mut is_so = false;
        let ended = cluster.world.run(end, &mut |tripped| {
            if let Some(machine) = tripped {
                cluster.tripped(machine);
            }
            if cluster.check.has_found() {
                return true;
            }
            let now = cluster.world.time();
            if now < next {
                return false;
            }
            next = now + LOOK;
            ledger::look(cluster, &self.watermarks);
            is_so = so(self);
            is_so
        });
        for panic in panics() {
            self.fail(Invariant::NoPanic, panic);
        }
        match ended {
            Ended::Stopped => is_so,
            Ended::TimeUp => false,
            Ended::Stuck(who) => {
                self.fail(Invariant::Progress, format!("nobody can ever run: {who}"));
                false
            }
            Ended::Livelock(who) => {
                self.fail(Invariant::Progress, format!("somebody spins: {who}"));
                false
            }
        }
    }

    fn report(&self) -> Report {
        let cluster = &self.cluster;
        Report {
            case: cluster.plan.case,
            hash: cluster.world.trace.hash(),
            findings: cluster.check.findings(),
            time: cluster.world.time(),
            healed_in: self.healed_in,
            steps: cluster.world.steps(),
            datagrams: cluster.network.figures().sent,
            calls: cluster.database_calls(),
            requests: cluster.requests.borrow().len(),
            acks: cluster.check.acks.seen.get(),
            struck: cluster.coverage.struck(),
            text: cluster.world.trace.text(),
        }
    }
}
