//! The donor's dump, of one snapshot, into the target: one transaction that also drops what was
//! there and changes the ledger. Whatever dies in between, the target is as it was: the COMMIT is
//! written last, and a `psql` whose input ends before it rolls back.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postgres::Client;

use super::pg_tools::Tools;
use super::postgres::{CLEAR, address, connect, failed};
use super::{AdoptError, Change};
use crate::{DbError, Hlc};

/// Awaited writes are short.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);
/// Between two words about the progress.
const TELL: Duration = Duration::from_secs(5);

/// Drops what the role may drop; what is left and would be in the way is an error.
const DROP: &str = include_str!("drop.sql");

/// The server's version, for which client programs must be there.
pub(super) fn prepare(donor: &str) -> Result<(), AdoptError> {
    let mut client = connect(donor).map_err(AdoptError::Copy)?;
    Tools::find(version(&mut client).map_err(AdoptError::Copy)?).map(drop)
}

pub(super) fn copy(
    donor: &str,
    target: &str,
    change: &Change<'_>,
    settle: &mut dyn FnMut(),
    tell: &mut dyn FnMut(&str),
) -> Result<(), AdoptError> {
    let io = |what: &str, e| AdoptError::Io(what.to_owned(), e);
    let from = address(donor).map_err(AdoptError::Copy)?;
    let to = address(target).map_err(AdoptError::Copy)?;
    let mut snapshot = Snapshot::take(donor, change, settle)?;
    let tools = Tools::find(version(&mut snapshot.client).map_err(AdoptError::Copy)?)?;
    let grants = grants(&mut snapshot.client).map_err(AdoptError::Copy)?;

    let mut psql = Running::start(
        "psql",
        tools
            .command("psql", &to)
            .args([
                "--no-psqlrc",
                "--quiet",
                "--variable=ON_ERROR_STOP=1",
                "--file=-",
            ])
            .stdin(Stdio::piped()),
    )?;
    let mut dump = Running::start(
        "pg_dump",
        tools
            .command("pg_dump", &from)
            .args([
                "--format=plain",
                "--no-owner",
                "--no-privileges",
                "--no-tablespaces",
            ])
            .args([
                "--no-publications",
                "--no-subscriptions",
                "--lock-wait-timeout=30s",
            ])
            .arg(format!("--snapshot={}", snapshot.id))
            .stdout(Stdio::piped()),
    )?;
    let mut input = psql.child.stdin.take();
    let mut output = dump.child.stdout.take();
    let copied = (|| {
        let (Some(input), Some(output)) = (&mut input, &mut output) else {
            return Ok(());
        };
        // Until the dump sets its own: nobody may keep the tables locked for long.
        write!(input, "{CLEAR};\nBEGIN;\nSET lock_timeout = '30s';\n{DROP}")?;
        pump(output, input, tell)
    })();
    // Which one failed first? A reader that has gone ends the other.
    if copied.is_err() {
        drop(input.take());
        psql.end()?;
        dump.end()?;
    }
    copied.map_err(|e| io("cannot pass the dump on", e))?;
    dump.end()?;
    let finish = input.take().map_or(Ok(()), |mut input: ChildStdin| {
        writeln!(input, "{}{grants}COMMIT;", become_target(change))
    });
    psql.end()?;
    finish.map_err(|e| io("cannot pass the dump on", e))
}

fn pump(
    from: &mut impl Read,
    to: &mut impl Write,
    tell: &mut dyn FnMut(&str),
) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let (mut total, mut told) = (0_u64, Instant::now());
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return to.flush(),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        to.write_all(&buffer[..n])?;
        total += n as u64;
        if told.elapsed() >= TELL {
            told = Instant::now();
            tell(&format!("{} MiB copied", total >> 20));
        }
    }
}

/// A snapshot of the donor that `pg_dump` can share, while the connection is open.
struct Snapshot {
    client: Client,
    id: String,
}

