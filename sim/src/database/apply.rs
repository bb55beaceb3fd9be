//! Applying a peer's stream, as the PostgreSQL backend does: everything in the transaction that moves
//! the watermark.
//!
//! Whether a request fits the watermark, and what an update does here, is decided by the functions
//! that the real backends share; that it was right is looked at apart, by [`super::store`].

use std::sync::Arc;

use prism_db::apply::SKIPPED;
use prism_db::catalogue::Kind as StatementKind;
use prism_db::modelling::{self, Course, Plan};
use prism_db::{
    ApplyItem, ApplyReport, ApplyRequest, DbError, Digest, Drift, ItemAction, RejectedRow,
    RequestRow, RequestState, Value,
};
use prism_proto::{Position, RegionKey, Seq, canary};

use super::client::{Client, End, Kind};
use super::locks::Mode;
use super::rows::{Installed, Key, Row, Watermark};
use super::server::Applying;
use super::store::{Effect, Execution};
use super::submit::fits;
use super::trouble::Point;
use super::work::{Fail, Work, sql};
use super::{rejected, requests};

/// Somebody else's progress makes us begin again with what is left; each round means progress.
const MAX_ROUNDS: usize = 64;

/// What the old values of a statement without them are.
const NOTHING: &[Value] = &[];

/// No watermark, or no lane, of that region.
pub(super) fn unknown(region: &str) -> DbError {
    DbError::Schema(format!(
        "region {region} is not known to this database; run: prism migrate"
    ))
}

/// How a transaction of an apply ended.
enum Attempt {
    Done(ApplyReport),
    /// That item wants what is not here yet.
    Behind(usize),
    /// A request of the batch is on record already: once more, claiming them first.
    Careful,
}

impl Client {
    pub(super) fn apply_request(
        &mut self,
        request: &ApplyRequest<'_>,
    ) -> Result<ApplyReport, DbError> {
        let Some(head) = request.items.first() else {
            return self.position_of(request.stream).map(ApplyReport::at);
        };
        // The chain inside the request, as if the database stood right before it.
        let expected = Position {
            epoch: request.epoch,
            seq: Seq(head.seq.0.saturating_sub(1)),
            tag: head.update.prev_tag,
        };
        if modelling::plan(expected, request)? == Plan::Gap {
            let position = self.position_of(request.stream)?;
            return Ok(ApplyReport::Gap { position });
        }
        let installed = self.all_installed(request.items)?;
        let mut careful = false;
        for _ in 0..MAX_ROUNDS {
            let attempt = self.call("apply", Kind::Single, |work| {
                run(work, request, &installed, careful)
            })?;
            match attempt {
                Attempt::Done(report) => return Ok(report),
                Attempt::Careful => careful = true,
                Attempt::Behind(index) => {
                    // What an earlier update of the stream had seen counts as well.
                    if let Some(needs) = self.needs(&request.items[..=index])? {
                        let seq = request.items[index].seq;
                        return Ok(ApplyReport::Behind { seq, needs });
                    }
                    // It has arrived meanwhile.
                }
            }
        }
        Err(DbError::sql(
            "40001",
            "other appliers keep changing this stream",
            None,
        ))
    }

    /// The version of each item's statement; `None` where it is not needed and not known.
    fn all_installed(&self, items: &[ApplyItem]) -> Result<Vec<Option<Arc<Installed>>>, DbError> {
        let mut all = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let update = &item.update;
            let installed = self.installed(update.statement);
            if item.action == ItemAction::Run && update.notice().is_none() {
                match &installed {
                    None => return Err(DbError::unknown_statement(update.statement, index)),
                    Some(installed) => fits(installed, &update.params, index)?,
                }
            }
            all.push(installed);
        }
        Ok(all)
    }

    pub(super) fn position_of(&mut self, stream: &str) -> Result<Position, DbError> {
        self.read("position", |work| {
            let row = work.get(&Key::Watermark(RegionKey::of(stream)));
            let row = row.ok_or_else(|| unknown(stream))?;
            Ok(row.watermark().at)
        })
    }

    /// The stream, of those configured, that the last of `items` waits for.
    fn needs(&mut self, items: &[ApplyItem]) -> Result<Option<(RegionKey, Seq)>, DbError> {
        let peers = self.peers.clone();
        self.read("positions", |work| {
            let mut here = std::collections::BTreeMap::new();
            for key in peers.keys() {
                let row = work.get(&Key::Watermark(*key)).map(Row::watermark);
                here.insert(*key, row.map_or(Seq::ZERO, |row| row.at.seq));
            }
            let here = |key| here.get(&key).copied();
            let mut items = items.iter().rev();
            Ok(items.find_map(|item| modelling::behind(&item.update, here)))
        })
    }
}

