//! A cluster of real nodes with model networks, databases and disks, its clients and operators, and
//! what befalls them: one run from a case.
//!
//! ```text
//!   Case --draw--> Plan --> Cluster: start, faults until everything heals, until all is equal, idle
//!                                                  | check::*, all the time and at the end
//!                                                  v
//!                                               Report { hash, finding, figures }
//! ```

mod application;
pub mod case;
pub mod client;
pub mod config;
mod incidents;
mod node;
mod operator;
pub mod plan;
mod run;
mod secrets;
mod trouble;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use prism_net::Limits;

pub use case::{Case, Kind, Kinds, Size};
pub use client::{Op, Request, Told};
pub use node::{Live, Order, Process};
pub use plan::Plan;
pub use run::{Report, run, run_traced};

use crate::check::Check;
use crate::coverage::Coverage;
use crate::database::ModelServer;
use crate::network::Network;
use crate::rng::Rng;
use crate::sched::{MachineId, World};

/// Place of a node, whether power is lost, when it is started again.
type Doom = (usize, bool, Duration);

/// Everything of a run.
pub struct Cluster {
    /// Time and tasks.
    pub world: Rc<World>,
    /// What happens.
    pub plan: Plan,
    /// Its configuration.
    pub site: Rc<config::Site>,
    /// Datagrams.
    pub network: Rc<Network>,
    /// A region's database each.
    pub servers: Vec<ModelServer>,
    /// What a jump has added to the wall clock of each of them, in microseconds.
    pub wall: RefCell<Vec<i64>>,
    /// Nodes, and second ones.
    pub processes: RefCell<Vec<Process>>,
    /// Clients and operators.
    pub people: MachineId,
    /// What clients know.
    pub requests: RefCell<Vec<Request>>,
    /// Rows that stay once they are there, as clients have wanted them.
    lots: RefCell<Vec<String>>,
    /// What has been found.
    pub check: Check,
    /// Which faults struck in which phase.
    pub coverage: Coverage,
    /// For databases and disks.
    pub chance: RefCell<Rng>,
    /// The region of each node.
    regions: Vec<usize>,
    /// Ways from a node to a database that are cut.
    no_way: RefCell<Vec<(usize, usize)>>,
    faulty: Cell<bool>,
    /// Machines that crash at a step.
    doomed: RefCell<Vec<(MachineId, Doom)>>,
    /// How long each machine is away that will lose its power when it next writes to its disk.
    power_cuts: RefCell<Vec<Duration>>,
    /// Calls of databases, by verb.
    calls: RefCell<BTreeMap<&'static str, u64>>,
    /// People that are not done.
    busy: Cell<usize>,
    /// Regions in which operators have done something, one after the other.
    acted: RefCell<Vec<usize>>,
    /// Why not everything is everywhere, as of the last look.
    unsettled: RefCell<Option<String>>,
}

/// Whose task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Which node.
    pub node: usize,
    /// Its region.
    pub region: usize,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Cluster>>> = const { RefCell::new(None) };
}

/// The cluster of the run on this OS thread.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn current() -> Rc<Cluster> {
    CURRENT.with_borrow(|cluster| Rc::clone(cluster.as_ref().expect("inside of a run")))
}

/// The same, or `None` outside of a run.
#[must_use]
pub fn try_current() -> Option<Rc<Cluster>> {
    CURRENT.with_borrow(Clone::clone)
}

impl Cluster {
    /// The region of a node.
    #[must_use]
    pub fn region_of(&self, node: usize) -> usize {
        self.regions[node]
    }

    /// Number of regions.
    #[must_use]
    pub fn region_count(&self) -> usize {
        self.plan.nodes.len()
    }

    /// Name of a region.
    #[must_use]
    pub fn name(&self, region: usize) -> &'static str {
        config::REGIONS[region]
    }

    /// Shortest way from a region to another.
    #[must_use]
    pub fn delay(&self, from: usize, to: usize) -> Duration {
        if from == to {
            Duration::from_micros(100)
        } else {
            self.plan.delays[from][to]
        }
    }

    /// Whether things may still go wrong.
    #[must_use]
    pub fn is_faulty(&self) -> bool {
        self.faulty.get()
    }

    /// Whether a node reaches a region's database.
    #[must_use]
    pub fn reaches(&self, node: usize, region: usize) -> bool {
        !self.no_way.borrow().contains(&(node, region))
    }

    /// The node whose task runs, if it is one's.
    #[must_use]
    pub fn caller(&self) -> Option<Caller> {
        let machine = self.world.here()?;
        let processes = self.processes.borrow();
        let process = processes
            .iter()
            .find(|process| process.machine == machine)?;
        Some(Caller {
            node: process.node,
            region: self.region_of(process.node),
        })
    }

    /// A fault has struck, or somebody has done what this kind is.
    pub fn strikes(&self, kind: Kind) {
        self.coverage.strikes(kind, self.world.time());
    }

    fn count_call(&self, verb: &'static str) {
        *self.calls.borrow_mut().entry(verb).or_default() += 1;
    }

    /// Calls of databases so far.
    #[must_use]
    pub fn database_calls(&self) -> u64 {
        self.calls.borrow().values().sum()
    }

    /// The same by verb.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        self.calls.borrow().clone()
    }

    fn add_request(&self, request: Request) -> usize {
        let mut requests = self.requests.borrow_mut();
        requests.push(request);
        requests.len() - 1
    }

    /// A client or an operator; the run waits for its end.
    fn spawn_person(self: &Rc<Self>, name: &str, work: impl FnOnce() + 'static) {
        self.busy.set(self.busy.get() + 1);
        self.world.spawn_on(self.people, name, move || {
            work();
            let cluster = current();
            cluster.busy.set(cluster.busy.get() - 1);
        });
    }

    /// Small ones, so that windows fill, and memory for them is made quickly.
    fn endpoint_limits(&self) -> Limits {
        let crowded = self.plan.is_crowded();
        Limits {
            window: if crowded { 16 } else { 64 },
            window_bytes: if crowded { 8 << 10 } else { 256 << 10 },
            max_apply: if crowded { 4 } else { 64 },
            payload_bytes: if crowded { 8 << 10 } else { 1 << 20 },
            payload_count: if crowded { 32 } else { 4096 },
            ..Limits::default()
        }
    }

    fn record_start_error(&self, place: usize, error: &prism_node::runtime::StartError) {
        if !self.is_faulty() {
            let name = &self.site.config.nodes[self.processes.borrow()[place].node].name;
            self.check
                .note(&self.world, format!("{name} does not start: {error}"));
        }
    }
}
