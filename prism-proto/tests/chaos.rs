//! Whatever the network and the nodes do: exactly once, in order, and in the end everywhere.
//! (The model databases assert order and content with every row; see `sim`.)

mod sim;

use proptest::prelude::*;
use sim::*;

#[derive(Debug, Clone)]
struct Story {
    seed: u64,
    shape: usize,
    loss: f64,
    duplicate: f64,
    delay: (u64, u64),
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    Submit {
        node: usize,
        count: usize,
        len: usize,
    },
    Pass {
        us: u64,
    },
    Kill {
        node: usize,
    },
    Restart {
        node: usize,
    },
    Cut {
        from: usize,
        to: usize,
    },
    Heal,
    DbDown {
        region: usize,
    },
    DbUp {
        region: usize,
    },
    DirectDown {
        region: usize,
    },
    Sick {
        region: usize,
    },
    /// Two nodes of a region believe that they hold its lanes.
    Overlap {
        node: usize,
    },
    /// The region refuses the next so many updates of that stream, every third of them.
    Refuse {
        region: usize,
        stream: usize,
        count: u64,
    },
    /// Hosts have no room for refusals.
    NoRoom {
        count: u32,
    },
    /// The node is told that its lanes are somebody else's.
    Lose {
        node: usize,
    },
    /// What is in memory of the own stream is pushed out.
    Forget {
        node: usize,
    },
}

const SHAPES: &[&[usize]] = &[&[1, 1], &[1, 2], &[2, 2], &[2, 1, 2]];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..5, 1usize..40, prop_oneof![8 => 0usize..300, 1 => 1000usize..6000, 1 => 6000usize..40_000])
            .prop_map(|(node, count, len)| Step::Submit { node, count: if len > 1000 { count.min(4) } else { count }, len }),
        6 => (0u64..3_000_000).prop_map(|us| Step::Pass { us }),
        1 => (0usize..5).prop_map(|node| Step::Kill { node }),
        2 => (0usize..5).prop_map(|node| Step::Restart { node }),
        1 => (0usize..5, 0usize..5).prop_map(|(from, to)| Step::Cut { from, to }),
        1 => Just(Step::Heal),
        1 => (0usize..3).prop_map(|region| Step::DbDown { region }),
        2 => (0usize..3).prop_map(|region| Step::DbUp { region }),
        1 => (0usize..3).prop_map(|region| Step::DirectDown { region }),
        1 => (0usize..3).prop_map(|region| Step::Sick { region }),
        1 => (0usize..5).prop_map(|node| Step::Overlap { node }),
        1 => (0usize..5).prop_map(|node| Step::Forget { node }),
        2 => (0usize..3, 0usize..3, 1u64..150)
            .prop_map(|(region, stream, count)| Step::Refuse { region, stream, count }),
        1 => (1u32..20).prop_map(|count| Step::NoRoom { count }),
        1 => (0usize..5).prop_map(|node| Step::Lose { node }),
    ]
}

fn story() -> impl Strategy<Value = Story> {
    (
        any::<u64>(),
        0..SHAPES.len(),
        0.0f64..0.6,
        0.0f64..0.9,
        (100u64..40_000, 0u64..40_000),
        proptest::collection::vec(step(), 1..25),
    )
        .prop_map(
            |(seed, shape, loss, duplicate, (min, spread), steps)| Story {
                seed,
                shape,
                loss,
                duplicate,
                delay: (min, min + spread),
                steps,
            },
        )
}

/// The lanes of a region are held by its first live node.
fn lease(sim: &mut Sim, region: usize) {
    if let Some(i) =
        (0..sim.nodes.len()).find(|i| sim.nodes[*i].region == region && sim.nodes[*i].alive)
    {
        sim.hold(i);
    }
}

