//! Any JSON as the parameters of a statement with one parameter of each type.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use prism_db::catalogue::{Catalogue, StatementConfig};

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    let config: StatementConfig = serde_json::from_value(serde_json::json!({
        "name": "all",
        "sql": "INSERT INTO t VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        "params": ["bool", "int", "float", "decimal", "text", "bytes", "uuid", "timestamp",
                   "json", "gen_uuid", "gen_now"],
        "kind": "insert",
    }))
    .expect("a statement");
    Catalogue::load(&[config]).expect("a catalogue")
});

fuzz_target!(|text: &str| {
    let Ok(serde_json::Value::Array(given)) = serde_json::from_str(text) else {
        return;
    };
    let statement = CATALOGUE.get("all").expect("it is there");
    match statement.bind_json(&given) {
        Ok(values) => assert!(statement.accepts(&values)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
