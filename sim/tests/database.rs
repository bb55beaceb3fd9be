//! The model database where several are at it at once, and where something goes wrong.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prism_db::apply::Applier;
use prism_db::{
    ApplyItem, ApplyReport, ApplyRequest, Committed, Database, DbError, HeldState, ItemAction,
    OpenOptions, Submission, Topology, UndoReason, Undone, Update, Value,
};
use prism_proto::{Epoch, Position, RegionKey, Seq, Verdict};
use prism_sim::database::{Account, Effect, Fault, ModelServer, Point, Trouble, adopt, catalogue};

const REGIONS: [&str; 3] = ["NA", "EU", "AS"];

struct World {
    servers: Vec<ModelServer>,
}

fn topology(region: &str) -> Topology {
    Topology {
        region: region.to_owned(),
        regions: REGIONS
            .iter()
            .map(|name| ((*name).to_owned(), RegionKey::of(name)))
            .collect(),
    }
}

fn options(region: &str) -> OpenOptions {
    let mut options = OpenOptions::new(topology(region), catalogue::catalogue(false));
    options.lock_timeout = Duration::from_millis(100);
    options.statement_timeout = Duration::from_millis(300);
    options
}

impl World {
    fn new() -> Self {
        let server = |region: &&str| {
            let server = ModelServer::new((-1000, 1000));
            server.migrate(&topology(region), &catalogue::catalogue(false));
            for id in ["a", "b"] {
                let name = Some("first".into());
                server.set_account(id, Account { n: 0, name });
            }
            server
        };
        Self {
            servers: REGIONS.iter().map(server).collect(),
        }
    }

    fn na(&self) -> &ModelServer {
        &self.servers[0]
    }

    fn eu(&self) -> &ModelServer {
        &self.servers[1]
    }

    fn open(&self, region: usize) -> Box<dyn Database> {
        self.servers[region].connect(options(REGIONS[region]))
    }

    /// Whose calls wait as long as it takes.
    fn patient(&self, region: usize) -> Box<dyn Database> {
        let mut options = options(REGIONS[region]);
        options.lock_timeout = Duration::from_secs(20);
        options.statement_timeout = Duration::from_secs(30);
        self.servers[region].connect(options)
    }

    fn n(&self, region: usize, id: &str) -> i64 {
        self.servers[region].tables().accounts[id].n
    }

    fn outbox(&self, region: usize) -> Vec<(Seq, Vec<u8>)> {
        let mut all = Vec::new();
        let mut db = self.open(region);
        let mut sink = |seq: Seq, bytes: &[u8]| all.push((seq, bytes.to_vec()));
        db.outbox_read(Seq(1), Seq(1 << 40), usize::MAX, &mut sink)
            .expect("outbox");
        all
    }

    fn deliver(&self, from: usize, to: usize) {
        let regions = topology("NA").regions;
        let mut applier = Applier::new(catalogue::catalogue(false), regions);
        let epoch = self.servers[from].region().epoch;
        let updates = self.outbox(from);
        let mut db = self.patient(to);
        let outcome = applier.apply(&mut *db, REGIONS[from], epoch, &updates);
        assert_eq!(outcome.wait, None);
    }

    fn no_findings(&self) {
        for server in &self.servers {
            assert_eq!(server.findings(), Vec::<String>::new());
        }
    }
}

