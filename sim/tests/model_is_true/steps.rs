//! One call, or a few that belong together, drawn once and made on both sides.

use std::fmt::Write as _;
use std::time::Duration;

use prism_db::{
    ApplyItem, ApplyRequest, DbError, Digest, HeldState, ItemAction, Retried, Submission,
    UndoReason, Update, Value,
};
use prism_proto::{Epoch, Position, Seq, Tag};

use crate::Random;
use crate::backend::Dialect;
use crate::names::{error, reason, request};
use crate::side::{REGIONS, Side};

/// How a position or an update is spoilt.
#[derive(Debug, Clone, Copy)]
pub enum Spoilt {
    No,
    Epoch,
    Tag,
    Seq,
}

#[derive(Debug, Clone)]
pub enum Step {
    Submit(usize, Vec<Submission>),
    Find(usize, u8),
    /// Of a stream, in a database: from so many before its watermark, at most so many.
    Apply {
        stream: usize,
        at: usize,
        back: u64,
        count: u64,
        actions: Vec<ItemAction>,
        spoilt: Spoilt,
        lenient: bool,
    },
    /// By the real code that nodes and direct writers use.
    Deliver {
        stream: usize,
        at: usize,
        tell: bool,
    },
    Undo(usize, u64, UndoReason),
    Acked(usize, usize, Spoilt, bool),
    Verify(usize, usize, Spoilt),
    Lease(usize, usize, u8, u64),
    Release(usize, usize, u8),
    Want(usize, usize, u8),
    Stale(usize, usize, bool),
    Lanes(usize),
    Trim(usize, u32),
    TrimRequests(usize, u32),
    Request(usize, u8),
    Refused(usize, Submission, bool),
    Rejected(usize),
    Retry(usize, u64),
    Drop(usize, u64),
    Skip(usize, usize, u64),
    Claim(usize, u8, u64),
    Beat(usize, u8, u64),
    Held(usize, Submission, Ending),
    Read(usize, u64, u64, usize),
    Region(usize),
    Unknown(usize),
}

/// What becomes of a held update.
#[derive(Debug, Clone, Copy)]
pub enum Ending {
    Final,
    Undone,
    Cancelled,
}

const STATEMENTS: [&str; 8] = [
    "add",
    "add",
    "add_or_letter",
    "rename",
    "open",
    "close",
    "note",
    "unnote",
];

fn text(text: String) -> Value {
    Value::Text(text)
}

fn account(random: &mut Random) -> Value {
    let known = ["a", "b", "c", "d", "x", "y", "z"];
    text(known[random.below(7) as usize].to_owned())
}

/// Request ids come from a few, so that they repeat, here and elsewhere; or are new.
fn request_id(random: &mut Random) -> Option<[u8; 16]> {
    match random.below(4) {
        0 => None,
        1 => Some([1 + random.below(40) as u8; 16]),
        _ => {
            let mut id = [0xAB; 16];
            id[0] = 200;
            id[8..].copy_from_slice(&random.next().to_be_bytes());
            Some(id)
        }
    }
}

fn submission(random: &mut Random, side: &Side<'_>) -> Submission {
    let request_id = request_id(random);
    // A client that repeats a request asks for the same, as a rule.
    let mut same = Random::new(u64::from(request_id.map_or(0, |id| id[0])));
    let repeats = request_id.is_some_and(|id| id[0] < 100) && !random.one_in(4);
    let random = if repeats { &mut same } else { random };
    let name = STATEMENTS[random.below(8) as usize];
    let statement = side.catalogue.get(name).expect("a statement");
    let note = |random: &mut Random| text(format!("n{}", random.below(6)));
    let params = match name {
        "add" | "add_or_letter" => {
            let n = random.below(31) as i64 - 10;
            let n = if random.one_in(30) {
                Value::Null
            } else {
                Value::Int(n)
            };
            vec![account(random), n]
        }
        "rename" | "open" => {
            let name = text(format!("name{}", random.below(4)));
            let name = if random.one_in(10) { Value::Null } else { name };
            vec![account(random), name]
        }
        "close" => vec![account(random)],
        "note" => vec![note(random), account(random)],
        _ => vec![note(random)],
    };
    Submission {
        statement: statement.digest(),
        params,
        request_id,
    }
}

