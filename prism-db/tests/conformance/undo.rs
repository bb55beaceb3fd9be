//! Undo: once, in order, in every region that has the original.

use std::time::Duration;

use prism_db::apply::RejectionKind;
use prism_db::{RequestState, Retried, UndoReason, Undone};
use prism_proto::{Position, Seq};

use crate::world::{Backend, Site, World, with_id};

fn reason() -> UndoReason {
    UndoReason::Refused {
        region: "EU".into(),
        sqlstate: "23514".into(),
        message: "too \"many\"".into(),
    }
}

/// Undoes; gives the number of the undo.
fn undo(site: &Site, seq: u64) -> u64 {
    match site.open().undo(Seq(seq), &reason()).expect("undo") {
        Undone::Published(committed) => {
            assert_eq!(committed.update.undoes, Some(Seq(seq)));
            committed.seq.0
        }
        other => panic!("{other:?}"),
    }
}

fn room<B: Backend>(world: &World<B>, site: &Site, kills: i64) {
    world.sql(site).run(&format!(
        "UPDATE users SET kills = {kills} WHERE username = 'steve'"
    ));
}

fn state(site: &Site, id: u8) -> RequestState {
    let row = site.open().request(&[id; 16]).expect("request");
    row.expect("known").state
}

pub fn an_update_is_undone_once_in_every_region_that_has_it<B: Backend>(world: &World<B>) {
    room(world, &world.eu, 995);
    world.submit(
        &world.na,
        &[
            world.append("1"),
            with_id(world.kills(10), 1),
            world.append("2"),
        ],
    );
    world.ship_all();
    assert_eq!(world.eu.open().rejected_count().expect("count"), 1);
    assert_eq!(undo(&world.na, 2), 4);
    // Asked for again: by another region, after a restart, by a sibling.
    for _ in 0..2 {
        let again = world.na.open().undo(Seq(2), &UndoReason::Crashed);
        assert_eq!(again, Ok(Undone::Before));
    }
    assert_eq!(world.kills_at(&world.na), 0);
    assert_eq!(state(&world.na, 1), RequestState::Undone(reason()));
    world.submit(&world.na, &[world.append("3")]);
    for _ in 0..2 {
        world.ship_all();
        assert_eq!(world.kills_at(&world.na), 0);
        assert_eq!(
            world.kills_at(&world.eu),
            995,
            "it had refused the original"
        );
        assert_eq!(world.kills_at(&world.asia), 0);
    }
    assert!(matches!(state(&world.asia, 1), RequestState::Undone(_)));
    for site in [&world.na, &world.eu, &world.asia] {
        assert_eq!(world.trace_at(site), "1 2 3");
        let mut db = site.open();
        assert_eq!(db.rejected_count().expect("count"), 0, "{}", site.region);
    }
    let letter = world.eu.open().rejected_get(1).expect("letter");
    let resolution = letter.and_then(|letter| letter.resolution);
    assert_eq!(resolution.as_deref(), Some("undone"));
    // The client asks once more: it hears what became of it, and nothing runs.
    let answers = world.answers(&world.na, &[with_id(world.kills(10), 1)]);
    assert_eq!(crate::world::pattern(&answers), "=");
    assert_eq!(world.kills_at(&world.na), 0);
    // A region that comes late executes both, in their order.
    assert_eq!(world.outbox(&world.na).len(), 5);
}

pub fn old_values_come_back_and_later_writes_stay<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[world.rename("first")]);
    world.ship_all();
    // AS writes later; nobody has heard of it yet.
    world.submit(&world.asia, &[world.rename("later")]);
    undo(&world.na, 1);
    assert_eq!(world.name_at(&world.na), "Steve");
    for site in [&world.eu, &world.asia] {
        let outcome = world.ship(&world.na, site);
        assert_eq!((outcome.wait, outcome.drift), (None, vec![]));
        assert_eq!(outcome.rejected, []);
    }
    assert_eq!(world.name_at(&world.eu), "Steve");
    assert_eq!(world.name_at(&world.asia), "later", "guarded");
    world.ship_all();
    assert_eq!(world.name_at(&world.na), "later");
}

