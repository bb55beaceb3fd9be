//! From the text of the file to a [`Config`], collecting every problem on the way.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prism_proto::{NodeId, Policy, RegionId, RegionKey, Retry};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problems, line};
use super::section::{Section, expand_strings, shorten};
use super::units;
use super::{Config, ConfigError, Limits, Node, Region};
use crate::keys::PublicKey;

const MAX_REGIONS: usize = 64;
const MAX_NODES: usize = 256;
const MAX_NAME: usize = 48;

/// What `prism status` calls a lane's target when it is no node.
const RESERVED_NODES: [&str; 2] = ["direct", "parked"];

/// Reads and checks everything.
pub(super) fn build(
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, ConfigError> {
    let problems = Problems::default();
    let (tree, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for e in &errors {
            problems.at(
                &e.span().unwrap_or(0..0),
                format!("not TOML: {}", e.message()),
                "mend the syntax here",
            );
        }
        return Err(problems.into_error(path, text));
    }
    let span = tree.span();
    let mut tree = Spanned::new(span.clone(), DeValue::Table(tree.into_inner()));
    expand_strings(&mut tree, env, &problems);
    let DeValue::Table(table) = tree.into_inner() else {
        unreachable!("made from a table above");
    };
    let root = Section::new("the file", Spanned::new(span, table), &problems);
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let base_dir = absolute.parent().unwrap_or(&absolute).to_owned();
    let mut builder = Builder {
        text,
        base_dir,
        problems: &problems,
        regions: Vec::new(),
        nodes: Vec::new(),
        node_spans: Vec::new(),
        seen: Seen::default(),
    };
    let config = builder.root(root, path);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems.into_error(path, text)),
    }
}

/// First line of everything that may stand in the file only once.
#[derive(Default)]
struct Seen {
    regions: HashMap<String, usize>,
    region_keys: HashMap<RegionKey, String>,
    databases: HashMap<String, String>,
    nodes: HashMap<String, usize>,
    public_keys: HashMap<PublicKey, String>,
}

/// Where a node's values stand.
struct NodeSpans {
    udp: Range<usize>,
    bind_udp: Range<usize>,
    http: Range<usize>,
}

struct Builder<'a> {
    text: &'a str,
    base_dir: PathBuf,
    problems: &'a Problems,
    regions: Vec<Region>,
    nodes: Vec<Node>,
    node_spans: Vec<NodeSpans>,
    seen: Seen,
}

