//! Clients: they submit, wait, ask again with the same id, here or at a sibling, and remember what
//! they were told.

use std::rc::Rc;
use std::time::Duration;

use prism_db::Value;
use prism_net::platform::sleep;
use prism_node::intake::{Answer, Failure, Mode, NewUpdate};
use uuid::Uuid;

use super::case::Kind;
use super::node::Live;
use super::{Cluster, current};
use crate::check::answers;
use crate::coverage::Phase;
use crate::rng::Rng;

/// One thing that a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Adds to a row that everybody adds to. `letter`: a refusal is a dead letter and not undone.
    Add {
        /// Its id.
        row: String,
        /// How much.
        amount: i64,
        /// See above.
        letter: bool,
    },
    /// Names a row that only one client names.
    Rename {
        /// Its id.
        row: String,
        /// The name.
        name: String,
    },
    /// A new row.
    Open {
        /// Its id.
        row: String,
    },
    /// Removes a row.
    Close {
        /// Its id.
        row: String,
    },
    /// A row that depends on another.
    Note {
        /// Its id.
        note: String,
        /// The row it depends on.
        row: String,
    },
    /// Removes it.
    Unnote {
        /// Its id.
        note: String,
    },
}

impl Op {
    /// What names the row that it writes.
    #[must_use]
    pub fn row(&self) -> &str {
        match self {
            Self::Add { row, .. }
            | Self::Rename { row, .. }
            | Self::Open { row }
            | Self::Close { row } => row,
            Self::Note { note, .. } | Self::Unnote { note } => note,
        }
    }

    pub(super) fn update(&self) -> (&'static str, Vec<Value>) {
        let text = |text: &str| Value::Text(text.to_owned());
        match self {
            Self::Add {
                row,
                amount,
                letter,
            } => {
                let name = if *letter { "add_or_letter" } else { "add" };
                (name, vec![text(row), Value::Int(*amount)])
            }
            Self::Rename { row, name } => ("rename", vec![text(row), text(name)]),
            Self::Open { row } => ("open", vec![text(row), text("new")]),
            Self::Close { row } => ("close", vec![text(row)]),
            Self::Note { note, row } => ("note", vec![text(note), text(row)]),
            Self::Unnote { note } => ("unnote", vec![text(note)]),
        }
    }
}

/// What a client knows of one of its requests.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its id.
    pub id: [u8; 16],
    /// Which client's.
    pub client: usize,
    /// The regions in which it was submitted.
    pub regions: Vec<usize>,
    /// What it wants.
    pub op: Op,
    /// How long it waits.
    pub mode: Mode,
    /// Places of the processes that were asked, and when, in order.
    pub asked: Vec<(Duration, usize)>,
    /// What it was told, in order.
    pub told: Vec<Told>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Told {
    /// When.
    pub at: Duration,
    /// By which region.
    pub region: usize,
    /// By the process at which place.
    pub place: usize,
    /// What.
    pub answer: Answer,
}

impl Request {
    /// Whether somebody has promised that it will take effect.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.told.iter().any(|told| {
            matches!(
                told.answer,
                Answer::Committed { .. }
                    | Answer::Spooled
                    | Answer::Applied { .. }
                    | Answer::Elsewhere { .. }
            )
        })
    }
}

/// Times that a client asks before it gives up.
const ATTEMPTS: u32 = 7;

/// The rows that everybody adds to.
#[must_use]
pub fn shared_row(row: usize) -> String {
    format!("all-{row}")
}

/// The row that only one client names.
#[must_use]
pub fn own_row(client: usize) -> String {
    format!("own-{client}")
}

