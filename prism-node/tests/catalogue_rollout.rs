//! A node whose catalogue is older than its peer's: what it does not know waits, and says so.

mod common;

use std::fs;

use common::files::{Files, kills};
use serde_json::{Value, json};

/// What the newer configuration has and the older has not.
const BONUS: &str = r#"
[[statement]]
name = "bonus"
sql = "UPDATE users SET kills = kills + $2 * 10 WHERE username = $1"
params = ["text", "int"]
kind = "delta"
"#;

fn bonus(n: i64) -> Value {
    json!({"statement": "bonus", "params": ["steve", n]})
}

#[test]
fn an_update_of_a_newer_catalogue_waits_with_an_alarm_and_runs_once_after_the_rollout() {
    let mut w = Files::plan(&[("NA", 1), ("EU", 1)], "", Some("EU"));
    w.start(&["EU1"]);
    // EU1 runs with the older file.
    let mut text = fs::read_to_string(&w.cluster.config).expect("prism.toml");
    text.push_str(BONUS);
    fs::write(&w.cluster.config, text).expect("prism.toml");
    w.cluster
        .prism(&["migrate", "--region", "NA"])
        .expect("migrate");
    w.start(&["NA1"]);
    w.submit("NA1", &[kills("steve", 1)]);
    w.wait_acked("NA1", "EU");
    w.submit("NA1", &[bonus(2), kills("steve", 3), bonus(4)]);
    w.wait("EU1 says what it waits for", || {
        w.alarm("EU1", "stream-parked").is_some()
    });
    let alarm = w.alarm("EU1", "stream-parked").expect("an alarm");
    assert!(
        alarm.detail.contains("unknown statement version"),
        "{alarm:?}"
    );
    assert!(alarm.detail.contains("seq 2"), "{alarm:?}");
    assert!(
        alarm.remedy.contains("prism.toml") && alarm.remedy.contains("prism migrate"),
        "{alarm:?}"
    );
    // Nothing is refused, nothing overtakes, and the other direction is not concerned.
    w.submit("EU1", &[kills("alex", 5)]);
    w.wait_acked("EU1", "NA");
    assert_eq!(w.kills(&["NA", "EU"], "alex"), ["5", "5"]);
    assert_eq!(w.kills(&["NA", "EU"], "steve"), ["64", "1"]);
    assert_eq!(w.status("EU1").rejected, 0);
    // The rollout comes to EU.
    w.cluster
        .prism(&["migrate", "--region", "EU"])
        .expect("migrate");
    w.kill("EU1");
    w.start(&["EU1"]);
    w.wait_acked("NA1", "EU");
    assert_eq!(w.kills(&["NA", "EU"], "steve"), ["64", "64"]);
    w.wait("the alarm is over", || {
        w.alarm("EU1", "stream-parked").is_none()
    });
    assert_eq!(w.status("EU1").rejected, 0);
}

/// Through a node's HTTP to the peer's database: taken and equal, or refused and in neither.
#[test]
fn hostile_parameters_are_equal_in_both_regions_or_in_none() {
    let mut w = Files::new(&[("NA", 1), ("EU", 1)], "");
    w.start(&["NA1", "EU1"]);
    let url = format!(
        "http://{}/v1/updates",
        w.cluster.nodes[w.cluster.node("NA1")].http
    );
    let agent = w.cluster.http();
    let send = |body: &[u8]| {
        let request = agent.post(&url).header("content-type", "application/json");
        request.send(body).expect("an answer").status().as_u16()
    };
    let mut taken = 0;
    let bodies: [(&[u8], u16); 10] = [
        (br#"["steve', 1); DROP TABLE users; --",1]"#, 200),
        (br#"["steve",9223372036854775808]"#, 400),
        (br#"["steve",1e400]"#, 400),
        (br#"["steve",NaN]"#, 400),
        (br#"["steve\u0000",1]"#, 400),
        (br#"["\ud800",1]"#, 400),
        (b"[\"steve\xff\",1]", 400),
        (br#"["steve",1,2]"#, 400),
        (br#"[{"a":1},1]"#, 400),
        (br#"["steve","7"]"#, 200),
    ];
    for (params, status) in bodies {
        let body = [br#"{"statement":"add_kills","params":"#, params, b"}"].concat();
        let shown = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(send(&body), status, "{shown}");
        taken += u64::from(status == 200);
    }
    w.wait_acked("NA1", "EU");
    assert_eq!(w.lane("NA1", "EU").tail, taken);
    assert_eq!(w.kills(&["NA", "EU"], "steve"), ["7", "7"]);
    assert_eq!(w.status("EU1").rejected, 0);
}
