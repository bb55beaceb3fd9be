//! What clients ask for, and what they were told about it.

use std::fmt;

use prism_node::demo::relay::Random;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{REGIONS, SHARED, refused_by};

/// One kind of update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A row that takes the next place in its origin's order.
    Append,
    /// A row that counts its executions.
    Mark,
    /// A row with a generated key.
    Token,
    /// A delta on a row, at times refused by a region and undone then.
    Claim,
    /// A row, at times refused by a region, which keeps a dead letter.
    Letter,
    /// A new value for a row; at times refused, and the old value comes back.
    Rename,
    /// Awaited: a row, at times refused.
    Reserve,
    /// Awaited: a delta on a row, at times refused.
    Seat,
}

impl Kind {
    pub const fn awaited(self) -> bool {
        matches!(self, Self::Reserve | Self::Seat)
    }

    const fn statement(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Mark => "mark",
            Self::Token => "token",
            Self::Claim => "claim",
            Self::Letter => "letter",
            Self::Rename => "rename",
            Self::Reserve => "reserve",
            Self::Seat => "seat",
        }
    }

    /// The same in whichever order with updates from other regions, and whoever originates it: may
    /// be submitted in another region.
    pub const fn commutes(self) -> bool {
        matches!(self, Self::Mark | Self::Claim | Self::Token)
    }
}

/// What the caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// 200 `committed`, or the application's own COMMIT.
    Committed,
    /// 202 `spooled`.
    Spooled,
    /// Await: everywhere.
    Applied,
    /// 409: nowhere.
    Refused,
    /// Await, 504: nowhere in the end.
    Unconfirmed,
    /// It had been undone when the caller asked again.
    Undone,
    /// Every answer said that nothing was written.
    NotTaken,
    /// At least one answer is missing.
    Unknown,
}

/// One update and its fate.
#[derive(Clone)]
pub struct Op {
    pub request: Uuid,
    pub kind: Kind,
    /// Region of the client.
    pub origin: usize,
    /// The value that is unique to it; ends with the mark of the region that refuses it.
    pub id: String,
    /// The row that it writes, if that is another one than `id`.
    pub row: String,
    /// Region whose constraints refuse it.
    pub refuser: Option<usize>,
    pub outcome: Outcome,
    /// In the client's order.
    pub seq: Option<u64>,
    /// Decided by the answer to the first try: no other copy of it is on its way.
    pub alone: bool,
    /// Went to another region as well.
    pub crossed: bool,
    /// Written by the application itself together with `prism.submit`.
    pub sql: bool,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, id, row) = (self.kind, &self.id, &self.row);
        write!(f, "{kind:?} {id} {row} of {} ", REGIONS[self.origin])?;
        write!(f, "(answer {:?}", self.outcome)?;
        if let Some(seq) = self.seq {
            write!(f, " as {seq}")?;
        }
        let alone = if self.alone { "" } else { ", again" };
        let crossed = if self.crossed { ", crossed" } else { "" };
        let sql = if self.sql { ", sql" } else { "" };
        write!(f, "{alone}{crossed}{sql})")
    }
}

impl Op {
    /// A new one. `client` has rows of its own; `turn` is its number there.
    pub fn new(
        random: &mut Random,
        kind: Kind,
        origin: usize,
        client: usize,
        refuse: bool,
    ) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&random.bits().to_le_bytes());
        bytes[8..].copy_from_slice(&random.bits().to_le_bytes());
        let request = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let refuser = refuse.then(|| random.below(REGIONS.len()));
        let end = refuser.map_or_else(String::new, refused_by);
        let row = match kind {
            Kind::Claim | Kind::Seat if random.chance(0.5) => {
                format!("shared{}", random.below(SHARED))
            }
            Kind::Claim | Kind::Seat => format!("own{client}"),
            _ => String::new(),
        };
        Self {
            request,
            kind,
            origin,
            id: format!("{request}{end}"),
            row,
            refuser,
            outcome: Outcome::Unknown,
            seq: None,
            alone: false,
            crossed: false,
            sql: false,
        }
    }

    pub fn params(&self) -> Value {
        let (id, row, origin) = (&self.id, &self.row, REGIONS[self.origin]);
        match self.kind {
            Kind::Mark | Kind::Token => json!([id]),
            Kind::Append | Kind::Letter | Kind::Reserve => json!([id, origin]),
            Kind::Claim | Kind::Rename | Kind::Seat => json!([row, id]),
        }
    }

    pub const fn statement(&self) -> &'static str {
        self.kind.statement()
    }

    /// The body of `POST /v1/updates`.
    pub fn body(&self) -> Value {
        let mut body = json!({
            "statement": self.statement(),
            "params": self.params(),
            "request_id": self.request.to_string(),
        });
        if self.kind.awaited() {
            body["mode"] = json!("await");
            body["timeout_ms"] = json!(4_500);
        }
        body
    }

    /// Whether it must be there in the end, if that can be told from the answers alone.
    pub fn stays(&self) -> Option<bool> {
        let undoes = !matches!(self.kind, Kind::Letter);
        match self.outcome {
            Outcome::Refused | Outcome::Unconfirmed | Outcome::NotTaken | Outcome::Undone => {
                Some(false)
            }
            _ if undoes && self.refuser.is_some() => Some(false),
            Outcome::Committed | Outcome::Applied => Some(true),
            // Refused when its turn comes, it is a dead letter at its origin.
            Outcome::Spooled => Some(self.refuser != Some(self.origin)),
            Outcome::Unknown => None,
        }
    }
}
