//! What clients are told: it is true at that moment, and does not contradict what they were told
//! before.

use prism_db::{RequestRow, RequestState};
use prism_node::intake::{Answer, Failure};
use prism_proto::{RegionKey, Seq};

use super::Invariant;
use crate::cluster::Cluster;
use crate::database::Effect;

/// A client has got an answer.
pub fn heard(cluster: &Cluster, index: usize, region: usize, answer: &Answer) {
    let excused = cluster.check.had_disaster() || cluster.check.has_adopted();
    let fail = |invariant, what: String| {
        let what = format!("request {index} at {}: {what}", cluster.name(region));
        cluster.check.fail(&cluster.world, invariant, what);
    };
    match answer {
        Answer::Failed(Failure::RequestReused) => {
            fail(
                Invariant::AnswersAgree,
                "its id is said to be another's".into(),
            );
        }
        Answer::Committed { seq }
            if !excused && cluster.servers[region].region().next_seq <= *seq =>
        {
            let what = format!("said to be committed as {}, which is not there", seq.0);
            fail(Invariant::NothingLost, what);
        }
        Answer::Applied { seq, .. } if !excused => {
            for peer in 0..cluster.region_count() {
                if let Some(why) = not_final(cluster, region, *seq, peer) {
                    let what = format!("said to be applied as {}; {why}", seq.0);
                    fail(Invariant::AwaitTellsTruth, what);
                }
            }
        }
        _ => {}
    }
    let requests = cluster.requests.borrow();
    let before = requests[index].told.iter().map(|told| &told.answer);
    let request = &requests[index];
    // Every time it was asked, nothing was done: then nothing was.
    if !excused
        && request.asked.len() == request.told.len() + 1
        && before.chain([answer]).all(says_nothing_was_done)
        && let Some(row) = cluster.servers[region].request(&request.id)
        && row.state == RequestState::Committed
        && is_final(cluster, &row)
    {
        let what = format!("told {answer:?}, and it is on record: {row:?}");
        fail(Invariant::AnswersAgree, what);
    }
    if excused {
        return;
    }
    if requests[index].regions.len() > 1 {
        // Whichever copy is undone, the request is: also where another copy was told as applied.
        return;
    }
    for told in &requests[index].told {
        let contradicts = match (&told.answer, answer) {
            (Answer::Committed { seq: a }, Answer::Committed { seq: b }) => {
                told.region == region && a != b
            }
            (Answer::Applied { seq: a, .. }, Answer::Applied { seq: b, .. }) => a != b,
            // It was taken back, and then it was not. (Told by another region, which executes its
            // own copy of it, it may be.)
            (Answer::Undone { .. }, Answer::Committed { .. } | Answer::Applied { .. }) => {
                told.region == region
            }
            (Answer::Applied { .. }, Answer::Undone { .. }) => true,
            _ => false,
        };
        if contradicts {
            let what = format!("told {:?}, and before {:?}", answer, told.answer);
            fail(Invariant::AnswersAgree, what);
        }
    }
}

/// What has been rolled back at its origin after it was published is undone wherever it has arrived.
fn is_final(cluster: &Cluster, row: &RequestRow) -> bool {
    (0..cluster.region_count())
        .filter(|origin| cluster.name(*origin) == row.stream)
        .filter_map(|origin| cluster.servers[origin].request(&row.request_id))
        .any(|at_origin| at_origin.state == RequestState::Committed)
}

/// A failure that means that the update has no effect and will have none.
#[must_use]
pub fn says_nothing_was_done(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Failed(
            Failure::Unavailable(_)
                | Failure::NotReady(_)
                | Failure::Busy
                | Failure::Locked(_)
                | Failure::NotBegun
                | Failure::Spooling
                | Failure::Journal(_)
        )
    )
}

/// Why an update of a stream is not final in a region's database.
fn not_final(cluster: &Cluster, stream: usize, seq: Seq, peer: usize) -> Option<String> {
    let name = cluster.name(peer);
    let key = RegionKey::of(cluster.name(stream));
    let log = cluster.servers[peer].execution_log();
    let found = log.iter().find(|one| one.stream == key && one.seq == seq);
    match found.map(|one| one.effect) {
        None => Some(format!("{name} has not seen it")),
        Some(Effect::Ran | Effect::Published | Effect::Double) => {
            let undone =
                |effect| effect == Effect::Undid(seq) || effect == Effect::NothingToUndo(seq);
            let undone = log
                .iter()
                .any(|one| one.stream == key && undone(one.effect));
            undone.then(|| format!("{name} has undone it"))
        }
        Some(effect) => Some(format!("in {name}: {effect:?}")),
    }
}
