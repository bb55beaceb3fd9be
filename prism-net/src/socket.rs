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
    bytes: Vec<u8>,
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
    runs: Vec<Run>,
    spare: Vec<Vec<u8>>,
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
            runs: Vec::with_capacity(OPEN),
            spare: (0..OPEN).map(|_| Vec::with_capacity(RUN)).collect(),
            errors: 0,
            syscalls: 0,
        })
    }

    /// One system call's worth of datagrams. False: there is nothing more for now.
    pub(crate) fn receive(&mut self, mut handle: impl FnMut(SocketAddr, &[u8])) -> bool {
        let mut meta = [RecvMeta::default(); BUFFERS];
        let mut chunks = self.incoming.chunks_exact_mut(RUN);
        let mut buffers: [IoSliceMut<'_>; BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        self.syscalls += 1;
        let (io, state) = (&self.io, &self.state);
        let count = match io.try_io(|| state.recv(io.into(), &mut buffers, &mut meta)) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => {
                // Some systems report an ICMP answer to an earlier datagram here. It has been
                // taken off the socket by this call.
                self.errors += 1;
                return true;
            }
        };
        for (meta, run) in meta[..count].iter().zip(self.incoming.chunks_exact(RUN)) {
            let run = &run[..meta.len.min(RUN)];
            // An empty datagram is one too: it counts as received and is dropped above.
            if run.is_empty() {
                handle(meta.addr, run);
            }
            for datagram in run.chunks(meta.stride.max(1)) {
                handle(meta.addr, datagram);
            }
        }
        true
    }

    /// Adds a datagram to the run of its receiver.
    pub(crate) fn push(&mut self, to: SocketAddr, datagram: &[u8]) -> Sent {
        let limit = self.state.max_gso_segments();
        let found = self.runs.iter().position(|run| run.to == to);
        if let Some(at) = found {
            let run = &mut self.runs[at];
            let fits = run.count < limit
                && datagram.len() <= run.segment
                && run.bytes.len() == run.count * run.segment
                && run.bytes.len() + datagram.len() <= LARGEST_RUN;
            if fits {
                run.count += 1;
                run.bytes.extend_from_slice(datagram);
                return Sent::Done;
            }
        }
        let blocked = match found {
            Some(at) => self.flush_run(at),
            None if self.runs.len() == OPEN => self.flush_run(0),
            None => Sent::Done,
        };
        if blocked == Sent::Blocked {
            // There is no room to keep it: lost, as on any full queue on its way.
            self.errors += 1;
            return blocked;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(datagram);
        self.runs.push(Run {
            to,
            segment: datagram.len(),
            count: 1,
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
        let whole = self.send(run.to, &run.bytes, (run.count > 1).then_some(run.segment));
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
        for datagram in run.bytes.chunks(run.segment) {
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
