use super::*;
use crate::Value;
use serde_json::json;

fn config(sql: &str) -> StatementConfig {
    let verb = sql.trim().get(..6).unwrap_or("").to_ascii_uppercase();
    let kind = match verb.as_str() {
        "INSERT" => Kind::Insert,
        "DELETE" => Kind::Delete,
        _ => Kind::Absolute,
    };
    let count = (1..10).filter(|n| sql.contains(&format!("${n}"))).count();
    StatementConfig {
        name: "s".into(),
        sql: sql.into(),
        params: vec![ParamType::Text; count],
        kind,
        key: Some("k".into()),
        old: None,
        undo: None,
        on_reject: OnReject::DeadLetter,
        reads: Reads::Own,
    }
}

fn errors(config: &StatementConfig) -> String {
    match Catalogue::load(std::slice::from_ref(config)) {
        Ok(_) => String::new(),
        Err(errors) => {
            let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
            texts.join("\n")
        }
    }
}

#[track_caller]
fn accepted(sql: &str) {
    assert_eq!(errors(&config(sql)), "", "{sql}");
}

#[track_caller]
fn refused(sql: &str, word: &str) {
    let text = errors(&config(sql));
    assert!(text.contains(word), "{sql}\nsaid: {text:?}\nwanted: {word}");
    assert!(text.contains("statement \"s\""), "{text}");
}

#[test]
fn ordinary_statements_are_accepted() {
    accepted("UPDATE users SET kills = kills + $2 WHERE username = $1");
    accepted("UPDATE users SET name = $2 WHERE username = $1;");
    accepted("INSERT INTO users (id, name) VALUES ($1, $2)");
    accepted("INSERT INTO users VALUES ($1, lower($2)) ON CONFLICT DO NOTHING");
    accepted("INSERT OR IGNORE INTO users (id) VALUES ($1)");
    accepted("INSERT INTO users (id) SELECT $1 WHERE $2 = 'x'");
    accepted("DELETE FROM users WHERE id = $1");
    accepted("UPDATE app.users SET at = $2::timestamptz, note = 'now' WHERE id = $1");
    accepted("UPDATE t SET d = date($1), e = strftime('%Y', $1) WHERE id = $2");
    accepted("UPDATE t SET \"random\" = coalesce($1, 'random() $x') WHERE id = $2 -- ; $y");
    accepted("UPDATE t SET a = age($1, $2) WHERE id = $3");
}

#[test]
fn what_differs_between_regions_is_refused_with_the_fix() {
    for call in [
        "random()",
        "now()",
        "NOW()",
        "pg_catalog.now()",
        "\"now\"()",
        "clock_timestamp()",
        "current_timestamp",
        "CURRENT_TIMESTAMP",
        "CURRENT_DATE",
        "LOCALTIME",
        "localtimestamp(3)",
        "nextval('s')",
        "gen_random_uuid()",
        "uuid_generate_v4()",
        "txid_current()",
        "currval('s')",
        "datetime('now')",
        "datetime()",
        "date('NOW', '+1 day')",
        "strftime('%s')",
        "strftime('%s', 'now')",
        "unixepoch()",
        "julianday('now')",
        "randomblob(8)",
        "last_insert_rowid()",
        "abs(random())",
        "'now'::timestamptz",
        "CAST('today' AS date)",
        "timestamp 'now'",
        "current_user",
        "age(d)",
        "pg_sleep(1)",
        "current_setting('x')",
        "lower(hex(randomblob(4)))",
        "CASE WHEN true THEN random() ELSE 1 END",
    ] {
        refused(
            &format!("UPDATE t SET a = {call} WHERE id = $1"),
            "replaying",
        );
        refused(
            &format!("INSERT INTO t (id, a) VALUES ($1, {call})"),
            "replaying",
        );
        refused(
            &format!("INSERT INTO t (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET a = {call}"),
            "replaying",
        );
    }
    refused("UPDATE t SET a = now() WHERE id = $1", "gen_now");
    refused(
        "UPDATE t SET a = gen_random_uuid() WHERE id = $1",
        "gen_uuid",
    );
    refused("INSERT INTO t (id, a) VALUES ($1, DEFAULT)", "DEFAULT");
    refused("UPDATE t SET a = DEFAULT WHERE id = $1", "DEFAULT");
    refused("INSERT INTO t DEFAULT VALUES", "DEFAULT");
}

