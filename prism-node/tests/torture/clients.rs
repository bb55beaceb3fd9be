//! Callers: each submits, and on an error or silence the same request again, at a sibling or in
//! another region, until it is told what became of it or gives up.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postgres::Client;
use prism_node::demo::relay::Random;
use serde_json::Value;

use crate::ops::{Kind, Op, Outcome};
use crate::world::{NODES, REGIONS, World};

/// Longest wait for an answer; a stopped node keeps its callers waiting.
const PATIENCE: Duration = Duration::from_secs(7);
/// How often the same request is sent before its caller gives up.
const TRIES: usize = 6;
/// Rows of `users` per client: a row whose rename was refused is left alone from then on, because
/// the undo of a refused value meets the next one otherwise.
const USERS: usize = 500;

/// Errors that say that nothing was written.
const NOTHING_WRITTEN: [&str; 8] = [
    "busy",
    "draining",
    "database_unavailable",
    "database_not_ready",
    "locked",
    "timeout",
    "spooling",
    "journal",
];

/// One answer to one update.
enum Reply {
    /// It is decided.
    Said(Outcome, Option<u64>),
    /// Nothing was written; try again.
    No,
    /// Nobody knows.
    Lost,
}

/// A client's means.
pub struct Caller<'w> {
    pub world: &'w World,
    pub random: Random,
    pub region: usize,
    pub number: usize,
    http: ureq::Agent,
    /// Which node of its region it likes.
    node: usize,
    user: usize,
    log: Vec<Op>,
}

impl<'w> Caller<'w> {
    pub fn new(world: &'w World, seed: u64, region: usize, number: usize) -> Self {
        Self {
            world,
            random: Random(seed ^ (number as u64).wrapping_mul(0x9e37_79b9)),
            region,
            number,
            http: agent(),
            node: number % NODES,
            user: 0,
            log: Vec::new(),
        }
    }

    /// Background updates until the world stops, a few in each request.
    pub fn background(mut self) -> Vec<Op> {
        while !self.world.stopping() {
            let count = 1 + self.random.below(4);
            let ops = (0..count).map(|_| self.draw()).collect();
            self.submit(ops);
            self.rest(5, 60);
        }
        self.log
    }

    /// Awaited updates, one after the other.
    pub fn awaiting(mut self) -> Vec<Op> {
        while !self.world.stopping() {
            let kind = if self.random.chance(0.5) {
                Kind::Seat
            } else {
                Kind::Reserve
            };
            let refuse = self.random.chance(0.15);
            let op = Op::new(&mut self.random, kind, self.region, self.number, refuse);
            self.submit(vec![op]);
            self.rest(10, 150);
        }
        self.log
    }

    /// Transactions of the application itself.
    pub fn transactions(mut self) -> Vec<Op> {
        let mut client = None;
        while !self.world.stopping() {
            let connected = match client.take() {
                Some(client) => Ok(client),
                None => self.world.sql(self.region),
            };
            if let Ok(mut connected) = connected {
                let ops = [Kind::Append, Kind::Mark]
                    .map(|kind| Op::new(&mut self.random, kind, self.region, self.number, false));
                let regret = self.random.chance(0.1);
                let (outcome, usable) = transaction(&mut connected, &ops, regret);
                client = usable.then_some(connected);
                self.log.extend(ops.map(|op| Op {
                    outcome,
                    sql: true,
                    ..op
                }));
            }
            self.rest(20, 120);
        }
        self.log
    }

    fn draw(&mut self) -> Op {
        let kind = match self.random.below(100) {
            0..30 => Kind::Append,
            30..50 => Kind::Mark,
            50..60 => Kind::Token,
            60..80 => Kind::Claim,
            80..90 => Kind::Letter,
            _ => Kind::Rename,
        };
        let refusable = matches!(kind, Kind::Claim | Kind::Letter | Kind::Rename);
        let mut refuse = refusable && self.random.chance(0.12);
        if kind == Kind::Rename && self.user + 1 >= USERS {
            refuse = false;
        }
        let mut op = Op::new(&mut self.random, kind, self.region, self.number, refuse);
        if kind == Kind::Rename {
            op.row = format!("{}-{}", self.number, self.user);
            self.user += usize::from(refuse);
        }
        op
    }