pub fn an_undo_that_its_origin_refuses_is_told_everywhere<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[with_id(world.kills(-500), 1)]);
    world.ship_all();
    room(world, &world.na, 900);
    let mut na = world.na.open();
    let undone = na.undo(Seq(1), &reason()).expect("undo");
    let Undone::Refused {
        notice, sqlstate, ..
    } = undone
    else {
        panic!("{undone:?}");
    };
    assert_eq!((notice.seq, sqlstate.as_str()), (Seq(2), "23514"));
    assert_eq!(na.undo(Seq(1), &reason()), Ok(Undone::Before), "told once");
    assert_eq!(world.kills_at(&world.na), 900);
    assert_eq!(state(&world.na, 1), RequestState::Committed);
    for site in [&world.eu, &world.asia] {
        let outcome = world.ship(&world.na, site);
        let kinds: Vec<_> = outcome.rejected.iter().map(|r| r.kind).collect();
        assert_eq!(kinds, [RejectionKind::Notice]);
        assert_eq!(world.kills_at(site), -500, "nothing is undone");
    }
    for site in [&world.na, &world.eu, &world.asia] {
        let mut db = site.open();
        let letters = db.rejected(10).expect("rejected");
        let letters: Vec<_> = letters
            .iter()
            .map(|l| (l.stream.as_str(), l.seq, l.sqlstate.as_str()))
            .collect();
        assert_eq!(letters, [("NA", Some(Seq(2)), "23514")]);
        assert_eq!(
            db.refusals("NA", 10).expect("refusals"),
            [],
            "nobody to tell"
        );
    }
    // Somebody makes room, and wants it undone after all.
    room(world, &world.na, -500);
    let id = na.rejected(10).expect("rejected")[0].id;
    let retried = na.rejected_retry(id).expect("retried");
    assert!(matches!(&retried, Retried::Submitted(c) if c.update.undoes == Some(Seq(1))));
    world.ship_all();
    for site in [&world.na, &world.eu, &world.asia] {
        assert_eq!(world.kills_at(site), 0, "{}", site.region);
    }
    assert_eq!(na.rejected_count().expect("count"), 0);
}

pub fn an_undo_that_a_peer_refuses_is_a_dead_letter_there<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[with_id(world.kills(-500), 1)]);
    world.ship_all();
    room(world, &world.eu, 900);
    undo(&world.na, 1);
    let outcome = world.ship(&world.na, &world.eu);
    let refused: Vec<_> = outcome.rejected.iter().map(|r| (r.seq, r.kind)).collect();
    assert_eq!(refused, [(Seq(2), RejectionKind::Undo)]);
    let mut eu = world.eu.open();
    let told: Vec<_> = eu.refusals("NA", 10).expect("refusals");
    assert_eq!(told.iter().map(|r| r.seq.0).collect::<Vec<_>>(), [2]);
    let undone = world.na.open().undo(Seq(2), &reason()).expect("answer");
    assert!(matches!(undone, Undone::Impossible(_)), "{undone:?}");
    room(world, &world.eu, -500);
    let id = eu.rejected(10).expect("rejected")[0].id;
    assert_eq!(eu.rejected_retry(id), Ok(Retried::Applied(1)));
    assert_eq!(world.kills_at(&world.eu), 0);
    assert!(matches!(state(&world.eu, 1), RequestState::Undone(_)));
}

/// Both regions that have taken the request take it back; EU can execute the second undo only.
pub fn a_retried_undo_of_a_copy_is_one_of_the_request<B: Backend>(world: &World<B>) {
    for (id, retry_first) in [(1, true), (2, false)] {
        let (mut na, mut asia) = (Seq::ZERO, Seq::ZERO);
        for (site, seq) in [(&world.asia, &mut asia), (&world.na, &mut na)] {
            let committed = world.submit(site, &[with_id(world.kills(-500), id)]);
            *seq = committed[0].seq;
            world.ship(site, &world.eu);
        }
        assert_eq!(world.kills_at(&world.eu), -500);
        room(world, &world.eu, 900);
        undo(&world.na, na.0);
        world.ship(&world.na, &world.eu);
        room(world, &world.eu, -500);
        let mut eu = world.eu.open();
        let letter = eu.rejected(10).expect("rejected")[0].id;
        let mut retried = || eu.rejected_retry(letter).expect("retried");
        if retry_first {
            assert_eq!(retried(), Retried::Applied(1));
        }
        undo(&world.asia, asia.0);
        world.ship(&world.asia, &world.eu);
        assert_eq!(world.kills_at(&world.eu), 0);
        if !retry_first {
            assert_eq!(retried(), Retried::Applied(0));
        }
        assert_eq!(world.kills_at(&world.eu), 0);
        assert!(matches!(state(&world.eu, id), RequestState::Undone(_)));
        assert_eq!(eu.rejected_count().expect("count"), 0);
    }
}

