//! `prism adopt`: a region's database made anew from a healthy one.

use std::io::{Write, stdout};
use std::time::Duration;

use prism_db::adopt::{AdoptError, Adopted, Adoption, Site, adopt, finish};

use super::{program, quote};
use crate::cli::{AdoptArgs, CliError};
use crate::client::{Client, ClientError};
use crate::config::{Config, Node};

/// For a node that hangs: it may go on later.
const NODE_TIMEOUT: Duration = Duration::from_secs(3);

/// Rebuilds the region, or adds it, or tells a region about it that could not be told before.
///
/// # Errors
/// Exit status 2 for names that are not in the configuration, 1 if it could not be done.
pub fn run(args: &AdoptArgs) -> Result<(), CliError> {
    let config = args.config.load()?;
    let names: Vec<_> = config.regions.iter().map(|r| r.name.as_str()).collect();
    let donor = args.from.as_deref().unwrap_or_default();
    let asked = [args.region.as_str()].into_iter();
    let asked = asked.chain(args.from.as_deref());
    for name in asked.chain(args.without.iter().map(String::as_str)) {
        if !names.contains(&name) {
            return Err(CliError::Usage(format!(
                "{} has no region \"{name}\"; its regions are {}",
                config.path.display(),
                names.join(", ")
            )));
        }
    }
    if args.region == donor {
        return Err(CliError::Usage(AdoptError::SameRegion.to_string()));
    }
    if args.without.iter().any(|n| *n == args.region || n == donor) {
        let text =
            "--without is for regions other than the rebuilt one and the one it is copied from";
        return Err(CliError::Usage(text.to_owned()));
    }
    if !args.finish && !args.force {
        let running = running(&config, &args.region);
        if !running.is_empty() {
            return Err(CliError::failed(AdoptError::NodesRun(running)));
        }
    }
    let adoption = Adoption {
        target: args.region.clone(),
        donor: donor.to_owned(),
        sites: config
            .regions
            .iter()
            .map(|region| {
                // As other regions reach it: that means the same database from everywhere.
                let mut addresses = vec![region.direct.clone()];
                if region.database != region.direct {
                    addresses.push(region.database.clone());
                }
                Site {
                    region: region.name.clone(),
                    key: region.key,
                    addresses,
                }
            })
            .collect(),
        catalogue: config.catalogue.clone(),
        without: args.without.clone(),
        overwrite: args.yes,
        force: args.force,
    };
    let mut tell = |line: &str| {
        let mut out = stdout().lock();
        // Whoever reads this may have gone; the work goes on.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    };
    let done = if args.finish {
        finish(&adoption, &mut tell)
    } else {
        adopt(&adoption, &mut tell)
    };
    report(&config, args, &done.map_err(CliError::failed)?)
}

/// Nodes of the region that answer, or that hang instead of refusing.
fn running(config: &Config, region: &str) -> Vec<String> {
    let Some(region) = config.region_named(region) else {
        return Vec::new();
    };
    let credentials = config.http_credentials().unwrap_or_default();
    let nodes: Vec<&Node> = region.nodes.iter().map(|id| config.node(*id)).collect();
    std::thread::scope(|scope| {
        let asking: Vec<_> = nodes
            .iter()
            .map(|node| {
                let client = Client::new(node, &credentials, NODE_TIMEOUT);
                scope.spawn(move || client.get::<serde_json::Value>("/v1/status"))
            })
            .collect();
        nodes
            .iter()
            .zip(asking)
            .filter_map(|(node, answer)| match answer.join() {
                Ok(Err(ClientError::Unreachable { refused: true, .. })) => None,
                _ => Some(node.name.clone()),
            })
            .collect()
    })
}

fn report(config: &Config, args: &AdoptArgs, done: &Adopted) -> Result<(), CliError> {
    let mut out = stdout().lock();
    for warning in &done.warnings {
        writeln!(out, "WARNING: {warning}")?;
    }
    let name = &args.region;
    let file = quote(&args.config.config);
    if !done.missing.is_empty() {
        let missing = done.missing.join(", ");
        writeln!(
            out,
            "{missing} has not been told of the new numbering and refuses {name}'s updates until then. \
             Once its database is back:\n    {} adopt {name} --finish --config {file}",
            program()
        )?;
    }
    if args.finish {
        writeln!(
            out,
            "all regions know the numbering {:016x} of {name}",
            done.epoch.0
        )?;
        return Ok(());
    }
    writeln!(
        out,
        "{name} is rebuilt: epoch {:016x}, its next update is {}",
        done.epoch.0, done.first.0
    )?;
    let nodes = config.region_named(name).map(|r| r.nodes.as_slice());
    let nodes: Vec<_> = nodes
        .unwrap_or_default()
        .iter()
        .map(|id| config.node(*id).name.as_str())
        .collect();
    writeln!(
        out,
        "next: start {}; if {name} is new, restart the nodes of the other regions with this \
         configuration, one by one, before `retention` is over",
        nodes.join(", ")
    )?;
    Ok(())
}
