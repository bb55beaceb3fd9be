//! The role that nodes run with: no attributes, no ownership, on the ledger what the code does, on
//! the application's tables what the statements do.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::fault::{Fault, plain};
use super::migrate::on_session;
use super::session::{Session, column};
use crate::DbError;
use crate::catalogue::{Access, Catalogue, Privilege, Table};

/// What nodes do with each table of the ledger; rows of `intent` are written by functions that run
/// with the owner's rights.
const LEDGER: [(&str, &[Privilege]); 9] = {
    use Privilege::{Delete, Insert, Select, Update};
    [
        ("region", &[Select, Update]),
        ("watermark", &[Select, Update]),
        ("statement", &[Select]),
        ("outbox", &[Select, Insert, Update, Delete]),
        ("lane", &[Select, Update]),
        ("rejected", &[Select, Insert, Update]),
        ("request", &[Select, Insert, Update, Delete]),
        ("node", &[Select, Insert, Update]),
        ("skip", &[Select, Insert, Update, Delete]),
    ]
};

const ATTRIBUTES: &str = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";

/// What `prism migrate --role` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// It did not exist before, and has no password yet.
    pub created: bool,
    /// What is left to be done, or to be thought of, by the operator.
    pub remarks: Vec<String>,
}

/// How the role of an address fits what a node does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Its name.
    pub role: String,
    /// What it lacks, and the SQL that mends it.
    pub missing: Vec<(String, String)>,
    /// What it could do without, or what others could do to it, and the remedy.
    pub notes: Vec<String>,
}

/// # Errors
/// A text.
fn name(role: &str) -> Result<String, String> {
    let reserved = role.starts_with("pg_") || role.eq_ignore_ascii_case("public");
    if role.is_empty() || role.len() > 63 || role.contains('\0') || reserved {
        return Err(format!(
            "\"{}\" cannot be the name of a role: use 1 to 63 bytes, not beginning with pg_",
            role.escape_debug()
        ));
    }
    Ok(format!("\"{}\"", role.replace('"', "\"\"")))
}

fn ledger() -> Access {
    LEDGER
        .iter()
        .map(|(name, verbs)| {
            let table = Table {
                schema: "prism".to_owned(),
                name: (*name).to_owned(),
            };
            (table, verbs.iter().copied().collect())
        })
        .collect()
}

fn grant(table: &Table, verbs: &BTreeSet<Privilege>, role: &str) -> String {
    let verbs: Vec<_> = verbs.iter().map(|verb| verb.name()).collect();
    format!("GRANT {} ON {table} TO {role}", verbs.join(", "))
}

fn schemas(access: &Access) -> BTreeSet<&str> {
    access.keys().map(|table| table.schema.as_str()).collect()
}

/// Of these tables, those that this session may ask about.
fn visible(session: &mut Session, access: &Access) -> Result<Vec<String>, Fault> {
    let mut tables = Vec::new();
    for table in access.keys() {
        let sql = "SELECT FROM pg_namespace n
                   WHERE n.oid = to_regnamespace($1) AND has_schema_privilege(n.oid, 'USAGE')";
        if !session.query(sql, &[&table.schema])?.is_empty() {
            tables.push(table.to_string());
        }
    }
    Ok(tables)
}

/// The SQL that makes the role, for the owner of the schema to look at and to run with `psql`.
///
/// # Errors
/// If nothing can be called that.
pub fn role_script(role: &str, catalogue: &Catalogue) -> Result<String, String> {
    let quoted = name(role)?;
    let access = catalogue.access();
    let mut text = format!(
        "-- The role of Prism's nodes. Afterwards give it a password: \\password {quoted}\n\
         CREATE ROLE {quoted} {ATTRIBUTES};\n\
         GRANT USAGE ON SCHEMA prism TO {quoted};\n"
    );
    for (table, verbs) in ledger() {
        let _ = writeln!(text, "{};", grant(&table, &verbs, &quoted));
    }
    text.push_str("-- What the statements of the catalogue write and read.\n");
    for schema in schemas(&access) {
        let _ = writeln!(text, "GRANT USAGE ON SCHEMA {schema} TO {quoted};");
    }
    for (table, verbs) in &access {
        let _ = writeln!(text, "{};", grant(table, verbs, &quoted));
    }
    let _ = write!(
        text,
        "-- Triggers, and functions that statements call, run with the rights of {quoted} unless they are\n\
         -- SECURITY DEFINER: grant what else they touch. Row security policies must let it see its rows.\n"
    );
    Ok(text)
}

