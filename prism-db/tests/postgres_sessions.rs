//! What a session may not depend on: defaults of server and role, poolers, and what others create in
//! a schema that the application shares with them.
#![cfg(unix)]

mod pg;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use pg::tls::Middle;
use pg::*;
use prism_db::{DbError, Value};
use prism_proto::Seq;

/// Better matches than pg_catalog's own for what functions with array and text arguments call. Each
/// would tell.
const HIJACK: &str = "
    CREATE FUNCTION public.caught() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'hijacked'; END $$;
    DO $$
    DECLARE f record;
    BEGIN
        FOR f IN SELECT * FROM (VALUES
            ('cardinality', 'bigint[]', 'integer'), ('cardinality', 'integer[]', 'integer'),
            ('cardinality', 'text[]', 'integer'), ('cardinality', 'uuid[]', 'integer'),
            ('array_fill', 'text, integer[]', 'text[]'),
            ('array_append', 'integer[], integer', 'integer[]'),
            ('array_append', 'bigint[], bigint', 'bigint[]'),
            ('concat_ws', 'text, text, text', 'text'),
            ('concat_ws', 'text, text, integer, text', 'text'),
            ('octet_length', 'text, text', 'integer'),
            ('json_build_object', 'text, text, text, text', 'json'),
            ('convert_to', 'text, text', 'bytea'),
            ('set_config', 'text, text, bool, int', 'text'),
            ('format', 'text, text', 'text'), ('left', 'text, bigint', 'text'),
            ('greatest', 'bigint, bigint, bigint', 'bigint'),
            ('jsonb_array_length', 'json', 'integer'),
            ('array_agg', 'bigint', 'bigint[]')
        ) AS f (name, arguments, result) LOOP
            EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS
                $f$BEGIN PERFORM public.caught(); RETURN NULL; END$f$',
                f.name, f.arguments, f.result);
        END LOOP;
        FOR f IN SELECT * FROM (VALUES ('||', 'integer[]', 'integer[]'), ('||', 'integer[]', 'integer'),
            ('||', 'bigint[]', 'bigint'), ('||', 'text[]', 'text'), ('||', 'text[]', 'text[]'),
            ('<', 'integer', 'text'), ('||', 'text', 'integer'), ('<>', 'bigint', 'text'),
            ('=', '\"char\"', 'text'), ('->', 'jsonb', 'bigint')
        ) AS f (name, l, r) LOOP
            EXECUTE format('CREATE FUNCTION public.op(%s, %s) RETURNS bool LANGUAGE plpgsql AS
                $f$BEGIN PERFORM public.caught(); RETURN NULL; END$f$', f.l, f.r);
            EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.op)',
                f.name, f.l, f.r);
        END LOOP;
    END $$;";

#[test]
fn what_others_create_in_the_applications_schema_is_not_called() {
    let mut na = Region::new(shared(), "hijack_na", "NA");
    let mut eu = Region::new(shared(), "hijack_eu", "EU");
    for name in ["hijack_na", "hijack_eu"] {
        let mut admin = shared().admin(name).unwrap();
        admin
            .batch_execute(&format!(
                "CREATE ROLE {name}_hostile; GRANT CREATE ON SCHEMA public TO {name}_hostile;
                 SET ROLE {name}_hostile; {HIJACK}"
            ))
            .unwrap();
    }
    // They would be called by whoever looks there.
    let caught = na
        .sql()
        .query("SELECT cardinality(ARRAY[1, 2])", &[])
        .unwrap_err();
    assert!(caught.as_db_error().unwrap().message().contains("hijacked"));

    let rename = |name: &str| submission("rename", &[Value::Int(1), Value::Text(name.into())]);
    let batch = [
        with_id(user(1), 1),
        with_id(kills(1, 1), 2),
        with_id(rename("x"), 3),
        with_id(kills(1, 1), 4),
    ];
    assert_eq!(na.db.submit(&batch).unwrap().len(), 4);
    // Drift, and a dead letter: the ways that build arrays and texts.
    ship_all(&mut na, &mut eu);
    eu.sql().execute("DELETE FROM users", &[]).unwrap();
    assert_eq!(na.db.submit(&[kills(1, 1), rename("y")]).unwrap().len(), 2);
    ship_all(&mut na, &mut eu);
    assert!(na.db.submit(&[with_id(kills(1, 9_000_000), 9)]).is_err());
    let undone = na.db.undo(Seq(2), &prism_db::UndoReason::Crashed);
    undone.unwrap();
    let mut app = na.sql();
    app.batch_execute("BEGIN; SET LOCAL search_path = pg_catalog")
        .unwrap();
    app.execute("UPDATE public.users SET kills = kills + 1", &[])
        .unwrap();
    // The application's own session looks there first.
    app.batch_execute("SET LOCAL search_path = public").unwrap();
    app.execute("SELECT prism.submit('add_kills', '[1, 1]'::jsonb)", &[])
        .unwrap();
    app.batch_execute("COMMIT").unwrap();
    ship_all(&mut na, &mut eu);
}

