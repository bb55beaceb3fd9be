//! Whatever happens to the node that holds a lane, a sibling delivers, without anybody's help. Real
//! processes, real PostgreSQL.

mod common;

use std::time::{Duration, Instant};

use common::{Plan, World};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prism_node::demo::cluster::wait_for;
use prism_node::demo::relay::Link;

/// Five seconds are promised (and printed below); a machine that runs other tests at the same time
/// gets more. A lease that nobody takes over until it has run out to the last takes longer still.
const TAKEOVER: Duration = Duration::from_secs(15);

/// NA with two nodes, EU with two; NA1 holds the lane and has delivered.
fn world() -> World {
    world_of(&Plan {
        regions: &[("NA", 2), ("EU", 2)],
        no_direct: Some("EU"),
        ..Plan::default()
    })
}

fn world_of(plan: &Plan<'_>) -> World {
    let mut w = World::plan(plan);
    w.start(&["NA1", "EU1", "EU2"]);
    w.wait("NA1 holds the lane", || holder(&w, "NA1") == "NA1");
    w.start(&["NA2"]);
    w.submit_kills("NA1", 1);
    w.submit_kills("NA2", 1);
    w.wait_acked("NA1", "EU");
    w
}

fn holder(w: &World, node: &str) -> String {
    w.lane(node, "EU").holder.unwrap_or_default()
}

fn cut(w: &World, node: &str, link: Link) {
    w.link(node, "EU1", link);
    w.link(node, "EU2", link);
}

/// Everything is in EU in time.
fn delivered(w: &World, kills: i32, since: Instant) {
    let left = TAKEOVER.saturating_sub(since.elapsed());
    let arrived = wait_for(left, || w.kills("EU", "steve") == kills);
    println!("delivered after {:?}", since.elapsed());
    assert!(
        arrived.is_ok(),
        "only {} of {kills}",
        w.kills("EU", "steve")
    );
}

#[test]
fn a_sibling_delivers_what_a_killed_node_has_left() {
    let mut w = world();
    cut(&w, "NA1", Link::CUT);
    w.submit_kills("NA1", 5);
    w.kill("NA1");
    delivered(&w, 7, Instant::now());
    assert_eq!(holder(&w, "NA2"), "NA2");
    // It comes back, and gets its lane back.
    cut(&w, "NA1", Link::default());
    w.start(&["NA1"]);
    w.submit_kills("NA1", 5);
    delivered(&w, 12, Instant::now());
    w.wait_acked("NA2", "EU");
    assert_eq!(w.kills("NA", "steve"), 12);
}

#[test]
fn a_sibling_delivers_for_a_stopped_node_which_does_no_harm_when_it_wakes() {
    let w = world();
    let na1 = w.cluster.node("NA1");
    cut(&w, "NA1", Link::CUT);
    w.submit_kills("NA1", 5);
    w.cluster.signal(na1, Signal::SIGSTOP);
    let stopped = Instant::now();
    cut(&w, "NA1", Link::default());
    delivered(&w, 7, stopped);
    w.submit_kills("NA2", 3);
    w.wait_acked("NA2", "EU");

    w.cluster.signal(na1, Signal::SIGCONT);
    w.wait("NA1 knows that it lost the lane", || {
        w.lane("NA1", "EU").target.is_none()
    });
    w.submit_kills("NA1", 2);
    // (NA2 may not have heard of them yet: nothing to acknowledge would be no news.)
    w.wait("EU has them", || w.kills("EU", "steve") >= 12);
    w.wait_acked("NA2", "EU");
    assert_eq!((w.kills("NA", "steve"), w.kills("EU", "steve")), (12, 12));
    // What it had heard of before is not written over what its sibling has heard since.
    let acked = || -> i64 {
        let row = w.sql("NA").query_one("SELECT acked FROM prism.lane", &[]);
        row.expect("a row").get(0)
    };
    w.wait("the lane's row is up to date", || acked() == 12);
}

#[test]
fn a_sibling_delivers_for_a_node_that_nobody_hears_any_more() {
    let w = world();
    cut(&w, "NA1", Link::CUT);
    w.link("NA1", "NA2", Link::CUT);
    let since = Instant::now();
    w.submit_kills("NA1", 5);
    delivered(&w, 7, since);
    w.wait("NA1 knows", || w.lane("NA1", "EU").target.is_none());
    cut(&w, "NA1", Link::default());
    w.link("NA1", "NA2", Link::default());
    w.submit_kills("NA1", 1);
    w.wait("NA1 gets its lane back", || holder(&w, "NA1") == "NA1");
    w.wait_acked("NA1", "EU");
    assert_eq!((w.kills("NA", "steve"), w.kills("EU", "steve")), (8, 8));
}

