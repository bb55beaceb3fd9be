//! Applying a stream: what is decided when a batch does not simply succeed.
//!
//! The same code serves a node's inlet and the direct path. One call makes as much progress as
//! the database allows, and says where the database is and why it stopped.

use std::sync::Arc;
use std::time::Duration;

use prism_proto::{ApplyCause, Epoch, Position, RefusalClass, RegionKey, Seq, canary};

use crate::catalogue::{Catalogue, OnReject};
use crate::{
    ApplyItem, ApplyReport, ApplyRequest, Database, DbError, Drift, ErrorClass, ItemAction, Update,
    UpdateError,
};

/// An update that this call has recorded in the table `rejected` instead of executing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its number.
    pub seq: Seq,
    /// Name of the statement, if it is known here.
    pub statement: Option<String>,
    /// Kind of refusal.
    pub class: RefusalClass,
    /// Five characters.
    pub sqlstate: String,
    /// The server's words.
    pub message: String,
    /// What its statement wants done about it: of `undo` its origin takes care.
    pub on_reject: OnReject,
    /// What it is.
    pub kind: RejectionKind,
}

/// See [`Rejection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionKind {
    /// An update that this database refused for good.
    Update,
    /// An undo that this database refused: what it undoes stays here.
    Undo,
    /// Its origin tells that it could not undo an update: that stays everywhere.
    Notice,
    /// An operator wanted it skipped.
    Skipped,
}

/// SQLSTATE under which an update is recorded that an operator wanted skipped. The row is marked
/// `skipped`.
pub const SKIPPED: &str = "PR020";

/// Why an apply stopped short, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Kind, as the engine knows it.
    pub cause: ApplyCause,
    /// The update that could not be applied, if one is known.
    pub seq: Option<Seq>,
    /// What happened, for people.
    pub detail: String,
    /// What a person can do; empty if nothing needs doing.
    pub remedy: String,
    /// When to try again: longer each time in a row.
    pub retry_after: Duration,
}

/// What one call did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ApplyOutcome {
    /// Where the database is now; `None` if it could not be asked. It may lie behind the range
    /// (a gap: `wait` is `None` then) or beyond it (somebody else was faster).
    pub position: Option<Position>,
    /// Updates executed, or recorded as rejected, by this call.
    pub executed: u64,
    /// Updates that had been applied before.
    pub skipped: u64,
    /// Row counts that differ from the origin's.
    pub drift: Vec<Drift>,
    /// Updates refused for good.
    pub rejected: Vec<Rejection>,
    /// Why it stopped short of the end of the range.
    pub wait: Option<Wait>,
}

/// Applies one stream to one database. Remembers how often in a row it had to wait.
#[derive(Debug)]
pub struct Applier {
    catalogue: Arc<Catalogue>,
    regions: Arc<[(String, RegionKey)]>,
    /// What it waited for last, and how often in a row.
    waits: Option<(ApplyCause, u32)>,
    /// Updates of one transaction, at most. A batch that cannot be done within the statement
    /// timeout, or fails without naming an update, is tried in smaller parts: the whole of it
    /// would meet the same end for ever.
    most: usize,
}

impl Applier {
    /// For that catalogue; the regions' names are for messages.
    #[must_use]
    pub fn new(catalogue: Arc<Catalogue>, regions: Arc<[(String, RegionKey)]>) -> Self {
        Self {
            catalogue,
            regions,
            waits: None,
            most: usize::MAX,
        }
    }

