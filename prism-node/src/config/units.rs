//! Durations ("200ms") and sizes ("256KiB").

use std::time::Duration;

const DURATIONS: [(&str, u64); 6] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

const SIZES: [(&str, u64); 8] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// A whole number and a unit of `units`, in the smallest unit.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

pub(super) fn duration(text: &str) -> Option<Duration> {
    parse(text, &DURATIONS).map(Duration::from_micros)
}

pub(super) fn size(text: &str) -> Option<u64> {
    parse(text, &SIZES)
}

/// The largest unit that gives a whole number, for messages.
pub(crate) fn show_duration(d: Duration) -> String {
    show(u64::try_from(d.as_micros()).unwrap_or(u64::MAX), &DURATIONS)
}

/// The same for sizes.
pub(crate) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES[..5])
}

fn show(n: u64, units: &[(&str, u64)]) -> String {
    let (unit, factor) = units
        .iter()
        .rfind(|(_, factor)| n >= *factor && n.is_multiple_of(*factor))
        .unwrap_or(&units[0]);
    format!("{}{unit}", n / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        for (text, ms) in [("200ms", 200), ("10 s", 10_000), ("24h", 86_400_000)] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(size("256KiB"), Some(256 << 10));
        assert_eq!(size("8GiB"), Some(8 << 30));
        for bad in [
            "",
            "ms",
            "10",
            "-1s",
            "1.5s",
            "10 years",
            "99999999999999999999s",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        for bad in ["1kb", "KiB", "99999999999GiB", "1 KiB KiB", "0x10B"] {
            assert_eq!(size(bad), None, "{bad}");
        }
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(show_duration(Duration::from_secs(86_400)), "1d");
        assert_eq!(show_size(256 << 10), "256KiB");
        assert_eq!(show_size(0), "0B");
    }
}
