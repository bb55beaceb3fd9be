//! What happens when an action's time has come: datagrams, sessions, and the databases' answers.

use prism_proto::*;

use super::{Action, MS, SEC, Sim, at};

impl Sim {
    pub(super) fn act(&mut self, action: Action) {
        let now = at(self.now);
        match action {
            Action::Datagram {
                from,
                to,
                session,
                bytes,
            } => {
                let node = &mut self.nodes[to];
                // The one who opened it may be either; both lives count.
                let known = node.sessions.get(&from).copied();
                if node.alive && known == Some((session.1, session.0)) {
                    node.engine
                        .handle_datagram(now, NodeId(from as u16), &bytes, &mut node.inbox);
                    self.drain(to);
                }
            }
            Action::Handshake { from, to } => {
                if !self.nodes[to].alive {
                    return;
                }
                let session = (self.nodes[to].life, self.nodes[from].life);
                self.nodes[to].sessions.insert(from, session);
                if !self.lost(to, from) {
                    let d = self.delay();
                    self.schedule(
                        d,
                        Action::HandshakeBack {
                            from: to,
                            to: from,
                            session,
                        },
                    );
                }
                self.tell(
                    to,
                    Event::NodeUp {
                        node: NodeId(from as u16),
                    },
                );
            }
            Action::HandshakeBack { from, to, session } => {
                if self.nodes[to].alive && self.nodes[to].life == session.1 {
                    self.nodes[to].sessions.insert(from, (session.1, session.0));
                    self.tell(
                        to,
                        Event::NodeUp {
                            node: NodeId(from as u16),
                        },
                    );
                }
            }
            Action::Tell { node, life, event } => {
                if self.nodes[node].life == life {
                    self.tell(node, event);
                }
            }
            Action::Fetch {
                node,
                life,
                from,
                to,
            } => {
                if self.nodes[node].life != life {
                    return;
                }
                let db = &self.dbs[self.nodes[node].region];
                let mut upto = from - 1;
                if db.up {
                    for seq in (from..=to).take(self.fetch_limit as usize) {
                        if self.unreadable.contains(&seq) {
                            break;
                        }
                        if let Some((_, payload)) = db.outbox.get(seq as usize - 1) {
                            self.nodes[node].memory.map.insert(seq, payload.clone());
                            upto = seq;
                        }
                    }
                }
                self.tell(node, Event::Fetched { upto: Seq(upto) });
            }
            Action::Verify {
                node,
                life,
                peer,
                position,
            } => {
                if self.nodes[node].life != life {
                    return;
                }
                let db = &self.dbs[self.nodes[node].region];
                let verdict = if !db.up {
                    Verdict::Unknown
                } else if position.seq == Seq::ZERO {
                    Verdict::Matches
                } else if position.epoch != db.epoch
                    || db.outbox.get(position.seq.0 as usize - 1).map(|o| o.0) != Some(position.tag)
                {
                    Verdict::Forked
                } else {
                    Verdict::Matches
                };
                self.tell(
                    node,
                    Event::Verified {
                        peer: RegionId(peer),
                        position,
                        verdict,
                    },
                );
            }
            Action::Read { node, life, stream } => {
                if self.nodes[node].life != life {
                    return;
                }
                let epoch = self.dbs[usize::from(stream)].epoch;
                let db = &self.dbs[self.nodes[node].region];
                let stream = RegionId(stream);
                let event = if db.up {
                    let event = Event::Position {
                        stream,
                        position: db.position(stream.0, epoch),
                        clean: db.clean(stream.0),
                    };
                    self.tell_refusals(node, stream.0);
                    event
                } else {
                    Event::ApplyFailed {
                        stream,
                        cause: ApplyCause::Unreachable,
                        retry_at: at(self.now + SEC),
                    }
                };
                self.tell(node, event);
            }
            Action::Apply {
                node,
                life,
                stream,
                epoch,
                from,
                batch,
            } => {
                let region = self.nodes[node].region;
                let event = self.apply(region, stream, epoch, from, &batch);
                if self.nodes[node].life != life {
                    // Committed by a process that did not live to say so.
                    return;
                }
                if matches!(event, Event::Applied { .. }) {
                    self.tell_refusals(node, stream);
                }
                self.tell(node, event);
            }
            Action::Direct {
                node,
                life,
                peer,
                upto,
            } => {
                let r = self.nodes[node].region;
                let epoch = self.dbs[r].epoch;
                let reachable =
                    self.dbs[usize::from(peer)].up && self.dbs[usize::from(peer)].direct_up;
                let id = RegionId(peer);
                if !reachable {
                    if self.nodes[node].life == life {
                        self.tell(
                            node,
                            Event::DirectFailed {
                                peer: id,
                                why: DirectFailure::Unreachable,
                            },
                        );
                    }
                    return;
                }
                let done = self.applied(usize::from(peer), r);
                self.directs += 1;
                let upto = if self.direct_idle { done } else { upto };
                let batch: Vec<Vec<u8>> = (done + 1..=upto)
                    .take(100)
                    .map(|seq| self.dbs[r].outbox[seq as usize - 1].1.clone())
                    .collect();
                self.dbs[usize::from(peer)].direct_rows += batch.len() as u64;
                let event = self.apply(usize::from(peer), r as u16, epoch, done + 1, &batch);
                let event = match event {
                    Event::Applied { position, .. } => {
                        // It sees to what is refused there before it says how far it got.
                        for refusal in self.dbs[usize::from(peer)].untold(r as u16) {
                            if self.dbs[r].up {
                                let seq = refusal.seq.0;
                                self.dbs[r].handled.insert((peer, seq));
                                let there = &mut self.dbs[usize::from(peer)].rejected;
                                there.insert((r as u16, seq), (refusal.epoch, true));
                            }
                        }
                        Event::DirectDone {
                            peer: id,
                            position,
                            clean: self.dbs[usize::from(peer)].clean(r as u16),
                        }
                    }
                    _ => Event::DirectFailed {
                        peer: id,
                        why: DirectFailure::Busy,
                    },
                };
                if self.nodes[node].life == life {
                    self.tell(node, event);
                }
            }
            Action::Handle {
                node,
                life,
                peer,
                seq,
            } => {
                let r = self.nodes[node].region;
                // With its database away it does nothing; it is told again.
                if self.nodes[node].life == life && self.dbs[r].up {
                    let first = self.dbs[r].handled.insert((peer, seq));
                    self.handled_again += u64::from(!first);
                    self.tell(
                        node,
                        Event::RefusalHandled {
                            peer: RegionId(peer),
                            seq: Seq(seq),
                        },
                    );
                }
            }
            Action::Told {
                node,
                life,
                stream,
                seq,
            } => {
                let r = self.nodes[node].region;
                if self.nodes[node].life != life {
                    return;
                }
                if !self.dbs[r].up {
                    let stream = RegionId(stream);
                    return self.tell(node, Event::PositionOld { stream });
                }
                if let Some((_, told)) = self.dbs[r].rejected.get_mut(&(stream, seq)) {
                    *told = true;
                }
                self.tell_refusals(node, stream);
                self.tell(
                    node,
                    Event::Clean {
                        stream: RegionId(stream),
                        clean: self.dbs[r].clean(stream),
                    },
                );
            }
        }
    }

