//! Reading the outbox back, trimming it, judging a peer's position by it.

use std::time::Duration;

use prism_db::apply::Applier;
use prism_db::direct::DirectWriter;
use prism_db::{Hlc, Update, migrate, open};
use prism_proto::{ApplyCause, Epoch, Position, Seq, Tag, Verdict};

use crate::world::{Backend, Site, World};

fn fill<B: Backend>(world: &World<B>, count: usize) -> Vec<Position> {
    let batch: Vec<_> = (0..count).map(|n| world.append(&n.to_string())).collect();
    let epoch = world.epoch(&world.na);
    let committed = world.submit(&world.na, &batch);
    let position = |c: &prism_db::Committed| Position {
        epoch,
        seq: c.seq,
        tag: c.update.tag,
    };
    committed.iter().map(position).collect()
}

fn read(site: &Site, from: u64, to: u64, bytes: usize) -> (Vec<u64>, u64) {
    let mut seqs = Vec::new();
    let last = site
        .open()
        .outbox_read(Seq(from), Seq(to), bytes, &mut |seq, _| seqs.push(seq.0))
        .expect("read");
    (seqs, last.0)
}

pub fn reading_stops_at_the_byte_limit<B: Backend>(world: &World<B>) {
    fill(world, 6);
    let size = world.outbox(&world.na)[2].1.len();
    assert_eq!(read(&world.na, 1, 100, usize::MAX), ((1..=6).collect(), 6));
    assert_eq!(read(&world.na, 2, 4, usize::MAX), (vec![2, 3, 4], 4));
    assert_eq!(read(&world.na, 2, 6, 2 * size + 1), (vec![2, 3], 3));
    assert_eq!(
        read(&world.na, 2, 6, 0),
        (vec![2], 2),
        "one always: a large one must not block"
    );
    assert_eq!(read(&world.na, 7, 9, usize::MAX), (vec![], 6));
    assert_eq!(read(&world.na, 1, 0, usize::MAX), (vec![], 0));
}

pub fn trimming_respects_the_slowest_lane_and_retention<B: Backend>(world: &World<B>) {
    let at = fill(world, 10);
    let mut db = world.na.open();
    let mut trim = |retention, limit| db.outbox_trim(retention, limit).expect("trim");
    assert_eq!(trim(Duration::ZERO, 100), 0, "nobody has anything");
    let mut other = world.na.open();
    other.lane_acked("EU", at[7]).expect("acked");
    assert_eq!(trim(Duration::ZERO, 100), 0, "AS has nothing");
    other.lane_acked("AS", at[4]).expect("acked");
    assert_eq!(trim(Duration::from_secs(3600), 100), 0, "too young");
    assert_eq!(trim(Duration::ZERO, 2), 2, "bounded");
    assert_eq!(trim(Duration::ZERO, 100), 3);
    assert_eq!(read(&world.na, 6, 100, usize::MAX).0, [6, 7, 8, 9, 10]);
    assert_eq!(
        read(&world.na, 4, 100, usize::MAX),
        (vec![], 3),
        "never with a gap"
    );
    // An acknowledgement of another numbering counts for nothing.
    other
        .lane_acked(
            "AS",
            Position {
                epoch: Epoch(1),
                ..at[9]
            },
        )
        .expect("acked");
    assert_eq!(trim(Duration::ZERO, 100), 0);
    // The stream goes on as if nothing had been deleted.
    assert_eq!(fill(world, 1)[0].seq, Seq(11));
}