fn call(name: &str, params: &[Value], id: u8) -> Submission {
    let catalogue = catalogue::catalogue(true);
    let statement = catalogue.get(name).expect("a statement");
    Submission {
        statement: statement.digest(),
        params: statement.bind(params).expect("parameters"),
        request_id: (id > 0).then_some([id; 16]),
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn add(account: &str, n: i64, id: u8) -> Submission {
    call("add", &[text(account), Value::Int(n)], id)
}

fn refused() -> UndoReason {
    UndoReason::Refused {
        region: "EU".to_owned(),
        sqlstate: "23514".to_owned(),
        message: String::new(),
    }
}

fn state(result: Result<impl std::fmt::Debug, DbError>) -> String {
    match result {
        Err(DbError::Sql { sqlstate, .. }) => sqlstate,
        other => panic!("{other:?}"),
    }
}

/// Faults that strike once, each at its point of its verb.
#[derive(Default)]
struct Script(Mutex<Vec<(Point, &'static str, Fault)>>);

impl Trouble for Script {
    fn at(&self, point: Point, verb: &'static str) -> Fault {
        let mut left = self.0.lock().expect("the script");
        let next = left.iter().position(|(p, v, _)| (*p, *v) == (point, verb));
        next.map_or(Fault::None, |next| left.remove(next).2)
    }
}

fn strike(server: &ModelServer, faults: &[(Point, &'static str, Fault)]) {
    server.set_trouble(Arc::new(Script(Mutex::new(faults.to_vec()))));
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn request<'a>(items: &'a [ApplyItem], epoch: Epoch) -> ApplyRequest<'a> {
    ApplyRequest {
        stream: "NA",
        epoch,
        items,
        ignore_dependencies: false,
    }
}

fn items(updates: &[(Seq, Vec<u8>)]) -> Vec<ApplyItem> {
    let item = |(seq, bytes): &(Seq, Vec<u8>)| ApplyItem {
        seq: *seq,
        update: Update::decode(bytes).expect("an update"),
        action: ItemAction::Run,
    };
    updates.iter().map(item).collect()
}

#[test]
fn many_submitters_get_numbers_in_the_order_of_their_commits() {
    let world = World::new();
    let seqs: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let mut db = world.patient(0);
                scope.spawn(move || {
                    let account = if worker % 2 == 0 { "a" } else { "b" };
                    let one = |_| db.submit(&[add(account, 1, 0)]).expect("taken")[0].seq.0;
                    (0..100).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("worker"))
            .collect()
    });
    assert_eq!(seqs.len(), 400);
    assert_eq!(
        seqs.into_iter().collect::<BTreeSet<_>>(),
        (1..=400).collect()
    );
    let log = world.na().execution_log();
    assert!(log.iter().map(|one| one.seq.0).eq(1..=400));
    assert_eq!(world.n(0, "a") + world.n(0, "b"), 400);
    world.no_findings();
}

#[test]
fn two_appliers_at_once_execute_each_update_once() {
    let world = World::new();
    for _ in 0..50 {
        world.open(0).submit(&[add("a", 1, 0)]).expect("taken");
    }
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| world.deliver(0, 1));
        }
    });
    assert_eq!(world.n(1, "a"), 50);
    assert_eq!(world.eu().execution_log().len(), 50);
    world.no_findings();
}

#[test]
fn a_held_row_keeps_others_waiting_until_it_is_final() {
    let world = World::new();
    let mut held = world.open(0);
    let write = held.held_begin(&add("a", 1, 1), Duration::from_secs(20));
    let write = write.expect("held");
    let mut other = world.open(0);
    assert_eq!(state(other.submit(&[add("a", 1, 0)])), "55P03");
    other.submit(&[add("b", 1, 0)]).expect("another row");
    assert_eq!(world.n(0, "a"), 0, "nobody sees what is not committed");
    let published = other.held_publish(&write).expect("published");
    assert_eq!(other.held_state(published.seq), Ok(HeldState::Held));
    // An apply of a final update that wants the row: whoever holds it gives way.
    world.open(1).submit(&[add("a", 5, 0)]).expect("taken");
    std::thread::scope(|scope| {
        let applier = scope.spawn(|| world.deliver(1, 0));
        let mut conflicts = Vec::new();
        eventually("somebody waits for the held one", || {
            conflicts = other.held_conflicts().expect("conflicts");
            !conflicts.is_empty()
        });
        assert_eq!(conflicts[0].seq, published.seq);
        assert_eq!(conflicts[0].stream, RegionKey::of("EU"));
        let why = UndoReason::Conflict {
            region: "EU".to_owned(),
        };
        let undone = other.undo(published.seq, &why).expect("undone");
        assert!(matches!(undone, Undone::Published(_)), "{undone:?}");
        assert_eq!(held.held_finish(published.seq), Ok(false));
        applier.join().expect("applied");
    });
    assert_eq!(world.n(0, "a"), 5);
    let ran = |effect| {
        let log = world.na().execution_log();
        log.into_iter().filter(|one| one.effect == effect).count()
    };
    assert_eq!((ran(Effect::Published), ran(Effect::Ran)), (1, 2));
    world.no_findings();
}