impl Snapshot {
    /// Of a moment without a held update: its number is taken, but its effect is in an open
    /// transaction, and a copy would have the one without the other.
    fn take(
        donor: &str,
        change: &Change<'_>,
        settle: &mut dyn FnMut(),
    ) -> Result<Self, AdoptError> {
        let fail = |e| AdoptError::Copy(failed(e));
        let mut client = connect(donor).map_err(AdoptError::Copy)?;
        client
            .batch_execute("SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0")
            .map_err(fail)?;
        for _ in 0..TRIES {
            client
                .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .map_err(fail)?;
            let held = "SELECT count(*) FROM prism.outbox WHERE state = 'h'";
            let held: i64 = client.query_one(held, &[]).map_err(fail)?.get(0);
            if held == 0 {
                let id = client
                    .query_one("SELECT pg_export_snapshot()", &[])
                    .map_err(fail)?
                    .get(0);
                return Ok(Self { client, id });
            }
            client.batch_execute("ROLLBACK").map_err(fail)?;
            settle();
            std::thread::sleep(PAUSE);
        }
        Err(AdoptError::Held {
            donor: change.donor.to_owned(),
        })
    }
}

fn version(client: &mut Client) -> Result<u32, DbError> {
    let sql = "SELECT current_setting('server_version_num')::int / 10000";
    let version: i32 = client.query_one(sql, &[]).map_err(failed)?.get(0);
    Ok(version.cast_unsigned())
}

/// What others than the owner may do with the donor's schemas, tables, sequences and routines, for
/// those roles that the target's server has as well. (Roles belong to a server, so a dump that names
/// them may not fit another one.) A routine is everybody's unless that was taken away.
fn grants(client: &mut Client) -> Result<String, DbError> {
    let rows = client
        .query(
            "WITH routines AS (
                 SELECT format('ROUTINE %I.%I(%s)', nspname, proname,
                               pg_get_function_identity_arguments(p.oid)) AS routine, p.*
                 FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
                 WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
                   AND proacl IS NOT NULL
                   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
             ), granted AS (
                 SELECT 'SCHEMA ' || quote_ident(nspname) AS what, a.*, nspowner AS owner
                 FROM pg_namespace n, aclexplode(nspacl) a
                 WHERE nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', 'public')
                 UNION ALL
                 SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END
                            || quote_ident(nspname) || '.' || quote_ident(relname), a.*, relowner
                 FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace, aclexplode(relacl) a
                 WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
                   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
                 UNION ALL
                 SELECT routine, a.*, proowner FROM routines, aclexplode(proacl) a)
             SELECT 'REVOKE ALL ON ' || routine || ' FROM PUBLIC', NULL, NULL FROM routines
             UNION ALL
             SELECT g.what, g.privilege_type, r.rolname
             FROM granted g LEFT JOIN pg_roles r ON r.oid = g.grantee
             WHERE g.grantee <> g.owner AND (g.grantee = 0 OR r.rolname IS NOT NULL)
             ORDER BY 2 NULLS FIRST, 1, 3",
            &[],
        )
        .map_err(failed)?;
    let mut text = String::new();
    for row in rows {
        let (what, privilege, role): (String, Option<String>, Option<String>) =
            (row.get(0), row.get(1), row.get(2));
        let Some(privilege) = privilege else {
            text.push_str(&format!("{what};\n"));
            continue;
        };
        let (condition, grantee) = match &role {
            None => ("true".to_owned(), "PUBLIC".to_owned()),
            Some(role) => (
                format!(
                    "EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {})",
                    literal(role)
                ),
                format!("\"{}\"", role.replace('"', "\"\"")),
            ),
        };
        text.push_str(&grant_if(&condition, &privilege, &what, &grantee));
    }
    Ok(text)
}

/// In single quotes, which the names in it cannot end: whoever may name a table in the donor's database
/// could put the end of a dollar quote into the name.
fn grant_if(condition: &str, privilege: &str, what: &str, grantee: &str) -> String {
    let grant = literal(&format!("GRANT {privilege} ON {what} TO {grantee}"));
    let body = format!("BEGIN IF {condition} THEN EXECUTE {grant}; END IF; END");
    format!("DO {};\n", literal(&body))
}

