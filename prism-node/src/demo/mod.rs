//! `prism demo`: the whole ladder on this machine, judged by plain SQL.
//!
//! Three regions, six real node processes, a relay that loses packets. See `story` for what
//! happens, `check` for what decides whether it went well.

mod check;
pub mod cluster;
mod database;
mod load;
pub mod relay;
mod show;
mod story;
mod tally;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Serialize;

use cluster::ClusterError;
pub use tally::RegionFigures;

/// Which databases the demo runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A file per region.
    #[default]
    Sqlite,
    /// A throwaway PostgreSQL server per region.
    Postgres,
}

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Updates in all.
    pub updates: u64,
    /// Share of packets that are lost.
    pub loss: f64,
    /// The databases.
    pub database: Backend,
    /// One JSON object instead of lines and a table.
    pub json: bool,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            updates: 6_000,
            loss: 0.1,
            database: Backend::Sqlite,
            json: false,
        }
    }
}

/// How it went; `--json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct DemoResult {
    /// All databases are equal and hold every acknowledged update exactly once.
    pub ok: bool,
    /// What is wrong if not.
    pub problems: Vec<String>,
    /// The databases.
    pub database: Backend,
    /// Share of packets that were lost.
    pub loss: f64,
    /// Updates that a node has acknowledged.
    pub acknowledged: u64,
    /// Updates whose answer was cut off by a kill: there once or not at all, the same everywhere.
    pub unknown: u64,
    /// What the relay did.
    pub packets: Packets,
    /// Per region.
    pub regions: Vec<RegionFigures>,
    /// What happened, with seconds since the start.
    pub events: Vec<(f64, String)>,
    /// From the first update to the comparison.
    pub seconds: f64,
}

/// What the relay did.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Packets {
    /// Passed on.
    pub forwarded: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Sent late.
    pub reordered: u64,
}

/// Why the demo could not be played to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// A process, a file, a node.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A throwaway PostgreSQL server.
    #[error(transparent)]
    Server(#[from] prism_db::throwaway::ClusterError),
    /// Plain SQL.
    #[error("the demo's own SQL failed in {0}: {1}")]
    Sql(String, String),
    /// The machine.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
    /// Wrong use.
    #[error("{0}")]
    Usage(String),
    /// Ctrl-C.
    #[error("interrupted; everything that the demo started has been stopped")]
    Interrupted,
    /// With the place of the logs.
    #[error("{error}\nthe logs and databases are in {}", .dir.display())]
    Kept {
        /// What went wrong.
        error: Box<Self>,
        /// Where to look.
        dir: PathBuf,
    },
}

/// Set by Ctrl-C; everybody who waits looks at it.
#[derive(Debug, Clone)]
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn install() -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second one ends the process at once.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    fn check(&self) -> Result<(), DemoError> {
        if self.0.load(Ordering::Relaxed) {
            return Err(DemoError::Interrupted);
        }
        Ok(())
    }
}

/// Plays the demo and prints how it went. True if everything is as promised.
///
/// # Errors
/// [`DemoError`] if it could not be played to its end. Nothing that it started is left running.
pub fn run(options: &DemoOptions) -> Result<bool, DemoError> {
    if !(0.0..=0.9).contains(&options.loss) {
        let words = format!("--loss {} is not between 0 and 0.9", options.loss);
        return Err(DemoError::Usage(words));
    }
    if options.updates < 60 {
        let words = "--updates: at least 60, or there is nothing to see".to_owned();
        return Err(DemoError::Usage(words));
    }
    let interrupt = Interrupt::install().map_err(|e| DemoError::Io("cannot catch signals", e))?;
    let dir = tempfile::Builder::new()
        .prefix("prism-demo-")
        .tempdir()
        .map_err(|e| DemoError::Io("cannot make a directory", e))?;
    let show = show::Show::new(options, Instant::now());
    match story::play(options, dir.path(), &interrupt, &show) {
        Ok(result) => {
            show.result(&result);
            if !result.ok {
                let dir = dir.keep();
                eprintln!("the logs and databases are in {}", dir.display());
            }
            Ok(result.ok)
        }
        Err(DemoError::Interrupted) => Err(DemoError::Interrupted),
        // Nothing had run yet: there is nothing to look at.
        Err(error) if !dir.path().join("prism.toml").exists() => Err(error),
        Err(error) => {
            show.stop();
            Err(DemoError::Kept {
                error: Box::new(error),
                dir: dir.keep(),
            })
        }
    }
}