#[test]
fn what_a_dead_node_held_is_undone_before_anybody_writes_behind_it() {
    let world = World::new();
    let mut held = world.open(0);
    let write = held.held_begin(&add("a", 7, 1), Duration::from_secs(20));
    let published = world.open(0).held_publish(&write.expect("held"));
    let seq = published.expect("published").seq;
    // The server notices late that its client is gone: until then the row is locked.
    let late = Fault::Delay(Duration::from_millis(250));
    strike(world.na(), &[(Point::Lost, "held_begin", late)]);
    drop(held);
    assert_eq!(state(world.open(0).submit(&[add("a", 1, 0)])), "55P03");
    let mut other = world.patient(0);
    let committed = other.submit(&[add("a", 1, 0)]).expect("taken");
    assert_eq!(committed[0].seq, Seq(3), "behind the undo");
    assert_eq!(
        other.held_state(seq),
        Ok(HeldState::Undone(UndoReason::Crashed))
    );
    assert_eq!(world.n(0, "a"), 1);
    // And after a crash of the server itself.
    let mut held = world.open(0);
    let write = held.held_begin(&add("a", 7, 2), Duration::from_secs(20));
    let published = world.open(0).held_publish(&write.expect("held"));
    let seq = published.expect("published").seq;
    world.na().crash();
    let settled = world.open(0).settle_held().expect("settled");
    assert_eq!(settled[0].update.undoes, Some(seq));
    assert!(held.held_finish(seq).is_err(), "its transaction is gone");
    world.deliver(0, 1);
    assert_eq!(world.n(1, "a"), 1);
    world.no_findings();
}

#[test]
fn an_open_transaction_ends_by_itself_at_its_limit() {
    let world = World::new();
    let mut held = world.open(0);
    held.held_begin(&add("a", 7, 1), Duration::from_millis(50))
        .expect("held");
    let mut other = world.patient(0);
    other.submit(&[add("a", 1, 0)]).expect("after the limit");
    let ended = held.held_finish(Seq(1));
    assert!(matches!(ended, Err(DbError::Unreachable(_))), "{ended:?}");
    assert_eq!(world.na().load().0, 0, "nothing is open");
}

#[test]
fn an_ambiguous_commit_is_one_or_the_other_and_can_be_found_out() {
    let world = World::new();
    let mut db = world.open(0);
    for (id, point, there) in [
        (1, Point::BeforeCommit, false),
        (2, Point::AfterCommit, true),
    ] {
        strike(world.na(), &[(point, "submit", Fault::Disconnect)]);
        let result = db.submit(&[add("a", 1, id)]);
        assert!(matches!(result, Err(DbError::Ambiguous(_))), "{result:?}");
        let found = db.outbox_find(&[id; 16]).expect("found out");
        assert_eq!(found.is_some(), there);
    }
    assert_eq!(world.n(0, "a"), 1);
    // A statement before it: nothing was written, and the client knows.
    strike(
        world.na(),
        &[(Point::Statement, "submit", Fault::Disconnect)],
    );
    let result = db.submit(&[add("a", 1, 3)]);
    assert!(matches!(result, Err(DbError::Unreachable(_))), "{result:?}");
    // An apply is looked at by its position.
    for (point, there) in [(Point::BeforeCommit, 0), (Point::AfterCommit, 1)] {
        let mut eu = world.open(1);
        let all = items(&world.outbox(0));
        strike(world.eu(), &[(point, "apply", Fault::Disconnect)]);
        let epoch = world.na().region().epoch;
        let result = eu.apply(&request(&all, epoch));
        assert!(matches!(result, Err(DbError::Ambiguous(_))), "{result:?}");
        assert_eq!(eu.position("NA").map(|at| at.seq), Ok(Seq(there)));
    }
    assert_eq!(world.n(1, "a"), 1);
    world.no_findings();
}

