//! Keys are all there, or none is: a cluster in which some packets are encrypted is not encrypted.

use super::build::Builder;

impl Builder<'_> {
    /// Whatever is missing of the keys, if the file has any.
    pub(super) fn all_keys_or_none(&self, has_psk: bool) {
        let Some(first) = &self.seen.keys else {
            return;
        };
        let line = self.line(first);
        if !has_psk {
            self.problems.at(
                first,
                "there are public keys, but no pre-shared key of the cluster",
                "add psk_file = \"game.psk\" at the top (make it once with: prism keygen game.psk, and \
                 copy it to every node)",
            );
        }
        let nodes = self.nodes.iter().zip(&self.node_spans);
        for (node, spans) in nodes.filter(|(_, spans)| !spans.has_key) {
            let name = &node.name;
            let message = match node.next_public_key {
                Some(_) => format!("node {name} has a next_public_key and no public_key"),
                None => format!(
                    "node {name} has no public_key, but this cluster has keys (line {line})"
                ),
            };
            self.problems.at(
                &spans.node,
                message,
                "make its key with: prism keygen DATA_DIR/node.key, and add the public_key = \"...\" \
                 that this prints: prism pubkey DATA_DIR/node.key",
            );
        }
    }
}
