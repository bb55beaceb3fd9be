//! Single values: names, paths, addresses, keys, durations, sizes.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use prism_db::DatabaseUrl;
use toml::Spanned;

use super::build::Builder;
use super::section::{Section, shorten};
use super::units;
use crate::keys::{KeyError, PublicKey};

const MAX_NAME: usize = 48;

impl Builder<'_> {
    pub(super) fn name(&self, text: Spanned<String>, what: &str) -> Option<String> {
        let span = text.span();
        let name = text.into_inner();
        let ok = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.len() <= MAX_NAME
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if !ok {
            self.problems.at(
                &span,
                format!("\"{}\" cannot be the name of a {what}", shorten(&name)),
                format!(
                    "use at most {MAX_NAME} letters, digits, '_', '-' and '.', a letter or digit first"
                ),
            );
        }
        ok.then_some(name)
    }

    pub(super) fn path(&self, text: Option<Spanned<String>>) -> Option<PathBuf> {
        let text = text?;
        if text.get_ref().is_empty() || text.get_ref().contains('\0') {
            self.problems.at(
                &text.span(),
                "this is not the path of a file",
                "write a path relative to this file, or remove the line",
            );
            return None;
        }
        Some(self.base_dir.join(text.get_ref()))
    }

    pub(super) fn database(&self, text: Spanned<String>) -> Option<(DatabaseUrl, Range<usize>)> {
        let span = text.span();
        match DatabaseUrl::parse(text.get_ref(), &self.base_dir) {
            Ok(url) => Some((url, span)),
            Err(e) => {
                self.problems.at(
                    &span,
                    e.to_string(),
                    "write \"postgres://user@host:5432/name\" or \"sqlite:file.db\"",
                );
                None
            }
        }
    }

    pub(super) fn address(
        &self,
        text: Spanned<String>,
        key: &str,
        any: bool,
    ) -> Option<(SocketAddr, Range<usize>)> {
        let span = text.span();
        let Ok(address) = text.get_ref().parse::<SocketAddr>() else {
            self.problems.at(
                &span,
                format!("{key} = \"{}\" is not an address", shorten(text.get_ref())),
                format!(
                    "write IP and port, e.g. {key} = \"127.0.0.1:7101\" or \"[::1]:7101\" (names are not looked up)"
                ),
            );
            return None;
        };
        if address.port() == 0 {
            self.problems.at(
                &span,
                format!("{key} has port 0: peers and clients could not find it"),
                "write a port between 1 and 65535",
            );
            return None;
        }
        if !any && address.ip().is_unspecified() {
            self.problems.at(
                &span,
                format!("{key} = \"{address}\" is no address that peers can send to"),
                format!(
                    "write the address that peers use, and bind_udp = \"{address}\" to listen on all"
                ),
            );
            return None;
        }
        Some((address, span))
    }

    pub(super) fn public_key(
        &mut self,
        section: &mut Section<'_, '_>,
        key: &'static str,
        owner: &str,
    ) -> Option<PublicKey> {
        let text = section.string(key, "the output of prism pubkey")?;
        let span = text.span();
        self.seen.keys.get_or_insert_with(|| span.clone());
        let public = match text.get_ref().parse::<PublicKey>() {
            Ok(public) => public,
            Err(e) => {
                let message = match e {
                    KeyError::Weak => "belongs to no private key, so it would protect nothing",
                    _ => "is not a key: expected 44 characters of base64",
                };
                self.problems.at(
                    &span,
                    format!("{key} {message}"),
                    "print it with: prism pubkey DATA_DIR/node.key",
                );
                // It has one, which is all that remains to be checked.
                return None;
            }
        };
        if let Some(other) = self.seen.public_keys.insert(public, owner.to_owned()) {
            self.problems.at(
                &span,
                if other == owner {
                    format!("{key} of {owner} is a key that it has already")
                } else {
                    format!("nodes {other} and {owner} have the same {key}")
                },
                "make a key of its own with: prism keygen DATA_DIR/node.key",
            );
        }
        Some(public)
    }

    pub(super) fn duration(
        &self,
        section: &mut Section<'_, '_>,
        key: &'static str,
        default: Duration,
        min: Duration,
        max: Duration,
    ) -> Duration {
        let example = units::show_duration(default);
        let hint = format!("the default is {example}");
        self.optional_duration(section, key, (&example, &hint), min, max)
            .unwrap_or(default)
    }

    /// `hint`: an example, and what holds without it.
    pub(super) fn optional_duration(
        &self,
        section: &mut Section<'_, '_>,
        key: &'static str,
        (example, without): (&str, &str),
        min: Duration,
        max: Duration,
    ) -> Option<Duration> {
        let text = section.string(key, example)?;
        match units::duration(text.get_ref()) {
            Some(d) if (min..=max).contains(&d) => return Some(d),
            Some(_) => {
                let (min, max) = (units::show_duration(min), units::show_duration(max));
                self.problems.at(
                    &text.span(),
                    format!("{key} = \"{}\" is out of range", shorten(text.get_ref())),
                    format!("choose between {min} and {max}; {without}"),
                );
            }
            None => self.problems.at(
                &text.span(),
                format!("{key} = \"{}\" is not a duration", shorten(text.get_ref())),
                format!("write a whole number and us, ms, s, m, h or d: {key} = \"{example}\""),
            ),
        }
        None
    }

    pub(super) fn size(
        &self,
        section: &mut Section<'_, '_>,
        key: &'static str,
        default: u64,
        min: u64,
        max: u64,
    ) -> u64 {
        let example = units::show_size(default);
        let Some(text) = section.string(key, &example) else {
            return default;
        };
        match units::size(text.get_ref()) {
            Some(n) if (min..=max).contains(&n) => n,
            Some(_) => {
                let (min, max) = (units::show_size(min), units::show_size(max));
                self.problems.at(
                    &text.span(),
                    format!("{key} = \"{}\" is out of range", shorten(text.get_ref())),
                    format!("choose between {min} and {max}; the default is {example}"),
                );
                default
            }
            None => {
                self.problems.at(
                    &text.span(),
                    format!("{key} = \"{}\" is not a size", shorten(text.get_ref())),
                    format!("write a whole number and B, KiB, MiB or GiB: {key} = \"{example}\""),
                );
                default
            }
        }
    }
}
