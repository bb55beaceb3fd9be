//! Threads of many machines as tasks on one OS thread, in virtual time.
//!
//! ```text
//!   run: due timers -> control (faults, checks) -> one of those that can run, chosen by the seed -> ...
//!                                                   | nobody can: time jumps to the next timer
//!                                                   v
//!            task: product code ... platform::{sleep, lock, wait, recv} -> park -> back to run
//! ```
//! A task is a stack of its own, so it can be stopped in the middle of a database call, at a lock, at
//! a write to a file. A machine that crashes is that: all its tasks are unwound where they stand, and
//! what they call on their way does nothing.

mod agreement;
mod coroutine;
mod timers;

use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Once;
use std::time::{Duration, SystemTime};

use prism_net::platform::{self, Entered, Key, Simulation, TaskId};

use crate::rng::Rng;
use crate::trace::Trace;
use coroutine::{Coroutine, Job, Switch, switch};
use timers::{Due, Timers};

/// A machine: a process and its clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(pub usize);

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Control said so.
    Stopped,
    /// The time is over.
    TimeUp,
    /// Nobody can ever run again.
    Stuck(String),
    /// Some run all the time and get nowhere.
    Livelock(String),
}

/// What every step costs: time goes on, also for those who never wait.
const STEP: Duration = Duration::from_micros(1);
/// More steps than this in a second: somebody spins.
const SPIN: u64 = 400_000;
/// A task that asks for the time or wakes others so often without ever waiting spins, and time does not
/// go on.
const FOREVER: u64 = 3_000_000;
/// Lists of parked tasks, by what they wait for.
const LISTS: usize = 256;
/// The monotonic clocks of machines begin within this.
const UPTIME: Duration = Duration::from_secs(1_000_000);
/// The first of January 2026.
pub(crate) const START: Duration = Duration::from_secs(1_767_225_600);
/// Rounds of an unwinding task that waits for what no other task of its machine gives free.
const HOPELESS: u32 = 10_000;

/// Of a task that is taken down.
struct Killed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Running,
    Parked,
    Ended,
}

struct Task {
    machine: MachineId,
    name: Rc<str>,
    state: State,
    /// Before it has begun.
    job: Option<Job>,
    /// After.
    stack: Option<Coroutine>,
    key: Key,
    /// Counts its waits: a timer of an earlier one means nothing.
    wait: u64,
    woken: bool,
    unwinding: bool,
    hopeless: u32,
}

struct Machine {
    name: Rc<str>,
    /// Of its monotonic clock.
    uptime: Duration,
    /// Of its wall clock, in microseconds.
    wall: i64,
    rng: Rng,
    paused: bool,
    /// Would run if it were not paused.
    held: Vec<usize>,
    steps: u64,
    /// Control is told when it has come so far.
    trip: Option<u64>,
}

struct Core {
    now: Duration,
    seed: u64,
    rng: Rng,
    tasks: Vec<Task>,
    ready: Vec<usize>,
    parked: Vec<Vec<usize>>,
    machines: Vec<Machine>,
    timers: Timers,
    current: Option<usize>,
    tripped: Option<MachineId>,
    steps: u64,
    /// What the task that runs has asked of the clock and of locks since it was resumed.
    asked: u64,
    /// The second that `spinning` counts, and its steps.
    second: u64,
    spinning: u64,
}

/// All tasks of a run.
pub struct World {
    core: RefCell<Core>,
    /// What happens.
    pub trace: Trace,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The world that has been entered on this OS thread.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn world() -> Rc<World> {
    CURRENT.with_borrow(|world| Rc::clone(world.as_ref().expect("inside of a simulation")))
}

/// The same, or `None` outside of one.
#[must_use]
pub fn try_world() -> Option<Rc<World>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Messages of the panics since the last call.
#[must_use]
pub fn panics() -> Vec<String> {
    PANICS.take()
}

/// Panics inside of a simulation are findings: collected, not printed.
fn collect_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let in_task = CURRENT.with_borrow(|world| {
                let world = world.as_ref().filter(|_| INSIDE.get());
                world.is_some_and(|world| {
                    world
                        .core
                        .try_borrow()
                        .is_ok_and(|core| core.current.is_some())
                })
            });
            if in_task {
                let message = info.to_string();
                PANICS.with_borrow_mut(|panics| panics.push(message));
            } else {
                before(info);
            }
        }));
    });
}