/// A client from its first update to its last.
pub fn run(cluster: &Rc<Cluster>, me: usize) {
    let plan = cluster.plan.clients[me];
    let mut rng = Rng::new(cluster.plan.case.seed, &format!("client {me}"));
    let mut mine = Mine::default();
    for n in 0..plan.updates {
        sleep(rng.time(Duration::ZERO..plan.pause.max(Duration::from_micros(2))));
        let op = mine.draw(cluster, me, n, &mut rng);
        let awaits = cluster.plan.kinds.has(Kind::Await) && rng.permille(350);
        let can_be_undone = match &op {
            Op::Unnote { .. } | Op::Add { letter: true, .. } => false,
            // Others name it as soon as it is there.
            Op::Open { row } => !is_lot(row),
            _ => true,
        };
        let mut id = [0; 16];
        rng.fill(&mut id);
        let request = Request {
            id,
            client: me,
            regions: Vec::new(),
            asked: Vec::new(),
            op,
            mode: if awaits && can_be_undone {
                Mode::Await
            } else {
                Mode::Background
            },
            told: Vec::new(),
        };
        let made = match &request.op {
            Op::Open { row } if is_lot(row) => {
                cluster.lots.borrow_mut().push(row.clone());
                None
            }
            Op::Open { row } => Some((&mut mine.rows, row.clone())),
            Op::Note { note, .. } => Some((&mut mine.notes, note.clone())),
            _ => None,
        };
        let index = cluster.add_request(request);
        if let Some((list, id)) = made {
            list.push((id, index));
        }
        ask(cluster, index, plan.region, plan.patience, &mut rng);
    }
}

/// One of these that is known to be there, so that it can be removed: what removes a row that is not
/// there cannot be undone.
fn taken(cluster: &Cluster, from: &mut Vec<(String, usize)>, rng: &mut Rng) -> Option<String> {
    if from.is_empty() {
        return None;
    }
    let at = rng.index(from.len());
    let requests = cluster.requests.borrow();
    let last = requests[from[at].1].told.last().map(|told| &told.answer);
    let is_there = matches!(
        last,
        Some(Answer::Committed { .. } | Answer::Applied { .. })
    );
    is_there.then(|| from.swap_remove(at).0)
}

/// Some are so long that they take several sectors of a disk, and several datagrams.
fn name(short: String, little_room: bool, rng: &mut Rng) -> String {
    if rng.permille(250) {
        let long = rng.of(300..if little_room { 900 } else { 3000 }) as usize;
        format!("{short:.<long$}")
    } else {
        short
    }
}

/// A row that stays once it is there, so that everybody's notes may name it.
fn is_lot(row: &str) -> bool {
    row.starts_with("lot-")
}

impl Cluster {
    /// The newest row that stays and can be seen in a region.
    fn lot_at(&self, region: usize) -> Option<String> {
        let lots = self.lots.borrow();
        let mut newest = lots.iter().rev();
        newest
            .find(|lot| self.servers[region].has_account(lot))
            .cloned()
    }
}

/// What a client has made and can remove.
#[derive(Default)]
struct Mine {
    rows: Vec<(String, usize)>,
    notes: Vec<(String, usize)>,
}

impl Mine {
    fn draw(&mut self, cluster: &Cluster, me: usize, n: u32, rng: &mut Rng) -> Op {
        let plan = &cluster.plan;
        let refuse = plan.kinds.has(Kind::Refuse);
        match rng.below(10) {
            0 | 1 => Op::Rename {
                row: own_row(me),
                name: name(format!("{me}.{n}"), plan.is_crowded(), rng),
            },
            2 => {
                let kind = if rng.permille(500) { "row" } else { "lot" };
                let row = format!("{kind}-{me}-{n}");
                Op::Open { row }
            }
            3 if let Some(row) = taken(cluster, &mut self.rows, rng) => Op::Close { row },
            4 => {
                let note = format!("note-{me}-{n}");
                let shared = shared_row(rng.index(plan.rows));
                // A row that another region has just made may not be everywhere yet.
                let lot = rng
                    .permille(600)
                    .then(|| cluster.lot_at(plan.clients[me].region));
                let row = lot.flatten().unwrap_or(shared);
                Op::Note { note, row }
            }
            5 if let Some(note) = taken(cluster, &mut self.notes, rng) => Op::Unnote { note },
            _ => Op::Add {
                row: shared_row(rng.index(plan.rows)),
                // Large ones leave the bounds of some regions.
                amount: if refuse && rng.permille(250) {
                    rng.of(500..1000) as i64
                } else {
                    rng.of(1..5) as i64
                },
                letter: refuse && rng.permille(200),
            },
        }
    }
}

