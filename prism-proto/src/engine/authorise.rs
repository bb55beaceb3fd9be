//! Who may say what. Sessions prove which node a datagram is from, and the node's region decides
//! what it may speak of:
//!
//! | frame | speaks of | from |
//! | --- | --- | --- |
//! | `Hello`, `Updates`, `Fragment`, `RefusedAck` | the sender's stream | other regions |
//! | `Welcome`, `Nack`, `Ack` with progress | the sender's database in our stream | other regions |
//! | `Appended`, `Acked` | the common stream | siblings |
//! | `Ping`, `Ack` without progress | packets between the two | everybody |
//!
//! No frame carries a stream's name: that of the sender's region is the only one that it can send,
//! ours the only one that it can judge. What is left to check is here, before any frame of a
//! datagram takes effect.

use crate::{
    Storage, Violation,
    engine::Engine,
    wire::{Frame, Header},
};

impl<S: Storage> Engine<S> {
    /// What a frame of the node behind link `i` claims without any right to.
    pub(super) fn violation(
        &self,
        i: usize,
        header: &Header,
        frame: &Frame<'_>,
    ) -> Option<Violation> {
        let link = &self.links[i];
        match frame {
            Frame::Ping => None,
            Frame::Ack(ack) => {
                let ours = header.to == 0 || header.to == self.incarnation;
                if link.sibling && ack.progress.is_some() {
                    Some(Violation::Judgement)
                } else {
                    // An ACK of packets that were never sent would have updates forgotten unseen
                    // (optimistic ACK, RFC 9000 21.4).
                    (ours && ack.largest >= link.next_pn).then_some(Violation::NeverSent)
                }
            }
            Frame::Hello { .. }
            | Frame::Updates { .. }
            | Frame::Fragment { .. }
            | Frame::RefusedAck { .. } => link.sibling.then_some(Violation::Stream),
            Frame::Welcome { .. } | Frame::Nack(_) => link.sibling.then_some(Violation::Judgement),
            Frame::Appended { .. } => (!link.sibling).then_some(Violation::News),
            Frame::Acked { region, .. } => {
                if !link.sibling {
                    return Some(Violation::News);
                }
                // A region that this side does not know (yet) is no offence.
                let own = self.regions[usize::from(self.region.0)].key;
                (*region == own).then_some(Violation::OwnRegion)
            }
        }
    }
}
