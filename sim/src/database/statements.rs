//! What the statements of the [catalogue](super::catalogue) do, on rows.
//!
//! Each one does all of it or nothing: it looks before it writes.

use std::sync::Arc;

use prism_db::Value;

use super::locks::Mode;
use super::rows::{Account, Key, Row};
use super::work::{Fail, Work, sql};

/// A statement by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Add,
    AddOrLetter,
    Rename,
    Open,
    Close,
    Note,
    Unnote,
    Bump,
}

impl Program {
    /// # Panics
    /// A catalogue that the model does not know is a mistake of the simulation.
    pub fn of(name: &str) -> Self {
        match name {
            "add" => Self::Add,
            "add_or_letter" => Self::AddOrLetter,
            "rename" => Self::Rename,
            "open" => Self::Open,
            "close" => Self::Close,
            "note" => Self::Note,
            "unnote" => Self::Unnote,
            "bump" => Self::Bump,
            other => panic!("the model does not know statement {other}"),
        }
    }

    /// What the `old` query gives: `FOR NO KEY UPDATE`.
    pub fn old(self, work: &mut Work<'_>, params: &[Value]) -> Result<Vec<Value>, Fail> {
        if !matches!(self, Self::Rename | Self::Close) {
            return Ok(Vec::new());
        }
        let row = match text(params.first()) {
            Some(id) => work.lock_row(&Key::Account(id), Mode::Write)?,
            None => None,
        };
        let row = row.map(Row::account);
        let n = row.as_ref().map_or(Value::Null, |row| Value::Int(row.n));
        let name = row.map_or(Value::Null, |row| value(row.name.as_ref()));
        Ok(match self {
            Self::Close => vec![n, name],
            _ => vec![name],
        })
    }

    /// Runs the statement; rows affected.
    pub fn run(self, work: &mut Work<'_>, params: &[Value]) -> Result<u64, Fail> {
        let (first, second) = (params.first(), params.get(1));
        match self {
            Self::Add | Self::AddOrLetter => add(work, first, number(second)),
            Self::Bump => add(work, first, Some(1)),
            Self::Rename => rename(work, first, None, text(second)),
            Self::Open => open(work, first, Some(0), text(second)),
            Self::Close => close(work, first),
            Self::Note => note(work, first, second),
            Self::Unnote => unnote(work, first),
        }
    }

    /// Runs the statement's `undo`, if it has one.
    pub fn undo(
        self,
        work: &mut Work<'_>,
        params: &[Value],
        old: &[Value],
    ) -> Option<Result<u64, Fail>> {
        let (first, second) = (params.first(), params.get(1));
        Some(match self {
            Self::Add => add(work, first, number(second).and_then(i64::checked_neg)),
            Self::Bump => add(work, first, Some(-1)),
            Self::Rename => match text(second) {
                Some(now) => rename(work, first, Some(&now), text(old.first())),
                // Nothing equals NULL.
                None => Ok(0),
            },
            Self::Open => close(work, first),
            Self::Close => open(work, first, number(old.first()), text(old.get(1))),
            Self::Note => unnote(work, first),
            Self::AddOrLetter | Self::Unnote => return None,
        })
    }
}

fn text(value: Option<&Value>) -> Option<Arc<str>> {
    match value {
        Some(Value::Text(text)) => Some(text.as_str().into()),
        _ => None,
    }
}

fn number(value: Option<&Value>) -> Option<i64> {
    match value {
        Some(Value::Int(n)) => Some(*n),
        _ => None,
    }
}

fn value(text: Option<&Arc<str>>) -> Value {
    text.map_or(Value::Null, |text| Value::Text(text.to_string()))
}

fn null(column: &str) -> Fail {
    sql("23502", format!("null value in column {column}"))
}

fn check(work: &Work<'_>, n: i64) -> Result<(), Fail> {
    let (min, max) = work.server.bounds;
    if (min..=max).contains(&n) {
        Ok(())
    } else {
        Err(sql("23514", format!("{n} is not between {min} and {max}")))
    }
}