fn why(random: &mut Random) -> UndoReason {
    match random.below(6) {
        0 => UndoReason::Crashed,
        1 => UndoReason::Conflict {
            region: "EU".to_owned(),
        },
        _ => UndoReason::Refused {
            region: "AS".to_owned(),
            sqlstate: "23514".to_owned(),
            message: "too \"much\"".to_owned(),
        },
    }
}

fn spoilt(random: &mut Random) -> Spoilt {
    match random.below(12) {
        0 => Spoilt::Epoch,
        1 => Spoilt::Tag,
        2 => Spoilt::Seq,
        _ => Spoilt::No,
    }
}

impl Step {
    pub fn draw(random: &mut Random, side: &mut Side<'_>, dialect: Dialect) -> Self {
        let region = random.below(3) as usize;
        let other = (region + 1 + random.below(2) as usize) % 3;
        let exact = dialect == Dialect::Postgres;
        match random.below(44) {
            0..=8 => {
                let count = if random.one_in(3) {
                    1 + random.below(4)
                } else {
                    1
                };
                let mut batch: Vec<_> = (0..count).map(|_| submission(random, side)).collect();
                // The caller puts no id twice into one batch.
                batch.dedup_by_key(|submission| submission.request_id.filter(|id| id[0] < 100));
                let mut ids = Vec::new();
                batch.retain(|submission| match submission.request_id {
                    Some(id) if ids.contains(&id) => false,
                    Some(id) => {
                        ids.push(id);
                        true
                    }
                    None => true,
                });
                Self::Submit(region, batch)
            }
            9..=12 => {
                let reject = || ItemAction::Reject {
                    sqlstate: "23514".to_owned(),
                    message: "no".to_owned(),
                };
                let actions = (0..6)
                    .map(|_| match random.below(30) {
                        0 if exact => ItemAction::Skip,
                        1 if exact => reject(),
                        2 if exact => ItemAction::Reject {
                            sqlstate: prism_db::apply::SKIPPED.to_owned(),
                            message: String::new(),
                        },
                        _ => ItemAction::Run,
                    })
                    .collect();
                Self::Apply {
                    stream: region,
                    at: other,
                    back: random.below(3),
                    count: 1 + random.below(6),
                    actions,
                    spoilt: spoilt(random),
                    lenient: random.one_in(6),
                }
            }
            13..=21 => Self::Deliver {
                stream: region,
                at: other,
                tell: random.one_in(2),
            },
            22..=24 => {
                let next = side.one[region].region().expect("region").next_seq.0;
                let back = random.below(8);
                Self::Undo(region, next.saturating_sub(back), why(random))
            }
            25 => Self::Acked(region, other, spoilt(random), random.one_in(3)),
            26 => Self::Verify(region, other, spoilt(random)),
            27 => Self::Lease(region, other, random.below(2) as u8, 5 + random.below(20)),
            28 => Self::Release(region, other, random.below(2) as u8),
            29 => Self::Want(region, other, random.below(2) as u8),
            30 => Self::Stale(region, other, random.one_in(4)),
            31 => Self::Lanes(region),
            32 => Self::Trim(region, random.below(20) as u32),
            33 if exact => Self::TrimRequests(region, random.below(20) as u32),
            34 => Self::Request(region, 1 + random.below(40) as u8),
            35 => Self::Refused(region, submission(random, side), random.one_in(2)),
            36 => Self::Rejected(region),
            37 => Self::Retry(region, random.next()),
            38 => Self::Drop(region, random.next()),
            39 => Self::Skip(region, other, random.below(12)),
            40 => {
                let node = random.below(2) as u8;
                if random.one_in(2) {
                    Self::Claim(region, node, random.below(3))
                } else {
                    Self::Beat(region, node, random.below(3))
                }
            }
            41 | 42 => {
                let ending = match random.below(3) {
                    0 => Ending::Final,
                    1 => Ending::Undone,
                    _ => Ending::Cancelled,
                };
                let mut submission = submission(random, side);
                // SQLite leaves it to the caller to ask for no undo-less one.
                let undo = |s: &Submission| {
                    side.catalogue
                        .by_digest(&s.statement)
                        .and_then(|s| s.undo())
                        .is_some()
                };
                while !exact && !undo(&submission) {
                    submission = self::submission(random, side);
                }
                submission.request_id.get_or_insert([99; 16]);
                Self::Held(region, submission, ending)
            }
            _ => match random.below(4) {
                0 => Self::Find(region, 1 + random.below(40) as u8),
                1 => Self::Region(region),
                2 => Self::Unknown(region),
                _ => {
                    let from = 1 + random.below(30);
                    Self::Read(region, from, from + random.below(9), 1 << random.below(12))
                }
            },
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Submit(..) => "submit",
            Self::Find(..) => "find",
            Self::Apply { .. } => "apply",
            Self::Deliver { .. } => "deliver",
            Self::Undo(..) => "undo",
            Self::Acked(..) => "acked",
            Self::Verify(..) => "verify",
            Self::Lease(..) => "lease",
            Self::Release(..) => "release",
            Self::Want(..) => "want",
            Self::Stale(..) => "stale",
            Self::Lanes(..) => "lanes",
            Self::Trim(..) => "trim",
            Self::TrimRequests(..) => "trim requests",
            Self::Request(..) => "request",
            Self::Refused(..) => "refused",
            Self::Rejected(..) => "rejected",
            Self::Retry(..) => "retry",
            Self::Drop(..) => "drop",
            Self::Skip(..) => "skip",
            Self::Claim(..) => "claim",
            Self::Beat(..) => "beat",
            Self::Held(..) => "held",
            Self::Read(..) => "read",
            Self::Region(..) => "region",
            Self::Unknown(..) => "unknown",
        }
    }

