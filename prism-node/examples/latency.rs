//! How long after its commit at the origin is an update visible at a peer?
//!
//! Two nodes in this process, two databases on one throwaway PostgreSQL server (`fsync` on), an
//! otherwise idle system, loopback. Run it with
//! `cargo run --release -p prism-node --example latency [UPDATES]`.
//!
//! The clock runs from the answer to the submit (committed, durable) until plain SQL on a third
//! connection sees the row at the peer. That connection asks in a tight loop, so every figure is
//! too large by up to one query, which is printed too.

use std::error::Error;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use prism_db::Topology;
use prism_db::throwaway::Cluster;
use prism_net::Protection;
use prism_node::config::Config;
use prism_node::intake::{Answer, Mode, NewUpdate};
use prism_node::runtime::Runtime;

const PAUSE: Duration = Duration::from_millis(3);
const LIMIT: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let updates: usize = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 2_000,
    };
    let server = Cluster::start()?;
    let dir = tempfile::tempdir()?;
    let config = Arc::new(cluster(&server, dir.path())?);
    let na = Runtime::start(
        Arc::clone(&config),
        "NA1",
        &dir.path().join("NA1"),
        Protection::Open,
    )?;
    let eu = Runtime::start(
        Arc::clone(&config),
        "EU1",
        &dir.path().join("EU1"),
        Protection::Open,
    )?;
    let start = Instant::now();
    while na.board().ready().is_err() || eu.board().ready().is_err() {
        if start.elapsed() > LIMIT {
            return Err("the nodes do not get ready".into());
        }
        std::thread::sleep(PAUSE);
    }

    let mut peer = Client::connect(&server.url("eu"), NoTls)?;
    let sees = peer.prepare("SELECT 1 FROM notes WHERE id = $1")?;
    let intake = na.intake();
    let warm_up = updates / 10 + 20;
    let (mut visible, mut commit, mut query) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..warm_up + updates {
        let id = i64::try_from(i)?;
        let begin = Instant::now();
        let answers = intake.submit(vec![note(id)])?.wait()?;
        let committed = Instant::now();
        if !matches!(answers[..], [Answer::Committed { .. }]) {
            return Err(format!("not committed: {answers:?}").into());
        }
        let mut asked = Instant::now();
        while peer.query_opt(&sees, &[&id])?.is_none() {
            asked = Instant::now();
            if committed.elapsed() > LIMIT {
                return Err("the update does not arrive".into());
            }
        }
        if i >= warm_up {
            visible.push(committed.elapsed());
            commit.push(committed - begin);
            query.push(asked.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
    println!("{updates} updates, one at a time, {PAUSE:?} apart; milliseconds");
    println!("{:<34}{:>8}{:>8}{:>8}{:>8}", "", "p50", "p90", "p99", "max");
    show("submit to committed at the origin", &mut commit);
    show("committed to visible at the peer", &mut visible);
    show("one query of the observer", &mut query);
    let _ = na.drain(Duration::from_secs(1));
    let _ = eu.drain(Duration::ZERO);
    Ok(())
}

fn note(id: i64) -> NewUpdate {
    NewUpdate {
        statement: "note".to_owned(),
        params: vec![prism_db::Value::Int(id)],
        request_id: uuid::Uuid::new_v4(),
        mode: Mode::Background,
        timeout: None,
    }
}

/// Two regions with a node each, migrated.
fn cluster(server: &Cluster, dir: &Path) -> Result<Config, Box<dyn Error>> {
    let mut text = String::from("cluster = \"latency\"\n");
    for (region, name) in [("NA", "na"), ("EU", "eu")] {
        server.create_database(name)?;
        let mut client = Client::connect(&server.url(name), NoTls)?;
        client.batch_execute("CREATE TABLE notes (id bigint PRIMARY KEY)")?;
        let udp = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let http = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        text.push_str(&format!(
            "[[region]]\nname = \"{region}\"\ndatabase = \"{}\"\n[[region.node]]\n\
             name = \"{region}1\"\nudp = \"{udp}\"\nhttp = \"{http}\"\n",
            server.url(name)
        ));
    }
    text.push_str(
        "[[statement]]\nname = \"note\"\nsql = \"INSERT INTO notes (id) VALUES ($1)\"\n\
         params = [\"int\"]\nkind = \"insert\"\n",
    );
    let config = Config::parse(&text, &dir.join("prism.toml"))?;
    let regions: Arc<[_]> = config
        .regions
        .iter()
        .map(|r| (r.name.clone(), r.key))
        .collect();
    for region in &config.regions {
        let topology = Topology {
            region: region.name.clone(),
            regions: Arc::clone(&regions),
        };
        prism_db::migrate(&region.database, &topology, &config.catalogue)?;
    }
    Ok(config)
}

fn show(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| {
        let i = (times.len() as f64 * share) as usize;
        let time = times.get(i.min(times.len().saturating_sub(1)));
        time.map_or(0.0, |t| t.as_secs_f64() * 1e3)
    };
    println!(
        "{what:<34}{:>8.3}{:>8.3}{:>8.3}{:>8.3}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
}
