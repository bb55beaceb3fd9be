//! PostgreSQL: being built.

use crate::catalogue::Catalogue;
use crate::{Database, DbError, Migrated, OpenOptions, Topology};

const MISSING: &str = "the PostgreSQL backend is not part of this build yet";

/// A lazy connection.
pub(crate) fn open(_url: &str, _options: OpenOptions) -> Result<Box<dyn Database>, DbError> {
    Err(DbError::Unreachable(MISSING.to_owned()))
}

/// Creates or upgrades the schema.
pub(crate) fn migrate(
    _url: &str,
    _topology: &Topology,
    _catalogue: &Catalogue,
) -> Result<Migrated, DbError> {
    Err(DbError::Unreachable(MISSING.to_owned()))
}
