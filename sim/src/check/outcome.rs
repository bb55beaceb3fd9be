//! When all is settled: equal databases, and every client's request as it was answered.
//!
//! What the rows must be is worked out from the requests alone: which of them took effect is read
//! from the origin's table of requests, what they do is known, and the sums must come to that in
//! every region.

use std::collections::{BTreeMap, BTreeSet};

use prism_db::{RequestRow, RequestState, UndoReason};
use prism_node::intake::{Answer, Failure, Mode};
use prism_proto::{RegionKey, Seq};

use super::Invariant;
use crate::cluster::{Cluster, Kind, Op, Request, client};
use crate::database::{Effect, Tables};

/// Judges a run that has come to its end.
pub fn judge(cluster: &Cluster) {
    let judge = Judge::new(cluster);
    judge.refused();
    judge.equal();
    let requests = cluster.requests.borrow();
    for (index, request) in requests.iter().enumerate() {
        judge.kept(index, request);
        judge.undone(index, request);
    }
    judge.sums(&requests);
    judge.accepted_first(&requests);
    judge.refusals(&requests);
}

struct Judge<'c> {
    cluster: &'c Cluster,
    tables: Vec<Tables>,
    /// Of every request, what each region has on record.
    records: Vec<Vec<Option<RequestRow>>>,
    /// Updates that a region has not executed although others have (dead letters, skipped ones), or has
    /// not undone.
    left_out: BTreeSet<(RegionKey, Seq)>,
    /// Those of them that were refused.
    refused: BTreeSet<(RegionKey, Seq)>,
    /// A region has seen a dead letter without a request, or lost commits: rows may differ.
    excused: bool,
}

impl<'c> Judge<'c> {
    fn new(cluster: &'c Cluster) -> Self {
        let (mut left_out, mut refused) = (BTreeSet::new(), BTreeSet::new());
        for server in &cluster.servers {
            for one in server.execution_log() {
                if matches!(
                    one.effect,
                    Effect::Rejected | Effect::Skipped | Effect::Retried
                ) {
                    left_out.insert((one.stream, one.seq));
                }
                if one.effect == Effect::Rejected {
                    refused.insert((one.stream, one.seq));
                }
            }
            // An undo that a region has refused leaves there what the others have taken back. (One that was
            // rebuilt has the donor's rows, which its own bounds may not allow.)
            for letter in server.letters() {
                let is_open = letter.resolution.is_none_or(|how| how == "dropped");
                if let Some(undone) = letter.update.undoes.filter(|_| is_open) {
                    left_out.insert((RegionKey::of(&letter.stream), undone));
                }
            }
        }
        let mut connections: Vec<_> = (0..cluster.region_count())
            .map(|region| cluster.connect(region))
            .collect();
        let requests = cluster.requests.borrow();
        let records = requests.iter().map(|request| {
            let all = connections.iter_mut();
            all.map(|database| database.request(&request.id).unwrap_or_default())
                .collect()
        });
        let records = records.collect();
        drop(requests);
        Self {
            tables: cluster
                .servers
                .iter()
                .map(|server| server.tables())
                .collect(),
            records,
            left_out,
            refused,
            excused: cluster.check.had_disaster(),
            cluster,
        }
    }

    fn fail(&self, invariant: Invariant, what: String) {
        self.cluster
            .check
            .fail(&self.cluster.world, invariant, what);
    }

    /// What the region says at which the request was executed.
    fn origin(&self, index: usize) -> Option<&RequestRow> {
        let records = self.records[index].iter().flatten();
        let at_home = |row: &&RequestRow| {
            let region = self.records[index]
                .iter()
                .position(|other| other.as_ref() == Some(row));
            region.is_some_and(|region| self.cluster.name(region) == row.stream)
        };
        records
            .clone()
            .find(at_home)
            .or_else(|| records.clone().next())
    }

    /// Rows that may differ between regions, because one of them has left out what others have done.
    fn differing(&self) -> BTreeSet<String> {
        let mut rows = BTreeSet::new();
        for (index, request) in self.cluster.requests.borrow().iter().enumerate() {
            let left_out = self.records[index].iter().flatten().any(|row| {
                let stream = RegionKey::of(&row.stream);
                row.seq
                    .is_some_and(|seq| self.left_out.contains(&(stream, seq)))
            });
            if left_out {
                rows.insert(request.op.row().to_owned());
            }
        }
        rows
    }

    /// A database refuses what it must, and nothing else: without bounds there is nothing to refuse.
    fn refused(&self) {
        if self.excused || self.cluster.plan.kinds.has(Kind::Refuse) {
            return;
        }
        for (region, server) in self.cluster.servers.iter().enumerate() {
            let log = server.execution_log();
            if let Some(one) = log.iter().find(|one| one.effect == Effect::Rejected) {
                let what = format!("{} has refused {one:?}", self.cluster.name(region));
                self.fail(Invariant::RefusedRightly, what);
            }
        }
    }

