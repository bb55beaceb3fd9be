//! What touches databases: catalogue, ledger, outbox, apply, direct SQL.
//!
//! Two backends (PostgreSQL, SQLite) implement one trait, [`Database`], whose verbs are whole
//! transactions. Everything that is decided (splitting a batch, bisecting a refusal, waiting for a
//! dependency, dead letters) is written once above it: [`submit`], [`apply`].
#![forbid(unsafe_code)]

mod database;
mod error;
#[cfg(unix)]
pub mod throwaway;
mod update;
mod value;

pub use database::{
    ApplyItem, ApplyReport, ApplyRequest, Committed, Database, Drift, ItemAction, LaneRow,
    RegionRow, RejectedRow, Submission, Topology,
};
pub use error::{DbError, ErrorClass};
pub use update::{Digest, Hlc, Update, UpdateError};
pub use value::{ParamType, Value};
