//! `prism check`: everything that can be wrong before a node is started, with the fix.

use std::fs;
use std::io::{self, Write, stdout};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use prism_db::{Database, DatabaseUrl, DbError, OpenOptions};

use super::{program, quote};
use crate::cli::{CheckArgs, CliError, find_node};
use crate::client::{Client, ClientError};
use crate::config::{AccessError, Config, Node, Region};
use crate::secrets;
use crate::status::Status;
use crate::words::harmless;

const DATABASE_TIMEOUT: Duration = Duration::from_secs(4);
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// What was looked at, and what came of it.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    what: String,
    result: Result<String, Problem>,
    /// It works, and should be known.
    warning: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Problem {
    problem: String,
    fix: String,
}

impl Finding {
    fn ok(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            result: Ok(detail.into()),
            warning: false,
        }
    }

    fn warning(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            warning: true,
            ..Self::ok(what, detail)
        }
    }

    fn problem(
        what: impl Into<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            what: what.into(),
            result: Err(Problem {
                problem: problem.into(),
                fix: fix.into(),
            }),
            warning: false,
        }
    }
}

/// Prints the list.
///
/// # Errors
/// Exit status 2 if the configuration cannot be read, 1 if anything else is wrong.
pub fn run(args: &CheckArgs) -> Result<(), CliError> {
    let config = args.config.load()?;
    let migrate = format!(
        "{} migrate --config {}",
        program(),
        quote(&args.config.config)
    );
    let mut findings = vec![Finding::ok(
        "configuration",
        format!(
            "{} regions, {} nodes, {} statements",
            config.regions.len(),
            config.nodes.len(),
            config.catalogue.iter().count()
        ),
    )];
    findings.extend(passwords(&config));
    findings.extend(secrets(&config));
    if let (Some(node), Some(data_dir)) = (&args.node, &args.data_dir) {
        findings.push(own_key(find_node(&config, node)?, data_dir));
    }
    // Databases and nodes at once: what hangs does not delay the rest.
    std::thread::scope(|scope| {
        let (config, migrate) = (&config, migrate.as_str());
        let regions = config.regions.iter();
        let regions: Vec<_> = regions
            .map(|r| scope.spawn(move || databases(config, r, migrate)))
            .collect();
        let nodes: Vec<_> = config
            .nodes
            .iter()
            .map(|n| scope.spawn(move || addresses(config, n)))
            .collect();
        for thread in regions.into_iter().chain(nodes) {
            findings.extend(thread.join().unwrap_or_default());
        }
    });
    report(&findings, &mut stdout().lock())
}

fn report(findings: &[Finding], out: &mut dyn Write) -> Result<(), CliError> {
    let mut problems = 0;
    for finding in findings {
        match &finding.result {
            Ok(detail) if finding.warning => {
                writeln!(out, "warning  {}: {}", finding.what, harmless(detail))?;
            }
            Ok(detail) => writeln!(out, "ok       {}: {detail}", finding.what)?,
            Err(Problem { problem, fix }) => {
                problems += 1;
                writeln!(out, "PROBLEM  {}: {}", finding.what, harmless(problem))?;
                writeln!(out, "         fix: {fix}")?;
            }
        }
    }
    match problems {
        0 => Ok(()),
        1 => Err(CliError::Failed("1 problem".to_owned())),
        n => Err(CliError::Failed(format!("{n} problems"))),
    }
}

/// A password in a file that others can read.
fn passwords(config: &Config) -> Option<Finding> {
    let mode = fs::metadata(&config.path).ok()?.permissions().mode() & 0o777;
    let text = fs::read_to_string(&config.path).ok()?;
    (mode & 0o044 != 0 && holds_password(&text)).then(|| {
        let path = config.path.display();
        Finding::warning(
            "passwords",
            format!(
                "{path} holds the password of a database and can be read by others (mode {mode:04o}): \
                 write ${{VAR}} in its place, or chmod 600 {path}"
            ),
        )
    })
}

/// Whether a database address has a password that does not come from the environment.
fn holds_password(text: &str) -> bool {
    let is_written = |password: &str| !password.is_empty() && !password.starts_with("${");
    let behind = |scheme| text.split(scheme).skip(1);
    let mut addresses = behind("postgres://").chain(behind("postgresql://"));
    addresses.any(|rest| {
        let end = rest.find(['"', '\'', '\n']).unwrap_or(rest.len());
        let rest = &rest[..end];
        let login = rest.split_once('@').map_or("", |(login, _)| login);
        let in_login = login.split_once(':').map_or("", |(_, password)| password);
        let in_query = rest.split_once("password=").map_or("", |(_, rest)| rest);
        is_written(in_login) || is_written(in_query)
    })
}

