//! `prism node`: runs a node until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::{CliError, NodeArgs, find_node};
use crate::config::{Config, Node};
use crate::http::{Access, Crowd, Patience, Server, ServerConfig};
use crate::reload::Reloader;
use crate::runtime::Runtime;
use crate::secrets;

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
    let access = config
        .http_access()
        .map_err(|e| CliError::Usage(e.to_string()))?;
    let protection = secrets::protection(&config, &node, &args.data_dir)
        .map_err(|e| CliError::Usage(e.to_string()))?;
    if !config.is_sealed() {
        tracing::warn!(
            "packets are not encrypted, because the configuration has no keys: only this machine is \
             listened to; for keys see: prism init, prism keygen, docs/security.md"
        );
    }
    // Before anything is started: a signal that comes now is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(CliError::failed)?;
    let runtime = Runtime::start(Arc::clone(&config), &node.name, &args.data_dir, protection)
        .map_err(CliError::failed)?;
    let server = match serve(&config, &node, access, &runtime) {
        Ok(server) => server,
        Err(e) => {
            let _ = runtime.drain(Duration::ZERO);
            return Err(e);
        }
    };
    tracing::info!(node = %node.name, http = %server.address(), "the HTTP API answers");
    let mut reloader = Reloader::new(Arc::clone(&config), &node.name);
    reloader.add(server.entrance());
    reloader.add(runtime.reloadable(Arc::clone(&config), &node.name, &args.data_dir));
    let signal = loop {
        let mut ends = None;
        for signal in signals.pending() {
            match signal {
                SIGHUP => reload(&reloader, &runtime),
                signal => ends = Some(signal),
            }
        }
        if let Some(signal) = ends {
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
            if signals.forever().any(|signal| signal != SIGHUP) {
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
    access: Access,
    runtime: &Runtime,
) -> Result<Server, CliError> {
    Server::start(ServerConfig {
        address: node.http,
        node: node.name.clone(),
        region: config.region(node.region).name.clone(),
        access,
        await_timeout: config.limits.await_timeout,
        max_update: usize::try_from(config.limits.max_update).unwrap_or(usize::MAX),
        patience: Patience::default(),
        crowd: Crowd::default(),
        binder: config.catalogue.clone(),
        intake: runtime.intake(),
        board: runtime.board(),
    })
    .map_err(CliError::failed)
}

/// Takes up what has changed; the outcome is logged and shown as an alarm.
fn reload(reloader: &Reloader, runtime: &Runtime) {
    let outcome = reloader.reload();
    match &outcome {
        Ok(waiting) if waiting.is_empty() => tracing::info!("the configuration is read again"),
        Ok(waiting) => tracing::warn!(
            "the configuration is read again; only a restart takes up: {}",
            waiting.join("; ")
        ),
        Err(problems) => {
            tracing::error!("the new configuration is not used, the old one goes on: {problems}")
        }
    }
    runtime.reloaded(&outcome);
}
