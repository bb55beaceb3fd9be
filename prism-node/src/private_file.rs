//! Files with a secret in them: small, and readable by their owner only.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// Other users can read it.
    #[error("{} can be read by others (mode {mode:04o}); fix it with: chmod 600 {}", .path.display(), .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// More than a secret of its kind has.
    #[error("{} is larger than {limit} bytes; is it the right file?", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What is read at most.
        limit: u64,
    },
    /// The operating system's words.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// The content of a file that only its owner can read, at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let io = |source| PrivateFileError::Io {
        path: path.to_owned(),
        source,
    };
    // Not a directory, and not a pipe, which may never be written to.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(io(io::Error::other("it is not a plain file")));
    }
    let file = File::open(path).map_err(io)?;
    // Of what was opened, not of what has the name now.
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    // Room for everything at once: growing would leave copies behind.
    let room = usize::try_from(limit + 1).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(PrivateFileError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}