    fn equal(&self) {
        let differing = self.differing();
        // A row that is not there, or has a note, makes what others do with it differ as well.
        let of = |tables: &Tables| {
            let mut tables = tables.clone();
            tables.accounts.retain(|id, _| !differing.contains(&**id));
            tables
                .notes
                .retain(|id, row| !differing.contains(&**id) && !differing.contains(&**row));
            tables
        };
        let first = of(&self.tables[0]);
        for (region, tables) in self.tables.iter().enumerate().skip(1) {
            let other = of(tables);
            if first != other {
                let (a, b) = (self.cluster.name(0), self.cluster.name(region));
                self.fail(Invariant::Equal, difference(a, &first, b, &other));
            }
        }
    }

    /// What was acknowledged is on record, as it was answered.
    fn kept(&self, index: usize, request: &Request) {
        for told in &request.told {
            if self.cluster.check.had_disaster_at(told.region) {
                continue;
            }
            let here = self.records[index][told.region].as_ref();
            let stream = self.cluster.name(told.region);
            let who = || format!("request {index}, told {:?} by {stream}", told.answer);
            let lost = |why: &str| {
                self.fail(Invariant::NothingLost, format!("{}: {why} {here:?}", who()));
            };
            match (&told.answer, here.map(|row| &row.state)) {
                (Answer::Committed { .. } | Answer::Applied { .. }, None) => lost("nothing"),
                (Answer::Spooled, None) if !self.excused_spool(told.region) => lost("nothing"),
                (Answer::Committed { seq } | Answer::Applied { seq, .. }, Some(_))
                    if here.is_some_and(|row| row.stream == stream && row.seq != Some(*seq)) =>
                {
                    lost("another number,");
                }
                // (Of a request that was submitted in two regions, each copy is undone with the other.)
                // (What a region had applied, and has lost with its database, it may refuse afterwards.)
                // (Nor is a note's where the row that it names was lost with a database.)
                (Answer::Applied { .. }, Some(RequestState::Undone(_) | RequestState::Held))
                    if request.regions.len() == 1
                        && !here.is_some_and(|row| self.refused_afresh(&row.state))
                        && !(self.excused && matches!(request.op, Op::Note { .. })) =>
                {
                    self.fail(Invariant::AwaitTellsTruth, format!("{}: {here:?}", who()));
                }
                (Answer::Undone { .. }, Some(RequestState::Committed | RequestState::Held))
                    if here.is_some_and(|row| row.stream == stream) =>
                {
                    self.fail(
                        Invariant::UndoneLeavesNothing,
                        format!("{}: {here:?}", who()),
                    );
                }
                (Answer::Failed(Failure::Refused(_)), Some(RequestState::Committed))
                    // (A copy of it that another region has taken is that region's.)
                    if request.mode == Mode::Background
                        && here.is_some_and(|row| row.stream == stream) =>
                {
                    self.fail(Invariant::AnswersAgree, format!("{}: {here:?}", who()));
                }
                _ => {}
            }
        }
    }

    /// What a node has put into its journal comes before what it accepts later.
    fn accepted_first(&self, requests: &[Request]) {
        let check = &self.cluster.check;
        if check.has_adopted() {
            return;
        }
        let at_home = |index: usize, region: usize| {
            let row = self.records[index][region].as_ref()?;
            (row.stream == self.cluster.name(region) && row.state == RequestState::Committed)
                .then_some(row.seq)?
        };
        for (index, first) in requests.iter().enumerate() {
            let Some(told) = first.told.last().filter(|t| t.answer == Answer::Spooled) else {
                continue;
            };
            let region = told.region;
            if check.had_disaster_at(region) || check.lost_journal_at(region) {
                continue;
            }
            let later = |one: &Request| {
                let only = one
                    .asked
                    .iter()
                    .all(|(at, place)| *at > told.at && *place == told.place);
                only && !one.asked.is_empty() && one.mode == Mode::Background
            };
            let others = requests.iter().enumerate().filter(|(_, one)| later(one));
            for (other, _) in others {
                if let (Some(a), Some(b)) = (at_home(index, region), at_home(other, region))
                    && a > b
                {
                    let what = format!(
                        "request {index} was accepted before request {other} was submitted; they are \
                         {} and {} of {}",
                        a.0,
                        b.0,
                        self.cluster.name(region)
                    );
                    self.fail(Invariant::ExactlyOnceInOrder, what);
                }
            }
        }
    }