/// A COMMIT that takes a while, and says when it is reached.
#[derive(Default)]
struct SlowCommit(AtomicBool);

impl Trouble for SlowCommit {
    fn at(&self, point: Point, verb: &'static str) -> Fault {
        if (point, verb) != (Point::BeforeCommit, "submit") {
            return Fault::None;
        }
        self.0.store(true, Ordering::SeqCst);
        Fault::Delay(Duration::from_millis(300))
    }
}

#[test]
fn looking_for_an_update_waits_for_whoever_holds_the_numbering() {
    let world = World::new();
    let slow = Arc::new(SlowCommit::default());
    world
        .na()
        .set_trouble(Arc::clone(&slow) as Arc<dyn Trouble>);
    std::thread::scope(|scope| {
        let mut db = world.patient(0);
        scope.spawn(move || db.submit(&[add("a", 1, 9)]).expect("taken"));
        eventually("it commits", || slow.0.load(Ordering::SeqCst));
        let found = world.open(0).outbox_find(&[9; 16]);
        assert_eq!(state(found), "55P03", "no answer before it is final");
        let found = world.patient(0).outbox_find(&[9; 16]).expect("found");
        assert_eq!(found.map(|one| one.seq), Some(Seq(1)));
    });
}

#[test]
fn a_server_that_hangs_still_does_what_it_had_been_sent() {
    let world = World::new();
    world.open(0).submit(&[add("a", 1, 0)]).expect("taken");
    let all = items(&world.outbox(0));
    let epoch = world.na().region().epoch;
    let mut eu = world.open(1);
    let long = Fault::Hang(Duration::from_millis(1500));
    strike(world.eu(), &[(Point::Statement, "apply", long)]);
    let result = eu.apply(&request(&all, epoch));
    assert!(matches!(result, Err(DbError::Unreachable(_))), "{result:?}");
    // Somebody else waits for its lock, and then finds nothing to do.
    let report = world.patient(1).apply(&request(&all, epoch)).expect("done");
    let ApplyReport::Done {
        executed, skipped, ..
    } = report
    else {
        panic!("{report:?}");
    };
    assert_eq!((executed, skipped), (0, 1));
    assert_eq!(world.n(1, "a"), 1);
    // A submit that was told that nothing is written is rolled back.
    strike(world.na(), &[(Point::Statement, "submit", long)]);
    let result = world.open(0).submit(&[add("a", 1, 1)]);
    assert!(matches!(result, Err(DbError::Unreachable(_))), "{result:?}");
    let found = world.patient(0).outbox_find(&[1; 16]).expect("looked for");
    assert_eq!(found, None);
    world.patient(0).submit(&[add("a", 1, 1)]).expect("taken");
    assert_eq!(world.n(0, "a"), 2);
    world.no_findings();
}

#[test]
fn a_deadlock_is_broken() {
    let world = World::new();
    let meet = Fault::Delay(Duration::from_millis(300));
    let faults: Vec<_> = (0..4).map(|_| (Point::Statement, "submit", meet)).collect();
    strike(world.na(), &faults);
    let results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = [["a", "b"], ["b", "a"]]
            .into_iter()
            .map(|accounts| {
                let mut db = world.patient(0);
                let batch = accounts.map(|account| add(account, 1, 0));
                scope.spawn(move || db.submit(&batch))
            })
            .collect();
        workers
            .into_iter()
            .map(|w| w.join().expect("worker"))
            .collect()
    });
    let deadlocks: Vec<_> = results.into_iter().filter(Result::is_err).collect();
    assert_eq!(deadlocks.len(), 1, "{deadlocks:?}");
    assert_eq!(state(deadlocks.into_iter().next().expect("one")), "40P01");
    assert_eq!((world.n(0, "a"), world.n(0, "b")), (1, 1));
}

