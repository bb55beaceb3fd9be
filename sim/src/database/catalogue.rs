//! The statements of every simulated cluster, as they stand in its `prism.toml`, and the tables that
//! they write. The model interprets them by name (`statements.rs`); a real database that has
//! [`TABLES`] runs their texts.

use std::sync::Arc;

use prism_db::catalogue::{Catalogue, StatementConfig};

/// What a cluster starts with.
pub const STATEMENTS: &str = r#"
# A delta that a region may refuse: `n` has bounds. Then it is undone everywhere.
[[statement]]
name = "add"
sql = "UPDATE accounts SET n = n + $2 WHERE id = $1"
params = ["text", "int"]
kind = "delta"
undo = "UPDATE accounts SET n = n - $2 WHERE id = $1"
on_reject = "undo"

# The same without an undo: a refusal is a dead letter.
[[statement]]
name = "add_or_letter"
sql = "UPDATE accounts SET n = n + $2 WHERE id = $1"
params = ["text", "int"]
kind = "delta"

[[statement]]
name = "rename"
sql = "UPDATE accounts SET name = $2 WHERE id = $1"
params = ["text", "text"]
kind = "absolute"
key = "accounts/$1"
old = "SELECT name FROM accounts WHERE id = $1"
undo = "UPDATE accounts SET name = $old1 WHERE id = $1 AND name = $2"
on_reject = "undo"

[[statement]]
name = "open"
sql = "INSERT INTO accounts (id, n, name) VALUES ($1, 0, $2)"
params = ["text", "text"]
kind = "insert"
undo = "DELETE FROM accounts WHERE id = $1"
on_reject = "undo"

# Refused where a note names the account.
[[statement]]
name = "close"
sql = "DELETE FROM accounts WHERE id = $1"
params = ["text"]
kind = "delete"
key = "accounts/$1"
old = "SELECT n, name FROM accounts WHERE id = $1"
undo = "INSERT INTO accounts (id, n, name) VALUES ($1, $old1, $old2)"
on_reject = "undo"

# Depends on the account, which may come from another region.
[[statement]]
name = "note"
sql = "INSERT INTO notes (id, account) VALUES ($1, $2)"
params = ["text", "text"]
kind = "insert"
undo = "DELETE FROM notes WHERE id = $1"
on_reject = "undo"

[[statement]]
name = "unnote"
sql = "DELETE FROM notes WHERE id = $1"
params = ["text"]
kind = "delete"
key = "notes/$1"
"#;

/// What a rolling upgrade of the catalogue adds: a statement, and another version of one.
pub const UPGRADE: &str = r#"
[[statement]]
name = "bump"
sql = "UPDATE accounts SET n = n + 1 WHERE id = $1"
params = ["text"]
kind = "delta"
undo = "UPDATE accounts SET n = n - 1 WHERE id = $1"
on_reject = "undo"
"#;

/// The tables, for a real database. `{min}`, `{max}`: bounds of an account, which differ by region.
pub const TABLES: &str = "
    CREATE TABLE accounts (id TEXT NOT NULL PRIMARY KEY, n BIGINT NOT NULL, name TEXT,
                           CHECK (n BETWEEN {min} AND {max}));
    CREATE TABLE notes (id TEXT NOT NULL PRIMARY KEY,
                        account TEXT NOT NULL REFERENCES accounts (id));
";

/// The `[[statement]]` sections of a `prism.toml`, before or after the upgrade.
#[must_use]
pub fn sections(upgraded: bool) -> String {
    if upgraded {
        // The same effect in other words: another version of the statement.
        let changed = STATEMENTS.replacen(
            "name = \"unnote\"\nsql = \"DELETE FROM notes WHERE id = $1\"",
            "name = \"unnote\"\nsql = \"DELETE FROM notes WHERE notes.id = $1\"",
            1,
        );
        assert_ne!(changed, STATEMENTS, "the text that is replaced is there");
        changed + UPGRADE
    } else {
        STATEMENTS.to_owned()
    }
}

/// The same, checked as the product does.
///
/// # Panics
/// If the texts above are wrong.
#[must_use]
pub fn catalogue(upgraded: bool) -> Arc<Catalogue> {
    #[derive(serde::Deserialize)]
    struct File {
        statement: Vec<StatementConfig>,
    }
    let file: File = toml::from_str(&sections(upgraded)).expect("the sections are TOML");
    Arc::new(Catalogue::load(&file.statement).expect("the statements are sound"))
}