impl Builder<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        line(self.text, span.start)
    }

    fn root(&mut self, mut root: Section<'_, '_>, path: &Path) -> Option<Config> {
        let cluster = root
            .required("cluster", "game")
            .and_then(|s| self.name(s, "cluster"));
        let psk_file = self.path(root.string("psk_file", "game.psk"));
        let retry = root
            .table("retry")
            .map_or_else(Retry::default, |s| self.retry(s));
        let limits = root
            .table("limits")
            .map_or_else(Limits::default, |s| self.limits(s));
        let token_file = root.table("http").and_then(|mut s| {
            let file = s.string("token_file", "http.token");
            s.finish();
            self.path(file)
        });
        let regions = root.tables("region", "[[region]]");
        if regions.is_empty() {
            self.problems.anywhere(
                "no region is configured",
                "add a [[region]] with name, database and at least one [[region.node]]",
            );
        }
        if regions.len() > MAX_REGIONS {
            self.problems.at(
                regions[MAX_REGIONS].span(),
                format!("more than {MAX_REGIONS} regions"),
                "split the cluster",
            );
        }
        for section in regions.into_iter().take(MAX_REGIONS) {
            self.region(section);
        }
        if self.nodes.len() > MAX_NODES {
            self.problems
                .anywhere(format!("more than {MAX_NODES} nodes"), "split the cluster");
        }
        self.addresses(token_file.is_some());
        for statement in root.tables("statement", "[[statement]]") {
            let _ = statement.into_value();
        }
        root.finish();
        Some(Config {
            path: path.to_owned(),
            base_dir: std::mem::take(&mut self.base_dir),
            cluster: cluster?,
            psk_file,
            regions: std::mem::take(&mut self.regions),
            nodes: std::mem::take(&mut self.nodes),
            retry,
            limits,
            token_file,
        })
    }

    fn region(&mut self, mut section: Section<'_, '_>) {
        let id = RegionId(u16::try_from(self.regions.len()).unwrap_or(u16::MAX));
        let region_line = self.line(section.span());
        if let Some(name) = section.peek("name") {
            let label = format!("[[region]] \"{}\"", shorten(name));
            section.relabel(label);
        }
        let name = section.required("name", "NA").and_then(|s| {
            let (span, line) = (s.span(), self.line(&s.span()));
            let name = self.name(s, "region")?;
            if let Some(first) = self.seen.regions.insert(name.clone(), line) {
                self.problems.at(
                    &span,
                    format!("two regions are named \"{name}\" (the first on line {first})"),
                    "give each region its own name, or merge their [[region.node]] entries",
                );
            } else if let Some(other) = self
                .seen
                .region_keys
                .insert(RegionKey::of(&name), name.clone())
            {
                self.problems.at(
                    &span,
                    format!("the region names \"{other}\" and \"{name}\" hash to the same key"),
                    "rename one of them",
                );
            }
            Some(name)
        });
        let label = section.label().to_owned();
        let database = section
            .required("database", "sqlite:na.db")
            .and_then(|s| self.database(s, "database"));
        let direct = section
            .string("direct", "postgres://prism@na.example:5432/na")
            .and_then(|s| self.database(s, "direct"));
        if let (Some((url, span)), Some(name)) = (&database, &name)
            && let Some(other) = self.seen.databases.insert(url.clone(), name.clone())
            && other != *name
        {
            self.problems.at(
                span,
                format!("regions \"{other}\" and \"{name}\" have the same database"),
                "each region has a database of its own",
            );
        }
        let first = self.nodes.len();
        let nodes = section.tables("node", "[[region.node]]");
        if nodes.is_empty() {
            self.problems.at(
                section.span(),
                format!("{label} has no node"),
                "add a [[region.node]] with name, udp and http behind it",
            );
        }
        for node in nodes {
            self.node(node, id);
        }
        section.finish();
        let ids = (first..self.nodes.len())
            .filter_map(|i| u16::try_from(i).ok())
            .map(NodeId)
            .collect();
        let name = name.unwrap_or_default();
        let database = database.map(|(url, _)| url).unwrap_or_default();
        self.regions.push(Region {
            id,
            key: RegionKey::of(&name),
            name,
            direct: direct.map_or_else(|| database.clone(), |(url, _)| url),
            database,
            nodes: ids,
            line: region_line,
        });
    }

    fn node(&mut self, mut section: Section<'_, '_>, region: RegionId) {
        let node_line = self.line(section.span());
        if let Some(name) = section.peek("name") {
            let label = format!("[[region.node]] \"{}\"", shorten(name));
            section.relabel(label);
        }
        let name = section.required("name", "NA1").and_then(|s| {
            let (span, line) = (s.span(), self.line(&s.span()));
            let name = self.name(s, "node")?;
            if RESERVED_NODES.contains(&name.as_str()) {
                self.problems.at(
                    &span,
                    format!("a node cannot be named \"{name}\""),
                    "choose another name; status shows this word for a lane without a node",
                );
            }
            if let Some(first) = self.seen.nodes.insert(name.clone(), line) {
                self.problems.at(
                    &span,
                    format!("two nodes are named \"{name}\" (the first on line {first})"),
                    "give each node its own name",
                );
            }
            Some(name)
        });
        let udp = section
            .required("udp", "127.0.0.1:7101")
            .and_then(|s| self.address(s, "udp", false));
        let bind_udp = section
            .string("bind_udp", "0.0.0.0:7101")
            .and_then(|s| self.address(s, "bind_udp", true));
        let http = section
            .required("http", "127.0.0.1:8101")
            .and_then(|s| self.address(s, "http", true));
        let owner = name.clone().unwrap_or_default();
        let public_key = self.public_key(&mut section, "public_key", &owner);
        let next_public_key = self.public_key(&mut section, "next_public_key", &owner);
        section.finish();
        // Without its addresses the node cannot be checked any further.
        let (Some(name), Some((udp, udp_span)), Some((http, http_span))) = (name, udp, http) else {
            return;
        };
        let (bind_udp, bind_span) = bind_udp.unwrap_or((udp, udp_span.clone()));
        self.node_spans.push(NodeSpans {
            udp: udp_span,
            bind_udp: bind_span,
            http: http_span,
        });
        self.nodes.push(Node {
            id: NodeId(u16::try_from(self.nodes.len()).unwrap_or(u16::MAX)),
            region,
            name,
            udp,
            bind_udp,
            http,
            public_key,
            next_public_key,
            line: node_line,
        });
    }

    fn name(&self, text: Spanned<String>, what: &str) -> Option<String> {
        let span = text.span();
        let name = text.into_inner();
        let ok = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.len() <= MAX_NAME
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if !ok {
            self.problems.at(
                &span,
                format!("\"{}\" cannot be the name of a {what}", shorten(&name)),
                format!(
                    "use at most {MAX_NAME} letters, digits, '_', '-' and '.', a letter or digit first"
                ),
            );
        }
        ok.then_some(name)
    }

    fn path(&self, text: Option<Spanned<String>>) -> Option<PathBuf> {
        let text = text?;
        if text.get_ref().is_empty() || text.get_ref().contains('\0') {
            self.problems.at(
                &text.span(),
                "this is not the path of a file",
                "write a path relative to this file, or remove the line",
            );
            return None;
        }
        Some(self.base_dir.join(text.get_ref()))
    }

    fn database(&self, url: Spanned<String>, key: &str) -> Option<(String, Range<usize>)> {
        let _ = key;
        let span = url.span();
        Some((url.into_inner(), span))
    }

    fn address(
        &self,
        text: Spanned<String>,
        key: &str,
        any: bool,
    ) -> Option<(SocketAddr, Range<usize>)> {
        let span = text.span();
        let Ok(address) = text.get_ref().parse::<SocketAddr>() else {
            self.problems.at(
                &span,
                format!("{key} = \"{}\" is not an address", shorten(text.get_ref())),
                format!(
                    "write IP and port, e.g. {key} = \"127.0.0.1:7101\" or \"[::1]:7101\" (names are not looked up)"
                ),
            );
            return None;
        };
        if address.port() == 0 {
            self.problems.at(
                &span,
                format!("{key} has port 0: peers and clients could not find it"),
                "write a port between 1 and 65535",
            );
            return None;
        }
        if !any && address.ip().is_unspecified() {
            self.problems.at(
                &span,
                format!("{key} = \"{address}\" is no address that peers can send to"),
                format!(
                    "write the address that peers use, and bind_udp = \"{address}\" to listen on all"
                ),
            );
            return None;
        }
        Some((address, span))
    }

    fn public_key(
        &mut self,
        section: &mut Section<'_, '_>,
        key: &'static str,
        owner: &str,
    ) -> Option<PublicKey> {
        let text = section.string(key, "the output of prism pubkey")?;
        let Ok(public) = text.get_ref().parse::<PublicKey>() else {
            self.problems.at(
                &text.span(),
                format!("{key} is not a key: expected 44 characters of base64"),
                "print it with: prism pubkey DATA_DIR/node.key",
            );
            return None;
        };
        if let Some(other) = self.seen.public_keys.insert(public, owner.to_owned()) {
            self.problems.at(
                &text.span(),
                if other == owner {
                    format!("{key} of {owner} is a key that it has already")
                } else {
                    format!("nodes {other} and {owner} have the same {key}")
                },
                "make a key of its own with: prism keygen DATA_DIR/node.key",
            );
        }
        Some(public)
    }

    /// Addresses that clash, and HTTP addresses that strangers reach.
    fn addresses(&self, token: bool) {
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

    fn duration(
        &self,
        section: &mut Section<'_, '_>,
        key: &'static str,
        default: Duration,
        min: Duration,
        max: Duration,
    ) -> Duration {
        let example = units::show_duration(default);
        let Some(text) = section.string(key, &example) else {
            return default;
        };
        match units::duration(text.get_ref()) {
            Some(d) if (min..=max).contains(&d) => d,
            Some(_) => {
                let (min, max) = (units::show_duration(min), units::show_duration(max));
                self.problems.at(
                    &text.span(),
                    format!("{key} = \"{}\" is out of range", shorten(text.get_ref())),
                    format!("choose between {min} and {max}; the default is {example}"),
                );
                default
            }
            None => {
                self.problems.at(
                    &text.span(),
                    format!("{key} = \"{}\" is not a duration", shorten(text.get_ref())),
                    format!("write a whole number and us, ms, s, m, h or d: {key} = \"{example}\""),
                );
                default
            }
        }
    }

    fn size(
        &self,
        section: &mut Section<'_, '_>,
        key: &'static str,
        default: u64,
        min: u64,
        max: u64,
    ) -> u64 {
        let example = units::show_size(default);
        let Some(text) = section.string(key, &example) else {
            return default;
        };
        match units::size(text.get_ref()) {
            Some(n) if (min..=max).contains(&n) => n,
            Some(_) => {
                let (min, max) = (units::show_size(min), units::show_size(max));
                self.problems.at(
                    &text.span(),
                    format!("{key} = \"{}\" is out of range", shorten(text.get_ref())),
                    format!("choose between {min} and {max}; the default is {example}"),
                );
                default
            }
            None => {
                self.problems.at(
                    &text.span(),
                    format!("{key} = \"{}\" is not a size", shorten(text.get_ref())),
                    format!("write a whole number and B, KiB, MiB or GiB: {key} = \"{example}\""),
                );
                default
            }
        }
    }

    fn retry(&self, mut section: Section<'_, '_>) -> Retry {
        let mut retry = Retry::default();
        let (ms, minute) = (Duration::from_millis(1), Duration::from_secs(60));
        if let Some(n) = section.integer("max_retries", retry.max_retries.into()) {
            match u8::try_from(*n.get_ref()) {
                Ok(small) if small <= 100 => retry.max_retries = small,
                _ => self.problems.at(
                    &n.span(),
                    format!("max_retries = {} is out of range", n.get_ref()),
                    "choose between 0 and 100; the default is 5",
                ),
            }
        }
        retry.initial = self.duration(&mut section, "initial", retry.initial, ms, minute);
        retry.max = self.duration(&mut section, "max", retry.max, ms, minute);
        if retry.max < retry.initial {
            self.problems.at(
                section.span(),
                format!(
                    "[retry] max ({}) is shorter than initial ({})",
                    units::show_duration(retry.max),
                    units::show_duration(retry.initial)
                ),
                "make max at least as long as initial",
            );
        }
        if let Some(policy) = section.string("policy", "ordered") {
            match policy.get_ref().as_str() {
                "ordered" => retry.policy = Policy::Ordered,
                "fastest" => retry.policy = Policy::Fastest,
                other => self.problems.at(
                    &policy.span(),
                    format!("policy = \"{}\" is not known", shorten(other)),
                    "write policy = \"ordered\" or \"fastest\"",
                ),
            }
        }
        section.finish();
        retry
    }

    fn limits(&self, mut section: Section<'_, '_>) -> Limits {
        let d = Limits::default();
        let max_update = self.size(
            &mut section,
            "max_update",
            d.max_update.into(),
            1 << 10,
            1 << 20,
        );
        let year = Duration::from_secs(366 * 86_400);
        let limits = Limits {
            max_update: u32::try_from(max_update).unwrap_or(d.max_update),
            retention: self.duration(&mut section, "retention", d.retention, Duration::ZERO, year),
            max_backlog: self.size(&mut section, "max_backlog", d.max_backlog, 1 << 20, 1 << 50),
            await_timeout: self.duration(
                &mut section,
                "await_timeout",
                d.await_timeout,
                Duration::from_millis(10),
                Duration::from_secs(600),
            ),
        };
        section.finish();
        limits
    }
}
