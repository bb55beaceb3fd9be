//! The number of this start: larger than that of any earlier start of the node, so that the others
//! tell its handshakes from replayed ones. It does not depend on the clock as long as the file is
//! there; the clock helps when the file was lost.

use prism_db::journal::{AnyDisk, Disk};
use prism_net::platform::wall;
use prism_proto::canary;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// In the data directory: a decimal number and a line end.
const FILE: &str = "boot";
/// A u64 has 20 digits.
const MAX_FILE: u64 = 32;

/// The next number, durable before it is given out.
///
/// A node is not kept from starting by this file: one that is damaged or cannot be written is
/// logged, and the clock has to do.
pub(super) fn next(disk: &AnyDisk, data_dir: &Path) -> u64 {
    let path = data_dir.join(FILE);
    let stored = read(disk, &path).unwrap_or_else(|error| {
        tracing::warn!(
            path = %path.display(),
            "the counter of starts cannot be read ({error}); the clock is used instead: if this \
             node's clock is behind that of its last start, the others refuse it until it is right"
        );
        None
    });
    let stored = stored.filter(|_| !canary!(BootNotCounted));
    let boot = after(stored, clock());
    if let Err(error) = disk.replace(&path, format!("{boot}\n").as_bytes()) {
        tracing::error!(
            path = %path.display(),
            "the counter of starts cannot be written ({error}); mend that: after another start with \
             a wrong clock the others would refuse this node"
        );
    }
    boot
}

/// In microseconds: several starts in one second must not be ahead of the clock.
fn clock() -> u64 {
    let since = wall().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

/// At the end of all numbers there is only the clock.
fn after(stored: Option<u64>, clock: u64) -> u64 {
    let next = stored.and_then(|stored| stored.checked_add(1));
    next.unwrap_or(1).max(clock)
}

/// `None`: this is the first start.
fn read(disk: &AnyDisk, path: &Path) -> io::Result<Option<u64>> {
    let Some(bytes) = disk.read_whole(path, MAX_FILE)? else {
        return Ok(None);
    };
    let text = str::from_utf8(&bytes).ok();
    let number = text.and_then(|text| text.trim().parse().ok());
    number.map(Some).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "there is something else than a number in it",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_has_a_larger_number_whatever_the_clock_says() {
        assert_eq!(after(None, 1000), 1000);
        assert_eq!(after(Some(5000), 1000), 5001);
        assert_eq!(after(Some(5000), 0), 5001);
        assert_eq!(after(Some(999), 1000), 1000);
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(FILE), "9000000000000000000\n").expect("written");
        assert_eq!(
            next(&AnyDisk::default(), dir.path()),
            9_000_000_000_000_000_001
        );
        assert_eq!(
            next(&AnyDisk::default(), dir.path()),
            9_000_000_000_000_000_002
        );
        // Nothing else is left lying about.
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 1);
    }

    /// The others would refuse it until the clock has caught up.
    #[test]
    fn many_starts_at_once_are_not_ahead_of_the_clock_when_the_file_is_lost() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = AnyDisk::default();
        let mut last = 0;
        for _ in 0..50 {
            last = next(&disk, dir.path());
        }
        std::fs::remove_file(dir.path().join(FILE)).expect("lost");
        assert!(next(&disk, dir.path()) > last);
    }

    #[test]
    fn a_damaged_counter_does_not_stop_the_node() {
        for damaged in [
            &b""[..],
            b"\xff\xfe",
            b"-1",
            b"18446744073709551615",
            &[b'9'; 999],
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            std::fs::write(dir.path().join(FILE), damaged).expect("written");
            let first = next(&AnyDisk::default(), dir.path());
            assert!((1_600_000_000..u64::MAX).contains(&first), "{first}");
            assert!(next(&AnyDisk::default(), dir.path()) > first);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_does_not_stop_the_node() {
        let dir = tempfile::tempdir().expect("a directory");
        let gone = dir.path().join("gone");
        assert!(next(&AnyDisk::default(), &gone) >= 1_600_000_000);
    }
}
