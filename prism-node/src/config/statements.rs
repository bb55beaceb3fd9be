//! `[[statement]]`: the catalogue, with its errors at the lines they belong to.

use std::collections::HashMap;
use std::ops::Range;

use prism_db::catalogue::{Catalogue, StatementConfig};
use serde::Deserialize;
use toml::de::ValueDeserializer;

use super::build::Builder;
use super::section::{Section, shorten};

/// Where the parts of one statement stand.
struct Place {
    whole: Range<usize>,
    fields: HashMap<String, Range<usize>>,
}

impl Builder<'_> {
    /// `None` if a statement is wrong.
    pub(super) fn catalogue(&self, sections: Vec<Section<'_, '_>>) -> Option<Catalogue> {
        let mut configs: Vec<StatementConfig> = Vec::new();
        let mut places: HashMap<String, Place> = HashMap::new();
        let mut readable = true;
        for section in sections {
            let place = Place {
                whole: section.span().clone(),
                fields: section.field_spans(),
            };
            let label = match section.peek("name") {
                Some(name) => format!("[[statement]] \"{}\"", shorten(name)),
                None => section.label().to_owned(),
            };
            let value = ValueDeserializer::from(section.into_value());
            match StatementConfig::deserialize(value) {
                Ok(config) => {
                    // Of two with one name the second is the one to rename.
                    places.insert(config.name.clone(), place);
                    configs.push(config);
                }
                Err(e) => {
                    readable = false;
                    let (problem, fix) = split(e.message());
                    let span = e.span().unwrap_or(place.whole);
                    self.problems.at(&span, format!("{label}: {problem}"), fix);
                }
            }
        }
        match Catalogue::load(&configs) {
            Ok(catalogue) => readable.then_some(catalogue),
            Err(errors) => {
                for e in errors {
                    let place = places.get(&e.statement);
                    let span =
                        place.map_or(0..0, |p| p.fields.get(e.field).unwrap_or(&p.whole).clone());
                    let name = shorten(&e.statement);
                    self.problems.at(
                        &span,
                        format!("[[statement]] \"{name}\", {}: {}", e.field, e.problem),
                        e.fix,
                    );
                }
                None
            }
        }
    }
}

/// Serde says what is wrong and what it expected in one sentence.
fn split(message: &str) -> (String, String) {
    match message.split_once(", expected ") {
        Some((problem, expected)) => (shorten(problem), format!("write {expected}")),
        None => match message.strip_prefix("missing field ") {
            Some(field) => (format!("{field} is missing"), format!("add {field}")),
            None => (
                shorten(message),
                "see the example in `prism init`".to_owned(),
            ),
        },
    }
}
