//! The bearer token of the HTTP API. A server keeps only its hash.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::private_file::{self, PrivateFileError};

/// `prism keygen` writes 44 characters.
const SHORTEST: usize = 16;
/// Headers are bounded as well.
const LONGEST: u64 = 4096;
/// Whoever types a token instead of making one is kept from `aaaaaaaaaaaaaaaa`.
const DIFFERENT: usize = 8;

/// Why there is no usable token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read, or others can.
    #[error("token_file {0}")]
    File(#[from] PrivateFileError),
    /// Too easy to guess, or not to be sent.
    #[error(
        "token_file {}: expected at least {SHORTEST} printable characters without spaces, {DIFFERENT} of them different; write one with: prism keygen {}",
        .0.display(), .0.display()
    )]
    Weak(PathBuf),
}

/// A bearer token. Never printed by `Debug`, wiped when dropped.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// The token in a file that only its owner can read.
    ///
    /// # Errors
    /// [`TokenError`] names the file and the fix.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let bytes = private_file::read(path, LONGEST)?;
        std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| Self::new(text.trim()))
            .ok_or_else(|| TokenError::Weak(path.to_owned()))
    }

    /// `None` if it is too short, too simple or cannot stand in a header.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut seen = [false; 256];
        text.bytes().for_each(|b| seen[usize::from(b)] = true);
        let different = seen.iter().filter(|seen| **seen).count();
        let strong = text.len() >= SHORTEST
            && different >= DIFFERENT
            && text.bytes().all(|b| b.is_ascii_graphic());
        strong.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// What a server needs to know of it.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(hash(self.0.as_bytes()))
    }

    /// The value of the header `Authorization`.
    pub(crate) fn header(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Bearer {}", self.0.as_str()))
    }
}

/// Hash of a token: enough to recognise it, not enough to send it.
#[derive(Clone, Copy)]
pub struct TokenDigest([u8; 32]);

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

impl TokenDigest {
    /// Whether that is the token. The time it takes tells neither where the first difference is
    /// nor how long the token is: hashes are compared, and both have 32 bytes.
    #[must_use]
    pub fn is_of(&self, given: &[u8]) -> bool {
        hash(given).ct_eq(&self.0).into()
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_is_accepted_and_nobody_reads_it() {
        let token = Token::new("correct-horse-battery").expect("strong");
        let digest = token.digest();
        assert!(digest.is_of(b"correct-horse-battery"));
        for other in [
            "",
            "correct-horse-batter",
            "correct-horse-battery ",
            "correct-horse-battery\0",
            "correct-horse-batterycorrect-horse-battery",
            "Correct-horse-battery",
        ] {
            assert!(!digest.is_of(other.as_bytes()), "{other:?}");
        }
        assert_eq!(format!("{token:?} {digest:?}"), "Token(..) TokenDigest(..)");
    }

    #[test]
    fn what_can_be_guessed_or_not_sent_is_no_token() {
        for weak in [
            "",
            "short",
            "aaaaaaaaaaaaaaaaaaaaaaaa",
            "abababababababababababab",
            "correct horse battery",
            "correct-horse-bättery",
            "correct-horse-batte\0ry",
        ] {
            assert!(Token::new(weak).is_none(), "{weak:?}");
        }
    }
}
