//! The loop around the real endpoint: that of `prism_net::Driver`, with a simulated socket.

use std::rc::Rc;
use std::time::Duration;

use prism_net::platform::{self, Simulation as _};
use prism_net::{Command, Commands, DriverError, Endpoint, Host, Snapshot, Step, Wake};
use prism_node::runtime::PacketLoop;
use prism_proto::Instant;

use super::{Network, SocketId};
use crate::sched::world;

/// As in the product.
const COMMANDS: usize = 256;
const DATAGRAMS: usize = 128;
const TRANSMITS: usize = 512;
const SNAPSHOT_EVERY: Duration = Duration::from_secs(1);

/// Ends the sleep of the loop that reads from a socket.
#[derive(Debug)]
struct Bell(SocketId);

impl Wake for Bell {
    fn wake(&self) -> std::io::Result<()> {
        world().wake(self.0.key(), true);
        Ok(())
    }
}

/// Sees what the loop asks for before the node does.
pub type Watch = fn(node: usize, host: &mut dyn Host) -> Box<dyn Host + '_>;

/// A loop that is ready to run.
pub struct Loop {
    endpoint: Endpoint,
    queue: Commands,
    socket: SocketId,
    network: fn() -> Rc<Network>,
    node: usize,
    watch: Watch,
    scratch: Vec<u8>,
    snapshot: Snapshot,
}

impl Loop {
    /// Around `endpoint` of node `node`, with the socket it reads from. `network`: how to find it
    /// (a loop is handed from task to task, so it cannot hold what is of one OS thread).
    #[must_use]
    pub fn new(
        endpoint: Endpoint,
        socket: SocketId,
        commands: usize,
        node: usize,
        network: fn() -> Rc<Network>,
        watch: Watch,
    ) -> (Self, prism_net::Handle) {
        let (queue, handle) = prism_net::commands(commands, Box::new(Bell(socket)));
        let driven = Self {
            scratch: vec![0; endpoint.max_datagram()],
            endpoint,
            queue,
            socket,
            network,
            node,
            watch,
            snapshot: Snapshot::default(),
        };
        (driven, handle)
    }

    fn go(mut self, host: &mut dyn Host) {
        let network = (self.network)();
        let mut snapshot_at = self.queue.now();
        loop {
            let Some(more_commands) = self.commands(host) else {
                return;
            };
            let more_datagrams = self.datagrams(&network);
            let now = self.queue.now();
            if now >= snapshot_at {
                snapshot_at = now.after(SNAPSHOT_EVERY);
                self.report(host);
            }
            match self.outputs(&network, now, host) {
                Some(deadline) if !more_commands && !more_datagrams => {
                    let deadline =
                        deadline.map_or(snapshot_at, |deadline| deadline.min(snapshot_at));
                    self.sleep(&network, deadline);
                }
                _ => platform::pause(),
            }
        }
    }

    fn commands(&mut self, host: &mut dyn Host) -> Option<bool> {
        let now = self.queue.now();
        for _ in 0..COMMANDS {
            match self.queue.next() {
                None => return Some(false),
                Some(Command::Stop) => return None,
                Some(Command::Snapshot) => self.report(host),
                Some(command) => self.endpoint.handle_command(now, command),
            }
        }
        Some(true)
    }

    fn datagrams(&mut self, network: &Network) -> bool {
        let now = self.queue.now();
        for _ in 0..DATAGRAMS {
            let Some((from, bytes)) = network.receive(self.socket) else {
                return false;
            };
            self.endpoint.handle_datagram(now, from, &bytes);
        }
        true
    }

    /// `None`: there is more to do; otherwise until when to sleep.
    fn outputs(
        &mut self,
        network: &Rc<Network>,
        now: Instant,
        host: &mut dyn Host,
    ) -> Option<Option<Instant>> {
        for _ in 0..TRANSMITS {
            match self.endpoint.poll(now, host, &mut self.scratch) {
                Step::Transmit { to, len } => {
                    network.send(self.socket, to, &self.scratch[..len]);
                }
                Step::Wait { deadline, .. } => return Some(deadline),
            }
        }
        None
    }

    fn report(&mut self, host: &mut dyn Host) {
        self.endpoint.fill(&mut self.snapshot);
        host.snapshot(&self.snapshot);
    }

    fn sleep(&mut self, network: &Network, deadline: Instant) {
        if !self.queue.sleep() {
            return;
        }
        if !network.has_arrived(self.socket) {
            let world = world();
            let left = deadline.since(self.queue.now());
            self.snapshot.polls += 1;
            world.park(self.socket.key(), Some(world.now() + left));
        }
        self.queue.awake();
    }
}

impl PacketLoop for Loop {
    fn run(self: Box<Self>, host: &mut dyn Host) -> Result<(), DriverError> {
        let (node, watch) = (self.node, self.watch);
        let mut watched = watch(node, host);
        self.go(watched.as_mut());
        Ok(())
    }
}