/// As long as it lives, the world is what the OS thread sees.
pub struct Inside {
    _entered: Entered,
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
        CURRENT.take();
    }
}

impl World {
    /// An empty one.
    #[must_use]
    pub fn new(seed: u64, trace: Trace) -> Rc<Self> {
        Rc::new(Self {
            core: RefCell::new(Core {
                now: Duration::ZERO,
                seed,
                rng: Rng::new(seed, "schedule"),
                tasks: Vec::new(),
                ready: Vec::new(),
                parked: vec![Vec::new(); LISTS],
                machines: Vec::new(),
                timers: Timers::default(),
                current: None,
                tripped: None,
                steps: 0,
                asked: 0,
                second: 0,
                spinning: 0,
            }),
            trace,
        })
    }

    /// Takes the operating system's place on this OS thread.
    #[must_use]
    pub fn enter(self: &Rc<Self>) -> Inside {
        collect_panics();
        let _entered = platform::enter(Rc::<Self>::clone(self));
        CURRENT.set(Some(Rc::clone(self)));
        INSIDE.set(true);
        drop(panics());
        Inside { _entered }
    }

    /// One more machine.
    pub fn machine(&self, name: &str) -> MachineId {
        let mut core = self.core.borrow_mut();
        let mut rng = Rng::new(core.seed, name);
        let machine = Machine {
            name: name.into(),
            uptime: rng.time(Duration::ZERO..UPTIME),
            wall: 0,
            rng,
            paused: false,
            held: Vec::new(),
            steps: 0,
            trip: None,
        };
        core.machines.push(machine);
        MachineId(core.machines.len() - 1)
    }

    /// A task on a machine.
    pub fn spawn_on(&self, machine: MachineId, name: &str, job: impl FnOnce() + 'static) -> TaskId {
        self.add(machine, name, Box::new(job))
    }

    fn add(&self, machine: MachineId, name: &str, job: Job) -> TaskId {
        let mut core = self.core.borrow_mut();
        let id = core.tasks.len();
        core.tasks.push(Task {
            machine,
            name: name.into(),
            state: State::Ready,
            job: Some(job),
            stack: None,
            key: 0,
            wait: 0,
            woken: true,
            unwinding: false,
            hopeless: 0,
        });
        core.make_ready(id);
        TaskId(id as u64)
    }

    /// Calls `what` at that time.
    pub fn at(&self, time: Duration, what: impl FnOnce() + 'static) {
        let due = Due::Call(Box::new(what));
        self.core.borrow_mut().timers.add(time, due);
    }

