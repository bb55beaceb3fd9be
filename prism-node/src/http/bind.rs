//! From a statement's name and JSON parameters to typed values.

use prism_db::Value;
use prism_db::catalogue::Catalogue;

/// Names among which the likeliest are sought: a request of a thousand mistyped names must not cost
/// seconds.
const SOUGHT: usize = 200;

/// Names shown to somebody who asked for one that is not there.
const SHOWN: usize = 10;

/// Checks an update against the catalogue.
pub trait Binder: Send + Sync + 'static {
    /// The typed parameters, generated ones filled in, for the request of that id.
    ///
    /// # Errors
    /// What is wrong, for the caller.
    fn bind(
        &self,
        statement: &str,
        params: &[serde_json::Value],
        request_id: &uuid::Uuid,
    ) -> Result<Vec<Value>, Unbound>;
}

/// Why the parameters do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unbound {
    /// No such statement; the text says which there are.
    #[error("{0}")]
    Statement(String),
    /// Wrong count or type.
    #[error("{0}")]
    Params(String),
}

impl Binder for Catalogue {
    fn bind(
        &self,
        statement: &str,
        params: &[serde_json::Value],
        request_id: &uuid::Uuid,
    ) -> Result<Vec<Value>, Unbound> {
        let found = self
            .get(statement)
            .ok_or_else(|| Unbound::Statement(unknown(self, statement)))?;
        found
            .bind_request(params, request_id.as_bytes())
            .map_err(|e| Unbound::Params(e.to_string()))
    }
}

fn unknown(catalogue: &Catalogue, name: &str) -> String {
    let shown: String = name.chars().take(80).collect();
    // The likeliest first: somebody mistyped.
    let names = catalogue.iter().take(SOUGHT).map(|s| s.name());
    let mut names: Vec<_> = names
        .map(|name| (strsim::jaro(name, &shown), name))
        .collect();
    names.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut names: Vec<_> = names.into_iter().map(|(_, name)| name).collect();
    let more = catalogue.iter().count().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let known = match (names.as_slice(), more) {
        ([], _) => "has no [[statement]]".to_owned(),
        (names, 0) => format!("has {}", names.join(", ")),
        (names, more) => format!("has {} and {more} more", names.join(", ")),
    };
    format!("unknown statement {shown:?}; the catalogue {known}")
}
