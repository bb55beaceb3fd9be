//! What touches databases: catalogue, ledger, outbox, apply, direct SQL.
//!
//! Two backends (PostgreSQL, SQLite) implement one trait, [`Database`], whose verbs are whole
//! transactions. Everything that is decided (splitting a batch, bisecting a refusal, waiting for a
//! dependency, dead letters) is written once above it: [`submit`], [`apply`], [`direct`].
#![forbid(unsafe_code)]

pub mod adopt;
pub mod apply;
pub mod catalogue;
mod chain;
mod database;
pub mod direct;
mod error;
pub mod journal;
#[doc(hidden)]
pub mod modelling;
mod open;
mod postgres;
mod records;
mod request;
mod server;
mod sqlite;
pub mod submit;
#[cfg(unix)]
pub mod throwaway;
mod timestamp;
mod update;
mod url;
mod value;

pub use database::{
    ApplyItem, ApplyReport, ApplyRequest, Committed, Database, Drift, ItemAction, LaneRow,
    MAX_LEASE, RegionRow, RejectedRow, Submission, Topology,
};
pub use error::{DbError, ErrorClass};
pub use open::{Migrated, OpenOptions, create_role, inspect_role, migrate, open};
pub use postgres::{Granted, Inspection, abandoned_connections, role_script, submit_in};
pub use records::{
    HeldConflict, HeldState, HeldWrite, NodeRow, OutboxFigures, RefusalRow, Repeat, RequestRow,
    RequestState, Retried, UndoReason, Undone, wins,
};
pub use request::{body_digest, generated_uuid, new_request_id};
pub use update::{Digest, Hlc, MAX_UPDATE, Update, UpdateError};
pub use url::{DatabaseUrl, UrlError};
pub use value::{ParamType, Value, ValueError};
