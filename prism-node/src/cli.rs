//! The command line: what may be said, who does it, how it ends.
//!
//! Exit status: 0 done, 1 the thing asked for did not succeed, 2 wrong usage or configuration.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::commands;
use crate::config::{Config, ConfigError, Node};
use crate::words::{Indented, harmless};

/// Carries every update to every region's database, exactly once and in order.
#[derive(Debug, Parser)]
#[command(name = "prism", version, max_term_width = 100, infer_long_args = false)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Args)]
struct LogArgs {
    /// How log lines (on stderr) look
    #[arg(
        long,
        value_enum,
        default_value_t,
        global = true,
        value_name = "FORMAT"
    )]
    log: LogFormat,
    /// error, warn, info, debug, trace or a filter like prism_net=debug; default: RUST_LOG
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum LogFormat {
    #[default]
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole ladder on this machine: three regions, packet loss, dead nodes
    Demo(DemoArgs),
    /// Write a first cluster: commented prism.toml, keys, SQLite databases
    Init(InitArgs),
    /// Make a node's private key
    Keygen(KeygenArgs),
    /// Print the public key that belongs to a private key
    Pubkey(PubkeyArgs),
    /// Create or upgrade the prism schema in the regions' databases
    Migrate(MigrateArgs),
    /// Validate configuration, catalogue, databases and keys; say what to fix
    Check(CheckArgs),
    /// Run a node
    Node(NodeArgs),
    /// Submit one update
    Submit(SubmitArgs),
    /// Show every lane of every reachable node
    Status(StatusArgs),
    /// Updates that a region's database refused: list, show, retry, drop
    Rejected(RejectedArgs),
    /// Go past an update that a region's database does not take
    Skip(SkipArgs),
    /// Rebuild a region's database from a healthy region's, or add a region
    Adopt(AdoptArgs),
    #[command(hide = true)]
    Verify(LaterArgs),
    #[command(hide = true)]
    Repair(LaterArgs),
}

/// The configuration file.
#[derive(Debug, Clone, Args)]
pub struct ConfigArg {
    /// The cluster's configuration
    #[arg(long, value_name = "FILE", default_value = "prism.toml")]
    pub config: PathBuf,
}

impl ConfigArg {
    /// Reads it.
    ///
    /// # Errors
    /// Exit status 2 with everything that is wrong.
    pub fn load(&self) -> Result<Config, CliError> {
        Ok(Config::load(&self.config)?)
    }
}

/// `prism demo`
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Updates to submit over all regions
    #[arg(long, value_name = "N", default_value_t = 6000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub updates: u64,
    /// Share of packets that the network loses (0 to 0.9)
    #[arg(long, value_name = "P", default_value_t = 0.1, value_parser = loss)]
    pub loss: f64,
    /// Kind of the three databases
    #[arg(long, value_enum, default_value_t)]
    pub database: DemoDatabase,
    /// For machines
    #[arg(long)]
    pub json: bool,
}

/// Kind of the demo's databases: a file, or a throwaway server per region.
// Documented variants would make clap print a help that fits no screen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum DemoDatabase {
    #[default]
    Sqlite,
    Postgres,
}

fn loss(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(p) if (0.0..=0.9).contains(&p) => Ok(p),
        _ => Err("write a number from 0 to 0.9, e.g. 0.1 for 10 %".to_owned()),
    }
}

/// `prism init`
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Where to write; must not hold a prism.toml yet
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

