//! `prism.toml` of a simulated cluster, as a person would write it.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prism_node::config::{Config, Limits};

use super::case::Kind;
use super::plan::Plan;
use super::secrets;
use crate::database::catalogue::sections;

/// Names of the regions.
pub const REGIONS: [&str; 5] = ["NA", "EU", "AS", "SA", "AF"];

/// A configuration and where its nodes are.
#[derive(Debug)]
pub struct Site {
    /// As it is first.
    pub config: Arc<Config>,
    /// After the upgrade of the catalogue.
    pub upgraded: Arc<Config>,
}

/// What is the same for many runs.
type Shape = (Vec<usize>, bool, bool, bool, bool);

thread_local! {
    static KNOWN: RefCell<Vec<(Shape, Rc<Site>)>> = const { RefCell::new(Vec::new()) };
}

/// The address of a node.
#[must_use]
pub fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7001 + node as u16))
}

/// The configuration of a plan's cluster. Reading and checking one takes longer than many a run.
#[must_use]
pub fn site(plan: &Plan) -> Rc<Site> {
    let shape = (
        plan.nodes.clone(),
        plan.sealed,
        plan.is_crowded(),
        plan.kinds.has(Kind::Stale),
        plan.has_small_backlog(),
    );
    KNOWN.with_borrow_mut(|known| {
        if let Some((_, site)) = known.iter().find(|(other, _)| *other == shape) {
            return Rc::clone(site);
        }
        let read = |upgraded| {
            let text = text(plan, upgraded);
            let config = Config::parse_with(&text, Path::new("/sim/prism.toml"), &|_| None);
            let mut config = config.unwrap_or_else(|error| panic!("{error}\n{text}"));
            limit(&mut config.limits, plan);
            Arc::new(config)
        };
        let site = Rc::new(Site {
            config: read(false),
            upgraded: read(true),
        });
        known.push((shape, Rc::clone(&site)));
        site
    })
}

/// Smaller than a file may ask for: a run is short.
fn limit(limits: &mut Limits, plan: &Plan) {
    // So that a journal of a few entries has several segments.
    limits.max_journal = 64 << 10;
    if plan.is_crowded() {
        limits.max_update = 4 << 10;
        limits.max_journal = 32 << 10;
        limits.max_awaits = 2;
    }
    if plan.has_small_backlog() {
        limits.max_backlog = 4 << 10;
    } else if plan.kinds.has(Kind::Stale) {
        limits.max_backlog_age = Some(Duration::from_secs(6));
    }
}

fn text(plan: &Plan, upgraded: bool) -> String {
    let mut text = String::from("cluster = \"simulated\"\n");
    let mut node = 0;
    if plan.sealed {
        text.push_str("psk_file = \"cluster.psk\"\n");
    }
    for (region, &nodes) in plan.nodes.iter().enumerate() {
        let name = REGIONS[region];
        let _ = write!(
            text,
            "\n[[region]]\nname = \"{name}\"\ndatabase = \"sqlite:{name}.db\"\n"
        );
        for n in 1..=nodes {
            let udp = address(node);
            let http = udp.port() + 1000;
            let _ = write!(
                text,
                "[[region.node]]\nname = \"{name}{n}\"\nudp = \"{udp}\"\nhttp = \"127.0.0.1:{http}\"\n"
            );
            if plan.sealed {
                let key = secrets::public(node);
                let _ = writeln!(text, "public_key = \"{key}\"");
            }
            node += 1;
        }
    }
    text.push_str("\n[retry]\ninitial = \"100ms\"\nmax = \"800ms\"\n\n[limits]\n");
    text.push_str("await_timeout = \"4s\"\n\n");
    text.push_str(&sections(upgraded));
    text
}
