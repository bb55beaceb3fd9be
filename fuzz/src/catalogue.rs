//! Any statements as the catalogue: checked, or refused with a fix; and what is stored of one in a
//! database reads back as the same version.

use prism_db::catalogue::{Catalogue, Statement, StatementConfig};

/// See the module.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(statement) = Statement::from_definition(text) {
        same(&statement);
    }
    let configs: Vec<StatementConfig> = match serde_json::from_str(text) {
        Ok(configs) => configs,
        // Plain SQL: the same text in every place.
        Err(_) => [("insert", None), ("delta", Some(text))]
            .into_iter()
            .filter_map(|(kind, other)| {
                serde_json::from_value(serde_json::json!({
                    "name": kind, "sql": text, "params": ["text", "int"], "kind": kind,
                    "undo": other, "old": other,
                }))
                .ok()
            })
            .collect(),
    };
    match Catalogue::load(&configs) {
        Ok(catalogue) => {
            assert_eq!(catalogue.iter().count(), configs.len());
            for statement in catalogue.iter() {
                same(statement);
                assert!(catalogue.by_digest(&statement.digest()).is_some());
            }
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            assert!(errors.iter().all(|e| !e.to_string().is_empty()));
        }
    }
}

fn same(statement: &Statement) {
    let stored = statement.definition();
    let again = Statement::from_definition(&stored).expect("own writing is readable");
    assert_eq!(again.digest(), statement.digest(), "{stored}");
}