fn add(work: &mut Work<'_>, id: Option<&Value>, by: Option<i64>) -> Result<u64, Fail> {
    let Some(id) = text(id) else { return Ok(0) };
    let key = Key::Account(id);
    let Some(row) = work.lock_row(&key, Mode::Write)?.map(Row::account) else {
        return Ok(0);
    };
    let by = by.ok_or_else(|| null("n"))?;
    let n = row.n.checked_add(by);
    let n = n.ok_or_else(|| sql("22003", "bigint out of range"))?;
    check(work, n)?;
    let name = row.name.clone();
    work.put(key, Arc::new(Account { n, name }));
    Ok(1)
}

/// `guard`: only where the name is this one.
fn rename(
    work: &mut Work<'_>,
    id: Option<&Value>,
    guard: Option<&Arc<str>>,
    name: Option<Arc<str>>,
) -> Result<u64, Fail> {
    let Some(id) = text(id) else { return Ok(0) };
    let key = Key::Account(id);
    let fits = |row: &Account| guard.is_none_or(|guard| row.name.as_ref() == Some(guard));
    // As it is now: a row that does not fit is not locked.
    let before = work.get(&key).map(Row::account);
    if !before.is_some_and(|row| fits(&row)) {
        return Ok(0);
    }
    let row = work.lock_row(&key, Mode::Write)?.map(Row::account);
    let Some(row) = row.filter(|row| fits(row)) else {
        return Ok(0);
    };
    let n = row.n;
    work.put(key, Arc::new(Account { n, name }));
    Ok(1)
}

fn open(
    work: &mut Work<'_>,
    id: Option<&Value>,
    n: Option<i64>,
    name: Option<Arc<str>>,
) -> Result<u64, Fail> {
    let id = text(id).ok_or_else(|| null("id"))?;
    let n = n.ok_or_else(|| null("n"))?;
    check(work, n)?;
    let key = Key::Account(id);
    // Waits for whoever is just writing one with this key.
    work.lock(&key, Mode::Whole)?;
    if work.has(&key) {
        return Err(sql("23505", "duplicate key in accounts"));
    }
    work.put(key, Arc::new(Account { n, name }));
    Ok(1)
}

fn close(work: &mut Work<'_>, id: Option<&Value>) -> Result<u64, Fail> {
    let Some(id) = text(id) else { return Ok(0) };
    let key = Key::Account(Arc::clone(&id));
    if work.lock_row(&key, Mode::Whole)?.is_none() {
        return Ok(0);
    }
    let from = Key::NoteOf(Arc::clone(&id), "".into());
    let mut is_named = false;
    work.scan(
        std::ops::Bound::Included(&from),
        std::ops::Bound::Excluded(&Key::Region),
        |key, _| {
            is_named = matches!(key, Key::NoteOf(account, _) if *account == id);
            false
        },
    );
    if is_named {
        return Err(sql("23503", "a note names the account"));
    }
    work.delete(key);
    Ok(1)
}

fn note(work: &mut Work<'_>, id: Option<&Value>, account: Option<&Value>) -> Result<u64, Fail> {
    let id = text(id).ok_or_else(|| null("id"))?;
    let account = text(account).ok_or_else(|| null("account"))?;
    let key = Key::Note(Arc::clone(&id));
    work.lock(&key, Mode::Whole)?;
    if work.has(&key) {
        return Err(sql("23505", "duplicate key in notes"));
    }
    let named = Key::Account(Arc::clone(&account));
    if work.lock_row(&named, Mode::Share)?.is_none() {
        return Err(sql("23503", "the note names no account"));
    }
    work.put(key, Row::Note(Arc::clone(&account)));
    work.put(Key::NoteOf(account, id), 0);
    Ok(1)
}

fn unnote(work: &mut Work<'_>, id: Option<&Value>) -> Result<u64, Fail> {
    let Some(id) = text(id) else { return Ok(0) };
    let key = Key::Note(Arc::clone(&id));
    let Some(account) = work.lock_row(&key, Mode::Whole)?.map(Row::note) else {
        return Ok(0);
    };
    work.delete(key);
    work.delete(Key::NoteOf(account, id));
    Ok(1)
}