pub fn a_request_of_two_regions_is_undone_once_everywhere<B: Backend>(world: &World<B>) {
    for site in [&world.na, &world.eu] {
        world.submit(site, &[with_id(world.kills(1), 1)]);
    }
    // AS takes EU's copy, and skips NA's.
    world.ship(&world.eu, &world.asia);
    world.ship(&world.na, &world.asia);
    assert_eq!(world.kills_at(&world.asia), 1);
    undo(&world.na, 1);
    world.ship(&world.na, &world.asia);
    assert_eq!(world.kills_at(&world.asia), 0);
    world.ship(&world.na, &world.eu);
    // Another region asks for the undo of EU's copy.
    let undone = world.eu.open().undo(Seq(1), &reason());
    assert_eq!(undone, Ok(Undone::Before));
    world.ship_all();
    for site in [&world.na, &world.eu, &world.asia] {
        assert_eq!(world.kills_at(site), 0, "{}", site.region);
    }
    // Both copies are undone, by their own regions, before they hear of each other.
    for site in [&world.na, &world.eu] {
        world.submit(site, &[with_id(world.kills(100), 2)]);
    }
    undo(&world.na, 3);
    undo(&world.eu, 2);
    world.ship(&world.na, &world.asia);
    world.ship_all();
    for site in [&world.na, &world.eu, &world.asia] {
        assert_eq!(world.kills_at(site), 0, "{}", site.region);
    }
    // A region that refuses the copy that it meets first takes neither.
    room(world, &world.asia, 999);
    for site in [&world.na, &world.eu] {
        world.submit(site, &[with_id(world.kills(7), 3)]);
    }
    world.ship_all();
    assert_eq!(world.kills_at(&world.asia), 999);
    assert_eq!(world.asia.open().rejected_count().expect("count"), 1);
    undo(&world.na, 5);
    world.ship_all();
    assert_eq!(world.kills_at(&world.na), 0);
    assert_eq!(world.kills_at(&world.eu), 0);
    assert_eq!(world.kills_at(&world.asia), 999);
    assert_eq!(world.asia.open().rejected_count().expect("count"), 0);
}

pub fn what_was_retried_is_undone_after_all<B: Backend>(world: &World<B>) {
    room(world, &world.eu, 995);
    world.submit(&world.na, &[with_id(world.kills(10), 1)]);
    world.ship_all();
    room(world, &world.eu, 0);
    let mut eu = world.eu.open();
    let id = eu.rejected(10).expect("rejected")[0].id;
    assert_eq!(eu.rejected_retry(id), Ok(Retried::Applied(1)));
    assert_eq!(state(&world.eu, 1), RequestState::Committed);
    assert_eq!(world.kills_at(&world.eu), 10);
    undo(&world.na, 1);
    world.ship_all();
    for site in [&world.na, &world.eu, &world.asia] {
        assert_eq!(world.kills_at(site), 0, "{}", site.region);
    }
}

pub fn what_is_gone_or_cannot_be_undone_is_said<B: Backend>(world: &World<B>) {
    let committed = world.submit(&world.na, &[world.kills(1), world.append("1")]);
    let mut na = world.na.open();
    let mut impossible = |seq| match na.undo(Seq(seq), &reason()).expect("answer") {
        Undone::Impossible(why) => assert!(!why.is_empty()),
        other => panic!("{other:?}"),
    };
    impossible(2);
    impossible(99);
    let at = Position {
        epoch: world.epoch(&world.na),
        seq: Seq(2),
        tag: committed[1].update.tag,
    };
    let mut other = world.na.open();
    for peer in ["EU", "AS"] {
        other.lane_acked(peer, at).expect("acked");
    }
    assert_eq!(other.outbox_trim(Duration::ZERO, 100).expect("trim"), 2);
    impossible(1);
    assert_eq!(world.kills_at(&world.na), 1);
}

pub fn concurrent_undos_undo_once<B: Backend>(world: &World<B>) {
    let batch: Vec<_> = (0..8).map(|_| world.kills(1)).collect();
    world.submit(&world.na, &batch);
    let mut options = world.na.options.clone();
    options.lock_timeout = Duration::from_secs(30);
    let published: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let (url, options) = (&world.na.url, options.clone());
                scope.spawn(move || {
                    let mut db = prism_db::open(url, options).expect("address");
                    let undo = |seq| db.undo(Seq(seq), &reason()).expect("undo");
                    let answers = (1..=8).map(undo);
                    answers
                        .filter(|answer| match answer {
                            Undone::Published(_) => true,
                            Undone::Before => false,
                            other => panic!("{other:?}"),
                        })
                        .count()
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().expect("worker")).sum()
    });
    assert_eq!(published, 8);
    world.ship_all();
    for site in [&world.na, &world.eu, &world.asia] {
        assert_eq!(world.kills_at(site), 0, "{}", site.region);
    }
}
