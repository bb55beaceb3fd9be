//! A region's database fails over to an asynchronous standby that lacks acknowledged transactions.

mod common;

use common::{Plan, World, awaited, kill};
use prism_db::throwaway::Cluster;

const REGIONS: &[(&str, usize)] = &[("NA", 1), ("EU", 1)];

/// Five kills are on the standby, three more are acknowledged and have reached both regions.
fn world(region: &str) -> (World, Cluster, Cluster) {
    let primary = Cluster::start().expect("a server");
    let mut w = World::plan(&Plan {
        regions: REGIONS,
        own_server: Some((region, &primary)),
        owner: true,
        ..Plan::default()
    });
    w.start(&["NA1", "EU1"]);
    w.submit_kills("NA1", 5);
    w.wait_acked("NA1", "EU");
    let mut standby = primary.standby().expect("a standby");
    standby.stop();
    w.submit_kills("NA1", 3);
    w.wait_acked("NA1", "EU");
    assert_eq!(kills(&w), (8, 8), "both have all");
    (w, primary, standby)
}

fn kills(w: &World) -> (i32, i32) {
    (w.kills("NA", "steve"), w.kills("EU", "steve"))
}

fn notices(w: &World) {
    w.wait("NA1 notices that its database has gone back", || {
        w.alarm("NA1", "fork").is_some()
    });
    let alarm = w.alarm("NA1", "fork").expect("an alarm");
    assert!(alarm.detail.contains("gone back"), "{alarm:?}");
    assert!(
        alarm.remedy.contains("prism adopt NA --from EU"),
        "{alarm:?}"
    );
}

/// As the alarm says.
fn rebuild(w: &mut World) {
    w.kill("NA1");
    w.cluster
        .prism(&["adopt", "NA", "--from", "EU", "--yes"])
        .expect("rebuilt");
    w.start(&["NA1"]);
}

#[test]
fn an_origin_whose_standby_lacks_acknowledged_updates_stops_and_is_rebuilt() {
    let (mut w, mut primary, mut standby) = world("NA");
    standby.take_over(&mut primary).expect("fails over");
    // Nobody submits anything.
    notices(&w);
    let (status, body) = w.post("NA1", &kill("steve"));
    assert_eq!(status, 503, "{body}");
    // Restarted it knows nothing of what was lost, but EU does; what it takes now is on another
    // history than EU's.
    w.kill("NA1");
    w.start(&["NA1"]);
    notices(&w);
    w.submit_kills("NA1", 1);
    w.wait("the lane does not go on", || {
        w.lane("NA1", "EU").target.is_none() && w.alarm("NA1", "fork").is_some()
    });
    assert_eq!(kills(&w), (6, 8), "nothing is mixed");
    rebuild(&mut w);
    assert_eq!(kills(&w), (8, 8));
    w.submit_kills("NA1", 1);
    w.wait_acked("NA1", "EU");
    assert_eq!(kills(&w), (9, 9));
    assert!(w.alarm("NA1", "fork").is_none());
}

#[test]
fn nothing_is_acknowledged_on_numbers_that_peers_have_already() {
    let (mut w, mut primary, mut standby) = world("NA");
    primary.kill9();
    let (status, body) = w.post("NA1", &kill("steve"));
    assert_eq!(status, 202, "the database is away: {body}");
    standby.take_over(&mut primary).expect("fails over");
    // Before and after the node has noticed.
    for update in [kill("alex"), awaited("alex", 1)].iter().cycle().take(20) {
        let (status, body) = w.post("NA1", update);
        // In the journal, or refused: EU has other updates with the next numbers, and would be
        // taken to have applied these.
        assert!(matches!(status, 202 | 503), "{status} {body}");
    }
    notices(&w);
    // The journal is kept for the database that has everything.
    let entries = w.status("NA1").journal.entries;
    assert!(entries >= 1, "{entries}");
    assert_eq!((w.kills("NA", "steve"), w.kills("EU", "steve")), (5, 8));
    let spooled = i32::try_from(entries).expect("few") - 1;
    rebuild(&mut w);
    w.wait("what was spooled is everywhere", || {
        w.kills("NA", "steve") == 9 && w.kills("NA", "alex") == spooled
    });
    w.wait_acked("NA1", "EU");
    assert_eq!(kills(&w), (9, 9));
    assert_eq!(w.kills("EU", "alex"), spooled);
}

#[test]
fn a_peer_whose_standby_lacks_updates_gets_them_again_once() {
    let (w, mut primary, mut standby) = world("EU");
    standby.take_over(&mut primary).expect("fails over");
    assert_eq!(w.kills("EU", "steve"), 5, "the standby lacks three");
    w.submit_kills("NA1", 1);
    w.wait("EU has all of them", || w.kills("EU", "steve") == 9);
    w.wait_acked("NA1", "EU");
    assert_eq!(kills(&w), (9, 9));
    assert!(w.alarm("NA1", "fork").is_none());
}
