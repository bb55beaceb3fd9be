//! Datagrams out: what goes into the next one to a node.

use crate::{
    Instant, NodeId, Output, Payloads, Seq, Storage,
    engine::Engine,
    inlet::Inlet,
    lane::{Lane, Phase},
    link::{Link, due},
    packets::{Content, PacketSlot},
    recv_window::RecvSlot,
    update_window::{MAX_FRAGMENTS, UpdateSlot},
    wire::{Ack, Frame, Header, Nack, PING, RunWriter, Writer},
};

/// Ring slots kept free of updates, so that probes and answers never wait for room.
const RING_RESERVE: usize = 8;

/// A window is sent in so many datagrams at least, as far as they are larger than need be: a loss is
/// found quickly only if others follow it, and the fewer there are the more is lost with one.
const DATAGRAMS: u32 = 32;

impl<S: Storage> Engine<S> {
    /// The next thing to do for one link, if any.
    pub(super) fn poll_link(
        &mut self,
        i: usize,
        now: Instant,
        payloads: &impl Payloads,
        buffer: &mut [u8],
    ) -> Option<Output> {
        let to = NodeId(i as u16);
        let target = self.is_target(i);
        let link = self.links.get_mut(i)?;
        if link.due & due::CONNECT != 0 {
            link.due &= !due::CONNECT;
            return Some(Output::Connect { to });
        }
        if !link.up {
            return None;
        }
        let region = self.regions.get_mut(usize::from(link.region.0))?;
        let mtu = link.path.current();
        let limit = buffer.len().min(usize::from(mtu));
        let room = buffer.len();
        let header = Header {
            from: self.incarnation,
            to: link.peer.unwrap_or(0),
            pn: link.next_pn,
        };
        let mut writer = Writer::new(&mut buffer[..limit], header)?;
        let empty = writer.written();

        let mut acked = link.ack_at.is_some_and(|at| at <= now);
        if acked {
            write_ack(
                &mut writer,
                link,
                &region.inlet,
                now,
                self.timing.max_ack_delay,
            );
        }
        let mut control = write_answers(&mut writer, link, &region.inlet);
        // One datagram at a time tells a sibling what is new; what happens meanwhile is in the next.
        if link.sibling && (link.ring.is_empty() || link.probe) {
            if link.due & due::APPENDED != 0 && writer.push(&Frame::Appended { tail: self.tail }) {
                link.due &= !due::APPENDED;
                control |= due::APPENDED;
            }
            if link.due & due::ACKED != 0 {
                link.due &= !due::ACKED;
                for (r, other) in self.regions.iter().enumerate() {
                    let frame = Frame::Acked {
                        region: other.key,
                        seq: other.lane.acked.seq,
                        clean: other.lane.clean,
                    };
                    let news = link.acked_due >> r & 1 == 1
                        && other.lane.is_held()
                        && other.lane.acked.seq > Seq::ZERO;
                    if news && writer.push(&frame) {
                        control |= due::ACKED;
                    }
                }
                link.acked_due = 0;
            }
        }
        // (the borrow of the own region above ends here; the lane's region is the link's)
        let region = self.regions.get_mut(usize::from(link.region.0))?;
        let lane = &mut region.lane;
        let mut content = Content::None;
        let mut search = None;
        if target {
            if link.due & due::HELLO != 0 && lane.phase == Phase::Opening {
                let hello = Frame::Hello {
                    token: lane.token,
                    epoch: self.epoch,
                    tail: self.tail,
                };
                if writer.push(&hello) {
                    link.due &= !due::HELLO;
                    control |= due::HELLO;
                    lane.hello_at = Some(now.after(self.timing.retry.max));
                }
            }
            if lane.phase == Phase::Streaming {
                let window = self.timing.congestion.window();
                let blocked = if link.probe {
                    false
                } else if link.in_flight + u64::from(mtu) > u64::from(window)
                    || link.ring.room() <= RING_RESERVE
                {
                    true
                } else {
                    let rtt = link.rtt.smoothed().unwrap_or(self.timing.retry.initial);
                    let wait = link.pacer.check(now, window, rtt, mtu);
                    link.pace_at = None;
                    if let Some(at) = wait
                        && has_data(lane, self.tail)
                    {
                        link.pace_at = Some(at);
                    }
                    wait.is_some()
                };
                if !blocked && control == 0 && !link.probe {
                    search = link
                        .path
                        .wants(now)
                        .filter(|size| usize::from(*size) <= room);
                }
                if !blocked && search.is_none() {
                    let limits = Limits {
                        tail: self.tail,
                        chunk: self.chunk,
                        max_update: self.max_update,
                        base: self.timing.mtu,
                        share: self.window / DATAGRAMS,
                    };
                    content = write_data(&mut writer, lane, &limits, payloads, header.pn);
                }
            }
        }
        if let Content::Run { .. } = content {
            link.path.note_used(writer.written());
        }
        if content != Content::None && lane.progress_at.is_none() {
            lane.progress_at = Some(now.after(self.apply_timeout));
        }
        let nothing = control == 0 && content == Content::None;
        // The first thing an unknown incarnation hears has to introduce this one.
        let introduce = link.peer.is_none() && !nothing && control & due::HELLO == 0;
        let ping =
            link.due & due::PING != 0 || link.probe && nothing || introduce || search.is_some();
        if ping && writer.push(&Frame::Ping) {
            control |= due::PING;
            link.due &= !due::PING;
        }
        if writer.written() == empty {
            return None;
        }
        if !acked && link.waiting > 0 {
            acked = write_ack(
                &mut writer,
                link,
                &region.inlet,
                now,
                self.timing.max_ack_delay,
            );
        }
        if acked {
            link.ack_sent();
        }
        let mut len = writer.written();
        if let Some(size) = search {
            link.path.probed(header.pn, size, now);
            let filling = buffer.get_mut(len..usize::from(size)).unwrap_or_default();
            filling.fill(PING);
            len += filling.len();
        }
        link.next_pn += 1;
        if control != 0 || content != Content::None {
            link.probe = false;
            let slot = PacketSlot::new(header.pn, now, len as u16, content, lane.token, control);
            if let Some(evicted) = link.note_sent(slot, now) {
                self.content_lost(i, &evicted);
            }
        }
        Some(Output::Transmit { to, len })
    }
}

