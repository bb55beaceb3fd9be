//! How many handshakes are looked at. Each costs four agreements, some 0.4 ms, and somebody who
//! has recorded handshakes can send them again as fast as the line allows.

use std::net::IpAddr;
use std::time::Duration;

use prism_proto::Instant;

/// Handshakes per window that nobody is asked a cookie for: every node of a large cluster that
/// has just been started.
const FREE: u32 = 32;
/// Handshakes per window with cookies and all: a third of a core.
const MOST: u32 = 4 * FREE;
const WINDOW: Duration = Duration::from_millis(100);
/// Once there were too many, cookies are asked for so long.
const LOADED_FOR: Duration = Duration::from_secs(1);
/// What one address may send under load: so many at once, and then one per `TOKEN` (WireGuard's
/// figures).
const BURST: u8 = 5;
const TOKEN: Duration = Duration::from_millis(50);
/// Addresses that are told apart; the others share.
const BUCKETS: usize = 256;

/// What to do with a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Accept,
    AskForCookie,
    Ignore,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: u8,
    since: Instant,
}

/// Fixed in size, whatever comes.
#[derive(Debug)]
pub(super) struct Load {
    window: Instant,
    seen: u32,
    loaded_until: Option<Instant>,
    buckets: Box<[Bucket; BUCKETS]>,
    /// So that nobody can choose whom to share a bucket with.
    salt: u64,
}

impl Load {
    pub(super) fn new(salt: u64) -> Self {
        let full = Bucket {
            tokens: BURST,
            since: Instant::from_micros(0),
        };
        Self {
            window: Instant::from_micros(0),
            seen: 0,
            loaded_until: None,
            buckets: Box::new([full; BUCKETS]),
            salt,
        }
    }

    /// Judges a handshake whose `mac1` is valid.
    pub(super) fn admit(&mut self, now: Instant, from: IpAddr, cookie: bool) -> Admission {
        if now.since(self.window) >= WINDOW {
            self.window = now;
            self.seen = 0;
        }
        if self.seen >= FREE {
            self.loaded_until = Some(now.after(LOADED_FOR));
        }
        if self.loaded_until.is_some_and(|until| now < until) {
            if !cookie {
                return Admission::AskForCookie;
            }
            if self.seen >= MOST || !self.bucket(from).take(now) {
                return Admission::Ignore;
            }
        }
        self.seen += 1;
        Admission::Accept
    }

    fn bucket(&mut self, from: IpAddr) -> &mut Bucket {
        // Whoever has one address of an IPv6 network has all of its /64.
        let network = match from.to_canonical() {
            IpAddr::V4(ip) => u64::from(u32::from(ip)),
            IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
        };
        let mixed = super::rng::Rng::new(network ^ self.salt).next();
        &mut self.buckets[mixed as usize % BUCKETS]
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let earned = now.since(self.since).as_micros() / TOKEN.as_micros();
        if earned > 0 {
            self.tokens = BURST.min(self.tokens.saturating_add(earned.min(255) as u8));
            self.since = now;
        }
        let some = self.tokens > 0;
        self.tokens -= u8::from(some);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn cookies_are_asked_for_only_while_there_are_too_many() {
        let mut load = Load::new(1);
        for _ in 0..FREE {
            assert_eq!(load.admit(at(1), ip(1), false), Admission::Accept);
        }
        assert_eq!(load.admit(at(2), ip(1), false), Admission::AskForCookie);
        assert_eq!(load.admit(at(900), ip(1), false), Admission::AskForCookie);
        assert_eq!(load.admit(at(3000), ip(1), false), Admission::Accept);
    }

    #[test]
    fn one_address_cannot_take_what_the_others_need() {
        let mut load = Load::new(1);
        while load.admit(at(1), ip(1), false) == Admission::Accept {}
        let greedy =
            (0..1000).filter(|ms| load.admit(at(1 + ms), ip(1), true) == Admission::Accept);
        assert!((20..=30).contains(&greedy.count()));
        assert_eq!(load.admit(at(1001), ip(2), true), Admission::Accept);
    }

    #[test]
    fn there_is_a_ceiling_for_all_together() {
        let mut load = Load::new(1);
        let accepted = (0..=255)
            .flat_map(|a| (0..=255).map(move |b| [a, b]))
            .filter(|&[a, b]| load.admit(at(1), [10, 0, a, b].into(), true) == Admission::Accept);
        assert_eq!(accepted.count(), MOST as usize);
    }
}
