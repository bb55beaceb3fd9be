//! What both backends decide alike: how a stream is numbered, and whether an apply request fits
//! the ledger. Pure; the backends only read and write rows.

use prism_proto::{Position, RegionKey, Seq, Tag, Verdict, canary};

use crate::{
    ApplyItem, ApplyRequest, Committed, DbError, Digest, Hlc, MAX_UPDATE, RegionRow, RequestRow,
    RequestState, Submission, UndoReason, Update, Value,
};

/// What the execution of one submission gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Executed {
    /// Rows affected.
    pub(crate) rows: u64,
    /// What the `old` query gave; nulls if it found no row.
    pub(crate) old: Vec<Value>,
}

/// The end of the own stream, as it is before a batch (with the numbering locked).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) next_seq: Seq,
    pub(crate) last_tag: Tag,
    /// Latest of the own clock and the clocks of everything applied.
    pub(crate) hlc: Hlc,
}

/// A numbered update and its encoding.
pub(crate) type Numbered = (Committed, Vec<u8>);

/// An update that has no number yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    pub(crate) statement: Digest,
    pub(crate) params: Vec<Value>,
    pub(crate) executed: Executed,
    pub(crate) undoes: Option<Seq>,
    pub(crate) held: bool,
    pub(crate) request_id: Option<[u8; 16]>,
}

impl Draft {
    /// A submission that was executed.
    pub(crate) fn of(submission: &Submission, executed: Executed) -> Self {
        Self {
            statement: submission.statement,
            params: submission.params.clone(),
            executed,
            undoes: None,
            held: false,
            request_id: submission.request_id,
        }
    }

    /// The undo of update `seq`.
    pub(crate) fn undo(seq: Seq, original: &Update, rows: u64) -> Self {
        Self {
            statement: original.statement,
            params: original.params.clone(),
            executed: Executed {
                rows,
                old: original.old.clone(),
            },
            undoes: Some(seq),
            held: false,
            request_id: original.request_id,
        }
    }

    /// Tells everybody that update `seq` could not be undone at its origin.
    pub(crate) fn notice(seq: Seq, sqlstate: &str, message: &str) -> Self {
        // Words only: they must not be what exceeds the limit.
        let message: String = message.chars().take(1_000).collect();
        Self {
            statement: Digest::default(),
            params: vec![
                Value::Text(sqlstate.to_owned()),
                Value::Text(message.replace('\0', "")),
            ],
            executed: Executed {
                rows: 0,
                old: Vec::new(),
            },
            undoes: Some(seq),
            held: false,
            request_id: None,
        }
    }
}

/// What the undo of an update may have more than the update itself: the number that it names, and
/// longer watermarks.
pub(crate) const UNDO_ROOM: usize = 1024;

/// Gives what was executed its numbers, tags and clock; each update names the one before it.
/// Returns the new tail as well.
///
/// # Errors
/// `TooLarge` names the update that exceeds `max_update`.
pub(crate) fn number(
    mut tail: Tail,
    drafts: Vec<Draft>,
    seen: &[(RegionKey, Seq)],
    now_micros: i64,
    max_update: usize,
) -> Result<(Tail, Vec<Numbered>), DbError> {
    let mut numbered = Vec::with_capacity(drafts.len());
    for (index, draft) in drafts.into_iter().enumerate() {
        // Peers refuse anything larger than the format allows, whatever is configured here.
        let limit = match draft.undoes {
            None => max_update.min(MAX_UPDATE - UNDO_ROOM),
            Some(_) => MAX_UPDATE,
        };
        tail.hlc = tail.hlc.tick(now_micros);
        let update = Update {
            tag: random_tag()?,
            prev_tag: tail.last_tag,
            statement: draft.statement,
            params: draft.params,
            old: draft.executed.old,
            hlc: tail.hlc,
            rows: draft.executed.rows,
            seen: seen.to_vec(),
            undoes: draft.undoes,
            held: draft.held,
            request_id: draft.request_id,
        };
        let bytes = update.encode();
        if bytes.len() > limit {
            return Err(DbError::TooLarge {
                index,
                size: bytes.len(),
                limit,
            });
        }
        let seq = tail.next_seq;
        tail.last_tag = update.tag;
        tail.next_seq = seq.next();
        numbered.push((Committed { seq, update }, bytes));
    }
    Ok((tail, numbered))
}