fn secrets(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(path) = &config.psk_file {
        findings.push(match config.psk() {
            Ok(_) => Finding::ok("psk_file", path.display().to_string()),
            Err(e) => Finding::problem(
                "psk_file",
                e.to_string(),
                "every node needs the same file, readable by its user only",
            ),
        });
    }
    findings.extend(http(config));
    if let Some(path) = &config.http.token {
        findings.push(match config.token() {
            Ok(_) => Finding::ok("token_file", path.display().to_string()),
            Err(e) => Finding::problem(
                "token_file",
                e.to_string(),
                format!("copy the cluster's file to {}", path.display()),
            ),
        });
    }
    findings.push(if config.is_sealed() {
        let rotating: Vec<_> = (config.nodes.iter())
            .filter(|n| n.next_public_key.is_some())
            .map(|n| n.name.as_str())
            .collect();
        let more = match rotating.as_slice() {
            [] => String::new(),
            names => format!("; {} may change to the next one", names.join(", ")),
        };
        Finding::ok("encryption", format!("every node has a public key{more}"))
    } else {
        Finding::ok(
            "encryption",
            "none, because there are no keys: the nodes can only talk on this machine \
             (prism keygen, docs/security.md)",
        )
    });
    findings
}

fn own_key(node: &Node, data_dir: &Path) -> Finding {
    let what = format!("node.key of {}", node.name);
    match secrets::own_key(node, data_dir) {
        Ok(key) if node.next_public_key == Some(key.public()) => Finding::ok(
            what,
            "it is the next one; when the node runs with it, make it the public_key",
        ),
        Ok(_) => Finding::ok(what, "it is the one of the configuration"),
        Err(e) => Finding::problem(what, e.to_string(), "see docs/security.md, keys"),
    }
}

/// TLS of the HTTP API, or what its absence means.
fn http(config: &Config) -> Option<Finding> {
    let http = &config.http;
    if http.cert.is_some() {
        let usable = config.http_access().and(config.http_credentials());
        return Some(match usable {
            Ok(_) => Finding::ok("http", "TLS"),
            Err(AccessError::Tls(e)) => Finding::problem(
                "http",
                e.to_string(),
                "give this machine a certificate with its address in it, the key (mode 0600), and the authority in tls_ca",
            ),
            // The token is told below.
            Err(AccessError::Token(_)) => return None,
        });
    }
    let exposed = config.nodes.iter().find(|n| !n.http.ip().is_loopback())?;
    Some(Finding::warning(
        "http",
        format!(
            "{} listens on {} without TLS: whoever sees the packets sees the token and can submit; add [http] tls_cert and tls_key, or use a loopback address",
            exposed.name, exposed.http
        ),
    ))
}

fn databases(config: &Config, region: &Region, migrate: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    match database(config, region, &region.database, "database", migrate) {
        Ok((finding, mut opened)) => {
            findings.push(finding);
            findings.extend(catalogue(config, region, opened.as_mut()));
        }
        Err(problem) => findings.push(problem),
    }
    findings.extend(role(config, region, &region.database, "database"));
    if region.direct != region.database {
        let direct = database(config, region, &region.direct, "direct", migrate);
        findings.push(direct.map_or_else(|problem| problem, |(finding, _)| finding));
        findings.extend(role(config, region, &region.direct, "direct"));
    }
    findings
}

/// Does the role have what a node needs, and no more?
fn role(config: &Config, region: &Region, url: &DatabaseUrl, key: &str) -> Vec<Finding> {
    let what = format!("role in {key} of {}", region.name);
    // An address that cannot be used has been told of.
    let Ok(Some(found)) = prism_db::inspect_role(url, &config.catalogue) else {
        return Vec::new();
    };
    let missing = found.missing.into_iter().map(|(lack, grant)| {
        let fix = format!("as the owner: {grant}");
        Finding::problem(what.clone(), lack, fix)
    });
    let notes = found.notes.into_iter();
    let notes = notes.map(|note| Finding::warning(what.clone(), note));
    let mut findings: Vec<_> = missing.chain(notes).collect();
    if findings.is_empty() {
        let detail = format!("{} has what a node needs, and no more", found.role);
        findings.push(Finding::ok(what, detail));
    }
    findings
}

