//! What the sessions tell of the other nodes, as alarms.

use prism_net::{PeerInfo, Snapshot};

use super::alarms::name;
use super::board::State;
use super::names::Names;

/// Looks at new figures; those of the last round are still in `state`.
pub(super) fn judge(state: &mut State, names: &Names, snapshot: &Snapshot) {
    for (i, now) in snapshot.peers.iter().enumerate() {
        if i == usize::from(names.me.0) {
            continue;
        }
        let Some((node, _)) = names.nodes.get(i) else {
            continue;
        };
        let before = state.snapshot.peers.get(i).copied().unwrap_or_default();
        twins(state, node, &before, now);
        catalogues(state, node, now);
    }
}

fn twins(state: &mut State, node: &str, before: &PeerInfo, now: &PeerInfo) {
    if now.twin > before.twin {
        state.alarms.raise(
            name::SAME_IDENTITY,
            node,
            format!("two processes at once prove to be {node}"),
            "stop one of them: most likely the data directory was copied; if you know of no second \
             one, the key was stolen: give the node a new one (docs/security.md)",
        );
    }
    if now.stale > before.stale {
        state.alarms.raise(
            name::HANDSHAKE_STALE,
            node,
            format!(
                "handshakes of {node} are older than earlier ones, and are refused ({} so far)",
                now.stale
            ),
            "either somebody replays recorded packets, which does no harm; or the node has lost the \
             file `boot` of its data directory (an old copy was restored?) and its clock is wrong: \
             set the clock and start that node again; if that does not help, start this one again, \
             which remembers earlier handshakes only while it runs",
        );
    }
}

fn catalogues(state: &mut State, node: &str, now: &PeerInfo) {
    match now.catalogue {
        Some(theirs) if theirs != state.catalogue => state.alarms.raise(
            name::CATALOGUE_DIFFERS,
            node,
            format!(
                "{node} has other statements (catalogue {theirs:016x}) than this node ({:016x}); \
                 updates of a statement that a node does not know wait there",
                state.catalogue
            ),
            "give both the same [[statement]] entries in prism.toml and start them again; during a \
             rolling change this passes by itself",
        ),
        Some(_) => state.alarms.clear(name::CATALOGUE_DIFFERS, node),
        None => {}
    }
}