/// An item that is executed, or its undo.
fn runs(item: &ApplyItem) -> bool {
    item.action == ItemAction::Run && item.update.notice().is_none()
}

/// An undo to be executed; what it undoes.
fn undoes(item: &ApplyItem) -> Option<Seq> {
    item.update.undoes.filter(|_| runs(item))
}

/// What a request's id stands for: of a refused one only if its statement is known.
fn asks(item: &ApplyItem, installed: Option<&Arc<Installed>>) -> Option<([u8; 16], Digest)> {
    let wanted = match item.action {
        ItemAction::Run => runs(item),
        ItemAction::Reject { .. } => item.update.undoes.is_none(),
        ItemAction::Skip => false,
    };
    let id = item.update.request_id.filter(|_| wanted)?;
    Some((id, installed?.body(&item.update.params)))
}

fn run(
    work: &mut Work<'_>,
    request: &ApplyRequest<'_>,
    installed: &[Option<Arc<Installed>>],
    careful: bool,
) -> Result<End<Attempt>, Fail> {
    let items = request.items;
    let (tx, stream) = (work.tx, RegionKey::of(request.stream));
    if let Some(open) = work.data().open.get_mut(&tx) {
        open.applying = Some(Applying {
            stream,
            held: match items {
                [item] if item.update.held => Some(item.update.hlc),
                _ => None,
            },
        });
    }
    work.step(Point::Statement)?;
    let key = Key::Watermark(stream);
    let row = if canary!(WatermarkNotLocked) {
        work.get(&key)
    } else {
        work.lock_row(&key, Mode::Write)?
    };
    let row = row.map(Row::watermark);
    let row = row.ok_or_else(|| unknown(request.stream))?;
    let position = row.at;
    let done = |report| Ok(End::RollBack(Attempt::Done(report)));
    let start = match modelling::plan(position, request)? {
        Plan::Run(start) => start,
        Plan::Gap => return done(ApplyReport::Gap { position }),
        Plan::Nothing => {
            return done(ApplyReport::Done {
                position,
                executed: 0,
                skipped: items.len() as u64,
                drift: Vec::new(),
            });
        }
    };
    // Before the updates run: what arrives meanwhile must not turn a missing dependency into a verdict.
    let behind = if request.ignore_dependencies {
        None
    } else {
        (start..items.len()).find(|index| runs(&items[*index]) && is_behind(work, &items[*index]))
    };
    if careful {
        for (item, installed) in items[start..].iter().zip(&installed[start..]) {
            if let Some((id, _)) = asks(item, installed.as_ref())
                && item.update.undoes.is_none()
            {
                requests::lock(work, &id)?;
            }
        }
    }
    let mut drift = Vec::new();
    for index in start..items.len() {
        let waits = behind.is_some_and(|behind| index >= behind);
        let item = &items[index];
        let asked = asks(item, installed[index].as_ref());
        // The undo of a copy in another stream may be under way: only one of them takes effect.
        if undoes(item).is_some()
            && let Some((id, _)) = asked
        {
            requests::lock(work, &id)?;
        }
        let known = asked.and_then(|(id, _)| requests::get(work, &id));
        if known.is_some() && item.update.undoes.is_none() && !careful {
            return Ok(End::RollBack(Attempt::Careful));
        }
        let known = known.map(|known| known.row.clone());
        let one = One {
            request,
            index,
            installed: installed[index].as_ref(),
            asked,
        };
        let result = one.run(work, known.as_ref());
        match result {
            Ok(Some(rows)) if waits => {
                let _ = rows;
                return Ok(End::RollBack(Attempt::Behind(index)));
            }
            Ok(Some(actual)) => drift.push(Drift {
                seq: item.seq,
                expected: item.update.rows,
                actual,
            }),
            Ok(None) => {}
            Err(fail) if waits && fail.is("23503") => {
                return Ok(End::RollBack(Attempt::Behind(index)));
            }
            Err(Fail::Db(DbError::Sql { .. }))
                if !careful && any_known(work, request, installed) =>
            {
                return Ok(End::RollBack(Attempt::Careful));
            }
            Err(fail) => return Err(fail),
        }
    }
    work.step(Point::Statement)?;
    if !careful {
        for (item, installed) in items[start..].iter().zip(&installed[start..]) {
            let Some((id, _)) = asks(item, installed.as_ref()) else {
                continue;
            };
            if item.update.undoes.is_some() {
                continue;
            }
            // Whoever has just written one with this id is waited for.
            requests::lock(work, &id)?;
            let known = work.data().store.get(&Key::Request(id)).is_some();
            if known {
                return Ok(End::RollBack(Attempt::Careful));
            }
        }
    }
    settle_undos(work, request, &items[start..], &installed[start..])?;
    let last = &items[items.len() - 1];
    let position = Position {
        epoch: request.epoch,
        seq: last.seq,
        tag: last.update.tag,
    };
    let clock = items[start..].iter().map(|item| item.update.hlc).max();
    work.put(
        key,
        Arc::new(Watermark {
            stream: row.stream.clone(),
            at: position,
            hlc: row.hlc.max(clock.unwrap_or_default()),
        }),
    );
    Ok(End::Commit(Attempt::Done(ApplyReport::Done {
        position,
        executed: (items.len() - start) as u64,
        skipped: start as u64,
        drift,
    })))
}

