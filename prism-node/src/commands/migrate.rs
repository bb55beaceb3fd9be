//! `prism migrate`: creates and upgrades, database by database.

use std::io::{Write, stdout};

use prism_db::{DbError, Migrated};

use crate::cli::{CliError, MigrateArgs};
use crate::config::Region;

/// Migrates all regions or one; one that fails does not stop the others.
///
/// # Errors
/// Exit status 1 if a database could not be migrated.
pub fn run(args: &MigrateArgs) -> Result<(), CliError> {
    let config = args.config.load()?;
    let chosen: Vec<&Region> = match &args.region {
        None => config.regions.iter().collect(),
        Some(name) => vec![config.region_named(name).ok_or_else(|| {
            let names: Vec<_> = config.regions.iter().map(|r| r.name.as_str()).collect();
            CliError::Usage(format!(
                "{} has no region \"{name}\"; its regions are {}",
                config.path.display(),
                names.join(", ")
            ))
        })?],
    };
    let mut failed = false;
    let mut out = stdout().lock();
    for region in chosen {
        let topology = config.topology(region.id);
        match prism_db::migrate(&region.database, &topology, &config.catalogue) {
            Ok(done) => writeln!(out, "{}", describe(region, &done))?,
            Err(e) => {
                failed = true;
                writeln!(out, "{}: FAILED: {e}", region.name)?;
                if matches!(e, DbError::Unreachable(_)) {
                    let url = &region.database;
                    writeln!(
                        out,
                        "    fix: start {url} or correct it in the configuration"
                    )?;
                }
            }
        }
    }
    if failed { Err(CliError::Said) } else { Ok(()) }
}

fn describe(region: &Region, done: &Migrated) -> String {
    let mut text = match (done.from_version, done.to_version) {
        (0, to) => format!("{}: schema {to} created", region.name),
        (from, to) if from == to => format!("{}: schema {to} is up to date", region.name),
        (from, to) => format!("{}: schema upgraded from {from} to {to}", region.name),
    };
    if !done.added_regions.is_empty() {
        text.push_str(&format!(
            ", regions {} added",
            done.added_regions.join(", ")
        ));
    }
    if !done.added_statements.is_empty() {
        text.push_str(&format!(
            ", statements {} added",
            done.added_statements.join(", ")
        ));
    }
    text
}
