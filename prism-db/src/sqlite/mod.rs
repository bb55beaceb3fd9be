//! SQLite: being built.
use std::path::Path;

use crate::catalogue::Catalogue;
use crate::{DbError, Migrated, Topology};

const MISSING: &str = "the SQLite backend is not part of this build yet";

/// Creates or upgrades the schema.
pub(crate) fn migrate(_: &Path, _: &Topology, _: &Catalogue) -> Result<Migrated, DbError> {
    Err(DbError::Unreachable(MISSING.to_owned()))
}
