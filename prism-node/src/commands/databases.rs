//! Commands that speak with a region's database themselves, whether or not a node runs.

use std::sync::Arc;

use prism_db::{Database, DbError, OpenOptions};

use crate::cli::CliError;
use crate::config::{Config, Region};

/// A region by name, or which names there are.
///
/// # Errors
/// Exit status 2.
pub(super) fn find_region<'c>(config: &'c Config, name: &str) -> Result<&'c Region, CliError> {
    config.region_named(name).ok_or_else(|| {
        let names: Vec<_> = config.regions.iter().map(|r| r.name.as_str()).collect();
        CliError::Usage(format!(
            "{} has no region \"{name}\"; its regions are {}",
            config.path.display(),
            names.join(", ")
        ))
    })
}

/// The region's database, as its own nodes reach it. Connects with the first call.
///
/// # Errors
/// Exit status 1.
pub(super) fn open(config: &Config, region: &Region) -> Result<Box<dyn Database>, CliError> {
    let topology = config.topology(region.id);
    let options = OpenOptions {
        max_update: config.limits.max_update as usize,
        ..OpenOptions::new(topology, Arc::clone(&config.catalogue))
    };
    prism_db::open(&region.database, options).map_err(|e| failed(region, &e))
}

/// What went wrong, where, and what to do.
pub(super) fn failed(region: &Region, error: &DbError) -> CliError {
    let fix = match error {
        DbError::Unreachable(_) => format!(
            "\n    fix: start {} or correct it in the configuration",
            region.database
        ),
        DbError::Schema(_) => format!("\n    fix: prism migrate --region {}", region.name),
        DbError::Ambiguous(_) => "\n    it may or may not have happened: look again".to_owned(),
        _ => String::new(),
    };
    CliError::Failed(format!("the database of {}: {error}{fix}", region.name))
}
