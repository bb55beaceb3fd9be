//! What is wrong with a configuration: every problem with its place and its fix.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Beyond this many problems the rest is only counted: nobody reads them at once.
const MAX_REPORTED: usize = 50;

/// One thing to mend in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; 0 when the problem is something that is not there.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub fix: String,
}

/// A configuration that cannot be used, with all its problems in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// At least one.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl ConfigError {
    pub(super) fn single(path: &Path, message: String, fix: &str) -> Self {
        Self {
            path: path.to_owned(),
            problems: vec![Problem {
                line: 0,
                column: 0,
                message,
                fix: fix.to_owned(),
            }],
            more: 0,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        for (i, p) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            match p.line {
                0 => write!(f, "{path}: {}", p.message)?,
                line => write!(f, "{path}:{line}:{}: {}", p.column, p.message)?,
            }
            write!(f, "\n    fix: {}", p.fix)?;
        }
        if self.more > 0 {
            write!(f, "\n... and {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Collects problems while the file is read, so that one run shows them all.
#[derive(Default)]
pub(super) struct Problems(RefCell<Vec<(Option<usize>, String, String)>>);

impl Problems {
    pub(super) fn at(
        &self,
        span: &Range<usize>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(Some(span.start), message.into(), fix.into());
    }

    pub(super) fn anywhere(&self, message: impl Into<String>, fix: impl Into<String>) {
        self.push(None, message.into(), fix.into());
    }

    fn push(&self, at: Option<usize>, message: String, fix: String) {
        self.0.borrow_mut().push((at, message, fix));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub(super) fn into_error(self, path: &Path, text: &str) -> ConfigError {
        let mut found = self.0.into_inner();
        found.sort_by_key(|(at, ..)| *at);
        let more = found.len().saturating_sub(MAX_REPORTED);
        found.truncate(MAX_REPORTED);
        let problems = found
            .into_iter()
            .map(|(at, message, fix)| {
                let (line, column) = at.map_or((0, 0), |at| line_column(text, at));
                Problem {
                    line,
                    column,
                    message,
                    fix,
                }
            })
            .collect();
        ConfigError {
            path: path.to_owned(),
            problems,
            more,
        }
    }
}

/// Line of a byte offset, from 1.
pub(super) fn line(text: &str, at: usize) -> usize {
    line_column(text, at).0
}

fn line_column(text: &str, at: usize) -> (usize, usize) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    (
        before.matches('\n').count() + 1,
        before[start..].chars().count() + 1,
    )
}
