//! Rows: one ordered map holds all tables, the application's and the ledger's.
//!
//! A row is never changed in place but replaced, so rows are shared by everybody who has read them.

use std::sync::Arc;

use prism_db::catalogue::Statement;
use prism_db::{Digest, Hlc, RejectedRow, RequestRow, Update};
use prism_proto::{Epoch, Position, RegionKey, Seq, Tag};

use super::locks::TxId;
use super::statements::Program;

/// What names a row. Tables and indices follow each other in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Account(Arc<str>),
    Note(Arc<str>),
    /// Index: notes of an account.
    NoteOf(Arc<str>, Arc<str>),
    Region,
    Watermark(RegionKey),
    Lane(RegionKey),
    Node(Arc<str>),
    Statement(Digest),
    Outbox(Seq),
    /// Index: outbox rows that are held.
    Held(Seq),
    /// Index: which update undoes this one.
    UndoOf(Seq, Seq),
    Request([u8; 16]),
    /// Index: by age.
    RequestAt(i64, [u8; 16]),
    Rejected(i64),
    /// Unique index.
    RejectedOf(RegionKey, Seq, Epoch),
    Skip(RegionKey, Seq),
}

/// What is in it.
#[derive(Debug, Clone)]
pub(super) enum Row {
    /// Of an index; a number where it leads to another row.
    Entry(i64),
    Account(Arc<Account>),
    /// The account that it names.
    Note(Arc<str>),
    Region(Arc<Region>),
    Watermark(Arc<Watermark>),
    Lane(Arc<Lane>),
    Node(Node),
    Statement(Arc<Installed>),
    Outbox(Arc<Outbox>),
    Request(Arc<Request>),
    Rejected(Arc<Rejected>),
}

/// The accessor of each kind of row: a row of another kind under a key is a mistake of the model.
macro_rules! kinds {
    ($($name:ident, $kind:ident, $ty:ty;)+) => {
        impl Row {
            $(pub(super) fn $name(self) -> $ty {
                match self {
                    Self::$kind(row) => row,
                    other => panic!("not a row of this kind: {other:?}"),
                }
            })+
        }
        $(impl From<$ty> for Row {
            fn from(row: $ty) -> Self {
                Self::$kind(row)
            }
        })+
    };
}

kinds! {
    entry, Entry, i64;
    account, Account, Arc<Account>;
    note, Note, Arc<str>;
    region, Region, Arc<Region>;
    watermark, Watermark, Arc<Watermark>;
    lane, Lane, Arc<Lane>;
    node, Node, Node;
    statement, Statement, Arc<Installed>;
    outbox, Outbox, Arc<Outbox>;
    request, Request, Arc<Request>;
    rejected, Rejected, Arc<Rejected>;
}

/// A row of the application's table `accounts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// What deltas add to.
    pub n: i64,
    /// What renames set.
    pub name: Option<Arc<str>>,
}

/// `prism.region`.
#[derive(Debug, Clone)]
pub(super) struct Region {
    pub name: String,
    pub epoch: Epoch,
    pub next_seq: Seq,
    pub last_tag: Tag,
    pub hlc: Hlc,
    /// Encoded bytes of the whole stream.
    pub bytes: u64,
}

/// `prism.watermark`.
#[derive(Debug, Clone)]
pub(super) struct Watermark {
    pub stream: String,
    pub at: Position,
    pub hlc: Hlc,
}

/// `prism.lane`. Times are microseconds of the server's wall clock.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    pub peer: String,
    pub acked: Position,
    pub holder: Option<(Arc<str>, i64)>,
    pub wanted: Option<(Arc<str>, i64)>,
    pub stale: bool,
}

/// `prism.node`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub incarnation: u64,
    pub journal: u64,
    pub beat: i64,
}

/// `prism.statement`, and what its text does.
#[derive(Debug)]
pub(super) struct Installed {
    pub statement: Arc<Statement>,
    pub program: Program,
}

/// `prism.outbox`.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    pub update: Arc<Update>,
    /// The same, encoded once.
    pub encoded: Arc<[u8]>,
    pub state: State,
    pub at: i64,
    /// Bytes of the stream in front of it.
    pub before: u64,
}

/// What an update of the own stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Final,
    /// By that transaction.
    Held(TxId),
    /// Was held.
    Undone,
}

/// `prism.request`.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub row: RequestRow,
    pub at: i64,
}

/// `prism.rejected`.
#[derive(Debug, Clone)]
pub(super) struct Rejected {
    pub row: RejectedRow,
    pub told: bool,
}
