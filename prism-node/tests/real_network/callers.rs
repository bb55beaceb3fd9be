//! Callers: one beside each node. What it is not told about it sends again, under the same request
//! id, to the node's sibling and back, until it is told: so in the end every update is known to have
//! been taken.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prism_node::demo::cluster::submit;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{NODES, REGIONS, World, lock, name, nodes};

/// A caller's pause between two requests: the load is steady, not the most that the machine can do.
const PACE: Duration = Duration::from_millis(120);
/// Between two tries of one request.
const AGAIN: Duration = Duration::from_millis(50);
/// A caller is told sooner or later: its region's database is never away.
const PATIENCE: Duration = Duration::from_secs(60);
/// Updates of a caller, should the story take longer than it ever does.
const MOST: usize = 10_000;

/// What an update does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A row with its request id, and its place in the order of its origin.
    Hit,
    /// Counts up a row that all regions count up.
    Add,
}

/// One update.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    pub id: Uuid,
    pub kind: Kind,
    pub origin: usize,
}

impl Update {
    pub fn new(kind: Kind, origin: usize) -> Self {
        let id = Uuid::new_v4();
        Self { id, kind, origin }
    }

    fn body(&self) -> Value {
        let (statement, params) = match self.kind {
            Kind::Hit => ("hit", json!([self.id, REGIONS[self.origin]])),
            Kind::Add => ("add", json!(["shared"])),
        };
        json!({"statement": statement, "params": params, "request_id": self.id})
    }
}

/// Submits beside one node until the world stops.
pub fn call(world: &World, node: usize) {
    let origin = node / NODES;
    let mut sent = 0;
    while !world.stop.load(Ordering::Relaxed) && sent < MOST {
        let updates: Vec<Update> = (0..=sent % 3)
            .map(|i| Update::new(if i == 1 { Kind::Add } else { Kind::Hit }, origin))
            .collect();
        sent += updates.len();
        send(world, node, updates);
        std::thread::sleep(PACE);
    }
}

/// Submits until each is acknowledged, first to this node. Leaves the thread on some node's host.
pub fn send(world: &World, node: usize, updates: Vec<Update>) {
    let since = Instant::now();
    let siblings = nodes(node / NODES);
    let mut open = updates;
    for turn in node.. {
        let to = siblings.start + turn % NODES;
        let bodies: Vec<Value> = open.iter().map(Update::body).collect();
        let why = match submit(&world.http, &name(to), world.visit(to), &bodies) {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                let mut why = String::new();
                open.retain(|update| {
                    let answer = answers.next().unwrap_or_default();
                    let taken = matches!(
                        answer.outcome.as_deref(),
                        Some("committed" | "applied" | "spooled")
                    );
                    if taken {
                        lock(&world.acknowledged).push(*update);
                    } else {
                        why = format!("{answer:?}");
                    }
                    !taken
                });
                why
            }
            Err(error) => error.to_string(),
        };
        if open.is_empty() || world.failed.load(Ordering::Relaxed) {
            return;
        }
        assert!(
            since.elapsed() < PATIENCE,
            "a caller of {} is not told within {PATIENCE:?}: {why}",
            name(node)
        );
        std::thread::sleep(AGAIN);
    }
}
