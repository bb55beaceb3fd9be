//! The loop: socket, command queue and clock around an [`Endpoint`].

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token, Waker};
use prism_proto::Instant;

use crate::endpoint::{Endpoint, Step};
use crate::handle::{Commands, Handle, commands};
use crate::host::{Command, Host, Snapshot};
use crate::socket::{Sent, Socket};

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

/// What one source may take of a round before the others have their turn.
const COMMANDS: usize = 256;
/// In bytes, one long run (seven datagrams of the largest size): what was received before it is
/// acknowledged, and handed over to be applied, before the next one is looked at. A longer share would
/// be an emptier pipe, and more small updates than one apply takes; a shorter one wakes the other end,
/// and the worker that applies, more often than they need it.
const RECEIVES: usize = 60 << 10;
const TRANSMITS: usize = 512;

/// Figures go to the host this often.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(1);
/// A socket that takes nothing for so long: its datagrams count as lost, so that timers and
/// outputs that have nothing to do with the network go on.
const BLOCKED_FOR: Duration = Duration::from_millis(50);

/// Why the socket could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The cluster has no keys, so packets are neither encrypted nor authenticated.
    #[error(
        "refusing to bind {0}: the cluster has no keys, so packets are not encrypted and only \
         loopback addresses such as 127.0.0.1:{port} are allowed; give the cluster a psk_file and \
         every node a public_key (`prism keygen` makes keys)", port = .0.port()
    )]
    NotLoopback(SocketAddr),
    /// Somebody has the port.
    #[error(
        "the UDP address {0} is in use: most likely another node with this name is running; \
         stop it, or give this node another address in the configuration"
    )]
    InUse(SocketAddr),
    /// Anything else.
    #[error("cannot use the UDP address {address}: {source}; check that this machine has it")]
    Io {
        /// What was to be bound.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// Why the loop ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The system's event queue failed.
    #[error("the network loop cannot wait for events: {0}; restart the node")]
    Poll(#[source] io::Error),
}

/// Owns the socket and the thread it runs on.
#[derive(Debug)]
pub struct Driver {
    endpoint: Endpoint,
    socket: Socket,
    poll: Poll,
    queue: Commands,
    snapshot: Snapshot,
    /// Edge-triggered: true until the socket has said that there is no more.
    readable: bool,
    blocked_since: Option<Instant>,
}

impl Driver {
    /// Binds the socket. `queue` commands of other threads find room.
    ///
    /// # Errors
    /// [`BindError`] says what to do.
    pub fn bind(
        endpoint: Endpoint,
        bind: SocketAddr,
        queue: usize,
    ) -> Result<(Self, Handle), BindError> {
        if !endpoint.is_sealed() && !bind.ip().to_canonical().is_loopback() {
            return Err(BindError::NotLoopback(bind));
        }
        Self::bind_anywhere(endpoint, bind, queue).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(bind),
            _ => BindError::Io {
                address: bind,
                source,
            },
        })
    }

    fn bind_anywhere(
        endpoint: Endpoint,
        bind: SocketAddr,
        capacity: usize,
    ) -> io::Result<(Self, Handle)> {
        let mut socket = Socket::bind(bind)?;
        let poll = Poll::new()?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut socket.io, SOCKET, interest)?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let (queue, handle) = commands(capacity, Box::new(waker));
        let driver = Self {
            endpoint,
            socket,
            poll,
            queue,
            snapshot: Snapshot::default(),
            readable: true,
            blocked_since: None,
        };
        Ok((driver, handle))
    }

    /// The address of the socket (useful after binding port 0).
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.io.local_addr()
    }

    fn now(&self) -> Instant {
        self.queue.now()
    }

    /// Runs until [`Command::Stop`].
    ///
    /// A round takes a bounded share of commands, datagrams and outputs; only when a whole round
    /// found nothing left does the loop sleep.
    ///
    /// # Errors
    /// [`DriverError`] if the system's event queue fails.
    pub fn run(mut self, host: &mut (impl Host + ?Sized)) -> Result<(), DriverError> {
        let mut events = Events::with_capacity(8);
        let mut snapshot_at = self.now();
        loop {
            let more_commands = match self.commands(host) {
                Some(more) => more,
                None => return Ok(()),
            };
            let more_datagrams = self.datagrams();
            let now = self.now();
            if now >= snapshot_at {
                snapshot_at = now.after(SNAPSHOT_EVERY);
                self.report(host);
            }
            let deadline = self.outputs(now, host);
            let Some(deadline) = deadline.filter(|_| !more_commands && !more_datagrams) else {
                continue;
            };
            let deadline = deadline.map_or(snapshot_at, |deadline| deadline.min(snapshot_at));
            self.sleep(&mut events, deadline)?;
        }
    }

    /// Handles waiting commands. `None`: stop; otherwise whether there may be more.
    fn commands(&mut self, host: &mut (impl Host + ?Sized)) -> Option<bool> {
        let now = self.now();
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

    /// Handles waiting datagrams. True: there may be more.
    fn datagrams(&mut self) -> bool {
        if !self.readable {
            return false;
        }
        let now = self.now();
        let mut taken = 0;
        while taken < RECEIVES {
            let endpoint = &mut self.endpoint;
            let run = self.socket.receive(|from, datagram| {
                endpoint.handle_datagram(now, from, datagram);
            });
            let Some(bytes) = run else {
                self.readable = false;
                return false;
            };
            // (errors and empty datagrams are not free either)
            taken += bytes.max(256);
        }
        true
    }

    /// Does what the endpoint wants. `None`: there is more to do; otherwise until when to sleep.
    fn outputs(
        &mut self,
        now: Instant,
        host: &mut (impl Host + ?Sized),
    ) -> Option<Option<Instant>> {
        if let Some(since) = self.blocked_since {
            if self.socket.flush() == Sent::Blocked {
                if now.since(since) < BLOCKED_FOR {
                    return Some(Some(since.after(BLOCKED_FOR)));
                }
                self.socket.discard();
            }
            self.blocked_since = None;
        }
        for _ in 0..TRANSMITS {
            let room = self.socket.room(self.endpoint.max_datagram());
            match self.endpoint.poll(now, host, room) {
                Step::Transmit { to, len } => {
                    if self.socket.push(to, len) == Sent::Blocked {
                        self.blocked_since = Some(now);
                        return Some(Some(now.after(BLOCKED_FOR)));
                    }
                }
                Step::Wait { deadline, .. } => {
                    if self.socket.flush() == Sent::Blocked {
                        self.blocked_since = Some(now);
                        return Some(Some(now.after(BLOCKED_FOR)));
                    }
                    return Some(deadline);
                }
            }
        }
        if self.socket.flush() == Sent::Blocked {
            self.blocked_since = Some(now);
        }
        None
    }

    fn report(&mut self, host: &mut (impl Host + ?Sized)) {
        self.endpoint.fill(&mut self.snapshot);
        self.snapshot.send_errors = self.socket.errors;
        self.snapshot.syscalls = self.socket.syscalls;
        host.snapshot(&self.snapshot);
    }

    fn sleep(&mut self, events: &mut Events, deadline: Instant) -> Result<(), DriverError> {
        if !self.queue.sleep() {
            return Ok(());
        }
        // The system's timer counts milliseconds and mio rounds up: never early, so a deadline
        // below a millisecond does not become a busy loop; at most one millisecond late, which
        // whatever arrives meanwhile cuts short.
        let timeout = deadline.since(self.now());
        self.snapshot.polls += 1;
        let result = self.poll.poll(events, Some(timeout));
        self.queue.awake();
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(DriverError::Poll(error)),
            Ok(()) => {}
        }
        for event in events.iter() {
            if event.token() == SOCKET {
                // An error is fetched by the next receive.
                self.readable |= event.is_readable() || event.is_error();
            }
        }
        Ok(())
    }
}
