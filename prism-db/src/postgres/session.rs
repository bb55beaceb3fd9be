//! A connection that is known to behave: its settings are set and then asserted, the schema is the
//! right one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use postgres::types::ToSql;
use postgres::{Client, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::fault::{Fault, plain};
use super::migrate::VERSION;
use crate::catalogue::{Kind, StatementConfig};
use crate::server::{self, Address, Connected, Refusal};
use crate::{DbError, Digest, ParamType, chain};

/// PostgreSQL 13: `xid8` and `pg_current_xact_id`.
const OLDEST_SERVER: i32 = 130_000;

/// A connection used this recently is taken to be alive.
const IDLE: Duration = Duration::from_millis(500);

/// Deadlines of a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    pub connect: Duration,
    pub statement: Duration,
    pub lock: Duration,
}

/// A version of a statement, as the database's migration knows it.
#[derive(Debug, Clone)]
pub(super) struct Installed {
    pub id: i32,
    pub name: String,
    pub params: Vec<ParamType>,
    pub old_columns: usize,
    pub has_undo: bool,
    /// Its undo is guarded, so that its row counts differ for good reasons.
    pub is_absolute: bool,
}

/// All versions that the dispatcher knows.
#[derive(Debug, Default)]
pub(super) struct Statements {
    by_digest: HashMap<Digest, Installed>,
    by_id: HashMap<i32, Digest>,
}

impl Statements {
    pub fn get(&self, digest: &Digest) -> Option<&Installed> {
        self.by_digest.get(digest)
    }

    pub fn digest(&self, id: i32) -> Option<Digest> {
        self.by_id.get(&id).copied()
    }
}

/// A server process, told apart from a later one with the same number.
#[derive(Debug, Clone, Default)]
pub(super) struct Backend {
    pid: i32,
    started: Option<String>,
}

/// A client whose prepared statements live as long as it.
pub(super) struct Session {
    pub client: Client,
    /// For requests to cancel, which travel on connections of their own.
    pub tls: MakeRustlsConnect,
    pub backend: Backend,
    /// When a call on it last began.
    pub used: Instant,
    /// It LISTENs for what others commit to the own stream, and has heard of what lies before this
    /// number.
    pub heard: Option<u64>,
    prepared: HashMap<&'static str, Statement>,
}

