//! The direct rung.

use std::path::Path;
use std::time::Duration;

use prism_db::direct::{DirectOutcome, DirectWriter};
use prism_db::{DatabaseUrl, OpenOptions};
use prism_proto::{DirectFailure, Epoch, Position, Seq, Tag};

use crate::world::{Backend, Site, World};

fn write(from: &Site, url: &DatabaseUrl, options: &OpenOptions, upto: u64) -> DirectOutcome {
    DirectWriter::new(from.region, url, options.clone())
        .expect("address")
        .write(&mut *from.open(), Seq(upto), || false)
}

pub fn the_own_stream_is_written_into_the_peers_database<B: Backend>(world: &World<B>) {
    let batch: Vec<_> = (0..700).map(|n| world.append(&n.to_string())).collect();
    world.submit(&world.na, &batch);
    world.sql(&world.eu).run("UPDATE users SET kills = 999");
    world.submit(&world.na, &[world.kills(1)]);
    let part = write(&world.na, &world.eu.url, &world.eu.options, 3);
    assert_eq!((part.executed, part.failure), (3, None));
    assert_eq!(part.position.map(|p| p.seq), Some(Seq(3)));
    let rest = write(&world.na, &world.eu.url, &world.eu.options, 701);
    assert_eq!((rest.executed, rest.skipped, rest.failure), (698, 0, None));
    let refused: Vec<_> = rest.rejected.iter().map(|r| r.seq.0).collect();
    assert_eq!(refused, [701]);
    assert_eq!(world.trace_at(&world.eu), world.trace_at(&world.na));
    let again = write(&world.na, &world.eu.url, &world.eu.options, 701);
    assert_eq!((again.executed, again.failure), (0, None));
}

pub fn a_node_and_the_direct_path_write_the_same_range_once<B: Backend>(world: &World<B>) {
    let batch: Vec<_> = (0..300).map(|_| world.kills(1)).collect();
    world.submit(&world.na, &batch);
    let (updates, epoch) = (world.outbox(&world.na), world.epoch(&world.na));
    let mut options = world.eu.options.clone();
    options.lock_timeout = Duration::from_secs(30);
    let by_node = std::thread::scope(|scope| {
        let (url, options, mut applier) = (&world.eu.url, options.clone(), world.applier());
        let updates = &updates;
        let node = scope.spawn(move || {
            let mut db = prism_db::open(url, options).expect("address");
            let ranges = updates.chunks(10);
            ranges
                .map(|range| applier.apply(&mut *db, "NA", epoch, range).executed)
                .sum::<u64>()
        });
        let mut executed = 0;
        let mut upto = 0;
        while upto < 300 {
            upto += 17;
            let done = write(&world.na, &world.eu.url, &world.eu.options, upto.min(300));
            if let Some(failure) = &done.failure {
                assert_eq!(failure.failure, DirectFailure::Busy, "{failure:?}");
                upto -= 17;
            }
            executed += done.executed;
        }
        (node.join().expect("node"), executed)
    });
    assert_eq!(by_node.0 + by_node.1, 300);
    assert_eq!(world.kills_at(&world.eu), 300);
}

pub fn a_database_that_is_not_the_peers_is_refused<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[world.kills(1)]);
    // EU's address leads to AS's database.
    let wrong = write(&world.na, &world.asia.url, &world.eu.options, 1);
    let error = wrong.failure.expect("refused");
    assert_eq!(error.failure, DirectFailure::Parked);
    assert!(
        error.detail.contains("belongs to region AS, not to EU"),
        "{error}"
    );
    assert_eq!(world.kills_at(&world.asia), 0);

    let empty = world.backend.fresh("empty");
    let error = write(&world.na, &empty, &world.eu.options, 1)
        .failure
        .expect("refused");
    assert_eq!(error.failure, DirectFailure::Parked);
    assert!(error.detail.contains("prism migrate"), "{error}");
}

pub fn another_epoch_is_a_fork<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[world.kills(1), world.kills(1)]);
    let mut eu = world.eu.open();
    let updates = world.outbox(&world.na);
    // EU has applied another NA.
    world
        .applier()
        .apply(&mut *eu, "NA", Epoch(7), &updates[..1]);
    let error = write(&world.na, &world.eu.url, &world.eu.options, 2)
        .failure
        .expect("fork");
    assert_eq!(error.failure, DirectFailure::Forked);
    assert!(error.remedy.contains("prism adopt"), "{error:?}");
    assert_eq!(world.kills_at(&world.eu), 1);
}

/// The own database was restored from an older backup, or the peer's stayed away too long.
pub fn a_database_ahead_of_the_stream_or_too_far_behind_is_told<B: Backend>(world: &World<B>) {
    let committed = world.submit(&world.na, &[world.kills(1), world.kills(1)]);
    let epoch = world.epoch(&world.na);
    let mut lost = committed[1].update.clone();
    lost.prev_tag = lost.tag;
    lost.tag = Tag(lost.tag.0 ^ 1);
    let mut updates = world.outbox(&world.na);
    updates.push((Seq(3), lost.encode()));
    let ahead = world
        .applier()
        .apply(&mut *world.eu.open(), "NA", epoch, &updates);
    assert_eq!(ahead.executed, 3);
    let error = write(&world.na, &world.eu.url, &world.eu.options, 2).failure;
    assert_eq!(error.map(|e| e.failure), Some(DirectFailure::Forked));

    let mut na = world.na.open();
    for peer in ["EU", "AS"] {
        let at = Position {
            epoch,
            seq: Seq(2),
            tag: committed[1].update.tag,
        };
        na.lane_acked(peer, at).expect("acked");
    }
    assert_eq!(na.outbox_trim(Duration::ZERO, 100).expect("trim"), 2);
    let outcome = write(&world.na, &world.asia.url, &world.asia.options, 2);
    let error = outcome.failure.expect("too old");
    assert_eq!(error.failure, DirectFailure::Parked);
    assert!(error.remedy.contains("prism adopt"), "{error:?}");
    assert_eq!(world.kills_at(&world.asia), 0);
}

pub fn a_database_that_is_away_is_unreachable<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[world.kills(1)]);
    let away = match &world.eu.url {
        DatabaseUrl::Sqlite(path) => DatabaseUrl::Sqlite(path.with_file_name("missing.db")),
        // Port 9 of the loopback: nobody listens.
        DatabaseUrl::Postgres(_) => {
            DatabaseUrl::parse("postgres://prism@127.0.0.1:9/eu", Path::new("/")).expect("url")
        }
    };
    let error = write(&world.na, &away, &world.eu.options, 1)
        .failure
        .expect("away");
    assert_eq!(error.failure, DirectFailure::Unreachable, "{error:?}");
    if let DatabaseUrl::Sqlite(path) = &away {
        assert!(!path.exists(), "a missing file must not be created");
    }
    let position = Position {
        epoch: world.epoch(&world.na),
        seq: Seq(1),
        tag: Tag(1),
    };
    assert_ne!(
        world.na.open().outbox_verify(position).expect("own"),
        prism_proto::Verdict::Matches
    );
}
