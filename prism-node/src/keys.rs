//! Node keys (X25519) and the cluster's pre-shared key, in base64 as WireGuard users know them.
//!
//! Whatever holds a secret here is overwritten with zeroes when it is dropped.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::private_file::{self, PrivateFileError};

/// A key file holds 44 characters and a line end; more than this is another file.
const MAX_KEY_FILE: u64 = 1024;

/// Why text or a file is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes of base64.
    #[error(
        "not a key: expected 44 characters of base64 (32 bytes), as `prism keygen` prints them"
    )]
    Malformed,
    /// 32 bytes, but none that belong to a private key.
    #[error(
        "this key belongs to no private key: a handshake with it would be no secret; print the \
         node's own with: prism pubkey DATA_DIR/node.key"
    )]
    Weak,
    /// Nothing there.
    #[error("{} does not exist; make it with: prism keygen {}", .0.display(), .0.display())]
    Missing(PathBuf),
    /// Keygen never overwrites.
    #[error("{} exists already and is not overwritten; move it away first if the node really needs a new key", .0.display())]
    Exists(PathBuf),
    /// It cannot be read, or others can.
    #[error(transparent)]
    File(PrivateFileError),
    /// A file with something else in it.
    #[error("{}: {source}", .path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<KeyError>,
    },
    /// The operating system's words.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The operating system gave no randomness.
    #[error("the operating system gave no random bytes: {0}")]
    Entropy(getrandom::Error),
}

fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut key = Zeroizing::new([0; 32]);
    // The decoder wants room for what the text could be at most.
    let mut bytes = Zeroizing::new([0; 48]);
    let decoded = STANDARD.decode_slice(text.trim(), bytes.as_mut_slice());
    if decoded != Ok(key.len()) {
        return Err(KeyError::Malformed);
    }
    key.copy_from_slice(&bytes[..32]);
    Ok(key)
}

/// A node's public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Whether it can be the output of `prism pubkey`. The points of low order give the same shared
    /// secret, zero, with every private key (RFC 7748 6.1); and of two spellings of one key only
    /// the canonical one is known to handshakes, so the other is a mistake.
    fn is_sound(&self) -> bool {
        // 2^255 - 19, little-endian.
        let mut p = [0xff; 32];
        (p[0], p[31]) = (0xed, 0x7f);
        let canonical = self.0.iter().rev().lt(p.iter().rev());
        let any = x25519_dalek::StaticSecret::from([0x42; 32]);
        let shared = any.diffie_hellman(&x25519_dalek::PublicKey::from(self.0));
        canonical && shared.was_contributory()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let key = Self(*decode(text)?);
        if key.is_sound() {
            Ok(key)
        } else {
            Err(KeyError::Weak)
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

/// 32 secret bytes: a node's private key or the cluster's pre-shared key. Never printed by `Debug`.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl SecretKey {
    /// A new one from the operating system's randomness.
    ///
    /// # Errors
    /// [`KeyError::Entropy`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(KeyError::Entropy)?;
        Ok(Self(bytes))
    }

    /// Reads a private key or pre-shared key that only its owner can read.
    ///
    /// # Errors
    /// [`KeyError`] names the file and the fix.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let bytes = private_file::read(path, MAX_KEY_FILE).map_err(|e| match e {
            PrivateFileError::Io { path, source } if source.kind() == io::ErrorKind::NotFound => {
                KeyError::Missing(path)
            }
            other => KeyError::File(other),
        })?;
        std::str::from_utf8(&bytes)
            .map_err(|_| KeyError::Malformed)
            .and_then(decode)
            .map(Self)
            .map_err(|e| KeyError::InFile {
                path: path.to_owned(),
                source: Box::new(e),
            })
    }

    /// Writes a new file with mode 0600.
    ///
    /// # Errors
    /// [`KeyError::Exists`] if there is a file already.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyError> {
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists(path.to_owned()),
            _ => KeyError::Io {
                path: path.to_owned(),
                source,
            },
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        writeln!(file, "{}", *self.encode()).map_err(io)?;
        file.sync_all().map_err(io)
    }

    /// Base64. For files and standard output only.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_slice()))
    }

    /// The public key that belongs to a node's private key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(*self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// The bytes, for the handshake.
    #[must_use]
    pub fn bytes(&self) -> &Zeroizing<[u8; 32]> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 6.1, Alice's key pair.
    #[test]
    fn public_key_is_that_of_rfc_7748() {
        let secret =
            SecretKey(decode("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=").expect("test vector"));
        assert_eq!(
            secret.public().to_string(),
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        );
        assert_eq!(format!("{secret:?}"), "SecretKey(..)");
    }

    /// The points of low order, in canonical and other spellings, and p - 1, p, p + 1.
    #[test]
    fn a_key_that_gives_everybody_the_same_secret_is_refused() {
        let hex = |text: &str| -> [u8; 32] {
            std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex"))
        };
        let ff = "ff".repeat(30);
        for weak in [
            "00".repeat(32),
            format!("01{}", "00".repeat(31)),
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800".to_owned(),
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157".to_owned(),
            format!("ec{ff}7f"),
            format!("ed{ff}7f"),
            format!("ee{ff}7f"),
            format!("{}80", "00".repeat(31)),
            // A sound key in another spelling.
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4eea".to_owned(),
        ] {
            let text = PublicKey(hex(&weak)).to_string();
            assert!(
                matches!(text.parse::<PublicKey>(), Err(KeyError::Weak)),
                "{weak}"
            );
        }
    }

    #[test]
    fn only_32_bytes_of_base64_are_a_key() {
        for bad in [
            "",
            "AAAA",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTm",
            "ключ",
            "\0",
        ] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad:?}");
        }
    }
}
