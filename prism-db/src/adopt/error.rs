//! Why a region could not be adopted.

use crate::DbError;
use crate::adopt::Loss;

/// What stands in the way. Unless it says otherwise, nothing has been changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// Not in the configuration.
    #[error("there is no region {0} in the configuration")]
    UnknownRegion(String),
    /// Nothing to copy.
    #[error("a region cannot be rebuilt from itself: name another, healthy one with --from")]
    SameRegion,
    /// A database does not answer, or not usably.
    #[error("the {role}'s database ({region}) cannot be used: {error}")]
    Database {
        /// What it is here.
        role: &'static str,
        /// Whose.
        region: String,
        /// Why.
        error: DbError,
    },
    /// Neither target nor donor.
    #[error(
        "the database of {region} cannot be reached: {error}\n    every other region has to know of \
         the new numbering: bring it back and run this again; or go on with `--without {region}`, and \
         once it is back run the command that is printed then"
    )]
    Other {
        /// Whose.
        region: String,
        /// Why.
        error: DbError,
    },
    /// PostgreSQL from SQLite, or the other way round.
    #[error("donor and target must both be PostgreSQL, or both SQLite")]
    Kinds,
    /// The address leads to another region's database.
    #[error(
        "the address of {region} leads to the database of region {found}: correct `database` (or \
         `direct`) of {region}"
    )]
    Foreign {
        /// Whose address.
        region: String,
        /// Who is there.
        found: String,
    },
    /// The donor is no model.
    #[error("{donor} is not fit to be copied: {why}; choose another region with --from")]
    Donor {
        /// Which.
        donor: String,
        /// Why.
        why: String,
    },
    /// Somebody serves the region.
    #[error(
        "nodes of the region seem to run ({}): stop them first, or say --force if they are gone for \
         certain",
        .0.join(", ")
    )]
    NodesRun(Vec<String>),
    /// The target holds something.
    #[error("{0}\n    say --yes to overwrite it")]
    NotEmpty(Loss),
    /// What the target has accepted does not get to the others.
    #[error(
        "updates of {target} up to {upto} are not in {region} yet and cannot be written there: \
         {detail}\n    mend that, or say --force to lose them"
    )]
    Undelivered {
        /// The region to be rebuilt.
        target: String,
        /// Who does not have them.
        region: String,
        /// Last one.
        upto: u64,
        /// The database's words.
        detail: String,
    },
    /// Awaited writes never pause.
    #[error(
        "{donor} has an awaited write under way all the time: a copy made now would lack half of it. \
         Nothing was copied; pause the awaited writes there and run this again"
    )]
    Held {
        /// The donor.
        donor: String,
    },
    /// No client programs.
    #[error(
        "no pg_dump and psql of PostgreSQL {needed} or newer found: install them (Debian, Ubuntu: \
         `apt-get install postgresql-client`; Fedora: `dnf install postgresql`; macOS: `brew install \
         libpq`), or set PRISM_PG_BIN to the directory that holds them"
    )]
    NoPrograms {
        /// Version of the server.
        needed: u32,
    },
    /// A client program failed.
    #[error("{program} failed, the target's database is as it was: {detail}")]
    Program {
        /// Which.
        program: &'static str,
        /// Its last words.
        detail: String,
    },
    /// The operating system refused.
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
    /// A region has given the target up while it was being copied.
    #[error(
        "the copy is made, but {0} has meanwhile kept more for the region than max_backlog allows \
         and has given it up: raise [limits] max_backlog there (restart its nodes) and run this again"
    )]
    GivenUp(String),
    /// `--finish` and a target that is not rebuilt.
    #[error("the database of {0} has not been rebuilt: run prism adopt without --finish")]
    NotRebuilt(String),
    /// The others are fenced, the copy was not made.
    #[error("{0}")]
    Copy(DbError),
}