/// ACK, and with it everything that is wrong with the stream of the other side, so that a lost
/// complaint is repeated by the next answer.
fn write_ack<P, R>(
    writer: &mut Writer<'_>,
    link: &mut Link<P>,
    inlet: &Inlet<R>,
    now: Instant,
    max_ack_delay: core::time::Duration,
) -> bool
where
    P: AsRef<[PacketSlot]> + AsMut<[PacketSlot]>,
    R: AsRef<[RecvSlot]> + AsMut<[RecvSlot]>,
{
    let delay = link.largest_at.map_or(0, |at| {
        u32::try_from(now.since(at).as_micros()).unwrap_or(u32::MAX)
    });
    let progress = if link.sibling { None } else { inlet.progress() };
    let Some(ack) = Ack::new(&link.received, delay, progress) else {
        // Nothing that came in could be kept, which is worth saying.
        if link.gap {
            let need = inlet.position.map_or(Seq::ZERO, |p| p.seq.next());
            let _next_time = writer.push(&Frame::Nack(Nack::Gap { need }));
        }
        link.ack_sent();
        return true;
    };
    if !writer.push(&Frame::Ack(ack)) {
        return false;
    }
    if link.sibling {
        return true;
    }
    if let Some(nack) = inlet.complaint(now) {
        let _next_time = writer.push(&Frame::Nack(nack));
    }
    if link.gap {
        let need = inlet.position.map_or(Seq::ZERO, |p| p.seq.next());
        let _next_time = writer.push(&Frame::Nack(Nack::Gap { need }));
    } else if inlet
        .gap_since
        .is_some_and(|at| at.after(max_ack_delay) <= now)
        && let Some((from, to)) = inlet.window.gap()
    {
        let _next_time = writer.push(&Frame::Nack(Nack::Missing { from, to }));
    }
    true
}

