//! Submits the demo's updates and remembers which of them were acknowledged.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::cluster::{Answer, submit};
use super::database::{COUNTERS, counter};
use super::{DemoError, Interrupt};

/// Of one counter or note: acknowledged, and those whose answer never came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tries {
    pub(super) acknowledged: i64,
    pub(super) unknown: i64,
}

/// What the databases must hold in the end.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) counters: Vec<Tries>,
    /// Id and origin.
    pub(super) notes: Vec<(String, String, Tries)>,
}

impl Default for Expected {
    fn default() -> Self {
        Self {
            counters: vec![Tries::default(); COUNTERS],
            notes: Vec::new(),
        }
    }
}

impl Expected {
    /// Acknowledged and unknown updates in all.
    pub(super) fn totals(&self) -> Tries {
        let notes = self.notes.iter().map(|(.., tries)| tries);
        self.counters
            .iter()
            .chain(notes)
            .fold(Tries::default(), |sum, t| Tries {
                acknowledged: sum.acknowledged + t.acknowledged,
                unknown: sum.unknown + t.unknown,
            })
    }
}

/// One update on its way.
enum Update {
    Count(usize),
    Note(String),
}

/// Submits for all regions; shared by threads.
pub(super) struct Load<'a> {
    pub(super) http: ureq::Agent,
    pub(super) chunk: u64,
    pub(super) interrupt: &'a Interrupt,
    pub(super) expected: Mutex<Expected>,
    pub(super) acknowledged: AtomicU64,
    /// Called with the number of newly acknowledged updates.
    pub(super) progress: &'a (dyn Fn(u64) + Sync),
}

impl Load<'_> {
    /// Submits until `count` updates of this region are acknowledged: at the first node that
    /// answers; when it stops answering, at the next one.
    pub(super) fn run(
        &self,
        region: &str,
        nodes: &[(String, SocketAddr)],
        count: u64,
    ) -> Result<(), DemoError> {
        let mut done = 0;
        let mut node = 0;
        let mut failures = 0u32;
        while done < count {
            self.interrupt.check()?;
            let (name, address) = &nodes[node % nodes.len()];
            let updates: Vec<Update> = (0..self.chunk.min(count - done)).map(make).collect();
            let body: Vec<Value> = updates.iter().map(|u| body(u, region)).collect();
            let before = done;
            match submit(&self.http, name, *address, &body) {
                Ok(answers) => done += self.record(region, &updates, &answers),
                Err(_) => {
                    self.record(region, &updates, &[]);
                    node += 1;
                }
            }
            if done > before {
                failures = 0;
                self.acknowledged
                    .fetch_add(done - before, Ordering::Relaxed);
                (self.progress)(done - before);
            } else {
                failures += 1;
                if failures > 200 {
                    let words = format!("{region} takes no updates any more");
                    return Err(DemoError::Usage(words));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Whatever has no clear answer is unknown: it must be there once or not at all.
    fn record(&self, region: &str, updates: &[Update], answers: &[Answer]) -> u64 {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        for (i, update) in updates.iter().enumerate() {
            let committed = answers
                .get(i)
                .is_some_and(|a| a.outcome.as_deref() == Some("committed"));
            let tries = match update {
                Update::Count(c) => &mut expected.counters[*c],
                Update::Note(id) => {
                    let note = (id.clone(), region.to_owned(), Tries::default());
                    expected.notes.push(note);
                    let last = expected.notes.len() - 1;
                    &mut expected.notes[last].2
                }
            };
            if committed {
                tries.acknowledged += 1;
                done += 1;
            } else {
                tries.unknown += 1;
            }
        }
        done
    }
}

/// Both kinds in turns, so that statements interleave in every batch.
fn make(i: u64) -> Update {
    let id = Uuid::new_v4();
    if i.is_multiple_of(2) {
        Update::Count(usize::from(id.as_bytes()[0]) % COUNTERS)
    } else {
        Update::Note(id.to_string())
    }
}

fn body(update: &Update, region: &str) -> Value {
    match update {
        Update::Count(c) => json!({"statement": "count", "params": [counter(*c), 1]}),
        Update::Note(id) => json!({"statement": "note", "params": [id, region]}),
    }
}
