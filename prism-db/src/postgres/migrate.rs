//! The schema `prism`: numbered SQL files, then the rows and functions that follow from the
//! configuration, all in one transaction.
//!
//! The role needs CREATE on the database, which its owner has, and nothing else. Where another role
//! runs the nodes, [`super::role`] grants it what it needs (functions may be executed by everybody and
//! run with the caller's rights, but for prism.submit).

use std::sync::Arc;
use std::time::Duration;

use postgres::error::SqlState;
use prism_proto::RegionKey;

use super::check;
use super::fault::{Fault, plain};
use super::functions::{self, Branch};
use super::link::Link;
use super::read_region;
use super::role;
use super::session::{self, APPLICATION_PATH, Deadlines, Session, check_name, column, too_new};
use crate::catalogue::{Catalogue, Statement};
use crate::{DbError, Migrated, ParamType, Topology, chain};

/// In order; the number is the version that the file leads to.
const FILES: [&str; 3] = [
    include_str!("migrations/0001_ledger.sql"),
    include_str!("migrations/0002_requests.sql"),
    include_str!("migrations/0003_paths.sql"),
];

/// Written anew by every migration, in this order; prism.run_batch and the functions of the
/// statements are generated from prism.statement.
const FUNCTIONS: [&str; 6] = [
    include_str!("functions/numbering.sql"),
    include_str!("functions/submit.sql"),
    include_str!("functions/apply.sql"),
    include_str!("functions/undo.sql"),
    include_str!("functions/held.sql"),
    include_str!("functions/intents.sql"),
];

/// Version of the schema that this program works with.
pub(super) const VERSION: i32 = FILES.len() as i32;

/// Any number that nobody else uses: two migrations at once go one after the other.
const LOCK: i64 = 0x7072_6973_6d00_0001;

const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(10),
    statement: Duration::from_secs(60),
    lock: Duration::from_secs(30),
};

/// Creates or upgrades the schema. Idempotent.
pub(crate) fn migrate(
    url: &str,
    topology: &Topology,
    catalogue: &Catalogue,
) -> Result<Migrated, DbError> {
    let (topology, catalogue) = (topology.clone(), catalogue.clone());
    on_session(url, move |session| {
        session.begin()?;
        let migrated = run(session, &topology, &catalogue)?;
        session
            .client
            .batch_execute("COMMIT")
            .map_err(|e| plain(&e))?;
        Ok(migrated)
    })
    .map_err(explain)
}

/// Runs `f` on a connection of its own.
pub(super) fn on_session<R: Send + 'static>(
    url: &str,
    f: impl FnOnce(&mut Session) -> Result<R, Fault> + Send + 'static,
) -> Result<R, DbError> {
    let address = session::address(url, DEADLINES)?;
    let (link, ()) = Link::open(DEADLINES.connect, &Arc::default(), move || {
        Ok((Session::connect(&address, DEADLINES)?, ()))
    })?;
    link.run(DEADLINES.statement * 2, move |session, _| f(session))
        .map_err(|late| DbError::Unreachable(format!("no answer: {late:?}")))?
        .map_err(|fault| match fault {
            Fault::Db(error) | Fault::Replan(error) => error,
            Fault::Stale => DbError::Unreachable("the server closed the connection".to_owned()),
        })
}

fn explain(error: DbError) -> DbError {
    error.reworded(|sqlstate, message| {
        let advice = match sqlstate {
            "42501" => {
                "; run the migration as the owner of the database and of the schema prism, or let \
                 the owner GRANT CREATE ON DATABASE to this role"
            }
            "55P03" => "; another migration, or a long transaction, holds the tables: try again",
            _ => "",
        };
        format!("{message}{advice}")
    })
}

fn run(
    session: &mut Session,
    topology: &Topology,
    catalogue: &Catalogue,
) -> Result<Migrated, Fault> {
    session
        .client
        .execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
    let from = session.schema_version()?.unwrap_or(0);
    if from > VERSION {
        return Err(too_new(from).into());
    }
    if from == 0 {
        session
            .client
            .batch_execute("CREATE SCHEMA IF NOT EXISTS prism")?;
    } else {
        let region = read_region(session)?;
        check_name(&region.name, &topology.region)?;
    }
    let done = usize::try_from(from).unwrap_or_default();
    for file in &FILES[done..] {
        session.client.batch_execute(file)?;
    }
    if from == 0 {
        session.client.execute(
            "INSERT INTO prism.region (name, epoch, schema_version) VALUES ($1, $2, $3)",
            &[
                &topology.region,
                &chain::random_u64()?.cast_signed(),
                &VERSION,
            ],
        )?;
    } else if from < VERSION {
        session
            .client
            .execute("UPDATE prism.region SET schema_version = $1", &[&VERSION])?;
    }
    session.client.batch_execute(include_str!("role.sql"))?;
    let added_regions = add_regions(session, topology)?;
    let added_statements = add_statements(session, catalogue)?;
    for file in FUNCTIONS {
        session.client.batch_execute(file)?;
    }
    let branches = branches(session)?;
    session
        .client
        .batch_execute(&functions::dispatcher(&branches))?;
    session
        .client
        .batch_execute(include_str!("functions/secure.sql"))?;
    role::renew(session)?;
    Ok(Migrated {
        region: read_region(session)?,
        from_version: from.cast_unsigned(),
        to_version: VERSION.cast_unsigned(),
        added_regions,
        added_statements,
    })
}

