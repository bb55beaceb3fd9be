//! Memory of a node whose peer region is away while updates are submitted: it must not grow with
//! them. Prints the resident size every tenth of the way.
//!
//! ```sh
//! cargo run --release -p prism-node --example memory -- 1000000
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prism_db::{Topology, Value};
use prism_net::Protection;
use prism_node::config::Config;
use prism_node::intake::{Answer, Mode, NewUpdate};
use prism_node::runtime::Runtime;

/// Updates of one call.
const BATCH: usize = 500;

fn config(dir: &Path) -> Result<Arc<Config>, Box<dyn Error>> {
    let text = format!(
        r#"
cluster = "memory"
[[region]]
name = "NA"
database = "sqlite:{0}/na.db"
[[region.node]]
name = "NA1"
udp = "127.0.0.1:17901"
http = "127.0.0.1:17911"
[[region]]
name = "EU"
database = "sqlite:{0}/none/eu.db"
[[region.node]]
name = "EU1"
udp = "127.0.0.1:17902"
http = "127.0.0.1:17912"
[[statement]]
name = "bump"
sql = "UPDATE counters SET n = n + $1 WHERE id = 1"
params = ["int"]
kind = "delta"
"#,
        dir.display()
    );
    Ok(Arc::new(Config::parse(&text, &dir.join("prism.toml"))?))
}

/// Resident bytes of this process.
fn resident() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().next());
    Ok(kib.ok_or("no VmRSS")?.parse::<u64>()? * 1024)
}

fn main() -> Result<(), Box<dyn Error>> {
    let total: usize = std::env::args().nth(1).map_or(Ok(100_000), |n| n.parse())?;
    let dir = tempfile::tempdir()?;
    let config = config(dir.path())?;
    let db = rusqlite::Connection::open(dir.path().join("na.db"))?;
    db.execute_batch(
        "CREATE TABLE counters (id INT PRIMARY KEY, n INT); INSERT INTO counters VALUES (1, 0)",
    )?;
    let topology = Topology {
        region: "NA".into(),
        regions: config
            .regions
            .iter()
            .map(|r| (r.name.clone(), r.key))
            .collect(),
    };
    prism_db::migrate(&config.regions[0].database, &topology, &config.catalogue)?;
    let node = Runtime::start(
        Arc::clone(&config),
        "NA1",
        &dir.path().join("NA1"),
        Protection::Open,
    )?;
    while node.board().ready().is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let intake = node.intake();
    let start = Instant::now();
    println!(
        "{:>9} updates  {:>7.1} MiB",
        0,
        resident()? as f64 / 1048576.0
    );
    let mut done = 0;
    let mut shown = 0;
    while done < total {
        let updates = (0..BATCH).map(|_| NewUpdate {
            statement: "bump".into(),
            params: vec![Value::Int(1)],
            request_id: uuid::Uuid::new_v4(),
            mode: Mode::Background,
            timeout: None,
        });
        let answers = intake.submit(updates.collect())?.wait()?;
        if !answers
            .iter()
            .all(|a| matches!(a, Answer::Committed { .. }))
        {
            return Err(format!("not committed: {:?}", answers.first()).into());
        }
        done += BATCH;
        if done * 10 / total > shown {
            shown = done * 10 / total;
            println!(
                "{done:>9} updates  {:>7.1} MiB",
                resident()? as f64 / 1048576.0
            );
        }
    }
    let lag = node.board().status().lanes[0].lag_updates;
    println!(
        "{lag} updates wait for EU; {:.0} updates/s",
        done as f64 / start.elapsed().as_secs_f64()
    );
    let _ = node.drain(Duration::ZERO);
    Ok(())
}
