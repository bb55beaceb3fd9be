//! Lane rows: the lease by the database's clock, what has been acknowledged.

use std::time::Duration;

use prism_db::{Database, DbError, LaneRow, MAX_LEASE, OutboxFigures};
use prism_proto::{Epoch, Position, Seq, Tag};

use crate::world::{Backend, World, eventually};

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(30);

pub fn a_lease_is_taken_renewed_and_taken_over<B: Backend>(world: &World<B>) {
    let (mut one, mut two) = (world.na.open(), world.na.open());
    let holders = |db: &mut dyn prism_db::Database| -> Vec<(String, Option<String>)> {
        let lanes = db.lanes().expect("lanes");
        lanes
            .into_iter()
            .map(|lane| (lane.peer, lane.holder))
            .collect()
    };
    let free = [("AS".to_owned(), None), ("EU".to_owned(), None)];
    assert_eq!(holders(&mut *one), free);

    let lease = |db: &mut dyn prism_db::Database, node: &str, ttl| {
        db.lane_lease("EU", node, ttl).expect("lease").holder
    };
    let na1 = Some("NA1".to_owned());
    let na2 = Some("NA2".to_owned());
    assert_eq!(lease(&mut *one, "NA1", MAX_LEASE), na1, "free: taken");
    assert_eq!(lease(&mut *two, "NA2", MAX_LEASE), na1, "held: not taken");
    assert_eq!(holders(&mut *two)[1].1, na1);
    assert_eq!(holders(&mut *two)[0].1, None, "each lane by itself");
    assert_eq!(
        lease(&mut *one, "NA1", SHORT),
        na1,
        "renewed, and shortened"
    );
    eventually("an expired lease is taken over", || {
        lease(&mut *two, "NA2", MAX_LEASE) == na2
    });
    assert_eq!(lease(&mut *one, "NA1", MAX_LEASE), na2, "lost");
    one.lane_release("EU", "NA1")
        .expect("not the holder: nothing");
    assert_eq!(holders(&mut *one)[1].1, na2);
    two.lane_release("EU", "NA2").expect("release");
    assert_eq!(holders(&mut *one), free);
    assert_eq!(lease(&mut *one, "NA1", SHORT), na1);
    eventually("an expired lease is nobody's", || {
        holders(&mut *two) == free
    });
    let unknown = one.lane_lease("MARS", "NA1", MAX_LEASE);
    assert!(matches!(unknown, Err(DbError::Schema(_))), "{unknown:?}");
}

pub fn the_newest_word_of_a_position_counts_also_backwards<B: Backend>(world: &World<B>) {
    let mut db = world.na.open();
    let at = |epoch, seq, tag| Position {
        epoch: Epoch(epoch),
        seq: Seq(seq),
        tag: Tag(tag),
    };
    // Numbers that do not fit a signed one; then a peer that was restored.
    for position in [
        at(u64::MAX, 5, u64::MAX - 1),
        at(u64::MAX, 6, 2),
        at(u64::MAX, 4, 1),
        at(7, 1, 3),
    ] {
        db.lane_acked("EU", position).expect("acked");
        assert_eq!(lane(&mut *db, "EU").acked, position);
    }
    assert_eq!(lane(&mut *db, "AS").acked, Position::default());
}

fn lane(db: &mut dyn Database, peer: &str) -> LaneRow {
    let lanes = db.lanes().expect("lanes");
    let lane = lanes.into_iter().find(|lane| lane.peer == peer);
    lane.expect("lane")
}

pub fn a_lane_is_asked_for<B: Backend>(world: &World<B>) {
    let mut db = world.na.open();
    let na1 = db.lane_lease("EU", "NA1", MAX_LEASE).expect("lease");
    assert_eq!((na1.wanted, na1.stale), (None, false));
    db.lane_want("EU", "NA2", MAX_LEASE).expect("wish");
    let renewed = db.lane_lease("EU", "NA1", MAX_LEASE).expect("lease");
    assert_eq!(renewed.holder.as_deref(), Some("NA1"));
    assert_eq!(renewed.wanted.as_deref(), Some("NA2"));
    assert_eq!(lane(&mut *db, "AS").wanted, None);
    db.lane_release("EU", "NA1").expect("gives way");
    let taken = db.lane_lease("EU", "NA2", MAX_LEASE).expect("lease");
    assert_eq!(taken.holder.as_deref(), Some("NA2"));
    assert_eq!(taken.wanted, None, "fulfilled");
    db.lane_want("EU", "NA3", SHORT).expect("wish");
    eventually("a wish that is not repeated is forgotten", || {
        lane(&mut *db, "EU").wanted.is_none()
    });
    db.lane_want("EU", "NA1", MAX_LEASE).expect("wish");
    assert_eq!(lane(&mut *db, "EU").wanted.as_deref(), Some("NA1"));
}

