//! A region that is away for too long costs the others nothing but a bounded amount of disk.

mod common;

use common::files::{Files, kills};
use serde_json::Value;

/// Updates of 8 KiB each that change nothing: what grows is the outbox alone.
fn large(n: usize) -> Vec<Value> {
    vec![kills(&"x".repeat(8_000), 1); n]
}

fn stale(w: &Files) -> bool {
    w.get("NA", "SELECT stale FROM prism_lane WHERE peer = 'EU'") == "1"
}

#[test]
fn a_region_away_for_too_long_is_stale_and_the_outbox_stays_within_its_limit() {
    let toml = "[limits]\nmax_backlog = \"1MiB\"";
    let mut w = Files::plan(&[("NA", 1), ("EU", 1), ("AS", 1)], toml, Some("EU"));
    w.start(&["NA1", "AS1"]);
    w.submit("NA1", &large(20));
    w.wait_acked("NA1", "AS");
    assert!(!stale(&w), "well within the limit");

    let rows = || w.get("NA", "SELECT count(*) FROM prism_outbox");
    for round in 0..3 {
        w.submit("NA1", &large(200));
        w.submit("NA1", &[kills("steve", 1)]);
        w.wait_acked("NA1", "AS");
        w.wait("EU is stale", || stale(&w));
        let rows: &dyn Fn() -> u64 = &|| rows().parse().expect("a number");
        w.wait("the outbox is within its limit", || rows() < 131);
        assert_eq!(
            w.kills(&["NA", "AS"], "steve"),
            vec![(round + 1).to_string(); 2]
        );
    }
    // Beyond what it holds at most at a time the file does not grow.
    let bytes = w.bytes("NA");
    println!("{bytes} bytes on disk after {} of updates", 620 * 8_000);
    assert!(bytes < 4 << 20, "{bytes}");
    let alarm = w.alarm("NA1", "stale").expect("an alarm");
    assert!(alarm.remedy.contains("prism adopt EU --from"), "{alarm:?}");
    assert!(alarm.detail.contains("max_backlog"), "{alarm:?}");

    // It comes back, and what it misses is gone: nothing is delivered on top of that.
    w.start(&["EU1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait_acked("NA1", "AS");
    assert_eq!(w.kills(&["NA", "EU", "AS"], "steve"), ["4", "0", "4"]);
    assert!(w.lane("NA1", "EU").holder.is_none());
    // The other way nothing is wrong.
    w.submit("EU1", &[kills("steve", 10)]);
    w.wait_acked("EU1", "NA");
    w.wait_acked("EU1", "AS");
    assert_eq!(w.kills(&["NA", "EU", "AS"], "steve"), ["14", "10", "14"]);
    assert!(w.alarm("NA1", "stale").is_some());
}

#[test]
fn a_region_that_comes_back_in_time_gets_everything() {
    let mut w = Files::plan(&[("NA", 1), ("EU", 1)], "", Some("EU"));
    w.start(&["NA1"]);
    w.submit("NA1", &large(100));
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait("the lane is parked", || {
        w.lane("NA1", "EU").target.as_deref() == Some("parked")
    });
    w.start(&["EU1"]);
    w.wait_acked("NA1", "EU");
    assert_eq!(w.kills(&["NA", "EU"], "steve"), ["1", "1"]);
    assert!(!stale(&w));
}

#[test]
fn with_a_higher_limit_a_stale_region_goes_on_if_nothing_of_what_it_needs_is_gone() {
    let toml = "[limits]\nmax_backlog = \"1MiB\"";
    let mut w = Files::plan(&[("NA", 1), ("EU", 1)], toml, Some("EU"));
    w.start(&["NA1"]);
    w.submit("NA1", &large(150));
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait("EU is stale", || stale(&w));
    w.kill("NA1");
    // Nobody has trimmed it yet.
    assert_eq!(w.get("NA", "SELECT count(*) FROM prism_outbox"), "151");
    let text = std::fs::read_to_string(&w.cluster.config).expect("prism.toml");
    let text = text.replace("1MiB", "64MiB");
    std::fs::write(&w.cluster.config, text).expect("prism.toml");
    w.start(&["NA1", "EU1"]);
    w.wait_acked("NA1", "EU");
    assert_eq!(w.kills(&["NA", "EU"], "steve"), ["1", "1"]);
    assert!(!stale(&w));
    w.wait("the alarm ends", || w.alarm("NA1", "stale").is_none());
}

#[test]
fn a_region_whose_updates_have_waited_for_too_long_is_stale() {
    let toml = "[limits]\nmax_backlog_age = \"10s\"";
    let mut w = Files::plan(&[("NA", 1), ("EU", 1)], toml, Some("EU"));
    w.start(&["NA1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait("EU is stale", || stale(&w));
    w.wait("an alarm", || {
        let alarm = w.alarm("NA1", "stale");
        alarm.is_some_and(|a| a.detail.contains("max_backlog_age"))
    });
}
