//! What the demo prints: a progress bar, a line per event, a table.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Backend, DemoOptions, DemoResult, RegionFigures};

/// See the module.
#[derive(Debug)]
pub(super) struct Show {
    bar: ProgressBar,
    json: bool,
    start: Instant,
    events: Mutex<Vec<(f64, String)>>,
}

impl Show {
    pub(super) fn new(options: &DemoOptions, start: Instant) -> Self {
        let bar = ProgressBar::new(options.updates);
        if options.json {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = "{elapsed_precise} [{bar:30}] {pos}/{len} updates acknowledged  {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        let show = Self {
            bar,
            json: options.json,
            start,
            events: Mutex::default(),
        };
        let databases = match options.database {
            Backend::Sqlite => "SQLite files",
            Backend::Postgres => "PostgreSQL servers",
        };
        show.event(&format!(
            "three regions with two nodes each on three {databases}; {} updates, {:.0} % of all \
             packets are lost",
            options.updates,
            options.loss * 100.0
        ));
        show
    }

    /// A line.
    pub(super) fn event(&self, words: &str) {
        let at = self.start.elapsed().as_secs_f64();
        if !self.json {
            self.bar.suspend(|| println!("{at:6.1} s  {words}"));
        }
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push((at, words.to_owned()));
    }

    /// So many updates more.
    pub(super) fn progress(&self, updates: u64) {
        self.bar.inc(updates);
    }

    /// What is being waited for.
    pub(super) fn waiting(&self, words: &str) {
        self.bar.set_message(words.to_owned());
    }

    /// All events so far.
    pub(super) fn events(&self) -> Vec<(f64, String)> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes the bar away.
    pub(super) fn stop(&self) {
        self.bar.finish_and_clear();
    }

    /// The end.
    pub(super) fn result(&self, result: &DemoResult) {
        self.stop();
        if self.json {
            match serde_json::to_string_pretty(result) {
                Ok(text) => println!("{text}"),
                Err(error) => eprintln!("the result cannot be printed: {error}"),
            }
            return;
        }
        println!("\n{}", table(&result.regions));
        let packets = result.packets;
        println!(
            "{} packets passed the relay, {} were lost, {} came twice, {} came late",
            packets.forwarded, packets.lost, packets.duplicated, packets.reordered
        );
        let unknown = match result.unknown {
            0 => String::new(),
            n => format!(" ({n} more had no answer when their node was killed)"),
        };
        println!(
            "{} updates were acknowledged{unknown} in {:.1} s",
            result.acknowledged, result.seconds
        );
        if result.ok {
            println!(
                "OK: the three databases are equal, and every acknowledged update is in each of \
                 them exactly once"
            );
        } else {
            println!("FAILED:");
            for problem in &result.problems {
                println!("  {problem}");
            }
        }
    }
}

const HEAD: [&str; 8] = [
    "region",
    "originated",
    "applied by node",
    "by direct SQL",
    "retransmitted",
    "duplicates suppressed",
    "failovers",
    "time to fail over",
];

fn table(regions: &[RegionFigures]) -> String {
    let mut text = HEAD.join("  ");
    text.push('\n');
    for r in regions {
        let time = if r.failovers == 0 {
            "-".to_owned()
        } else {
            format!("{:.2} s", r.failover_ms / 1e3)
        };
        let cells = [
            r.region.clone(),
            r.originated.to_string(),
            r.applied_by_node.to_string(),
            r.applied_by_direct_sql.to_string(),
            r.retransmitted.to_string(),
            r.duplicates_suppressed.to_string(),
            r.failovers.to_string(),
            time,
        ];
        let mut line = String::new();
        for (i, (cell, head)) in cells.iter().zip(HEAD).enumerate() {
            let width = head.len();
            if i == 0 {
                line.push_str(&format!("{cell:<width$}"));
            } else {
                line.push_str(&format!("  {cell:>width$}"));
            }
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_heads() {
        let row = RegionFigures {
            region: "NA".into(),
            originated: 1234,
            failovers: 2,
            failover_ms: 1310.0,
            ..RegionFigures::default()
        };
        let text = table(&[row]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].len(), lines[1].len());
        assert!(lines[1].starts_with("NA            1234"), "{text}");
        assert!(lines[1].ends_with("1.31 s"), "{text}");
    }
}
