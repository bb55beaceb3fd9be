//! `prism migrate`: creates and upgrades, database by database.

use std::io::{Write, stdout};

use prism_db::{DatabaseUrl, DbError, Granted, Migrated};

use crate::cli::{CliError, MigrateArgs};
use crate::config::{Config, Region};
use crate::words::harmless;

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
    let mut out = stdout().lock();
    if args.print {
        let role = args.role.as_deref().unwrap_or_default();
        let script = prism_db::role_script(role, &config.catalogue).map_err(CliError::Usage)?;
        write!(out, "{script}")?;
        return Ok(());
    }
    let mut failed = false;
    for region in chosen {
        if let Err((url, e)) = one(args, &config, region, &mut out)? {
            failed = true;
            writeln!(out, "{}: FAILED: {}", region.name, harmless(&e.to_string()))?;
            if matches!(e, DbError::Unreachable(_)) {
                writeln!(
                    out,
                    "    fix: start {url} or correct it in the configuration"
                )?;
            }
        }
    }
    if failed { Err(CliError::Said) } else { Ok(()) }
}

/// A region's schema, and the role if one is asked for.
fn one(
    args: &MigrateArgs,
    config: &Config,
    region: &Region,
    out: &mut impl Write,
) -> std::io::Result<Result<(), (DatabaseUrl, DbError)>> {
    let url = match &args.login {
        None => region.database.clone(),
        Some(user) => {
            let password = std::env::var("PGPASSWORD").ok();
            region.database.with_login(user, password.as_deref())
        }
    };
    let topology = config.topology(region.id);
    match prism_db::migrate(&url, &topology, &config.catalogue) {
        Ok(done) => writeln!(out, "{}", describe(region, &done))?,
        Err(e) => return Ok(Err((url, e))),
    }
    let Some(role) = &args.role else {
        return Ok(Ok(()));
    };
    match prism_db::create_role(&url, role, &config.catalogue) {
        Ok(None) => writeln!(out, "{}: SQLite has no roles", region.name)?,
        Ok(Some(granted)) => tell(region, role, &granted, out)?,
        Err(e) => return Ok(Err((url, e))),
    }
    Ok(Ok(()))
}

fn tell(
    region: &Region,
    role: &str,
    granted: &Granted,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let name = &region.name;
    if granted.created {
        writeln!(
            out,
            "{name}: role {role} created; give it a password (psql: \\password), and write it into \
             `database` of {name}"
        )?;
    } else {
        writeln!(out, "{name}: role {role} has its grants")?;
    }
    for remark in &granted.remarks {
        writeln!(out, "    {}", harmless(remark))?;
    }
    Ok(())
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
