//! What an operator reads when prism.toml is wrong: exact messages, with place and fix.

use std::path::Path;

use prism_node::config::Config;
use proptest::prelude::*;

const GOOD: &str = r#"cluster = "game"
psk_file = "game.psk"

[[region]]
name = "NA"
database = "sqlite:na.db"
[[region.node]]
name = "NA1"
udp = "127.0.0.1:7101"
http = "127.0.0.1:8101"
public_key = "J4ZZnCkfa0qMFOAZZctjZCadZ5iHP+h7BgiCiOnQNHw="
[[region.node]]
name = "NA2"
udp = "127.0.0.1:7102"
bind_udp = "0.0.0.0:7102"
http = "127.0.0.1:8102"
public_key = "kwTjiTYow6s4yLRX0DOblbfrTPpgSK2OwuSyv24fJ1Q="

[[region]]
name = "EU"
database = "postgres://prism:${PW}@127.0.0.1:5432/eu"
direct = "postgres://prism@eu.example:5432/eu"
[[region.node]]
name = "EU1"
udp = "127.0.0.1:7111"
http = "127.0.0.1:8111"
public_key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="

[retry]
max_retries = 3
initial = "100ms"
max = "1s"
policy = "fastest"

[limits]
max_update = "64KiB"
retention = "1h"
max_backlog = "1GiB"
await_timeout = "5s"

[http]
token_file = "http.token"

[[statement]]
name = "add_kills"
sql = "UPDATE users SET kills = kills + $2 WHERE username = $1"
params = ["text", "int"]
kind = "delta"
undo = "UPDATE users SET kills = kills - $2 WHERE username = $1"
on_reject = "undo"
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse_with(text, Path::new("/etc/prism/prism.toml"), &|name| {
        (name == "PW").then(|| "secret".to_owned())
    })
    .map_err(|e| e.to_string())
}

/// The errors of the good file with one replacement.
fn errors(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?} is not in the good file");
    parse(&GOOD.replacen(from, to, 1)).expect_err(to)
}

#[test]
fn good_file_is_typed() {
    let c = parse(GOOD).expect("good");
    assert_eq!(c.cluster, "game");
    assert_eq!(
        c.psk_file.as_deref(),
        Some(Path::new("/etc/prism/game.psk"))
    );
    assert_eq!(c.regions.len(), 2);
    let eu = c.region_named("EU").expect("EU");
    assert_eq!(eu.nodes, [c.node_named("EU1").expect("EU1").id]);
    let na2 = c.node_named("NA2").expect("NA2");
    assert_eq!(na2.bind_udp, "0.0.0.0:7102".parse().expect("address"));
    assert_eq!(c.node(c.regions[0].nodes[0]).bind_udp, c.nodes[0].udp);
    assert_eq!(c.retry.max_retries, 3);
    assert_eq!(c.limits.max_update, 64 << 10);
    assert_eq!(c.limits.retention.as_secs(), 3600);
}

#[test]
fn absent_sections_have_defaults() {
    let short = &GOOD[..GOOD.find("[retry]").expect("retry")];
    let c = parse(short).expect("defaults");
    assert_eq!(c.retry.max_retries, 5);
    assert_eq!(c.retry.initial.as_millis(), 200);
    assert_eq!(c.limits, prism_node::config::Limits::default());
}