/// Never 0, which means "none".
fn random_tag() -> Result<Tag, DbError> {
    Ok(Tag(random_u64()?))
}

/// A random number that is not 0: tags and epochs.
pub(crate) fn random_u64() -> Result<u64, DbError> {
    loop {
        match getrandom::u64() {
            Ok(0) => {}
            Ok(n) => return Ok(n),
            Err(error) => {
                return Err(DbError::sql(
                    "XX000",
                    format!("the operating system gives no random numbers: {error}"),
                    None,
                ));
            }
        }
    }
}

/// What to do with an apply request, given the locked watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Run the items from this index on; those before it have been applied.
    Run(usize),
    /// Everything has been applied.
    Nothing,
    /// The request starts behind a gap.
    Gap,
}

/// Compares an apply request with the watermark: epoch, gap, chain of tags.
///
/// # Errors
/// `Fork` if they contradict each other.
pub fn plan(watermark: Position, request: &ApplyRequest<'_>) -> Result<Plan, DbError> {
    let fork = |why: String| Err(DbError::Fork(format!("stream {}: {why}", request.stream)));
    if watermark.epoch.0 != 0 && watermark.epoch != request.epoch {
        return fork(format!(
            "this database has applied epoch {:016x} up to {}, the sender speaks of epoch {:016x}",
            watermark.epoch.0, watermark.seq.0, request.epoch.0
        ));
    }
    let items = request.items;
    let first_new = items.partition_point(|item| item.seq <= watermark.seq);
    if let Some(same) = items[..first_new].last()
        && same.seq == watermark.seq
        && same.update.tag != watermark.tag
        && !canary!(TagNotChecked)
    {
        return fork(format!(
            "update {} is another one here: tag {:016x} applied, {:016x} received",
            same.seq.0, watermark.tag.0, same.update.tag.0
        ));
    }
    if canary!(AppliedAgain) && first_new > 0 {
        return Ok(Plan::Run(0));
    }
    let Some(first) = items.get(first_new) else {
        return Ok(Plan::Nothing);
    };
    if first.seq != watermark.seq.next() || !is_consecutive(&items[first_new..]) {
        return Ok(Plan::Gap);
    }
    let mut before = watermark.tag;
    for item in &items[first_new..] {
        if item.update.prev_tag != before && !canary!(TagNotChecked) {
            return fork(format!(
                "update {} continues tag {:016x}, but the one before it has {:016x}",
                item.seq.0, item.update.prev_tag.0, before.0
            ));
        }
        before = item.update.tag;
    }
    Ok(Plan::Run(first_new))
}

fn is_consecutive(items: &[ApplyItem]) -> bool {
    items
        .windows(2)
        .all(|pair| pair[0].seq.next() == pair[1].seq)
}

/// The first stream of which `update`'s origin had applied more than this database has.
///
/// `here` gives what this database has applied of a stream, `None` if it does not know it.
pub fn behind(
    update: &Update,
    here: impl Fn(RegionKey) -> Option<Seq>,
) -> Option<(RegionKey, Seq)> {
    let missing = |&&(key, seq): &&(RegionKey, Seq)| here(key).is_some_and(|have| have < seq);
    update.seen.iter().find(missing).copied()
}

/// What the own stream says of a peer's position. `prev_tag_of_next` is the `prev_tag` of the
/// update behind it, if that is still in the outbox: the chain outlives the row itself.
pub fn verdict(own: &RegionRow, position: Position, prev_tag_of_next: Option<Tag>) -> Verdict {
    let fresh = position.epoch.0 == 0 && position.seq == Seq::ZERO;
    if !fresh && position.epoch != own.epoch {
        return Verdict::Forked;
    }
    let next = position.seq.next();
    if next > own.next_seq {
        return Verdict::Forked;
    }
    let tag_here = if next == own.next_seq {
        own.last_tag
    } else {
        match prev_tag_of_next {
            Some(tag) => tag,
            None => return Verdict::TooOld,
        }
    };
    if tag_here == position.tag || canary!(TagNotChecked) {
        Verdict::Matches
    } else {
        Verdict::Forked
    }
}

