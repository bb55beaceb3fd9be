//! PostgreSQL: an ordinary role on an ordinary server, 13 or newer.

mod apply;
mod check;
mod fault;
mod functions;
mod held;
mod intent;
mod lane;
mod link;
mod migrate;
mod node;
mod notify;
mod old;
mod outbox;
mod params;
mod rejected;
mod requests;
mod role;
mod session;
mod submit;
mod transaction;
mod undo;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prism_proto::{Epoch, Position, RegionKey, Seq, Tag, Verdict};

use crate::catalogue::{CatalogueError, Statement};
use crate::server::Address;
use crate::{
    ApplyReport, ApplyRequest, Committed, Database, DbError, HeldConflict, HeldState, HeldWrite,
    Hlc, LaneRow, NodeRow, OpenOptions, OutboxFigures, RefusalRow, RegionRow, RejectedRow,
    RequestRow, Retried, Submission, UndoReason, Undone,
};
use fault::Fault;
pub use intent::submit_in;
pub use link::abandoned_connections;
use link::{Abandoned, Gate, Late, Link};
pub(crate) use migrate::migrate;
pub use role::{Granted, Inspection, role_script};
pub(crate) use role::{create as create_role, inspect as inspect_role};
use session::{Backend, Deadlines, Session, Statements, column};

/// What the server's own timeout is given to speak first.
const SLACK: Duration = Duration::from_millis(500);

/// A lazy connection.
pub(crate) fn open(url: &str, options: OpenOptions) -> Result<Box<dyn Database>, DbError> {
    let deadlines = Deadlines {
        connect: options.connect_timeout,
        statement: options.statement_timeout,
        lock: options.lock_timeout,
    };
    let peers = options
        .topology
        .regions
        .iter()
        .filter(|(name, _)| *name != options.topology.region)
        .map(|(name, key)| (*key, name.clone()))
        .collect();
    Ok(Box::new(PgDatabase {
        address: session::address(url, deadlines)?,
        deadlines,
        options,
        peers,
        link: None,
        statements: Arc::default(),
        abandoned: Arc::default(),
        left_behind: None,
        holding: false,
    }))
}

/// One connection, made when it is needed.
pub(super) struct PgDatabase {
    address: Address,
    deadlines: Deadlines,
    options: OpenOptions,
    peers: HashMap<RegionKey, String>,
    link: Option<Link>,
    statements: Arc<Statements>,
    abandoned: Arc<Abandoned>,
    /// Server process of a connection that was abandoned: it may hold locks.
    left_behind: Option<Backend>,
    /// The connection is in the open transaction of a held update.
    holding: bool,
}