fn database(
    config: &Config,
    region: &Region,
    url: &DatabaseUrl,
    key: &str,
    migrate: &str,
) -> Result<(Finding, Box<dyn Database>), Finding> {
    let what = format!("{key} of {}", region.name);
    let options = OpenOptions {
        connect_timeout: DATABASE_TIMEOUT,
        statement_timeout: DATABASE_TIMEOUT,
        ..OpenOptions::new(config.topology(region.id), config.catalogue.clone())
    };
    let opened = prism_db::open(url, options).and_then(|mut db| Ok((db.region()?, db)));
    Err(match opened {
        Ok((row, db)) if row.name == region.name => {
            let next = row.next_seq.0;
            let finding = Finding::ok(what, format!("{url}, next update is {next}"));
            return Ok((finding, db));
        }
        Ok((row, _)) => Finding::problem(
            what,
            format!("{url} belongs to region {}", row.name),
            format!("correct `{key}` of {} in the configuration", region.name),
        ),
        Err(e @ DbError::Schema(_)) => Finding::problem(
            what,
            e.to_string(),
            format!("{migrate} --region {}", region.name),
        ),
        Err(e @ DbError::Unreachable(_)) => Finding::problem(
            what,
            e.to_string(),
            format!("start the database, or correct {url} in the configuration"),
        ),
        Err(e) => Finding::problem(what, e.to_string(), format!("see that {url} is usable")),
    })
}

/// Could the database run every statement?
fn catalogue(config: &Config, region: &Region, database: &mut dyn Database) -> Vec<Finding> {
    let what = format!("statements in {}", region.name);
    let total = config.catalogue.iter().count();
    let url = &region.database;
    let refused: Result<Vec<_>, DbError> = config
        .catalogue
        .iter()
        .map(|statement| database.check(statement))
        .collect();
    match refused.map(|found| found.into_iter().flatten().collect::<Vec<_>>()) {
        Ok(refused) if refused.is_empty() => {
            vec![Finding::ok(what, format!("all {total} can be run"))]
        }
        Ok(refused) => refused
            .into_iter()
            .map(|e| {
                let place = format!("{what}: {}, {}", e.statement, e.field);
                Finding::problem(place, e.problem, e.fix)
            })
            .collect(),
        Err(why) => vec![Finding::problem(
            what,
            why.to_string(),
            format!("see that {url} is usable"),
        )],
    }
}

fn addresses(config: &Config, node: &Node) -> Vec<Finding> {
    let what = format!("node {}", node.name);
    if !config.is_sealed() && !node.bind_udp.ip().to_canonical().is_loopback() {
        return vec![Finding::problem(
            what,
            format!(
                "udp {} is not a loopback address, and without keys packets are not encrypted",
                node.bind_udp
            ),
            "give the cluster keys (psk_file, and a public_key per node), or use 127.0.0.1",
        )];
    }
    let credentials = config.http_credentials().unwrap_or_default();
    let answer: Result<Status, _> = Client::new(node, &credentials, NODE_TIMEOUT).get("/v1/status");
    vec![match answer {
        Ok(status) if status.node == node.name => Finding::ok(what, "running"),
        Ok(status) => Finding::problem(
            what,
            format!("node {} answers at http {}", status.node, node.http),
            "stop that node, or give this one its own `http` address",
        ),
        Err(ClientError::Refused { error, .. }) if error.code == "unauthorized" => {
            Finding::problem(
                what,
                "it runs, and does not accept the token of token_file",
                "copy the cluster's token file here, or restart the node with this one",
            )
        }
        Err(ClientError::Unreachable { refused: true, .. }) => free(node, what),
        Err(e) => Finding::problem(
            what,
            e.to_string(),
            "another program may have this port: change `http`, or stop that program",
        ),
    }]
}

/// Nobody answers: could it start here?
fn free(node: &Node, what: String) -> Finding {
    let taken = |key: &str, e: &io::Error| match e.kind() {
        io::ErrorKind::AddrNotAvailable => None,
        _ => Some((key.to_owned(), e.to_string())),
    };
    let http = TcpListener::bind(node.http).err();
    let udp = UdpSocket::bind(node.bind_udp).err();
    let problem = http
        .and_then(|e| taken(&format!("http {}", node.http), &e))
        .or_else(|| udp.and_then(|e| taken(&format!("udp {}", node.bind_udp), &e)));
    match problem {
        None => Finding::ok(what, "not running; its ports are free"),
        Some((address, e)) => Finding::problem(
            what,
            format!("cannot listen on {address}: {e}"),
            "change the port in the configuration, or stop the program that has it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::holds_password;

    #[test]
    fn written_passwords_are_told_from_those_of_the_environment() {
        for yes in [
            r#"database = "postgres://prism:secret@h/na""#,
            r#"database = "sqlite:a"; direct = "postgresql://h/na?user=a&password=secret""#,
        ] {
            assert!(holds_password(yes), "{yes}");
        }
        for no in [
            r#"database = "postgres://prism:${PW}@h:5432/na?password=${PW}""#,
            r#"database = "postgres://prism@h:5432/na""#,
            "database = 'sqlite:na.db' # a:b@c",
        ] {
            assert!(!holds_password(no), "{no}");
        }
    }
}