/// What to do with one update of another stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// Execute its statement.
    Run,
    /// Execute its statement's `undo`.
    Undo,
    /// Its client has submitted it in another region as well; that copy was dealt with here.
    Double,
    /// What it undoes has no effect here.
    NothingToUndo,
    /// The same request is held here: nobody knows yet whether it takes effect.
    Wait,
}

/// Decides what an update does here, so that a request takes effect once in every region, and is
/// undone once, whichever of its copies (and their undos) come first.
///
/// `on_record` is the row of its request id, `body` what the update asks for (of an undo: what the
/// original asked for). `refused` tells of an undo that this database has refused the original, and
/// has not executed it since.
pub fn course(
    (stream, seq): (&str, Seq),
    update: &Update,
    body: Digest,
    on_record: Option<&RequestRow>,
    refused: bool,
) -> Course {
    // Another body: another update that happens to bear the id. Every region applies both.
    let row = on_record.filter(|row| row.body == body);
    let state = row.map(|row| &row.state);
    let refused_in_stream =
        matches!(state, Some(RequestState::Refused { .. })) && row.is_some_and(|r| r.seq.is_some());
    if update.undoes.is_some() {
        let refused = (refused || refused_in_stream) && !canary!(UndoWhereRefused);
        return match state {
            _ if refused => Course::NothingToUndo,
            Some(RequestState::Undone(_)) => Course::NothingToUndo,
            Some(RequestState::Held) => Course::Wait,
            _ => Course::Undo,
        };
    }
    match row {
        None => Course::Run,
        Some(row) if row.stream == stream && row.seq == Some(seq) => Course::Run,
        // Refused to a client of this region: the copy of the other region must not be missing
        // here without a trace.
        Some(row) if row.seq.is_none() => Course::Run,
        Some(row) if row.state == RequestState::Held => Course::Wait,
        Some(_) if canary!(DoubleRuns) => Course::Run,
        Some(_) => Course::Double,
    }
}

/// What a region other than the origin knows of the reason.
pub fn undone_elsewhere(stream: &str) -> UndoReason {
    UndoReason::Refused {
        region: String::new(),
        sqlstate: String::new(),
        message: format!("undone by region {stream}"),
    }
}

/// The same request is held in this region, and comes from another one.
pub fn held_here(index: usize) -> DbError {
    DbError::sql(
        "55P03",
        "the same request is held in this region; its outcome is waited for",
        Some(index),
    )
}

/// How a state lies in the table `request`: a word and an answer.
pub(crate) fn state_text(state: &RequestState) -> (&'static str, Option<String>) {
    match state {
        RequestState::Committed => ("committed", None),
        RequestState::Held => ("held", None),
        RequestState::Refused { sqlstate, message } => {
            let answer = serde_json::json!({"sqlstate": sqlstate, "message": message});
            ("refused", Some(answer.to_string()))
        }
        // Plain enums and texts: never fails.
        RequestState::Undone(reason) => ("undone", serde_json::to_string(reason).ok()),
    }
}

/// Reads what [`state_text`] gave.
pub(crate) fn state_from(word: &str, answer: Option<&str>) -> RequestState {
    let json: serde_json::Value = answer
        .and_then(|answer| serde_json::from_str(answer).ok())
        .unwrap_or_default();
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    match word {
        "held" => RequestState::Held,
        "refused" => RequestState::Refused {
            sqlstate: text("sqlstate"),
            message: text("message"),
        },
        "undone" => {
            let reason = serde_json::from_value(json.clone());
            RequestState::Undone(reason.unwrap_or_else(|_| undone_elsewhere("?")))
        }
        _ => RequestState::Committed,
    }
}

/// Whether another row count than the origin's says that the tables differ.
pub fn counts(update: &Update, is_absolute: bool) -> bool {
    // A guarded undo affects no row where somebody has written later.
    update.rows != u64::MAX && !(update.undoes.is_some() && is_absolute)
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
