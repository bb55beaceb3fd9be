//! PostgreSQL's own client programs: where they are, how they are called.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use postgres::config::{ChannelBinding, Host, SslNegotiation};

use super::AdoptError;
use crate::server::{Address, Roots};

/// `pg_dump` and `psql` of one version.
#[derive(Debug)]
pub(super) struct Tools {
    dir: PathBuf,
}

impl Tools {
    /// Those of the server's version; or else of the nearest newer one, since an older `pg_dump`
    /// refuses, and what a much newer one writes may be too new for the server that reads it.
    pub(super) fn find(server: u32) -> Result<Self, AdoptError> {
        let mut found: Vec<(u32, PathBuf)> = directories()
            .into_iter()
            .filter(|dir| dir.join("pg_dump").is_file() && dir.join("psql").is_file())
            .filter_map(|dir| Some((version(&dir)?, dir)))
            .filter(|(version, _)| *version >= server)
            .collect();
        // Stable: of equal ones the first.
        found.sort_by_key(|(version, _)| *version);
        let first = found.into_iter().next();
        first
            .map(|(_, dir)| Self { dir })
            .ok_or(AdoptError::NoPrograms { needed: server })
    }

    /// A program that connects to that database. Nothing of the address stands in its arguments,
    /// which everybody on the machine can read.
    pub(super) fn command(&self, program: &str, address: &Address) -> Command {
        let (config, tls) = (&address.config, &address.tls);
        let mut command = Command::new(self.dir.join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        let hosts: Vec<String> = config
            .get_hosts()
            .iter()
            .map(|host| match host {
                Host::Tcp(name) => name.clone(),
                #[cfg(unix)]
                Host::Unix(path) => path.display().to_string(),
            })
            .collect();
        let ports: Vec<String> = config.get_ports().iter().map(ToString::to_string).collect();
        let addresses: Vec<String> = config
            .get_hostaddrs()
            .iter()
            .map(ToString::to_string)
            .collect();
        let mut set = |name: &str, value: &str| {
            if !value.is_empty() {
                command.env(name, value);
            }
        };
        set("PGHOST", &hosts.join(","));
        set("PGHOSTADDR", &addresses.join(","));
        set("PGPORT", &ports.join(","));
        set("PGUSER", config.get_user().unwrap_or_default());
        let database = config.get_dbname().or(config.get_user());
        set("PGDATABASE", database.unwrap_or_default());
        set("PGOPTIONS", config.get_options().unwrap_or_default());
        let password = config.get_password().unwrap_or_default();
        set("PGPASSWORD", &String::from_utf8_lossy(password));
        set("PGSSLMODE", tls.mode.name());
        let path = |path: &Path| path.display().to_string();
        match &tls.roots {
            Some(Roots::File(file)) => set("PGSSLROOTCERT", &path(file)),
            Some(Roots::System) => set("PGSSLROOTCERT", "system"),
            None => {}
        }
        if let Some((certificate, key)) = &tls.identity {
            set("PGSSLCERT", &path(certificate));
            set("PGSSLKEY", &path(key));
        }
        let binding = match config.get_channel_binding() {
            ChannelBinding::Require => "require",
            ChannelBinding::Disable => "disable",
            _ => "",
        };
        set("PGCHANNELBINDING", binding);
        if config.get_ssl_negotiation() == SslNegotiation::Direct {
            set("PGSSLNEGOTIATION", "direct");
        }
        set("PGCONNECT_TIMEOUT", "10");
        set("PGAPPNAME", "prism adopt");
        set("PGCLIENTENCODING", "UTF8");
        set("LC_ALL", "C");
        command
            .arg("--no-password")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

fn directories() -> Vec<PathBuf> {
    if let Some(dir) = std::env::var_os("PRISM_PG_BIN") {
        return vec![PathBuf::from(dir)];
    }
    let mut all = Vec::new();
    // Before PATH: what Debian puts there is a wrapper that chooses a version itself.
    for (root, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        all.extend(entries.filter_map(|entry| {
            let name = entry.file_name();
            let version: u32 = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        }));
    }
    all.sort();
    let mut all: Vec<PathBuf> = all.into_iter().map(|(_, dir)| dir).collect();
    if let Some(path) = std::env::var_os("PATH") {
        all.extend(std::env::split_paths(&path));
    }
    all
}

/// "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
fn version(dir: &Path) -> Option<u32> {
    let output = Command::new(dir.join("pg_dump"))
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.split(") ").nth(1)?;
    let major: String = number.chars().take_while(char::is_ascii_digit).collect();
    major.parse().ok()
}
