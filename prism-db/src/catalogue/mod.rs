//! The catalogue: every statement that may be run, checked before anything runs.
//!
//! Replaying must be deterministic and parameters are bound, never spliced; so what cannot be
//! replayed is refused here, with the fix, and all errors at once.

mod access;
mod bind;
mod check;
mod sql;
mod volatile;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use access::{Access, Privilege, Table};
pub use bind::BindError;
pub use check::MAX_PARAMS;
use check::check;
pub use sql::Target;
pub(crate) use sql::is_deterministic;

use crate::{DbError, Digest, ParamType};

const MAX_STATEMENTS: usize = 4096;

/// `[[statement]]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatementConfig {
    /// Unique name.
    pub name: String,
    /// One INSERT, UPDATE or DELETE with `$1`, `$2`, ...
    pub sql: String,
    /// Types of `$1`, `$2`, ...
    #[serde(default)]
    pub params: Vec<ParamType>,
    /// How it combines with concurrent writes.
    pub kind: Kind,
    /// Template of the key of the row that it writes: `users/$1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A SELECT, run just before, whose columns are `$old1`, `$old2`, ... of `undo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// What takes the effect back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<String>,
    /// What happens when a region refuses it.
    #[serde(default)]
    pub on_reject: OnReject,
    /// Which rows it reads.
    #[serde(default)]
    pub reads: Reads,
}

/// How a statement combines with concurrent writes to the same row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Commutes: `n = n + $1`.
    Delta,
    /// Sets: the last writer of its `key` wins.
    Absolute,
    /// Adds a row.
    Insert,
    /// Removes the row with its `key`.
    Delete,
}

/// What happens when a region refuses an update for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnReject {
    /// It is recorded there, for a person.
    #[default]
    DeadLetter,
    /// Its origin is asked to undo it.
    Undo,
}

/// Which rows a statement reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reads {
    /// Only those that it writes, found by key.
    #[default]
    Own,
    /// Others as well: the author vouches that it gives the same result in every region.
    Others,
}

/// One thing that is wrong with a statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("statement {statement:?}, {field}: {problem}; {fix}")]
pub struct CatalogueError {
    /// Its name.
    pub statement: String,
    /// The key that is wrong: `sql`, `params`, ...
    pub field: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// A checked statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    config: StatementConfig,
    digest: Digest,
    old_columns: usize,
    insert: Option<Target>,
}

impl Statement {
    /// Its definition.
    #[must_use]
    pub fn config(&self) -> &StatementConfig {
        &self.config
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its version.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The text to run, one statement without a semicolon at its end.
    #[must_use]
    pub fn sql(&self) -> &str {
        bare(&self.config.sql)
    }

    /// Types of the parameters, generated ones included.
    #[must_use]
    pub fn params(&self) -> &[ParamType] {
        &self.config.params
    }

    /// The query to run just before, if it has one.
    #[must_use]
    pub fn old(&self) -> Option<&str> {
        self.config.old.as_deref().map(bare)
    }

    /// Number of columns that `old` gives.
    #[must_use]
    pub fn old_columns(&self) -> usize {
        self.old_columns
    }

    /// The text that takes it back, if it has one.
    #[must_use]
    pub fn undo(&self) -> Option<&str> {
        self.config.undo.as_deref().map(bare)
    }

    /// Where it inserts, if it is an INSERT.
    #[must_use]
    pub fn insert(&self) -> Option<&Target> {
        self.insert.as_ref()
    }

    /// Its texts, each under the key of the configuration that it stands under.
    pub fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let optional = [("old", self.old()), ("undo", self.undo())];
        let optional = optional
            .into_iter()
            .filter_map(|(key, sql)| Some((key, sql?)));
        std::iter::once(("sql", self.sql())).chain(optional)
    }

    /// What happens when a region refuses it.
    #[must_use]
    pub fn on_reject(&self) -> OnReject {
        self.config.on_reject
    }

    /// How it combines with concurrent writes.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.config.kind
    }

    /// As stored in the table `statement`; [`Statement::from_definition`] reads it.
    #[must_use]
    pub fn definition(&self) -> String {
        serde_json::to_string(&self.config).unwrap_or_default()
    }

    /// Reads a definition stored by an earlier configuration.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn from_definition(json: &str) -> Result<Self, String> {
        let config: StatementConfig = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let mut errors = Vec::new();
        let statement = check(&config, &mut errors);
        statement.ok_or_else(|| {
            let texts: Vec<_> = errors.iter().map(CatalogueError::to_string).collect();
            texts.join("\n")
        })
    }
}

