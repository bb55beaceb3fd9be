//! Processes: the real node, started, stopped, crashed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prism_db::journal::AnyDisk;
use prism_db::{Database, DatabaseUrl, DbError, OpenOptions};
use prism_net::platform;
use prism_net::{BindError, Endpoint, Handle, Limits};
use prism_node::intake::Intake;
use prism_node::runtime::{PacketLoop, Runtime, Surroundings};
use prism_node::status::Board;

use super::{Cluster, config, current, secrets};
use crate::check::watch;
use crate::coverage::Phase;
use crate::disk::MemDisk;
use crate::network::{Loop, Network};
use crate::sched::MachineId;

/// A node's process, or its place: a second one with the same name has a place of its own.
pub struct Process {
    /// Index of the node in the configuration.
    pub node: usize,
    /// Whether it is a second one.
    pub is_clone: bool,
    /// What it runs on.
    pub machine: MachineId,
    /// Its data directory.
    pub disk: MemDisk,
    /// Whether it has the new catalogue.
    pub upgraded: bool,
    /// Whether it should run.
    pub wanted: bool,
    /// Whether it does, if only to stop.
    pub running: bool,
    /// What it should do next.
    pub order: Option<Order>,
    /// As long as it runs.
    pub live: Option<Live>,
    /// Starts so far.
    pub starts: u32,
}

/// The way into a running node.
#[derive(Clone)]
pub struct Live {
    /// Where updates are submitted.
    pub intake: Arc<dyn Intake>,
    /// What it knows.
    pub board: Arc<dyn Board>,
}

/// What a service manager tells a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// SIGTERM.
    Drain,
}

/// How long a node may take to stop in order.
const DRAIN: Duration = Duration::from_secs(3);
/// The service manager starts a process that has ended by itself again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// A process looks this often whether it has been told something.
const LOOK: Duration = Duration::from_millis(700);

/// Everything below a node, of a run.
struct Around {
    place: usize,
}

impl Surroundings for Around {
    fn database(
        &self,
        url: &DatabaseUrl,
        options: OpenOptions,
    ) -> Result<Box<dyn Database>, DbError> {
        let cluster = current();
        let DatabaseUrl::Sqlite(path) = url else {
            return Err(DbError::Unreachable("not of this simulation".to_owned()));
        };
        let name = path.file_stem().and_then(|name| name.to_str());
        let region = config::REGIONS
            .iter()
            .position(|region| Some(*region) == name);
        let server = region.and_then(|region| cluster.servers.get(region));
        let server = server.ok_or_else(|| DbError::Unreachable(format!("no {url:?}")))?;
        Ok(server.connect(options))
    }

    fn disk(&self) -> AnyDisk {
        AnyDisk::new(current().processes.borrow()[self.place].disk.clone())
    }

    fn packets(
        &self,
        endpoint: Endpoint,
        mut bind: SocketAddr,
        commands: usize,
    ) -> Result<(Box<dyn PacketLoop>, Handle), BindError> {
        let cluster = current();
        let (node, machine) = {
            let process = &cluster.processes.borrow()[self.place];
            if process.is_clone {
                // The machine was copied with all that is on it; its address is its own.
                bind.set_port(bind.port() + 1000);
            }
            (process.node, process.machine)
        };
        let socket = cluster.network.bind(machine, node, bind);
        let (driven, handle) = Loop::new(endpoint, socket, commands, node, network, watch);
        Ok((Box::new(driven), handle))
    }

    fn limits(&self) -> Limits {
        current().endpoint_limits()
    }
}

fn network() -> Rc<Network> {
    Rc::clone(&current().network)
}

impl Cluster {
    /// Starts the process at a place.
    pub fn start(self: &Rc<Self>, place: usize) {
        let machine = {
            let mut processes = self.processes.borrow_mut();
            let process = &mut processes[place];
            process.order = None;
            process.running = true;
            process.starts += 1;
            if process.starts > 1 {
                let now = self.world.time();
                self.coverage.enter(Phase::Restarting, now);
            }
            process.machine
        };
        self.world
            .spawn_on(machine, "main", move || main(&current(), place));
    }