    /// Applies encoded updates of `stream` in order: as many as the database takes.
    pub fn apply<B: AsRef<[u8]>>(
        &mut self,
        db: &mut dyn Database,
        stream: &str,
        epoch: Epoch,
        updates: &[(Seq, B)],
    ) -> ApplyOutcome {
        let mut outcome = ApplyOutcome::default();
        let mut rest = updates;
        let mut stopped;
        loop {
            let (mut items, unfit) = self.decode(rest);
            stopped = self.run(db, stream, epoch, &mut items, &mut outcome);
            let (None, Some((stop, item))) = (&stopped, unfit) else {
                break;
            };
            // In front of it there may be a gap; or somebody else has gone past it.
            let position = outcome.position.map_or(Seq::ZERO, |position| position.seq);
            if Some(position.next()) == stop.seq {
                stopped = self.skip_unfit(db, (stream, epoch), item, stop, &mut outcome);
                if stopped.is_some() {
                    break;
                }
            } else if stop.seq > Some(position) {
                break;
            }
            rest = &rest[items.len() + 1..];
        }
        if outcome.executed > 0 {
            self.waits = None;
        }
        if let Some(stop) = stopped {
            outcome.wait = Some(self.wait(stop));
        }
        if outcome.wait.is_none() {
            self.waits = None;
        }
        outcome
    }

    /// The items up to the first that cannot be understood here; that one, if it can be read.
    fn decode<B: AsRef<[u8]>>(
        &self,
        updates: &[(Seq, B)],
    ) -> (Vec<ApplyItem>, Option<(Stop, Option<ApplyItem>)>) {
        let mut items = Vec::with_capacity(updates.len());
        for (seq, bytes) in updates {
            let stop = |detail: String, remedy: &str| Stop {
                cause: ApplyCause::Parked,
                seq: Some(*seq),
                detail: format!("update {}: {detail}", seq.0),
                remedy: remedy.to_owned(),
            };
            let update = match Update::decode(bytes.as_ref()) {
                Ok(update) => update,
                Err(error) => {
                    let remedy = match error {
                        UpdateError::Version(_) => "run the same version of Prism on every node",
                        UpdateError::Malformed => DAMAGED,
                    };
                    return (items, Some((stop(error.to_string(), remedy), None)));
                }
            };
            let action = match update.notice() {
                Some((sqlstate, message)) => ItemAction::Reject {
                    sqlstate: sqlstate.to_owned(),
                    message: message.to_owned(),
                },
                None => ItemAction::Run,
            };
            let item = ApplyItem {
                seq: *seq,
                update,
                action,
            };
            if let Some(statement) = self.catalogue.by_digest(&item.update.statement)
                && !statement.accepts(&item.update.params)
            {
                let detail = format!("its parameters do not fit statement {:?}", statement.name());
                return (items, Some((stop(detail, SKIP), Some(item))));
            }
            items.push(item);
        }
        (items, None)
    }

    /// Goes past an update that does not fit its statement, if an operator wants it.
    fn skip_unfit(
        &mut self,
        db: &mut dyn Database,
        (stream, epoch): (&str, Epoch),
        item: Option<ApplyItem>,
        stop: Stop,
        outcome: &mut ApplyOutcome,
    ) -> Option<Stop> {
        match item {
            Some(mut item) => {
                if skip(db, stream, &mut item, &stop) {
                    self.run(db, stream, epoch, &mut [item], outcome)
                } else {
                    Some(stop)
                }
            }
            None => Some(stop),
        }
    }

    /// The end of the next part: as many as one transaction may have, but a held update stands
    /// alone, so that a lock for which it waits is its own affair.
    fn end(&self, items: &[ApplyItem], start: usize) -> usize {
        let most = items.len().min(start.saturating_add(self.most));
        match items[start..most].iter().position(|item| item.update.held) {
            Some(0) => start + 1,
            Some(before) => start + before,
            None => most,
        }
    }

