//! `prism skip`: past an update that a region's database does not take.

use std::io::{Write, stdout};

use prism_proto::Seq;

use super::databases::{failed, find_region, open};
use crate::cli::{CliError, SkipArgs};

/// Tells the region's database to record the update as rejected instead of executing it.
///
/// # Errors
/// Exit status 1 if it is not the next one, 2 if there is no such region.
pub fn run(args: &SkipArgs) -> Result<(), CliError> {
    let config = args.config.load()?;
    let region = find_region(&config, &args.region)?;
    let stream = find_region(&config, &args.stream)?;
    if stream.id == region.id {
        return Err(CliError::Usage(format!(
            "{} does not apply its own stream; --region names the region that is stuck",
            region.name
        )));
    }
    let (name, seq) = (&stream.name, Seq(args.seq));
    let mut database = open(&config, region)?;
    let at = database.position(name).map_err(|e| failed(region, &e))?;
    if seq > at.seq.next() {
        return Err(CliError::Failed(format!(
            "{} is at {} of {name}: the next one is {}, and no other can be skipped",
            region.name,
            at.seq.0,
            at.seq.next().0
        )));
    }
    let done = database.skip(name, seq).map_err(|e| failed(region, &e))?;
    if !done {
        return Err(CliError::Failed(format!(
            "{} is past {} of {name} already; it is at {}",
            region.name, seq.0, at.seq.0
        )));
    }
    writeln!(
        stdout().lock(),
        "{} will record update {} of {name} as a dead letter and go on; see: prism rejected list --region {}",
        region.name,
        seq.0,
        region.name
    )?;
    Ok(())
}
