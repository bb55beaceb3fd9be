//! Rebuilding a region's database from a healthy region's, and adding a region: `prism adopt`.
//!
//! Everybody else goes on writing meanwhile. The order of the steps makes each of them harmless if
//! it is the last:
//!
//! 1. what the old database can still deliver of its own stream is delivered;
//! 2. the old database is *sealed*: nobody writes into it any more;
//! 3. every other region is *fenced*: its watermark of the target's stream gets the new epoch but
//!    keeps its number, so that nothing of the old numbering is applied any more, and its lane to
//!    the target goes back to where the donor is, so that no row is trimmed that the target will need;
//! 4. the donor's database, ledger and data in one snapshot, replaces the target's in *one
//!    transaction* that also gives it its own name and numbering. There is no state in between.
//!
//! The new epoch does not begin at 1 but continues behind the last update of the old epoch that the
//! donor had. Numbers that stand elsewhere without an epoch (what an update had seen, a request's
//! number) keep their meaning; and a region that had applied another number of them than the donor
//! is found out at the first contact (its position is behind the outbox, or ahead of the stream)
//! instead of differing silently for ever.

mod error;
mod pg_copy;
mod pg_tools;
mod postgres;
mod sqlite;
mod steps;

use std::path::Path;
use std::sync::Arc;

use prism_proto::{Epoch, Position, RegionKey, Seq};

use crate::catalogue::Catalogue;
use crate::{DatabaseUrl, DbError, Topology};

pub use error::AdoptError;
pub use steps::{Adopted, Loss, adopt, finish};

/// A region and the ways to its database, best first.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its name.
    pub region: String,
    /// Its key.
    pub key: RegionKey,
    /// Addresses of the same database.
    pub addresses: Vec<DatabaseUrl>,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Adoption {
    /// The region whose database is made anew.
    pub target: String,
    /// The healthy region whose database is copied.
    pub donor: String,
    /// All regions of the configuration.
    pub sites: Vec<Site>,
    /// All statements.
    pub catalogue: Arc<Catalogue>,
    /// Regions that are left out: they cannot be reached now.
    pub without: Vec<String>,
    /// What the target's database holds may be overwritten.
    pub overwrite: bool,
    /// Go on although the target's nodes seem to run, or what it has cannot be delivered.
    pub force: bool,
}

impl Adoption {
    fn topology(&self, region: &str) -> Topology {
        Topology {
            region: region.to_owned(),
            regions: self
                .sites
                .iter()
                .map(|s| (s.region.clone(), s.key))
                .collect(),
        }
    }

    fn key(&self, region: &str) -> Option<RegionKey> {
        self.sites
            .iter()
            .find(|s| s.region == region)
            .map(|s| s.key)
    }
}

/// What a database holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    /// Name of the region whose ledger it has.
    ledger: Option<String>,
    /// Tables of the application.
    tables: u64,
    /// Nodes that were heard of within the last seconds, and when, by the database's clock.
    nodes: Vec<(String, i64)>,
}

/// A name that no region can have: the database takes part in nothing any more.
fn sealed(target: &str) -> String {
    format!("{target} (being rebuilt)")
}

/// How the copy of the donor's ledger becomes the target's.
#[derive(Debug, Clone)]
struct Change<'a> {
    target: &'a str,
    donor: &'a str,
    donor_key: RegionKey,
    epoch: Epoch,
}

/// What adopting does to a database beyond the verbs of [`crate::Database`].
trait Side {
    /// What is there.
    fn look(&mut self) -> Result<Look, DbError>;

    /// This database's watermark of `target` gets `epoch`, and its lane to `target` begins anew
    /// behind `lane` (`None`: the lane stays); nothing of the old numbering is told to anybody any
    /// more. Returns how far the watermark is. One transaction.
    fn fence(
        &mut self,
        target: &str,
        epoch: Epoch,
        lane: Option<Position>,
    ) -> Result<Position, DbError>;

    /// From now on nobody can take this for a region's database, and no stream continues in it.
    fn seal(&mut self, target: &str) -> Result<(), DbError>;
}

fn side(url: &DatabaseUrl) -> Result<Box<dyn Side>, DbError> {
    match url {
        DatabaseUrl::Postgres(url) => Ok(Box::new(postgres::PgSide::open(url)?)),
        DatabaseUrl::Sqlite(path) => Ok(Box::new(sqlite::SqliteSide::open(path)?)),
    }
}

/// Puts a copy of the donor's database into the target's place, changed into the target's.
fn copy(
    donor: &DatabaseUrl,
    target: &DatabaseUrl,
    change: &Change<'_>,
    settle: &mut dyn FnMut(),
    tell: &mut dyn FnMut(&str),
) -> Result<(), AdoptError> {
    match (donor, target) {
        (DatabaseUrl::Postgres(donor), DatabaseUrl::Postgres(target)) => {
            pg_copy::copy(donor, target, change, settle, tell)
        }
        (DatabaseUrl::Sqlite(donor), DatabaseUrl::Sqlite(target)) => {
            sqlite::copy(donor, target, change, settle, tell)
        }
        _ => Err(AdoptError::Kinds),
    }
}

/// A file of the target that holds the copy until it is complete.
fn beside(target: &Path) -> std::path::PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".adopt");
    name.into()
}

/// A node that was heard of longer ago does not run. (Nodes beat once a second.)
const BEAT_SECONDS: i64 = 10;

fn before(next: Seq) -> Seq {
    Seq(next.0.saturating_sub(1))
}