/// Makes the role, if it is not there, and grants it what it lacks. The address is the owner's.
///
/// # Errors
/// [`DbError`].
pub(crate) fn create(url: &str, role: &str, catalogue: &Catalogue) -> Result<Granted, DbError> {
    let quoted = name(role).map_err(|text| DbError::sql("42602", text, None))?;
    let (role, access) = (role.to_owned(), catalogue.access());
    on_session(url, move |session| {
        let there = "SELECT FROM pg_roles WHERE rolname = $1";
        let mut created = session.query(there, &[&role])?.is_empty();
        if created {
            let sql = format!("CREATE ROLE {quoted} {ATTRIBUTES}");
            match session.client.batch_execute(&sql).map_err(|e| plain(&e)) {
                Ok(()) => {}
                // Another region of the same server was faster; 23505 if it was at the same time.
                Err(DbError::Sql { sqlstate, .. })
                    if matches!(sqlstate.as_str(), "42710" | "23505") =>
                {
                    created = false;
                }
                Err(error) => return Err(may_not_create(error).into()),
            }
        }
        let mut remarks = Vec::new();
        // What may not be granted by this role is named below, by its lack.
        let try_to = |session: &mut Session, sql: &str| {
            if let Err(error) = session.client.batch_execute(sql) {
                tracing::debug!(%error, sql, "not granted");
            }
        };
        for (_, sql) in missing(session, &role, &quoted, &access)? {
            try_to(session, &sql);
        }
        // A table in a schema that could not be looked into before.
        for (_, sql) in missing(session, &role, &quoted, &access)? {
            try_to(session, &sql);
        }
        for (what, sql) in missing(session, &role, &quoted, &access)? {
            remarks.push(format!("{what}; let its owner run: {sql}"));
        }
        for table in visible(session, &access)? {
            remarks.extend(triggers(session, &table, &role)?);
        }
        Ok(Granted { created, remarks })
    })
}

fn may_not_create(error: DbError) -> DbError {
    match error {
        DbError::Sql {
            sqlstate, message, ..
        } if sqlstate == "42501" => DbError::sql(
            "42501",
            format!(
                "{message}; let a role that may create roles run what `prism migrate --role NAME \
                 --print` prints, then run this again"
            ),
            None,
        ),
        other => other,
    }
}

/// What the role lacks, and what mends it.
fn missing(
    session: &mut Session,
    role: &str,
    quoted: &str,
    application: &Access,
) -> Result<Vec<(String, String)>, Fault> {
    let mut all = ledger();
    all.extend(application.clone());
    let all_schemas = all.clone();
    let mut lacks = Vec::new();
    let mut hidden = BTreeSet::new();
    for schema in schemas(&all_schemas) {
        let rows = session.query(
            "SELECT has_schema_privilege($1::text::name, n.oid, 'USAGE'),
                    has_schema_privilege(n.oid, 'USAGE')
             FROM pg_namespace n WHERE n.oid = to_regnamespace($2)",
            &[&role, &schema],
        )?;
        let Some(row) = rows.first() else { continue };
        if !column::<bool>(row, 0)? {
            lacks.push((
                format!("{role} may not look into schema {schema}"),
                format!("GRANT USAGE ON SCHEMA {schema} TO {quoted}"),
            ));
        }
        if !column::<bool>(row, 1)? {
            hidden.insert(schema.to_owned());
        }
    }
    // What this session may not look into it cannot ask about.
    all.retain(|table, _| !hidden.contains(&table.schema));
    for (table, verbs) in &all {
        let name = table.to_string();
        let mut lacking = BTreeSet::new();
        for verb in verbs {
            // By its number: a name is looked up with this session's rights, not that role's.
            let rows = session.query(
                "SELECT has_table_privilege($1::text::name, c.oid, $3) FROM pg_class c
                 WHERE c.oid = to_regclass($2)",
                &[&role, &name, &verb.name()],
            )?;
            match rows.first() {
                // EXPLAIN, or the schema's version, tells of it.
                None => {}
                Some(row) if column::<bool>(row, 0)? => {}
                Some(_) => {
                    lacking.insert(*verb);
                }
            }
        }
        if !lacking.is_empty() {
            let words: Vec<_> = lacking.iter().map(|verb| verb.name()).collect();
            lacks.push((
                format!("{role} may not {} {table}", words.join(", ")),
                grant(table, &lacking, quoted),
            ));
        }
    }
    Ok(lacks)
}

