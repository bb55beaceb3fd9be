//! What can happen next, and what it makes of the cluster; with everything that must hold after it.

use super::memo::Memo;
use super::node::{Input, NAMES, NODES, Want};
use super::setup::Budget;
use super::world::{DEAD, Job, Kind, List, Message, Phase, Task, World};

/// The origin.
const NA: u8 = 0;
/// Timers that may fire one after the other, with nothing under way and nothing from outside, before
/// the last update is acknowledged. More is no progress.
const PATIENCE: u8 = 40;

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// NA commits its next update.
    Submit,
    /// A packet arrives.
    Deliver(Message),
    /// A packet arrives and will arrive once more.
    Double(Message),
    /// A packet is lost.
    Lose(Message),
    /// A database does what it was asked for; the answer is on its way.
    Execute(Job),
    /// The same, but what comes back is a failure.
    ExecuteUnsure(Job),
    /// The answer reaches the node.
    Answer(Job),
    /// The database does nothing, and the node hears of that.
    Fail(Job),
    /// A process is killed.
    Crash(u8),
    /// It starts again. `row`: its lane row says what it was last told to (else nothing).
    Restart {
        /// Which.
        node: u8,
        /// See above.
        row: bool,
    },
    /// Nothing happens until the first timer fires.
    Pass,
}

/// The cluster in its first state: all sessions stand, the origin holds its lane.
///
/// # Errors
/// What a node must never do.
pub fn begin(memo: &mut Memo, budget: Budget) -> Result<World, String> {
    let mut world = World {
        nodes: [0; NODES],
        lives: [0; NODES],
        known: [[0, 1, 1], [1, 0, 0], [1, 0, 0]],
        flight: List::EMPTY,
        jobs: List::EMPTY,
        tail: 0,
        applied: 0,
        row: 0,
        left: budget,
        patience: 0,
    };
    for node in 0..NODES as u8 {
        world.nodes[usize::from(node)] = memo.start(node, 0);
    }
    for (node, other) in [(1, NA), (2, NA), (NA, 1), (NA, 2)] {
        world.run(memo, node, Input::Up(other))?;
    }
    world.run(memo, NA, Input::Held { row: 0, tail: 0 })?;
    Ok(world)
}

/// Everything submitted is applied, and the origin knows; nothing is left to do for it.
#[must_use]
pub fn settled(memo: &Memo, world: &World) -> bool {
    world.alive(NA) && world.applied == world.tail && {
        let brief = memo.brief(world.nodes[0]);
        (brief.acked, brief.clean) == (world.tail, world.tail)
    }
}

/// What can happen next.
pub fn actions(memo: &Memo, world: &World, list: &mut Vec<Action>) {
    list.clear();
    let left = &world.left;
    if left.updates > 0 && world.alive(NA) {
        list.push(Action::Submit);
    }
    let mut last = None;
    for packed in world.flight.items() {
        // Two that are the same are one choice.
        if last.replace(packed) == Some(packed) {
            continue;
        }
        let message = Message::unpack(*packed);
        let first = is_first(memo, world, message);
        if !first && left.overtakes == 0 {
            continue;
        }
        list.push(Action::Deliver(message));
        // (Nobody sees a loss: losing it when all before it are gone is the same. The copy, too.)
        if left.losses > 0 && first && message.kind != Kind::Copy {
            list.push(Action::Lose(message));
        }
        if left.duplicates > 0 {
            list.push(Action::Double(message));
        }
    }
    for job in world.jobs.items() {
        let job = Job::unpack(*job);
        let direct = job.task == Task::Direct;
        match job.phase {
            Phase::Done | Phase::Broken => list.push(Action::Answer(job)),
            Phase::Asked if matches!(job.task, Task::Verify | Task::Fetch) => {
                list.push(Action::Answer(job));
            }
            Phase::Orphan | Phase::Asked => {
                if !direct || left.directs > 0 {
                    list.push(Action::Execute(job));
                }
                let asked = job.phase == Phase::Asked;
                if asked && direct && left.directs > 0 {
                    list.push(Action::ExecuteUnsure(job));
                }
                if asked && (direct || left.outages > 0) {
                    list.push(Action::Fail(job));
                }
            }
        }
    }
    for node in 0..NODES as u8 {
        if !world.alive(node) {
            list.push(Action::Restart { node, row: true });
            if node == NA && world.row > 0 {
                list.push(Action::Restart { node, row: false });
            }
        } else if left.crashes > 0 {
            list.push(Action::Crash(node));
        }
    }
    let timer =
        (0..NODES).any(|n| world.nodes[n] != DEAD && memo.brief(world.nodes[n]).rest.is_some());
    if timer && (is_waiting(memo, world) || left.delays > 0) {
        list.push(Action::Pass);
    }
}