pub fn a_position_is_judged_by_the_chain_of_tags<B: Backend>(world: &World<B>) {
    let mut db = world.na.open();
    let fresh = Position::default();
    assert_eq!(
        db.outbox_verify(fresh).expect("verify"),
        Verdict::Matches,
        "both empty"
    );
    let at = fill(world, 10);
    let mut verify = |position| db.outbox_verify(position).expect("verify");
    for position in &at {
        assert_eq!(verify(*position), Verdict::Matches);
        assert_eq!(
            verify(Position {
                tag: Tag(1),
                ..*position
            }),
            Verdict::Forked
        );
        assert_eq!(
            verify(Position {
                epoch: Epoch(1),
                ..*position
            }),
            Verdict::Forked
        );
    }
    assert_eq!(verify(fresh), Verdict::Matches);
    assert_eq!(
        verify(Position {
            epoch: at[0].epoch,
            ..fresh
        }),
        Verdict::Matches
    );
    assert_eq!(
        verify(Position {
            seq: Seq(11),
            ..at[9]
        }),
        Verdict::Forked,
        "ahead of the tail"
    );

    let mut other = world.na.open();
    for peer in ["EU", "AS"] {
        other.lane_acked(peer, at[4]).expect("acked");
    }
    assert_eq!(other.outbox_trim(Duration::ZERO, 100).expect("trim"), 5);
    assert_eq!(
        verify(at[4]),
        Verdict::Matches,
        "its row is gone, the next one names its tag"
    );
    assert_eq!(
        verify(Position {
            tag: Tag(1),
            ..at[4]
        }),
        Verdict::Forked
    );
    assert_eq!(verify(at[3]), Verdict::TooOld);
    assert_eq!(verify(fresh), Verdict::TooOld);
    for peer in ["EU", "AS"] {
        other.lane_acked(peer, at[9]).expect("acked");
    }
    assert_eq!(other.outbox_trim(Duration::ZERO, 100).expect("trim"), 5);
    assert_eq!(verify(at[9]), Verdict::Matches, "the whole outbox is gone");
    assert_eq!(verify(at[8]), Verdict::TooOld);
}

/// EU's database is replaced by one that has nothing, as from an old backup.
pub fn a_restored_destination_is_refilled_from_what_is_kept<B: Backend>(world: &World<B>) {
    let at = fill(world, 20);
    world.ship_all();
    let mut na = world.na.open();
    for peer in ["EU", "AS"] {
        na.lane_acked(peer, at[19]).expect("acked");
    }
    let hour = Duration::from_secs(3600);
    assert_eq!(na.outbox_trim(hour, 100), Ok(0), "kept for a while");
    let url = world.backend.fresh("restored");
    let mut sql = world.backend.client(&url);
    sql.run(
        "CREATE TABLE traces (id TEXT PRIMARY KEY, trace TEXT NOT NULL);
             INSERT INTO traces VALUES ('t', '')",
    );
    // The whole catalogue is there, not all of its tables: those are not needed here.
    migrate(&url, &world.eu.options.topology, &world.catalogue).expect("migrate");
    let mut restored = open(&url, world.eu.options.clone()).expect("address");
    let (updates, epoch) = (world.outbox(&world.na), world.epoch(&world.na));
    let mut applier = Applier::new(
        std::sync::Arc::clone(&world.catalogue),
        std::sync::Arc::clone(&world.regions),
    );
    // The backup knows of five.
    applier.apply(&mut *restored, "NA", epoch, &updates[..5]);
    let position = restored.position("NA").expect("position");
    assert_eq!(na.outbox_verify(position), Ok(Verdict::Matches));
    na.lane_acked("EU", position).expect("back");
    assert_eq!(
        na.outbox_trim(Duration::ZERO, 100),
        Ok(5),
        "what it lacks is kept again"
    );
    let mut writer = DirectWriter::new("NA", &url, world.eu.options.clone()).expect("address");
    let done = writer.write(&mut *na, Seq(20), || false);
    assert_eq!((done.executed, done.failure), (15, None));
    let trace = sql.one("SELECT trace FROM traces");
    assert_eq!(trace.trim_end(), world.trace_at(&world.na));
}

