//! `prism node`: runs a node until it is told to stop.

use crate::cli::{CliError, NodeArgs, find_node};

/// Runs until SIGTERM or SIGINT has drained it.
///
/// # Errors
/// Exit status 2 for a wrong configuration, 1 if the node cannot start.
pub fn run(args: &NodeArgs) -> Result<(), CliError> {
    let config = args.config.load()?;
    find_node(&config, &args.node)?;
    Err(CliError::Failed("the node is not built yet".to_owned()))
}
