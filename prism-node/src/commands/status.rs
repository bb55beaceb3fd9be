//! `prism status`: every lane of every reachable node.

use std::io::{Write, stdout};
use std::time::Duration;

use serde_json::json;

use super::table::{Align, Table};
use crate::cli::{CliError, StatusArgs};
use crate::client::{Client, ClientError, Credentials};
use crate::config::Config;
use crate::status::Status;
use crate::words::printable;

/// A node that has not answered by then is shown as unreachable.
const TIMEOUT: Duration = Duration::from_secs(2);

const REFRESH: Duration = Duration::from_secs(1);

/// One node's answer.
type Answer = (String, Result<Status, ClientError>);

/// Prints it once, or again and again.
///
/// # Errors
/// Exit status 1 if no node can be reached.
pub fn run(args: &StatusArgs) -> Result<(), CliError> {
    let config = args.config.load()?;
    let credentials = config
        .http_credentials()
        .map_err(|e| CliError::Usage(e.to_string()))?;
    loop {
        let answers = ask(&config, &credentials);
        let text = if args.json {
            as_json(&answers)
        } else {
            as_text(&answers)
        };
        let mut out = stdout().lock();
        if args.watch && !args.json {
            // Home and clear below, so that nothing flickers.
            write!(out, "\x1b[H\x1b[J")?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        drop(out);
        if args.watch {
            std::thread::sleep(REFRESH);
        } else if answers.iter().all(|(_, answer)| answer.is_err()) {
            return Err(CliError::Failed(
                "no node can be reached; start one with: prism node --config FILE --node NAME --data-dir DIR"
                    .to_owned(),
            ));
        } else {
            return Ok(());
        }
    }
}

/// All nodes at once: one that hangs does not delay the others.
fn ask(config: &Config, credentials: &Credentials) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let asking: Vec<_> = config
            .nodes
            .iter()
            .map(|node| scope.spawn(|| Client::new(node, credentials, TIMEOUT).get("/v1/status")))
            .collect();
        config
            .nodes
            .iter()
            .zip(asking)
            .filter_map(|(node, thread)| Some((node.name.clone(), thread.join().ok()?)))
            .collect()
    })
}

fn as_json(answers: &[Answer]) -> String {
    let mut nodes = Vec::new();
    let mut unreachable = Vec::new();
    for (node, answer) in answers {
        match answer {
            Ok(status) => nodes.push(json!(status)),
            Err(e) => unreachable.push(json!({ "node": node, "error": e.to_string() })),
        }
    }
    format!(
        "{}\n",
        json!({ "nodes": nodes, "unreachable": unreachable })
    )
}

fn as_text(answers: &[Answer]) -> String {
    use Align::{Left, Right};
    let mut lanes = Table::new(&[
        ("node", Left),
        ("to", Left),
        ("holder", Left),
        ("target", Left),
        ("tail", Right),
        ("acked", Right),
        ("lag", Right),
        ("lag s", Right),
        ("rtt ms", Right),
        ("retrans", Right),
        ("failovers", Right),
        ("direct", Right),
    ]);
    let mut inlets = Table::new(&[
        ("node", Left),
        ("from", Left),
        ("sender", Left),
        ("applied", Right),
        ("state", Left),
    ]);
    let mut alarms = String::new();
    let mut unreachable = String::new();
    for (node, answer) in answers {
        let status = match answer {
            Ok(status) => status,
            Err(e) => {
                unreachable.push_str(&format!("unreachable: {}\n", printable(&e.to_string())));
                continue;
            }
        };
        for lane in &status.lanes {
            lanes.row(vec![
                node.clone(),
                printable(&lane.region),
                optional(lane.holder.as_deref()),
                optional(lane.target.as_deref()),
                lane.tail.to_string(),
                lane.acked.to_string(),
                lane.lag_updates.to_string(),
                format!("{:.1}", lane.lag_seconds),
                lane.rtt_ms
                    .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}")),
                lane.retransmits.to_string(),
                lane.failovers.to_string(),
                lane.direct_writes.to_string(),
            ]);
        }
        for inlet in &status.inlets {
            inlets.row(vec![
                node.clone(),
                printable(&inlet.region),
                optional(inlet.from.as_deref()),
                inlet.applied.to_string(),
                printable(&inlet.state),
            ]);
        }
        for alarm in &status.alarms {
            alarms.push_str(&format!(
                "ALARM {node}: {} since {}: {}\n    fix: {}\n",
                printable(&alarm.name),
                printable(&alarm.since),
                printable(&alarm.detail),
                printable(&alarm.remedy)
            ));
        }
        if status.rejected > 0 {
            alarms.push_str(&format!(
                "{node}: {} rejected updates wait for somebody; see: prism rejected list\n",
                status.rejected
            ));
        }
    }
    let parts = [lanes.render(), inlets.render(), alarms, unreachable];
    let parts: Vec<_> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    parts.join("\n")
}

fn optional(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), printable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Alarm, Inlet, Lane};

    #[test]
    fn the_table_shows_lanes_alarms_and_who_is_missing() {
        let status = Status {
            lanes: vec![Lane {
                region: "EU".into(),
                holder: Some("NA1".into()),
                target: Some("direct".into()),
                tail: 1200,
                acked: 1100,
                lag_updates: 100,
                lag_seconds: 2.26,
                rtt_ms: Some(0.613),
                retransmits: 5,
                failovers: 2,
                direct_writes: 40,
                failover_ms: 0.0,
                refused: 0,
            }],
            inlets: vec![Inlet {
                region: "AS".into(),
                applied: 7,
                state: "waiting: \x1b[2Jno table".into(),
                ..Inlet::default()
            }],
            alarms: vec![Alarm {
                name: "parked".into(),
                since: "2026-01-01T00:00:00Z".into(),
                detail: "EU is away".into(),
                remedy: "start EU1".into(),
            }],
            ..Status::default()
        };
        let answers = [
            ("NA1".to_owned(), Ok(status)),
            (
                "NA2".to_owned(),
                Err(ClientError::Unreachable {
                    node: "NA2".into(),
                    url: "http://127.0.0.1:8102".into(),
                    reason: "connection refused".into(),
                    refused: true,
                }),
            ),
        ];
        assert_eq!(
            as_text(&answers),
            "\
node  to  holder  target  tail  acked  lag  lag s  rtt ms  retrans  failovers  direct
NA1   EU  NA1     direct  1200   1100  100    2.3    0.61        5          2      40

node  from  sender  applied  state
NA1   AS    -             7  waiting:  [2Jno table

ALARM NA1: parked since 2026-01-01T00:00:00Z: EU is away
    fix: start EU1

unreachable: node NA2 does not answer at http://127.0.0.1:8102: connection refused
"
        );
    }
}
