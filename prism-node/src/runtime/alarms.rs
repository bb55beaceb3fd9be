//! What is wrong now. An alarm is raised and cleared by whoever knows best; every raise and clear
//! is one log line, which the reporter writes: alarms are changed with the board locked, and a log
//! pipe can block.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use prism_net::platform::Instant;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::status::Alarm;

/// Stable names of alarms.
pub(crate) mod name {
    /// A lane has exhausted its ladder.
    pub(crate) const PARKED: &str = "parked";
    /// A stream waits for an operator at this region.
    pub(crate) const STREAM_PARKED: &str = "stream-parked";
    /// A stream waits for another stream.
    pub(crate) const DEPENDENCY: &str = "dependency";
    /// A transient error that does not go away.
    pub(crate) const STUCK: &str = "stuck";
    /// Two databases disagree about a stream's history.
    pub(crate) const FORK: &str = "fork";
    /// A region needs updates that are no longer in the outbox.
    pub(crate) const STALE: &str = "stale";
    /// A peer's node says that its apply waits.
    pub(crate) const PEER_WAITING: &str = "peer-waiting";
    /// An update affected another number of rows here than at its origin.
    pub(crate) const DRIFT: &str = "drift";
    /// Dead letters that nobody has resolved.
    pub(crate) const REJECTED: &str = "rejected";
    /// The direct path into a peer's database needs an operator.
    pub(crate) const DIRECT: &str = "direct";
    /// The own database cannot be used.
    pub(crate) const DATABASE: &str = "database";
    /// The journal takes no more updates: it has reached its limit, or the disk is full.
    pub(crate) const JOURNAL_FULL: &str = "journal-full";
    /// The journal takes no more updates: a write or fsync has failed.
    pub(crate) const JOURNAL_LATCHED: &str = "journal-latched";
    /// What had been durable in the journal is damaged.
    pub(crate) const JOURNAL_DAMAGED: &str = "journal-damaged";
    /// The database answers, but the journal's oldest update cannot be run yet.
    pub(crate) const JOURNAL_STUCK: &str = "journal-stuck";
    /// A peer's database has refused updates of this region for good.
    pub(crate) const PEER_REJECTED: &str = "peer-rejected";
    /// An update that a region refused could not be undone.
    pub(crate) const UNDO_REFUSED: &str = "undo-refused";
    /// A lane needs an update that the outbox does not have.
    pub(crate) const ROWS_MISSING: &str = "rows-missing";
    /// Another process serves as this node.
    pub(crate) const IDENTITY: &str = "identity";
    /// The node's journal is not the one that it had before.
    pub(crate) const JOURNAL_REPLACED: &str = "journal-replaced";
    /// A node has said what it has no right to say.
    pub(crate) const VIOLATION: &str = "violation";
    /// Two processes prove to be the same node.
    pub(crate) const SAME_IDENTITY: &str = "same-identity";
    /// A node's handshakes are older than earlier ones.
    pub(crate) const HANDSHAKE_STALE: &str = "handshake-stale";
    /// A node has another catalogue.
    pub(crate) const CATALOGUE_DIFFERS: &str = "catalogue-differs";
    /// A changed configuration cannot be used; the old one goes on.
    pub(crate) const NOT_RELOADED: &str = "config-not-reloaded";
    /// The configuration has changed in something that only a restart takes up.
    pub(crate) const RESTART_NEEDED: &str = "restart-needed";
    /// A part of this node has stopped.
    pub(crate) const WORKER: &str = "worker-died";
}

/// What happened once, and cannot be seen to be over, is told for this long after the last time; its
/// counter and its log line stay.
const STANDS: Duration = Duration::from_secs(24 * 3600);
/// The same for what comes again within minutes as long as it lasts.
const COMES_AGAIN: Duration = Duration::from_secs(15 * 60);
/// Alarms of that kind.
const EVENTS: [(&str, Duration); 5] = [
    (name::DRIFT, STANDS),
    (name::PEER_REJECTED, STANDS),
    (name::VIOLATION, STANDS),
    (name::SAME_IDENTITY, COMES_AGAIN),
    (name::HANDSHAKE_STALE, COMES_AGAIN),
];

/// The remedy for a region that cannot be mended otherwise.
pub(crate) fn adopt(region: &str) -> String {
    format!("rebuild {region} from a healthy region: prism adopt {region} --from OTHER")
}

/// Alarms of one name that are kept apart by what they are about: what a peer says must not fill the
/// memory and the log.
const APART: usize = 64;
/// What the others are about.
const OTHERS: &str = "others";

/// Changes that wait for the reporter, at most; beyond that the alarms themselves say it.
const WAITING: usize = 256;

/// A change worth a log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    name: &'static str,
    subject: String,
    /// `None`: cleared.
    raised: Option<(String, String)>,
}

impl Change {
    /// Writes the line.
    pub(crate) fn log(&self) {
        let (alarm, subject) = (self.name, &self.subject);
        match &self.raised {
            Some((detail, remedy)) => {
                tracing::warn!(alarm, subject, remedy, "alarm raised: {detail}");
            }
            None => tracing::info!(alarm, subject, "alarm cleared"),
        }
    }
}