/// A region that is no longer configured keeps its rows.
fn add_regions(session: &mut Session, topology: &Topology) -> Result<Vec<String>, Fault> {
    let mut added = Vec::new();
    for (name, key) in topology.regions.iter() {
        if *name == topology.region {
            continue;
        }
        let key: &RegionKey = key;
        let new = session.client.execute(
            "INSERT INTO prism.watermark (stream, key) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            &[name, &i64::from(key.0)],
        )?;
        session.client.execute(
            "INSERT INTO prism.lane (peer) VALUES ($1) ON CONFLICT DO NOTHING",
            &[name],
        )?;
        if new > 0 {
            added.push(name.clone());
        }
    }
    Ok(added)
}

/// The versions that the table does not know yet, and their functions.
fn add_statements(session: &mut Session, catalogue: &Catalogue) -> Result<Vec<String>, Fault> {
    let mut added = Vec::new();
    for statement in catalogue.iter() {
        let names: Vec<&str> = statement.params().iter().map(|ty| ty.name()).collect();
        let row = session.client.query_opt(
            "INSERT INTO prism.statement (digest, name, definition, params, old_columns)
             SELECT $1, $2, $3, $4, $5
             WHERE NOT EXISTS (SELECT FROM prism.statement WHERE digest = $1) RETURNING id",
            &[
                &statement.digest().0.as_slice(),
                &statement.name(),
                &statement.definition(),
                &names,
                &old_columns(statement),
            ],
        )?;
        if let Some(row) = row {
            added.push(statement.name().to_owned());
            let text = functions::statement(column(&row, 0)?, statement);
            create(session, statement, &text)?;
        }
    }
    let current: Vec<_> = catalogue.iter().map(|s| s.digest().0.to_vec()).collect();
    session.client.execute(
        "UPDATE prism.statement SET current = NOT current WHERE current <> (digest = ANY ($1))",
        &[&current],
    )?;
    Ok(added)
}

fn old_columns(statement: &Statement) -> i32 {
    if statement.old().is_none() {
        return 0;
    }
    i32::try_from(statement.old_columns()).unwrap_or(i32::MAX)
}

fn create(session: &mut Session, statement: &Statement, text: &str) -> Result<(), Fault> {
    session.client.batch_execute(text).map_err(|error| {
        let named = |_: &str, message: &str| format!("statement {}: {message}", statement.name());
        Fault::Db(plain(&error).reworded(named))
    })
}

/// Whether the rows that an `old` query reads can be locked: not where it aggregates, nor by a role that
/// may not update them.
fn can_lock(session: &mut Session, statement: &Statement, old: &str) -> Result<bool, Fault> {
    session.client.batch_execute(&format!(
        "SAVEPOINT prism_old; SET LOCAL search_path = {APPLICATION_PATH}"
    ))?;
    let tried = check::lock(session, statement, old);
    session
        .client
        .batch_execute("ROLLBACK TO SAVEPOINT prism_old; RELEASE SAVEPOINT prism_old")?;
    let no = [
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ];
    let why = tried.err().and_then(|error| error.code().cloned());
    Ok(why.is_none_or(|why| !no.contains(&why)))
}

/// All versions, current or not; (re)creates what takes them back.
fn branches(session: &mut Session) -> Result<Vec<Branch>, Fault> {
    let rows = session.client.query(
        "SELECT id, params, old_columns, definition FROM prism.statement",
        &[],
    )?;
    let mut branches = Vec::new();
    for row in rows {
        let names: Vec<String> = column(&row, 1)?;
        // A type of a newer version: that version's own migration wrote the dispatcher, and refuses
        // this one by the schema's version.
        let Some(params) = names.iter().map(|n| ParamType::parse(n)).collect() else {
            continue;
        };
        let id = column(&row, 0)?;
        // Rules may have become stricter since; what was undone by the old ones still is.
        let statement = Statement::from_definition(column(&row, 3)?).ok();
        let old = statement.as_ref().and_then(|s| Some((s, s.old()?)));
        if let Some((statement, old)) = old {
            let lock = can_lock(session, statement, old)?;
            let text = functions::old(id, statement, old, lock);
            create(session, statement, &text)?;
        }
        let undo = statement.as_ref().and_then(|s| Some((s, s.undo()?)));
        if let Some((statement, undo)) = undo {
            let text = functions::undo(id, statement, undo);
            create(session, statement, &text)?;
        }
        branches.push(Branch {
            id,
            params,
            old_columns: usize::try_from(column::<i32>(&row, 2)?).unwrap_or_default(),
            has_undo: undo.is_some(),
        });
    }
    Ok(branches)
}
