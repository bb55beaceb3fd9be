//! SIGHUP: a changed configuration is taken up while the node runs, whole or not at all.
//!
//! Every part that can change something prepares it first, from the new configuration and the files
//! that it names. Only when all of them have found everything in order is anything changed.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;

/// Puts in force what was prepared. Cannot fail.
pub type Commit = Box<dyn FnOnce() + Send>;

/// A part of the node that takes up a changed configuration while it runs.
pub trait Reloadable: Send {
    /// Reads and checks what it needs of the new configuration, files included. Nothing changes
    /// before the [`Commit`] is called, which happens only if no part has failed.
    ///
    /// # Errors
    /// For people: which file, what is wrong with it, how to mend it.
    fn prepare(&self, config: &Config) -> Result<Commit, String>;
}

/// Everything of a running node that can be reloaded.
pub struct Reloader {
    path: PathBuf,
    /// As it was when the node started: what needs a restart is measured by it.
    running: Arc<Config>,
    node: String,
    parts: Vec<Box<dyn Reloadable>>,
}

impl Reloader {
    /// For a node that runs with this configuration.
    #[must_use]
    pub fn new(running: Arc<Config>, node: &str) -> Self {
        Self {
            path: running.path.clone(),
            running,
            node: node.to_owned(),
            parts: Vec::new(),
        }
    }

    /// Adds a part.
    pub fn add(&mut self, part: impl Reloadable + 'static) {
        self.parts.push(Box::new(part));
    }

    /// Reads everything again and puts it in force. What it has not taken up, because that needs a
    /// restart, is named.
    ///
    /// # Errors
    /// Everything that is wrong; nothing has changed then.
    pub fn reload(&self) -> Result<Vec<String>, String> {
        let config = Config::load(&self.path).map_err(|e| e.to_string())?;
        if config.node_named(&self.node).is_none() {
            return Err(format!(
                "{} has no node {} any more; to take it out of the cluster, stop it",
                self.path.display(),
                self.node
            ));
        }
        let (mut commits, mut problems) = (Vec::new(), Vec::new());
        for part in &self.parts {
            match part.prepare(&config) {
                Ok(commit) => commits.push(commit),
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(problems.join("\n"));
        }
        commits.into_iter().for_each(|commit| commit());
        Ok(differences(&self.running, &config, &self.node))
    }
}

/// What of the new configuration only a restart takes up, in its own words.
fn differences(running: &Config, new: &Config, node: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut differs = |differs: bool, what: &str| {
        if differs {
            found.push(what.to_owned());
        }
    };
    differs(running.cluster != new.cluster, "the name of the cluster");
    differs(
        running.is_sealed() != new.is_sealed(),
        if new.is_sealed() {
            "keys: the cluster had none (stop all nodes, then start them)"
        } else {
            "keys: the cluster has none any more (stop all nodes, then start them)"
        },
    );
    let topology = |config: &Config| -> Vec<(String, Vec<String>)> {
        let name = |id: &prism_proto::NodeId| config.node(*id).name.clone();
        let regions = config.regions.iter();
        regions
            .map(|r| (r.name.clone(), r.nodes.iter().map(name).collect()))
            .collect()
    };
    differs(
        topology(running) != topology(new),
        "the regions and nodes, or their order",
    );
    let databases = |config: &Config| -> Vec<_> {
        let regions = config.regions.iter();
        regions
            .map(|r| (r.database.clone(), r.direct.clone()))
            .collect()
    };
    differs(databases(running) != databases(new), "databases");
    if let (Some(old), Some(new)) = (running.node_named(node), new.node_named(node)) {
        differs(old.bind_udp != new.bind_udp, "this node's udp address");
        differs(old.http != new.http, "this node's http address");
    }
    differs(running.retry != new.retry, "[retry]");
    differs(running.limits != new.limits, "[limits]");
    differs(
        running.catalogue.digest() != new.catalogue.digest(),
        "statements",
    );
    found
}
