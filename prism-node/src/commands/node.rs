//! `prism node`: runs a node until it is told to stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::{CliError, NodeArgs, find_node};
use crate::config::{Config, Node};
use crate::http::{Patience, Server, ServerConfig};
use crate::keys::{KeyError, SecretKey};
use crate::runtime::Runtime;

/// What is not delivered by then waits on disk; service managers kill after 30 to 90 seconds.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);

/// A signal, or the end of a part of the node, is noticed within this.
const LOOK: Duration = Duration::from_millis(200);

/// Runs until SIGTERM or SIGINT has drained it.
///
/// # Errors
/// Exit status 2 for a wrong configuration, 1 if the node cannot start or a part of it has stopped.
pub fn run(args: &NodeArgs) -> Result<(), CliError> {
    let config = Arc::new(args.config.load()?);
    let node = find_node(&config, &args.node)?.clone();
    let token = config.token().map_err(|e| CliError::Usage(e.to_string()))?;
    config
        .psk()
        .map_err(|e| CliError::Usage(format!("psk_file: {e}")))?;
    own_key(&node, &args.data_dir)?;
    // Before anything is started: a signal that comes now is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(CliError::failed)?;
    let runtime = Runtime::start(Arc::clone(&config), &node.name, &args.data_dir)
        .map_err(CliError::failed)?;
    let server = match serve(&config, &node, token, &runtime) {
        Ok(server) => server,
        Err(e) => {
            let _ = runtime.drain(Duration::ZERO);
            return Err(e);
        }
    };
    tracing::info!(node = %node.name, http = %server.address(), "the HTTP API answers");
    let signal = loop {
        if let Some(signal) = signals.pending().next() {
            break signal;
        }
        if let Some(why) = runtime.died(LOOK) {
            let _ = runtime.drain(Duration::ZERO);
            return Err(CliError::Failed(format!(
                "{why}; the node has given its lanes to its siblings and ends, start it again; \
                 everything that it has acknowledged is stored"
            )));
        }
    };
    tracing::info!(
        signal,
        limit_s = DRAIN_LIMIT.as_secs(),
        "stopping: new updates are refused, what waits is delivered; a second signal stops at once"
    );
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if signals.forever().next().is_some() {
                tracing::warn!("second signal: stopped at once; nothing acknowledged is lost");
                std::process::exit(1);
            }
        })
        .map_err(CliError::failed)?;
    let report = runtime.drain(DRAIN_LIMIT);
    server.stop();
    tracing::info!("stopped: {report}");
    Ok(())
}

fn serve(
    config: &Config,
    node: &Node,
    token: Option<String>,
    runtime: &Runtime,
) -> Result<Server, CliError> {
    Server::start(ServerConfig {
        address: node.http,
        node: node.name.clone(),
        region: config.region(node.region).name.clone(),
        token,
        await_timeout: config.limits.await_timeout,
        max_update: usize::try_from(config.limits.max_update).unwrap_or(usize::MAX),
        patience: Patience::default(),
        binder: config.catalogue.clone(),
        intake: runtime.intake(),
        board: runtime.board(),
    })
    .map_err(CliError::failed)
}

/// The node's key must be private, and the one that the others know.
fn own_key(node: &Node, data_dir: &Path) -> Result<Option<SecretKey>, CliError> {
    let path = data_dir.join("node.key");
    let key = match SecretKey::read(&path) {
        Ok(key) => key,
        // Needed only once sessions are encrypted, unless the others expect one.
        Err(KeyError::Missing(_)) if node.public_key.is_none() => return Ok(None),
        Err(e) => return Err(CliError::Usage(e.to_string())),
    };
    let public = key.public();
    let expected = [node.public_key, node.next_public_key];
    if expected.iter().flatten().next().is_some() && !expected.contains(&Some(public)) {
        return Err(CliError::Usage(format!(
            "{} belongs to another node: its public key is {public}, the configuration says {} for {}; name the right --data-dir, or put public_key = \"{public}\" into the configuration",
            path.display(),
            node.public_key.map(|k| k.to_string()).unwrap_or_default(),
            node.name
        )));
    }
    Ok(Some(key))
}