fn triggers(session: &mut Session, table: &str, role: &str) -> Result<Vec<String>, Fault> {
    let rows = session.query(
        "SELECT t.tgname::text, p.oid::regprocedure::text
         FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
         WHERE t.tgrelid = to_regclass($1) AND NOT t.tgisinternal AND NOT p.prosecdef
         ORDER BY t.tgname",
        &[&table],
    )?;
    rows.iter()
        .map(|row| {
            let (trigger, function): (String, String) = (column(row, 0)?, column(row, 1)?);
            Ok(format!(
                "trigger {trigger} of {table} calls {function} with the rights of {role}: grant what \
                 else that touches"
            ))
        })
        .collect()
}

/// What the role of this address has too much and too little.
///
/// # Errors
/// [`DbError`].
pub(crate) fn inspect(url: &str, catalogue: &Catalogue) -> Result<Inspection, DbError> {
    let access = catalogue.access();
    on_session(url, move |session| {
        let rows = session.query(
            "SELECT r.rolname::text,
                array_remove(ARRAY[CASE WHEN rolsuper THEN 'SUPERUSER' END,
                    CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
                    CASE WHEN rolcreatedb THEN 'CREATEDB' END,
                    CASE WHEN rolreplication THEN 'REPLICATION' END,
                    CASE WHEN rolbypassrls THEN 'BYPASSRLS' END], NULL),
                EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = 'prism'
                        AND pg_has_role(n.nspowner, 'USAGE')),
                EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = 'public'
                        AND has_schema_privilege('public', n.oid, 'CREATE'))
             FROM pg_roles r WHERE r.rolname = current_user",
            &[],
        )?;
        let row = rows
            .first()
            .ok_or_else(|| DbError::Schema("the role of this address is gone".to_owned()))?;
        let role: String = column(row, 0)?;
        let attributes: Vec<String> = column(row, 1)?;
        let (owner, everybody): (bool, bool) = (column(row, 2)?, column(row, 3)?);
        let mut notes = Vec::new();
        if !attributes.is_empty() {
            notes.push(format!(
                "role {role} is {}, which a node does not need: prism migrate --role NAME makes one \
                 with what it needs",
                attributes.join(", ")
            ));
        } else if owner {
            notes.push(format!(
                "role {role} owns the schema prism and may drop it: prism migrate --role NAME makes \
                 one for the nodes with what they need"
            ));
        }
        if everybody {
            notes.push(
                "every role may create objects in schema public, and could have them used by \
                 statements instead of what was meant: REVOKE CREATE ON SCHEMA public FROM PUBLIC"
                    .to_owned(),
            );
        }
        for table in visible(session, &access)? {
            let sql = "SELECT row_security_active(c.oid) FROM pg_class c
                       WHERE c.oid = to_regclass($1) AND c.relrowsecurity";
            let active = session.query(sql, &[&table])?;
            if active.first().map(|row| column(row, 0)).transpose()? == Some(true) {
                notes.push(format!(
                    "row security policies decide which rows of {table} role {role} sees: give it one \
                     that lets it see and write all (CREATE POLICY ... TO {role} USING (true) WITH \
                     CHECK (true)), or updates miss rows"
                ));
            }
        }
        let quoted = name(&role).unwrap_or_else(|_| role.clone());
        Ok(Inspection {
            missing: missing(session, &role, &quoted, &access)?,
            role,
            notes,
        })
    })
}

/// Roles that run nodes get what a new version of the ledger asks for.
pub(super) fn renew(session: &mut Session) -> Result<(), Fault> {
    let rows = session.client.query(
        "SELECT DISTINCT quote_ident(pg_get_userbyid(a.grantee))
         FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
         WHERE c.oid = 'prism.region'::regclass AND a.grantee NOT IN (0, c.relowner)
           AND a.privilege_type = 'UPDATE'",
        &[],
    )?;
    for row in &rows {
        let role: String = column(row, 0)?;
        for (table, verbs) in ledger() {
            session
                .client
                .batch_execute(&grant(&table, &verbs, &role))?;
        }
    }
    Ok(())
}
