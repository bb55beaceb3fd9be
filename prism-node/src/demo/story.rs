//! What happens in the demo, act by act.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::check::check;
use super::cluster::{LocalCluster, RegionSpec, Spec};
use super::database::{Content, RegionDatabase, STATEMENTS};
use super::load::{Expected, Load};
use super::relay::Link;
use super::show::Show;
use super::tally::Tally;
use super::{DemoError, DemoOptions, DemoResult, Interrupt, Packets};
use crate::status::Lane;

const REGIONS: [&str; 3] = ["NA", "EU", "AS"];
const EU: &str = "EU";

/// What one act may take; far more than it does, so that a slow machine is not a failure.
const ACT: Duration = Duration::from_secs(120);
/// The same story for everybody.
const SEED: u64 = 0x5eed;

/// The stage.
struct Stage<'a> {
    cluster: LocalCluster,
    show: &'a Show,
    interrupt: &'a Interrupt,
    tally: Tally,
}

pub(super) fn play(
    options: &DemoOptions,
    dir: &Path,
    interrupt: &Interrupt,
    show: &Show,
) -> Result<DemoResult, DemoError> {
    let databases = RegionDatabase::create(options.database, &REGIONS, dir)?;
    interrupt.check()?;
    let mut stage = Stage {
        cluster: build(dir, &databases)?,
        show,
        interrupt,
        tally: Tally::new(&REGIONS),
    };
    stage.cluster.start_all()?;
    stage.cluster.relay.set_all(Link::lossy(options.loss));
    show.event("six nodes run");
    let begin = Instant::now();
    let progress = |updates| show.progress(updates);
    let load = Load {
        http: stage.cluster.http(),
        chunk: (options.updates / 100).clamp(10, 100),
        interrupt,
        expected: Mutex::new(Expected::default()),
        acknowledged: AtomicU64::new(0),
        progress: &progress,
    };
    let part = options.updates / 6;
    stage.all_regions(&load, part)?;
    stage.one_node_dies(&load, part)?;
    stage.all_nodes_die(&load, part)?;
    stage.they_return(&load, part)?;
    stage.the_origin_dies(&load, part)?;
    let submitted = load.acknowledged.load(Ordering::Relaxed);
    let rest = options.updates.saturating_sub(submitted);
    stage.the_rest(&load, rest)?;

    let expected = load
        .expected
        .into_inner()
        .unwrap_or_else(|e| e.into_inner());
    let contents = contents(&databases)?;
    let problems = check(&contents, &expected);
    for i in 0..stage.cluster.nodes.len() {
        stage.tally.take(&stage.cluster, i);
    }
    let totals = expected.totals();
    show.event("all databases are read with plain SQL and compared");
    let counts = stage.cluster.relay.counts();
    Ok(DemoResult {
        ok: problems.is_empty(),
        problems,
        database: options.database,
        loss: options.loss,
        acknowledged: u64::try_from(totals.acknowledged).unwrap_or(0),
        unknown: u64::try_from(totals.unknown).unwrap_or(0),
        packets: Packets {
            forwarded: counts.forwarded,
            lost: counts.lost,
            duplicated: counts.duplicated,
            reordered: counts.reordered,
        },
        regions: stage.tally.figures(),
        events: show.events(),
        seconds: begin.elapsed().as_secs_f64(),
    })
}

fn build(dir: &Path, databases: &[RegionDatabase]) -> Result<LocalCluster, DemoError> {
    let program =
        std::env::current_exe().map_err(|e| DemoError::Io("cannot find this program", e))?;
    let regions = REGIONS
        .iter()
        .zip(databases)
        .map(|(name, database)| RegionSpec {
            name: (*name).to_owned(),
            nodes: 2,
            database: database.url(),
            direct: None,
        });
    let spec = Spec {
        regions: regions.collect(),
        toml: STATEMENTS.to_owned(),
        seed: SEED,
        sealed: true,
    };
    let cluster = LocalCluster::new(&program, dir, &spec)?;
    cluster.prism(&["migrate"])?;
    Ok(cluster)
}

fn contents(databases: &[RegionDatabase]) -> Result<Vec<(&'static str, Content)>, DemoError> {
    REGIONS
        .iter()
        .zip(databases)
        .map(|(&region, database)| {
            let content = database.content();
            let content = content.map_err(|e| DemoError::Sql(region.to_owned(), e))?;
            Ok((region, content))
        })
        .collect()
}