impl Session {
    /// Connects, sets the session up and asserts that it is.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn connect(address: &Address, deadlines: Deadlines) -> Result<Self, DbError> {
        let marker = format!("{:016x}", chain::random_u64()?);
        let mut address = address.clone();
        let given = address.config.get_options().unwrap_or_default();
        // From the first query on, and only if the server itself reads them: see `assert_settings`.
        let options =
            format!("{given} -c prism.session={marker} -c search_path=pg_catalog,pg_temp");
        address.config.options(options.trim_start());
        let connected = server::connect(&address).map_err(|refusal| match refusal {
            Refusal::Unprotected(text) => DbError::Unreachable(text),
            Refusal::Client(e) => log_in(plain(&e)),
        })?;
        let Connected { mut client, tls } = connected;
        set_up(&mut client, deadlines).map_err(|e| plain(&e))?;
        let mut session = Self {
            client,
            tls,
            backend: Backend::default(),
            used: Instant::now(),
            heard: None,
            prepared: HashMap::new(),
        };
        session.assert_settings(deadlines, &marker)?;
        Ok(session)
    }

    /// Asks a connection that has been idle whether it still lives, before something is sent of which
    /// one must not wonder afterwards whether it arrived. Servers restart mostly while nobody asks.
    ///
    /// # Errors
    /// [`Fault::Stale`].
    pub fn check(&mut self) -> Result<(), Fault> {
        if self.used.elapsed() < IDLE {
            return Ok(());
        }
        self.client.batch_execute("").map_err(|_| Fault::Stale)?;
        self.used = Instant::now();
        Ok(())
    }

    /// Opens a transaction. Where that fails nothing has been sent that could have an effect.
    ///
    /// # Errors
    /// [`Fault::Stale`] if the connection has ended.
    pub fn begin(&mut self) -> Result<(), Fault> {
        self.client
            .batch_execute("BEGIN")
            .map_err(|error| match plain(&error) {
                DbError::Unreachable(_) => Fault::Stale,
                other => Fault::Db(other),
            })
    }

    /// Ends a server process whose connection was abandoned and which may still hold locks. As well
    /// as can be: a role may end its own processes, but a stopped one does not listen.
    pub fn terminate(&mut self, backend: &Backend) {
        let result = self.client.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE pid = $1 AND backend_start::text = $2",
            &[&backend.pid, &backend.started],
        );
        if let Err(error) = result {
            tracing::debug!(%error, "an abandoned server process could not be ended");
        }
    }

    /// Prepares once per connection.
    ///
    /// # Errors
    /// Those of the server.
    pub fn prepared(&mut self, sql: &'static str) -> Result<Statement, postgres::Error> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql)?;
        self.prepared.insert(sql, statement.clone());
        Ok(statement)
    }

    /// Rows of a prepared query.
    ///
    /// # Errors
    /// Those of the server.
    pub fn query(
        &mut self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, postgres::Error> {
        let statement = self.prepared(sql)?;
        self.client.query(&statement, params)
    }

    /// Rows that a prepared command changed.
    ///
    /// # Errors
    /// Those of the server.
    pub fn execute(
        &mut self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, postgres::Error> {
        let statement = self.prepared(sql)?;
        self.client.execute(&statement, params)
    }

    /// A connection pool in between, or a server that knows a setting only by name, must not make
    /// commits less durable or values look different, nor hand our next transaction to a session that
    /// has other settings: poolers do not pass on the parameters that a session is started with.
    fn assert_settings(&mut self, deadlines: Deadlines, marker: &str) -> Result<(), DbError> {
        let row = self.client.query_one(ASSERT, &[]).map_err(|e| plain(&e))?;
        self.backend = Backend {
            pid: column(&row, 1)?,
            started: column(&row, 2)?,
        };
        let version: i32 = column(&row, 0)?;
        if version < OLDEST_SERVER {
            return Err(DbError::Schema(format!(
                "the server is PostgreSQL {}; Prism needs 13 or newer",
                version / 10_000
            )));
        }
        if column::<Option<&str>>(&row, 3)? != Some(marker) {
            return Err(DbError::Schema(POOLER.to_owned()));
        }
        if column::<&str>(&row, 4)? != "origin" {
            return Err(DbError::Schema(
                "this role's session_replication_role is not origin: triggers and foreign keys \
                 would not act; as a superuser, ALTER ROLE ... RESET session_replication_role (and \
                 look at ALTER DATABASE)"
                    .to_owned(),
            ));
        }
        let names: Vec<String> = column(&row, 5)?;
        let values: Vec<String> = column(&row, 6)?;
        let milliseconds = |d: Duration| d.as_millis().to_string();
        for (name, value) in names.iter().zip(&values) {
            let expected = match name.as_str() {
                "statement_timeout" | "idle_in_transaction_session_timeout" => {
                    &milliseconds(deadlines.statement)
                }
                "lock_timeout" => &milliseconds(deadlines.lock),
                "synchronous_commit" if value == "remote_apply" => value,
                name => SETTINGS
                    .iter()
                    .find(|(setting, _)| *setting == name)
                    .map_or("", |(_, expected)| *expected),
            };
            if value != expected {
                return Err(DbError::Schema(format!(
                    "the session's {name} is {value} although it was set otherwise; connect to the \
                     server itself, not to a pooler in transaction mode"
                )));
            }
        }
        let encoding: String = column(&row, 7)?;
        if encoding != "UTF8" {
            return Err(DbError::Schema(format!(
                "the database's encoding is {encoding}; Prism needs UTF8 (CREATE DATABASE ... \
                 ENCODING 'UTF8' TEMPLATE template0)"
            )));
        }
        Ok(())
    }

    /// Checks that the schema is there, has our version and belongs to `region`.
    ///
    /// # Errors
    /// [`DbError::Schema`] with what to do.
    pub fn check_schema(&mut self, region: &str) -> Result<(), DbError> {
        let Some(found) = self.schema_version()? else {
            return Err(DbError::Schema(format!(
                "the database of {region} has no schema prism; run `prism migrate` for it"
            )));
        };
        check_version(found)?;
        let row = self
            .client
            .query_opt("SELECT name FROM prism.region", &[])
            .map_err(|e| plain(&e))?;
        let Some(row) = row else {
            return Err(DbError::Schema(format!(
                "the ledger in the database of {region} is empty; run `prism migrate` for it"
            )));
        };
        let name: String = column(&row, 0)?;
        check_name(&name, region)
    }

    /// `None`: no schema.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn schema_version(&mut self) -> Result<Option<i32>, DbError> {
        let exists = self
            .client
            .query_one(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c
                                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                                WHERE n.nspname = 'prism' AND c.relname = 'region')",
                &[],
            )
            .map_err(|e| plain(&e))?;
        if !column::<bool>(&exists, 0)? {
            return Ok(None);
        }
        let row = self
            .client
            .query_opt("SELECT schema_version FROM prism.region", &[])
            .map_err(|e| grants(plain(&e)))?;
        row.map_or(Ok(Some(0)), |row| column(&row, 0).map(Some))
    }

    /// What the dispatcher knows.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn statements(&mut self) -> Result<Statements, DbError> {
        let rows = self
            .client
            .query(
                "SELECT id, digest, name, params, old_columns, definition FROM prism.statement",
                &[],
            )
            .map_err(|e| grants(plain(&e)))?;
        let mut statements = Statements::default();
        for row in rows {
            let id = column(&row, 0)?;
            let digest = digest(column(&row, 1)?)?;
            let names: Vec<String> = column(&row, 3)?;
            let params = names.iter().map(|n| ParamType::parse(n)).collect();
            let Some(params) = params else {
                // A newer version's type: as good as unknown.
                continue;
            };
            let config: Option<StatementConfig> = serde_json::from_str(column(&row, 5)?).ok();
            let installed = Installed {
                id,
                has_undo: config.as_ref().is_some_and(|c| c.undo.is_some()),
                is_absolute: config.is_some_and(|c| c.kind == Kind::Absolute),
                name: column(&row, 2)?,
                params,
                old_columns: usize::try_from(column::<i32>(&row, 4)?).unwrap_or_default(),
            };
            statements.by_id.insert(id, digest);
            statements.by_digest.insert(digest, installed);
        }
        Ok(statements)
    }
}

