//! Reads one table of the file key by key; what nobody asked for is an unknown key.

use std::collections::HashMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::expand::{ExpandError, expand};
use super::problem::Problems;

/// One table: what it is called in messages, what has not been read yet, what could be.
pub(super) struct Section<'i, 'p> {
    label: String,
    span: Range<usize>,
    table: DeTable<'i>,
    known: Vec<&'static str>,
    problems: &'p Problems,
}

impl<'i, 'p> Section<'i, 'p> {
    pub(super) fn new(
        label: impl Into<String>,
        table: Spanned<DeTable<'i>>,
        problems: &'p Problems,
    ) -> Self {
        Self {
            label: label.into(),
            span: table.span(),
            table: table.into_inner(),
            known: Vec::new(),
            problems,
        }
    }

    /// Once its name is known, messages can use it.
    pub(super) fn relabel(&mut self, label: String) {
        self.label = label;
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn span(&self) -> &Range<usize> {
        &self.span
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn wrong_type(&self, key: &str, found: &Spanned<DeValue<'_>>, wanted: &str, fix: String) {
        self.problems.at(
            &found.span(),
            format!(
                "`{key}` in {} is of type {}, not {wanted}",
                self.label,
                found.get_ref().type_str()
            ),
            fix,
        );
    }

    /// A string, if the key is there.
    pub(super) fn string(&mut self, key: &'static str, example: &str) -> Option<Spanned<String>> {
        let value = self.take(key)?;
        let span = value.span();
        match value.get_ref() {
            DeValue::String(s) => Some(Spanned::new(span, s.clone().into_owned())),
            _ => {
                self.wrong_type(key, &value, "a string", format!("{key} = \"{example}\""));
                None
            }
        }
    }

    /// Whether the key is there, whatever it is.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A string that has to be there.
    pub(super) fn required(&mut self, key: &'static str, example: &str) -> Option<Spanned<String>> {
        if !self.table.contains_key(key) {
            self.known.push(key);
            self.problems.at(
                &self.span,
                format!("{} has no `{key}`", self.label),
                format!("add {key} = \"{example}\""),
            );
            return None;
        }
        self.string(key, example)
    }

    /// A whole number, if the key is there.
    pub(super) fn integer(&mut self, key: &'static str, example: i64) -> Option<Spanned<i64>> {
        let value = self.take(key)?;
        let parsed = match value.get_ref() {
            DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix()).ok(),
            _ => None,
        };
        if parsed.is_none() {
            self.wrong_type(
                key,
                &value,
                "a small whole number",
                format!("{key} = {example}"),
            );
        }
        Some(Spanned::new(value.span(), parsed?))
    }

    /// A table, if the key is there.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Section<'i, 'p>> {
        let value = self.take(key)?;
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(t) => Some(Section::new(
                format!("[{key}]"),
                Spanned::new(span, t),
                self.problems,
            )),
            other => {
                let other = Spanned::new(span, other);
                self.wrong_type(key, &other, "a table", format!("start it with [{key}]"));
                None
            }
        }
    }

    /// The elements of an array of tables; empty if the key is not there.
    pub(super) fn tables(&mut self, key: &'static str, header: &str) -> Vec<Section<'i, 'p>> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let span = value.span();
        let fix = format!("start each one with {header}");
        match value.into_inner() {
            DeValue::Array(elements) => elements
                .into_iter()
                .filter_map(|element| {
                    let span = element.span();
                    match element.into_inner() {
                        DeValue::Table(t) => {
                            Some(Section::new(header, Spanned::new(span, t), self.problems))
                        }
                        other => {
                            let other = Spanned::new(span, other);
                            self.wrong_type(key, &other, "a table", fix.clone());
                            None
                        }
                    }
                })
                .collect(),
            other => {
                let other = Spanned::new(span, other);
                self.wrong_type(key, &other, "an array of tables", fix);
                Vec::new()
            }
        }
    }

    /// The whole table for a serde type; unknown keys are that type's business.
    pub(super) fn into_value(self) -> Spanned<DeValue<'i>> {
        Spanned::new(self.span, DeValue::Table(self.table))
    }

    /// Where the values of the keys stand.
    pub(super) fn field_spans(&self) -> HashMap<String, Range<usize>> {
        let entries = self.table.iter();
        entries
            .map(|(key, value)| (key.get_ref().to_string(), value.span()))
            .collect()
    }

    /// Name of the table without taking it, for messages.
    pub(super) fn peek(&self, key: &str) -> Option<&str> {
        self.table.get(key)?.get_ref().as_str()
    }

    /// Whatever is left was not asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            let near = self
                .known
                .iter()
                .map(|k| (strsim::jaro(k, name), *k))
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .filter(|(score, _)| *score > 0.75);
            let fix = match near {
                Some((_, k)) => format!("write `{k}`, or remove the line"),
                None => format!("remove it; {} knows {}", self.label, list(&self.known)),
            };
            self.problems.at(
                &key.span(),
                format!("unknown key `{}` in {}", shorten(name), self.label),
                fix,
            );
        }
    }
}

/// `a`, `b` and `c`.
fn list(names: &[&str]) -> String {
    match names {
        [] => "no keys".to_owned(),
        [one] => format!("`{one}`"),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|n| format!("`{n}`")).collect();
            format!("{} and `{last}`", first.join(", "))
        }
    }
}

/// Hostile input can be long and full of control characters; a message is not.
pub(super) fn shorten(text: &str) -> String {
    let mut out: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        out.push_str("...");
    }
    out
}

/// Expands `${VAR}` in every string of the tree. The parser bounds the depth of the tree (80).
pub(super) fn expand_strings(
    value: &mut Spanned<DeValue<'_>>,
    env: &dyn Fn(&str) -> Option<String>,
    room: &mut usize,
    problems: &Problems,
) {
    let span = value.span();
    match value.get_mut() {
        DeValue::String(text) => match expand(text, env, room) {
            Ok(None) => {}
            Ok(Some(new)) => *text = new.into(),
            Err(ExpandError::Open) => problems.at(
                &span,
                "`${` without `}`",
                "write ${NAME} for an environment variable",
            ),
            Err(ExpandError::Name(name)) => problems.at(
                &span,
                format!(
                    "`${{{}}}` does not name an environment variable",
                    shorten(&name)
                ),
                "write ${NAME} with letters, digits and _; SQL parameters have no braces ($1)",
            ),
            Err(ExpandError::TooLong) => problems.at(
                &span,
                "the environment variables in this file are too long",
                "look at what the variable contains; all together have less than the largest file",
            ),
            Err(ExpandError::Unset(name)) => problems.at(
                &span,
                format!("the environment variable {} is not set", shorten(&name)),
                format!(
                    "set it before starting prism: export {}=...",
                    shorten(&name)
                ),
            ),
        },
        DeValue::Array(array) => {
            for element in array.iter_mut() {
                expand_strings(element, env, room, problems);
            }
        }
        DeValue::Table(table) => {
            for (_, element) in table.iter_mut() {
                expand_strings(element, env, room, problems);
            }
        }
        _ => {}
    }
}
