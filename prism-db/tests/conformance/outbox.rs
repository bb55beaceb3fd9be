//! Reading the outbox back, trimming it, judging a peer's position by it.

use std::time::Duration;

use prism_proto::{Epoch, Position, Seq, Tag, Verdict};

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
