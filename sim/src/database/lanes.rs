//! Delivery of the own stream, and which process serves as which node: rows with a clock in them.

use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;
use std::time::Duration;

use prism_db::{DbError, LaneRow, MAX_LEASE, NodeRow};
use prism_proto::{Position, RegionKey, Seq, Verdict};

use super::apply::unknown;
use super::client::Client;
use super::locks::Mode;
use super::numbering::region;
use super::outbox::first;
use super::rows::{Key, Lane, Node, Row};
use super::work::{Fail, Work};

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4)
}

/// What ends later than anybody may ask for was written before the clock went back.
fn runs(until: i64, now: i64) -> bool {
    until > now && until <= now.saturating_add(micros(MAX_LEASE))
}

fn row(work: &mut Work<'_>, lane: &Lane) -> LaneRow {
    let own = region(work);
    let now = work.wall();
    let name = |mark: &Option<(Arc<str>, i64)>| match mark {
        Some((name, until)) if runs(*until, now) => Some(name.to_string()),
        _ => None,
    };
    // Lanes of another epoch have acknowledged nothing of this one.
    let acked = if lane.acked.epoch == own.epoch {
        lane.acked.seq
    } else {
        Seq::ZERO
    };
    let first = first(work, acked.next());
    let (backlog, waiting) = match first {
        Some((_, row)) => {
            let age = now.saturating_sub(row.at).unsigned_abs() / 1000;
            (own.bytes - row.before, Some(Duration::from_millis(age)))
        }
        None => (0, None),
    };
    LaneRow {
        peer: lane.peer.clone(),
        acked: lane.acked,
        holder: name(&lane.holder),
        wanted: name(&lane.wanted),
        stale: lane.stale,
        backlog,
        waiting,
    }
}

/// Changes a lane's row, locked; `None`: no such lane.
fn change(
    work: &mut Work<'_>,
    peer: &str,
    f: impl FnOnce(&mut Lane, i64),
) -> Result<Option<Arc<Lane>>, Fail> {
    let key = Key::Lane(RegionKey::of(peer));
    let Some(lane) = work.lock_row(&key, Mode::Write)?.map(Row::lane) else {
        return Ok(None);
    };
    let mut lane = Lane::clone(&lane);
    // The database's clock decides, at the moment of the call.
    let now = work.wall();
    f(&mut lane, now);
    let lane = Arc::new(lane);
    work.put(key, Arc::clone(&lane));
    Ok(Some(lane))
}

impl Client {
    pub(super) fn all_lanes(&mut self) -> Result<Vec<LaneRow>, DbError> {
        self.read("lanes", |work| {
            let mut lanes = Vec::new();
            let (from, to) = (Key::Lane(RegionKey(0)), Key::Node("".into()));
            work.scan(Included(&from), Excluded(&to), |_, row| {
                lanes.push(row.clone().lane());
                true
            });
            let mut rows: Vec<_> = lanes.iter().map(|lane| row(work, lane)).collect();
            rows.sort_by(|a, b| a.peer.cmp(&b.peer));
            Ok(rows)
        })
    }

    pub(super) fn lease(
        &mut self,
        peer: &str,
        node: &str,
        ttl: Duration,
    ) -> Result<LaneRow, DbError> {
        let ttl = micros(ttl);
        self.write("lane_lease", |work| {
            let lane = change(work, peer, |lane, now| {
                let free = match &lane.holder {
                    Some((holder, until)) => &**holder == node || !runs(*until, now),
                    None => true,
                };
                if free {
                    lane.holder = Some((node.into(), now.saturating_add(ttl)));
                    // Whoever had asked for it and gets it asks no more.
                    if lane
                        .wanted
                        .as_ref()
                        .is_some_and(|(name, _)| &**name == node)
                    {
                        lane.wanted = None;
                    }
                }
            })?;
            let lane = lane.ok_or_else(|| unknown(peer))?;
            Ok(row(work, &lane))
        })
    }

    pub(super) fn release(&mut self, peer: &str, node: &str) -> Result<(), DbError> {
        self.write("lane_release", |work| {
            change(work, peer, |lane, _| {
                if lane
                    .holder
                    .as_ref()
                    .is_some_and(|(name, _)| &**name == node)
                {
                    lane.holder = None;
                }
            })?;
            Ok(())
        })
    }

    pub(super) fn want(&mut self, peer: &str, node: &str, ttl: Duration) -> Result<(), DbError> {
        let ttl = micros(ttl);
        self.write("lane_want", |work| {
            let lane = change(work, peer, |lane, now| {
                lane.wanted = Some((node.into(), now.saturating_add(ttl)));
            })?;
            lane.map(drop).ok_or_else(|| unknown(peer).into())
        })
    }

    pub(super) fn mark_stale(&mut self, peer: &str) -> Result<(), DbError> {
        self.write("lane_stale", |work| {
            change(work, peer, |lane, _| lane.stale = true).map(drop)
        })
    }

    pub(super) fn take_back(&mut self, peer: &str) -> Result<bool, DbError> {
        self.write("lane_back", |work| {
            let key = Key::Lane(RegionKey::of(peer));
            let lane = work.lock_row(&key, Mode::Write)?.map(Row::lane);
            let Some(lane) = lane.filter(|lane| lane.stale) else {
                return Ok(true);
            };
            // After the lock: what was deleted before is seen to be gone.
            let all_there = super::outbox::verdict(work, lane.acked) == Verdict::Matches;
            if all_there {
                change(work, peer, |lane, _| lane.stale = false)?;
            }
            Ok(all_there)
        })
    }

    /// Also backwards: the peer's database may have been restored.
    pub(super) fn mark_acked(&mut self, peer: &str, position: Position) -> Result<(), DbError> {
        self.write("lane_acked", |work| {
            let lane = work.get(&Key::Lane(RegionKey::of(peer))).map(Row::lane);
            if lane.is_some_and(|lane| lane.acked != position) {
                change(work, peer, |lane, _| lane.acked = position)?;
            }
            Ok(())
        })
    }

    pub(super) fn claim_node(
        &mut self,
        node: &str,
        incarnation: u64,
        journal: u64,
    ) -> Result<Option<NodeRow>, DbError> {
        self.write("node_claim", |work| {
            let key = Key::Node(node.into());
            work.lock(&key, Mode::Write)?;
            let before = work.get(&key).map(Row::node);
            let beat = work.wall();
            work.put(
                key,
                Node {
                    incarnation,
                    journal,
                    beat,
                },
            );
            Ok(before.map(|before| NodeRow {
                incarnation: before.incarnation,
                journal: before.journal,
                silent: Duration::from_millis(
                    u64::try_from(beat.saturating_sub(before.beat) / 1000).unwrap_or(0),
                ),
            }))
        })
    }

    pub(super) fn beat_node(&mut self, node: &str, incarnation: u64) -> Result<bool, DbError> {
        self.write("node_beat", |work| {
            let key = Key::Node(node.into());
            let row = work.lock_row(&key, Mode::Write)?.map(Row::node);
            let Some(mut row) = row.filter(|row| row.incarnation == incarnation) else {
                return Ok(false);
            };
            row.beat = work.wall();
            work.put(key, row);
            Ok(true)
        })
    }
}