/// Nothing that was sent before it, the same way, is under way.
fn is_first(memo: &Memo, world: &World, message: Message) -> bool {
    let way = |of: Message| (of.kind, of.from, of.from_life, of.to, of.to_life);
    message.kind != Kind::Datagram
        || (world
            .flight
            .items()
            .iter()
            .map(|packed| Message::unpack(*packed)))
        .filter(|other| way(*other) == way(message))
        .all(|other| memo.packet(other.body) >= memo.packet(message.body))
}

/// Only time brings this on.
fn is_waiting(memo: &Memo, world: &World) -> bool {
    let way_on = world.alive(1) || world.alive(2) || world.left.directs > 0;
    world.is_quiet() && world.alive(NA) && way_on && !settled(memo, world)
}

impl World {
    /// What `action` makes of it.
    ///
    /// # Errors
    /// What must never happen.
    pub fn after(&self, memo: &mut Memo, action: Action) -> Result<Self, String> {
        let mut next = *self;
        next.act(memo, action)?;
        if next.left != self.left || matches!(action, Action::Restart { .. }) {
            // Something from outside.
            next.patience = 0;
        }
        Ok(next)
    }

    fn act(&mut self, memo: &mut Memo, action: Action) -> Result<(), String> {
        match action {
            Action::Submit => {
                self.left.updates -= 1;
                self.tail += 1;
                self.run(memo, NA, Input::Submit(self.tail))
            }
            Action::Lose(message) => {
                self.left.losses -= 1;
                self.flight.take(message.pack());
                Ok(())
            }
            Action::Deliver(message) => self.arrive(memo, message),
            Action::Double(message) => {
                self.left.duplicates -= 1;
                let kind = match message.kind {
                    Kind::Datagram => Kind::Copy,
                    other => other,
                };
                self.flight.add(Message { kind, ..message }.pack());
                self.arrive(memo, message)
            }
            Action::Execute(job) | Action::ExecuteUnsure(job) => {
                self.jobs.take(job.pack());
                self.execute(job, matches!(action, Action::ExecuteUnsure(_)))
            }
            Action::Answer(job) => {
                self.jobs.take(job.pack());
                let input = match (job.task, job.phase) {
                    (Task::Direct, Phase::Broken) => Input::DirectFailed,
                    (Task::Direct, _) => Input::DirectDone(job.a),
                    (Task::Read, _) => Input::Position(job.a),
                    (Task::Apply, _) => Input::Applied(job.a),
                    (Task::Verify, _) => Input::Verified(job.a, job.a <= self.tail),
                    (Task::Fetch, _) => Input::Fetched(job.a, job.b),
                };
                self.run(memo, job.node, input)
            }
            Action::Fail(job) => {
                self.jobs.take(job.pack());
                if job.task == Task::Direct {
                    self.left.directs = self.left.directs.saturating_sub(1);
                    return self.run(memo, job.node, Input::DirectFailed);
                }
                self.left.outages -= 1;
                self.run(memo, job.node, Input::Unreachable)
            }
            Action::Crash(node) => {
                self.crash(node);
                Ok(())
            }
            Action::Restart { node, row } => self.restart(memo, node, row),
            Action::Pass => self.pass(memo),
        }
    }

    fn pass(&mut self, memo: &mut Memo) -> Result<(), String> {
        if is_waiting(memo, self) {
            self.patience += 1;
            if self.patience > PATIENCE {
                return Err(format!("no progress although {PATIENCE} timers have fired"));
            }
        } else {
            self.left.delays -= 1;
        }
        let alive = |node: &u8| self.alive(*node);
        let running: Vec<u8> = (0..NODES as u8).filter(alive).collect();
        let rest = |node: &u8| memo.brief(self.nodes[usize::from(*node)]).rest;
        let us = running.iter().filter_map(rest).min().unwrap_or(0);
        for node in running {
            self.run(memo, node, Input::Pass(us))?;
        }
        Ok(())
    }