    /// Applies `items`, marking those that are refused. Returns why it stopped, if it did.
    fn run(
        &mut self,
        db: &mut dyn Database,
        stream: &str,
        epoch: Epoch,
        items: &mut [ApplyItem],
        outcome: &mut ApplyOutcome,
    ) -> Option<Stop> {
        // `start..end` is tried now; an error makes it shorter, a success moves it on.
        let mut start = 0;
        let mut end = self.end(items, start);
        // Why `items[end]` cannot be applied; told once what stands before it has been.
        let mut stop = None;
        let mut looked = false;
        loop {
            let part = &items[start..end];
            let result = if part.is_empty() {
                // Nothing stands before the update at fault; only the position is wanted.
                db.position(stream).map(ApplyReport::at)
            } else {
                db.apply(&ApplyRequest {
                    stream,
                    epoch,
                    items: part,
                    ignore_dependencies: canary!(DependencyIgnored),
                })
            };
            match result {
                Ok(ApplyReport::Done {
                    position,
                    executed,
                    skipped,
                    drift,
                }) => {
                    outcome.executed += executed;
                    outcome.skipped += skipped;
                    outcome.drift.extend(drift);
                    outcome.position = Some(position);
                    // What was skipped somebody else has recorded, and reports; unless it was
                    // this call, with an ambiguous COMMIT.
                    let ours = if looked { 0 } else { to_usize(skipped) };
                    let rejected = part.iter().skip(ours).filter_map(|i| self.rejection(i));
                    outcome.rejected.extend(rejected);
                    if let Some(found) = stop.take() {
                        let next = end;
                        if !skip(db, stream, &mut items[next], &found) {
                            return Some(found);
                        }
                        (start, end, looked) = (next, next + 1, false);
                        continue;
                    }
                    if end == items.len() {
                        return None;
                    }
                    if self.most < items.len() && executed > 0 {
                        // Slow going: what is done is told before the next part. A little more
                        // each time: every part that is too large costs the whole timeout.
                        self.most = self.most.saturating_add(1 + self.most / 8);
                        return None;
                    }
                    start = end;
                    end = self.end(items, start);
                    looked = false;
                }
                Ok(ApplyReport::Gap { position }) => {
                    outcome.position = Some(position);
                    return None;
                }
                Ok(ApplyReport::Behind { seq, needs }) => {
                    let index = part.iter().position(|item| item.seq == seq).unwrap_or(0);
                    end = start + index;
                    stop = Some(self.dependency(seq, needs));
                }
                Err(error) if part.len() > 1 && is_of_the_whole(&error) => {
                    self.most = part.len() / 2;
                    if let Ok(position) = db.position(stream) {
                        outcome.position = Some(position);
                    }
                    return match self.judge(&error, part) {
                        Verdict::Stop(found, _) => Some(found),
                        _ => None,
                    };
                }
                Err(error) => match self.judge(&error, part) {
                    Verdict::Refused(index) => {
                        // Commit it with what stands before it: then every update is executed
                        // at most about twice, however many are refused.
                        mark(&mut items[start + index], &error);
                        end = start + index + 1;
                        stop = None;
                    }
                    Verdict::Halve => {
                        end = start + part.len() / 2;
                        stop = None;
                    }
                    Verdict::Stop(found, Some(index)) if index > 0 && stop.is_none() => {
                        end = start + index;
                        stop = Some(found);
                    }
                    Verdict::Stop(found, Some(0))
                        if skip(db, stream, &mut items[start], &found) =>
                    {
                        end = start + 1;
                        stop = None;
                    }
                    Verdict::Look(_) if canary!(AmbiguousIsDone) => {
                        let Update { tag, .. } = items[end - 1].update;
                        let seq = items[end - 1].seq;
                        outcome.executed += seq.0 + 1 - items[start].seq.0;
                        outcome.position = Some(Position { epoch, seq, tag });
                        return None;
                    }
                    Verdict::Look(_) if !looked => {
                        // The watermark tells: what was committed is skipped now.
                        tracing::warn!(stream, %error, "ambiguous commit: looking at the watermark");
                        looked = true;
                    }
                    Verdict::Stop(found, _) | Verdict::Look(found) => {
                        if found.cause != ApplyCause::Unreachable
                            && let Ok(position) = db.position(stream)
                        {
                            outcome.position = Some(position);
                        }
                        return Some(found);
                    }
                },
            }
        }
    }

    fn dependency(&self, seq: Seq, (key, needed): (RegionKey, Seq)) -> Stop {
        let name = self.regions.iter().find(|(_, k)| *k == key);
        let name = name.map_or("another region", |(name, _)| name.as_str());
        Stop {
            cause: ApplyCause::Dependency,
            seq: Some(seq),
            detail: format!(
                "update {} needs update {} of {name}, which this database has not applied yet",
                seq.0, needed.0
            ),
            remedy: String::new(),
        }
    }