    /// Makes the calls; what they gave, in words that are the same on both sides.
    pub fn run(&self, side: &mut Side<'_>) -> String {
        let text = match self.make(side) {
            Ok(text) => text,
            Err(failed) => error(&failed),
        };
        for region in 0..3 {
            side.learn_letters(region);
        }
        text
    }

    fn make(&self, side: &mut Side<'_>) -> Result<String, DbError> {
        Ok(match self {
            Self::Submit(region, batch) => {
                let committed = side.one[*region].submit(batch)?;
                side.learn(*region);
                side.names.committed(&side.catalogue, &committed)
            }
            Self::Find(region, id) => {
                let found = side.one[*region].outbox_find(&[*id; 16])?;
                let found: Vec<_> = found.into_iter().collect();
                side.names.committed(&side.catalogue, &found)
            }
            Self::Apply {
                stream,
                at,
                back,
                count,
                actions,
                spoilt,
                lenient,
            } => {
                let items = items(side, *stream, *at, *back, *count, actions, *spoilt);
                if items.is_empty() {
                    return Ok("nothing".to_owned());
                }
                let mut epoch = side.one[*stream].region()?.epoch;
                let fresh = side.one[*at].position(REGIONS[*stream])?.epoch == Epoch(0);
                if matches!(spoilt, Spoilt::Epoch) && !fresh {
                    epoch.0 ^= 1;
                }
                let report = side.one[*at].apply(&ApplyRequest {
                    stream: REGIONS[*stream],
                    epoch,
                    items: &items,
                    ignore_dependencies: *lenient,
                })?;
                side.names.report(&report) + &positions(side, *at)
            }
            Self::Deliver { stream, at, tell } => deliver(side, *stream, *at, *tell)?,
            Self::Undo(region, seq, why) => {
                let undone = side.one[*region].undo(Seq(*seq), why)?;
                side.learn(*region);
                side.names.undone(&side.catalogue, &undone)
            }
            Self::Acked(region, peer, spoilt, at_end) => {
                let at = if *at_end {
                    let own = side.one[*region].region()?;
                    Position {
                        epoch: own.epoch,
                        seq: Seq(own.next_seq.0 - 1),
                        tag: own.last_tag,
                    }
                } else {
                    side.one[*peer].position(REGIONS[*region])?
                };
                let at = spoil(at, *spoilt);
                side.one[*region].lane_acked(REGIONS[*peer], at)?;
                lanes(side, *region)?
            }
            Self::Verify(region, peer, spoilt) => {
                let at = side.one[*peer].position(REGIONS[*region])?;
                format!("{:?}", side.one[*region].outbox_verify(spoil(at, *spoilt))?)
            }
            Self::Lease(region, peer, node, ttl) => {
                let (node, ttl) = (format!("N{node}"), Duration::from_secs(*ttl));
                let lane = side.one[*region].lane_lease(REGIONS[*peer], &node, ttl)?;
                side.names.lane(&lane)
            }
            Self::Release(region, peer, node) => {
                side.one[*region].lane_release(REGIONS[*peer], &format!("N{node}"))?;
                lanes(side, *region)?
            }
            Self::Want(region, peer, node) => {
                let (node, ttl) = (format!("N{node}"), Duration::from_secs(20));
                side.one[*region].lane_want(REGIONS[*peer], &node, ttl)?;
                String::new()
            }
            Self::Stale(region, peer, stale) => {
                if *stale {
                    side.one[*region].lane_stale(REGIONS[*peer])?;
                } else {
                    side.one[*region].lane_back(REGIONS[*peer])?;
                }
                lanes(side, *region)?
            }
            Self::Lanes(region) => lanes(side, *region)?,
            Self::Trim(region, limit) => {
                let gone = side.one[*region].outbox_trim(Duration::ZERO, *limit)?;
                let rows = side.one[*region].outbox_figures()?.rows;
                format!("{gone} gone, {rows} left")
            }
            Self::TrimRequests(region, limit) => {
                let reach = side.one[*region].requests_reach(Duration::ZERO)?;
                let gone = side.one[*region].request_trim(Duration::ZERO, *limit)?;
                format!("{reach} {gone}")
            }
            Self::Request(region, id) => {
                let row = side.one[*region].request(&[*id; 16])?;
                row.map_or("none".to_owned(), |row| request(&row))
            }
            Self::Refused(region, submission, letter) => {
                let db = &mut side.one[*region];
                db.request_refused(submission, "23514", "too much", *letter)?;
                let id = submission.request_id.unwrap_or_default();
                let row = side.one[*region].request(&id)?;
                row.map_or("none".to_owned(), |row| request(&row))
            }
            Self::Rejected(region) => {
                let count = side.one[*region].rejected_count()?;
                let mut text = format!("{count} ");
                for row in side.one[*region].rejected(5)? {
                    text += &side.names.letter(&side.catalogue, &row);
                }
                for id in side.letters[*region].clone() {
                    if let Some(row) = side.one[*region].rejected_get(id)? {
                        text += &side.names.letter(&side.catalogue, &row);
                    }
                }
                text
            }
            Self::Retry(region, pick) => retry(side, *region, *pick)?,
            Self::Drop(region, pick) => {
                let letters = &side.letters[*region];
                let id = match letters.len() as u64 {
                    0 => 12_345_678,
                    n => letters[(pick % n) as usize],
                };
                format!("{}", side.one[*region].rejected_drop(id)?)
            }
            Self::Skip(stream, at, seq) => {
                let stream = REGIONS[*stream];
                let taken = side.one[*at].skip(stream, Seq(*seq))?;
                format!("{taken} {:?}", side.one[*at].skips(stream)?)
            }
            Self::Claim(region, node, journal) => {
                let node = format!("N{node}");
                let row = side.one[*region].node_claim(&node, *journal, 7)?;
                format!("{:?}", row.map(|row| (row.incarnation, row.journal)))
            }
            Self::Beat(region, node, incarnation) => {
                let node = format!("N{node}");
                format!("{}", side.one[*region].node_beat(&node, *incarnation)?)
            }
            Self::Held(region, submission, ending) => held(side, *region, submission, *ending)?,
            Self::Read(region, from, to, bytes) => {
                let mut read = Vec::new();
                let mut sink = |seq: Seq, _: &[u8]| read.push(seq.0);
                // The first one always; how many more depends on the length of random numbers.
                let bytes = if *bytes > 500 { usize::MAX } else { 0 };
                let last = side.one[*region].outbox_read(Seq(*from), Seq(*to), bytes, &mut sink)?;
                format!("{read:?} to {}", last.0)
            }
            Self::Region(region) => {
                let row = side.one[*region].region()?;
                let epoch = side.names.epoch(row.epoch);
                let (next, tag) = (row.next_seq.0, side.names.tag(row.last_tag));
                format!(
                    "{} {epoch} {next} {tag} {}",
                    row.name,
                    positions(side, *region)
                )
            }
            Self::Unknown(region) => unknown(side, *region),
        })
    }
}

