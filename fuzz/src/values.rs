//! Any JSON as the parameters of a statement with one parameter of each type: bound to what every
//! backend can store, or refused; and what was bound is the same after JSON and after the wire.

use std::sync::LazyLock;

use prism_db::catalogue::{Catalogue, StatementConfig};
use prism_db::{Digest, Hlc, ParamType, Update, Value, body_digest};
use prism_proto::Tag;

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    let config: StatementConfig = serde_json::from_value(serde_json::json!({
        "name": "all",
        "sql": "INSERT INTO t VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        "params": ParamType::ALL.map(ParamType::name),
        "kind": "insert",
    }))
    .expect("a statement");
    Catalogue::load(&[config]).expect("a catalogue")
});

/// See the module.
pub fn run(bytes: &[u8]) {
    let Ok(serde_json::Value::Array(given)) = serde_json::from_slice(bytes) else {
        return;
    };
    let statement = CATALOGUE.get("all").expect("it is there");
    match statement.bind_request(&given, &[7; 16]) {
        Ok(values) => {
            assert!(statement.accepts(&values));
            assert!(values.iter().all(Value::is_valid));
            let update = Update {
                tag: Tag(1),
                prev_tag: Tag(2),
                statement: Digest([3; 16]),
                params: values.clone(),
                old: Vec::new(),
                hlc: Hlc(4),
                rows: 5,
                seen: Vec::new(),
                undoes: None,
                held: false,
                request_id: None,
            };
            let encoded = update.encode();
            if encoded.len() <= prism_db::MAX_UPDATE {
                assert_eq!(Update::decode(&encoded).as_ref(), Ok(&update));
            }
            let again = statement.bind_request(&given, &[7; 16]).expect("as before");
            let types = statement.params();
            let caller = &values[..statement.caller_params().count()];
            assert!(statement.bind(caller).is_ok(), "what was bound can be bound");
            assert_eq!(
                body_digest("all", types, &values),
                body_digest("all", types, &again),
                "a retry of the same body"
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = statement.bind_json(&given);
    // Each alone, so that one that does not fit hides no other.
    for json in &given {
        for ty in ParamType::ALL {
            let Ok(value) = Value::from_json(ty, json) else {
                continue;
            };
            assert!(value.is_valid() && value.fits(ty));
            let text = value.to_json().to_string();
            let read = serde_json::from_str(&text).expect("own JSON is readable");
            assert_eq!(Value::from_json(ty, &read), Ok(value), "{ty} as {text}");
        }
    }
}