    fn execute(&mut self, job: Job, unsure: bool) -> Result<(), String> {
        match job.task {
            Task::Apply if job.a > self.applied + 1 => {
                return Err(format!(
                    "update {} is to be applied after {}: a gap",
                    job.a, self.applied
                ));
            }
            Task::Apply => self.applied = self.applied.max(job.b),
            Task::Direct => {
                self.left.directs -= 1;
                self.applied = self.applied.max(job.b);
            }
            Task::Read | Task::Verify | Task::Fetch => {}
        }
        if job.phase == Phase::Asked {
            let phase = if unsure { Phase::Broken } else { Phase::Done };
            let (a, b) = (self.applied, 0);
            self.jobs.add(Job { phase, a, b, ..job }.pack());
        }
        Ok(())
    }

    fn crash(&mut self, node: u8) {
        self.left.crashes -= 1;
        self.nodes[usize::from(node)] = DEAD;
        self.known[usize::from(node)] = [0; NODES];
        // What is meant for this process is nothing to the next one.
        self.flight.keep_if(|packed, _| {
            let message = Message::unpack(packed);
            message.to != node || message.kind == Kind::Call
        });
        let jobs = self.jobs;
        self.jobs = List::EMPTY;
        for job in jobs.items() {
            let job = Job::unpack(*job);
            let writes = matches!(job.task, Task::Apply | Task::Direct);
            if job.node != node {
                self.jobs.add(job.pack());
            } else if writes && job.phase == Phase::Asked {
                let phase = Phase::Orphan;
                self.jobs.add(Job { phase, ..job }.pack());
            }
        }
    }

    fn restart(&mut self, memo: &mut Memo, node: u8, row: bool) -> Result<(), String> {
        let n = usize::from(node);
        self.lives[n] += 1;
        self.nodes[n] = memo.start(node, self.lives[n]);
        for other in (0..NODES as u8).filter(|other| (*other == NA) != (node == NA)) {
            self.call(node, other);
        }
        if node != NA {
            return Ok(());
        }
        if !row {
            self.row = 0;
        }
        let (row, tail) = (self.row, self.tail);
        self.run(memo, node, Input::Held { row, tail })
    }

    fn call(&mut self, from: u8, to: u8) {
        let (f, t) = (usize::from(from), usize::from(to));
        let known = |a: usize, b: usize| self.known[a][b] == self.lives[b] + 1;
        let message = Message {
            kind: Kind::Call,
            from,
            from_life: self.lives[f],
            to,
            to_life: 0,
            body: 0,
        };
        // One that would change nothing, or is under way already, says nothing.
        let idle = self.alive(to) && known(f, t) && known(t, f);
        if !idle && !self.flight.items().contains(&message.pack()) {
            self.flight.add(message.pack());
        }
    }

    /// The other side's process, as the packet shows; it may be a new one.
    fn meet(&mut self, memo: &mut Memo, message: &Message) -> Result<(), String> {
        let (n, other) = (usize::from(message.to), usize::from(message.from));
        let life = message.from_life + 1;
        let known = std::mem::replace(&mut self.known[n][other], life);
        match known {
            0 => self.run(memo, message.to, Input::Up(message.from)),
            same if same == life => Ok(()),
            _ => self.run(memo, message.to, Input::Renewed(message.from)),
        }
    }

    fn arrive(&mut self, memo: &mut Memo, message: Message) -> Result<(), String> {
        if self.left.overtakes < u8::MAX && !is_first(memo, self, message) {
            self.left.overtakes -= 1;
        }
        self.flight.take(message.pack());
        self.deliver(memo, message)
    }