/// (what is replaced, by what, the message)
const CASES: &[(&str, &str, &str)] = &[
    (
        "max_retries = 3",
        "max_retry = 3",
        "/etc/prism/prism.toml:30:1: unknown key `max_retry` in [retry]
    fix: write `max_retries`, or remove the line",
    ),
    (
        "psk_file = ",
        "colour = \"\"\npsk_file = ",
        "/etc/prism/prism.toml:2:1: unknown key `colour` in the file
    fix: remove it; the file knows `cluster`, `psk_file`, `retry`, `limits`, `http`, `region` and `statement`",
    ),
    (
        "max_retries = 3",
        "max_retries = \"3\"",
        "/etc/prism/prism.toml:30:15: `max_retries` in [retry] is of type string, not a small whole number
    fix: max_retries = 5",
    ),
    (
        "max_retries = 3",
        "max_retries = 300",
        "/etc/prism/prism.toml:30:15: max_retries = 300 is out of range
    fix: choose between 0 and 100; the default is 5",
    ),
    (
        "initial = \"100ms\"",
        "initial = 100",
        "/etc/prism/prism.toml:31:11: `initial` in [retry] is of type integer, not a string
    fix: initial = \"200ms\"",
    ),
    (
        "initial = \"100ms\"",
        "initial = \"100\"",
        "/etc/prism/prism.toml:31:11: initial = \"100\" is not a duration
    fix: write a whole number and us, ms, s, m, h or d: initial = \"200ms\"",
    ),
    (
        "initial = \"100ms\"",
        "initial = \"2s\"",
        "/etc/prism/prism.toml:29:1: [retry] max (1s) is shorter than initial (2s)
    fix: make max at least as long as initial",
    ),
    (
        "policy = \"fastest\"",
        "policy = \"random\"",
        "/etc/prism/prism.toml:33:10: policy = \"random\" is not known
    fix: write policy = \"ordered\" or \"fastest\"",
    ),
    (
        "\"64KiB\"",
        "\"64 parsecs\"",
        "/etc/prism/prism.toml:36:14: max_update = \"64 parsecs\" is not a size
    fix: write a whole number and B, KiB, MiB or GiB: max_update = \"256KiB\"",
    ),
    (
        "\"64KiB\"",
        "\"64GiB\"",
        "/etc/prism/prism.toml:36:14: max_update = \"64GiB\" is out of range
    fix: choose between 1KiB and 256KiB; the default is 256KiB",
    ),
    (
        "cluster = \"game\"",
        "cluster = \"my game\"",
        "/etc/prism/prism.toml:1:11: \"my game\" cannot be the name of a cluster
    fix: use at most 48 letters, digits, '_', '-' and '.', a letter or digit first",
    ),
    (
        "cluster = \"game\"\n",
        "\n",
        "/etc/prism/prism.toml:1:1: the file has no `cluster`
    fix: add cluster = \"game\"",
    ),
    (
        "name = \"EU\"",
        "name = \"NA\"",
        "/etc/prism/prism.toml:20:8: two regions are named \"NA\" (the first on line 5)
    fix: give each region its own name, or merge their [[region.node]] entries",
    ),
    (
        "name = \"NA2\"",
        "name = \"NA1\"",
        "/etc/prism/prism.toml:13:8: two nodes are named \"NA1\" (the first on line 8)
    fix: give each node its own name",
    ),
    (
        "name = \"NA2\"",
        "name = \"direct\"",
        "/etc/prism/prism.toml:13:8: a node cannot be named \"direct\"
    fix: choose another name; status shows this word for a lane without a node",
    ),
    (
        "udp = \"127.0.0.1:7111\"",
        "udp = \"127.0.0.1:7101\"",
        "/etc/prism/prism.toml:25:7: nodes NA1 and EU1 have the same udp address 127.0.0.1:7101
    fix: give each node its own address and port",
    ),
    (
        "http = \"127.0.0.1:8111\"",
        "http = \"127.0.0.1:8102\"",
        "/etc/prism/prism.toml:26:8: nodes NA2 and EU1 have the same http address 127.0.0.1:8102
    fix: give each node its own address and port",
    ),
    (
        "udp = \"127.0.0.1:7111\"",
        "udp = \"eu.example:7111\"",
        "/etc/prism/prism.toml:25:7: udp = \"eu.example:7111\" is not an address
    fix: write IP and port, e.g. udp = \"127.0.0.1:7101\" or \"[::1]:7101\" (names are not looked up)",
    ),
    (
        "udp = \"127.0.0.1:7111\"",
        "udp = \"0.0.0.0:7111\"",
        "/etc/prism/prism.toml:25:7: udp = \"0.0.0.0:7111\" is no address that peers can send to
    fix: write the address that peers use, and bind_udp = \"0.0.0.0:7111\" to listen on all",
    ),
    (
        "udp = \"127.0.0.1:7111\"",
        "udp = \"127.0.0.1:0\"",
        "/etc/prism/prism.toml:25:7: udp has port 0: peers and clients could not find it
    fix: write a port between 1 and 65535",
    ),
    (
        "hSDwCYkwp1R0",
        "hSDwCYkwp1R",
        "/etc/prism/prism.toml:27:14: public_key is not a key: expected 44 characters of base64
    fix: print it with: prism pubkey DATA_DIR/node.key",
    ),
    (
        "database = \"sqlite:na.db\"\n",
        "",
        "/etc/prism/prism.toml:4:1: [[region]] \"NA\" has no `database`
    fix: add database = \"sqlite:na.db\"",
    ),
    (
        "${PW}",
        "${PASSWORD}",
        "/etc/prism/prism.toml:21:12: the environment variable PASSWORD is not set
    fix: set it before starting prism: export PASSWORD=...",
    ),
    (
        "${PW}",
        "${PW",
        "/etc/prism/prism.toml:21:12: `${` without `}`
    fix: write ${NAME} for an environment variable",
    ),
    (
        "[retry]",
        "[retry",
        "/etc/prism/prism.toml:29:7: not TOML: unclosed table, expected `]`
    fix: mend the syntax here",
    ),
    (
        "cluster = \"game\"",
        "cluster = \"game\"\ncluster = \"game\"",
        "/etc/prism/prism.toml:2:1: not TOML: duplicate key
    fix: mend the syntax here",
    ),
    (
        "\"sqlite:na.db\"",
        "\"mysql://root:pw@host/na\"",
        "/etc/prism/prism.toml:6:12: a database is \"postgres://user@host:5432/name\" or \"sqlite:path\", not \"mysql\"
    fix: write \"postgres://user@host:5432/name\" or \"sqlite:file.db\"",
    ),
    (
        "kind = \"delta\"",
        "kind = \"increment\"",
        "/etc/prism/prism.toml:48:8: [[statement]] \"add_kills\": unknown variant `increment`
    fix: write one of `delta`, `absolute`, `insert`, `delete`",
    ),
    (
        "kind = \"delta\"",
        "knd = \"delta\"",
        "/etc/prism/prism.toml:48:1: [[statement]] \"add_kills\": unknown field `knd`
    fix: write one of `name`, `sql`, `params`, `kind`, `key`, `old`, `undo`, `on_reject`, `reads`",
    ),
    (
        "kind = \"delta\"\n",
        "",
        "/etc/prism/prism.toml:44:1: [[statement]] \"add_kills\": `kind` is missing
    fix: add `kind`",
    ),
    (
        "kills + $2",
        "kills + random()",
        "/etc/prism/prism.toml:46:7: [[statement]] \"add_kills\", sql: random() differs each time: replaying it in another region gives another result
    fix: bind it once at the origin: add \"gen_uuid\" to `params`, or pass the value as a parameter",
    ),
    (
        "SET kills = kills - $2",
        "SET kills = kills - $3",
        "/etc/prism/prism.toml:49:8: [[statement]] \"add_kills\", undo: $3 has no type: `params` declares 2
    fix: add its type to `params` or correct the number",
    ),
    (
        "params = [\"text\", \"int\"]",
        "params = [\"text\", \"integer\"]",
        "/etc/prism/prism.toml:47:19: [[statement]] \"add_kills\": unknown variant `integer`
    fix: write one of `bool`, `int`, `float`, `decimal`, `text`, `bytes`, `uuid`, `timestamp`, `json`, `gen_uuid`, `gen_now`",
    ),
    (
        "[retry]\nmax_retries = 3",
        "[[retry]]\nmax_retries = 3",
        "/etc/prism/prism.toml:29:1: `retry` in the file is of type array, not a table
    fix: start it with [retry]",
    ),
];