/// All statements.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    statements: Vec<Arc<Statement>>,
    by_name: HashMap<String, usize>,
    by_digest: HashMap<Digest, usize>,
    digest: Digest,
}

impl Catalogue {
    /// Checks all statements.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the statements.
    pub fn load(configs: &[StatementConfig]) -> Result<Self, Vec<CatalogueError>> {
        let mut catalogue = Self::default();
        let mut errors = Vec::new();
        if configs.len() > MAX_STATEMENTS {
            errors.push(CatalogueError {
                statement: String::new(),
                field: "name",
                problem: format!("there are {} statements", configs.len()),
                fix: format!("keep to {MAX_STATEMENTS}"),
            });
        }
        let mut names = BTreeSet::new();
        for config in configs.iter().take(MAX_STATEMENTS) {
            if !names.insert(&config.name) {
                errors.push(CatalogueError {
                    statement: config.name.clone(),
                    field: "name",
                    problem: "another statement has this name".to_owned(),
                    fix: "rename one of them".to_owned(),
                });
            }
            if let Some(statement) = check(config, &mut errors) {
                let index = catalogue.statements.len();
                catalogue.by_name.insert(config.name.clone(), index);
                catalogue.by_digest.insert(statement.digest, index);
                catalogue.statements.push(Arc::new(statement));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut all: Vec<_> = catalogue.statements.iter().map(|s| s.digest).collect();
        all.sort_unstable();
        let mut hash = Sha256::new_with_prefix(b"prism catalogue 1");
        all.iter().for_each(|digest| hash.update(digest.0));
        catalogue.digest = truncated(hash);
        Ok(catalogue)
    }

    /// The statement with that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Statement>> {
        self.by_name.get(name).map(|&i| &self.statements[i])
    }

    /// That version of a statement.
    #[must_use]
    pub fn by_digest(&self, digest: &Digest) -> Option<&Arc<Statement>> {
        self.by_digest.get(digest).map(|&i| &self.statements[i])
    }

    /// All, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Statement>> {
        self.statements.iter()
    }

    /// What all statements need to be granted, as far as their texts tell.
    #[must_use]
    pub fn access(&self) -> Access {
        let mut access = Access::new();
        for statement in &self.statements {
            for (field, text) in statement.texts() {
                let role = match field {
                    "old" => sql::Role::Old,
                    "undo" => sql::Role::Undo,
                    _ => sql::Role::Write,
                };
                access::add(text, role, &mut access);
            }
        }
        access
    }

    /// Hash of all statements, whatever their order: equal where the catalogues are.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl DbError {
    /// SQLSTATE of [`DbError::unknown_statement`].
    pub const UNKNOWN_STATEMENT: &'static str = "26000";

    /// An update names a version of a statement that this node does not know. It waits; it is not
    /// refused, because a rolling upgrade looks just like that.
    #[must_use]
    pub fn unknown_statement(digest: Digest, index: usize) -> Self {
        Self::sql(
            Self::UNKNOWN_STATEMENT,
            format!(
                "unknown statement version {digest}; give every node the same prism.toml and run prism migrate"
            ),
            Some(index),
        )
    }
}

/// Without blanks around it and without the semicolon that people write.
fn bare(sql: &str) -> &str {
    sql.trim().trim_end_matches(';').trim_end()
}

fn truncated(hash: Sha256) -> Digest {
    let full = hash.finalize();
    let mut digest = [0; 16];
    digest.copy_from_slice(&full[..16]);
    Digest(digest)
}

/// Hash of everything that decides what a statement does, each part with its length before it.
fn digest(config: &StatementConfig) -> Digest {
    let mut hash = Sha256::new_with_prefix(b"prism statement 1");
    let mut part = |text: Option<&str>| match text {
        Some(text) => {
            hash.update((text.len() as u64 + 1).to_be_bytes());
            hash.update(text.as_bytes());
        }
        None => hash.update(0u64.to_be_bytes()),
    };
    part(Some(&config.name));
    part(Some(bare(&config.sql)));
    let params: Vec<_> = config.params.iter().map(|p| p.name()).collect();
    part(Some(&params.join(",")));
    part(Some(&format!(
        "{:?} {:?} {:?}",
        config.kind, config.on_reject, config.reads
    )));
    part(config.key.as_deref());
    part(config.old.as_deref().map(bare));
    part(config.undo.as_deref().map(bare));
    truncated(hash)
}

#[cfg(test)]
mod tests;
