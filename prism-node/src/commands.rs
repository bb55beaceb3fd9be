//! What each subcommand of `prism` does.

pub mod adopt;
pub mod check;
mod databases;
pub mod demo;
pub mod init;
pub mod keys;
pub mod migrate;
pub mod node;
pub mod rejected;
pub mod skip;
pub mod status;
pub mod submit;
pub mod table;

use std::path::Path;

/// How the reader of a printed command can call this program again.
fn program() -> String {
    match std::env::args_os().next() {
        // Found through PATH: its name is enough.
        Some(name) if Path::new(&name).components().count() == 1 => quote(Path::new(&name)),
        _ => std::env::current_exe().map_or_else(|_| "prism".to_owned(), |p| quote(&p)),
    }
}

/// A path as a shell word.
fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_paths_can_be_pasted() {
        assert_eq!(quote(Path::new("/a/b-1.toml")), "/a/b-1.toml");
        assert_eq!(quote(Path::new("a b")), "'a b'");
        assert_eq!(quote(Path::new("it's $HOME")), r"'it'\''s $HOME'");
    }
}
