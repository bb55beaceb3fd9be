//! The own stream's end: numbers, tags, clocks; and the undo of held updates whose transaction has
//! ended. Whoever takes numbers settles those first, after its statements have run.

use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;

use prism_db::{Committed, DbError, Digest, Hlc, MAX_UPDATE, UndoReason, Update, Value};
use prism_proto::{RegionKey, Seq, Tag, canary};

use super::locks::{Mode, TxId};
use super::random::random_u64;
use super::rows::{Key, Outbox, Region, Row, State};
use super::store::{Effect, Execution};
use super::work::{Fail, Work, sql};

/// The latest clock of another region that the own one follows.
const FOLLOWED: u64 = 1 << 62;

/// What the undo of an update may have more than the update itself.
const UNDO_ROOM: usize = 1024;

/// An update that has no number yet.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub tag: Tag,
    pub statement: Digest,
    pub params: Vec<Value>,
    pub old: Vec<Value>,
    pub rows: u64,
    pub undoes: Option<Seq>,
    pub held: Option<TxId>,
    pub request_id: Option<[u8; 16]>,
}

impl Draft {
    /// The undo of update `seq`.
    pub fn undo(seq: Seq, original: &Update, rows: u64) -> Self {
        Self {
            tag: new_tag(),
            statement: original.statement,
            params: original.params.clone(),
            old: original.old.clone(),
            rows,
            undoes: Some(seq),
            held: None,
            request_id: original.request_id,
        }
    }

    /// Tells everybody that update `seq` could not be undone here.
    pub fn notice(seq: Seq, sqlstate: &str, message: &str) -> Self {
        let message: String = message.chars().take(1_000).filter(|c| *c != '\0').collect();
        Self {
            tag: new_tag(),
            statement: Digest::default(),
            params: vec![Value::Text(sqlstate.to_owned()), Value::Text(message)],
            old: Vec::new(),
            rows: 0,
            undoes: Some(seq),
            held: None,
            request_id: None,
        }
    }
}

/// Never 0, which means "none".
pub(super) fn new_tag() -> Tag {
    Tag(random_u64())
}

/// The region's row.
pub(super) fn region(work: &mut Work<'_>) -> Arc<Region> {
    let row = work.get(&Key::Region);
    row.expect("a connection is made only to a region's database")
        .region()
}

/// From here to the end of the transaction nobody else gets numbers.
pub(super) fn lock_numbering(work: &mut Work<'_>) -> Result<(), Fail> {
    if canary!(NumbersNotLocked) {
        return Ok(());
    }
    work.lock(&Key::Region, Mode::Write)
}

/// The watermarks that are above 0, and the latest of their clocks.
fn seen(work: &mut Work<'_>) -> (Vec<(RegionKey, Seq)>, Hlc) {
    let mut seen = Vec::new();
    let mut clock = 0;
    let (from, to) = (Key::Watermark(RegionKey(0)), Key::Lane(RegionKey(0)));
    work.scan(Included(&from), Excluded(&to), |key, row| {
        if let (Key::Watermark(stream), Row::Watermark(row)) = (key, row) {
            clock = clock.max(row.hlc.0);
            if row.at.seq > Seq::ZERO {
                seen.push((*stream, row.at.seq));
            }
        }
        true
    });
    (seen, Hlc(clock.min(FOLLOWED)))
}