    /// What to report of an item that was recorded as rejected.
    fn rejection(&self, item: &ApplyItem) -> Option<Rejection> {
        let ItemAction::Reject { sqlstate, message } = &item.action else {
            return None;
        };
        let statement = self.catalogue.by_digest(&item.update.statement);
        let kind = if sqlstate == SKIPPED {
            RejectionKind::Skipped
        } else if item.update.notice().is_some() {
            RejectionKind::Notice
        } else if item.update.undoes.is_some() {
            RejectionKind::Undo
        } else {
            RejectionKind::Update
        };
        Some(Rejection {
            kind,
            seq: item.seq,
            statement: statement.map(|s| s.name().to_owned()),
            class: refusal_class(sqlstate),
            sqlstate: sqlstate.clone(),
            message: message.clone(),
            on_reject: statement.map_or(OnReject::DeadLetter, |s| s.on_reject()),
        })
    }

    fn judge(&self, error: &DbError, items: &[ApplyItem]) -> Verdict {
        let stop = |cause, index: Option<usize>, remedy: &str| {
            let item = index.and_then(|i| items.get(i));
            let detail = match item {
                Some(item) => format!("update {}{}: {error}", item.seq.0, self.named(item)),
                None => error.to_string(),
            };
            Stop {
                cause,
                seq: item.map(|item| item.seq),
                detail,
                remedy: remedy.to_owned(),
            }
        };
        match error {
            DbError::Sql {
                class,
                sqlstate,
                index,
                ..
            } => {
                // The only one is the one.
                let index = if items.len() == 1 { Some(0) } else { *index };
                let index = index.filter(|&i| i < items.len());
                match class {
                    ErrorClass::Refused => match index {
                        Some(index) if items[index].action == ItemAction::Run => {
                            Verdict::Refused(index)
                        }
                        // Without a statement of the batch: a deferred constraint at COMMIT.
                        None if items.len() > 1 => Verdict::Halve,
                        None if items.len() == 1 && items[0].action == ItemAction::Run => {
                            Verdict::Refused(0)
                        }
                        _ => Verdict::Stop(stop(ApplyCause::Parked, index, LEDGER), None),
                    },
                    ErrorClass::Transient if canary!(TransientIsRefusal) && index.is_some() => {
                        Verdict::Refused(index.unwrap_or_default())
                    }
                    ErrorClass::Transient => {
                        let remedy = match sqlstate.get(..2) {
                            Some("53") => {
                                "free the resource (disk, memory, connections) of this database"
                            }
                            Some("25") => "make this database writable",
                            _ => "",
                        };
                        Verdict::Stop(stop(ApplyCause::Busy, index, remedy), index)
                    }
                    ErrorClass::Unreachable => {
                        Verdict::Stop(stop(ApplyCause::Unreachable, index, ""), None)
                    }
                    ErrorClass::Operator => {
                        let remedy = if sqlstate == DbError::UNKNOWN_STATEMENT {
                            "roll out the same prism.toml to every node and run prism migrate"
                        } else {
                            OPERATOR
                        };
                        Verdict::Stop(stop(ApplyCause::Parked, index, remedy), index)
                    }
                }
            }
            DbError::TooLarge { index, .. } => {
                Verdict::Stop(stop(ApplyCause::Parked, Some(*index), SKIP), Some(*index))
            }
            DbError::Ambiguous(_) => Verdict::Look(stop(ApplyCause::Unreachable, None, "")),
            DbError::Unreachable(_) => Verdict::Stop(stop(ApplyCause::Unreachable, None, ""), None),
            DbError::Schema(_) | DbError::Repeated(_) => {
                Verdict::Stop(stop(ApplyCause::Parked, None, "run prism migrate"), None)
            }
            DbError::Fork(_) => Verdict::Stop(stop(ApplyCause::Forked, None, FORK), None),
        }
    }

    fn named(&self, item: &ApplyItem) -> String {
        let statement = self.catalogue.by_digest(&item.update.statement);
        statement.map_or_else(String::new, |s| format!(" ({})", s.name()))
    }