#[test]
fn sqlites_grammar_is_checked_as_well() {
    for call in ["random()", "CURRENT_TIMESTAMP", "datetime('now')"] {
        refused(
            &format!("INSERT OR IGNORE INTO t (id, a) VALUES ($1, {call})"),
            "replaying",
        );
    }
    refused(
        "INSERT OR REPLACE INTO t SELECT * FROM u WHERE id = $1",
        "others",
    );
    refused(
        "UPDATE t SET a = timestamptz('now') WHERE id = $1",
        "replaying",
    );
    for place in ["ctid", "t.ctid", "rowid", "\"rowid\"", "xmin"] {
        refused(
            &format!("DELETE FROM t WHERE {place} = $1"),
            "where a row lies",
        );
    }
}

proptest::proptest! {
    /// Whatever stands in a configuration is an error at worst.
    #[test]
    fn no_text_makes_the_check_panic(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "UPDATE", "t", "SET", "a", "=", "$1", "$old1", "WHERE", "id", "(", ")", "SELECT", "FROM",
            "INSERT", "INTO", "VALUES", ",", "now()", "'x'", "'", "\"", "--", "/*", "$$", "$", "::", "text",
            "DELETE", "WITH", "AS", "ON", "CONFLICT", "DO", "DEFAULT", "CASE", "WHEN", "END", ";", "\u{1F600}",
        ]), 0..25),
        any in ".{0,40}",
    ) {
        for sql in [words.join(" "), any.clone(), format!("UPDATE t SET a = {any} WHERE id = $1")] {
            let mut config = config("UPDATE t SET a = 1 WHERE id = 1");
            config.old = Some(sql.clone());
            config.undo = Some(sql.clone());
            config.key = Some(any.clone());
            config.sql = sql;
            let _ = errors(&config);
        }
    }
}

#[test]
fn what_is_no_update_of_rows_is_refused() {
    refused("", "empty");
    refused("  ;", "empty");
    refused("SELECT 1", "SELECT changes nothing");
    refused(
        "UPDATE t SET a = 1 WHERE id = 1; DELETE FROM t WHERE id = 2",
        "2 statements",
    );
    for sql in [
        "CREATE TABLE t (a int)",
        "DROP TABLE t",
        "TRUNCATE t",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "COPY t FROM STDIN",
        "SET x = 1",
        "PRAGMA journal_mode = OFF",
        "ATTACH 'x' AS y",
        "VACUUM",
        "GRANT ALL ON t TO x",
        "LOCK TABLE t",
        "CALL f()",
        "EXPLAIN DELETE FROM t WHERE a = 1",
        "not sql at all",
        "UPDATE t SET",
        "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
        "WITH x AS (SELECT 1) UPDATE t SET a = 1 WHERE id = 1",
        "WITH d AS (DELETE FROM t WHERE a = 1 RETURNING *) SELECT 1",
        "UPDATE t SET a = 1 WHERE id = 1 RETURNING id",
        "UPDATE OR ROLLBACK t SET a = 1 WHERE id = 1",
        "INSERT OR FAIL INTO t (a) VALUES (1)",
        "UPDATE t SET a = ? WHERE id = 1",
        "UPDATE t SET a = :x WHERE id = 1",
        "UPDATE t SET a = $0 WHERE id = 1",
        "UPDATE t SET a = $01 WHERE id = 1",
        "UPDATE t SET a = $x WHERE id = 1",
        "UPDATE t SET a = '\0' WHERE id = 1",
        "DELETE FROM prism.outbox WHERE seq = 1",
        "UPDATE prism_watermark SET applied = 0 WHERE region = 'EU'",
    ] {
        assert_ne!(errors(&config(sql)), "", "{sql}");
    }
    let deep = format!(
        "UPDATE t SET a = {}1{} WHERE id = 1",
        "(".repeat(2000),
        ")".repeat(2000)
    );
    assert_ne!(errors(&config(&deep)), "");
    assert!(
        errors(&config(&format!(
            "UPDATE t SET a = '{}' WHERE b = 1",
            "x".repeat(20_000)
        )))
        .contains("bytes of SQL")
    );
}