/// Puts drafts at the end of the own stream.
pub(super) fn append(work: &mut Work<'_>, drafts: Vec<Draft>) -> Result<Vec<Committed>, Fail> {
    // After the statements: no less than what they can have read.
    let (seen, clock) = seen(work);
    lock_numbering(work)?;
    let mut own = Region::clone(&region(work));
    if own.name.ends_with(super::SEALED) {
        return Err(sql("55000", "this database takes no updates any more"));
    }
    let at = work.wall();
    let wall = u64::try_from(at / 1000).unwrap_or(0) << 16;
    let hlc = wall.max(own.hlc.0 + 1).max(clock.0 + 1);
    let mut committed = Vec::with_capacity(drafts.len());
    for (hlc, draft) in (hlc..).zip(drafts) {
        let seq = own.next_seq;
        let update = Arc::new(Update {
            tag: draft.tag,
            prev_tag: own.last_tag,
            statement: draft.statement,
            params: draft.params,
            old: draft.old,
            hlc: Hlc(hlc),
            rows: draft.rows,
            seen: seen.clone(),
            undoes: draft.undoes,
            held: draft.held.is_some(),
            request_id: draft.request_id,
        });
        own.hlc = Hlc(hlc);
        let encoded: Arc<[u8]> = update.encode().into();
        let row = Outbox {
            update: Arc::clone(&update),
            state: draft.held.map_or(State::Final, State::Held),
            at,
            before: own.bytes,
            encoded,
        };
        own.bytes += row.encoded.len() as u64;
        own.last_tag = update.tag;
        own.next_seq = seq.next();
        work.put(Key::Outbox(seq), Arc::new(row));
        if draft.held.is_some() {
            work.put(Key::Held(seq), 0);
        }
        if let Some(undone) = draft.undoes {
            work.put(Key::UndoOf(undone, seq), 0);
        }
        committed.push(Committed {
            seq,
            update: Update::clone(&update),
        });
    }
    work.put(Key::Region, Arc::new(own));
    Ok(committed)
}

/// # Errors
/// `TooLarge`: peers would not take it, or not its undo.
pub(super) fn check_size(index: usize, update: &Update, max_update: usize) -> Result<(), Fail> {
    let limit = max_update.min(MAX_UPDATE - UNDO_ROOM);
    // Nothing that the simulation writes is near the limit unless it is one text.
    let size = update.encode().len();
    if size > limit {
        return Err(DbError::TooLarge { index, size, limit }.into());
    }
    Ok(())
}

/// Notes for the log what has been done with an update of the own stream.
pub(super) fn log_own(work: &mut Work<'_>, seq: Seq, update: &Update, effect: Effect, rows: u64) {
    let own = region(work);
    work.log(Execution {
        stream: RegionKey::of(&own.name),
        epoch: own.epoch,
        seq,
        tag: update.tag,
        prev_tag: update.prev_tag,
        statement: update.statement,
        effect,
        rows,
    });
}

/// Undoes what was held by transactions that have ended without making it final. Returns the undos.
pub(super) fn settle(work: &mut Work<'_>) -> Result<Vec<Committed>, Fail> {
    // Whoever is just publishing one has its number already: it is waited for, and seen then.
    lock_numbering(work)?;
    let mut held = Vec::new();
    let (from, to) = (Key::Held(Seq::ZERO), Key::Held(Seq(u64::MAX)));
    work.scan(Included(&from), Included(&to), |key, _| {
        if let Key::Held(seq) = key {
            held.push(*seq);
        }
        true
    });
    let mut undone = Vec::new();
    for seq in held {
        let ended = |work: &mut Work<'_>, row: &Outbox| match row.state {
            State::Held(tx) => !work.data().open.contains_key(&tx),
            _ => false,
        };
        let key = Key::Outbox(seq);
        let row = work.get(&key).map(Row::outbox);
        if !row.is_some_and(|row| ended(work, &row)) {
            continue;
        }
        // It may have become final, or have been undone, since.
        let row = work.lock_row(&key, Mode::Whole)?.map(Row::outbox);
        if let Some(row) = row
            && ended(work, &row)
        {
            undone.push(undo_held(work, seq, &row, &UndoReason::Crashed)?);
        }
    }
    Ok(undone)
}

/// The undo of a held update: it runs in the other regions only. Its row is locked by the caller.
pub(super) fn undo_held(
    work: &mut Work<'_>,
    seq: Seq,
    row: &Arc<Outbox>,
    reason: &UndoReason,
) -> Result<Committed, Fail> {
    let mut changed = Outbox::clone(row);
    changed.state = State::Undone;
    work.put(Key::Outbox(seq), Arc::new(changed));
    work.delete(Key::Held(seq));
    let draft = Draft::undo(seq, &row.update, u64::MAX);
    let committed = append(work, vec![draft])?.remove(0);
    log_own(
        work,
        committed.seq,
        &committed.update,
        Effect::NothingToUndo(seq),
        0,
    );
    super::requests::set_undone(work, row.update.request_id, seq, reason)?;
    notify(work);
    Ok(committed)
}

/// Whoever waits for the outbox is told at COMMIT.
pub(super) fn notify(work: &mut Work<'_>) {
    let tx = work.tx;
    if let Some(open) = work.data().open.get_mut(&tx) {
        open.notifies = true;
    }
}
