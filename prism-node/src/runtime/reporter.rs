//! Turns the core's notices into log lines and alarms, off the loop thread (a log pipe can block).

use prism_net::platform::mpsc::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

use prism_proto::{
    ApplyCause, DirectFailure, InletState, NodeId, Notice, Position, RegionId, SwitchReason,
    Target, Verdict, Violation,
};

use super::alarms::{Change, adopt, name};
use super::board::{Board, cause_word, lane_subject, position_words};

/// Changed alarms are logged this often, if no notice comes before.
const ALARMS: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Reporter {
    pub(super) notices: Receiver<Notice>,
    pub(super) board: Arc<Board>,
}

impl Reporter {
    /// Until the loop is gone.
    pub(super) fn run(self) {
        loop {
            match self.notices.recv_timeout(ALARMS) {
                Ok(notice) => self.report(notice),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let changes = self.board.lock().alarms.changes();
            changes.iter().for_each(Change::log);
        }
    }

    fn report(&self, notice: Notice) {
        let names = &self.board.names;
        match notice {
            Notice::Switched {
                peer,
                from,
                to,
                reason,
                silent,
            } => {
                let lane = names.region(peer);
                let (from, rung) = (names.target(from), names.target(to));
                let reason = switch_words(reason);
                let ms = silent.as_millis() as u64;
                if matches!(to, Target::Parked(_)) {
                    self.board.raise(
                        name::PARKED,
                        &lane_subject(lane),
                        format!("the lane to {lane} is parked: {reason}"),
                        "bring a node or the database of that region back; updates wait on disk \
                         and go on by themselves",
                    );
                }
                tracing::info!(
                    lane,
                    from,
                    to = rung,
                    silent_ms = ms,
                    "lane changes its rung: {reason}"
                );
            }
            Notice::LaneStopped {
                peer,
                position,
                verdict,
            } => self.stopped(peer, verdict, position),
            Notice::PeerWaiting { peer, cause } => self.peer_waiting(peer, cause),
            Notice::RowsMissing { peer, from } => {
                let lane = names.region(peer);
                self.board.raise(
                    name::ROWS_MISSING,
                    &lane_subject(lane),
                    format!(
                        "{lane} needs update {} of this region, which is not found in the outbox \
                         or cannot be read; the lane keeps asking",
                        from.0
                    ),
                    &format!("if the database is well and it stays so: {}", adopt(lane)),
                );
            }
            Notice::Inlet {
                stream,
                state,
                from,
            } => {
                let mut board = self.board.lock();
                if let Some(inlet) = board.inlets.get_mut(usize::from(stream.0)) {
                    inlet.state = Some(state);
                    if matches!(state, InletState::Running) {
                        inlet.waits = None;
                    }
                }
                drop(board);
                tracing::debug!(
                    stream = names.region(stream),
                    from = from.map(|n| names.node(n)),
                    ?state,
                    "inlet changes its state"
                );
            }
            Notice::SiblingTail { upto } => self.board.tail(upto),
            Notice::SiblingAcked { peer, seq, clean } => self.board.acked(peer, seq, clean),
            Notice::Dropped { from } => {
                tracing::debug!(from = names.node(from), "datagram dropped");
            }
            Notice::Violation { from, what } => self.violation(from, what),
            other => tracing::debug!(?other, "notice"),
        }
    }

    fn violation(&self, from: NodeId, what: Violation) {
        let node = self.board.names.node(from);
        self.board.raise(
            name::VIOLATION,
            node,
            format!("{node} {}; nothing of it was taken", violation_words(what)),
            "its key may be in the wrong hands: stop that node, see that it runs the same version \
             and configuration as the others, and give it a new key (docs/security.md)",
        );
    }

    fn stopped(&self, peer: RegionId, verdict: Verdict, position: Position) {
        let lane = self.board.names.region(peer);
        let own = self.board.names.my_region();
        let newest = self.board.lock().newest;
        let ahead = newest.filter(|n| n.epoch == position.epoch && n.seq < position.seq);
        let position = position_words(position);
        let (name, detail, remedy) = match verdict {
            Verdict::TooOld => (
                name::STALE,
                format!(
                    "{lane} needs updates behind {position}, which are no longer in the outbox"
                ),
                adopt(lane),
            ),
            // Only the origin's own commits lead there.
            _ if let Some(newest) = ahead => (
                name::FORK,
                format!(
                    "{own}'s database has gone back: {lane} has applied {own}'s stream up to \
                     {position}, and here it ends at {}; what is submitted here now does not get \
                     to {lane}, and is lost when {own} is rebuilt",
                    newest.seq.0
                ),
                format!(
                    "stop all nodes of {own}, then bring back the database that has everything, or \
                     rebuild this one: prism adopt {own} --from {lane}"
                ),
            ),
            _ => (
                name::FORK,
                format!("the database of {lane} has another history of {own}'s stream: {position}"),
                "one of the two databases was restored from a backup or replaced; rebuild it from \
                 a healthy region: prism adopt REGION --from OTHER"
                    .to_owned(),
            ),
        };
        self.board.raise(name, &lane_subject(lane), detail, &remedy);
    }

    fn peer_waiting(&self, peer: RegionId, cause: ApplyCause) {
        let lane = self.board.names.region(peer);
        let why = cause_word(cause);
        match cause {
            // These pass by themselves, and the region itself raises an alarm if they do not.
            ApplyCause::Busy | ApplyCause::Dependency => {
                tracing::debug!(region = lane, "the peer's apply waits: {why}");
            }
            _ => self.board.raise(
                name::PEER_WAITING,
                &lane_subject(lane),
                format!("the apply at {lane} waits: {why}"),
                "see the alarms of that region's nodes",
            ),
        }
    }
}

fn violation_words(what: Violation) -> &'static str {
    match what {
        Violation::Stream => "of the own region sends updates of its own to this node",
        Violation::Judgement => "of the own region acknowledges or refuses updates of this region",
        Violation::News => "of another region speaks as a node of this region",
        Violation::OwnRegion => "acknowledges updates in the name of this region",
        Violation::NeverSent => "acknowledges what was never sent to it",
        _ => "says what it has no right to say",
    }
}

fn switch_words(reason: SwitchReason) -> String {
    match reason {
        SwitchReason::Start => "the lane starts here".to_owned(),
        SwitchReason::Unanswered { attempts } => format!("{attempts} datagrams unanswered"),
        SwitchReason::Unavailable => "the node cannot reach its database".to_owned(),
        SwitchReason::NoProgress => "the node receives but applies nothing".to_owned(),
        SwitchReason::Direct(why) => match why {
            DirectFailure::Unreachable => "the region's database cannot be reached".to_owned(),
            DirectFailure::Busy => "the region's database is busy".to_owned(),
            DirectFailure::Dependency => {
                "another stream's update has to come first in the region's database".to_owned()
            }
            DirectFailure::Parked => "the region's database needs an operator".to_owned(),
            DirectFailure::Forked => "the region's database has forked".to_owned(),
        },
        SwitchReason::Retry => "the pause is over, the ladder is tried again".to_owned(),
        SwitchReason::ClimbBack => "a better rung answers again".to_owned(),
    }
}
