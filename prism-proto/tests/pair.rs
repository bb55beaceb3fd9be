//! Two engines over a pipe.

mod sim;

use sim::*;

#[test]
fn two_engines_carry_each_other_s_streams() {
    let mut sim = Sim::new(1, &[1, 1], plain);
    sim.hold_all();
    for _ in 0..500 {
        sim.submit(0, 100);
        sim.submit(1, 30);
    }
    let took = sim.run_until(10 * SEC, Sim::settled);
    println!(
        "settled after {took} us; datagrams {} {}",
        sim.nodes[0].transmits, sim.nodes[1].transmits
    );
    let stats = sim.nodes[0].engine.lane_stats(prism_proto::RegionId(1));
    println!("{stats:?}");
    assert_eq!(stats.retransmits, 0, "nothing is lost on a lossless path");
}

#[test]
fn fails_over_and_climbs_back() {
    let mut sim = Sim::new(2, &[1, 2], plain);
    sim.trace = true;
    sim.hold_all();
    sim.submit(0, 100);
    sim.run_until(10 * SEC, Sim::settled);
    sim.kill(1);
    sim.submit(0, 100);
    let took = sim.run_until(10 * SEC, |s| s.applied(1, 0) == 2);
    println!("failed over in {took}");
    sim.kill(2);
    sim.submit(0, 100);
    let took = sim.run_until(10 * SEC, |s| s.applied(1, 0) == 3);
    println!("direct in {took}");
    sim.restart(1);
    let took = sim.run_until(60 * SEC, |s| {
        s.target(0, 1) == Some(prism_proto::Target::Node(prism_proto::NodeId(1)))
    });
    println!("back in {took}");
    sim.submit(0, 100);
    sim.run_until(10 * SEC, |s| s.applied(1, 0) == 4);
}
