//! Functions whose result is not the same in every region and at every time.

/// Why a function is refused: what to do instead depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Volatile {
    /// Time: bind `gen_now`.
    Clock,
    /// Chance, sequences: bind `gen_uuid` or a value.
    Random,
    /// Who is connected, server's settings and insides, other side effects.
    Environment,
}

impl Volatile {
    pub(super) const fn fix(self) -> &'static str {
        match self {
            Self::Clock => {
                "bind the time once at the origin: add \"gen_now\" to `params` and use its $n"
            }
            Self::Random => {
                "bind it once at the origin: add \"gen_uuid\" to `params`, or pass the value as a parameter"
            }
            Self::Environment => "pass the value as a parameter",
        }
    }
}

const CLOCK: &[&str] = &[
    "now",
    "clock_timestamp",
    "statement_timestamp",
    "transaction_timestamp",
    "timeofday",
    "current_timestamp",
    "current_time",
    "current_date",
    "localtime",
    "localtimestamp",
    "getdate",
    "sysdate",
];

const RANDOM: &[&str] = &[
    "random",
    "random_normal",
    "setseed",
    "rand",
    "randomblob",
    "nextval",
    "currval",
    "lastval",
    "setval",
    "gen_random_uuid",
    "gen_random_bytes",
    "gen_salt",
    "uuid",
    "uuidv4",
    "uuidv7",
    "uuid7",
    "last_insert_rowid",
    "changes",
    "total_changes",
];

const ENVIRONMENT: &[&str] = &[
    "current_user",
    "session_user",
    "user",
    "system_user",
    "current_role",
    "current_catalog",
    "current_schema",
    "current_schemas",
    "current_database",
    "current_query",
    "current_setting",
    "set_config",
    "version",
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "load_extension",
    "readfile",
    "writefile",
    "edit",
    "fts3_tokenizer",
    "query_to_xml",
    "table_to_xml",
    "database_to_xml",
    "schema_to_xml",
    "cursor_to_xml",
];

/// Families: `pg_sleep`, `pg_advisory_lock`, `txid_current`, `dblink_exec`, `lo_import`, ...
const PREFIXES: &[(&str, Volatile)] = &[
    ("uuid_generate", Volatile::Random),
    ("pg_", Volatile::Environment),
    ("txid_", Volatile::Environment),
    ("dblink", Volatile::Environment),
    ("lo_", Volatile::Environment),
    ("sqlite_", Volatile::Environment),
];

/// Where a row lies: it lies elsewhere in every region.
const PLACES: &[&str] = &[
    "ctid", "xmin", "xmax", "cmin", "cmax", "tableoid", "rowid", "_rowid_",
];

/// Whether a column is the database's own.
pub(super) fn is_place(name: &str) -> bool {
    PLACES.contains(&name)
}

/// SQLite's date functions, for which the text `now` (or no argument at all) is the clock, and
/// PostgreSQL's casts that look like functions.
const DATES: &[&str] = &[
    "date",
    "time",
    "datetime",
    "julianday",
    "unixepoch",
    "strftime",
    "timediff",
    "timestamp",
    "timestamptz",
    "timetz",
];

/// Texts that PostgreSQL reads as the clock when it casts them to a time.
const CLOCK_WORDS: &[&str] = &["now", "today", "tomorrow", "yesterday"];

/// Judges a function by its name in lower case.
pub(super) fn function(name: &str) -> Option<Volatile> {
    let listed = |list: &[&str]| list.contains(&name);
    if listed(CLOCK) {
        Some(Volatile::Clock)
    } else if listed(RANDOM) {
        Some(Volatile::Random)
    } else if listed(ENVIRONMENT) {
        Some(Volatile::Environment)
    } else {
        let family = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix));
        family.map(|(_, why)| *why)
    }
}

/// Whether it is one of SQLite's date functions.
pub(super) fn is_date(name: &str) -> bool {
    DATES.contains(&name)
}

/// Whether a text means the clock where a time is expected.
pub(super) fn is_clock_word(text: &str) -> bool {
    CLOCK_WORDS.contains(&text.trim().to_ascii_lowercase().as_str())
}
