//! Breadth first, so that the first bad state found is one of those with the shortest way to it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::act::{Action, actions, begin, settled};
use super::hash::BuildLow;
use super::memo::Memo;
use super::setup::{Budget, Limit, Setup};
use super::story::Story;
use super::world::World;

/// What a search has found.
#[derive(Debug)]
pub struct Report {
    /// Different states of the cluster.
    pub states: usize,
    /// Steps from one to another.
    pub transitions: u64,
    /// Steps to the furthest state.
    pub depth: u32,
    /// States in which everything has arrived, is acknowledged, and nothing is under way.
    pub ends: usize,
    /// States of single nodes.
    pub nodes: usize,
    /// Timers that fired in a row, with nothing under way, before everything was acknowledged.
    pub timers: u8,
    /// Times that an engine ran.
    pub runs: usize,
    /// Whether there is no other state within the budget.
    pub complete: bool,
    /// How long it took.
    pub took: Duration,
    /// The shortest way to a state that must not be.
    pub counterexample: Option<Story>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = if self.complete { "all" } else { "cut off" };
        write!(
            f,
            "{} states ({all}), {} transitions, depth {}, {} timers in a row, {} ends; {} node states, {} engine runs; {:.1} s",
            self.states,
            self.transitions,
            self.depth,
            self.timers,
            self.ends,
            self.nodes,
            self.runs,
            self.took.as_secs_f64()
        )?;
        match &self.counterexample {
            Some(story) => write!(f, "\n{story}"),
            None => Ok(()),
        }
    }
}

/// How a state was first reached.
struct Way {
    parent: u32,
    /// Which of the parent's actions.
    choice: u16,
}

/// Visits every state within the budget.
#[must_use]
pub fn search(setup: Setup, budget: Budget, limit: Limit) -> Report {
    search_watched(setup, budget, limit, |_, _| ())
}

/// The same, and tells how many steps from the start it is, and how many states it has seen.
#[must_use]
pub fn search_watched(
    setup: Setup,
    budget: Budget,
    limit: Limit,
    watch: impl FnMut(u32, usize),
) -> Report {
    Search::new(setup).run(budget, limit, watch)
}

/// The states seen, in parts: each grows for itself, or there would have to be room for all of them
/// twice whenever the whole grows.
struct Seen(Vec<HashSet<u128, BuildLow>>);

impl Seen {
    const PARTS: usize = 1 << 8;

    fn new() -> Self {
        Self((0..Self::PARTS).map(|_| HashSet::default()).collect())
    }

    /// Whether it is new.
    fn insert(&mut self, key: u128) -> bool {
        // (The hash is made of the low bits and the middle ones.)
        self.0[(key >> 120) as usize].insert(key)
    }
}

struct Search {
    memo: Memo,
    seen: Seen,
    ways: Vec<Way>,
    report: Report,
}

impl Search {
    fn new(setup: Setup) -> Self {
        Self {
            memo: Memo::new(setup),
            seen: Seen::new(),
            ways: Vec::new(),
            report: Report {
                states: 0,
                transitions: 0,
                depth: 0,
                ends: 0,
                nodes: 0,
                timers: 0,
                runs: 0,
                complete: true,
                took: Duration::ZERO,
                counterexample: None,
            },
        }
    }

    fn run(mut self, budget: Budget, limit: Limit, watch: impl FnMut(u32, usize)) -> Report {
        let start = Instant::now();
        let found = self.layers(budget, limit, watch);
        let (nodes, runs) = self.memo.figures();
        let mut report = self.report;
        if let Err((way, last, error)) = found {
            report.complete = false;
            let story = Story::tell(&mut self.memo, budget, &way, last, error);
            report.counterexample = Some(story);
        }
        report.states = self.ways.len();
        report.took = start.elapsed();
        Report {
            nodes,
            runs,
            ..report
        }
    }

    fn layers(
        &mut self,
        budget: Budget,
        limit: Limit,
        mut watch: impl FnMut(u32, usize),
    ) -> Result<(), (Vec<u16>, Option<u16>, String)> {
        let first = begin(&mut self.memo, budget).map_err(|error| (Vec::new(), None, error))?;
        self.seen.insert(first.key());
        self.ways.push(Way {
            parent: 0,
            choice: 0,
        });
        let mut layer = vec![(first, 0)];
        let mut list: Vec<Action> = Vec::new();
        while !layer.is_empty() {
            let mut next: Vec<(World, u32)> = Vec::new();
            for (world, number) in layer {
                actions(&self.memo, &world, &mut list);
                if settled(&self.memo, &world) {
                    self.report.ends += usize::from(world.is_quiet() && world.left.updates == 0);
                } else if list.is_empty() {
                    let error = "nothing will ever happen again, and not everything has arrived";
                    return Err((self.way_to(number), None, error.to_owned()));
                }
                for (choice, action) in list.iter().enumerate() {
                    let choice = choice as u16;
                    let after = world
                        .after(&mut self.memo, *action)
                        .map_err(|error| (self.way_to(number), Some(choice), error))?;
                    self.report.transitions += 1;
                    self.report.timers = self.report.timers.max(after.patience);
                    if self.seen.insert(after.key()) {
                        next.push((after, self.ways.len() as u32));
                        self.ways.push(Way {
                            parent: number,
                            choice,
                        });
                    }
                }
                if self.ways.len() >= limit.states {
                    self.report.complete = false;
                    return Ok(());
                }
            }
            layer = next;
            if !layer.is_empty() {
                self.report.depth += 1;
                watch(self.report.depth, self.ways.len());
                if self.report.depth >= limit.depth {
                    self.report.complete = false;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn way_to(&self, mut number: u32) -> Vec<u16> {
        let mut way = Vec::new();
        while number != 0 {
            let step = &self.ways[number as usize];
            way.push(step.choice);
            number = step.parent;
        }
        way.reverse();
        way
    }
}