fn positions(side: &mut Side<'_>, region: usize) -> String {
    let all = side.one[region].positions().expect("positions");
    let mut text = String::new();
    for (stream, at) in all {
        let one = side.one[region].position(&stream).expect("position");
        assert_eq!(one, at);
        let _ = write!(text, " {stream} at {}", side.names.position(at));
    }
    text
}

fn lanes(side: &mut Side<'_>, region: usize) -> Result<String, DbError> {
    let mut text = String::new();
    for lane in side.one[region].lanes()? {
        let _ = write!(text, "{} ", side.names.lane(&lane));
    }
    Ok(text)
}

fn spoil(mut at: Position, how: Spoilt) -> Position {
    match how {
        Spoilt::No => {}
        Spoilt::Epoch => at.epoch = Epoch(at.epoch.0 ^ 1),
        Spoilt::Tag => at.tag = Tag(at.tag.0 ^ 1),
        Spoilt::Seq => at.seq = Seq(at.seq.0 + 2),
    }
    at
}

fn items(
    side: &mut Side<'_>,
    stream: usize,
    at: usize,
    back: u64,
    count: u64,
    actions: &[ItemAction],
    spoilt: Spoilt,
) -> Vec<ApplyItem> {
    let applied = side.one[at]
        .position(REGIONS[stream])
        .expect("position")
        .seq
        .0;
    let from = (applied + 1).saturating_sub(back).max(1);
    let ahead = u64::from(matches!(spoilt, Spoilt::Seq));
    let mut items = Vec::new();
    for (seq, bytes) in side.outbox(stream) {
        let new = seq.0.checked_sub(applied + 1);
        if seq.0 < from + ahead || items.len() as u64 == count {
            continue;
        }
        let mut update = Update::decode(&bytes).expect("an update");
        if matches!(spoilt, Spoilt::Tag) && new == Some(0) {
            update.prev_tag.0 ^= 1;
        }
        let action = match (new, update.notice()) {
            (_, Some((sqlstate, message))) => ItemAction::Reject {
                sqlstate: sqlstate.to_owned(),
                message: message.to_owned(),
            },
            (Some(new), None) => actions
                .get(new as usize)
                .cloned()
                .unwrap_or(ItemAction::Run),
            (None, None) => ItemAction::Run,
        };
        items.push(ApplyItem {
            seq,
            update,
            action,
        });
    }
    items
}

