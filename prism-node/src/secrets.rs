//! What a node proves itself with: `node.key` in its data directory and the cluster's pre-shared
//! key, checked against the configuration.

use std::path::{Path, PathBuf};

use prism_net::{NodeAddress, Protection, SessionKeys};

use crate::config::{Config, Node};
use crate::keys::{KeyError, PublicKey, SecretKey};

/// Why a node cannot prove itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// The pre-shared key.
    #[error("psk_file: {0}")]
    Psk(#[source] KeyError),
    /// The node's own key.
    #[error(transparent)]
    Own(#[from] KeyError),
    /// The others would not know this node.
    #[error(
        "{} belongs to another node: its public key is {has}, the configuration says {says} for {node}; name the right --data-dir, or put public_key = \"{has}\" into the configuration",
        .path.display()
    )]
    Foreign {
        /// The key file.
        path: PathBuf,
        /// Its public key.
        has: PublicKey,
        /// What the configuration says.
        says: PublicKey,
        /// The node.
        node: String,
    },
}

/// How the node protects its packets: sealed if the configuration has keys.
///
/// # Errors
/// [`SecretsError`] names the file and the fix.
pub fn protection(
    config: &Config,
    node: &Node,
    data_dir: &Path,
) -> Result<Protection, SecretsError> {
    let Some(psk) = config.psk().map_err(SecretsError::Psk)? else {
        return Ok(Protection::Open);
    };
    let own = own_key(node, data_dir)?;
    Ok(Protection::Sealed(SessionKeys {
        private: own.bytes().clone(),
        psk: psk.bytes().clone(),
    }))
}

/// The node's key must be private, and one that the others know.
///
/// # Errors
/// [`SecretsError`] names the file and the fix.
pub fn own_key(node: &Node, data_dir: &Path) -> Result<SecretKey, SecretsError> {
    let path = data_dir.join("node.key");
    let key = SecretKey::read(&path)?;
    let has = key.public();
    let known = [node.public_key, node.next_public_key];
    match node.public_key {
        Some(says) if !known.contains(&Some(has)) => Err(SecretsError::Foreign {
            path,
            has,
            says,
            node: node.name.clone(),
        }),
        _ => Ok(key),
    }
}

/// The nodes of a running cluster with the addresses and keys of a configuration. One that is not
/// in it any more, or in another region, keeps its place and loses its keys: nobody can prove to be
/// it. This node itself (`me`) stays what it is until it is started again.
#[must_use]
pub(crate) fn addresses(running: &Config, config: &Config, me: &str) -> Vec<NodeAddress> {
    let nodes = running.nodes.iter();
    nodes
        .map(|node| {
            let region = &running.region(node.region).name;
            let new = config.node_named(&node.name);
            let new = new.filter(|n| n.name == me || config.region(n.region).name == *region);
            let keys = new.map(|n| [n.public_key, n.next_public_key]);
            NodeAddress {
                name: node.name.clone(),
                region: node.region,
                udp: new.map_or(node.udp, |n| n.udp),
                public_keys: keys
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|key| key.0)
                    .collect(),
            }
        })
        .collect()
}