#[test]
fn errors_of_the_server_are_what_they_are_and_write_nothing() {
    let world = World::new();
    let mut db = world.open(0);
    for (point, sqlstate) in [
        (Point::Statement, "53100"),
        (Point::BeforeCommit, "40001"),
        (Point::Statement, "42501"),
        (Point::Begin, "25006"),
    ] {
        strike(world.na(), &[(point, "submit", Fault::Sql(sqlstate))]);
        assert_eq!(state(db.submit(&[add("a", 1, 1)])), sqlstate);
    }
    // An ended connection is made again where that is harmless.
    strike(world.na(), &[(Point::Read, "region", Fault::Sql("57P01"))]);
    db.region().expect("on a new connection");
    strike(world.na(), &[(Point::Begin, "submit", Fault::Disconnect)]);
    db.submit(&[add("a", 1, 1)]).expect("nothing had been sent");
    world.na().set_reachable(false);
    let away = db.region();
    assert!(matches!(away, Err(DbError::Unreachable(_))), "{away:?}");
    world.na().set_reachable(true);
    db.region().expect("there again");
    assert_eq!(world.n(0, "a"), 1);
}

#[test]
fn an_applications_transaction_is_all_or_nothing() {
    let world = World::new();
    let na = options("NA");
    let both = [add("a", 1, 1), add("b", 2, 2)];
    let committed = world.na().sql_transaction(&na, &both).expect("committed");
    assert_eq!(committed[1].update.rows, u64::MAX, "its rows are not known");
    let again = world
        .na()
        .sql_transaction(&na, &[add("b", 1, 3), add("a", 1, 1)]);
    assert_eq!(state(again), "23505");
    let refused = world
        .na()
        .sql_transaction(&na, &[add("a", 1, 4), add("b", 5000, 5)]);
    assert_eq!(state(refused), "23514");
    world.deliver(0, 1);
    for region in [0, 1] {
        assert_eq!((world.n(region, "a"), world.n(region, "b")), (1, 2));
    }
    world.no_findings();
}

#[test]
fn a_restored_or_promoted_database_is_behind_and_is_refilled() {
    let world = World::new();
    let mut db = world.open(0);
    db.submit(&[add("a", 1, 0)]).expect("taken");
    world.deliver(0, 1);
    let (backup, before) = (world.eu().backup(), world.eu().generation());
    for _ in 0..3 {
        db.submit(&[add("a", 1, 0)]).expect("taken");
    }
    world.deliver(0, 1);
    assert_eq!(world.n(1, "a"), 4);
    world.eu().restore(&backup);
    assert!(world.eu().generation() > before);
    assert_eq!(world.n(1, "a"), 1);
    world.deliver(0, 1);
    assert_eq!(world.n(1, "a"), 4);
    // A destination whose newest commits are lost is refilled as well.
    assert_eq!(world.eu().lose_newest(1), 1);
    assert_eq!(world.n(1, "a"), 1);
    world.deliver(0, 1);
    assert_eq!((world.n(1, "a"), world.eu().execution_log().len()), (4, 4));
    // An origin is not: its peers are ahead of it.
    world.na().lose_newest(1);
    let at = world.open(1).position("NA").expect("position");
    assert_eq!(db.outbox_verify(at), Ok(Verdict::Forked));
    world.no_findings();
}