    fn rest(&mut self, from: u64, to: usize) {
        let ms = from + self.random.below(to) as u64;
        std::thread::sleep(Duration::from_millis(ms));
    }

    /// Until all of them are decided, or the tries are used up.
    fn submit(&mut self, ops: Vec<Op>) {
        let mut open: Vec<(Op, bool)> = ops.into_iter().map(|op| (op, false)).collect();
        // Two copies on their way at the same time; whichever comes first counts in each region.
        if open.iter().all(|(op, _)| op.kind.commutes()) && self.random.chance(0.1) {
            let node = self.abroad(&mut open);
            self.post(node, &open);
            open.iter_mut().for_each(|(_, lost)| *lost = true);
        }
        for turn in 0..TRIES {
            let node = self.address(&mut open);
            let replies = self.post(node, &open);
            for ((op, lost), reply) in open.iter_mut().zip(replies) {
                match reply {
                    Reply::Said(outcome, seq) => {
                        (op.outcome, op.seq) = (outcome, seq);
                        op.alone = turn == 0 && !*lost;
                    }
                    Reply::No => op.outcome = Outcome::NotTaken,
                    Reply::Lost => (op.outcome, *lost) = (Outcome::Unknown, true),
                }
            }
            let (wait, done): (Vec<_>, Vec<_>) = open
                .into_iter()
                .partition(|(op, _)| matches!(op.outcome, Outcome::NotTaken | Outcome::Unknown));
            self.log.extend(done.into_iter().map(|(op, _)| op));
            open = wait;
            if open.is_empty() {
                return;
            }
            self.node = (self.node + 1) % NODES;
            self.rest(20, 400);
        }
        // A request that may still lie in front of a stopped node is not settled by a later "no".
        self.log.extend(open.into_iter().map(|(op, lost)| Op {
            outcome: if lost { Outcome::Unknown } else { op.outcome },
            ..op
        }));
    }

    /// A node of its own region; at times another region's for what may go there.
    fn address(&mut self, open: &mut [(Op, bool)]) -> SocketAddr {
        let again = open.iter().any(|(op, _)| op.outcome == Outcome::NotTaken)
            || open.iter().any(|(_, lost)| *lost);
        let all = open.iter().all(|(op, _)| op.kind.commutes());
        if again && all && self.random.chance(0.4) {
            return self.abroad(open);
        }
        self.world.http[self.region * NODES + self.node]
    }

    /// A node of another region, which gets a copy.
    fn abroad(&mut self, open: &mut [(Op, bool)]) -> SocketAddr {
        let region = (self.region + 1 + self.random.below(REGIONS.len() - 1)) % REGIONS.len();
        open.iter_mut().for_each(|(op, _)| op.crossed = true);
        self.world.http[region * NODES + self.random.below(NODES)]
    }

