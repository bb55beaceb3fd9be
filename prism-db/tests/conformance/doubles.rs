//! Random mixes of doubles in several regions, refusals and undos: in the end every region has the
//! same, and each request once or not at all.

use prism_db::{RequestState, Submission, UndoReason, Undone};
use prism_proto::Seq;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::world::{Backend, Site, World};

/// Requests of one case. Each adds a power of two, so that the sum tells which have an effect.
const IDS: u8 = 5;

#[derive(Debug, Clone)]
enum Step {
    /// A client asks a region.
    Submit { at: usize, id: u8 },
    /// A region undoes one of its newest updates.
    Undo { at: usize, back: u64 },
    /// A region hears of the next updates of another one.
    Ship {
        from: usize,
        hop: usize,
        count: usize,
        /// Its database has no room: it refuses whatever adds.
        full: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let ship = (0..3usize, 1..3usize, 1..6usize, prop::bool::weighted(0.3));
    prop_oneof![
        4 => (0..3usize, 0..IDS).prop_map(|(at, id)| Step::Submit { at, id }),
        2 => (0..3usize, 0..4u64).prop_map(|(at, back)| Step::Undo { at, back }),
        5 => ship.prop_map(|(from, hop, count, full)| Step::Ship { from, hop, count, full }),
    ]
}

pub fn any_mix_of_doubles_refusals_and_undos_ends_alike_everywhere<B: Backend>(world: &World<B>) {
    let mut runner = TestRunner::new(Config {
        cases: 25,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..Config::default()
    });
    // The databases live on from case to case; the ids do not.
    let case = std::cell::Cell::new(0u8);
    runner
        .run(&prop::collection::vec(step(), 4..20), |steps| {
            case.set(case.get() + 1);
            let first = [&world.na, &world.eu, &world.asia].map(next_seq);
            for step in &steps {
                run(world, case.get(), first, step);
            }
            settle(world);
            check(world, case.get(), &steps);
            Ok(())
        })
        .expect("the regions agree");
}

fn request<B: Backend>(world: &World<B>, case: u8, id: u8) -> Submission {
    let mut request_id = [case; 16];
    request_id[0] = id;
    Submission {
        request_id: Some(request_id),
        ..world.kills(1 << id)
    }
}

fn undo(site: &Site, seq: Seq) {
    let reason = UndoReason::Refused {
        region: "EU".into(),
        sqlstate: "23514".into(),
        message: String::new(),
    };
    let undone = site.open().undo(seq, &reason).expect("undo");
    let fine = matches!(undone, Undone::Published(_) | Undone::Before);
    // One that is an undo itself.
    let none = matches!(&undone, Undone::Impossible(why) if why.contains("an undo"));
    assert!(fine || none, "{undone:?}");
}

fn next_seq(site: &Site) -> Seq {
    site.open().region().expect("region").next_seq
}

fn run<B: Backend>(world: &World<B>, case: u8, first: [Seq; 3], step: &Step) {
    let sites = [&world.na, &world.eu, &world.asia];
    match *step {
        Step::Submit { at, id } => {
            world.answers(sites[at], &[request(world, case, id)]);
        }
        Step::Undo { at, back } => {
            let next = next_seq(sites[at]).0;
            if next > first[at].0 + back {
                undo(sites[at], Seq(next - 1 - back));
            }
        }
        Step::Ship {
            from,
            hop,
            count,
            full,
        } => {
            let (from, to) = (sites[from], sites[(from + hop) % 3]);
            let have = to.open().position(from.region).expect("position").seq.0 as usize;
            let stream = world.outbox(from);
            let end = (have + count).min(stream.len());
            let missing = 999 - world.kills_at(to);
            let mut sql = world.sql(to);
            let mut shift = |by: i64| {
                sql.run(&format!(
                    "UPDATE users SET kills = kills + {by} WHERE username = 'steve'"
                ));
            };
            shift(if full { missing } else { 0 });
            let epoch = world.epoch(from);
            let range = &stream[have.min(end)..end];
            let outcome = world
                .applier()
                .apply(&mut *to.open(), from.region, epoch, range);
            assert_eq!((outcome.wait, outcome.drift), (None, vec![]));
            shift(if full { -missing } else { 0 });
        }
    }
}

/// Until everybody has everything, and every refusal is dealt with.
fn settle<B: Backend>(world: &World<B>) {
    let sites = [&world.na, &world.eu, &world.asia];
    loop {
        world.ship_all();
        let mut untold = 0;
        for site in sites {
            for origin in sites.iter().filter(|origin| origin.region != site.region) {
                let mut db = site.open();
                for refusal in db.refusals(origin.region, 100).expect("refusals") {
                    undo(origin, refusal.seq);
                    db.refusals_told(origin.region, refusal.epoch, &[refusal.seq])
                        .expect("told");
                    untold += 1;
                }
            }
        }
        if untold == 0 {
            return;
        }
    }
}

fn check<B: Backend>(world: &World<B>, case: u8, steps: &[Step]) {
    let sites = [&world.na, &world.eu, &world.asia];
    let sum = world.kills_at(&world.na);
    let mut expected = 0;
    for site in sites {
        assert_eq!(world.kills_at(site), sum, "{} {steps:?}", site.region);
        let mut db = site.open();
        assert_eq!(db.rejected_count(), Ok(0), "{} {steps:?}", site.region);
        let mut here = 0;
        for id in 0..IDS {
            let id_here = request(world, case, id).request_id.unwrap_or_default();
            let row = db.request(&id_here).expect("request");
            if row.is_some_and(|row| row.state == RequestState::Committed) {
                here += 1 << id;
            }
        }
        assert_eq!(here, sum, "{}: what is on record; {steps:?}", site.region);
        expected = here;
    }
    assert_eq!(expected, sum);
    for site in sites {
        world
            .sql(site)
            .run("UPDATE users SET kills = 0 WHERE username = 'steve'");
    }
}