#[test]
fn every_function_of_the_ledger_has_a_fixed_search_path() {
    let na = Region::new(shared(), "fixed_path", "NA");
    let loose: Vec<String> = na
        .sql()
        .query(
            "SELECT p.proname::text FROM pg_proc p WHERE pronamespace = 'prism'::regnamespace
               AND proname !~ '^[sou]_[0-9]+$' AND proname <> 'run_batch'
               AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(loose, [""; 0]);
    // Those that run with their owner's rights are nobody's by default.
    let open = na.number(
        "SELECT count(*) FROM pg_proc p WHERE pronamespace = 'prism'::regnamespace AND prosecdef
           AND has_function_privilege('public', p.oid, 'EXECUTE')",
    );
    assert_eq!(open, 0);
    let owners = na.number(
        "SELECT count(*) FROM pg_proc p WHERE pronamespace = 'prism'::regnamespace AND prosecdef",
    );
    assert_eq!(owners, 2, "prism.submit and its trigger");
}

#[test]
fn a_pooler_is_found() {
    let na = Region::new(shared(), "pooled", "NA");
    let server = shared().port();
    // PgBouncer with `ignore_startup_parameters = options`: it does not pass them on.
    let middle = Middle::new(move |client| drop(without_options(client, server)));
    let url = na
        .url
        .replace(&server.to_string(), &middle.port.to_string());
    let error = open(&url, options("NA")).region().unwrap_err();
    assert!(
        matches!(&error, DbError::Schema(text) if text.contains("pooler")),
        "{error:?}"
    );
    // And one that refuses them.
    let middle = Middle::new(|mut client| {
        let mut bytes = [0; 1024];
        let _ = client.read(&mut bytes);
        let text = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
        let mut message = vec![b'E'];
        message.extend_from_slice(&(text.len() as u32 + 4).to_be_bytes());
        message.extend_from_slice(text);
        let _ = client.write_all(&message);
    });
    let url = na
        .url
        .replace(&server.to_string(), &middle.port.to_string());
    let error = open(&url, options("NA")).region().unwrap_err();
    assert!(
        matches!(&error, DbError::Schema(text) if text.contains("pooler")),
        "{error:?}"
    );
}

fn without_options(mut client: TcpStream, server: u16) -> std::io::Result<()> {
    let mut head = [0; 4];
    client.read_exact(&mut head)?;
    let mut body = vec![0; u32::from_be_bytes(head) as usize - 4];
    client.read_exact(&mut body)?;
    let (version, rest) = body.split_at(4);
    let words: Vec<&[u8]> = rest.split(|byte| *byte == 0).collect();
    let mut kept = version.to_vec();
    for pair in words.chunks(2).filter(|pair| pair.len() == 2) {
        if pair[0] != b"options" && !pair[0].is_empty() {
            kept.extend_from_slice(pair[0]);
            kept.push(0);
            kept.extend_from_slice(pair[1]);
            kept.push(0);
        }
    }
    kept.push(0);
    let mut far = TcpStream::connect(("127.0.0.1", server))?;
    far.write_all(&(kept.len() as u32 + 4).to_be_bytes())?;
    far.write_all(&kept)?;
    let (mut back, mut to) = (far.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    std::io::copy(&mut client, &mut far)?;
    far.shutdown(Shutdown::Both)
}

#[test]
fn triggers_that_would_not_act_are_found() {
    let na = Region::new(shared(), "replica", "NA");
    shared()
        .admin("replica")
        .unwrap()
        .batch_execute(
            "ALTER ROLE prism IN DATABASE replica SET session_replication_role = replica",
        )
        .unwrap();
    let error = open(&na.url, options("NA")).region().unwrap_err();
    assert!(
        matches!(&error, DbError::Schema(text) if text.contains("RESET session_replication_role")),
        "{error:?}"
    );
}

#[test]
fn defaults_of_the_role_do_not_change_what_values_look_like() {
    let mut na = Region::new(shared(), "defaults", "NA");
    let mut eu = Region::new(shared(), "defaults_eu", "EU");
    na.sql()
        .batch_execute(
            "ALTER ROLE prism IN DATABASE defaults SET bytea_output = escape;
             ALTER ROLE prism IN DATABASE defaults SET IntervalStyle = iso_8601;
             ALTER ROLE prism IN DATABASE defaults SET extra_float_digits = -10;
             ALTER ROLE prism IN DATABASE defaults SET standard_conforming_strings = off;
             ALTER ROLE prism IN DATABASE defaults SET transform_null_equals = on;
             ALTER ROLE prism IN DATABASE defaults SET row_security = off;
             ALTER ROLE prism IN DATABASE defaults SET client_encoding = latin1;
             ALTER ROLE prism IN DATABASE defaults SET statement_timeout = 1;
             ALTER ROLE prism IN DATABASE defaults SET search_path = pg_temp;",
        )
        .unwrap();
    let mut db = na.another();
    db.submit(&[user(1)]).unwrap();
    let name = "ÄÖ\\'\u{1F600}";
    db.submit(&[submission(
        "rename",
        &[Value::Int(1), Value::Text(name.to_owned())],
    )])
    .unwrap();
    na.db = db;
    ship_all(&mut na, &mut eu);
    let there: String = eu
        .sql()
        .query_one("SELECT name FROM users", &[])
        .unwrap()
        .get(0);
    assert_eq!(there, name);
}