#[test]
fn an_adopted_region_goes_on_under_a_new_numbering() {
    let world = World::new();
    for region in 0..3 {
        world.open(region).submit(&[add("a", 1, 0)]).expect("taken");
    }
    for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        world.deliver(from, to);
    }
    let mut stale = world.open(1);
    stale.region().expect("connected");
    let epoch = adopt("EU", world.eu(), world.na(), &[&world.servers[2]]);
    assert_eq!(world.eu().region().epoch, epoch);
    assert_eq!(world.eu().tables(), world.na().tables());
    let committed: Vec<Committed> = stale.submit(&[add("a", 10, 0)]).expect("taken");
    assert_eq!(committed[0].seq, Seq(2));
    world.open(0).submit(&[add("a", 100, 0)]).expect("taken");
    for (from, to) in [(0, 1), (1, 0), (1, 2), (0, 2)] {
        let regions = topology("NA").regions;
        let mut applier = Applier::new(catalogue::catalogue(false), regions);
        let epoch = world.servers[from].region().epoch;
        let at = world.servers[to].positions();
        let at = at.into_iter().find(|(name, _)| name == REGIONS[from]);
        let from_seq = at.map_or(Seq(1), |(_, at): (_, Position)| at.seq.next());
        let mut updates = Vec::new();
        let mut sink = |seq: Seq, bytes: &[u8]| updates.push((seq, bytes.to_vec()));
        let mut own = world.open(from);
        own.outbox_read(from_seq, Seq(1 << 40), usize::MAX, &mut sink)
            .expect("outbox");
        let mut db = world.open(to);
        let outcome = applier.apply(&mut *db, REGIONS[from], epoch, &updates);
        assert_eq!(outcome.wait, None);
    }
    for (region, name) in REGIONS.iter().enumerate() {
        assert_eq!(world.n(region, "a"), 113, "{name}");
    }
    world.no_findings();
}

#[test]
fn leases_go_by_the_servers_clock() {
    let world = World::new();
    let mut db = world.open(0);
    let ttl = Duration::from_secs(10);
    let holder = |db: &mut Box<dyn Database>, node| {
        let lane = db.lane_lease("EU", node, ttl).expect("a lane");
        lane.holder
    };
    assert_eq!(holder(&mut db, "N1").as_deref(), Some("N1"));
    assert_eq!(holder(&mut db, "N2").as_deref(), Some("N1"));
    world.na().jump_clock(11_000_000);
    assert_eq!(holder(&mut db, "N2").as_deref(), Some("N2"));
    // It ends later than anybody may ask for: written before the clock went back.
    world.na().jump_clock(-60_000_000);
    assert_eq!(holder(&mut db, "N1").as_deref(), Some("N1"));
}

#[test]
fn news_of_an_undo_is_told_and_news_of_a_submit_is_seen() {
    let world = World::new();
    let mut waits = world.patient(0);
    assert_eq!(waits.wait_for_outbox(Duration::ZERO), Ok(true), "it begins");
    assert_eq!(waits.wait_for_outbox(Duration::ZERO), Ok(false));
    let mut db = world.open(0);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            let first = waits.wait_for_outbox(Duration::from_secs(20));
            (first, waits.wait_for_outbox(Duration::from_secs(20)))
        });
        db.submit(&[add("a", 1, 0)]).expect("taken");
        eventually("it goes on waiting", || {
            db.undo(Seq(1), &refused()).expect("undone");
            waiter.is_finished() || {
                db.submit(&[add("b", 1, 0)]).expect("taken");
                false
            }
        });
        assert_eq!(waiter.join().expect("waiter"), (Ok(true), Ok(true)));
    });
}

#[test]
fn a_statement_is_known_once_the_database_is_migrated() {
    let world = World::new();
    let bump = call("bump", &[text("a")], 0);
    let mut db = world.open(0);
    assert_eq!(state(db.submit(std::slice::from_ref(&bump))), "26000");
    let added = world
        .na()
        .migrate(&topology("NA"), &catalogue::catalogue(true));
    assert_eq!(added, ["unnote", "bump"]);
    db.submit(std::slice::from_ref(&bump)).expect("known");
    // A region that has not been migrated waits with it, and is told why.
    let all = items(&world.outbox(0));
    let epoch = world.na().region().epoch;
    let mut eu = world.open(1);
    assert_eq!(state(eu.apply(&request(&all, epoch))), "26000");
    world
        .eu()
        .migrate(&topology("EU"), &catalogue::catalogue(true));
    eu.apply(&request(&all, epoch)).expect("applied");
    assert_eq!(world.n(1, "a"), 1);
    world.no_findings();
}