#[test]
fn every_mistake_names_place_and_fix() {
    let wrong: Vec<_> = CASES
        .iter()
        .map(|(from, to, expected)| (errors(from, to), *expected))
        .filter(|(got, expected)| got != expected)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_public_http_address_needs_a_token() {
    let text = GOOD
        .replace("token_file = \"http.token\"", "")
        .replace("127.0.0.1:8111", "10.0.0.1:8111");
    assert_eq!(
        parse(&text).expect_err("no token"),
        "/etc/prism/prism.toml:26:8: http = \"10.0.0.1:8111\" can be reached by others and there is no token
    fix: add [http] token_file = \"http.token\" (make it with: prism keygen http.token), or use a loopback address"
    );
}

#[test]
fn the_same_loopback_http_address_is_fine_on_another_machine() {
    let text = GOOD
        .replace("127.0.0.1:7111", "192.0.2.7:7111")
        .replace("127.0.0.1:8111", "127.0.0.1:8101");
    parse(&text).expect("another machine");
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let text = GOOD
        .replace("\"1h\"", "\"1 fortnight\"")
        .replace("policy = \"fastest\"", "polcy = \"fastest\"")
        .replace("127.0.0.1:7101", "nonsense")
        .replace("name = \"EU1\"", "name = \"E U 1\"");
    let message = parse(&text).expect_err("four problems");
    let lines: Vec<_> = message
        .lines()
        .filter_map(|l| l.strip_prefix("/etc/prism/prism.toml:"))
        .map(|l| l.split(':').next().unwrap_or_default())
        .collect();
    assert_eq!(lines, ["9", "24", "33", "37"], "{message}");
}

const KEYS: [&str; 3] = [
    "J4ZZnCkfa0qMFOAZZctjZCadZ5iHP+h7BgiCiOnQNHw=",
    "kwTjiTYow6s4yLRX0DOblbfrTPpgSK2OwuSyv24fJ1Q=",
    "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
];

/// A cluster has all keys or none: with some of them it would only look safe.
#[test]
fn keys_are_all_there_or_none_is() {
    let public_keys = |text: &str| -> String {
        let keep = |l: &&str| !l.starts_with("public_key");
        let lines: Vec<_> = text.lines().filter(keep).collect();
        lines.join("\n")
    };
    let none = public_keys(GOOD).replace("psk_file = \"game.psk\"\n", "");
    assert!(!parse(&none).expect("no keys").is_sealed());
    assert!(parse(GOOD).expect("keys").is_sealed());

    assert_eq!(
        errors("psk_file = \"game.psk\"\n", "\n"),
        "/etc/prism/prism.toml:11:14: there are public keys, but no pre-shared key of the cluster
    fix: add psk_file = \"game.psk\" at the top (make it once with: prism keygen game.psk, and copy it to every node)"
    );
    let line = format!("public_key = \"{}\"\n", KEYS[1]);
    assert_eq!(
        errors(&line, ""),
        "/etc/prism/prism.toml:12:1: node NA2 has no public_key, but this cluster has keys (line 2)
    fix: make its key with: prism keygen DATA_DIR/node.key, and add the public_key = \"...\" that this prints: prism pubkey DATA_DIR/node.key"
    );
    assert!(
        errors(&line, &format!("next_{line}"))
            .contains("prism.toml:12:1: node NA2 has a next_public_key and no public_key")
    );
    let all = parse(&public_keys(GOOD)).expect_err("a psk alone");
    assert_eq!(all.matches("has no public_key").count(), 3, "{all}");
}

#[test]
fn every_key_is_a_key_of_one_node() {
    let line = format!("public_key = \"{}\"\n", KEYS[1]);
    let doubled = |next: &str| errors(&line, &format!("{line}next_public_key = \"{next}\"\n"));
    assert!(
        doubled(KEYS[0])
            .contains("prism.toml:18:19: nodes NA1 and NA2 have the same next_public_key"),
        "{}",
        doubled(KEYS[0])
    );
    assert!(doubled(KEYS[1]).contains("next_public_key of NA2 is a key that it has already"));
    // EU1 comes later in the file.
    assert!(doubled(KEYS[2]).contains("nodes NA2 and EU1 have the same public_key"));
    let weak = doubled("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    assert!(
        weak.contains("prism.toml:18:19: next_public_key belongs to no private key"),
        "{weak}"
    );
}

#[test]
fn no_region_is_said() {
    assert_eq!(
        parse("cluster = \"game\"").expect_err("no region"),
        "/etc/prism/prism.toml: no region is configured
    fix: add a [[region]] with name, database and at least one [[region.node]]"
    );
}

#[test]
fn hostile_text_gives_errors_and_never_panics() {
    let deep = format!("a = {}", "[".repeat(100_000));
    let tables = format!("a = {}", "{a=".repeat(50_000));
    let dotted = format!("{}a = 1", "a.".repeat(50_000));
    let many = "[[region]]\n".repeat(20_000);
    let keys: String = (0..5_000).map(|i| format!("k{i} = 1\n")).collect();
    for text in [
        &deep,
        &tables,
        &dotted,
        &many,
        &keys,
        "\0",
        "cluster = \"\\u0000\"",
        "cluster = \"${\"",
        "region = 1",
        "region = [1, \"x\", {}]",
        "[[region]]\nnode = 3",
        "\u{feff}\u{202e}= 1",
        "cluster = 99999999999999999999999999",
        "[region]\nname = \"NA\"",
    ] {
        let message = parse(text).expect_err("hostile");
        assert!(
            message.len() < 100_000,
            "message is {} bytes",
            message.len()
        );
    }
}

proptest! {
    /// Any few bytes replaced, inserted or cut out anywhere in a good file.
    #[test]
    fn a_damaged_file_never_panics(
        edits in prop::collection::vec((0..GOOD.len(), 0usize..12, "[\\PC\n]{0,6}"), 1..5)
    ) {
        let mut text = GOOD.to_owned();
        for (at, cut, new) in edits {
            let floor = |mut i: usize| {
                i = i.min(text.len());
                while !text.is_char_boundary(i) {
                    i -= 1;
                }
                i
            };
            let (from, to) = (floor(at), floor(at + cut));
            text.replace_range(from..to.max(from), &new);
        }
        if let Err(message) = parse(&text) {
            prop_assert!(message.contains("fix: "), "{message}");
        }
    }
}

#[test]
fn unreadable_files_are_named() {
    let dir = tempfile::tempdir().expect("temp dir");
    let missing = Config::load(&dir.path().join("no.toml")).expect_err("missing");
    assert!(
        missing
            .to_string()
            .contains("make a first cluster with: prism init"),
        "{missing}"
    );
    Config::load(dir.path()).expect_err("a directory");
    let latin = dir.path().join("latin.toml");
    std::fs::write(&latin, b"cluster = \"g\xe4me\"").expect("write");
    let e = Config::load(&latin).expect_err("latin1").to_string();
    assert!(e.contains("byte 12 is not UTF-8"), "{e}");
    let huge = dir.path().join("huge.toml");
    std::fs::write(&huge, vec![b'#'; 5 << 20]).expect("write");
    let e = Config::load(&huge).expect_err("huge").to_string();
    assert!(e.contains("larger than 4MiB"), "{e}");
}

/// Every bound of the file is met by a file that is larger than it; each is said, and quickly.
#[test]
fn files_that_would_swell_or_nest_without_end_are_refused() {
    let path = Path::new("/etc/prism.toml");
    let many = |n: usize, text: &dyn Fn(usize) -> String| (0..n).map(text).collect::<String>();
    let nodes = many(10_000, &|i| {
        format!("[[region.node]]\nname = \"n{i}\"\nudp = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"\n")
    });
    let hostile = [
        ("arrays", format!("x = {}", "[".repeat(200_000))),
        (
            "closed arrays",
            format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        ),
        ("inline tables", format!("x = {}", "{a=".repeat(100_000))),
        ("dotted keys", format!("{}a = 1", "a.".repeat(200_000))),
        ("headers", format!("[{}a]", "a.".repeat(200_000))),
        ("array headers", format!("[[{}a]]", "a.".repeat(200_000))),
        (
            "headers, a little",
            format!("[{}a]\nb = \"${{X}}\"", "a.".repeat(70)),
        ),
        ("nodes", format!("[[region]]\nname = \"NA\"\n{nodes}")),
        ("regions", "[[region]]\n".repeat(20_000)),
        ("statements", "[[statement]]\n".repeat(100_000)),
        ("unknown keys", many(30_000, &|i| format!("k{i} = 1\n"))),
        (
            "variables",
            format!("cluster = \"{}\"", "${BIG}".repeat(100_000)),
        ),
        (
            "small variables",
            "[[statement]]\nsql = \"${BIG}${BIG}\"\n".repeat(10_000),
        ),
        ("a long key", format!("{} = 1", "k".repeat(600_000))),
        (
            "a long string",
            format!("cluster = \"{}\"", "k".repeat(600_000)),
        ),
        (
            "a long number",
            format!("cluster = {}", "9".repeat(600_000)),
        ),
    ];
    let big = "x".repeat(1 << 16);
    let env = |name: &str| (name == "BIG").then(|| big.clone());
    for (what, text) in hostile {
        let started = std::time::Instant::now();
        let e = Config::parse_with(&text, path, &env).expect_err(what);
        assert!(e.problems.len() <= 50, "{what}");
        let said = e.to_string();
        assert!(said.len() < 100_000, "{what}: {} bytes", said.len());
        // Quadratic work on such a file would take hours.
        assert!(
            started.elapsed().as_secs() < 60,
            "{what}: {:?}",
            started.elapsed()
        );
    }
}
