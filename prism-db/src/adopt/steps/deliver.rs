//! What the target's old database has accepted: what is lost, what can still be delivered.

use std::fmt;
use std::time::Instant;

use prism_proto::{DirectFailure, Seq, Verdict};

use super::{
    BUDGET, Found, PATIENCE, PAUSE, QUIET, Work, ahead_of, before, database_error, sealed, unfit,
};
use crate::adopt::AdoptError;
use crate::catalogue::OnReject;
use crate::direct::{DirectError, DirectWriter};
use crate::{Database, DbError, RefusalRow, UndoReason, Update};

/// What the target's database holds and would lose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loss {
    region: String,
    tables: u64,
    /// Why its stream's end cannot be delivered, and what of it others have.
    stream: Option<String>,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the database of {} is not empty: it has {} tables",
            self.region, self.tables
        )?;
        match &self.stream {
            Some(stream) => write!(f, "; {stream}"),
            None => Ok(()),
        }
    }
}

impl Work<'_> {
    /// To whom the end of the target's own stream can still be delivered; an error if its database
    /// holds anything and nobody has said that it may be overwritten.
    pub(super) fn judge(
        &mut self,
        target: &Found<'_>,
        donor: &Found<'_>,
        others: &[Found<'_>],
    ) -> Result<Vec<String>, AdoptError> {
        let name = self.adoption.target.as_str();
        let mut loss = Loss {
            region: name.to_owned(),
            tables: target.look.tables,
            stream: None,
        };
        let mut deliver = Vec::new();
        if target.has_ledger_of(name) {
            match self.judge_stream(target, donor, others, &mut deliver) {
                Ok(text) => loss.stream = text,
                Err(AdoptError::Database { error, .. }) => {
                    loss.stream = Some(format!("its own updates cannot be read ({error})"));
                }
                Err(other) => return Err(other),
            }
        }
        let empty = target.look.tables == 0 && target.look.ledger.is_none();
        if empty || self.adoption.overwrite || target.has_ledger_of(&sealed(name)) {
            if !empty {
                self.say(&loss.to_string());
            }
            return Ok(deliver);
        }
        Err(AdoptError::NotEmpty(loss))
    }

    fn judge_stream(
        &self,
        target: &Found<'_>,
        donor: &Found<'_>,
        others: &[Found<'_>],
        deliver: &mut Vec<String>,
    ) -> Result<Option<String>, AdoptError> {
        let name = self.adoption.target.as_str();
        let mut own = self.open(target)?;
        let fail = |error| database_error("target", name, error);
        let tail = before(own.region().map_err(fail)?.next_seq);
        let mut words = Vec::new();
        for found in others.iter().chain([donor]) {
            let region = &found.site.region;
            let at = self.open(found)?.position(name);
            let at = at.map_err(|error| database_error("other", region, error))?;
            match own.outbox_verify(at).map_err(fail)? {
                Verdict::Matches if at.seq == tail => {}
                Verdict::Matches => {
                    let (from, to) = (at.seq.next().0, tail.0);
                    words.push(format!(
                        "its updates {from} to {to}, which {region} lacks, are delivered there first"
                    ));
                    deliver.push(region.clone());
                }
                _ => words.push(format!(
                    "{region} knows another history of its stream (up to {}, here it ends at {}): \
                     what only this database has of it is lost",
                    at.seq.0, tail.0
                )),
            }
        }
        Ok((!words.is_empty()).then(|| words.join("; ")))
    }

    /// The target's nodes do not run, so its outbox is emptied from here.
    pub(super) fn deliver(
        &mut self,
        target: &Found<'_>,
        deliver: &[String],
        donor: &Found<'_>,
        others: &[Found<'_>],
    ) -> Result<(), AdoptError> {
        if deliver.is_empty() {
            return Ok(());
        }
        let name = self.adoption.target.as_str();
        let mut own = self.open(target)?;
        let fail = |error| database_error("target", name, error);
        // Awaited writes whose nodes have gone: their undo travels as well.
        own.settle_held().map_err(fail)?;
        let mut delivered = Seq::ZERO;
        loop {
            let tail = before(own.region().map_err(fail)?.next_seq);
            if tail == delivered {
                return Ok(());
            }
            for found in others.iter().chain([donor]) {
                if deliver.contains(&found.site.region) {
                    self.deliver_to(found, own.as_mut(), tail)?;
                }
            }
            // A refusal may have made an undo, for everybody.
            delivered = tail;
        }
    }

    fn deliver_to(
        &mut self,
        found: &Found<'_>,
        own: &mut dyn Database,
        tail: Seq,
    ) -> Result<(), AdoptError> {
        let (name, region) = (self.adoption.target.as_str(), &found.site.region);
        let mut writer = DirectWriter::new(name, found.url, self.options(region))
            .map_err(|error| database_error("other", region, error))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let start = Instant::now();
            let mut outcome = writer.write(own, tail, || start.elapsed() >= BUDGET);
            if !outcome.refusals.is_empty() {
                let handled = self.undo(own, &mut writer, region, &outcome.refusals);
                if let Err(error) = handled {
                    outcome.failure.get_or_insert(error);
                }
            }
            if outcome.failure.is_none() && outcome.position.is_some_and(|at| at.seq >= tail) {
                self.say(&format!("{region}: has {name} up to {}", tail.0));
                return Ok(());
            }
            let Some(failure) = outcome.failure else {
                continue;
            };
            if Instant::now() >= deadline {
                if self.adoption.force {
                    self.warn(format!("{region}: {failure}"));
                    return Ok(());
                }
                return Err(AdoptError::Undelivered {
                    target: name.to_owned(),
                    region: region.clone(),
                    upto: tail.0,
                    detail: failure.to_string(),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// As the target's own node would do it. A dead letter is on record where it was refused.
    fn undo(
        &self,
        own: &mut dyn Database,
        writer: &mut DirectWriter,
        region: &str,
        refusals: &[RefusalRow],
    ) -> Result<(), DirectError> {
        let failed = |error: DbError| DirectError {
            failure: DirectFailure::Busy,
            detail: format!("an undo is not possible: {error}"),
            remedy: String::new(),
        };
        let epoch = own.region().map_err(failed)?.epoch;
        for refusal in refusals {
            let mut update = None;
            own.outbox_read(refusal.seq, refusal.seq, 1, &mut |_, bytes| {
                update = Update::decode(bytes).ok();
            })
            .map_err(failed)?;
            let wanted = update
                .filter(|update| update.undoes.is_none())
                .is_some_and(|update| {
                    let statement = self.adoption.catalogue.by_digest(&update.statement);
                    statement.is_some_and(|statement| statement.on_reject() == OnReject::Undo)
                });
            if wanted && refusal.epoch == epoch {
                let reason = UndoReason::Refused {
                    region: region.to_owned(),
                    sqlstate: refusal.sqlstate.clone(),
                    message: refusal.message.clone(),
                };
                own.undo(refusal.seq, &reason).map_err(failed)?;
            }
            writer.refusals_told(refusal.epoch, &[refusal.seq])?;
        }
        Ok(())
    }

    /// What the others' nodes had received when the target's ended is in their databases soon. The
    /// donor must then have all that anybody has.
    pub(super) fn let_settle(
        &mut self,
        donor: &Found<'_>,
        others: &[Found<'_>],
    ) -> Result<(), AdoptError> {
        let name = self.adoption.target.as_str();
        let mut databases = Vec::new();
        for found in [donor].into_iter().chain(others) {
            databases.push((found.site.region.as_str(), self.open(found)?));
        }
        let (mut last, mut since) = (Vec::new(), Instant::now());
        loop {
            let mut ends = Vec::new();
            for (region, database) in &mut databases {
                let at = database.position(name);
                let at = at.map_err(|error| database_error("other", region, error))?;
                ends.push(at.seq);
            }
            let of_donor = ends[0];
            if ends.iter().all(|end| *end == of_donor) {
                return Ok(());
            }
            if ends != last {
                (last, since) = (ends, Instant::now());
            } else if since.elapsed() >= QUIET {
                let ahead = databases
                    .iter()
                    .zip(&ends)
                    .find(|(_, end)| **end > of_donor);
                return match ahead {
                    Some(((region, _), end)) if !self.adoption.force => Err(unfit(
                        &self.adoption.donor,
                        ahead_of(region, name, *end, of_donor),
                    )),
                    _ => Ok(()),
                };
            }
            std::thread::sleep(PAUSE);
        }
    }
}
