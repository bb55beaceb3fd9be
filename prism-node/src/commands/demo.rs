//! `prism demo`.

use crate::cli::{CliError, DemoArgs};

/// Shows the whole ladder on this machine.
///
/// # Errors
/// The databases differ, or something could not be started.
pub fn run(_args: &DemoArgs) -> Result<(), CliError> {
    Err(CliError::Failed("the demo is not built yet".to_owned()))
}
