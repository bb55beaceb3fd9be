//! What is random gets the name of what it belongs to.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use prism_db::catalogue::Catalogue;
use prism_db::{
    ApplyReport, Committed, DbError, LaneRow, RejectedRow, RequestRow, RequestState, UndoReason,
    Undone, Update,
};
use prism_proto::{Epoch, Position, RegionKey, Seq, Tag};

use crate::side::REGIONS;

/// Tags and epochs of one side.
#[derive(Default)]
pub struct Names {
    pub tags: BTreeMap<u64, String>,
    pub epochs: BTreeMap<u64, String>,
}

pub fn region(key: RegionKey) -> String {
    let known = REGIONS.iter().find(|name| RegionKey::of(name) == key);
    known.map_or_else(|| format!("{key:?}"), |name| (*name).to_owned())
}

impl Names {
    pub fn tag(&self, tag: Tag) -> String {
        let known = self.tags.get(&tag.0).cloned();
        // A tag that was spoilt on purpose.
        let other = self.tags.get(&(tag.0 ^ 1));
        known
            .or_else(|| other.map(|name| format!("not {name}")))
            .unwrap_or_else(|| if tag.0 == 0 { "-" } else { "?" }.to_owned())
    }

    pub fn epoch(&self, epoch: Epoch) -> String {
        let known = self.epochs.get(&epoch.0).cloned();
        known.unwrap_or_else(|| if epoch.0 == 0 { "-" } else { "?" }.to_owned())
    }

    pub fn position(&self, at: Position) -> String {
        format!("{}:{}:{}", self.epoch(at.epoch), at.seq.0, self.tag(at.tag))
    }

    pub fn update(&self, catalogue: &Catalogue, update: &Update) -> String {
        let statement = catalogue.by_digest(&update.statement);
        let mut seen: Vec<_> = update
            .seen
            .iter()
            .map(|(key, seq)| format!("{}:{}", region(*key), seq.0))
            .collect();
        seen.sort();
        // Of a notice only the SQLSTATE: words differ.
        let params = if update.notice().is_some() {
            &update.params[..1]
        } else {
            &update.params
        };
        format!(
            "{} after {} {} {params:?} old {:?} rows {} seen {seen:?} undoes {:?} held {} id {:?}",
            self.tag(update.tag),
            self.tag(update.prev_tag),
            statement.map_or("none", |s| s.name()),
            update.old,
            update.rows.cast_signed(),
            update.undoes.map(|seq| seq.0),
            update.held,
            update.request_id.map(|id| id[0]),
        )
    }

    pub fn committed(&self, catalogue: &Catalogue, all: &[Committed]) -> String {
        let mut text = String::new();
        for one in all {
            let update = self.update(catalogue, &one.update);
            let _ = write!(text, "[{}: {update}]", one.seq.0);
        }
        text
    }

    pub fn report(&self, report: &ApplyReport) -> String {
        match report {
            ApplyReport::Done {
                position,
                executed,
                skipped,
                drift,
            } => format!(
                "done {} executed {executed} skipped {skipped} {drift:?}",
                self.position(*position)
            ),
            ApplyReport::Gap { position } => format!("gap {}", self.position(*position)),
            ApplyReport::Behind { seq, needs } => {
                format!("{} behind {}:{}", seq.0, region(needs.0), needs.1.0)
            }
        }
    }

    /// Not whose wish is remembered, the first's or the last's: the backends differ in that.
    pub fn lane(&self, lane: &LaneRow) -> String {
        format!(
            "{} acked {} by {:?} stale {} backlog {} waiting {}",
            lane.peer,
            self.position(lane.acked),
            lane.holder,
            lane.stale,
            lane.backlog > 0,
            lane.waiting.is_some(),
        )
    }

    pub fn letter(&self, catalogue: &Catalogue, row: &RejectedRow) -> String {
        let mut update = row.update.clone();
        if row.seq.is_none() {
            // It has never run; the backends write other things where nothing is known.
            update.rows = u64::MAX;
        }
        format!(
            "{} {} {:?} {} {} {:?}",
            row.stream,
            self.epoch(row.epoch),
            row.seq.map(|seq| seq.0),
            self.update(catalogue, &update),
            row.sqlstate,
            row.resolution
        )
    }

    pub fn undone(&self, catalogue: &Catalogue, undone: &Undone) -> String {
        let one =
            |committed: &Committed| self.committed(catalogue, std::slice::from_ref(committed));
        match undone {
            Undone::Published(committed) => format!("published {}", one(committed)),
            Undone::Before => "before".to_owned(),
            Undone::Refused {
                notice, sqlstate, ..
            } => format!("refused {sqlstate} {}", one(notice)),
            Undone::Impossible(_) => "impossible".to_owned(),
        }
    }
}

pub fn reason(reason: &UndoReason) -> String {
    match reason {
        UndoReason::Refused {
            region, sqlstate, ..
        } => format!("refused by {region} {sqlstate}"),
        other => format!("{other:?}"),
    }
}

pub fn request(row: &RequestRow) -> String {
    let state = match &row.state {
        RequestState::Refused { sqlstate, .. } => format!("refused {sqlstate}"),
        RequestState::Undone(why) => format!("undone: {}", reason(why)),
        other => format!("{other:?}"),
    };
    format!(
        "{} of {} {:?} {} {state}",
        row.request_id[0],
        row.stream,
        row.seq.map(|Seq(seq)| seq),
        row.body
    )
}

/// An error without its words.
pub fn error(error: &DbError) -> String {
    match error {
        DbError::Sql {
            sqlstate, index, ..
        } => format!("error {sqlstate} at {index:?}"),
        DbError::Ambiguous(_) => "ambiguous".to_owned(),
        DbError::Unreachable(_) => "unreachable".to_owned(),
        DbError::Schema(_) => "schema".to_owned(),
        DbError::TooLarge { index, .. } => format!("too large at {index}"),
        DbError::Repeated(repeats) => {
            let one = |repeat: &prism_db::Repeat| {
                format!("{} {} {}", repeat.index, repeat.body, request(&repeat.row))
            };
            format!("repeated {:?}", repeats.iter().map(one).collect::<Vec<_>>())
        }
        DbError::Fork(_) => "fork".to_owned(),
    }
}
