//! From the text of the file to a [`Config`], collecting every problem on the way.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prism_proto::{NodeId, RegionId, RegionKey, Retry};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problems, line};
use super::section::{Section, expand_strings, shorten};
use super::{Config, ConfigError, HttpFiles, Limits, Node, Region};
use crate::keys::PublicKey;

const MAX_REGIONS: usize = 64;
const MAX_NODES: usize = 256;

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
    let mut room = usize::try_from(super::MAX_FILE).unwrap_or(usize::MAX);
    expand_strings(&mut tree, env, &mut room, &problems);
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
pub(super) struct Seen {
    regions: HashMap<String, usize>,
    region_keys: HashMap<RegionKey, String>,
    databases: HashMap<String, String>,
    nodes: HashMap<String, usize>,
    pub(super) public_keys: HashMap<PublicKey, String>,
    /// The first thing that says that this cluster has keys.
    pub(super) keys: Option<Range<usize>>,
}

/// Where a node's values stand.
pub(super) struct NodeSpans {
    pub(super) node: Range<usize>,
    /// It says which key the node has, though maybe wrongly.
    pub(super) has_key: bool,
    pub(super) udp: Range<usize>,
    pub(super) bind_udp: Range<usize>,
    pub(super) http: Range<usize>,
}

pub(super) struct Builder<'a> {
    pub(super) text: &'a str,
    pub(super) base_dir: PathBuf,
    pub(super) problems: &'a Problems,
    pub(super) regions: Vec<Region>,
    pub(super) nodes: Vec<Node>,
    pub(super) node_spans: Vec<NodeSpans>,
    pub(super) seen: Seen,
}

impl Builder<'_> {
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        line(self.text, span.start)
    }

    fn root(&mut self, mut root: Section<'_, '_>, path: &Path) -> Option<Config> {
        let cluster = root
            .required("cluster", "game")
            .and_then(|s| self.name(s, "cluster"));
        let psk_file = root.string("psk_file", "game.psk");
        let has_psk = psk_file.is_some();
        self.seen.keys = psk_file.as_ref().map(Spanned::span);
        let psk_file = self.path(psk_file);
        let retry = root
            .table("retry")
            .map_or_else(Retry::default, |s| self.retry(s));
        let limits = root
            .table("limits")
            .map_or_else(Limits::default, |s| self.limits(s));
        let http = root
            .table("http")
            .map_or_else(HttpFiles::default, |s| self.http(s));
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
        self.addresses(http.token.is_some());
        self.all_keys_or_none(has_psk);
        let statements = root.tables("statement", "[[statement]]");
        let catalogue = self.catalogue(statements);
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
            http,
            catalogue: Arc::new(catalogue?),
        })
    }

    fn http(&self, mut section: Section<'_, '_>) -> HttpFiles {
        let mut file = |key, example| self.path(section.string(key, example));
        let http = HttpFiles {
            token: file("token_file", "http.token"),
            cert: file("tls_cert", "http.crt"),
            key: file("tls_key", "http-tls.key"),
            ca: file("tls_ca", "ca.crt"),
        };
        let span = section.span();
        for (there, other, key) in [
            (&http.cert, &http.key, "tls_key"),
            (&http.key, &http.cert, "tls_cert"),
            (&http.ca, &http.cert, "tls_cert"),
        ] {
            if there.is_some() && other.is_none() {
                let message =
                    format!("[http] speaks TLS only with tls_cert and tls_key; {key} is missing");
                let fix = format!("add {key} = \"...\", a PEM file on each node's machine");
                self.problems.at(span, message, fix);
            }
        }
        section.finish();
        http
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
            .and_then(|s| self.database(s));
        let direct = section
            .string("direct", "postgres://prism@na.example:5432/na")
            .and_then(|s| self.database(s));
        if let (Some((url, span)), Some(name)) = (&database, &name)
            && let Some(other) = self.seen.databases.insert(format!("{url:?}"), name.clone())
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
        // One more than may be: it is counted, and the rest not looked at (each costs a walk through
        // the file for its line).
        let room = (MAX_NODES + 1).saturating_sub(self.nodes.len());
        for node in nodes.into_iter().take(room) {
            self.node(node, id);
        }
        section.finish();
        let ids = (first..self.nodes.len())
            .filter_map(|i| u16::try_from(i).ok())
            .map(NodeId)
            .collect();
        // Without these two the region cannot be used; its nodes have been checked.
        let (Some(name), Some((database, _))) = (name, database) else {
            return;
        };
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
        let (node_span, has_key) = (section.span().clone(), section.has("public_key"));
        let public_key = self.public_key(&mut section, "public_key", &owner);
        let next_public_key = self.public_key(&mut section, "next_public_key", &owner);
        section.finish();
        // Without its addresses the node cannot be checked any further.
        let (Some(name), Some((udp, udp_span)), Some((http, http_span))) = (name, udp, http) else {
            return;
        };
        let (bind_udp, bind_span) = bind_udp.unwrap_or((udp, udp_span.clone()));
        self.node_spans.push(NodeSpans {
            node: node_span,
            has_key,
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
}