    fn wait(&mut self, stop: Stop) -> Wait {
        // What only a person can mend has nothing to do with how long something else has lasted.
        let other = matches!(stop.cause, ApplyCause::Parked | ApplyCause::Forked);
        let before = (self.waits).filter(|(cause, _)| !other || *cause == stop.cause);
        let waits = before.map_or(0, |(_, waits)| waits);
        self.waits = Some((stop.cause, waits.saturating_add(1)));
        let retry_after = backoff(stop.cause, waits);
        Wait {
            cause: stop.cause,
            seq: stop.seq,
            detail: stop.detail,
            remedy: stop.remedy,
            retry_after,
        }
    }
}

const OPERATOR: &str = "create what is missing (table, column, function) or grant the right; the stream goes on by itself";
const SKIP: &str = "correct the catalogue, or go past the update with prism skip";
const DAMAGED: &str = "a node of that region sends what is no update: find out which, stop it or take its key out of the configuration, then restart this node, which asks for the update again";
const FORK: &str = "one of the two databases was restored or copied: rebuild it with prism adopt";
const LEDGER: &str = "the ledger itself refuses the write: check the schema prism with prism check";

/// Why a run stops.
struct Stop {
    cause: ApplyCause,
    seq: Option<Seq>,
    detail: String,
    remedy: String,
}

/// What an error means for a batch.
enum Verdict {
    /// This item is refused for good.
    Refused(usize),
    /// One of the items is refused, it is not known which.
    Halve,
    /// Nothing helps now; the items before the index can be applied.
    Stop(Stop, Option<usize>),
    /// It may have been committed.
    Look(Stop),
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// A batch that failed as a whole, though its parts might not: it took too long (whichever update
/// was running then), or an update failed in a way that hides which (an assertion in a trigger).
fn is_of_the_whole(error: &DbError) -> bool {
    matches!(error, DbError::Sql { sqlstate, class, index, .. }
        if sqlstate == "57014" || *class == ErrorClass::Operator && index.is_none())
}

/// Whether an operator wants to go past `item`, which is next and stops the stream for `found`.
/// It is marked then. Asked only here: the ordinary way does not pay for it.
fn skip(db: &mut dyn Database, stream: &str, item: &mut ApplyItem, found: &Stop) -> bool {
    if item.action != ItemAction::Run || found.cause == ApplyCause::Unreachable {
        return false;
    }
    let wanted = db
        .skips(stream)
        .is_ok_and(|skips| skips.contains(&item.seq));
    if wanted {
        item.action = ItemAction::Reject {
            sqlstate: SKIPPED.to_owned(),
            message: format!("skipped by an operator; before: {}", found.detail),
        };
    }
    wanted
}

/// From now on the item is recorded instead of executed.
fn mark(item: &mut ApplyItem, error: &DbError) {
    let (sqlstate, message) = match error {
        DbError::Sql {
            sqlstate, message, ..
        } => (sqlstate.clone(), message.clone()),
        other => (String::from("XX000"), other.to_string()),
    };
    item.action = ItemAction::Reject { sqlstate, message };
    if canary!(RefusalNotRecorded) {
        item.action = ItemAction::Skip;
    }
}

/// Kind of refusal, by SQLSTATE.
#[must_use]
pub fn refusal_class(sqlstate: &str) -> RefusalClass {
    match sqlstate.get(..2) {
        Some("22") => RefusalClass::Data,
        Some("P0" | "PR") => RefusalClass::Raised,
        _ => RefusalClass::Constraint,
    }
}

/// Doubles from a first pause to a longest one, each by cause.
fn backoff(cause: ApplyCause, waits: u32) -> Duration {
    let (first, longest) = match cause {
        ApplyCause::Busy | ApplyCause::Dependency => (10, 1_000),
        ApplyCause::Unreachable => (100, 2_000),
        // A person has to act, and then does not like to wait.
        ApplyCause::Parked => (500, 5_000),
        ApplyCause::Forked => (5_000, 30_000),
    };
    let pause = 1u64
        .checked_shl(waits)
        .and_then(|factor| factor.checked_mul(first))
        .map_or(longest, |pause| pause.min(longest));
    Duration::from_millis(pause)
}