#[test]
fn a_node_that_does_not_reach_a_region_gives_the_lane_to_its_sibling() {
    let w = world();
    cut(&w, "NA1", Link::CUT);
    w.submit_kills("NA1", 5);
    w.wait("NA2 delivers", || w.kills("EU", "steve") == 7);
    assert_eq!(holder(&w, "NA2"), "NA2");
    w.wait("nothing is wrong any more", || {
        w.status("NA1").alarms.is_empty() && w.status("NA2").alarms.is_empty()
    });
}

#[test]
fn a_sibling_delivers_for_a_node_that_is_cut_off_from_its_database() {
    let mut w = World::new(&[("NA", 2), ("EU", 1)]);
    w.start(&["NA1", "EU1"]);
    w.submit_kills("NA1", 1);
    w.wait_acked("NA1", "EU");
    // Its connections hang, as behind a router that drops everything.
    let rows = w
        .sql("NA")
        .query(
            "SELECT pid FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()
               AND backend_type = 'client backend'",
            &[],
        )
        .expect("a query");
    let backends: Vec<Pid> = rows.iter().map(|row| Pid::from_raw(row.get(0))).collect();
    assert!(!backends.is_empty());
    w.start(&["NA2"]);
    for pid in &backends {
        kill(*pid, Signal::SIGSTOP).expect("a signal");
    }
    let since = Instant::now();
    w.submit_kills("NA2", 1);
    delivered(&w, 2, since);
    for pid in &backends {
        let _ = kill(*pid, Signal::SIGCONT);
    }
    w.submit_kills("NA2", 1);
    w.wait_acked("NA2", "EU");
    assert_eq!((w.kills("NA", "steve"), w.kills("EU", "steve")), (3, 3));
}

#[test]
fn lanes_are_spread_over_the_nodes_of_a_region_and_come_back_to_them() {
    let mut w = World::new(&[("NA", 2), ("EU", 1), ("AS", 1)]);
    let holders = |w: &World, node: &str| {
        let lanes = w.status(node).lanes;
        let holder = |i: usize| lanes[i].holder.clone().unwrap_or_default();
        (holder(0), holder(1))
    };
    let both = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    w.start(&["EU1", "AS1", "NA1"]);
    w.wait("NA1 holds both", || {
        holders(&w, "NA1") == both("NA1", "NA1")
    });
    w.start(&["NA2"]);
    w.submit_kills("NA1", 3);
    w.wait("NA2 gets the second", || {
        holders(&w, "NA2") == both("NA1", "NA2")
    });
    w.submit_kills("NA1", 3);
    w.submit_kills("NA2", 3);
    w.wait_acked("NA1", "EU");
    w.wait_acked("NA1", "AS");
    assert_eq!((w.kills("EU", "steve"), w.kills("AS", "steve")), (9, 9));
    w.kill("NA1");
    w.wait("NA2 holds both", || {
        holders(&w, "NA2") == both("NA2", "NA2")
    });
    w.start(&["NA1"]);
    w.wait("NA1 gets its own back", || {
        holders(&w, "NA1") == both("NA1", "NA2")
    });
}

#[test]
fn the_fastest_node_is_preferred_if_the_configuration_says_so() {
    let mut w = World::plan(&Plan {
        regions: &[("NA", 1), ("EU", 2)],
        toml: "[retry]\npolicy = \"fastest\"",
        ..Plan::default()
    });
    let far = Link {
        delay: Duration::from_millis(40),
        ..Link::default()
    };
    w.link("NA1", "EU1", far);
    w.start(&["NA1", "EU1", "EU2"]);
    w.submit_kills("NA1", 1);
    w.wait("the lane goes to the near node", || {
        w.lane("NA1", "EU").target.as_deref() == Some("EU2")
    });
    // The other one is near now.
    w.link("NA1", "EU1", Link::default());
    w.link("NA1", "EU2", far);
    w.wait("and follows", || {
        w.submit_kills("NA1", 1);
        w.lane("NA1", "EU").target.as_deref() == Some("EU1")
    });
    w.wait_acked("NA1", "EU");
    assert_eq!(w.kills("NA", "steve"), w.kills("EU", "steve"));
}

#[test]
fn what_a_sibling_accepts_leaves_at_once() {
    let w = world();
    // NA1 would find it within a second by looking at the database. Half of them much sooner means
    // that it did not wait for that.
    let mut times: Vec<Duration> = (0..11)
        .map(|i| {
            let since = Instant::now();
            w.submit_kills("NA2", 1);
            w.wait("it arrives", || w.kills("EU", "steve") == 3 + i);
            since.elapsed()
        })
        .collect();
    times.sort_unstable();
    assert!(times[5] < Duration::from_millis(300), "{times:?}");
}