    /// Time since the start of the run.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.core.borrow().now
    }

    /// Steps so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.core.borrow().steps
    }

    /// The machine of the task that runs.
    #[must_use]
    pub fn here(&self) -> Option<MachineId> {
        let core = self.core.borrow();
        core.current.map(|task| core.tasks[task].machine)
    }

    /// A line of the trace, said by whoever runs.
    pub fn say(&self, what: std::fmt::Arguments<'_>) {
        if !self.trace.is_on() {
            return;
        }
        let who = {
            let core = self.core.borrow();
            core.current.map(|task| {
                let task = &core.tasks[task];
                format!("{}/{}", core.machines[task.machine.0].name, task.name)
            })
        };
        self.trace
            .say(self.time(), who.as_deref().unwrap_or("-"), what);
    }

    /// Stops all tasks of a machine (SIGSTOP), or lets them go on. Time passes meanwhile.
    pub fn pause(&self, machine: MachineId, paused: bool) {
        let core = &mut *self.core.borrow_mut();
        let state = &mut core.machines[machine.0];
        if state.paused == paused {
            return;
        }
        state.paused = paused;
        if paused {
            let tasks = &core.tasks;
            let of_it = |id: &mut usize| tasks[*id].machine == machine;
            state.held.extend(core.ready.extract_if(.., of_it));
        } else {
            core.ready.append(&mut state.held);
        }
    }

    /// The wall clock of a machine jumps by so many microseconds.
    pub fn jump(&self, machine: MachineId, micros: i64) {
        self.core.borrow_mut().machines[machine.0].wall += micros;
    }

    /// Control is told as soon as the machine has made so many steps more.
    pub fn trip(&self, machine: MachineId, steps: u64) {
        let machine = &mut self.core.borrow_mut().machines[machine.0];
        machine.trip = Some(machine.steps + steps);
    }

    /// A crash: all tasks of the machine are unwound where they are. Not to be called by one of them.
    pub fn kill(&self, machine: MachineId) {
        let tasks: Vec<usize> = {
            let mut core = self.core.borrow_mut();
            core.machines[machine.0].paused = false;
            core.machines[machine.0].trip = None;
            let of_it = |task: &Task| task.machine == machine && task.state != State::Ended;
            (0..core.tasks.len())
                .filter(|&id| of_it(&core.tasks[id]))
                .collect()
        };
        for &task in &tasks {
            self.unwind(task);
        }
        let core = &mut *self.core.borrow_mut();
        core.machines[machine.0].held.clear();
        let tasks = &core.tasks;
        core.ready.retain(|&id| tasks[id].machine != machine);
    }

    /// Everything ends.
    pub fn kill_all(&self) {
        let machines = self.core.borrow().machines.len();
        for machine in 0..machines {
            self.kill(MachineId(machine));
        }
    }

    fn unwind(&self, id: usize) {
        let job = {
            let core = &mut *self.core.borrow_mut();
            let task = &mut core.tasks[id];
            if task.unwinding || task.state == State::Ended {
                return;
            }
            assert!(task.state != State::Running, "a task takes itself down");
            task.unwinding = true;
            if task.state == State::Parked && task.key != 0 {
                core.parked[list(task.key)].retain(|&other| other != id);
            }
            task.job.take()
        };
        let Some(job) = job else {
            return self.resume(id);
        };
        // It has not begun: what it holds is dropped in its name.
        let before = self.core.borrow_mut().current.replace(id);
        drop(job);
        let mut core = self.core.borrow_mut();
        core.current = before;
        core.tasks[id].state = State::Ended;
    }

    /// Runs until the time is over or control says so. Control is called before every step, with the
    /// machine that has come to where it was to be told, if one has.
    pub fn run(
        &self,
        until: Duration,
        control: &mut dyn FnMut(Option<MachineId>) -> bool,
    ) -> Ended {
        loop {
            self.fire();
            let tripped = self.core.borrow_mut().tripped.take();
            if control(tripped) {
                return Ended::Stopped;
            }
            let next = {
                let core = &mut *self.core.borrow_mut();
                if core.now >= until {
                    return Ended::TimeUp;
                }
                if core.ready.is_empty() {
                    match core.timers.next() {
                        Some(at) => core.now = at.min(until).max(core.now),
                        // Somebody else lets them go on, later.
                        None if core.machines.iter().any(|one| !one.held.is_empty()) => {
                            core.now = until;
                        }
                        None => return Ended::Stuck(core.who()),
                    }
                    continue;
                }
                let at = core.rng.index(core.ready.len());
                let next = core.ready.swap_remove(at);
                if core.spins() {
                    return Ended::Livelock(core.who());
                }
                core.now += STEP;
                core.steps += 1;
                let machine = core.tasks[next].machine;
                let state = &mut core.machines[machine.0];
                state.steps += 1;
                if state.trip.is_some_and(|trip| trip <= state.steps) {
                    state.trip = None;
                    core.tripped = Some(machine);
                }
                self.trace.mix(1, next as u64, core.now.as_micros() as u64);
                next
            };
            self.resume(next);
        }
    }

    /// What is due.
    fn fire(&self) {
        loop {
            let due = {
                let core = &mut *self.core.borrow_mut();
                match core.timers.take(core.now) {
                    None => return,
                    Some(Due::Task { task, wait }) => {
                        if core.tasks[task].wait == wait {
                            core.unpark(task, false);
                        }
                        continue;
                    }
                    Some(Due::Call(call)) => call,
                }
            };
            due();
        }
    }

    fn resume(&self, id: usize) {
        let (mut stack, job, before) = {
            let core = &mut *self.core.borrow_mut();
            let task = &mut core.tasks[id];
            task.state = State::Running;
            core.asked = 0;
            let stack = task.stack.take().unwrap_or_else(Coroutine::take);
            (stack, task.job.take(), core.current.replace(id))
        };
        let switch = match job {
            Some(job) => stack.start(job),
            None => stack.resume(),
        };
        let mut core = self.core.borrow_mut();
        core.current = before;
        match switch {
            Switch::Parked => core.tasks[id].stack = Some(stack),
            Switch::Ended(result) => {
                core.tasks[id].state = State::Ended;
                stack.give();
                drop(core);
                // The hook has noted a panic.
                drop(result);
            }
        }
    }

    /// An unwinding task waits: for a lock, most likely, that another one has, which is unwound then.
    fn unwind_others(&self, me: usize) {
        let others: Vec<usize> = {
            let mut core = self.core.borrow_mut();
            core.tasks[me].hopeless += 1;
            let (machine, rounds) = (core.tasks[me].machine, core.tasks[me].hopeless);
            assert!(
                rounds < HOPELESS,
                "{} of {} never comes to its end",
                core.tasks[me].name,
                core.machines[machine.0].name
            );
            let of_it = |task: &Task| {
                task.machine == machine && task.state != State::Ended && !task.unwinding
            };
            (0..core.tasks.len())
                .filter(|&id| of_it(&core.tasks[id]))
                .collect()
        };
        for task in others {
            self.unwind(task);
        }
    }

    /// Back to the scheduler, and later from there.
    fn wait(&self, id: usize) -> bool {
        switch();
        let core = self.core.borrow();
        if core.tasks[id].unwinding {
            drop(core);
            resume_unwind(Box::new(Killed));
        }
        core.tasks[id].woken
    }

    /// The task that runs; `None`: it is being taken down.
    fn current(&self) -> Option<usize> {
        let id = self.core.borrow().current;
        let id = id.expect("only a task can wait");
        if self.core.borrow().tasks[id].unwinding {
            self.unwind_others(id);
            return None;
        }
        Some(id)
    }
}