/// Ours. Everything else is called by its full name.
pub(super) const SEARCH_PATH: &str = "pg_catalog, pg_temp";

/// In which the statements of the catalogue find the application's tables.
pub(super) const APPLICATION_PATH: &str = "public, pg_temp";

const POOLER: &str = "the server has not read the parameters that the session was started with: a \
    pooler (PgBouncer, RDS Proxy, ...) is in between, which may give each transaction another session; \
    write the address of the server itself";

/// What values look like and what a commit means must not depend on defaults of the server, of the
/// database or of the role.
const SETTINGS: [(&str, &str); 12] = [
    ("client_encoding", "UTF8"),
    ("synchronous_commit", "on"),
    ("default_transaction_isolation", "read committed"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    // Rows that a policy hides are hidden, whatever the role's default: `prism check` tells of them.
    ("row_security", "on"),
    ("search_path", SEARCH_PATH),
];

const ASSERT: &str = "SELECT current_setting('server_version_num')::int, pg_backend_pid(),
        (SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()),
        current_setting('prism.session', true), current_setting('session_replication_role'),
        array_agg(t.name), array_agg(CASE WHEN t.name LIKE '%timeout'
            THEN (extract(epoch FROM current_setting(t.name)::interval) * 1000)::bigint::text
            ELSE current_setting(t.name) END),
        current_setting('server_encoding')
    FROM (VALUES ('client_encoding'), ('synchronous_commit'), ('default_transaction_isolation'),
        ('TimeZone'), ('DateStyle'), ('IntervalStyle'), ('bytea_output'), ('extra_float_digits'),
        ('standard_conforming_strings'), ('transform_null_equals'), ('row_security'),
        ('search_path'), ('statement_timeout'), ('lock_timeout'),
        ('idle_in_transaction_session_timeout')) AS t (name)";

fn set_up(client: &mut Client, deadlines: Deadlines) -> Result<(), postgres::Error> {
    let (statement, lock) = (deadlines.statement.as_millis(), deadlines.lock.as_millis());
    // Between the statements of one call there is only our own computing.
    let mut text = format!(
        "SET statement_timeout = {statement};
         SET lock_timeout = {lock};
         SET idle_in_transaction_session_timeout = {statement};"
    );
    for (name, value) in SETTINGS {
        text.push_str(&match name {
            // A list, not a string.
            "search_path" => format!("SET search_path = {value};"),
            // `remote_apply` is stronger than `on` and stays.
            "synchronous_commit" => "SELECT set_config('synchronous_commit',
                 CASE current_setting('synchronous_commit')
                     WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false);"
                .to_owned(),
            _ => format!("SET {name} = '{value}';"),
        });
    }
    client.batch_execute(&text)
}