/// Asks until there is an answer that will not change.
fn ask(cluster: &Rc<Cluster>, index: usize, home: usize, patience: Duration, rng: &mut Rng) {
    for attempt in 0..ATTEMPTS {
        let regions = cluster.plan.nodes.len();
        // What overwrites must come from one region.
        let commutes = matches!(cluster.requests.borrow()[index].op, Op::Add { .. });
        let elsewhere =
            attempt > 0 && commutes && cluster.plan.kinds.has(Kind::Elsewhere) && rng.permille(250);
        let region = if elsewhere {
            cluster.strikes(Kind::Elsewhere);
            rng.index(regions)
        } else {
            home
        };
        let Some((place, answer)) = once(cluster, index, region, patience, rng) else {
            sleep(Duration::from_millis(rng.of(50..600)));
            continue;
        };
        let again = answers::says_nothing_was_done(&answer)
            || matches!(
                &answer,
                Answer::Failed(Failure::Unknown(_) | Failure::Draining)
            );
        {
            let op = &cluster.requests.borrow()[index].op;
            let said = format_args!("request {index} at {region}, {op:?}: {answer:?}");
            cluster.world.say(said);
        }
        answers::heard(cluster, index, region, &answer);
        cluster.requests.borrow_mut()[index].told.push(Told {
            at: cluster.world.time(),
            region,
            place,
            answer,
        });
        // Whoever did not hear the answer asks again, too.
        if !again && !rng.permille(60) {
            return;
        }
        sleep(Duration::from_millis(rng.of(10..500)));
    }
}

/// Asks once. `None`: there was nobody.
fn once(
    cluster: &Rc<Cluster>,
    index: usize,
    region: usize,
    patience: Duration,
    rng: &mut Rng,
) -> Option<(usize, Answer)> {
    let (place, live) = {
        let processes = cluster.processes.borrow();
        let there: Vec<_> = (processes.iter().enumerate())
            .filter(|(_, process)| cluster.region_of(process.node) == region)
            .filter_map(|(place, process)| Some((place, process.live.clone()?)))
            .collect();
        if there.is_empty() {
            return None;
        }
        there[rng.index(there.len())].clone()
    };
    let update = {
        let mut requests = cluster.requests.borrow_mut();
        let request = &mut requests[index];
        if !request.regions.contains(&region) {
            request.regions.push(region);
        }
        request.asked.push((cluster.world.time(), place));
        let (statement, params) = request.op.update();
        NewUpdate {
            statement: statement.to_owned(),
            params,
            request_id: Uuid::from_bytes(request.id),
            mode: request.mode,
            timeout: rng.permille(300).then_some(patience),
        }
    };
    if cluster.plan.is_crowded() {
        cluster.strikes(Kind::Overload);
    }
    let awaiting = &cluster.coverage.awaiting;
    let awaits = u32::from(update.mode == Mode::Await);
    if awaits > 0 {
        cluster.strikes(Kind::Await);
    }
    awaiting.set(awaiting.get() + awaits);
    let answer = wait(cluster, &live, update, patience);
    awaiting.set(awaiting.get() - awaits);
    match &answer {
        Answer::Spooled => cluster.coverage.enter(Phase::Spooled, cluster.world.time()),
        Answer::Undone { .. } => cluster.coverage.enter(Phase::Undoing, cluster.world.time()),
        Answer::Failed(Failure::Refused(_)) => cluster.strikes(Kind::Refuse),
        _ => {}
    }
    Some((place, answer))
}

fn wait(cluster: &Cluster, live: &Live, update: NewUpdate, patience: Duration) -> Answer {
    let mut pending = match live.intake.submit(vec![update]) {
        Ok(pending) => pending,
        Err(failure) => return Answer::Failed(failure),
    };
    let until = cluster.world.time() + patience;
    let mut nap = Duration::from_millis(2);
    let answers = loop {
        match pending.try_wait() {
            Ok(Some(answers)) => break Ok(answers),
            Ok(None) if cluster.world.time() >= until => break pending.give_up(),
            Ok(None) => {}
            Err(failure) => break Err(failure),
        }
        sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(40));
    };
    match answers {
        Ok(mut answers) => answers.pop().expect("as many answers as updates"),
        Err(failure) => Answer::Failed(failure),
    }
}

/// Starts all clients.
pub fn start(cluster: &Rc<Cluster>) {
    for me in 0..cluster.plan.clients.len() {
        cluster.spawn_person(&format!("client {me}"), move || run(&current(), me));
    }
}
