//! `[retry]` and `[limits]`: everything has a default and a range.

use std::time::Duration;

use prism_proto::{Policy, Retry};

use super::Limits;
use super::build::Builder;
use super::section::{Section, shorten};
use super::units;

impl Builder<'_> {
    pub(super) fn retry(&self, mut section: Section<'_, '_>) -> Retry {
        let mut retry = Retry::default();
        let (ms, minute) = (Duration::from_millis(1), Duration::from_secs(60));
        if let Some(n) = section.integer("max_retries", retry.max_retries.into()) {
            match u8::try_from(*n.get_ref()) {
                Ok(small) if small <= 100 => retry.max_retries = small,
                _ => self.problems.at(
                    &n.span(),
                    format!("max_retries = {} is out of range", n.get_ref()),
                    "choose between 0 and 100; the default is 5",
                ),
            }
        }
        retry.initial = self.duration(&mut section, "initial", retry.initial, ms, minute);
        retry.max = self.duration(&mut section, "max", retry.max, ms, minute);
        if retry.max < retry.initial {
            self.problems.at(
                section.span(),
                format!(
                    "[retry] max ({}) is shorter than initial ({})",
                    units::show_duration(retry.max),
                    units::show_duration(retry.initial)
                ),
                "make max at least as long as initial",
            );
        }
        if let Some(policy) = section.string("policy", "ordered") {
            match policy.get_ref().as_str() {
                "ordered" => retry.policy = Policy::Ordered,
                "fastest" => retry.policy = Policy::Fastest,
                other => self.problems.at(
                    &policy.span(),
                    format!("policy = \"{}\" is not known", shorten(other)),
                    "write policy = \"ordered\" or \"fastest\"",
                ),
            }
        }
        section.finish();
        retry
    }

    fn count(
        &self,
        section: &mut Section<'_, '_>,
        key: &'static str,
        default: u32,
        min: u32,
        max: u32,
    ) -> u32 {
        let Some(given) = section.integer(key, default.into()) else {
            return default;
        };
        match u32::try_from(*given.get_ref()) {
            Ok(n) if (min..=max).contains(&n) => n,
            _ => {
                self.problems.at(
                    &given.span(),
                    format!("{key} = {} is out of range", given.get_ref()),
                    format!("choose between {min} and {max}; the default is {default}"),
                );
                default
            }
        }
    }

    pub(super) fn limits(&self, mut section: Section<'_, '_>) -> Limits {
        let d = Limits::default();
        let max_update = self.size(
            &mut section,
            "max_update",
            d.max_update.into(),
            1 << 10,
            prism_db::MAX_UPDATE as u64,
        );
        let year = Duration::from_secs(366 * 86_400);
        let limits = Limits {
            max_update: u32::try_from(max_update).unwrap_or(d.max_update),
            retention: self.duration(&mut section, "retention", d.retention, Duration::ZERO, year),
            max_backlog: self.size(&mut section, "max_backlog", d.max_backlog, 1 << 20, 1 << 50),
            max_backlog_age: self.optional_duration(
                &mut section,
                "max_backlog_age",
                ("7d", "without it only max_backlog counts"),
                Duration::from_secs(10),
                year,
            ),
            await_timeout: self.duration(
                &mut section,
                "await_timeout",
                d.await_timeout,
                Duration::from_millis(10),
                Duration::from_secs(600),
            ),
            max_awaits: self.count(&mut section, "max_awaits", d.max_awaits, 1, 1000),
            max_journal: self.size(&mut section, "max_journal", d.max_journal, 1 << 20, 1 << 44),
        };
        section.finish();
        limits
    }
}