/// As a node's inlet does, which then tells the origin what was refused; that undoes it.
fn deliver(side: &mut Side<'_>, stream: usize, at: usize, tell: bool) -> Result<String, DbError> {
    let updates = side.outbox(stream);
    let epoch = side.one[stream].region()?.epoch;
    let applied = side.one[at].position(REGIONS[stream])?.seq;
    let new: Vec<_> = updates
        .into_iter()
        .filter(|(seq, _)| *seq > applied)
        .collect();
    let applier = &mut side.appliers[at][stream];
    let outcome = applier.apply(&mut *side.one[at], REGIONS[stream], epoch, &new);
    let mut text = format!(
        "at {:?} executed {} skipped {} drift {:?}",
        outcome.position.map(|at| side.names.position(at)),
        outcome.executed,
        outcome.skipped,
        outcome.drift
    );
    for rejection in &outcome.rejected {
        let _ = write!(
            text,
            " rejected {} {:?} {} {:?} {:?}",
            rejection.seq.0,
            rejection.statement,
            rejection.sqlstate,
            rejection.on_reject,
            rejection.kind
        );
    }
    if let Some(wait) = &outcome.wait {
        let _ = write!(text, " waits {:?} {:?}", wait.cause, wait.seq);
    }
    if tell {
        for refusal in side.one[at].refusals(REGIONS[stream], 100)? {
            let _ = write!(text, " refusal {} {}", refusal.seq.0, refusal.sqlstate);
            let why = UndoReason::Refused {
                region: REGIONS[at].to_owned(),
                sqlstate: refusal.sqlstate.clone(),
                message: String::new(),
            };
            let undone = side.one[stream].undo(refusal.seq, &why)?;
            side.learn(stream);
            text += &side.names.undone(&side.catalogue, &undone);
            side.one[at].refusals_told(REGIONS[stream], refusal.epoch, &[refusal.seq])?;
        }
        assert_eq!(side.one[at].refusals(REGIONS[stream], 100)?, []);
    }
    Ok(text + &positions(side, at))
}

