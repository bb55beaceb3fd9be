//! Every state of a node once, and what each input makes of it, computed once.
//!
//! A cluster's state is three numbers of node states (and what is between them), so the search of
//! clusters never runs an engine twice for the same question. Engines are large: only some are kept,
//! the others are made again from the nearest ancestor that was.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::hash::{BuildLow, Wide};
use super::node::{Bodies, Input, Node, Want, label};
use super::setup::Setup;

/// Every so many generations of a node are kept as they are.
const KEEP: u32 = 32;

struct Entry {
    parent: u32,
    input: Input,
    age: u32,
    kept: Option<Box<Node>>,
    brief: Brief,
}

/// What it has to know of a datagram.
struct Label {
    packet: u64,
    claim: u8,
}

/// What the search of clusters has to know of a node.
#[derive(Debug, Clone, Copy)]
pub struct Brief {
    /// Microseconds until it wants to be polled.
    pub rest: Option<u64>,
    /// Its lane: acknowledged up to here ...
    pub acked: u8,
    /// ... and clean up to here.
    pub clean: u8,
}

/// What an input has made of a node.
#[derive(Debug)]
pub struct Stepped {
    /// The state it is in now.
    pub node: u32,
    /// What it wants done.
    pub wants: Vec<Want>,
}

/// See the module.
pub struct Memo {
    /// How nodes start.
    pub setup: Setup,
    bodies: Bodies,
    labels: Vec<Label>,
    entries: Vec<Entry>,
    numbers: HashMap<u128, u32, BuildLow>,
    steps: HashMap<(u32, Input), u32, BuildLow>,
    results: Vec<Result<Stepped, String>>,
}

impl Memo {
    /// Empty.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self {
            setup,
            bodies: Bodies::default(),
            labels: Vec::new(),
            entries: Vec::new(),
            numbers: HashMap::default(),
            steps: HashMap::default(),
            results: Vec::new(),
        }
    }

    /// States of single nodes so far, and engines run to find them.
    #[must_use]
    pub fn figures(&self) -> (usize, usize) {
        (self.entries.len(), self.results.len())
    }

    /// A process that has just started.
    pub fn start(&mut self, me: u8, life: u8) -> u32 {
        let node = Node::start(&self.setup, me, life);
        self.number(node, u32::MAX, Input::Unreachable, 0)
    }

    /// See [`Brief`].
    #[must_use]
    pub fn brief(&self, node: u32) -> Brief {
        self.entries[node as usize].brief
    }

    /// The bytes of a datagram.
    #[must_use]
    pub fn body(&self, number: u32) -> &[u8] {
        self.bodies.get(number)
    }

    /// How far a datagram says that the peer's database is.
    #[must_use]
    pub fn claim(&self, body: u32) -> u8 {
        self.labels[body as usize].claim
    }

    /// Its packet number.
    #[must_use]
    pub fn packet(&self, body: u32) -> u64 {
        self.labels[body as usize].packet
    }

    /// What `input` makes of a node: the index of a result.
    pub fn step(&mut self, node: u32, input: Input) -> usize {
        if let Some(known) = self.steps.get(&(node, input)) {
            return *known as usize;
        }
        let result = self.run(node, input);
        let number = self.results.len();
        self.results.push(result);
        self.steps.insert((node, input), number as u32);
        number
    }

    /// A result of [`step`](Self::step).
    ///
    /// # Errors
    /// What a node must never do.
    pub fn result(&self, number: usize) -> Result<&Stepped, String> {
        self.results[number].as_ref().map_err(Clone::clone)
    }

    fn run(&mut self, number: u32, input: Input) -> Result<Stepped, String> {
        let mut node = self.node(number);
        let (setup, bodies) = (&self.setup, &mut self.bodies);
        let step = catch_unwind(AssertUnwindSafe(|| node.step(setup, input, bodies)));
        let wants = step.map_err(|panic| {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or(panic.downcast_ref::<&str>().map(|&words| words.to_owned()));
            format!("a panic: {}", words.unwrap_or_default())
        })??;
        while self.labels.len() < self.bodies.count() {
            let (packet, seq) = label(self.bodies.get(self.labels.len() as u32));
            let update = seq.map_or(Some(0), |seq| self.setup.update(seq));
            let claim = update.unwrap_or(u8::MAX);
            self.labels.push(Label { packet, claim });
        }
        let age = self.entries[number as usize].age + 1;
        let node = self.number(node, number, input, age);
        Ok(Stepped { node, wants })
    }

    fn node(&mut self, number: u32) -> Node {
        let entry = &self.entries[number as usize];
        if let Some(kept) = &entry.kept {
            return Node::clone(kept);
        }
        let input = entry.input;
        let mut node = self.node(entry.parent);
        let again = node.step(&self.setup, input, &mut self.bodies);
        again.expect("what went well goes well again");
        node
    }

    fn number(&mut self, node: Node, parent: u32, input: Input, age: u32) -> u32 {
        let mut wide = Wide::new();
        node.fingerprint(&mut wide);
        let next = self.entries.len() as u32;
        let number = *self.numbers.entry(wide.number()).or_insert(next);
        if number == next {
            let (acked, clean, _) = node.lane();
            let update = |seq| self.setup.update(seq).unwrap_or(0);
            self.entries.push(Entry {
                parent,
                input,
                age,
                brief: Brief {
                    rest: node.rest(),
                    acked: update(acked),
                    clean: update(clean),
                },
                kept: age.is_multiple_of(KEEP).then(|| Box::new(node)),
            });
        }
        number
    }
}