    /// What a region has refused for good, and has an undo, is taken back by its origin.
    fn refusals(&self, requests: &[Request]) {
        if self.excused || self.cluster.check.has_adopted() {
            return;
        }
        for (index, request) in requests.iter().enumerate() {
            let undone = matches!(request.op, Op::Add { letter: false, .. });
            let Some(row) = self.origin(index) else {
                continue;
            };
            let known = row.seq.map(|seq| (RegionKey::of(&row.stream), seq));
            if undone
                && request.regions.len() == 1
                && known.is_some_and(|known| self.refused.contains(&known))
                && !matches!(row.state, RequestState::Undone(_))
                && !self.is_deleted(row)
            {
                let what = format!("request {index} was refused; its origin has {row:?}");
                self.fail(Invariant::UndoneLeavesNothing, what);
            }
        }
    }

    /// A stale region let its row be deleted when nearly all had it, before its refusal was dealt with:
    /// the alarm `undo-refused` says so.
    fn is_deleted(&self, row: &RequestRow) -> bool {
        let origin = (0..self.cluster.region_count())
            .find(|region| self.cluster.name(*region) == row.stream);
        let kept = origin.and_then(|origin| self.cluster.servers[origin].oldest_kept());
        self.cluster.plan.kinds.has(Kind::Stale) && kept > row.seq
    }

    /// A journal was lost with its machine's disk.
    fn excused_spool(&self, region: usize) -> bool {
        self.cluster.check.lost_journal_at(region)
    }

    /// It was undone because a region refused it that had applied it once, and lost that with its
    /// database.
    fn refused_afresh(&self, state: &RequestState) -> bool {
        let RequestState::Undone(UndoReason::Refused { region: by, .. }) = state else {
            return false;
        };
        let lost = |&region: &usize| self.cluster.check.had_disaster_at(region);
        (0..self.cluster.region_count())
            .filter(lost)
            .any(|region| self.cluster.name(region) == by)
    }

    /// What was taken back has no effect anywhere.
    fn undone(&self, index: usize, request: &Request) {
        let Some(row) = self.origin(index) else {
            return;
        };
        let (Some(seq), RequestState::Undone(_)) = (row.seq, &row.state) else {
            return;
        };
        // A row that was not there when it was removed cannot be put back.
        if self.excused || matches!(request.op, Op::Close { .. }) {
            return;
        }
        let copies: BTreeSet<_> = (self.records[index].iter().flatten())
            .filter_map(|row| Some((RegionKey::of(&row.stream), row.seq?)))
            .collect();
        for (region, server) in self.cluster.servers.iter().enumerate() {
            let mut balance = 0;
            for one in server.execution_log() {
                balance += match one.effect {
                    Effect::Ran if copies.contains(&(one.stream, one.seq)) => 1,
                    Effect::Undid(of) if copies.contains(&(one.stream, of)) => -1,
                    _ => 0,
                };
            }
            if balance != 0 {
                let what = format!(
                    "request {index} ({} {}) was undone; in {} it has effect {balance} times",
                    row.stream,
                    seq.0,
                    self.cluster.name(region)
                );
                self.fail(Invariant::UndoneLeavesNothing, what);
            }
        }
    }

    /// Everybody's rows have the sum of what took effect.
    fn sums(&self, requests: &[Request]) {
        if self.excused {
            return;
        }
        let differing = self.differing();
        let mut sums: BTreeMap<String, i64> = (0..self.cluster.plan.rows)
            .map(|row| (client::shared_row(row), 0))
            .collect();
        for (index, request) in requests.iter().enumerate() {
            let Op::Add { row, amount, .. } = &request.op else {
                continue;
            };
            let state = self.origin(index).map(|row| &row.state);
            if state == Some(&RequestState::Committed) {
                *sums.entry(row.clone()).or_default() += amount;
            }
        }
        for (row, sum) in sums {
            if differing.contains(&row) {
                continue;
            }
            for (region, tables) in self.tables.iter().enumerate() {
                let n = tables.accounts.get(row.as_str()).map(|account| account.n);
                if n != Some(sum) {
                    let what = format!(
                        "{row} in {}: {n:?}, but the updates that took effect come to {sum}",
                        self.cluster.name(region)
                    );
                    self.fail(Invariant::ExactlyOnceInOrder, what);
                }
            }
        }
    }
}

/// The first row that differs.
fn difference(a: &str, one: &Tables, b: &str, other: &Tables) -> String {
    let ids: BTreeSet<_> = one.accounts.keys().chain(other.accounts.keys()).collect();
    for id in ids {
        let (x, y) = (one.accounts.get(id), other.accounts.get(id));
        if x != y {
            return format!("row {id}: {a} has {x:?}, {b} has {y:?}");
        }
    }
    let ids: BTreeSet<_> = one.notes.keys().chain(other.notes.keys()).collect();
    for id in ids {
        let (x, y) = (one.notes.get(id), other.notes.get(id));
        if x != y {
            return format!("note {id}: {a} has {x:?}, {b} has {y:?}");
        }
    }
    String::from("nothing")
}