fn retry(side: &mut Side<'_>, region: usize, pick: u64) -> Result<String, DbError> {
    let letters = &side.letters[region];
    let id = match letters.len() as u64 {
        0 => return Ok(format!("{:?}", side.one[region].rejected_retry(7_654_321)?)),
        n => letters[(pick % n) as usize],
    };
    let row = side.one[region].rejected_get(id)?.expect("a letter");
    let is_notice = row.update.notice().is_some();
    if is_notice && side.dialect == Dialect::Sqlite {
        return Ok("a notice".to_owned());
    }
    if let Some(seq) = row.seq
        && row.stream != REGIONS[region]
    {
        // One backend forgets that its origin is to be told, the other does not.
        side.one[region].refusals_told(&row.stream, row.epoch, &[seq])?;
    }
    match side.one[region].rejected_retry(id) {
        Ok(Retried::Submitted(committed)) => {
            side.learn(region);
            Ok(side.names.committed(&side.catalogue, &[committed]))
        }
        Ok(other) => Ok(format!("{other:?}")),
        // It is about no batch.
        Err(DbError::Sql { sqlstate, .. }) => Ok(format!("error {sqlstate}")),
        Err(other) => Err(other),
    }
}

fn held(
    side: &mut Side<'_>,
    region: usize,
    submission: &Submission,
    ending: Ending,
) -> Result<String, DbError> {
    let limit = Duration::from_secs(60);
    let write = side.one[region].held_begin(submission, limit)?;
    let mut text = format!("rows {} old {:?}", write.rows, write.old);
    let published = match side.two[region].held_publish(&write) {
        Ok(published) => published,
        Err(failed) => {
            side.one[region].held_cancel()?;
            return Err(failed);
        }
    };
    let ended = end_held(side, region, &published, ending);
    if ended.is_err() {
        side.one[region].held_cancel()?;
    }
    text += &ended?;
    side_learn_all(side, region);
    if let Some(id) = submission.request_id {
        let row = side.two[region].request(&id)?;
        text += &row.map_or("none".to_owned(), |row| request(&row));
    }
    // It is not undone any more once it is final.
    let again = side.two[region].undo(published.seq, &UndoReason::Crashed)?;
    text += &side.names.undone(&side.catalogue, &again);
    Ok(text)
}