#[test]
fn reads_of_other_rows_need_a_word() {
    for sql in [
        "UPDATE t SET a = (SELECT max(a) FROM u) WHERE id = $1",
        "UPDATE t SET a = 1 WHERE id IN (SELECT id FROM u WHERE x = $1)",
        "UPDATE t SET a = 1 WHERE EXISTS (SELECT 1 FROM u WHERE x = $1)",
        "UPDATE t SET a = u.a FROM u WHERE u.id = $1",
        "DELETE FROM t USING u WHERE u.id = $1",
        "INSERT INTO t (a) SELECT a FROM u WHERE id = $1",
        "INSERT INTO t (a) VALUES ((SELECT max(a) FROM t))",
        "INSERT INTO t (a) SELECT 1 UNION SELECT a FROM u",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
    ] {
        refused(sql, "reads = \"others\"");
        let vouched = StatementConfig {
            reads: Reads::Others,
            ..config(sql)
        };
        assert_eq!(errors(&vouched), "", "{sql}");
    }
    let still = StatementConfig {
        reads: Reads::Others,
        ..config("UPDATE t SET a = (SELECT max(x) FROM u WHERE at < now())")
    };
    assert!(errors(&still).contains("gen_now"));
}

#[test]
fn parameters_are_counted() {
    let with = |params: usize| StatementConfig {
        params: vec![ParamType::Int; params],
        ..config("UPDATE t SET a = $2 WHERE id = $1")
    };
    assert_eq!(errors(&with(2)), "");
    assert!(errors(&with(1)).contains("$2 has no type: `params` declares 1"));
    assert!(errors(&with(3)).contains("$3 (int) is used nowhere"));
    assert!(errors(&with(65)).contains("65 parameters"));
}

#[test]
fn old_values_are_for_undo_and_counted() {
    let base = StatementConfig {
        old: Some("SELECT name, age FROM users WHERE id = $1".into()),
        undo: Some("UPDATE users SET name = $old1 WHERE id = $1 AND name = $2".into()),
        on_reject: OnReject::Undo,
        ..config("UPDATE users SET name = $2 WHERE id = $1")
    };
    assert_eq!(errors(&base), "");
    let catalogue = Catalogue::load(std::slice::from_ref(&base)).expect("valid");
    assert_eq!(catalogue.get("s").expect("there").old_columns(), 2);

    let set = |change: fn(&mut StatementConfig)| {
        let mut config = base.clone();
        change(&mut config);
        errors(&config)
    };
    assert!(
        set(|c| c.undo = Some("UPDATE users SET name = $old3 WHERE id = $1".into()))
            .contains("gives 2")
    );
    assert!(set(|c| c.old = None).contains("needs the query `old`"));
    assert!(set(|c| c.undo = None).contains("on_reject"));
    assert!(
        set(|c| c.sql = "UPDATE users SET name = $old1 WHERE id = $1 AND a = $2".into())
            .contains("`undo` only")
    );
    assert!(
        set(|c| c.old = Some("SELECT * FROM users WHERE id = $1".into())).contains("not known")
    );
    assert!(set(|c| c.old = Some("SELECT a FROM users".into())).contains("WHERE"));
    assert!(set(|c| c.old = Some("DELETE FROM users WHERE id = $1".into())).contains("no SELECT"));
    assert!(
        set(|c| c.old = Some("SELECT now() FROM users WHERE id = $1".into())).contains("gen_now")
    );
    assert!(set(|c| c.old = Some("SELECT a FROM users, b WHERE id = $1".into())).contains("join"));
    assert!(set(|c| c.undo = Some("SELECT $old1".into())).contains("SELECT changes nothing"));
}

#[test]
fn kind_and_key_fit_the_text() {
    let with = |sql: &str, kind: Kind, key: Option<&str>| {
        let key = key.map(str::to_owned);
        errors(&StatementConfig {
            kind,
            key,
            ..config(sql)
        })
    };
    let update = "UPDATE t SET a = $2 WHERE id = $1";
    assert_eq!(with(update, Kind::Delta, None), "");
    assert!(with(update, Kind::Absolute, None).contains("key"));
    assert!(with(update, Kind::Absolute, Some("t/$3")).contains("$3 is no parameter"));
    assert_eq!(with(update, Kind::Absolute, Some("t/$1")), "");
    assert!(with(update, Kind::Insert, None).contains("kind"));
    assert!(with("DELETE FROM t WHERE id = $1", Kind::Delete, None).contains("key"));
    let upsert = "INSERT INTO t (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET n = t.n + 1";
    assert_eq!(with(upsert, Kind::Delta, None), "");
}