/// Whether the origin had applied more of other streams than this database has.
fn is_behind(work: &mut Work<'_>, item: &ApplyItem) -> bool {
    let own = RegionKey::of(&super::numbering::region(work).name);
    item.update.seen.iter().any(|(key, seq)| {
        let row = work.get(&Key::Watermark(*key)).map(Row::watermark);
        *key != own && row.is_some_and(|row| row.at.seq < *seq)
    })
}

fn any_known(
    work: &mut Work<'_>,
    request: &ApplyRequest<'_>,
    installed: &[Option<Arc<Installed>>],
) -> bool {
    let mut all = request.items.iter().zip(installed);
    all.any(|(item, installed)| {
        let asked = asks(item, installed.as_ref()).filter(|_| item.update.undoes.is_none());
        asked.is_some_and(|(id, _)| work.data().store.get(&Key::Request(id)).is_some())
    })
}

/// One update of a request.
struct One<'a> {
    request: &'a ApplyRequest<'a>,
    index: usize,
    installed: Option<&'a Arc<Installed>>,
    asked: Option<([u8; 16], Digest)>,
}

impl One<'_> {
    fn item(&self) -> &ApplyItem {
        &self.request.items[self.index]
    }

    fn log(&self, work: &mut Work<'_>, effect: Effect, rows: u64) {
        let (item, request) = (self.item(), self.request);
        work.log(Execution {
            stream: RegionKey::of(request.stream),
            epoch: request.epoch,
            seq: item.seq,
            tag: item.update.tag,
            prev_tag: item.update.prev_tag,
            statement: item.update.statement,
            effect,
            rows,
        });
    }

    /// Gives the rows affected if they differ from the origin's.
    fn run(&self, work: &mut Work<'_>, known: Option<&RequestRow>) -> Result<Option<u64>, Fail> {
        let item = self.item();
        work.step(Point::Statement).map_err(|f| f.at(self.index))?;
        match (&item.action, item.update.notice()) {
            (ItemAction::Skip, _) => {
                self.log(work, Effect::Skipped, 0);
                Ok(None)
            }
            (ItemAction::Reject { sqlstate, message }, _) => {
                self.reject(work, (sqlstate, message), known)?;
                Ok(None)
            }
            (ItemAction::Run, Some((sqlstate, message))) => {
                self.reject(work, (sqlstate, message), None)?;
                Ok(None)
            }
            (ItemAction::Run, None) => self.execute(work, known),
        }
    }

    fn course(&self, work: &mut Work<'_>, known: Option<&RequestRow>) -> Course {
        let (item, request) = (self.item(), self.request);
        let body = self.asked.map_or(Digest::default(), |(_, body)| body);
        let stream = RegionKey::of(request.stream);
        let refused = item.update.undoes.is_some_and(|seq| {
            let beside = request.items.iter().find(|other| other.seq == seq);
            let left_out = beside.is_some_and(|other| other.action != ItemAction::Run);
            let letters = rejected::of(work, stream, seq);
            left_out
                || letters.iter().any(|letter| {
                    letter.row.epoch == request.epoch
                        && letter.row.resolution.as_deref() != Some("retried")
                })
        });
        let place = (request.stream, item.seq);
        modelling::course(place, &item.update, body, known, refused)
    }

    fn execute(
        &self,
        work: &mut Work<'_>,
        known: Option<&RequestRow>,
    ) -> Result<Option<u64>, Fail> {
        let update = &self.item().update;
        let Some(installed) = self.installed else {
            return Err(DbError::unknown_statement(update.statement, self.index).into());
        };
        let course = self.course(work, known);
        let rows = match (course, update.undoes) {
            (Course::Wait, _) => return Err(modelling::held_here(self.index).into()),
            (Course::Double, _) => {
                self.log(work, Effect::Double, 0);
                return Ok(None);
            }
            (Course::NothingToUndo, undone) => {
                let undone = undone.unwrap_or_default();
                self.log(work, Effect::NothingToUndo(undone), 0);
                return Ok(None);
            }
            (Course::Run, _) => {
                let rows = installed.program.run(work, &update.params);
                let rows = rows.map_err(|fail| fail.at(self.index))?;
                self.log(work, Effect::Ran, rows);
                self.record(work, &RequestState::Committed);
                rows
            }
            (Course::Undo, undone) => {
                let old = if installed.statement.old().is_some() {
                    &update.old
                } else {
                    NOTHING
                };
                let rows = installed.program.undo(work, &update.params, old);
                let rows = rows.unwrap_or_else(|| Err(sql("PR002", "it has no undo")));
                let rows = rows.map_err(|fail| fail.at(self.index))?;
                self.log(work, Effect::Undid(undone.unwrap_or_default()), rows);
                rows
            }
        };
        let is_absolute = installed.statement.kind() == StatementKind::Absolute;
        let counts = modelling::counts(update, is_absolute);
        Ok((counts && rows != update.rows).then_some(rows))
    }

    /// Puts the request of what was executed, or refused, on record, unless the id belongs to another.
    fn record(&self, work: &mut Work<'_>, state: &RequestState) {
        let Some((request_id, body)) = self.asked else {
            return;
        };
        let known = requests::get(work, &request_id);
        if known.is_some_and(|known| known.row.body != body) {
            return;
        }
        requests::put(
            work,
            RequestRow {
                request_id,
                body,
                stream: self.request.stream.to_owned(),
                seq: Some(self.item().seq),
                state: state.clone(),
            },
        );
    }

    fn reject(
        &self,
        work: &mut Work<'_>,
        (sqlstate, message): (&str, &str),
        known: Option<&RequestRow>,
    ) -> Result<(), Fail> {
        let (item, request) = (self.item(), self.request);
        if self.asked.is_some() {
            match self.course(work, known) {
                Course::Wait => return Err(modelling::held_here(self.index).into()),
                // Its copy of another stream has an effect here, or was refused itself.
                Course::Double => {
                    self.log(work, Effect::Double, 0);
                    return Ok(());
                }
                _ => {}
            }
        }
        let message = message.replace('\0', "");
        let letter = RejectedRow {
            id: 0,
            stream: request.stream.to_owned(),
            epoch: request.epoch,
            seq: Some(item.seq),
            update: item.update.clone(),
            sqlstate: sqlstate.to_owned(),
            message: message.clone(),
            at: 0,
            resolution: (sqlstate == SKIPPED).then(|| "skipped".to_owned()),
        };
        rejected::insert(work, letter, item.update.notice().is_some());
        self.log(work, Effect::Rejected, 0);
        if self.asked.is_some() {
            let sqlstate = sqlstate.to_owned();
            self.record(work, &RequestState::Refused { sqlstate, message });
        }
        Ok(())
    }
}