/// # Errors
/// [`DbError::Schema`] with what to do.
pub(super) fn check_version(found: i32) -> Result<(), DbError> {
    match found.cmp(&VERSION) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(DbError::Schema(format!(
            "the schema prism has version {found}, this program needs {VERSION}; run `prism migrate`"
        ))),
        std::cmp::Ordering::Greater => Err(too_new(found)),
    }
}

pub(super) fn too_new(found: i32) -> DbError {
    DbError::Schema(format!(
        "the schema prism has version {found}, newer than this program's {VERSION}; upgrade this \
         program"
    ))
}

/// # Errors
/// [`DbError::Schema`] with what to do.
pub(super) fn check_name(found: &str, expected: &str) -> Result<(), DbError> {
    if found == expected {
        return Ok(());
    }
    Err(DbError::Schema(format!(
        "the database belongs to region {found}, not to {expected}; correct the database address of \
         {expected} in prism.toml"
    )))
}

/// An ordinary role that does not own the schema.
fn grants(error: DbError) -> DbError {
    error.reworded(|sqlstate, message| match sqlstate {
        "42501" => format!(
            "{message}; this role lacks grants: run `prism migrate --role NAME` with its name, as \
             the owner of the schema prism"
        ),
        _ => message.to_owned(),
    })
}

/// A column of a row of our own tables.
///
/// # Errors
/// If somebody has changed the tables.
pub(super) fn column<'a, T: postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
) -> Result<T, DbError> {
    row.try_get(index).map_err(|e| plain(&e))
}

pub(super) fn digest(bytes: &[u8]) -> Result<Digest, DbError> {
    bytes.try_into().map(Digest).map_err(|_| {
        DbError::Schema("a statement's digest in the schema prism is damaged".to_owned())
    })
}

fn log_in(error: DbError) -> DbError {
    match error {
        // PgBouncer, unless it is told to ignore them.
        DbError::Unreachable(text) if text.contains("unsupported startup parameter") => {
            DbError::Schema(format!("{POOLER} ({text})"))
        }
        other => other.reworded(|_, message| format!("cannot log in: {message}")),
    }
}

/// Reads the address, sets what keeps a dead connection from lasting.
///
/// # Errors
/// `Unreachable` if the address is unusable.
pub(super) fn address(url: &str, deadlines: Deadlines) -> Result<Address, DbError> {
    let mut address = Address::parse(url).map_err(DbError::Unreachable)?;
    address.deadlines(deadlines.connect, Some(deadlines.statement));
    if address.config.get_application_name().is_none() {
        address.config.application_name("prism");
    }
    Ok(address)
}
