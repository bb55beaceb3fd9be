//! What befalls calls of a database.

use std::time::Duration;

use prism_net::platform::Simulation as _;

use super::case::Kind;
use super::current;
use crate::database::{Clock, Fault, Point, Trouble};
use crate::rng::Rng;

/// Clocks of a region's server.
pub struct ServerClock {
    /// Which.
    pub region: usize,
}

impl Clock for ServerClock {
    fn now(&self) -> Duration {
        current().world.time()
    }

    fn wall(&self) -> i64 {
        let cluster = current();
        let wall = cluster.wall.borrow()[self.region];
        (crate::sched::START + cluster.world.time()).as_micros() as i64 + wall
    }
}

/// See the module.
pub struct ServerTrouble {
    /// Which server's.
    pub region: usize,
}

/// A transient error of each kind that the product tells apart.
const TRANSIENT: [&str; 5] = ["40001", "40P01", "55P03", "53200", "57014"];
/// Errors with which the server ends the connection.
const ENDS: [&str; 2] = ["57P01", "08006"];
const MS: Duration = Duration::from_millis(1);

impl Trouble for ServerTrouble {
    fn at(&self, point: Point, verb: &'static str) -> Fault {
        let cluster = current();
        if point == Point::Lost {
            let rng = &mut *cluster.chance.borrow_mut();
            // Most of the time the server sees at once that a client's machine has closed it.
            return if cluster.is_faulty() && rng.permille(200) {
                Fault::Delay(rng.time(MS..MS * 3000))
            } else {
                Fault::None
            };
        }
        if cluster.world.is_unwinding() {
            return Fault::Disconnect;
        }
        let Some(caller) = cluster.caller() else {
            return Fault::None;
        };
        if matches!(point, Point::Begin | Point::Read) {
            cluster.count_call(verb);
        }
        let own = caller.region == self.region;
        let way = if own {
            Duration::from_micros(150)
        } else {
            cluster.delay(caller.region, self.region) * 2
        };
        if !cluster.reaches(caller.node, self.region) {
            cluster.strikes(Kind::NoWay);
            // Somewhere packets vanish, or a router says so.
            return if point == Point::Connect && caller.node % 2 == 0 {
                Fault::Hang(Duration::from_secs(60))
            } else {
                Fault::Disconnect
            };
        }
        let rng = &mut *cluster.chance.borrow_mut();
        if cluster.is_faulty()
            && let Some((kind, fault)) = strike(&cluster.plan.trouble, point, rng)
        {
            cluster.strikes(kind);
            return fault;
        }
        match point {
            Point::Connect | Point::Begin | Point::Read if !own => Fault::Delay(way),
            Point::BeforeCommit => Fault::Delay(way + rng.time(MS / 10..MS)),
            Point::Statement if rng.permille(100) => Fault::Delay(rng.time(MS / 50..MS)),
            Point::Begin | Point::Read if rng.permille(200) => Fault::Delay(way),
            _ => Fault::None,
        }
    }
}

fn strike(rates: &super::plan::Trouble, point: Point, rng: &mut Rng) -> Option<(Kind, Fault)> {
    let is_write = matches!(point, Point::Statement | Point::BeforeCommit);
    if is_write && rng.permille(rates.transient) {
        return Some((
            Kind::Transient,
            Fault::Sql(TRANSIENT[rng.index(TRANSIENT.len())]),
        ));
    }
    if rng.permille(rates.broken) {
        let fault = if rng.permille(700) || point == Point::AfterCommit {
            Fault::Disconnect
        } else {
            Fault::Sql(ENDS[rng.index(ENDS.len())])
        };
        return Some((Kind::Ambiguous, fault));
    }
    if rng.permille(rates.hang) {
        return Some((Kind::Hang, Fault::Hang(rng.time(MS * 500..MS * 20_000))));
    }
    if rng.permille(rates.slow) {
        return Some((Kind::Transient, Fault::Delay(rng.time(MS..MS * 80))));
    }
    None
}
