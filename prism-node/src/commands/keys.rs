//! `prism keygen` and `prism pubkey`.

use std::io::{Write, stdout};

use crate::cli::{CliError, KeygenArgs, PubkeyArgs};
use crate::keys::SecretKey;

/// Makes a key.
///
/// # Errors
/// An existing file is not overwritten.
pub fn keygen(args: &KeygenArgs) -> Result<(), CliError> {
    let key = SecretKey::generate().map_err(CliError::failed)?;
    match &args.file {
        Some(path) => key.write_new(path).map_err(CliError::failed),
        None => Ok(writeln!(stdout(), "{}", *key.encode())?),
    }
}

/// Prints a public key.
///
/// # Errors
/// A file that is missing, readable by others, or no key.
pub fn pubkey(args: &PubkeyArgs) -> Result<(), CliError> {
    let key = SecretKey::read(&args.file).map_err(CliError::failed)?;
    Ok(writeln!(stdout(), "{}", key.public())?)
}
