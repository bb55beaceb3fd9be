//! What leaves one region arrives in another as it was.

use prism_db::Value;
use serde_json::{Value as Json, json};

use crate::world::{Backend, Site, World, text};

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

/// Columns of `types` by the type of their parameter.
const BOOL: usize = 1;
const INT: usize = 2;
const FLOAT: usize = 3;
const DECIMAL: usize = 4;
const TEXT: usize = 5;
const BYTES: usize = 6;
const UUID: usize = 7;
const TIMESTAMP: usize = 8;
const JSON: usize = 9;

/// As a client writes it; whether it is taken.
fn hostile() -> Vec<(usize, String, bool)> {
    let no = |column, texts: &[&str]| -> Vec<_> {
        let of = |text: &&str| (column, (*text).to_owned(), false);
        texts.iter().map(of).collect()
    };
    let yes = |column, texts: &[&str]| -> Vec<_> {
        let of = |text: &&str| (column, (*text).to_owned(), true);
        texts.iter().map(of).collect()
    };
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    let mut all = [
        no(BOOL, &["1", "0", r#""true""#, r#""t""#, "[]"]),
        yes(
            INT,
            &["-9223372036854775808", r#""9223372036854775807""#, "-0"],
        ),
        no(
            INT,
            &[
                "9223372036854775808",
                r#""-9223372036854775809""#,
                "1e400",
                "1e3",
                "1.0",
                r#""0x10""#,
                r#"" 1""#,
                r#""\u0661""#,
                r#""""#,
            ],
        ),
        yes(
            FLOAT,
            &[
                "1.7976931348623157e308",
                "5e-324",
                "-0.0",
                "1e-400",
                "9007199254740993",
            ],
        ),
        no(
            FLOAT,
            &["1e400", "-1e400", r#""NaN""#, r#""Infinity""#, r#""1""#],
        ),
        no(
            DECIMAL,
            &[
                "1",
                r#""1e1000000000""#,
                r#""1E5""#,
                r#""NaN""#,
                r#""Infinity""#,
                r#""-""#,
                r#"".5""#,
                r#""5.""#,
                r#""1_000""#,
                r#""0x10""#,
                r#""1 ""#,
            ],
        ),
        yes(
            TEXT,
            &[
                r#""'; DROP TABLE types; --""#,
                r#""\\x00 $1 ${HOME} $$ $body$ %s""#,
                r#""\ud83d\ude00\ufeff\uffff\u007f\u0001\r\n\t""#,
            ],
        ),
        no(TEXT, &[r#""\u0000""#, r#""a\u0000b""#, "1", "{}"]),
        no(BYTES, &[r#""AA""#, r#""A===""#, r#""\\x00""#, "1"]),
        yes(UUID, &[r#""0190A2C4-7D1F-4C3E-9A55-0C1D2E3F4A5B""#]),
        no(
            UUID,
            &[
                r#""0190a2c4""#,
                r#""""#,
                r#""0190a2c4-7d1f-4c3e-9a55-0c1d2e3f4a5bb""#,
            ],
        ),
        yes(
            TIMESTAMP,
            &[
                r#""0001-01-01T00:00:00Z""#,
                r#""9999-12-31T23:59:59.999999999Z""#,
            ],
        ),
        no(
            TIMESTAMP,
            &[
                r#""infinity""#,
                r#""-infinity""#,
                r#""now""#,
                r#""epoch""#,
                r#""0000-12-31T23:59:59Z""#,
                r#""-0044-03-15T00:00:00Z""#,
                r#""10000-01-01T00:00:00Z""#,
                r#""0001-01-01T00:00:00+00:01""#,
                r#""9999-12-31T23:59:59-00:01""#,
                r#""2026-02-29T00:00:00Z""#,
                r#""2026-01-01T25:00:00Z""#,
                r#""2026-01-01""#,
                "0",
            ],
        ),
        yes(
            JSON,
            &[
                "1e308",
                "1e-300",
                "0.1234567890123456789012345678901234567890",
                "123456789012345678901234567890123456789",
                r#"{"a":1,"a":{"":[]}}"#,
                r#""\ud83d\ude00""#,
                r#""'; DROP TABLE types; --""#,
            ],
        ),
        no(
            JSON,
            &[
                r#""\u0000""#,
                r#"{"\u0000":1}"#,
                r#"[{"a":["\u0000"]}]"#,
                "1e309",
                "-1e400",
                "1e1000000000",
                "0e1000000000",
                "1e-20000",
            ],
        ),
    ]
    .concat();
    all.extend([
        (DECIMAL, quoted(&"9".repeat(1000)), true),
        (DECIMAL, quoted(&format!("-0.{}", "1".repeat(998))), true),
        (DECIMAL, quoted(&"9".repeat(1001)), false),
        (TEXT, quoted(&"\u{10FFFF}'\\".repeat(10_000)), true),
        (TEXT, r#""\ud800""#.to_owned(), false),
        (TEXT, r#""\udc00\ud800""#.to_owned(), false),
        (JSON, r#"["\ud800"]"#.to_owned(), false),
        (JSON, "NaN".to_owned(), false),
        (JSON, deep(90), true),
        (JSON, deep(100_000), false),
        (JSON, format!("0.{}", "1".repeat(16_384)), false),
        (JSON, format!("[{}0]", "0,".repeat(20_000)), true),
    ]);
    all
}

/// Whatever one database has taken the other takes: a stream that stops for a parameter would stop
/// for ever. And whatever is refused is refused before anything is written.
pub fn whatever_is_taken_arrives_exactly<B: Backend>(world: &World<B>) {
    let statement = world.catalogue.get("store").expect("statement");
    let mut batch = Vec::new();
    for (column, written, taken) in hostile() {
        let shown: String = written.chars().take(60).collect();
        let mut params = vec![Json::Null; 10];
        params[0] = json!(format!("{:03} {column}", batch.len()));
        let bound = serde_json::from_str(&written).ok().and_then(|json| {
            params[column] = json;
            statement.bind_json(&params).ok()
        });
        assert_eq!(bound.is_some(), taken, "{column} {shown}");
        batch.extend(bound.map(|params| prism_db::Submission {
            statement: statement.digest(),
            params,
            request_id: None,
        }));
    }
    arrives(world, &world.na, &world.eu, &batch);
    world.sql(&world.eu).run("DELETE FROM types");
    arrives(world, &world.eu, &world.asia, &batch);
}

fn arrives<B: Backend>(world: &World<B>, from: &Site, to: &Site, batch: &[prism_db::Submission]) {
    world.submit(from, batch);
    let outcome = world.ship(from, to);
    let executed = usize::try_from(outcome.executed).expect("a count");
    assert_eq!((executed, outcome.wait), (batch.len(), None));
    assert!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
    assert!(outcome.drift.is_empty(), "{:?}", outcome.drift);
    let rows = |site: &Site| world.sql(site).rows("SELECT * FROM types ORDER BY id");
    let (there, here) = (rows(from), rows(to));
    assert_eq!((there.len(), here.len()), (batch.len(), batch.len()));
    let alike = matches!(
        (&from.url, &to.url),
        (
            prism_db::DatabaseUrl::Sqlite(_),
            prism_db::DatabaseUrl::Sqlite(_)
        ) | (
            prism_db::DatabaseUrl::Postgres(_),
            prism_db::DatabaseUrl::Postgres(_)
        )
    );
    for (a, b) in there.iter().zip(&here) {
        if alike {
            assert_eq!(a, b);
            continue;
        }
        // Two backends write some types in two ways; these are the same in all of them.
        for column in [0, INT, DECIMAL, TEXT, UUID] {
            assert_eq!(a[column], b[column], "{}", a[0]);
        }
        if a[JSON] != "NULL" {
            let parsed = |text: &str| serde_json::from_str::<Json>(text).expect("JSON");
            let (a, b) = (parsed(&a[JSON]), parsed(&b[JSON]));
            // PostgreSQL writes numbers without an exponent.
            let equal = a == b || a.as_f64().is_some_and(|n| b.as_f64() == Some(n));
            assert!(equal, "{a} {b}");
        }
    }
}
