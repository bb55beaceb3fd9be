//! Peace: until every lane is level, every journal empty and nothing is half-done.

use std::time::{Duration, Instant};

use prism_node::status::{Alarm, Status};
use serde_json::Value;

use crate::clients::agent;
use crate::faults::name;
use crate::ops::{Op, Outcome};
use crate::world::{NODES, REGIONS, World};

/// What healing may take, with everything that has piled up.
const LIMIT: Duration = Duration::from_secs(180);
/// Between two looks; two equal ones in a row mean that nothing moves any more.
const LOOK: Duration = Duration::from_millis(400);
/// Alarms that a dead letter leaves, here and at its origin, until a person has dealt with it.
const STAY: [&str; 2] = ["rejected", "peer-rejected"];

/// What must come to an end by itself.
const UNFINISHED: [(&str, &str); 3] = [
    (
        "held updates",
        "SELECT count(*) FROM prism.outbox WHERE state = 'h'",
    ),
    (
        "held requests",
        "SELECT count(*) FROM prism.request WHERE state = 'h'",
    ),
    (
        "refusals that their origin has not dealt with",
        "SELECT count(*) FROM prism.rejected WHERE NOT told AND seq IS NOT NULL",
    ),
];

/// A transaction that nobody ends.
const FORGOTTEN: &str = "
    SELECT concat_ws(' ', pid, application_name, state, now() - xact_start, query)
    FROM pg_stat_activity
    WHERE datname = current_database() AND xact_start < now() - interval '3 s' LIMIT 1";

/// Waits until nothing is on its way. The newest number of each stream.
///
/// # Panics
/// If that does not happen; says what is still missing.
pub fn level(world: &World) -> Vec<i64> {
    let deadline = Instant::now() + LIMIT;
    let mut last: Result<Vec<i64>, String> = Err(String::new());
    loop {
        let now = look(world);
        if let (Ok(now), Ok(last)) = (&now, &last)
            && now == last
        {
            return now.clone();
        }
        last = now;
        if Instant::now() >= deadline {
            let missing = last.err().unwrap_or_default();
            let alarms = alarmed(world).unwrap_or_default();
            panic!("not level within {LIMIT:?}: {missing}\nalarms: {alarms:?}");
        }
        std::thread::sleep(LOOK);
    }
}

fn look(world: &World) -> Result<Vec<i64>, String> {
    let mut tails = Vec::new();
    for (r, region) in REGIONS.iter().enumerate() {
        let words = |e: postgres::Error| format!("{region}: {e}");
        let mut client = world.sql(r).map_err(words)?;
        let mut number = |sql: &str, peer: &[&(dyn postgres::types::ToSql + Sync)]| {
            let row = client.query_opt(sql, peer).map_err(words)?;
            Ok::<_, String>(row.map_or(0, |row| row.get::<_, i64>(0)))
        };
        let tail = number("SELECT next_seq - 1 FROM prism.region", &[])?;
        for (what, sql) in UNFINISHED {
            let count = number(sql, &[])?;
            if count > 0 {
                return Err(format!("{region} has {count} {what}"));
            }
        }
        for (p, peer) in REGIONS.iter().enumerate().filter(|(p, _)| *p != r) {
            let acked = number("SELECT acked FROM prism.lane WHERE peer = $1", &[peer])?;
            let mut there = world.sql(p).map_err(|e| format!("{peer}: {e}"))?;
            let row = there
                .query_opt(
                    "SELECT applied FROM prism.watermark WHERE stream = $1",
                    &[region],
                )
                .map_err(|e| format!("{peer}: {e}"))?;
            let applied = row.map_or(0, |row| row.get::<_, i64>(0));
            if (acked, applied) != (tail, tail) {
                return Err(format!(
                    "{region} is at {tail}, {peer} has applied {applied}, {region} knows of {acked}"
                ));
            }
        }
        if let Some(row) = client.query_opt(FORGOTTEN, &[]).map_err(words)? {
            let what: String = row.get(0);
            return Err(format!("{region} has an open transaction: {what}"));
        }
        tails.push(tail);
    }
    for status in statuses(world)? {
        if status.journal.entries > 0 {
            let entries = status.journal.entries;
            return Err(format!("{} has {entries} in its journal", status.node));
        }
    }
    Ok(tails)
}

/// Of all nodes.
pub fn statuses(world: &World) -> Result<Vec<Status>, String> {
    let cluster = world.cluster();
    let status = |n| {
        let ready = cluster.get(n, "/readyz").map_err(|e| e.to_string())?;
        if ready.0 != 200 {
            return Err(format!("{} is not ready: {}", name(n), ready.1));
        }
        cluster.status(n).map_err(|e| e.to_string())
    };
    (0..REGIONS.len() * NODES).map(status).collect()
}

fn alarmed(world: &World) -> Result<Vec<(String, Alarm)>, String> {
    let all = statuses(world)?
        .into_iter()
        .flat_map(|s| s.alarms.into_iter().map(move |a| (s.node.clone(), a)))
        .filter(|(_, a)| !STAY.contains(&a.name.as_str()));
    Ok(all.collect())
}

/// Waits until only those alarms are left that a person has to end.
pub fn alarms(world: &World) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let left = alarmed(world)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("alarms that do not end: {left:?}"));
        }
        std::thread::sleep(LOOK);
    }
}

/// What `GET /v1/updates/{request_id}` says, asked at the origin: the `outcome`, or `unknown`.
pub fn ask(world: &World, ops: &[&Op]) -> Vec<String> {
    let http = agent();
    let ask = |(i, op): (usize, &&Op)| {
        let node = world.http[op.origin * NODES + i % NODES];
        let url = format!("http://{node}/v1/updates/{}", op.request);
        let answer = http.get(&url).call().and_then(|mut answer| {
            let text = answer.body_mut().read_to_string()?;
            Ok((answer.status().as_u16(), text))
        });
        match answer {
            Ok((404, _)) => "unknown".to_owned(),
            Ok((status, text)) => {
                let body: Value = serde_json::from_str(&text).unwrap_or_default();
                let outcome = body["outcome"].as_str();
                outcome.map_or_else(|| format!("{status} {text}"), str::to_owned)
            }
            Err(e) => e.to_string(),
        }
    };
    ops.iter().enumerate().map(ask).collect()
}

/// Whether an answer to a question means that the update took effect and stays.
pub fn settled(op: &Op, answer: &str) -> Result<bool, String> {
    match answer {
        "applied" | "committed" => Ok(true),
        "unknown" if op.outcome == Outcome::Unknown => Ok(false),
        "refused" | "undone" => Ok(false),
        other => Err(format!("{op}: GET says {other}")),
    }
}