pub fn a_backlog_is_counted_per_lane<B: Backend>(world: &World<B>) {
    let mut db = world.na.open();
    let eu = lane(&mut *db, "EU");
    assert_eq!((eu.backlog, eu.waiting), (0, None));
    assert_eq!(
        db.outbox_figures().expect("figures"),
        OutboxFigures::default()
    );
    let batch: Vec<_> = (0..10).map(|n| world.append(&n.to_string())).collect();
    let committed = world.submit(&world.na, &batch);
    let epoch = world.epoch(&world.na);
    let at = |n: usize| Position {
        epoch,
        seq: committed[n].seq,
        tag: committed[n].update.tag,
    };
    let whole = lane(&mut *db, "EU").backlog;
    let figures = db.outbox_figures().expect("figures");
    assert_eq!((figures.rows, figures.requests), (10, 10));
    assert_eq!(figures.bytes, whole);
    let encoded: usize = world.outbox(&world.na).iter().map(|u| u.1.len()).sum();
    let about = encoded as u64 / 2..encoded as u64 * 2;
    assert!(about.contains(&whole), "{whole} of {encoded}");

    db.lane_acked("EU", at(4)).expect("acked");
    let half = lane(&mut *db, "EU").backlog;
    assert!(
        half > whole / 3 && half < whole * 2 / 3,
        "{half} of {whole}"
    );
    assert_eq!(lane(&mut *db, "AS").backlog, whole);
    eventually("it ages", || {
        lane(&mut *db, "EU").waiting >= Some(Duration::from_millis(2))
    });
    db.lane_acked("AS", at(4)).expect("acked");
    assert_eq!(db.outbox_trim(Duration::ZERO, 100), Ok(5));
    assert_eq!(
        lane(&mut *db, "EU").backlog,
        half,
        "what is gone counts not"
    );
    let figures = db.outbox_figures().expect("figures");
    assert_eq!((figures.rows, figures.bytes), (5, half));
    db.lane_acked("EU", at(9)).expect("acked");
    let eu = lane(&mut *db, "EU");
    assert_eq!((eu.backlog, eu.waiting), (0, None));
    // The peer was restored: it is behind again.
    db.lane_acked("EU", at(7)).expect("acked");
    assert!(lane(&mut *db, "EU").backlog > 0);
    db.lane_acked(
        "EU",
        Position {
            epoch: Epoch(1),
            ..at(9)
        },
    )
    .expect("acked");
    assert_eq!(lane(&mut *db, "EU").backlog, half, "another numbering");
}

pub fn a_stale_lane_keeps_no_rows<B: Backend>(world: &World<B>) {
    let batch: Vec<_> = (0..10).map(|n| world.append(&n.to_string())).collect();
    let committed = world.submit(&world.na, &batch);
    let position = Position {
        epoch: world.epoch(&world.na),
        seq: Seq(8),
        tag: committed[7].update.tag,
    };
    let mut db = world.na.open();
    db.lane_acked("EU", position).expect("acked");
    assert_eq!(db.outbox_trim(Duration::ZERO, 100), Ok(0), "AS has nothing");
    db.lane_stale("AS").expect("stale");
    assert!(lane(&mut *db, "AS").stale && !lane(&mut *db, "EU").stale);
    assert_eq!(db.outbox_trim(LONG, 100), Ok(0), "too young");
    assert_eq!(db.outbox_trim(Duration::ZERO, 100), Ok(8));
    // What it misses is gone: the mark stays.
    assert_eq!(db.lane_back("AS"), Ok(false));
    assert!(lane(&mut *db, "AS").stale);
    // It is taken back: what is left is kept for it.
    db.lane_acked("AS", position).expect("acked");
    assert_eq!(db.lane_back("AS"), Ok(true));
    assert_eq!(db.lane_back("EU"), Ok(true), "it never was");
    assert!(!lane(&mut *db, "AS").stale);
    db.lane_acked(
        "EU",
        Position {
            seq: Seq(10),
            tag: committed[9].update.tag,
            ..position
        },
    )
    .expect("acked");
    assert_eq!(db.outbox_trim(Duration::ZERO, 100), Ok(0));
    for peer in ["EU", "AS"] {
        db.lane_stale(peer).expect("stale");
    }
    assert_eq!(db.outbox_trim(Duration::ZERO, 100), Ok(2), "nobody is left");
}

pub fn a_node_is_the_process_that_claimed_it_last<B: Backend>(world: &World<B>) {
    let (mut one, mut two) = (world.na.open(), world.na.open());
    assert_eq!(one.node_claim("NA1", u64::MAX, 7), Ok(None));
    assert_eq!(one.node_beat("NA1", u64::MAX), Ok(true));
    assert_eq!(one.node_claim("NA2", 5, 6), Ok(None));
    // A copy of its data directory is started.
    let before = two.node_claim("NA1", 2, 8).expect("claim").expect("known");
    assert_eq!((before.incarnation, before.journal), (u64::MAX, 7));
    assert!(before.silent < Duration::from_secs(60));
    assert_eq!(one.node_beat("NA1", u64::MAX), Ok(false), "replaced");
    assert_eq!(two.node_beat("NA1", 2), Ok(true));
    assert_eq!(one.node_beat("NA2", 5), Ok(true));
    assert_eq!(one.node_beat("NA9", 1), Ok(false));
    let silent = |db: &mut dyn Database| db.node_claim("NA2", 5, 6).expect("claim");
    eventually("silence is counted", || {
        std::thread::sleep(SHORT);
        silent(&mut *one).is_some_and(|row| row.silent >= SHORT)
    });
}

pub fn a_commit_of_others_is_heard_of<B: Backend>(world: &World<B>) {
    let mut ear = world.na.open();
    // The first call may only begin to listen.
    let _ = ear.wait_for_outbox(Duration::from_millis(1)).expect("wait");
    assert_eq!(ear.wait_for_outbox(SHORT), Ok(false), "nothing is new");
    std::thread::scope(|scope| {
        let heard = scope.spawn(move || ear.wait_for_outbox(Duration::from_secs(20)));
        world.submit(&world.na, &[world.append("1")]);
        let start = std::time::Instant::now();
        assert_eq!(heard.join().expect("ear"), Ok(true));
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "not by the timeout"
        );
    });
}
