//! A way through the states, for people.

use std::fmt::{self, Display, Formatter};

use prism_proto::wire::{Frame, Nack, Run, decode};

use super::act::{Action, actions, begin};
use super::memo::Memo;
use super::node::NAMES;
use super::setup::{Budget, Setup};
use super::world::{DEAD, Job, Kind, Message, Phase, Task, World};

/// What happened, step by step, and what was wrong in the end.
#[derive(Debug)]
pub struct Story {
    /// One line for each step.
    pub steps: Vec<String>,
    /// What must not be.
    pub wrong: String,
}

impl Display for Story {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "{number:3}  {step}")?;
        }
        write!(f, "     WRONG: {}", self.wrong)
    }
}

impl Story {
    /// Goes the way again, one choice after the other, and takes notes.
    pub(super) fn tell(
        memo: &mut Memo,
        budget: Budget,
        way: &[u16],
        last: Option<u16>,
        wrong: String,
    ) -> Self {
        let mut steps = Vec::new();
        let mut list = Vec::new();
        if let Ok(mut world) = begin(memo, budget) {
            for choice in way.iter().chain(&last) {
                actions(memo, &world, &mut list);
                let action = list[usize::from(*choice)];
                let (next, words) = (world.after(memo, action), words(memo, &world, action));
                let Ok(next) = next else {
                    steps.push(words);
                    break;
                };
                steps.push(format!("{words}{}", changes(memo, &world, &next)));
                world = next;
            }
        }
        Self { steps, wrong }
    }
}

fn words(memo: &Memo, world: &World, action: Action) -> String {
    let packet = |message: Message| packet(memo, message);
    match action {
        Action::Submit => format!("NA commits update {}", world.tail + 1),
        Action::Deliver(message) => format!("arrives: {}", packet(message)),
        Action::Double(message) => format!("arrives (once more later): {}", packet(message)),
        Action::Lose(message) => format!("LOST: {}", packet(message)),
        Action::Execute(job) => format!("executed: {}", task(job)),
        Action::ExecuteUnsure(job) => {
            format!("executed, but will be told as failed: {}", task(job))
        }
        Action::Answer(job) => format!("answered: {}", task(job)),
        Action::Fail(job) => format!("FAILS: {}", task(job)),
        Action::Crash(node) => format!("CRASH of {}", NAMES[usize::from(node)]),
        Action::Restart { node, row } => {
            let row = if row { "" } else { ", its lane row is empty" };
            format!("{} starts again{row}", NAMES[usize::from(node)])
        }
        Action::Pass => {
            let rest = |node: &u32| memo.brief(*node).rest;
            let running = world.nodes.iter().filter(|node| **node != DEAD);
            let us = running.filter_map(rest).min().unwrap_or(0);
            format!("{}.{:03} ms pass", us / 1000, us % 1000)
        }
    }
}

/// What is new: packets, jobs, positions.
fn changes(memo: &Memo, before: &World, after: &World) -> String {
    let count = |list: &[u32], x: u32| list.iter().filter(|y| **y == x).count();
    let new = |old: &[u32], all: &[u32]| -> Vec<u32> {
        let mut more = all.to_vec();
        more.dedup();
        more.retain(|x| count(all, *x) > count(old, *x));
        more
    };
    let mut text = String::new();
    for packed in new(before.flight.items(), after.flight.items()) {
        text += &format!("\n       sends {}", packet(memo, Message::unpack(packed)));
    }
    for packed in after.jobs.items() {
        let job = Job::unpack(*packed);
        if !before.jobs.items().contains(packed) && job.phase == Phase::Asked {
            text += &format!("\n       asks {}", task(job));
        }
    }
    if after.applied != before.applied {
        text += &format!("\n       EU's database has 1 to {}", after.applied);
    }
    if after.row > before.row {
        text += &format!("\n       acknowledged up to {}", after.row);
    }
    text
}

fn task(job: Job) -> String {
    let name = NAMES[usize::from(job.node)];
    let done = matches!(job.phase, Phase::Done | Phase::Broken);
    let what = match job.task {
        Task::Read if done => format!("watermark {}", job.a),
        Task::Read => "read of the watermark".to_owned(),
        Task::Apply if done => format!("applied up to {}", job.a),
        Task::Apply => format!("apply of {} to {}", job.a, job.b),
        Task::Verify => format!("verdict on position {}", job.a),
        Task::Fetch => format!("fetch of {} to {}", job.a, job.b),
        Task::Direct if done => format!("direct SQL up to {}", job.a),
        Task::Direct => format!("direct SQL behind {} up to {}", job.a, job.b),
    };
    let phase = match job.phase {
        Phase::Orphan => " (of its dead process)",
        Phase::Broken => " (failure told)",
        _ => "",
    };
    format!("{name}'s {what}{phase}")
}

fn packet(memo: &Memo, message: Message) -> String {
    let (from, to) = (
        NAMES[usize::from(message.from)],
        NAMES[usize::from(message.to)],
    );
    let what = match message.kind {
        Kind::Call => "handshake".to_owned(),
        Kind::Response => "handshake's answer".to_owned(),
        Kind::Confirm => "handshake's end".to_owned(),
        Kind::Datagram | Kind::Copy => frames(&memo.setup, memo.body(message.body)),
    };
    format!("{from} -> {to}: {what}")
}

fn frames(setup: &Setup, bytes: &[u8]) -> String {
    let Ok((header, frames)) = decode(bytes) else {
        return "nonsense".to_owned();
    };
    let update = |seq| setup.update(seq).map_or(-1, i32::from);
    let mut text = format!("#{}", header.pn.wrapping_sub(setup.packets) + 1);
    for frame in frames {
        text += " ";
        text += &match frame {
            Frame::Ping => "Ping".to_owned(),
            Frame::Hello { token, .. } => format!("Hello({token})"),
            Frame::Welcome {
                token, position, ..
            } => {
                format!("Welcome({token}, applied {})", update(position.seq))
            }
            Frame::Ack(ack) => match ack.progress {
                Some(progress) => {
                    let applied = update(progress.position.seq);
                    format!(
                        "Ack(to #{}, applied {applied})",
                        ack.largest.wrapping_sub(setup.packets) + 1
                    )
                }
                None => format!("Ack(to #{})", ack.largest.wrapping_sub(setup.packets) + 1),
            },
            Frame::Nack(Nack::Gap { .. }) => "Gap".to_owned(),
            Frame::Nack(nack) => format!("{nack:?}"),
            Frame::Updates { first, run } => {
                let count = Run::count(run).unwrap_or(0) as i32;
                format!(
                    "Updates({} to {})",
                    update(first),
                    update(first) + count - 1
                )
            }
            Frame::Fragment { seq, index, .. } => format!("Piece({}, {index})", update(seq)),
            other => format!("{other:?}"),
        };
    }
    text
}
