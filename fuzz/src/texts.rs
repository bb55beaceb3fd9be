//! Short texts that a person writes into files: keys, tokens, certificates, database addresses,
//! durations, sizes. Refused or understood; and no error or display shows a password.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::LazyLock;

use prism_db::{DatabaseUrl, ParamType};
use prism_node::config::Config;
use prism_node::keys::{PublicKey, SecretKey};
use prism_node::{tls, token::Token};
use tempfile::NamedTempFile;

const SECRET: &str = "S3CR3T";

/// One key file for all runs of this process.
static KEY_FILE: LazyLock<NamedTempFile> = LazyLock::new(|| {
    let file = NamedTempFile::new().expect("a temporary directory");
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(file.path(), private).expect("its owner may");
    file
});

/// See the module.
pub fn run(bytes: &[u8]) {
    key_file(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string().parse::<PublicKey>().ok(), Some(key));
    }
    if let Some(ty) = ParamType::parse(text) {
        assert_eq!(ty.name(), text);
    }
    address(text);
    settings(text);
}

fn key_file(bytes: &[u8]) {
    let path = KEY_FILE.path();
    fs::write(path, bytes).expect("a temporary file");
    if bytes.starts_with(b"-----BEGIN") {
        let shown = |error: tls::TlsError| assert!(!error.to_string().is_empty());
        let _ = tls::server(path, path).map_err(shown);
        let _ = tls::client(path).map_err(shown);
    }
    if let Ok(token) = Token::read(path) {
        let text = bytes.trim_ascii();
        assert!(token.digest().is_of(text));
        assert!(!token.digest().is_of(&[text, b"x"].concat()));
    }
    if let Ok(key) = SecretKey::read(path) {
        let encoded = key.encode();
        assert!(!format!("{key:?}").contains(&*encoded));
        assert_eq!(bytes.trim_ascii(), encoded.as_bytes(), "one text for one key");
    }
}

fn address(text: &str) {
    let base = Path::new("/base");
    match DatabaseUrl::parse(text, base) {
        Ok(DatabaseUrl::Postgres(full)) => {
            let again = DatabaseUrl::parse(&full, Path::new("/other"));
            assert_eq!(again, Ok(DatabaseUrl::Postgres(full)));
        }
        Ok(url) => assert!(!url.to_string().is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // The password is what libpq takes for one: behind the first colon of the login.
    if let Some((user, host)) = text.split_once('|')
        && !text.contains(SECRET)
        && !user.contains(['/', '?', '#'])
    {
        let url = DatabaseUrl::parse(&format!("postgres://{user}:{SECRET}@{host}"), base);
        let shown = match &url {
            Ok(url) => format!("{url} {url:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains(SECRET), "{shown}");
    }
}

/// The text as each kind of setting, in a file that is otherwise right.
fn settings(text: &str) {
    let quoted = serde_json::Value::from(text).to_string();
    for key in [
        "[retry]\ninitial",
        "[limits]\nmax_update",
        "[limits]\nmax_backlog",
        "[limits]\nretention",
        "[http]\ntoken_file",
    ] {
        // JSON's escapes are TOML's as well, but for \/ which JSON does not write.
        let file = format!(
            "cluster = \"c\"\n[[region]]\nname = \"NA\"\ndatabase = \"sqlite:na.db\"\n\
             [[region.node]]\nname = \"NA1\"\nudp = \"127.0.0.1:7101\"\nhttp = \"127.0.0.1:8101\"\n\
             {key} = {quoted}\n"
        );
        if let Err(error) = Config::parse_with(&file, Path::new("prism.toml"), &|_| None) {
            assert!(!error.to_string().is_empty());
        }
    }
}