impl Core {
    fn make_ready(&mut self, id: usize) {
        let machine = &mut self.machines[self.tasks[id].machine.0];
        if machine.paused {
            machine.held.push(id);
        } else {
            self.ready.push(id);
        }
    }

    fn unpark(&mut self, id: usize, woken: bool) {
        let task = &mut self.tasks[id];
        if task.state != State::Parked {
            return;
        }
        task.state = State::Ready;
        task.woken = woken;
        if task.key != 0 {
            self.parked[list(task.key)].retain(|&other| other != id);
        }
        self.make_ready(id);
    }

    /// Whether somebody spins.
    fn spins(&mut self) -> bool {
        let second = self.now.as_secs();
        if second != self.second {
            self.second = second;
            self.spinning = 0;
        }
        self.spinning += 1;
        self.spinning > SPIN
    }

    /// What everybody does, for people.
    fn who(&self) -> String {
        let tasks = self.tasks.iter().filter(|task| task.state != State::Ended);
        let names: Vec<String> = tasks
            .map(|task| {
                let machine = &self.machines[task.machine.0].name;
                format!(
                    "{machine}/{}: {:?} (wait {})",
                    task.name, task.state, task.wait
                )
            })
            .collect();
        names.join(", ")
    }
}

fn list(key: Key) -> usize {
    (key as u64 >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> (usize::BITS - LISTS.ilog2())
}

impl Simulation for World {
    fn now(&self) -> Duration {
        let mut core = self.core.borrow_mut();
        core.asked += 1;
        let spins = core.asked == FOREVER;
        drop(core);
        assert!(!spins, "it spins: it never waits");
        let core = self.core.borrow();
        let uptime = core
            .current
            .map(|task| core.machines[core.tasks[task].machine.0].uptime);
        core.now + uptime.unwrap_or_default()
    }

    fn wall(&self) -> SystemTime {
        let core = self.core.borrow();
        let jumped = core
            .current
            .map_or(0, |task| core.machines[core.tasks[task].machine.0].wall);
        let micros = (START + core.now).as_micros() as i64 + jumped;
        SystemTime::UNIX_EPOCH + Duration::from_micros(micros.max(0) as u64)
    }

    fn fill(&self, bytes: &mut [u8]) {
        let core = &mut *self.core.borrow_mut();
        match core.current {
            Some(task) => core.machines[core.tasks[task].machine.0].rng.fill(bytes),
            None => core.rng.fill(bytes),
        }
    }

    fn public_key(&self, private: &[u8; 32]) -> [u8; 32] {
        agreement::public_key(private)
    }

    fn agree(&self, private: &[u8; 32], public: &[u8; 32]) -> [u8; 32] {
        agreement::agree(private, public)
    }

    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> TaskId {
        let (machine, unwinding) = {
            let core = self.core.borrow();
            let task = &core.tasks[core.current.expect("only a task can start another")];
            (task.machine, task.unwinding)
        };
        let id = self.add(machine, name, body);
        if unwinding {
            self.unwind(id.0 as usize);
        }
        id
    }

    fn is_finished(&self, task: TaskId) -> bool {
        self.core.borrow().tasks[task.0 as usize].state == State::Ended
    }

    fn park(&self, key: Key, until: Option<Duration>) -> bool {
        let Some(id) = self.current() else {
            return true;
        };
        {
            let core = &mut *self.core.borrow_mut();
            let task = &mut core.tasks[id];
            task.state = State::Parked;
            task.key = key;
            task.wait += 1;
            if key != 0 {
                core.parked[list(key)].push(id);
            }
            if let Some(until) = until {
                let uptime = core.machines[task.machine.0].uptime;
                let due = Due::Task {
                    task: id,
                    wait: task.wait,
                };
                core.timers.add(until.saturating_sub(uptime), due);
            }
        }
        self.wait(id)
    }

    fn wake(&self, key: Key, all: bool) {
        let mut core = self.core.borrow_mut();
        core.asked += 1;
        if core.asked > 2 * FOREVER {
            let who = core.who();
            drop(core);
            panic!("it spins: it never waits; {who}");
        }
        let list = list(key);
        let mut at = 0;
        while let Some(&id) = core.parked[list].get(at) {
            if core.tasks[id].key != key {
                at += 1;
                continue;
            }
            core.unpark(id, true);
            if !all {
                return;
            }
        }
    }

    fn pause(&self) {
        let Some(id) = self.current() else {
            return;
        };
        {
            let mut core = self.core.borrow_mut();
            core.tasks[id].state = State::Ready;
            core.tasks[id].wait += 1;
            core.make_ready(id);
        }
        self.wait(id);
    }

    fn is_unwinding(&self) -> bool {
        let core = self.core.borrow();
        core.current.is_some_and(|task| core.tasks[task].unwinding)
    }
}

#[cfg(test)]
mod tests;
