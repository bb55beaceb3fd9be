//! Opening and migrating, whichever the backend.

use std::sync::Arc;
use std::time::Duration;

use crate::catalogue::Catalogue;
use crate::{Database, DatabaseUrl, DbError, Granted, Inspection, MAX_UPDATE, RegionRow, Topology};

/// What a connection needs to know.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Names of the regions; `topology.region` is the one whose database is opened.
    pub topology: Topology,
    /// All statements.
    pub catalogue: Arc<Catalogue>,
    /// Deadline of a connection attempt.
    pub connect_timeout: Duration,
    /// Deadline of one call.
    pub statement_timeout: Duration,
    /// Longest wait for another transaction's lock; then the call fails as transient.
    pub lock_timeout: Duration,
    /// Most bytes of an encoded update.
    pub max_update: usize,
}

impl OpenOptions {
    /// Usual deadlines, the format's largest update.
    #[must_use]
    pub fn new(topology: Topology, catalogue: Arc<Catalogue>) -> Self {
        Self {
            topology,
            catalogue,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(2),
            max_update: MAX_UPDATE,
        }
    }
}

/// What a migration found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The region as it is now.
    pub region: RegionRow,
    /// Schema version before; 0 if there was none.
    pub from_version: u32,
    /// Schema version now.
    pub to_version: u32,
    /// Regions whose watermark row (and lane row) were added.
    pub added_regions: Vec<String>,
    /// Names of the statements whose version was added.
    pub added_statements: Vec<String>,
}

/// A connection to a region's database. Lazy: connects at the first call, and again after a loss.
///
/// # Errors
/// [`DbError::Unreachable`] if the address itself is unusable.
pub fn open(url: &DatabaseUrl, options: OpenOptions) -> Result<Box<dyn Database>, DbError> {
    match url {
        DatabaseUrl::Sqlite(path) => Ok(Box::new(crate::sqlite::Sqlite::new(path, options))),
        DatabaseUrl::Postgres(url) => crate::postgres::open(url, options),
    }
}

/// Creates or upgrades the schema, the region's row, a watermark and a lane per configured peer,
/// and the versions of the statements. Idempotent; only this creates anything.
///
/// # Errors
/// [`DbError::Schema`] if the database belongs to another region or to a newer version.
pub fn migrate(
    url: &DatabaseUrl,
    topology: &Topology,
    catalogue: &Catalogue,
) -> Result<Migrated, DbError> {
    match url {
        DatabaseUrl::Sqlite(path) => crate::sqlite::migrate(path, topology, catalogue),
        DatabaseUrl::Postgres(url) => crate::postgres::migrate(url, topology, catalogue),
    }
}

/// Makes a role that can run nodes and little else, if it is not there, and grants it what it lacks.
/// The address is that of the schema's owner. `None`: SQLite, which has no roles.
///
/// # Errors
/// [`DbError`].
pub fn create_role(
    url: &DatabaseUrl,
    role: &str,
    catalogue: &Catalogue,
) -> Result<Option<Granted>, DbError> {
    match url {
        DatabaseUrl::Sqlite(_) => Ok(None),
        DatabaseUrl::Postgres(url) => crate::postgres::create_role(url, role, catalogue).map(Some),
    }
}

/// What the role of this address lacks for running a node, and what it has too much. `None`: SQLite.
///
/// # Errors
/// [`DbError`].
pub fn inspect_role(
    url: &DatabaseUrl,
    catalogue: &Catalogue,
) -> Result<Option<Inspection>, DbError> {
    match url {
        DatabaseUrl::Sqlite(_) => Ok(None),
        DatabaseUrl::Postgres(url) => crate::postgres::inspect_role(url, catalogue).map(Some),
    }
}