    fn post(&self, node: SocketAddr, open: &[(Op, bool)]) -> Vec<Reply> {
        let url = format!("http://{node}/v1/updates");
        let bodies: Vec<Value> = open.iter().map(|(op, _)| op.body()).collect();
        // One is sent as one, so that its status is seen as well.
        let sent = match &bodies[..] {
            [one] => self.http.post(&url).send_json(one),
            many => self.http.post(&url).send_json(many),
        };
        let all = |reply: fn() -> Reply| open.iter().map(|_| reply()).collect();
        let mut answer = match sent {
            Ok(answer) => answer,
            Err(ureq::Error::Io(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                return all(|| Reply::No);
            }
            Err(_) => return all(|| Reply::Lost),
        };
        let status = answer.status().as_u16();
        let Ok(text) = answer.body_mut().read_to_string() else {
            return all(|| Reply::Lost);
        };
        let body: Value = match serde_json::from_str(&text) {
            Ok(body) => body,
            Err(e) => {
                self.world.wrong(format!("{e} in an answer: {text}"));
                return all(|| Reply::Lost);
            }
        };
        match body {
            Value::Array(list) if list.len() == open.len() => list
                .iter()
                .zip(open)
                .map(|(body, (op, _))| self.judge(None, body, op))
                .collect(),
            body => open
                .iter()
                .map(|(op, _)| self.judge(Some(status), &body, op))
                .collect(),
        }
    }

    /// What an answer means. In an array only the words count.
    fn judge(&self, status: Option<u16>, body: &Value, op: &Op) -> Reply {
        let seq = body["seq"].as_u64();
        let outcome = body["outcome"].as_str();
        let code = body["error"]["code"].as_str();
        let (said, expected) = match (outcome, code) {
            (Some("committed"), _) => (Reply::Said(Outcome::Committed, seq), 200),
            (Some("applied"), _) => (Reply::Said(Outcome::Applied, seq), 200),
            (Some("spooled"), _) => (Reply::Said(Outcome::Spooled, seq), 202),
            (Some("refused"), _) | (None, Some("refused")) => {
                (Reply::Said(Outcome::Refused, seq), 409)
            }
            (Some("unconfirmed"), _) => (Reply::Said(Outcome::Unconfirmed, seq), 504),
            (Some("undone"), _) => (Reply::Said(Outcome::Undone, seq), 409),
            (None, Some("outcome_unknown")) => (Reply::Lost, 503),
            (None, Some(code)) if NOTHING_WRITTEN.contains(&code) => (Reply::No, 503),
            _ => {
                self.world
                    .wrong(format!("{op} was answered {status:?} {body}"));
                return Reply::Lost;
            }
        };
        if status.is_some_and(|status| status != expected) {
            self.world
                .wrong(format!("{op} was answered {status:?} with {body}"));
        }
        let never = matches!(said, Reply::Said(Outcome::Refused, _))
            && op.refuser.is_none()
            && !op.kind.awaited();
        if never {
            self.world.wrong(format!("{op} was refused: {body}"));
        }
        said
    }
}

/// The application's own writes together with `prism.submit`, in one transaction: both or none.
/// Also whether the connection is good for another one.
fn transaction(client: &mut Client, ops: &[Op], regret: bool) -> (Outcome, bool) {
    let written = (|| {
        client.batch_execute("BEGIN")?;
        for op in ops {
            let params = op.params();
            let text = |i: usize| params[i].as_str().unwrap_or_default().to_owned();
            if op.kind == Kind::Append {
                client.execute(
                    "INSERT INTO log (id, origin) VALUES ($1, $2)",
                    &[&text(0), &text(1)],
                )?;
            } else {
                client.execute("INSERT INTO marks (id, n) VALUES ($1, 1)", &[&text(0)])?;
            }
            let (json, request) = (params.to_string(), op.request.to_string());
            client.execute(
                "SELECT prism.submit($1, $2::text::jsonb, $3::text::uuid)",
                &[&op.statement(), &json, &request],
            )?;
        }
        Ok::<_, postgres::Error>(())
    })();
    if written.is_err() || regret {
        let rolled_back = client.batch_execute("ROLLBACK").is_ok();
        return (Outcome::NotTaken, rolled_back);
    }
    match client.batch_execute("COMMIT") {
        Ok(()) => (Outcome::Committed, true),
        // The server has said that it was not committed.
        Err(e)
            if e.as_db_error()
                .is_some_and(|e| !e.code().code().starts_with("57P")) =>
        {
            (Outcome::NotTaken, client.batch_execute("ROLLBACK").is_ok())
        }
        Err(_) => (Outcome::Unknown, false),
    }
}

pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .timeout_connect(Some(Duration::from_secs(2)))
        .http_status_as_error(false)
        .build()
        .into()
}

/// Counts itself off when a client ends, also by a panic.
pub struct Running<'w>(&'w World);

impl<'w> Running<'w> {
    pub fn new(world: &'w World) -> Self {
        world.clients.fetch_add(1, Ordering::Relaxed);
        Self(world)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}
