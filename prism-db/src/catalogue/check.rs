//! The checks of one statement: everything that is wrong, each with its fix.

use std::collections::BTreeSet;
use std::fmt;

use super::sql::{self, Analysis, Problem, Role, Verb};
use super::{CatalogueError, Kind, OnReject, Reads, Statement, StatementConfig, digest};

const MAX_NAME: usize = 63;
const MAX_SQL: usize = 16 * 1024;
/// Parameters that a statement may have.
pub const MAX_PARAMS: usize = 64;
const MAX_KEY: usize = 256;

/// Collects what is wrong with one statement.
struct Report<'a> {
    statement: &'a str,
    errors: &'a mut Vec<CatalogueError>,
}

impl Report<'_> {
    fn add(&mut self, field: &'static str, problem: impl fmt::Display, fix: impl fmt::Display) {
        self.errors.push(CatalogueError {
            statement: self.statement.to_owned(),
            field,
            problem: problem.to_string(),
            fix: fix.to_string(),
        });
    }

    fn analyse(
        &mut self,
        field: &'static str,
        text: &str,
        role: Role,
        reads: Reads,
    ) -> Option<Analysis> {
        if text.len() > MAX_SQL {
            self.add(
                field,
                format!("{} bytes of SQL", text.len()),
                format!("keep to {MAX_SQL}"),
            );
            return None;
        }
        match sql::analyse(text, role, reads == Reads::Others) {
            Ok(analysis) => Some(analysis),
            Err(problems) => {
                for Problem { what, fix } in problems {
                    self.add(field, what, fix);
                }
                None
            }
        }
    }
}

pub(super) fn check(
    config: &StatementConfig,
    errors: &mut Vec<CatalogueError>,
) -> Option<Statement> {
    let before = errors.len();
    let mut report = Report {
        statement: &config.name,
        errors,
    };
    check_name(&config.name, &mut report);
    if config.params.len() > MAX_PARAMS {
        report.add(
            "params",
            format!("{} parameters", config.params.len()),
            format!("keep to {MAX_PARAMS}"),
        );
    }
    let write = report.analyse("sql", &config.sql, Role::Write, config.reads);
    let old = config
        .old
        .as_deref()
        .map(|text| report.analyse("old", text, Role::Old, config.reads));
    let undo = config
        .undo
        .as_deref()
        .map(|text| report.analyse("undo", text, Role::Undo, config.reads));
    if config.on_reject == OnReject::Undo && config.undo.is_none() {
        report.add(
            "on_reject",
            "\"undo\" needs SQL that takes the statement back",
            "give it `undo`, or write on_reject = \"dead-letter\"",
        );
    }
    if let Some(write) = &write {
        check_kind(config, write.verb, &mut report);
    }
    // What could not be parsed has been reported; its parameters cannot be judged.
    let old_columns = match &old {
        None => Some(0),
        Some(analysis) => analysis.as_ref().map(|a| a.columns),
    };
    let texts = [Some(&write), old.as_ref(), undo.as_ref()];
    let fields = ["sql", "old", "undo"];
    let mut used = BTreeSet::new();
    let mut all_known = true;
    for (field, text) in fields.into_iter().zip(texts) {
        match text {
            None => {}
            Some(None) => all_known = false,
            Some(Some(analysis)) => {
                check_numbers(config, field, analysis, old_columns, &mut report);
                used.extend(analysis.params.iter().copied());
            }
        }
    }
    if let Some(key) = &config.key {
        check_key(config, key, &mut report);
    }
    if all_known {
        for n in (1..=config.params.len()).filter(|n| !used.contains(n)) {
            report.add(
                "params",
                format!("${n} ({}) is used nowhere", config.params[n - 1]),
                "use it or remove its type from `params`",
            );
        }
    }
    (errors.len() == before).then(|| Statement {
        config: config.clone(),
        digest: digest(config),
        old_columns: old_columns.unwrap_or(0),
        insert: write.and_then(|analysis| analysis.insert),
    })
}

fn check_name(name: &str, report: &mut Report<'_>) {
    let mut chars = name.chars();
    let starts = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let goes_on = chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if !starts || !goes_on || name.len() > MAX_NAME {
        report.add(
            "name",
            "is not a name",
            format!("use letters, digits, _ - . (a letter first, at most {MAX_NAME})"),
        );
    }
}

fn check_kind(config: &StatementConfig, verb: Verb, report: &mut Report<'_>) {
    let fits = match config.kind {
        Kind::Delta | Kind::Absolute => matches!(verb, Verb::Update | Verb::Upsert),
        Kind::Insert => matches!(verb, Verb::Insert | Verb::Upsert),
        Kind::Delete => verb == Verb::Delete,
    };
    if !fits {
        let (should, kinds) = match verb {
            Verb::Update => ("UPDATE", "\"delta\" or \"absolute\""),
            Verb::Upsert => (
                "INSERT ... ON CONFLICT DO UPDATE",
                "\"delta\", \"absolute\" or \"insert\"",
            ),
            Verb::Insert => ("INSERT", "\"insert\""),
            Verb::Delete => ("DELETE", "\"delete\""),
            Verb::Select => ("SELECT", "no kind"),
        };
        report.add(
            "kind",
            format!("{:?} does not fit: `sql` is {should}", config.kind).to_lowercase(),
            format!("write kind = {kinds}"),
        );
    }
    if matches!(config.kind, Kind::Absolute | Kind::Delete) && config.key.is_none() {
        report.add(
            "key",
            "is missing: it tells whose last write wins",
            "write the row's key, such as key = \"users/$1\"",
        );
    }
}

fn check_numbers(
    config: &StatementConfig,
    field: &'static str,
    analysis: &Analysis,
    old_columns: Option<usize>,
    report: &mut Report<'_>,
) {
    let declared = config.params.len();
    for n in analysis.params.iter().filter(|&&n| n > declared) {
        report.add(
            field,
            format!("${n} has no type: `params` declares {declared}"),
            "add its type to `params` or correct the number",
        );
    }
    for n in &analysis.olds {
        if field != "undo" {
            report.add(
                field,
                format!("$old{n} is known in `undo` only"),
                "use a parameter",
            );
        } else if config.old.is_none() {
            report.add(
                field,
                format!("$old{n} needs the query `old`"),
                "add old = \"SELECT ... WHERE ...\"",
            );
        } else if old_columns.is_some_and(|columns| *n > columns) {
            report.add(
                field,
                format!(
                    "$old{n}: `old` gives {} column(s)",
                    old_columns.unwrap_or(0)
                ),
                "select it in `old` or correct the number",
            );
        }
    }
}

fn check_key(config: &StatementConfig, key: &str, report: &mut Report<'_>) {
    if key.is_empty() || key.len() > MAX_KEY || key.contains('\0') {
        report.add(
            "key",
            format!("has {} bytes", key.len()),
            format!("write 1 to {MAX_KEY} bytes without NUL"),
        );
        return;
    }
    for part in key.split('$').skip(1) {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        let n = digits.parse::<usize>().unwrap_or(0);
        if n == 0 || n > config.params.len() {
            report.add(
                "key",
                format!("${digits} is no parameter"),
                format!("use $1 to ${}", config.params.len()),
            );
        }
    }
}