    /// kill -9, or, if `power` is lost, worse. It is started again after a while.
    pub fn crash(self: &Rc<Self>, place: usize, power: bool, again: Duration) {
        let (machine, disk) = {
            let process = &self.processes.borrow()[place];
            (process.machine, process.disk.clone())
        };
        if power {
            // First: nothing that is done on the way down reaches it.
            disk.power_off();
        }
        self.network.close(machine);
        self.world.kill(machine);
        if power {
            disk.power_cycle();
        }
        self.ended(place);
        self.start_in(place, again);
    }

    fn ended(&self, place: usize) {
        let process = &mut self.processes.borrow_mut()[place];
        process.live = None;
        process.running = false;
    }

    /// Starts it after a while, if it is wanted then and does not run.
    pub fn start_in(self: &Rc<Self>, place: usize, again: Duration) {
        let starts = self.processes.borrow()[place].starts;
        self.world.at(self.world.time() + again, move || {
            let cluster = current();
            let start = {
                let process = &cluster.processes.borrow()[place];
                process.wanted && !process.running && process.starts == starts
            };
            if start {
                cluster.start(place);
            }
        });
    }

    /// Tells a process something.
    pub fn order(&self, place: usize, order: Order) {
        self.processes.borrow_mut()[place].order = Some(order);
    }

    /// The way into the process at a place, if it runs.
    pub fn live(&self, place: usize) -> Option<Live> {
        self.processes.borrow()[place].live.clone()
    }
}

/// A process from its start to its end, unless it crashes.
fn main(cluster: &Rc<Cluster>, place: usize) {
    let (node, config, starts) = {
        let process = &cluster.processes.borrow()[place];
        let site = &cluster.site;
        let config = if process.upgraded {
            &site.upgraded
        } else {
            &site.config
        };
        (process.node, Arc::clone(config), process.starts)
    };
    let name = config.nodes[node].name.clone();
    let data_dir = PathBuf::from(format!("/data/{name}"));
    let protection = secrets::protection(node, cluster.plan.sealed);
    let world = &cluster.world;
    world.say(format_args!("starts (number {starts})"));
    let surroundings = Arc::new(Around { place });
    match start(config, &name, &data_dir, protection, surroundings) {
        Ok(runtime) => {
            let live = Live {
                intake: runtime.intake(),
                board: runtime.board(),
            };
            cluster.processes.borrow_mut()[place].live = Some(live);
            let died = serve(cluster, place, &runtime);
            if let Some(why) = &died {
                world.say(format_args!("dies: {why}"));
            }
            cluster.processes.borrow_mut()[place].live = None;
            let report = runtime.drain(DRAIN);
            world.say(format_args!("stopped: {report}"));
            let machine = cluster.processes.borrow()[place].machine;
            cluster.network.close(machine);
        }
        Err(error) => {
            world.say(format_args!("does not start: {error}"));
            cluster.record_start_error(place, &error);
        }
    }
    // Whatever of it hangs is gone with the process.
    world.at(world.time(), move || {
        let cluster = current();
        if cluster.processes.borrow()[place].starts != starts {
            return;
        }
        let machine = cluster.processes.borrow()[place].machine;
        cluster.network.close(machine);
        cluster.world.kill(machine);
        cluster.ended(place);
        cluster.start_in(place, AGAIN);
    });
}

fn start(
    config: Arc<prism_node::config::Config>,
    name: &str,
    data_dir: &Path,
    protection: prism_net::Protection,
    surroundings: Arc<Around>,
) -> Result<Runtime, prism_node::runtime::StartError> {
    Runtime::start_in(config, name, data_dir, protection, surroundings)
}

/// Until it is told to stop or a part of it has died.
fn serve(cluster: &Cluster, place: usize, runtime: &Runtime) -> Option<String> {
    loop {
        let died = runtime.died(LOOK);
        if died.is_some() {
            return died;
        }
        if cluster.processes.borrow()[place].order.is_some() {
            return None;
        }
        // In a moment the scheduler may do something else.
        platform::pause();
    }
}
