//! Any text as prism.toml, catalogue included: a configuration whose references hold, or errors
//! with their places.

use std::path::Path;

use prism_node::config::Config;

/// See the module.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let env = |name: &str| (name.len() < 8).then(|| name.to_lowercase());
    match Config::parse_with(text, Path::new("prism.toml"), &env) {
        Ok(config) => {
            assert!(!config.regions.is_empty() && !config.nodes.is_empty());
            for node in &config.nodes {
                let _ = config.region(node.region);
                assert!(config.node_named(&node.name).is_some());
            }
            for statement in config.catalogue.iter() {
                let named = config.catalogue.get(statement.name());
                assert_eq!(named.map(|s| s.digest()), Some(statement.digest()));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