/// `prism keygen`
#[derive(Debug, Clone, Args)]
pub struct KeygenArgs {
    /// New file (mode 0600); standard output if absent
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `prism pubkey`
#[derive(Debug, Clone, Args)]
pub struct PubkeyArgs {
    /// File with the private key
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `prism migrate`
#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub config: ConfigArg,
    /// Only this region's database
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// Also make the PostgreSQL role NAME, with the grants that a node needs and no others
    #[arg(long, value_name = "NAME")]
    pub role: Option<String>,
    /// Only print the SQL that makes the role; nothing is connected to
    #[arg(long, requires = "role")]
    pub print: bool,
    /// Log in as this role (the owner) instead of the one in the configuration; its password is taken
    /// from the environment variable PGPASSWORD
    #[arg(long = "as", value_name = "USER", conflicts_with = "print")]
    pub login: Option<String>,
}

/// `prism check`
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub config: ConfigArg,
    /// Check this node's own key as well
    #[arg(long, value_name = "NAME", requires = "data_dir")]
    pub node: Option<String>,
    /// Where its node.key is
    #[arg(long, value_name = "DIR", requires = "node")]
    pub data_dir: Option<PathBuf>,
}

/// `prism node`
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub config: ConfigArg,
    /// Which node of the configuration this is
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// The node's own directory: node.key and its journal
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// `prism submit`
#[derive(Debug, Clone, Args)]
pub struct SubmitArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub config: ConfigArg,
    /// The node that takes the update
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Name of the statement
    #[arg(value_name = "NAME")]
    pub statement: String,
    /// Its parameters; put `--` before one that starts with a dash
    #[arg(
        value_name = "PARAM",
        allow_negative_numbers = true,
        conflicts_with = "json_params"
    )]
    pub params: Vec<String>,
    /// The parameters as a JSON array (the way to say null)
    #[arg(long, value_name = "ARRAY")]
    pub json_params: Option<String>,
    /// Wait until every region has applied it
    #[arg(long)]
    pub r#await: bool,
    /// Your own id for it (a UUID): the same one again runs once
    #[arg(long, value_name = "UUID")]
    pub id: Option<uuid::Uuid>,
    /// Print the node's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// `prism status`
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub config: ConfigArg,
    /// Refresh every second until interrupted
    #[arg(long)]
    pub watch: bool,
    /// For machines
    #[arg(long)]
    pub json: bool,
}

/// `prism adopt`
#[derive(Debug, Clone, Args)]
pub struct AdoptArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub config: ConfigArg,
    /// The region whose database is made anew; its nodes must not run
    #[arg(value_name = "REGION")]
    pub region: String,
    /// The healthy region whose database is copied
    #[arg(long, value_name = "REGION", required_unless_present = "finish")]
    pub from: Option<String>,
    /// Overwrite what the region's database holds
    #[arg(long)]
    pub yes: bool,
    /// Although its nodes seem to run, or its last updates can be delivered nowhere
    #[arg(long)]
    pub force: bool,
    /// Leave out a region whose database cannot be reached (repeat for several)
    #[arg(long, value_name = "REGION")]
    pub without: Vec<String>,
    /// Only tell regions that were left out before
    #[arg(long, conflicts_with_all = ["from", "yes"])]
    pub finish: bool,
}

/// `prism rejected`
#[derive(Debug, Clone, Args)]
pub struct RejectedArgs {
    /// What to do
    #[command(subcommand)]
    pub command: RejectedCommand,
    /// The cluster's configuration
    #[arg(long, value_name = "FILE", default_value = "prism.toml", global = true)]
    config: PathBuf,
    /// Only this region's database
    #[arg(long, value_name = "NAME", global = true)]
    pub region: Option<String>,
    /// For machines
    #[arg(long, global = true)]
    pub json: bool,
}

impl RejectedArgs {
    /// Reads the configuration.
    ///
    /// # Errors
    /// Exit status 2 with everything that is wrong.
    pub fn load(&self) -> Result<Config, CliError> {
        Ok(Config::load(&self.config)?)
    }
}

/// `prism rejected ...`
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum RejectedCommand {
    /// Those that nobody has resolved, oldest first
    List,
    /// One of them, whole
    Show {
        /// As listed
        id: i64,
    },
    /// Run it once more, in the region that refused it
    Retry {
        /// As listed
        id: i64,
    },
    /// Live without it
    Drop {
        /// As listed
        id: i64,
    },
}