impl PgDatabase {
    /// Runs `f`, which may be repeated at will, on the connection, which is made first if there is
    /// none; once more on a new one if the old one turns out to be dead.
    fn call<R: Send + 'static>(
        &mut self,
        f: impl Fn(&mut Session) -> Result<R, Fault> + Send + Sync + 'static,
    ) -> Result<R, DbError> {
        self.call_once(move |session, _| match f(session) {
            Err(Fault::Db(DbError::Unreachable(_))) => Err(Fault::Stale),
            other => other,
        })
    }

    /// The same for what must not be repeated: `f` itself says [`Fault::Stale`] where it may.
    fn call_once<R: Send + 'static>(
        &mut self,
        f: impl Fn(&mut Session, &Gate) -> Result<R, Fault> + Send + Sync + 'static,
    ) -> Result<R, DbError> {
        self.call_within(self.deadlines.statement + SLACK, f)
    }

    fn call_within<R: Send + 'static>(
        &mut self,
        deadline: Duration,
        f: impl Fn(&mut Session, &Gate) -> Result<R, Fault> + Send + Sync + 'static,
    ) -> Result<R, DbError> {
        let f = Arc::new(f);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let link = self.connected()?;
            let f = Arc::clone(&f);
            let result = link.run(deadline, move |session, gate| {
                let result = f(session, gate);
                session.used = Instant::now();
                result
            });
            let error = match result {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(Fault::Db(error))) => {
                    if matches!(error, DbError::Unreachable(_) | DbError::Ambiguous(_)) {
                        self.link = None;
                    }
                    return Err(error);
                }
                Ok(Err(Fault::Stale)) => {
                    DbError::Unreachable("the server closed the connection".to_owned())
                }
                Ok(Err(Fault::Replan(error))) => error,
                Err(late) => {
                    self.left_behind = self.link.take().map(|link| link.backend);
                    return Err(match late {
                        Late::Nothing(text) => DbError::Unreachable(text),
                        Late::Committing(text) => DbError::Ambiguous(text),
                    });
                }
            };
            self.link = None;
            if attempt == 2 {
                return Err(error);
            }
        }
    }

    fn connected(&mut self) -> Result<&Link, DbError> {
        if self.link.is_none() {
            let (address, deadlines) = (self.address.clone(), self.deadlines);
            let region = self.options.topology.region.clone();
            let left_behind = self.left_behind.clone();
            let (link, statements) = Link::open(deadlines.connect, &self.abandoned, move || {
                let mut session = Session::connect(&address, deadlines)?;
                if let Some(backend) = left_behind {
                    session.terminate(&backend);
                }
                session.check_schema(&region)?;
                let statements = session.statements()?;
                Ok((session, statements))
            })?;
            self.left_behind = None;
            self.statements = Arc::new(statements);
            self.link = Some(link);
        }
        self.link
            .as_ref()
            .ok_or_else(|| DbError::Unreachable("no connection".to_owned()))
    }

    /// A migration may have added versions since we connected.
    fn reload_statements(&mut self) -> Result<(), DbError> {
        self.statements = Arc::new(self.call(|session| Ok(session.statements()?))?);
        Ok(())
    }

    /// Name of the statement, for errors.
    fn named(&self, digest: &crate::Digest, message: &str) -> String {
        match self.statements.get(digest) {
            Some(installed) => format!("statement {}: {message}", installed.name),
            None => message.to_owned(),
        }
    }
}

impl Database for PgDatabase {
    fn region(&mut self) -> Result<RegionRow, DbError> {
        self.call(read_region)
    }

    fn submit(&mut self, batch: &[Submission]) -> Result<Vec<Committed>, DbError> {
        self.submit_batch(batch)
    }

    fn position(&mut self, stream: &str) -> Result<Position, DbError> {
        let stream = stream.to_owned();
        self.call(move |session| {
            let rows = session.query(
                "SELECT epoch, applied, tag FROM prism.watermark WHERE stream = $1",
                &[&stream],
            )?;
            let row = rows.first().ok_or_else(|| apply::unknown(&stream))?;
            Ok(position(row, 0)?)
        })
    }

    fn positions(&mut self) -> Result<Vec<(String, Position)>, DbError> {
        self.call(|session| {
            let rows = session.query(
                "SELECT stream, epoch, applied, tag FROM prism.watermark ORDER BY stream",
                &[],
            )?;
            rows.iter()
                .map(|row| Ok((column(row, 0)?, position(row, 1)?)))
                .collect()
        })
    }

    fn apply(&mut self, request: &ApplyRequest<'_>) -> Result<ApplyReport, DbError> {
        self.apply_request(request)
    }

    fn outbox_read(
        &mut self,
        from: Seq,
        to: Seq,
        max_bytes: usize,
        sink: &mut dyn FnMut(Seq, &[u8]),
    ) -> Result<Seq, DbError> {
        self.read_outbox(from, to, max_bytes, sink)
    }

    fn outbox_find(&mut self, request_id: &[u8; 16]) -> Result<Option<Committed>, DbError> {
        self.find_in_outbox(*request_id)
    }

    fn outbox_verify(&mut self, position: Position) -> Result<Verdict, DbError> {
        self.verify_position(position)
    }

    fn lanes(&mut self) -> Result<Vec<LaneRow>, DbError> {
        self.call(lane::all)
    }

