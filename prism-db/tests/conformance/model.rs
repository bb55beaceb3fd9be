//! Random sequences of submits and applies against a naive model.

use prism_proto::Seq;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::world::{Backend, World, text};

#[derive(Debug, Clone)]
enum Step {
    /// Submit that many updates at a region.
    Submit(usize, usize),
    /// Send a range of a stream to a region, wherever that is: duplicates, overlaps, gaps.
    Send {
        from: usize,
        to: usize,
        first: usize,
        count: usize,
        /// By two connections at once.
        twice: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let send = (0..3usize, 1..3usize, 0..8usize, 1..8usize, any::<bool>());
    prop_oneof![
        1 => (0..3usize, 1..5usize).prop_map(|(at, count)| Step::Submit(at, count)),
        3 => send.prop_map(|(from, hop, first, count, twice)| Step::Send {
            from, to: (from + hop) % 3, first, count, twice,
        }),
    ]
}

/// The model. Every second update of a stream adds one to a region's counter, the others overwrite.
#[derive(Debug, Default)]
struct Model {
    /// Length of each stream.
    tail: [usize; 3],
    /// How much of each stream (second index) a region (first index) has.
    applied: [[usize; 3]; 3],
    /// The counter in each region.
    total: [i64; 3],
}

pub fn any_sequence_of_submits_and_applies_gives_what_the_model_says<B: Backend>(world: &World<B>) {
    for site in [&world.na, &world.eu, &world.asia] {
        world
            .sql(site)
            .run("INSERT INTO extras VALUES ('total', 0)");
    }
    let mut model = Model::default();
    let mut runner = TestRunner::new(Config {
        cases: 30,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..Config::default()
    });
    // The databases live on from case to case, as the model does.
    let model = std::cell::RefCell::new(&mut model);
    runner
        .run(&prop::collection::vec(step(), 1..6), |steps| {
            for step in &steps {
                run(world, &mut model.borrow_mut(), step);
            }
            Ok(())
        })
        .expect("the model agrees");
}

fn run<B: Backend>(world: &World<B>, model: &mut Model, step: &Step) {
    let sites = [&world.na, &world.eu, &world.asia];
    match *step {
        Step::Submit(at, count) => {
            let pair = |i: usize| {
                let name = format!("{at}:{}", model.tail[at] + i);
                let rename = world.call("rename", &[text("steve"), text(&name)]);
                [rename, world.call("bump", &[text("total")])]
            };
            let both: Vec<_> = (0..count).flat_map(pair).collect();
            let committed = world.submit(sites[at], &both);
            for one in &committed {
                model.tail[at] += 1;
                model.applied[at][at] += 1;
                assert_eq!(one.seq.0 as usize, model.tail[at]);
                model.total[at] += i64::from(one.seq.0 % 2 == 0);
            }
        }
        Step::Send {
            from,
            to,
            first,
            count,
            twice,
        } => {
            let stream = world.outbox(sites[from]);
            assert_eq!(stream.len(), model.tail[from]);
            let have = model.applied[to][from];
            // Around where the receiver is, so that gaps and overlaps are as likely as hits.
            let start = (have + first).saturating_sub(4).min(stream.len());
            let end = (start + count).min(stream.len());
            let range = &stream[start..end];
            let expected = if start <= have { end.max(have) } else { have };
            let epoch = world.epoch(sites[from]);
            let senders = if twice { 2 } else { 1 };
            let mut options = sites[to].options.clone();
            options.lock_timeout = std::time::Duration::from_secs(30);
            let executed: u64 = std::thread::scope(|scope| {
                let workers: Vec<_> = (0..senders)
                    .map(|_| {
                        let (url, options, mut applier) =
                            (&sites[to].url, options.clone(), world.applier());
                        let region = sites[from].region;
                        scope.spawn(move || {
                            let mut db = prism_db::open(url, options).expect("address");
                            let outcome = applier.apply(&mut *db, region, epoch, range);
                            assert_eq!(outcome.wait, None);
                            assert!(outcome.rejected.is_empty() && outcome.drift.is_empty());
                            outcome.executed
                        })
                    })
                    .collect();
                workers.into_iter().map(|w| w.join().expect("worker")).sum()
            });
            assert_eq!(executed as usize, expected - have, "{step:?}");
            model.total[to] += (have + 1..=expected).filter(|n| n % 2 == 0).count() as i64;
            model.applied[to][from] = expected;
        }
    }
    for (i, site) in sites.iter().enumerate() {
        let total = world
            .sql(site)
            .one("SELECT n FROM extras WHERE id = 'total'");
        assert_eq!(
            total,
            model.total[i].to_string(),
            "{} after {step:?}",
            site.region
        );
        for (stream, position) in site.open().positions().expect("positions") {
            let from = sites
                .iter()
                .position(|s| s.region == stream)
                .expect("region");
            assert_eq!(position.seq, Seq(model.applied[i][from] as u64));
        }
    }
}