fn tell(story: &Story) {
    let mut sim = Sim::new(story.seed, SHAPES[story.shape], plain);
    sim.net.loss = story.loss;
    sim.net.duplicate = story.duplicate;
    sim.net.delay = story.delay;
    sim.hold_all();
    let (nodes, regions) = (sim.nodes.len(), sim.dbs.len());
    for step in &story.steps {
        match *step {
            Step::Submit { node, count, len } => {
                let i = node % nodes;
                if sim.nodes[i].alive && sim.dbs[sim.nodes[i].region].up {
                    for _ in 0..count {
                        sim.submit(i, len);
                    }
                }
            }
            Step::Pass { us } => sim.run_for(us),
            Step::Kill { node } => {
                let i = node % nodes;
                if sim.nodes[i].alive {
                    sim.kill(i);
                    lease(&mut sim, region_of(story.shape, i));
                }
            }
            Step::Restart { node } => {
                let i = node % nodes;
                sim.restart(i);
                lease(&mut sim, region_of(story.shape, i));
            }
            Step::Cut { from, to } => {
                sim.net.blocked.insert((from % nodes, to % nodes));
            }
            Step::Heal => sim.net.blocked.clear(),
            Step::DbDown { region } => sim.dbs[region % regions].up = false,
            Step::DbUp { region } => {
                sim.dbs[region % regions].up = true;
                sim.dbs[region % regions].sick = None;
            }
            Step::DirectDown { region } => sim.dbs[region % regions].direct_up = false,
            Step::Sick { region } => {
                sim.dbs[region % regions].sick = Some(prism_proto::ApplyCause::Busy);
            }
            Step::Overlap { node } => sim.hold(node % nodes),
            Step::Refuse {
                region,
                stream,
                count,
            } => {
                let (r, s) = (region % regions, stream % regions);
                let next = sim.dbs[s].outbox.len() as u64 + 1;
                let seqs = (next..next + count).step_by(3);
                sim.dbs[r].refuse.extend(seqs.map(|seq| (s as u16, seq)));
            }
            Step::NoRoom { count } => sim.handle_drop = count,
            Step::Lose { node } => {
                for peer in 0..regions as u16 {
                    let peer = prism_proto::RegionId(peer);
                    sim.tell(node % nodes, prism_proto::Event::LaneLost { peer });
                }
            }
            Step::Forget { node } => {
                sim.nodes[node % nodes].memory.map.clear();
                sim.fetch_limit = 1 + node as u64;
            }
        }
    }
    // Everything that is repaired in the end makes everything arrive in the end.
    sim.net.blocked.clear();
    for i in 0..nodes {
        if !sim.nodes[i].alive {
            sim.restart(i);
        }
    }
    for r in 0..regions {
        sim.dbs[r].up = true;
        sim.dbs[r].sick = None;
        lease(&mut sim, r);
    }
    sim.run_until(300 * SEC, Sim::settled);
    // And the lanes come back to the first node of every region once the network is good.
    sim.net.loss = 0.0;
    sim.run_until(600 * SEC, |s| {
        (0..nodes).all(|i| {
            (0..regions).filter(|p| *p != s.nodes[i].region).all(|p| {
                let stats = s.nodes[i]
                    .engine
                    .lane_stats(prism_proto::RegionId(p as u16));
                let first = (0..nodes).find(|n| s.nodes[*n].region == p).unwrap_or(0);
                !stats.held
                    || stats.target
                        == Some(prism_proto::Target::Node(prism_proto::NodeId(first as u16)))
            })
        })
    });
}

fn region_of(shape: usize, node: usize) -> usize {
    let mut left = node;
    for (r, n) in SHAPES[shape].iter().enumerate() {
        if left < *n {
            return r;
        }
        left -= n;
    }
    0
}

proptest! {
    #![proptest_config(ProptestConfig {
        // More with PROPTEST_CASES=10000.
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150),
        max_shrink_iters: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn everything_arrives_exactly_once_and_in_order(story in story()) {
        tell(&story);
    }
}