    fn lane_lease(&mut self, peer: &str, node: &str, ttl: Duration) -> Result<LaneRow, DbError> {
        let (peer, node) = (peer.to_owned(), node.to_owned());
        self.call(move |session| lane::lease(session, &peer, &node, ttl))
    }

    fn lane_release(&mut self, peer: &str, node: &str) -> Result<(), DbError> {
        let (peer, node) = (peer.to_owned(), node.to_owned());
        self.call(move |session| lane::release(session, &peer, &node))
    }

    fn lane_acked(&mut self, peer: &str, position: Position) -> Result<(), DbError> {
        let peer = peer.to_owned();
        self.call(move |session| lane::acked(session, &peer, position))
    }

    fn outbox_trim(&mut self, retention: Duration, limit: u32) -> Result<u64, DbError> {
        self.trim_outbox(retention, limit)
    }

    fn rejected_count(&mut self) -> Result<u64, DbError> {
        self.call(|session| {
            let rows = session.query(
                "SELECT count(*) FROM prism.rejected WHERE resolution IS NULL",
                &[],
            )?;
            let count: i64 = rows.first().map_or(Ok(0), |row| column(row, 0))?;
            Ok(count.cast_unsigned())
        })
    }

    fn rejected(&mut self, limit: u32) -> Result<Vec<RejectedRow>, DbError> {
        self.call(move |session| rejected::unresolved(session, limit))
    }

    fn rejected_get(&mut self, id: i64) -> Result<Option<RejectedRow>, DbError> {
        self.call(move |session| rejected::get(session, id))
    }

    fn rejected_drop(&mut self, id: i64) -> Result<bool, DbError> {
        self.call(move |session| rejected::drop(session, id))
    }

    fn refusals(&mut self, stream: &str, limit: u32) -> Result<Vec<RefusalRow>, DbError> {
        let stream = stream.to_owned();
        self.call(move |session| rejected::refusals(session, &stream, limit))
    }

    fn refusals_told(&mut self, stream: &str, epoch: Epoch, seqs: &[Seq]) -> Result<(), DbError> {
        let (stream, seqs) = (stream.to_owned(), seqs.to_vec());
        self.call(move |session| rejected::told(session, &stream, epoch, &seqs))
    }

    fn skip(&mut self, stream: &str, seq: Seq) -> Result<bool, DbError> {
        let stream = stream.to_owned();
        self.call(move |session| rejected::skip(session, &stream, seq))
    }

    fn skips(&mut self, stream: &str) -> Result<Vec<Seq>, DbError> {
        let stream = stream.to_owned();
        self.call(move |session| rejected::skips(session, &stream))
    }

    fn request(&mut self, request_id: &[u8; 16]) -> Result<Option<RequestRow>, DbError> {
        self.find_request(*request_id)
    }

    fn request_refused(
        &mut self,
        submission: &Submission,
        sqlstate: &str,
        message: &str,
        dead_letter: bool,
    ) -> Result<(), DbError> {
        self.record_refused(submission, sqlstate, message, dead_letter)
    }

    fn request_trim(&mut self, retention: Duration, limit: u32) -> Result<u64, DbError> {
        self.trim_requests(retention, limit)
    }

    fn requests_reach(&mut self, age: Duration) -> Result<bool, DbError> {
        self.oldest_request_before(age)
    }

    fn undo(&mut self, seq: Seq, reason: &UndoReason) -> Result<Undone, DbError> {
        self.undo_update(seq, reason)
    }

    fn rejected_retry(&mut self, id: i64) -> Result<Retried, DbError> {
        self.retry_rejected(id)
    }

    fn held_begin(
        &mut self,
        submission: &Submission,
        limit: Duration,
    ) -> Result<HeldWrite, DbError> {
        self.begin_held(submission, limit)
    }

    fn held_publish(&mut self, held: &HeldWrite) -> Result<Committed, DbError> {
        self.publish_held(held)
    }

    fn held_finish(&mut self, seq: Seq) -> Result<bool, DbError> {
        self.finish_held(seq)
    }

