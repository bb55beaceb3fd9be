//! Lane rows: the lease by the database's clock, what has been acknowledged.

use std::time::Duration;

use prism_db::DbError;
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
    assert_eq!(lease(&mut *one, "NA1", LONG), na1, "free: taken");
    assert_eq!(lease(&mut *two, "NA2", LONG), na1, "held: not taken");
    assert_eq!(holders(&mut *two)[1].1, na1);
    assert_eq!(holders(&mut *two)[0].1, None, "each lane by itself");
    assert_eq!(
        lease(&mut *one, "NA1", SHORT),
        na1,
        "renewed, and shortened"
    );
    eventually("an expired lease is taken over", || {
        lease(&mut *two, "NA2", LONG) == na2
    });
    assert_eq!(lease(&mut *one, "NA1", LONG), na2, "lost");
    one.lane_release("EU", "NA1")
        .expect("not the holder: nothing");
    assert_eq!(holders(&mut *one)[1].1, na2);
    two.lane_release("EU", "NA2").expect("release");
    assert_eq!(holders(&mut *one), free);
    assert_eq!(lease(&mut *one, "NA1", SHORT), na1);
    eventually("an expired lease is nobody's", || {
        holders(&mut *two) == free
    });
    let unknown = one.lane_lease("MARS", "NA1", LONG);
    assert!(matches!(unknown, Err(DbError::Schema(_))), "{unknown:?}");
}

pub fn acknowledged_positions_never_move_back<B: Backend>(world: &World<B>) {
    let mut db = world.na.open();
    let at = |epoch, seq, tag| Position {
        epoch: Epoch(epoch),
        seq: Seq(seq),
        tag: Tag(tag),
    };
    let mut acked = |position| {
        db.lane_acked("EU", position).expect("acked");
        let lanes = db.lanes().expect("lanes");
        lanes
            .into_iter()
            .find(|lane| lane.peer == "EU")
            .expect("lane")
            .acked
    };
    // Numbers that do not fit a signed one.
    let big = at(u64::MAX, 5, u64::MAX - 1);
    assert_eq!(acked(big), big);
    assert_eq!(acked(at(u64::MAX, 4, 1)), big);
    assert_eq!(acked(at(u64::MAX, 5, 1)), big);
    assert_eq!(acked(at(u64::MAX, 6, 2)), at(u64::MAX, 6, 2));
    assert_eq!(
        acked(at(7, 1, 3)),
        at(7, 1, 3),
        "another numbering starts afresh"
    );
}
