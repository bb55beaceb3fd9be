//! What leaves one region arrives in another as it was.

use prism_db::Value;
use serde_json::{Value as Json, json};

use crate::world::{Backend, World, text};

/// Runs `store` at NA with these (behind an id), ships it, and compares the rows.
fn rows<B: Backend>(world: &World<B>, calls: &[Vec<Json>]) -> Vec<Vec<String>> {
    let statement = world.catalogue.get("store").expect("statement");
    let batch: Vec<_> = calls
        .iter()
        .map(|params| prism_db::Submission {
            statement: statement.digest(),
            params: statement.bind_json(params).expect("parameters"),
            request_id: None,
        })
        .collect();
    world.submit(&world.na, &batch);
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!((outcome.executed, outcome.wait), (calls.len() as u64, None));
    let all = "SELECT * FROM types ORDER BY id";
    let (origin, peer) = (
        world.sql(&world.na).rows(all),
        world.sql(&world.eu).rows(all),
    );
    assert_eq!(origin, peer);
    origin
}

pub fn every_type_arrives_as_it_left<B: Backend>(world: &World<B>) {
    let uuid = "0190a2c4-7d1f-4c3e-9a55-0c1d2e3f4a5b";
    let calls = vec![
        vec![
            json!("1"),
            json!(true),
            json!(i64::MIN),
            json!(-0.1),
            json!("-12345678901234567890.0500"),
            json!("grüß 'dich' \" \\ $1 \u{1F600}"),
            json!("AAH/"),
            json!(uuid),
            json!("2026-01-31T12:00:00.000001+02:00"),
            json!({"a": [1, "ü", null, {"b": 1.5}]}),
        ],
        vec![
            json!("2"),
            Json::Null,
            Json::Null,
            Json::Null,
            Json::Null,
            Json::Null,
            Json::Null,
            Json::Null,
            Json::Null,
            Json::Null,
        ],
        vec![
            json!("3"),
            json!(false),
            json!(i64::MAX),
            json!(1.7976931348623157e308),
            json!("0"),
            json!(""),
            json!(""),
            json!("00000000-0000-0000-0000-000000000000"),
            json!("0001-01-01T00:00:00Z"),
            json!([]),
        ],
        vec![
            json!("4"),
            json!(true),
            json!("42"),
            json!(5e-324),
            json!("0.000000000000000000001"),
            json!("NULL"),
            json!("MA=="),
            json!("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
            json!("9999-12-31T23:59:59.999999Z"),
            json!("text"),
        ],
    ];
    let rows = rows(world, &calls);
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[0][2], i64::MIN.to_string());
    assert_eq!(rows[0][4], "-12345678901234567890.0500");
    assert_eq!(rows[0][5], "grüß 'dich' \" \\ $1 \u{1F600}");
    assert_eq!(rows[0][6].trim_start_matches("\\x"), "0001ff");
    assert_eq!(rows[0][7], uuid);
    assert!(
        rows[0][8].contains("10:00:00.000001"),
        "UTC: {}",
        rows[0][8]
    );
    assert!(
        rows[1][1..].iter().all(|value| value == "NULL"),
        "{:?}",
        rows[1]
    );
    assert_eq!(rows[3][3].parse::<f64>(), Ok(5e-324));
    assert_eq!(rows[3][7], "ffffffff-ffff-ffff-ffff-ffffffffffff");
}

pub fn hostile_texts_are_data<B: Backend>(world: &World<B>) {
    let hostile = "'); DROP TABLE users; -- $1 ${HOME} %s \\x00 \u{202E}";
    let add = world.call("add_user", &[text(hostile), Value::Null]);
    world.submit(
        &world.na,
        &[add, world.call("drop_user", &[text("' OR 1 = 1 --")])],
    );
    let outcome = world.ship(&world.na, &world.eu);
    assert_eq!((outcome.executed, outcome.wait), (2, None));
    for site in [&world.na, &world.eu] {
        let mut sql = world.sql(site);
        assert_eq!(sql.one("SELECT count(*) FROM users"), "3");
        assert_eq!(
            sql.one("SELECT username FROM users WHERE name IS NULL"),
            hostile
        );
    }
}