/// What undos leave behind, executed or not: requests that are undone, dead letters that nobody has to
/// deal with any more.
fn settle_undos(
    work: &mut Work<'_>,
    request: &ApplyRequest<'_>,
    items: &[ApplyItem],
    installed: &[Option<Arc<Installed>>],
) -> Result<(), Fail> {
    let stream = RegionKey::of(request.stream);
    let reason = modelling::undone_elsewhere(request.stream);
    for (item, installed) in items.iter().zip(installed) {
        let Some(undone) = undoes(item) else { continue };
        let asked = asks(item, installed.as_ref());
        requests::change(work, item.update.request_id, |row| {
            let same = asked.is_some_and(|(_, body)| body == row.body);
            (same && row.state == RequestState::Committed)
                .then(|| RequestState::Undone(reason.clone()))
        })?;
        for letter in rejected::of(work, stream, undone) {
            if letter.row.epoch == request.epoch {
                rejected::resolve(work, letter.row.id, "undone")?;
            }
        }
        // Or a copy of another stream is what was refused here.
        let Some((id, body)) = asked else { continue };
        let known = requests::get(work, &id).map(|known| known.row.clone());
        if let Some(row) = known
            && row.body == body
            && let (RequestState::Refused { .. }, Some(seq)) = (&row.state, row.seq)
        {
            for letter in rejected::of(work, RegionKey::of(&row.stream), seq) {
                rejected::resolve(work, letter.row.id, "undone")?;
            }
        }
    }
    Ok(())
}