impl Stage<'_> {
    /// (1) Updates from all three regions at once, through packet loss.
    fn all_regions(&mut self, load: &Load<'_>, part: u64) -> Result<(), DemoError> {
        self.show
            .event("(1) updates from all three regions at once");
        self.submit(load, &REGIONS, part)?;
        self.wait_lane("NA", EU, "NA has sent to EU1", |lane| {
            lane.target.as_deref() == Some("EU1") && lane.acked > 0
        })?;
        Ok(())
    }

    /// (2) EU1 is killed, the lanes switch to EU2.
    fn one_node_dies(&mut self, load: &Load<'_>, part: u64) -> Result<(), DemoError> {
        self.kill("EU1", "(2) ");
        self.submit(load, &["NA", "AS"], part)?;
        for region in ["NA", "AS"] {
            let lane = self.wait_lane(region, EU, "the lane to EU goes on at EU2", |lane| {
                lane.target.as_deref() == Some("EU2")
            })?;
            self.tell_failover(region, "EU1", "EU2", &lane);
        }
        Ok(())
    }

    /// (3) EU2 as well: direct SQL.
    fn all_nodes_die(&mut self, load: &Load<'_>, part: u64) -> Result<(), DemoError> {
        self.kill("EU2", "(3) ");
        self.submit(load, &["NA", "AS"], part)?;
        for region in ["NA", "AS"] {
            let what = "the lane writes to EU's database by SQL";
            let lane = self.wait_lane(region, EU, what, |lane| {
                lane.direct_writes > 0 && lane.lag_updates == 0
            })?;
            self.show.event(&format!(
                "    {region} has written {} updates into EU's database by direct SQL",
                lane.direct_writes
            ));
        }
        Ok(())
    }

    /// (4) Both return, the lanes climb back.
    fn they_return(&mut self, load: &Load<'_>, part: u64) -> Result<(), DemoError> {
        for name in ["EU1", "EU2"] {
            let node = self.cluster.node(name);
            self.cluster.start(node)?;
        }
        for name in ["EU1", "EU2"] {
            self.cluster.wait_ready(self.cluster.node(name))?;
        }
        self.show.event("(4) EU1 and EU2 return");
        for region in ["NA", "AS"] {
            self.wait_lane(region, EU, "the lane climbs back to EU1", |lane| {
                lane.target.as_deref() == Some("EU1")
            })?;
            self.show
                .event(&format!("    {region}'s lane has climbed back to EU1"));
        }
        self.submit(load, &REGIONS, part)
    }

    /// (5) NA1 is killed in the middle of its stream and restarted.
    fn the_origin_dies(&mut self, load: &Load<'_>, part: u64) -> Result<(), DemoError> {
        let nodes = self.addresses("NA");
        let before = load.acknowledged.load(Ordering::Relaxed);
        let na1 = self.cluster.node("NA1");
        std::thread::scope(|scope| {
            let submits = scope.spawn(|| load.run("NA", &nodes, part));
            let third = before + part / 3;
            while load.acknowledged.load(Ordering::Relaxed) < third && !submits.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.kill("NA1", "(5) in the middle of its stream: ");
            self.cluster.start(na1)?;
            submits
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        self.cluster.wait_ready(na1)?;
        self.show
            .event("    NA1 is restarted; NA2 took updates meanwhile");
        Ok(())
    }

    /// What is left of the requested number, then silence until everything has arrived.
    fn the_rest(&mut self, load: &Load<'_>, rest: u64) -> Result<(), DemoError> {
        if rest > 0 {
            self.submit(load, &["NA"], rest)?;
        }
        for origin in REGIONS {
            for peer in REGIONS.iter().filter(|&&p| p != origin) {
                self.wait_lane(origin, peer, "everything has arrived", |lane| {
                    lane.lag_updates == 0
                })?;
            }
        }
        self.show.event("(6) every lane is empty");
        Ok(())
    }

    /// Submits `part` updates, shared by these regions, at the same time.
    fn submit(&self, load: &Load<'_>, regions: &[&str], part: u64) -> Result<(), DemoError> {
        self.show.waiting("");
        let each = part / regions.len() as u64;
        std::thread::scope(|scope| {
            let threads: Vec<_> = regions
                .iter()
                .map(|&region| {
                    let nodes = self.addresses(region);
                    scope.spawn(move || load.run(region, &nodes, each))
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
        })
    }

    fn addresses(&self, region: &str) -> Vec<(String, SocketAddr)> {
        let nodes = self.cluster.nodes.iter();
        nodes
            .filter(|n| REGIONS[n.region] == region)
            .map(|n| (n.name.clone(), n.http))
            .collect()
    }

    fn kill(&mut self, name: &str, words: &str) {
        let node = self.cluster.node(name);
        self.tally.take(&self.cluster, node);
        self.cluster.kill(node);
        self.show
            .event(&format!("{words}{name} is killed (SIGKILL)"));
    }

    fn tell_failover(&self, region: &str, from: &str, to: &str, lane: &Lane) {
        self.show.event(&format!(
            "    {region}'s lane has switched from {from} to {to} after {:.2} s of silence",
            lane.failover_ms / 1e3
        ));
    }

    /// Waits until the node that holds the lane says so.
    fn wait_lane(
        &mut self,
        region: &str,
        peer: &str,
        what: &str,
        done: impl Fn(&Lane) -> bool,
    ) -> Result<Lane, DemoError> {
        let deadline = Instant::now() + ACT;
        loop {
            self.interrupt.check()?;
            let lane = self.lane(region, peer);
            if let Some(lane) = &lane
                && done(lane)
            {
                self.show.waiting("");
                return Ok(lane.clone());
            }
            let behind = lane.as_ref().map_or(0, |l| l.lag_updates);
            self.show.waiting(&format!(
                "{region} -> {peer}: {behind} updates on their way"
            ));
            if Instant::now() >= deadline {
                let what = format!("{region} -> {peer}: {what}; the lane is {lane:?}");
                return Err(super::ClusterError::Deadline { what, limit: ACT }.into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The lane as its holder sees it, with the newest tail that any node of the region knows.
    fn lane(&self, region: &str, peer: &str) -> Option<Lane> {
        let nodes = self.cluster.nodes.iter().enumerate();
        let mut found: Option<Lane> = None;
        let mut tail = 0;
        for (i, _) in nodes.filter(|(_, n)| REGIONS[n.region] == region) {
            let Ok(status) = self.cluster.status(i) else {
                continue;
            };
            tail = tail.max(status.next_seq.saturating_sub(1));
            let lane = status.lanes.into_iter().find(|l| {
                l.region == peer && l.holder.as_deref() == Some(&status.node) && l.target.is_some()
            });
            found = found.or(lane);
        }
        let mut lane = found?;
        lane.tail = lane.tail.max(tail);
        lane.lag_updates = lane.tail.saturating_sub(lane.acked);
        Some(lane)
    }
}
