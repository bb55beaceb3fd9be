//! Which database: `postgres://…` or `sqlite:path`.

use std::fmt;
use std::path::{Path, PathBuf};

/// Address of a region's database. `Display` and `Debug` hide the password.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// PostgreSQL, as libpq writes it; names of files are absolute.
    Postgres(String),
    /// A SQLite file.
    Sqlite(PathBuf),
}

/// The text is no database address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Neither scheme.
    #[error(
        "a database is \"postgres://user@host:5432/name\" or \"sqlite:path\", not \"{scheme}\""
    )]
    Scheme {
        /// What stands before the colon (nothing else: it may hold a password).
        scheme: String,
    },
    /// `sqlite:` without a file, or in memory.
    #[error(
        "\"sqlite:\" needs the path of a file, such as \"sqlite:na.db\" (a database in memory cannot be shared by connections)"
    )]
    NoFile,
    /// `postgres://` with something that cannot be read or must not be believed.
    #[error("{0}")]
    Postgres(String),
}

impl DatabaseUrl {
    /// Reads an address; the paths of files in it are relative to `base`.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn parse(text: &str, base: &Path) -> Result<Self, UrlError> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return crate::server::absolute(text, base)
                .map(Self::Postgres)
                .map_err(UrlError::Postgres);
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.ends_with('/') || path.contains(":memory:") {
                return Err(UrlError::NoFile);
            }
            return Ok(Self::Sqlite(base.join(path)));
        }
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        Err(UrlError::Scheme {
            scheme: scheme.to_owned(),
        })
    }

    /// The same database for another role. (A SQLite file has none.)
    #[must_use]
    pub fn with_login(&self, user: &str, password: Option<&str>) -> Self {
        match self {
            Self::Sqlite(path) => Self::Sqlite(path.clone()),
            Self::Postgres(url) => Self::Postgres(crate::server::with_login(url, user, password)),
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => f.write_str(&without_secrets(url)),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Drops the password, and the query, which may hold another one.
fn without_secrets(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(address, _)| address);
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    // The last @: a password that was not percent-encoded may hold one.
    match rest.rsplit_once('@') {
        Some((login, host)) => {
            let user = login.split_once(':').map_or(login, |(user, _)| user);
            format!("{scheme}://{user}@{host}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_secrets_hidden() {
        let base = Path::new("/etc/prism");
        let parse = |text| DatabaseUrl::parse(text, base);
        assert_eq!(
            parse("sqlite:na.db"),
            Ok(DatabaseUrl::Sqlite("/etc/prism/na.db".into()))
        );
        assert_eq!(
            parse("sqlite:/var/na.db"),
            Ok(DatabaseUrl::Sqlite("/var/na.db".into()))
        );
        assert_eq!(parse("sqlite:///var/na.db"), parse("sqlite:/var/na.db"));
        for bad in ["sqlite:", "sqlite::memory:", "sqlite:dir/"] {
            assert_eq!(parse(bad), Err(UrlError::NoFile), "{bad}");
        }
        for bad in ["mysql://a:secret@b/c", "", "/na.db"] {
            let error = parse(bad).expect_err("must be refused").to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let error = parse("postgres://prism:se@cret@na.example/na").expect_err("two @");
        assert!(!error.to_string().contains("cret"), "{error}");
        let url = parse("postgres://prism:secret@na.example:5432/na?password=x").expect("valid");
        assert_eq!(url.to_string(), "postgres://prism@na.example:5432/na");
        assert_eq!(format!("{url:?}"), url.to_string());
        let DatabaseUrl::Postgres(owner) = url.with_login("a b", Some("p@/?")) else {
            panic!("another scheme");
        };
        assert_eq!(owner, "postgres://a%20b:p%40%2F%3F@na.example:5432/na");
        assert!(parse(&owner).is_ok());
    }
}