fn end_held(
    side: &mut Side<'_>,
    region: usize,
    published: &prism_db::Committed,
    ending: Ending,
) -> Result<String, DbError> {
    let seq = published.seq;
    side_learn(side, region, published);
    let mut text = side
        .names
        .committed(&side.catalogue, std::slice::from_ref(published));
    let state = |side: &mut Side<'_>| match side.two[region].held_state(seq) {
        Ok(HeldState::Undone(why)) => reason(&why),
        Ok(state) => format!("{state:?}"),
        Err(failed) => error(&failed),
    };
    text += &state(side);
    assert_eq!(side.two[region].settle_held()?, [], "it is still held");
    match ending {
        Ending::Final => {
            let is_final = side.one[region].held_finish(seq)?;
            let _ = write!(text, " finished {is_final}");
        }
        Ending::Undone | Ending::Cancelled => {
            let why = UndoReason::Unconfirmed {
                regions: vec!["AS".to_owned()],
            };
            let undone = side.two[region].undo(seq, &why)?;
            side_learn_all(side, region);
            text += &side.names.undone(&side.catalogue, &undone);
            if matches!(ending, Ending::Undone) {
                let is_final = side.one[region].held_finish(seq)?;
                let _ = write!(text, " finished {is_final}");
            } else {
                side.one[region].held_cancel()?;
            }
        }
    }
    Ok(text + &state(side))
}

/// The first connection is busy.
fn side_learn(side: &mut Side<'_>, region: usize, one: &prism_db::Committed) {
    let name = format!("{}{}", REGIONS[region], one.seq.0);
    side.names.tags.insert(one.update.tag.0, name);
}

fn side_learn_all(side: &mut Side<'_>, region: usize) {
    let mut found = Vec::new();
    let next = side.two[region].region().expect("region").next_seq.0;
    let rows = side.two[region].outbox_figures().expect("figures").rows;
    side.two[region]
        .outbox_read(
            Seq(next - rows),
            Seq(1 << 40),
            usize::MAX,
            &mut |seq, bytes| {
                let update = Update::decode(bytes).expect("an update");
                found.push((update.tag.0, format!("{}{}", REGIONS[region], seq.0)));
            },
        )
        .expect("outbox");
    side.names.tags.extend(found);
}

/// Names and versions that nobody knows.
fn unknown(side: &mut Side<'_>, region: usize) -> String {
    let db = &mut side.one[region];
    let failed = |result: Result<(), DbError>| match result {
        Ok(()) => "fine ".to_owned(),
        Err(failed) => error(&failed) + " ",
    };
    let mut text = failed(db.position("XX").map(drop));
    text += &failed(db.lane_lease("XX", "N", Duration::from_secs(1)).map(drop));
    text += &failed(db.lane_release("XX", "N"));
    text += &failed(db.lane_acked("XX", Position::default()));
    text += &failed(db.lane_stale("XX"));
    text += &failed(db.skip("XX", Seq(1)).map(drop));
    let nobody = Submission {
        statement: Digest([7; 16]),
        params: Vec::new(),
        request_id: None,
    };
    text += &failed(db.submit(std::slice::from_ref(&nobody)).map(drop));
    text += &failed(db.held_begin(&nobody, Duration::from_secs(1)).map(drop));
    text += &failed(db.submit(&[]).map(drop));
    let state = db.held_state(Seq(999)).expect("state");
    let undone = db.undo(Seq(999), &UndoReason::Crashed).expect("undo");
    let stream = REGIONS[(region + 1) % 3];
    let epoch = db.position(stream).expect("position").epoch;
    let empty = db.apply(&ApplyRequest {
        stream,
        epoch,
        items: &[],
        ignore_dependencies: false,
    });
    let empty = empty.expect("nothing to do");
    let undone = side.names.undone(&side.catalogue, &undone);
    text + &format!("{state:?} {undone} {}", side.names.report(&empty))
}
