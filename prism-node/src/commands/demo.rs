//! `prism demo`.

use crate::cli::{CliError, DemoArgs, DemoDatabase};
use crate::demo::{self, Backend, DemoError, DemoOptions};

/// Shows the whole ladder on this machine.
///
/// # Errors
/// The databases differ, or something could not be started.
pub fn run(args: &DemoArgs) -> Result<(), CliError> {
    let options = DemoOptions {
        updates: args.updates,
        loss: args.loss,
        database: match args.database {
            DemoDatabase::Sqlite => Backend::Sqlite,
            DemoDatabase::Postgres => Backend::Postgres,
        },
        json: args.json,
    };
    match demo::run(&options) {
        Ok(true) => Ok(()),
        Ok(false) => Err(CliError::Said),
        Err(DemoError::Usage(words)) => Err(CliError::Usage(words)),
        Err(error) => Err(CliError::failed(error)),
    }
}