    fn held_cancel(&mut self) -> Result<(), DbError> {
        self.cancel_held()
    }

    fn held_state(&mut self, seq: Seq) -> Result<HeldState, DbError> {
        self.state_of_held(seq)
    }

    fn held_conflicts(&mut self) -> Result<Vec<HeldConflict>, DbError> {
        self.conflicts_of_held()
    }

    fn settle_held(&mut self) -> Result<Vec<Committed>, DbError> {
        self.settle()
    }

    fn wait_for_outbox(&mut self, timeout: Duration) -> Result<bool, DbError> {
        let deadline = timeout.saturating_add(self.deadlines.statement + SLACK);
        self.call_within(deadline, move |session, _| notify::wait(session, timeout))
    }

    fn lane_want(&mut self, peer: &str, node: &str, ttl: Duration) -> Result<(), DbError> {
        let (peer, node) = (peer.to_owned(), node.to_owned());
        self.call(move |session| lane::want(session, &peer, &node, ttl))
    }

    fn lane_stale(&mut self, peer: &str) -> Result<(), DbError> {
        let peer = peer.to_owned();
        self.call(move |session| lane::stale(session, &peer))
    }

    fn lane_back(&mut self, peer: &str) -> Result<bool, DbError> {
        let peer = peer.to_owned();
        self.call_once(move |session, gate| {
            transaction::transaction(session, gate, |session| lane::back(session, &peer))
        })
    }

    fn outbox_figures(&mut self) -> Result<OutboxFigures, DbError> {
        self.figures()
    }

    fn node_claim(
        &mut self,
        node: &str,
        incarnation: u64,
        journal: u64,
    ) -> Result<Option<NodeRow>, DbError> {
        let node = node.to_owned();
        self.call(move |session| node::claim(session, &node, incarnation, journal))
    }

    fn node_beat(&mut self, node: &str, incarnation: u64) -> Result<bool, DbError> {
        let node = node.to_owned();
        self.call(move |session| node::beat(session, &node, incarnation))
    }

    fn check(&mut self, statement: &Statement) -> Result<Vec<CatalogueError>, DbError> {
        let statement = statement.clone();
        self.call(move |session| check::check(session, &statement))
    }

    fn hlc(&mut self) -> Result<Hlc, DbError> {
        self.call(|session| {
            let rows = session.query(
                "SELECT greatest((SELECT max(hlc) FROM prism.region),
                                 (SELECT max(hlc) FROM prism.watermark))",
                &[],
            )?;
            let hlc: i64 = rows.first().map_or(Ok(0), |row| column(row, 0))?;
            Ok(Hlc(hlc.cast_unsigned()))
        })
    }
}

fn read_region(session: &mut Session) -> Result<RegionRow, Fault> {
    let rows = session.query(
        "SELECT name, epoch, next_seq, last_tag FROM prism.region",
        &[],
    )?;
    let row = rows.first().ok_or_else(|| {
        DbError::Schema("the table prism.region is empty; run `prism migrate`".to_owned())
    })?;
    Ok(RegionRow {
        name: column(row, 0)?,
        epoch: Epoch(unsigned(row, 1)?),
        next_seq: Seq(unsigned(row, 2)?),
        last_tag: Tag(unsigned(row, 3)?),
    })
}

/// A number that is unsigned in Prism: same bits.
fn unsigned(row: &postgres::Row, index: usize) -> Result<u64, DbError> {
    column::<i64>(row, index).map(i64::cast_unsigned)
}

/// Three columns from `first` on: epoch, seq, tag.
fn position(row: &postgres::Row, first: usize) -> Result<Position, DbError> {
    Ok(Position {
        epoch: Epoch(unsigned(row, first)?),
        seq: Seq(unsigned(row, first + 1)?),
        tag: Tag(unsigned(row, first + 2)?),
    })
}

/// Whole microseconds; the server multiplies intervals by floating point numbers.
fn interval(duration: Duration) -> f64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4) as f64
}