    /// What an inlet worker does before it says where the stream is.
    fn tell_refusals(&mut self, node: usize, stream: u16) {
        for refusal in self.dbs[self.nodes[node].region].untold(stream) {
            self.tell(
                node,
                Event::Refused {
                    stream: RegionId(stream),
                    refusal,
                },
            );
        }
    }

    /// One transaction: the watermark decides.
    fn apply(
        &mut self,
        region: usize,
        stream: u16,
        epoch: Epoch,
        from: u64,
        batch: &[Vec<u8>],
    ) -> Event {
        let id = RegionId(stream);
        if !self.dbs[region].up {
            return Event::ApplyFailed {
                stream: id,
                cause: ApplyCause::Unreachable,
                retry_at: at(self.now + SEC),
            };
        }
        if let Some(cause) = self.dbs[region].sick {
            return Event::ApplyFailed {
                stream: id,
                cause,
                retry_at: at(self.now + 500 * MS),
            };
        }
        let done = self.applied(region, usize::from(stream));
        if from > done + 1 {
            return Event::Position {
                stream: id,
                position: self.dbs[region].position(stream, epoch),
                clean: self.dbs[region].clean(stream),
            };
        }
        let known = self.dbs[region].position(stream, epoch);
        if known.seq > Seq::ZERO && known.epoch != epoch {
            return Event::ApplyFailed {
                stream: id,
                cause: ApplyCause::Forked,
                retry_at: at(self.now + 10 * SEC),
            };
        }
        for (seq, payload) in (from..).zip(batch) {
            if seq <= done {
                continue;
            }
            let (tag, original) = &self.dbs[usize::from(stream)].outbox[seq as usize - 1];
            if self.rewritten && original != payload {
                return Event::ApplyFailed {
                    stream: id,
                    cause: ApplyCause::Forked,
                    retry_at: at(self.now + 10 * SEC),
                };
            }
            assert_eq!(
                original, payload,
                "update {seq} of {stream} arrived changed"
            );
            let row = (*tag, payload.clone());
            self.dbs[region]
                .applied
                .entry(stream)
                .or_default()
                .push(row);
            self.dbs[region].epochs.insert(stream, epoch);
            if self.dbs[region].refuse.contains(&(stream, seq)) {
                let entry = self.dbs[region].rejected.entry((stream, seq));
                entry.or_insert((epoch, false));
            }
        }
        Event::Applied {
            stream: id,
            position: self.dbs[region].position(stream, epoch),
            clean: self.dbs[region].clean(stream),
        }
    }
}
