//! A throwaway PostgreSQL server for the demo and for tests: its own data directory, port and
//! role, gone without a trace when it is dropped.
//!
//! It also goes when the program that started it dies without dropping anything (SIGKILL): a small
//! shell holds the other end of a pipe to this process, and at end of file it stops the server and
//! deletes the directory.

mod standby;

use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

/// How a throwaway server is set up.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Whether commits reach the disk. Throwaway or not: what is measured and killed here is meant
    /// to behave like the real thing.
    pub fsync: bool,
    /// Connections that the server accepts.
    pub max_connections: u16,
    /// Further `name = value` settings.
    pub settings: Vec<(String, String)>,
    /// How long starting may take.
    pub deadline: Duration,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            fsync: true,
            max_connections: 100,
            settings: Vec::new(),
            deadline: Duration::from_secs(60),
        }
    }
}

/// Why a throwaway server could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// PostgreSQL's server is not installed.
    #[error(
        "no PostgreSQL server found ({0} is missing): install it (Debian, Ubuntu: `apt-get install \
         postgresql`; Fedora: `dnf install postgresql-server`; macOS: `brew install postgresql`), \
         or set PRISM_PG_BIN to the directory that holds `initdb` and `postgres`"
    )]
    NotInstalled(&'static str),
    /// PostgreSQL refuses to run as root and there is no other user to run it as.
    #[error("PostgreSQL does not run as root, and this machine has no user `postgres` or `nobody`")]
    NoUser,
    /// A server program failed.
    #[error("{program} failed: {detail}")]
    Failed {
        /// Which one.
        program: &'static str,
        /// Its last words.
        detail: String,
    },
    /// It did not accept connections in time.
    #[error(
        "the throwaway PostgreSQL server did not accept connections within {0:?}; its log ends:\n{1}"
    )]
    Deadline(Duration, String),
    /// An SQL command failed.
    #[error("throwaway PostgreSQL: {0}")]
    Sql(#[from] postgres::Error),
    /// The operating system refused.
    #[error("throwaway PostgreSQL: {0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

/// The ordinary role (no superuser) that owns the databases.
pub const ROLE: &str = "prism";
const ADMIN: &str = "postgres";

/// A running throwaway server.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    programs: PathBuf,
    account: Option<User>,
    password: String,
    port: u16,
    server: Option<Child>,
    guard: Option<Child>,
    // Last: the directory outlives the processes.
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts a server with default options.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn start() -> Result<Self, ClusterError> {
        Self::start_with(ClusterOptions::default())
    }

    /// Starts a server.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn start_with(options: ClusterOptions) -> Result<Self, ClusterError> {
        let mut cluster = Self::empty(options, format!("{:032x}", random()?))?;
        cluster.initdb()?;
        cluster.first_start()?;
        let mut admin = cluster.admin("postgres")?;
        admin.batch_execute(&format!(
            "CREATE ROLE {ROLE} LOGIN PASSWORD '{}'",
            cluster.password
        ))?;
        Ok(cluster)
    }

    /// A directory with a guard, and nothing in it yet.
    fn empty(options: ClusterOptions, password: String) -> Result<Self, ClusterError> {
        let programs = find_programs()?;
        let account = account()?;
        let dir = tempfile::Builder::new()
            .prefix("prism-pg-")
            .tempdir()
            .map_err(|e| ClusterError::Io("cannot make a directory", e))?;
        if let Some(user) = &account {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid))
                .map_err(|e| ClusterError::Io("cannot hand over the directory", e))?;
        }
        let mut cluster = Self {
            options,
            programs,
            account,
            password,
            port: 0,
            server: None,
            guard: None,
            dir,
        };
        cluster.guard = Some(cluster.spawn_guard()?);
        Ok(cluster)
    }

    /// URL of a database, for the ordinary role that owns it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_as(ROLE, database)
    }

    /// URL of a database, for the superuser.
    #[must_use]
    pub fn admin_url(&self, database: &str) -> String {
        self.url_as(ADMIN, database)
    }

    fn url_as(&self, role: &str, database: &str) -> String {
        let (password, port) = (&self.password, self.port);
        format!("postgres://{role}:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    /// Port on 127.0.0.1; it stays the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates a database that belongs to the ordinary role.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn create_database(&self, name: &str) -> Result<(), ClusterError> {
        let name = name.replace('"', "\"\"");
        self.admin("postgres")?
            .batch_execute(&format!("CREATE DATABASE \"{name}\" OWNER {ROLE}"))?;
        Ok(())
    }

    /// A superuser's connection.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn admin(&self, database: &str) -> Result<postgres::Client, ClusterError> {
        Ok(postgres::Client::connect(
            &self.admin_url(database),
            postgres::NoTls,
        )?)
    }

    /// Stops the server in an orderly way (SIGINT, "fast": open transactions are rolled back).
    pub fn stop(&mut self) {
        self.end(Signal::SIGINT);
    }

    /// Kills the server and all its backends with SIGKILL, as a power loss would.
    pub fn kill9(&mut self) {
        // Stopped first, so that it has no children that are not in the list.
        self.signal_server(Signal::SIGSTOP);
        let children = self.backends();
        self.signal_server(Signal::SIGKILL);
        for pid in &children {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
        // While one of them is there, the next start finds its shared memory in use.
        let deadline = Instant::now() + Duration::from_secs(10);
        while children.iter().any(|p| alive(*p)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops the server and all its backends where they are (SIGSTOP). The kernel still accepts
    /// connections and acknowledges data for them.
    pub fn sigstop(&self) {
        self.signal_server(Signal::SIGSTOP);
        for pid in self.backends() {
            let _ = kill(pid, Signal::SIGSTOP);
        }
    }

    /// Lets a stopped server run on.
    pub fn sigcont(&self) {
        for pid in self.backends() {
            let _ = kill(pid, Signal::SIGCONT);
        }
        self.signal_server(Signal::SIGCONT);
    }

    /// Starts the server again on the same data and port (after [`stop`](Self::stop) or
    /// [`kill9`](Self::kill9); a running one is stopped first).
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn restart(&mut self) -> Result<(), ClusterError> {
        self.stop();
        self.spawn_server()?;
        self.wait_until_ready()
    }

    /// Process ids of the server's children: backends and background processes.
    #[must_use]
    pub fn backends(&self) -> Vec<Pid> {
        self.server
            .as_ref()
            .map(|s| children_of(s.id()))
            .unwrap_or_default()
    }

    /// The last lines of the server's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.dir.path().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Where it lives; gone after drop.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A command that runs as the server's account, apart from our terminal's signals.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some(user) = &self.account {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
            .current_dir(self.dir.path())
            .env_remove("LC_ALL")
            .env("LANG", "C")
            .process_group(0)
            .stdin(Stdio::null());
        command
    }

    fn spawn_guard(&self) -> Result<Child, ClusterError> {
        // `read` returns when somebody closes the pipe: this process, by whatever death. The
        // working directory of a server is its data directory: a process that merely inherited the
        // number is left alone.
        const SCRIPT: &str = r#"
            read -r _
            if read -r pid < "$0/data/postmaster.pid"; then
                if [ ! -d /proc/self ] || [ "$(readlink "/proc/$pid/cwd")" = "$0/data" ]; then
                    kill -CONT "$pid"; kill -QUIT "$pid"
                    n=0; while kill -0 "$pid" && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
                fi
            fi
            rm -rf "$0"
        "#;
        let mut command = self.command(Path::new("/bin/sh"));
        let dir = self.dir.path().canonicalize();
        let dir = dir.map_err(|e| ClusterError::Io("cannot resolve the directory", e))?;
        command
            .arg("-c")
            .arg(SCRIPT)
            .arg(dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
            .spawn()
            .map_err(|e| ClusterError::Io("cannot start /bin/sh", e))
    }

    fn initdb(&self) -> Result<(), ClusterError> {
        let password = self.dir.path().join("password");
        std::fs::write(&password, &self.password)
            .and_then(|()| match &self.account {
                Some(u) => std::os::unix::fs::chown(&password, Some(u.uid.as_raw()), None),
                None => Ok(()),
            })
            .map_err(|e| ClusterError::Io("cannot write the password file", e))?;
        let output = self
            .command(&self.programs.join("initdb"))
            .arg("--pgdata")
            .arg(self.data())
            .arg("--pwfile")
            .arg(&password)
            .args([
                "--username",
                ADMIN,
                "--auth-host=password",
                "--auth-local=trust",
            ])
            .args(["--encoding=UTF8", "--locale=C", "--no-sync"])
            .output()
            .map_err(|e| ClusterError::Io("cannot run initdb", e))?;
        let _ = std::fs::remove_file(&password);
        if output.status.success() {
            return Ok(());
        }
        Err(ClusterError::Failed {
            program: "initdb",
            detail: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Another process may take the port between our look and the server's: then another port.
    fn first_start(&mut self) -> Result<(), ClusterError> {
        let mut last = None;
        for _ in 0..5 {
            self.port = free_port()?;
            self.spawn_server()?;
            match self.wait_until_ready() {
                Err(e @ ClusterError::Failed { .. }) => last = Some(e),
                other => return other,
            }
        }
        last.map_or(Ok(()), Err)
    }

    fn spawn_server(&mut self) -> Result<(), ClusterError> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .map_err(|e| ClusterError::Io("cannot open the server's log", e))?;
        let mut command = self.command(&self.programs.join("postgres"));
        command.arg("-D").arg(self.data());
        let defaults = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", self.port.to_string()),
            (
                "unix_socket_directories",
                self.dir.path().display().to_string(),
            ),
            (
                "fsync",
                if self.options.fsync { "on" } else { "off" }.to_owned(),
            ),
            ("max_connections", self.options.max_connections.to_string()),
            ("shared_buffers", "32MB".to_owned()),
            ("max_wal_size", "256MB".to_owned()),
            ("jit", "off".to_owned()),
            ("logging_collector", "off".to_owned()),
        ];
        for (name, value) in defaults.iter().chain(
            self.options
                .settings
                .iter()
                .map(|s| (s.0.as_str(), s.1.clone()))
                .collect::<Vec<_>>()
                .iter(),
        ) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let stderr = log
            .try_clone()
            .map_err(|e| ClusterError::Io("cannot open the server's log", e))?;
        let server = command
            .stdout(log)
            .stderr(stderr)
            .spawn()
            .map_err(|e| ClusterError::Io("cannot start postgres", e))?;
        self.server = Some(server);
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<(), ClusterError> {
        let started = Instant::now();
        loop {
            if let Some(server) = &mut self.server
                && let Ok(Some(status)) = server.try_wait()
            {
                self.server = None;
                return Err(ClusterError::Failed {
                    program: "postgres",
                    detail: format!("{status}; its log ends:\n{}", self.log_tail()),
                });
            }
            let mut config: postgres::Config = self.admin_url("postgres").parse()?;
            config.connect_timeout(Duration::from_secs(1));
            if config.connect(postgres::NoTls).is_ok() {
                return Ok(());
            }
            if started.elapsed() > self.options.deadline {
                self.end(Signal::SIGQUIT);
                return Err(ClusterError::Deadline(
                    self.options.deadline,
                    self.log_tail(),
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal_server(&self, signal: Signal) {
        if let Some(server) = &self.server {
            let _ = kill(pid(server.id()), signal);
        }
    }

    fn end(&mut self, signal: Signal) {
        self.sigcont();
        self.signal_server(signal);
        let Some(server) = &mut self.server else {
            return;
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if !matches!(server.try_wait(), Ok(None)) {
                self.server = None;
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.kill9();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nothing of it is needed again, so there is nothing to shut down in order.
        self.kill9();
        if let Some(mut guard) = self.guard.take() {
            let _ = guard.kill();
            let _ = guard.wait();
        }
    }
}

fn find_programs() -> Result<PathBuf, ClusterError> {
    let complete = |dir: &PathBuf| dir.join("initdb").is_file() && dir.join("postgres").is_file();
    if let Some(dir) = std::env::var_os("PRISM_PG_BIN") {
        return Some(PathBuf::from(dir))
            .filter(complete)
            .ok_or(ClusterError::NotInstalled("initdb in PRISM_PG_BIN"));
    }
    let mut candidates: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    // Debian keeps server programs out of PATH; the newest version first.
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .collect();
    versions.sort();
    candidates.extend(versions.into_iter().rev().map(|v| v.1));
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        let dir = String::from_utf8_lossy(&output.stdout);
        candidates.push(PathBuf::from(dir.trim()));
    }
    candidates
        .into_iter()
        .find(complete)
        // `postgres` finds its files beside the program that a link points to.
        .map(|dir| {
            let real = dir.join("postgres").canonicalize().unwrap_or_default();
            real.parent().map_or(dir, Path::to_path_buf)
        })
        .ok_or(ClusterError::NotInstalled("initdb"))
}

/// Whom to run the server as: ourselves, unless we are root.
fn account() -> Result<Option<User>, ClusterError> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .map(Some)
        .ok_or(ClusterError::NoUser)
}

fn random() -> Result<u128, ClusterError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| ClusterError::Io("no randomness", io::Error::other(e.to_string())))?;
    Ok(u128::from_le_bytes(bytes))
}

/// A free port below the range that the kernel gives to outgoing connections (from 32768 on): a
/// client that reconnects while the server is down could otherwise be given the server's port, or
/// even connect to itself.
fn free_port() -> Result<u16, ClusterError> {
    for _ in 0..200 {
        let port = 12_000 + (random()? % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(ClusterError::Io(
        "no free port",
        io::ErrorKind::AddrInUse.into(),
    ))
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed())
}

/// Pid, state and parent of every process; from `ps` where there is no /proc.
fn processes() -> Vec<(u32, char, u32)> {
    let from_proc: Vec<_> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let id: u32 = e.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(e.path().join("stat")).ok()?;
            // The name, in parentheses, may hold anything.
            let mut rest = stat[stat.rfind(')')? + 1..].split_whitespace();
            Some((id, rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
        })
        .collect();
    if !from_proc.is_empty() {
        return from_proc;
    }
    let output = Command::new("ps")
        .args(["-A", "-o", "pid=,state=,ppid="])
        .output();
    let text = output.map(|o| o.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            let mut rest = line.split_whitespace();
            let id = rest.next()?.parse().ok()?;
            Some((id, rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
        })
        .collect()
}

fn children_of(parent: u32) -> Vec<Pid> {
    processes()
        .into_iter()
        .filter(|p| p.2 == parent)
        .map(|p| pid(p.0))
        .collect()
}

/// A zombie has let go of everything, whoever collects it.
fn alive(id: Pid) -> bool {
    processes()
        .iter()
        .any(|p| pid(p.0) == id && p.1 != 'Z' && p.1 != 'X')
}
