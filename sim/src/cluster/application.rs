//! Applications: they write by SQL, in transactions of their own, beside the nodes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prism_db::{OpenOptions, Submission};
use prism_net::platform::sleep;
use prism_node::intake::{Answer, Mode};

use super::case::Kind;
use super::client::shared_row;
use super::{Cluster, Op, Request, Told, current};
use crate::rng::Rng;

/// Starts one in every region, if there are any.
pub(super) fn start(cluster: &Rc<Cluster>) {
    if !cluster.plan.kinds.has(Kind::Sql) {
        return;
    }
    for region in 0..cluster.region_count() {
        let name = format!("application {region}");
        cluster.spawn_person(&name, move || run(&current(), region));
    }
}

fn run(cluster: &Rc<Cluster>, region: usize) {
    let plan = &cluster.plan;
    let mut rng = Rng::new(plan.case.seed, &format!("application {region}"));
    let updates = rng.of(1..8).min(u64::from(plan.case.updates));
    for _ in 0..updates {
        sleep(rng.time(Duration::ZERO..plan.length / updates as u32));
        let op = Op::Add {
            row: shared_row(rng.index(plan.rows)),
            amount: rng.of(1..5) as i64,
            letter: false,
        };
        let mut id = [0; 16];
        rng.fill(&mut id);
        let index = cluster.add_request(Request {
            id,
            client: plan.clients.len() + region,
            regions: vec![region],
            asked: Vec::new(),
            op: op.clone(),
            mode: Mode::Background,
            told: Vec::new(),
        });
        let (name, params) = op.update();
        let catalogue = Arc::clone(&cluster.site.config.catalogue);
        let Some(statement) = catalogue.get(name).map(|statement| statement.digest()) else {
            return;
        };
        let write = Submission {
            statement,
            params,
            request_id: Some(id),
        };
        let options = OpenOptions::new(cluster.topology(region), catalogue);
        let done = cluster.servers[region].sql_transaction(&options, &[write]);
        cluster.world.say(format_args!(
            "request {index} at {region} by SQL: {:?}",
            done.as_ref().map(|all| all[0].seq)
        ));
        // What becomes of the others is on record: they were not told anything.
        if let Ok(committed) = done {
            cluster.strikes(Kind::Sql);
            cluster.requests.borrow_mut()[index].told.push(Told {
                at: cluster.world.time(),
                region,
                place: usize::MAX,
                answer: Answer::Committed {
                    seq: committed[0].seq,
                },
            });
        }
    }
}