/// All alarms of a node, by name and what they are about.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    /// With the last time that each was raised.
    active: BTreeMap<(&'static str, String), (Alarm, Instant)>,
    changes: Vec<Change>,
}

impl Alarms {
    /// Raises an alarm, or renews the words of one that stands (its `since` stays).
    pub(crate) fn raise(
        &mut self,
        name: &'static str,
        subject: &str,
        detail: String,
        remedy: &str,
    ) {
        let mut key = (name, subject.to_owned());
        if !self.active.contains_key(&key)
            && self
                .active
                .keys()
                .filter(|(other, _)| *other == name)
                .count()
                >= APART
        {
            key.1 = OTHERS.to_owned();
        }
        if let Some((alarm, last)) = self.active.get_mut(&key) {
            alarm.detail = detail;
            *last = Instant::now();
            return;
        }
        let subject = key.1.as_str();
        self.changed(name, subject, Some((detail.clone(), remedy.to_owned())));
        let alarm = Alarm {
            name: name.to_owned(),
            since: now(),
            detail,
            remedy: remedy.to_owned(),
        };
        self.active.insert(key, (alarm, Instant::now()));
    }

    /// Clears an alarm if it stands.
    pub(crate) fn clear(&mut self, name: &'static str, subject: &str) {
        if self.active.remove(&(name, subject.to_owned())).is_some() {
            self.changed(name, subject, None);
        }
    }

    /// Whether an alarm of that name stands, whatever it is about.
    pub(crate) fn stands(&self, name: &str) -> bool {
        self.active.keys().any(|(standing, _)| *standing == name)
    }

    /// Clears what happened once and long ago.
    pub(crate) fn forget(&mut self) {
        self.forget_before(|stands| stands);
    }

    fn forget_before(&mut self, age: impl Fn(Duration) -> Duration) {
        let old = |(name, _): &&(&'static str, String), last: &Instant| {
            let event = EVENTS.iter().find(|(event, _)| event == name);
            event.is_some_and(|(_, stands)| last.elapsed() >= age(*stands))
        };
        let over: Vec<_> = self
            .active
            .iter()
            .filter(|(key, (_, last))| old(key, last))
            .map(|(key, _)| key.clone())
            .collect();
        for (name, subject) in over {
            self.clear(name, &subject);
        }
    }

    fn changed(&mut self, name: &'static str, subject: &str, raised: Option<(String, String)>) {
        if self.changes.len() < WAITING {
            self.changes.push(Change {
                name,
                subject: subject.to_owned(),
                raised,
            });
        }
    }

    /// What has changed since the last call.
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        mem::take(&mut self.changes)
    }

    /// For status.
    pub(crate) fn list(&self) -> Vec<Alarm> {
        self.active
            .values()
            .map(|(alarm, _)| alarm.clone())
            .collect()
    }
}

/// RFC 3339, whole seconds, UTC.
fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0);
    // Formatting fails for years above 9999 only.
    now.ok()
        .and_then(|now| now.format(&Rfc3339).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_keeps_its_beginning_while_its_words_change() {
        let mut alarms = Alarms::default();
        alarms.raise(name::STUCK, "EU", "seq 1".into(), "look");
        let since = alarms.list()[0].since.clone();
        alarms.raise(name::STUCK, "EU", "seq 2".into(), "look");
        alarms.raise(name::STUCK, "AS", "seq 9".into(), "look");
        let list = alarms.list();
        assert_eq!(list.len(), 2);
        let eu = list.iter().find(|a| a.detail == "seq 2").expect("renewed");
        assert_eq!(eu.since, since);
        alarms.clear(name::STUCK, "EU");
        assert_eq!(alarms.list().len(), 1);
        // Two raised, one cleared; a renewal is no change.
        assert_eq!(alarms.changes().len(), 3);
        assert_eq!(alarms.changes().len(), 0);
    }

    #[test]
    fn there_is_an_end_to_the_alarms_of_one_kind() {
        let mut alarms = Alarms::default();
        for seq in 0..1000 {
            let detail = format!("update {seq}");
            alarms.raise(name::UNDO_REFUSED, &format!("NA {seq}"), detail, "mend");
        }
        alarms.raise(name::FORK, "EU", "two histories".into(), "adopt");
        let list = alarms.list();
        assert_eq!(list.len(), APART + 2);
        assert!(
            list.iter().any(|alarm| alarm.detail == "update 999"),
            "the newest"
        );
        assert_eq!(alarms.changes().len(), APART + 2, "log lines");
    }

    #[test]
    fn what_happened_once_is_not_told_for_ever() {
        let mut alarms = Alarms::default();
        alarms.raise(name::DRIFT, "EU", "3 rows".into(), "compare");
        alarms.raise(name::FORK, "EU", "two histories".into(), "adopt");
        alarms.forget();
        assert_eq!(alarms.list().len(), 2);
        alarms.forget_before(|_| Duration::ZERO);
        assert_eq!(alarms.list().len(), 1, "a fork is one until it is mended");
    }
}