/// `prism skip`
#[derive(Debug, Clone, Args)]
pub struct SkipArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub config: ConfigArg,
    /// The region that the update comes from
    #[arg(value_name = "STREAM")]
    pub stream: String,
    /// Its number
    #[arg(value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub seq: u64,
    /// The region whose database does not take it
    #[arg(long, value_name = "NAME")]
    pub region: String,
}

#[derive(Debug, Clone, Args)]
struct LaterArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<std::ffi::OsString>,
}

/// How a command ends when it is not done.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Exit status 2.
    #[error("{0}")]
    Usage(String),
    /// Exit status 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Exit status 1.
    #[error("{0}")]
    Failed(String),
    /// Exit status 1; everything has been said already.
    #[error("")]
    Said,
    /// Whoever read the output has gone (`prism status | head`); nobody is left to tell.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl CliError {
    /// Exit status 1 with a typed error's own words.
    pub fn failed(e: impl std::fmt::Display) -> Self {
        Self::Failed(e.to_string())
    }

    fn status(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Config(_) => ExitCode::from(2),
            Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Self::Failed(_) | Self::Said | Self::Output(_) => ExitCode::FAILURE,
        }
    }
}

/// The node of a name, or which names there are.
///
/// # Errors
/// Exit status 2.
pub fn find_node<'c>(config: &'c Config, name: &str) -> Result<&'c Node, CliError> {
    config.node_named(name).ok_or_else(|| {
        let names: Vec<_> = config.nodes.iter().map(|n| n.name.as_str()).collect();
        CliError::Usage(format!(
            "{} has no node \"{name}\"; its nodes are {}",
            config.path.display(),
            names.join(", ")
        ))
    })
}

/// Runs the command that the process was called with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(e) = start_log(&cli) {
        eprintln!("error: {e}");
        return e.status();
    }
    let done = match cli.command {
        Command::Demo(args) => commands::demo::run(&args),
        Command::Init(args) => commands::init::run(&args),
        Command::Keygen(args) => commands::keys::keygen(&args),
        Command::Pubkey(args) => commands::keys::pubkey(&args),
        Command::Migrate(args) => commands::migrate::run(&args),
        Command::Check(args) => commands::check::run(&args),
        Command::Node(args) => commands::node::run(&args),
        Command::Submit(args) => commands::submit::run(&args),
        Command::Status(args) => commands::status::run(&args),
        Command::Rejected(args) => commands::rejected::run(&args),
        Command::Skip(args) => commands::skip::run(&args),
        Command::Adopt(args) => commands::adopt::run(&args),
        Command::Verify(_) => later("verify"),
        Command::Repair(_) => later("repair"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let silent = matches!(&e, CliError::Said)
                || matches!(&e, CliError::Output(e) if e.kind() == io::ErrorKind::BrokenPipe);
            if !silent {
                // Nothing can be done if stderr is gone as well.
                let _ = writeln!(io::stderr(), "error: {}", harmless(&e.to_string()));
            }
            e.status()
        }
    }
}

fn later(command: &str) -> Result<(), CliError> {
    Err(CliError::Usage(format!(
        "`prism {command}` is not built yet; this version has what `prism --help` lists"
    )))
}

fn start_log(cli: &Cli) -> Result<(), CliError> {
    // One-shot commands answer on stdout; only a node tells what it does.
    let default = match cli.command {
        Command::Node(_) => "info",
        _ => "warn",
    };
    let filter = match (&cli.log.log_level, std::env::var("RUST_LOG")) {
        (Some(level), _) => level.clone(),
        (None, Ok(level)) if !level.is_empty() => level,
        _ => default.to_owned(),
    };
    let filter = EnvFilter::try_new(&filter)
        .map_err(|e| CliError::Usage(format!("log level \"{filter}\": {e}")))?;
    let colours = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Indented {
            to: io::stderr(),
            colours,
        })
        .with_ansi(colours)
        .with_target(false);
    // A second call in one process (tests) keeps the first subscriber.
    let _ = match cli.log.log {
        LogFormat::Human => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent_and_its_help_fits_a_screen() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        assert!(command.render_help().to_string().lines().count() <= 24);
    }
}