#[test]
fn all_errors_come_at_once() {
    let bad = [
        StatementConfig {
            name: "bad name".into(),
            ..config("SELECT 1")
        },
        config("UPDATE t SET a = 1 WHERE id = 1"),
        config("UPDATE t SET a = random(), b = now() WHERE id = 1"),
    ];
    let errors = Catalogue::load(&bad).expect_err("must be refused");
    let fields: Vec<_> = errors
        .iter()
        .map(|e| (e.statement.as_str(), e.field))
        .collect();
    assert_eq!(
        fields,
        [
            ("bad name", "name"),
            ("bad name", "sql"),
            ("s", "name"),
            ("s", "sql"),
            ("s", "sql")
        ]
    );
}

#[test]
fn configuration_keys_are_checked() {
    let parse = |json: serde_json::Value| serde_json::from_value::<StatementConfig>(json);
    assert!(parse(json!({"name": "a", "sql": "x", "kind": "delta"})).is_ok());
    let unknown = parse(json!({"name": "a", "sql": "x", "kind": "delta", "parms": []}));
    assert!(
        unknown
            .expect_err("unknown key")
            .to_string()
            .contains("parms")
    );
    let ty = parse(json!({"name": "a", "sql": "x", "kind": "delta", "params": ["integer"]}));
    assert!(
        ty.expect_err("unknown type")
            .to_string()
            .contains("gen_uuid")
    );
    assert!(parse(json!({"name": "a", "sql": "x", "kind": "delta", "on_reject": "dead-letter", "reads": "others"})).is_ok());
}

/// If this fails, nodes of two versions of Prism no longer understand each other's updates.
#[test]
fn a_digest_depends_on_the_definition_alone() {
    let base = config("UPDATE t SET a = $2 WHERE id = $1");
    let digest = |config: &StatementConfig| {
        Catalogue::load(std::slice::from_ref(config))
            .expect("valid")
            .get("s")
            .expect("there")
            .digest()
    };
    assert_eq!(
        digest(&base).to_string(),
        "193c1dd17d86e2167910df861a9981f8"
    );
    let padded = StatementConfig {
        sql: format!("  {} ;\n", base.sql),
        ..base.clone()
    };
    assert_eq!(digest(&padded), digest(&base));
    let other = StatementConfig {
        key: Some("k2".into()),
        ..base.clone()
    };
    assert_ne!(digest(&other), digest(&base));

    let second = StatementConfig {
        name: "u".into(),
        ..base.clone()
    };
    let one = Catalogue::load(&[base.clone(), second.clone()]).expect("valid");
    let two = Catalogue::load(&[second, base.clone()]).expect("valid");
    assert_eq!(one.digest(), two.digest());

    let statement = one.get("s").expect("there");
    assert_eq!(
        Statement::from_definition(&statement.definition()).as_ref(),
        Ok(statement.as_ref())
    );
}

#[test]
fn callers_leave_generated_parameters_out() {
    let base = StatementConfig {
        params: vec![
            ParamType::GenUuid,
            ParamType::Text,
            ParamType::GenNow,
            ParamType::Int,
        ],
        ..config("INSERT INTO t VALUES ($1, $2, $3, $4)")
    };
    let catalogue = Catalogue::load(&[base]).expect("valid");
    let statement = catalogue.get("s").expect("there");
    let params = statement
        .bind_json(&[json!("steve"), json!("7")])
        .expect("fits");
    assert!(
        matches!(&params[..], [Value::Uuid(_), Value::Text(t), Value::Timestamp(_), Value::Int(7)] if t == "steve")
    );
    assert!(statement.accepts(&params) && !statement.accepts(&params[..3]));
    let again = statement
        .bind(&[Value::Text("steve".into()), Value::Int(7)])
        .expect("fits");
    assert_ne!(again[0], params[0], "each call makes its own uuid");

    let count = statement.bind_json(&[]).expect_err("too few").to_string();
    assert!(
        count.contains("takes 2 parameter(s) (text, int), got 0"),
        "{count}"
    );
    let ty = statement
        .bind_json(&[json!("a"), json!(1.5)])
        .expect_err("no int")
        .to_string();
    assert!(ty.contains("parameter 2 of 2 ($4): expected int"), "{ty}");
    assert!(statement.bind(&[Value::Int(1), Value::Int(1)]).is_err());
}
