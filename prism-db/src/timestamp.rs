//! Microseconds since 1970 as RFC 3339 and back; the clock of generated values.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// 0001-01-01T00:00:00Z.
const MIN: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z: RFC 3339 has four digits for the year.
const MAX: i64 = 253_402_300_799_999_999;

/// Representable as RFC 3339 with a year from 1 to 9999.
pub(crate) const fn in_range(us: i64) -> bool {
    us >= MIN && us <= MAX
}

/// Reads RFC 3339; digits beyond microseconds are cut off.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let us = i64::try_from(time.unix_timestamp_nanos().div_euclid(1000)).ok()?;
    in_range(us).then_some(us)
}

/// `2026-01-31T12:00:00.000000Z`: always six digits and `Z`, so that texts sort as times do.
pub(crate) fn format(us: i64) -> String {
    let us = us.clamp(MIN, MAX);
    // In range by the clamp above.
    let time = OffsetDateTime::from_unix_timestamp(us.div_euclid(1_000_000))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        us.rem_euclid(1_000_000)
    )
}

/// The system's clock.
pub(crate) fn now_micros() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_survive() {
        for us in [MIN, -1, 0, 1, MAX] {
            assert_eq!(parse(&format(us)), Some(us), "{}", format(us));
        }
        assert_eq!(format(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(parse("0000-01-01T00:00:00Z"), None);
        assert!(!in_range(MIN - 1) && !in_range(MAX + 1));
    }
}
