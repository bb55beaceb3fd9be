//! The UDP socket: batches of datagrams in and out.
//!
//! Buffers: receive 8 x 64 KiB (one coalesced run of datagrams each), send up to [`OPEN`] runs of
//! 64 KiB. The kernel's own receive buffer is asked for [`RECEIVE_BUFFER`]; it must hold what
//! arrives while the loop does something else, and a full window of one lane is the measure.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use mio::net::UdpSocket;
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};

/// Asked of the kernel; it may give less (net.core.rmem_max).
const RECEIVE_BUFFER: usize = 4 << 20;
const SEND_BUFFER: usize = 2 << 20;
/// Receive buffers of one system call.
const BUFFERS: usize = 8;
/// Largest run of datagrams that the kernel hands over as one (an IP packet's length).
const RUN: usize = 1 << 16;
/// Runs that are being filled, one per receiver.
const OPEN: usize = 8;
/// Longest payload of a run that the kernel splits: an IPv4 packet without its headers.
const LARGEST_RUN: usize = 65_507;

/// Datagrams of one length (the last may be shorter) to one receiver.
#[derive(Debug)]
struct Run {
    to: SocketAddr,
    segment: usize,
    count: usize,
    len: usize,
    /// [`RUN`] bytes, of which `len` are to be sent.
    bytes: Vec<u8>,
}

impl Run {
    /// Whether it can go on with a datagram of this length.
    fn takes(&self, len: usize, most: usize) -> bool {
        self.count < most
            && len <= self.segment
            && self.len == self.count * self.segment
            && self.len + len <= LARGEST_RUN
    }
}

/// Where the next datagram is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind the last run, which most probably it belongs to.
    Tail,
    /// At the beginning of the next spare buffer.
    Spare,
}

/// What stands in the way of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Done,
    /// The kernel's buffer is full; flush again when the socket is writable.
    Blocked,
}

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) io: UdpSocket,
    state: UdpSocketState,
    incoming: Vec<u8>,
    /// Of the runs in `incoming`: how many there are, and how many have been handled.
    meta: [RecvMeta; BUFFERS],
    arrived: usize,
    handled: usize,
    /// There was nothing behind them.
    drained: bool,
    runs: Vec<Run>,
    /// Never empty. [`RUN`] bytes each.
    spare: Vec<Vec<u8>>,
    place: Place,
    pub(crate) errors: u64,
    pub(crate) syscalls: u64,
}

