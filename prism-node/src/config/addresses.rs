//! Addresses that clash, and addresses that strangers reach.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::build::Builder;

impl Builder<'_> {
    /// Addresses that clash, and HTTP addresses that strangers reach.
    pub(super) fn addresses(&self, token: bool) {
        let mut udp: HashMap<SocketAddr, &str> = HashMap::new();
        let mut bind: HashMap<(IpAddr, SocketAddr), &str> = HashMap::new();
        let mut http: HashMap<(Option<IpAddr>, SocketAddr), &str> = HashMap::new();
        let clash = |span: &Range<usize>, key: &str, address: SocketAddr, a: &str, b: &str| {
            self.problems.at(
                span,
                format!("nodes {a} and {b} have the same {key} address {address}"),
                "give each node its own address and port",
            );
        };
        for (node, spans) in self.nodes.iter().zip(&self.node_spans) {
            let name = node.name.as_str();
            if let Some(other) = udp.insert(node.udp, name) {
                clash(&spans.udp, "udp", node.udp, other, name);
            } else if let Some(other) = bind.insert((node.udp.ip(), node.bind_udp), name) {
                // The same bind_udp is fine on another machine, which another udp IP stands for.
                clash(&spans.bind_udp, "bind_udp", node.bind_udp, other, name);
            }
            // So is the same loopback HTTP address.
            let local = node.http.ip().is_loopback() || node.http.ip().is_unspecified();
            let machine = local.then(|| node.udp.ip());
            if let Some(other) = http.insert((machine, node.http), name) {
                clash(&spans.http, "http", node.http, other, name);
            }
            if !token && !node.http.ip().is_loopback() {
                self.problems.at(
                    &spans.http,
                    format!("http = \"{}\" can be reached by others and there is no token", node.http),
                    "add [http] token_file = \"http.token\" (make it with: prism keygen http.token), or use a loopback address",
                );
            }
        }
    }
}