    fn deliver(&mut self, memo: &mut Memo, message: Message) -> Result<(), String> {
        let Message { from, to, .. } = message;
        let life = self.lives[usize::from(to)];
        let stale = self.known[usize::from(to)][usize::from(from)] > message.from_life + 1;
        let missed = message.kind != Kind::Call && message.to_life != life;
        if !self.alive(to) || stale || missed {
            return Ok(());
        }
        let answer = |kind| Message {
            kind,
            from: to,
            from_life: life,
            to: from,
            to_life: message.from_life,
            body: 0,
        };
        match message.kind {
            Kind::Call => self.send(answer(Kind::Response)),
            Kind::Response => {
                self.meet(memo, &message)?;
                self.send(answer(Kind::Confirm));
            }
            Kind::Confirm => self.meet(memo, &message)?,
            Kind::Datagram | Kind::Copy => {
                self.meet(memo, &message)?;
                self.run(memo, to, Input::Datagram(from, message.body))?;
            }
        }
        Ok(())
    }

    fn send(&mut self, message: Message) {
        let to = usize::from(message.to);
        // Nobody else can read it.
        if self.alive(message.to) && self.lives[to] == message.to_life {
            self.flight.add(message.pack());
        }
    }

    /// One node takes an input, and gets what it wants.
    fn run(&mut self, memo: &mut Memo, node: u8, input: Input) -> Result<(), String> {
        let n = usize::from(node);
        let name = NAMES[n];
        let step = memo.step(self.nodes[n], input);
        let stepped = memo
            .result(step)
            .map_err(|error| format!("{name}: {error}"))?;
        self.nodes[n] = stepped.node;
        for i in 0..stepped.wants.len() {
            let want = memo.result(step)?.wants[i];
            self.grant(memo, node, want)
                .map_err(|error| format!("{name}: {error}"))?;
        }
        let brief = memo.brief(self.nodes[n]);
        if brief.acked > self.applied || brief.clean > brief.acked {
            return Err(format!(
                "{name}: the lane counts {} as acknowledged, the database has {}",
                brief.acked, self.applied
            ));
        }
        Ok(())
    }

    fn grant(&mut self, memo: &Memo, node: u8, want: Want) -> Result<(), String> {
        let job = |task, a, b| Job {
            node,
            task,
            phase: Phase::Asked,
            a,
            b,
        };
        let applied = self.applied;
        match want {
            Want::Send(to, body) => {
                if memo.claim(body) > applied {
                    return Err("it acknowledges what its database has not committed".to_owned());
                }
                let (n, other) = (usize::from(node), usize::from(to));
                if let Some(to_life) = self.known[n][other].checked_sub(1) {
                    self.send(Message {
                        kind: Kind::Datagram,
                        from: node,
                        from_life: self.lives[n],
                        to,
                        to_life,
                        body,
                    });
                }
            }
            Want::Call(to) => self.call(node, to),
            Want::Acked(update) if update > applied => {
                return Err(format!(
                    "{update} is told to be acknowledged, not even applied"
                ));
            }
            Want::Acked(update) if update < self.row => {
                return Err(format!("acknowledged falls from {} to {update}", self.row));
            }
            Want::Acked(update) => self.row = update,
            Want::Read => self.ask(job(Task::Read, 0, 0))?,
            Want::Apply(from, to) => self.ask(job(Task::Apply, from, to))?,
            Want::Direct(after, upto) => {
                if after > applied || upto > self.tail {
                    return Err(format!("direct SQL behind {after} up to {upto}"));
                }
                self.ask(job(Task::Direct, after, upto))?;
            }
            Want::Fetch(from, to) => {
                if from == 0 || from > to || to > self.tail {
                    return Err(format!(
                        "a fetch of {from} to {to}, committed are {}",
                        self.tail
                    ));
                }
                self.ask(job(Task::Fetch, from, to))?;
            }
            Want::Verify(update) => self.jobs.add(job(Task::Verify, update, 0).pack()),
            Want::Note(_) => {}
        }
        Ok(())
    }

    /// One thing of a kind at a time.
    fn ask(&mut self, job: Job) -> Result<(), String> {
        let inlet = |task| matches!(task, Task::Read | Task::Apply);
        let same = |packed: &u32| {
            let other = Job::unpack(*packed);
            let kind = other.task == job.task || inlet(other.task) && inlet(job.task);
            other.node == job.node && other.phase != Phase::Orphan && kind
        };
        if self.jobs.items().iter().any(same) {
            return Err(format!("{:?} while another one is under way", job.task));
        }
        self.jobs.add(job.pack());
        Ok(())
    }
}