impl Socket {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let io = UdpSocket::bind(address)?;
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        // Less than asked for costs speed, not correctness.
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&io), RECEIVE_BUFFER);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&io), SEND_BUFFER);
        Ok(Self {
            io,
            state,
            incoming: vec![0; BUFFERS * RUN],
            meta: [RecvMeta::default(); BUFFERS],
            arrived: 0,
            handled: 0,
            drained: false,
            runs: Vec::with_capacity(OPEN),
            spare: (0..=OPEN).map(|_| vec![0; RUN]).collect(),
            place: Place::Spare,
            errors: 0,
            syscalls: 0,
        })
    }

    /// The next run of datagrams; its bytes. `None`: there is nothing more for now, and the next one
    /// that arrives will be announced.
    pub(crate) fn receive(&mut self, mut handle: impl FnMut(SocketAddr, &[u8])) -> Option<usize> {
        if self.handled == self.arrived {
            if std::mem::take(&mut self.drained) {
                return None;
            }
            if let Err(error) = self.fetch() {
                if error.kind() == io::ErrorKind::WouldBlock {
                    return None;
                }
                // Some systems report an ICMP answer to an earlier datagram here. It has been
                // taken off the socket by this call.
                self.errors += 1;
                return Some(0);
            }
        }
        let at = self.handled;
        self.handled += 1;
        let meta = self.meta.get(at)?;
        let run = self.incoming.chunks_exact(RUN).nth(at)?;
        let run = &run[..meta.len.min(RUN)];
        // An empty datagram is one too: it counts as received and is dropped above.
        if run.is_empty() {
            handle(meta.addr, run);
        }
        for datagram in run.chunks(meta.stride.max(1)) {
            handle(meta.addr, datagram);
        }
        Some(run.len())
    }

    /// One system call's worth of runs.
    fn fetch(&mut self) -> io::Result<()> {
        let mut chunks = self.incoming.chunks_exact_mut(RUN);
        let mut buffers: [IoSliceMut<'_>; BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        self.syscalls += 1;
        (self.arrived, self.handled) = (0, 0);
        let (io, state, meta) = (&self.io, &self.state, &mut self.meta);
        self.arrived = io.try_io(|| state.recv(io.into(), &mut buffers, meta))?;
        // Linux: a call that does not fill its buffers has emptied the queue (recvmmsg(2)), and epoll
        // announces whatever comes after that (edge-triggered). Elsewhere only an error tells.
        self.drained = cfg!(target_os = "linux") && self.arrived < BUFFERS;
        Ok(())
    }

    /// Room for one datagram of at most `len` bytes, to be [`push`](Self::push)ed: where it can stay,
    /// if it goes where the one before has gone.
    pub(crate) fn room(&mut self, len: usize) -> &mut [u8] {
        match self.runs.last_mut() {
            Some(run) if run.len + len <= run.bytes.len() => {
                self.place = Place::Tail;
                &mut run.bytes[run.len..run.len + len]
            }
            _ => {
                self.place = Place::Spare;
                let spare = self.spare.last_mut().map(Vec::as_mut_slice);
                spare
                    .and_then(|room| room.get_mut(..len))
                    .unwrap_or_default()
            }
        }
    }

    /// Adds the datagram that was written into the [`room`](Self::room) to the run of its receiver.
    pub(crate) fn push(&mut self, to: SocketAddr, len: usize) -> Sent {
        let most = self.state.max_gso_segments();
        let found = self.runs.iter().position(|run| run.to == to);
        if self.place == Place::Tail
            && let (Some(last), Some(spare)) = (self.runs.last_mut(), self.spare.last_mut())
        {
            if last.to == to && last.takes(len, most) {
                last.count += 1;
                last.len += len;
                return Sent::Done;
            }
            spare[..len].copy_from_slice(&last.bytes[last.len..last.len + len]);
        }
        if let Some(run) = found.map(|at| &mut self.runs[at])
            && run.takes(len, most)
            && let Some(spare) = self.spare.last()
        {
            run.bytes[run.len..run.len + len].copy_from_slice(&spare[..len]);
            run.count += 1;
            run.len += len;
            return Sent::Done;
        }
        // Its run has to go first; that gives back a buffer, so this one can be taken.
        let bytes = self.spare.pop().unwrap_or_default();
        let blocked = match found {
            Some(at) => self.flush_run(at),
            None if self.runs.len() == OPEN => self.flush_run(0),
            None => Sent::Done,
        };
        if blocked == Sent::Blocked {
            // There is no room to keep it: lost, as on any full queue on its way.
            self.errors += 1;
            self.spare.push(bytes);
            return blocked;
        }
        self.runs.push(Run {
            to,
            segment: len,
            count: 1,
            len,
            bytes,
        });
        Sent::Done
    }

    /// Sends all open runs.
    pub(crate) fn flush(&mut self) -> Sent {
        while !self.runs.is_empty() {
            if self.flush_run(0) == Sent::Blocked {
                return Sent::Blocked;
            }
        }
        Sent::Done
    }

    /// Gives up what could not be sent.
    pub(crate) fn discard(&mut self) {
        while let Some(run) = self.runs.pop() {
            self.errors += run.count as u64;
            self.spare.push(run.bytes);
        }
    }

    fn flush_run(&mut self, at: usize) -> Sent {
        let run = &self.runs[at];
        let whole = self.send(
            run.to,
            &run.bytes[..run.len],
            (run.count > 1).then_some(run.segment),
        );
        self.syscalls += 1;
        match whole {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Blocked,
            Err(_) if self.runs[at].count > 1 => self.send_singly(at),
            Err(_) => self.errors += 1,
            Ok(()) => {}
        }
        let run = self.runs.swap_remove(at);
        self.spare.push(run.bytes);
        Sent::Done
    }

    /// The kernel or the network card has refused the run as a whole (quinn-udp does not offer runs
    /// any more then): datagram by datagram, and what is refused as well is lost.
    fn send_singly(&mut self, at: usize) {
        let run = &self.runs[at];
        let mut errors = 0;
        for datagram in run.bytes[..run.len].chunks(run.segment) {
            if self.send(run.to, datagram, None).is_err() {
                errors += 1;
            }
        }
        self.syscalls += run.count as u64;
        self.errors += errors;
    }

    fn send(&self, to: SocketAddr, contents: &[u8], segment: Option<usize>) -> io::Result<()> {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size: segment,
            src_ip: None,
        };
        let (io, state) = (&self.io, &self.state);
        io.try_io(|| state.try_send(io.into(), &transmit))
    }
}

#[cfg(test)]
mod tests;
