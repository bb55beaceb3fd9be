use prism_proto::{Epoch, Tag};

use super::*;

const NA: RegionId = RegionId(0);
const EU: RegionId = RegionId(1);

fn batch(first: u64, count: u64) -> Batch {
    let mut batch = Batch::default();
    batch.reset(Seq(first));
    for seq in first..first + count {
        batch.push(&seq.to_le_bytes());
    }
    batch
}

fn position(seq: u64) -> Position {
    Position {
        epoch: Epoch(1),
        seq: Seq(seq),
        tag: Tag(1),
    }
}

fn cache(bytes: usize, count: usize) -> (PayloadCache, Pool) {
    let mut pool = Pool::new();
    let mut cache = PayloadCache::new(3, bytes, count, 64);
    cache.lane(NA, Some(position(0)), &mut pool);
    (cache, pool)
}

fn has(cache: &PayloadCache, seq: u64) -> bool {
    match cache.get(Seq(seq)) {
        Some(update) => {
            assert_eq!(update, seq.to_le_bytes(), "the wrong update");
            assert_eq!(cache.len_of(Seq(seq)), Some(8));
            true
        }
        None => false,
    }
}

#[test]
fn commits_are_found_until_every_held_lane_has_them() {
    let (mut cache, mut pool) = cache(1 << 20, 1000);
    cache.lane(EU, Some(position(0)), &mut pool);
    for first in [1, 11, 21] {
        cache.committed(batch(first, 10), &mut pool);
    }
    assert!((1..=30).all(|seq| has(&cache, seq)) && !has(&cache, 0) && !has(&cache, 31));
    cache.acked(NA, position(30), &mut pool);
    assert!(has(&cache, 1), "EU still needs it");
    cache.acked(EU, position(19), &mut pool);
    assert!(!has(&cache, 10) && has(&cache, 11), "whole batches go");
    cache.lane(EU, None, &mut pool);
    assert_eq!(
        cache.bytes(),
        0,
        "NA has everything and EU is not this node's business"
    );
}

#[test]
fn the_newest_stay_when_a_lane_stands_still() {
    let limit = 4 * batch(1, 10).footprint();
    let (mut cache, mut pool) = cache(limit, 1000);
    for first in (1..1000).step_by(10) {
        cache.committed(batch(first, 10), &mut pool);
        assert!(cache.bytes() <= limit);
    }
    assert!((961..=1000).all(|seq| has(&cache, seq)) && !has(&cache, 960));
}

#[test]
fn the_count_is_bounded_as_well() {
    let (mut cache, mut pool) = cache(1 << 20, 25);
    for first in (1..100).step_by(10) {
        cache.committed(batch(first, 10), &mut pool);
    }
    assert!(has(&cache, 100) && has(&cache, 81) && !has(&cache, 80));
}

#[test]
fn every_fetch_makes_progress_however_full_it_is() {
    let one = batch(1, 10).footprint();
    let (mut cache, mut pool) = cache(2 * one, 1000);
    for first in (10_001..10_400).step_by(10) {
        cache.committed(batch(first, 10), &mut pool);
    }
    let mut next = 1;
    let mut fetches = 0;
    while next <= 400 {
        cache.want(Seq(next), Seq(400));
        // The host reads far more than finds room, and commits go on meanwhile.
        for first in (next..=400).step_by(10) {
            cache.loaded(batch(first, 10), &mut pool);
            cache.committed(batch(10_401 + 10 * fetches, 10), &mut pool);
            fetches += 1;
        }
        let upto = cache.fetch_done(Seq(400));
        assert!(upto.0 >= next, "no progress at {next}");
        assert!(
            (next..=upto.0).all(|seq| has(&cache, seq)),
            "{next} {upto:?}"
        );
        assert!(cache.bytes() <= 4 * one);
        next = upto.0 + 1;
    }
}

#[test]
fn two_lanes_that_are_behind_do_not_take_each_others_updates() {
    let one = batch(1, 10).footprint();
    let (mut cache, mut pool) = cache(4 * one, 1000);
    cache.lane(EU, Some(position(5000)), &mut pool);
    for (from, to) in [(1, 20), (5001, 5020)] {
        cache.want(Seq(from), Seq(to));
        for first in (from..=to).step_by(10) {
            cache.loaded(batch(first, 10), &mut pool);
        }
        assert_eq!(cache.fetch_done(Seq(to)), Seq(to));
    }
    assert!(has(&cache, 1) && has(&cache, 20) && has(&cache, 5001) && has(&cache, 5020));
    // NA moves on: its old range goes, EU's stays.
    cache.acked(NA, position(20), &mut pool);
    cache.want(Seq(21), Seq(40));
    cache.loaded(batch(21, 10), &mut pool);
    cache.loaded(batch(31, 10), &mut pool);
    assert_eq!(cache.fetch_done(Seq(40)), Seq(40));
    assert!(has(&cache, 40) && has(&cache, 5001));
}

#[test]
fn a_fetch_that_found_nothing_says_so() {
    let (mut cache, _) = cache(1000, 1000);
    cache.want(Seq(5), Seq(9));
    assert_eq!(cache.fetch_done(Seq(4)), Seq(4));
}

#[test]
fn batches_may_overlap() {
    let (mut cache, mut pool) = cache(1 << 20, 1000);
    cache.committed(batch(1, 20), &mut pool);
    cache.committed(batch(5, 5), &mut pool);
    cache.committed(batch(15, 20), &mut pool);
    assert!((15..35).all(|seq| has(&cache, seq)));
    cache.committed(batch(1, 100), &mut pool);
    assert!((1..=100).all(|seq| has(&cache, seq)));
    assert_eq!(cache.recent.batches.len(), 1);
    cache.clear(&mut pool);
    assert_eq!(cache.bytes(), 0);
    cache.committed(Batch::default(), &mut pool);
    assert_eq!(cache.bytes(), 0);
}