/// NA's database is lost and begins anew: its numbers mean something else now.
pub fn a_wiped_origin_is_another_stream<B: Backend>(world: &World<B>) {
    let at = fill(world, 5);
    world.ship_all();
    let url = world.backend.fresh("wiped");
    migrate(&url, &world.na.options.topology, &world.catalogue).expect("migrate");
    let mut wiped = open(&url, world.na.options.clone()).expect("address");
    assert_eq!(wiped.outbox_verify(at[2]), Ok(Verdict::Forked));
    assert_eq!(wiped.outbox_verify(at[4]), Ok(Verdict::Forked));
    let epoch = wiped.region().expect("region").epoch;
    assert_ne!(epoch, at[0].epoch);
    let mut updates = world.outbox(&world.na);
    updates.truncate(1);
    let mut eu = world.eu.open();
    let outcome = world.applier().apply(&mut *eu, "NA", epoch, &updates);
    let cause = outcome.wait.map(|wait| wait.cause);
    assert_eq!((cause, outcome.executed), (Some(ApplyCause::Forked), 0));
    assert_eq!(world.trace_at(&world.eu), "0 1 2 3 4");
}

/// A region's clock is an hour ahead, and then an hour behind.
pub fn the_clock_goes_on_though_another_region_is_ahead<B: Backend>(world: &World<B>) {
    const HOUR_MS: u64 = 3_600_000;
    world.submit(&world.eu, &[world.append("1"), world.append("2")]);
    let mut updates = world.outbox(&world.eu);
    let shift = |bytes: &mut Vec<u8>, shift: fn(u64) -> u64| {
        let mut update = Update::decode(bytes).expect("update");
        update.hlc = Hlc(shift(update.hlc.0));
        *bytes = update.encode();
        update.hlc
    };
    let ahead = shift(&mut updates[0].1, |hlc| hlc + (HOUR_MS << 16));
    shift(&mut updates[1].1, |hlc| hlc - (HOUR_MS << 16));
    let epoch = world.epoch(&world.eu);
    let mut clock = Hlc(0);
    for (n, range) in [0..0, 0..1, 1..2].into_iter().enumerate() {
        let mut na = world.na.open();
        let outcome = world
            .applier()
            .apply(&mut *na, "EU", epoch, &updates[range.clone()]);
        assert_eq!(outcome.wait, None);
        let mine = world.submit(&world.na, &[world.append("n")]).remove(0);
        assert!(mine.update.hlc > clock);
        assert!(
            n == 0 || mine.update.hlc > ahead,
            "behind nothing it has seen"
        );
        clock = mine.update.hlc;
    }
    assert_eq!(world.trace_at(&world.na), "n 1 n 2 n");
}

/// A peer that lies, or whose clock is broken: the highest clock that is still believed must not push
/// the own one over what others believe, or the own stream would stop everywhere.
pub fn the_highest_clock_of_a_peer_leaves_the_own_stream_readable<B: Backend>(world: &World<B>) {
    world.submit(&world.eu, &[world.append("1")]);
    let mut updates = world.outbox(&world.eu);
    let mut update = Update::decode(&updates[0].1).expect("update");
    let (mut low, mut high) = (update.hlc.0, u64::MAX);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        update.hlc = Hlc(middle);
        match Update::decode(&update.encode()) {
            Ok(_) => low = middle,
            Err(_) => high = middle,
        }
    }
    update.hlc = Hlc(low);
    updates[0].1 = update.encode();
    let epoch = world.epoch(&world.eu);
    let outcome = world
        .applier()
        .apply(&mut *world.na.open(), "EU", epoch, &updates);
    assert_eq!((outcome.executed, outcome.wait), (1, None));
    world.submit(&world.na, &[world.append("2"), world.append("3")]);
    world.submit(&world.na, &[world.append("4")]);
    let outcome = world.ship(&world.na, &world.asia);
    assert_eq!((outcome.executed, outcome.wait), (3, None));
    assert_eq!(world.trace_at(&world.asia), "2 3 4");
}