/// Answers of the inlet: `Welcome`, refusals, and confirmations of the other side's refusals.
fn write_answers<P, R>(writer: &mut Writer<'_>, link: &mut Link<P>, inlet: &Inlet<R>) -> u8
where
    P: AsRef<[PacketSlot]> + AsMut<[PacketSlot]>,
    R: AsRef<[RecvSlot]> + AsMut<[RecvSlot]>,
{
    let mut control = 0;
    if link.due & due::WELCOME != 0 {
        match (link.hello, inlet.position) {
            (Some((token, _)), Some(position)) => {
                let welcome = Frame::Welcome {
                    token,
                    position,
                    clean: inlet.clean.min(position.seq),
                    credit: inlet.credit(),
                };
                if writer.push(&welcome) {
                    link.due &= !due::WELCOME;
                    control |= due::WELCOME;
                }
            }
            _ => link.due &= !due::WELCOME,
        }
    }
    if link.due & due::REFUSED != 0 {
        link.due &= !due::REFUSED;
        if link.hello.is_some_and(|(_, epoch)| epoch == inlet.epoch) {
            for refusal in inlet.untold.to_tell() {
                if writer.push(&Frame::Nack(Nack::Refused(*refusal))) {
                    control |= due::REFUSED;
                }
            }
        }
    }
    while let Some(&(epoch, seq)) = link.refused_acks.last() {
        if !writer.push(&Frame::RefusedAck { epoch, seq }) {
            break;
        }
        link.refused_acks.pop();
    }
    control
}

/// What bounds the updates of a datagram.
struct Limits {
    tail: Seq,
    chunk: u16,
    max_update: u32,
    /// Lengths above `base` are for datagrams of at most so many updates.
    base: u16,
    share: u32,
}

fn has_data<U: AsRef<[UpdateSlot]> + AsMut<[UpdateSlot]>>(lane: &Lane<U>, tail: Seq) -> bool {
    lane.window.first_pending().is_some()
        || lane.window.next() <= tail && lane.window.fits(0, lane.credit.updates, lane.credit.bytes)
}

/// Updates into the datagram: what was lost first, then what is new; one contiguous run, or one
/// piece of a large update.
fn write_data<U: AsRef<[UpdateSlot]> + AsMut<[UpdateSlot]>>(
    writer: &mut Writer<'_>,
    lane: &mut Lane<U>,
    limits: &Limits,
    payloads: &impl Payloads,
    pn: u64,
) -> Content {
    let pending = lane.window.first_pending();
    let seq = match pending {
        Some(seq) => seq,
        None if has_data(lane, limits.tail) => lane.window.next(),
        None => return Content::None,
    };
    let Some(bytes) = payloads.get(seq) else {
        lane.fetch = Some(seq);
        return Content::None;
    };
    let large = bytes.len() > usize::from(limits.chunk);
    if !large {
        return write_run(writer, lane, limits, payloads, seq, pn);
    }
    if bytes.len() > limits.max_update as usize {
        // The host has let an update pass that does not fit; only the direct path can carry it.
        lane.fetch = Some(seq);
        return Content::None;
    }
    if pending.is_none() {
        if !lane
            .window
            .fits(bytes.len(), lane.credit.updates, lane.credit.bytes)
        {
            return Content::None;
        }
        let pieces = bytes
            .len()
            .div_ceil(usize::from(limits.chunk))
            .min(MAX_FRAGMENTS);
        lane.window.open(bytes.len(), pn, pieces as u16);
        lane.counters.sent += 1;
    }
    let Some(index) = lane.window.next_piece(seq) else {
        return Content::None;
    };
    let start = usize::from(index) * usize::from(limits.chunk);
    let end = bytes.len().min(start + usize::from(limits.chunk));
    let piece = Frame::Fragment {
        seq,
        total: bytes.len() as u32,
        chunk: limits.chunk,
        index,
        bytes: bytes.get(start..end).unwrap_or_default(),
    };
    if !writer.push(&piece) {
        return Content::None;
    }
    if lane.window.send_piece(seq, index) {
        lane.counters.retransmits += 1;
    }
    Content::Fragment { seq, index }
}

/// As many small updates from `first` on as fit.
fn write_run<U: AsRef<[UpdateSlot]> + AsMut<[UpdateSlot]>>(
    writer: &mut Writer<'_>,
    lane: &mut Lane<U>,
    limits: &Limits,
    payloads: &impl Payloads,
    first: Seq,
    pn: u64,
) -> Content {
    let before = writer.written();
    let Some(mut run) = RunWriter::new(writer.rest(), first) else {
        return Content::None;
    };
    let mut count: u16 = 0;
    let mut seq = first;
    while count < u16::MAX {
        let again = lane.window.is_pending_whole(seq);
        let fresh = seq == lane.window.next() && seq <= limits.tail;
        if !again && !fresh {
            break;
        }
        let Some(bytes) = payloads.get(seq) else {
            lane.fetch = Some(seq);
            break;
        };
        if bytes.len() > usize::from(limits.chunk)
            || fresh
                && !lane
                    .window
                    .fits(bytes.len(), lane.credit.updates, lane.credit.bytes)
            || u32::from(count) >= limits.share
                && before + run.len() + bytes.len() + 2 > usize::from(limits.base)
            || !run.push(bytes)
        {
            break;
        }
        if fresh {
            lane.window.open(bytes.len(), pn, 0);
            lane.counters.sent += 1;
        } else {
            lane.window.resend(seq, pn);
            lane.counters.retransmits += 1;
        }
        count += 1;
        seq = seq.next();
    }
    if count == 0 {
        return Content::None;
    }
    let len = run.finish();
    writer.advance(len);
    Content::Run { first, count }
}