/// The donor's row of the target's stream becomes the row of the donor's own stream.
fn become_target(change: &Change<'_>) -> String {
    let (target, donor) = (literal(change.target), literal(change.donor));
    let (epoch, key) = (change.epoch.0.cast_signed(), change.donor_key.0);
    let followed = Hlc::FOLLOWED.0;
    format!(
        r"
DO $prism_adopt$
DECLARE
    v_own  prism.region;
    v_was  prism.watermark;
    v_hlc  bigint;
BEGIN
    SELECT * INTO STRICT v_own FROM prism.region;
    SELECT * INTO v_was FROM prism.watermark WHERE stream = {target} AND epoch = {epoch};
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the copy does not know the new numbering; run this again';
    END IF;
    SELECT greatest(v_own.hlc, least(max(hlc), {followed})) INTO v_hlc FROM prism.watermark;
    UPDATE prism.watermark
        SET stream = {donor}, key = {key}, epoch = v_own.epoch, applied = v_own.next_seq - 1,
            tag = v_own.last_tag, hlc = v_own.hlc
        WHERE stream = {target};
    UPDATE prism.region
        SET name = {target}, epoch = {epoch}, next_seq = v_was.applied + 1, last_tag = v_was.tag,
            hlc = v_hlc;
    DELETE FROM prism.outbox;
    UPDATE prism.lane SET peer = {donor} WHERE peer = {target};
    UPDATE prism.lane
        SET epoch = {epoch}, acked = v_was.applied, tag = v_was.tag, holder = NULL,
            lease_until = NULL, wanted = NULL, wanted_until = NULL, stale = false;
    -- Refusals of its own updates: the regions that refused have them on record. And what the
    -- donor's journal held is the donor's.
    DELETE FROM prism.rejected WHERE stream = {target} OR seq IS NULL;
    DELETE FROM prism.skip;
    DELETE FROM prism.node;
    DELETE FROM prism.intent;
END
$prism_adopt$;
"
    )
}

/// For a session with standard_conforming_strings.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A child that does not outlive us.
struct Running {
    program: &'static str,
    child: Child,
    words: Option<JoinHandle<String>>,
}

impl Running {
    fn start(
        program: &'static str,
        command: &mut std::process::Command,
    ) -> Result<Self, AdoptError> {
        let mut child = command
            .spawn()
            .map_err(|e| AdoptError::Io(format!("cannot start {program}"), e))?;
        let words = child.stderr.take().map(|mut stderr| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = stderr.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        });
        Ok(Self {
            program,
            child,
            words,
        })
    }

    /// Waits for its end, which must be a good one.
    fn end(&mut self) -> Result<(), AdoptError> {
        let status = self
            .child
            .wait()
            .map_err(|e| AdoptError::Io(format!("cannot wait for {}", self.program), e))?;
        let words = self.words.take().and_then(|words| words.join().ok());
        if status.success() {
            return Ok(());
        }
        let words = words.unwrap_or_default();
        let lines: Vec<&str> = words.lines().collect();
        let detail = match lines.len() {
            0 => status.to_string(),
            n => lines[n.saturating_sub(6)..].join("; "),
        };
        Err(AdoptError::Program {
            program: self.program,
            detail,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_quotes() {
        assert_eq!(literal("it's"), "'it''s'");
    }

    #[test]
    fn a_name_cannot_end_the_command_that_it_stands_in() {
        let what = "TABLE public.\"x$prism_grant$; DROP TABLE t; --'\"";
        let text = grant_if("true", "SELECT", what, "\"a'b$$\"");
        // Outside of single quotes there is nothing of it.
        let outside: Vec<_> = text.split('\'').step_by(2).collect();
        assert_eq!(outside.concat(), "DO ;\n", "{text}");
    }
}
