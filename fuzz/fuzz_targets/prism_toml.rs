//! Any text as prism.toml, catalogue included: a configuration or errors with their places.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use prism_node::config::Config;

fuzz_target!(|text: &str| {
    let env = |name: &str| (name.len() < 8).then(|| name.to_lowercase());
    match Config::parse_with(text, Path::new("prism.toml"), &env) {
        Ok(config) => drop(config),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
