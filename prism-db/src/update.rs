//! The encoded update: what travels in datagrams and lies in the outbox.

use std::fmt;

use prism_proto::{RegionKey, Seq, Tag};
use serde::{Deserialize, Serialize};

use crate::Value;

/// First byte of an encoded update. A change to [`Update`] or [`Value`] needs a new one.
const VERSION: u8 = 1;

/// Most bytes that an encoded update can have, whatever `max_update` says: what the receiving
/// side reassembles.
pub const MAX_UPDATE: usize = 256 * 1024;

/// Identity of one version of a statement: a hash of its definition.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct Digest(pub [u8; 16]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Hybrid logical clock: milliseconds since 1970 in the upper 48 bits, a counter below.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The latest clock of another region that the own one follows (the year 4199). Beyond, it is kept
    /// as it is told, and has no effect here: a peer that lies could otherwise put the own clock one
    /// step below what others take for plausible.
    pub(crate) const FOLLOWED: Self = Self(1 << 62);

    /// The clock's next value: later than `self`, and not before the wall clock.
    #[must_use]
    pub const fn tick(self, now_micros: i64) -> Self {
        let now_ms = if now_micros > 0 {
            (now_micros / 1000) as u64
        } else {
            0
        };
        let wall = now_ms << 16;
        let next = self.0.saturating_add(1);
        Self(if wall > next { wall } else { next })
    }
}

/// One update as every region sees it. Encoded with postcard behind a version byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// Identity of this update.
    pub tag: Tag,
    /// Tag of the update before it in the stream (0 before the first): a chain that shows a fork.
    pub prev_tag: Tag,
    /// Version of the statement.
    pub statement: Digest,
    /// Bound parameters, generated ones included.
    pub params: Vec<Value>,
    /// What the statement's `old` query gave at the origin.
    pub old: Vec<Value>,
    /// When it committed, for last-writer-wins.
    pub hlc: Hlc,
    /// Rows affected at the origin.
    pub rows: u64,
    /// Watermarks that the origin's database had applied.
    pub seen: Vec<(RegionKey, Seq)>,
    /// This update undoes that one of the same stream.
    pub undoes: Option<Seq>,
    /// Held by an awaited write; not final yet.
    pub held: bool,
    /// The caller's id.
    pub request_id: Option<[u8; 16]>,
}

impl Update {
    /// Of an update that only tells: its origin's database has refused to undo `undoes`, with this
    /// SQLSTATE and these words. Every region records it as a dead letter, and alarms.
    #[must_use]
    pub fn notice(&self) -> Option<(&str, &str)> {
        if self.statement != Digest::default() || self.undoes.is_none() {
            return None;
        }
        match self.params.as_slice() {
            [Value::Text(sqlstate), Value::Text(message)] => Some((sqlstate, message)),
            _ => None,
        }
    }

    /// Numbers that a database can hold, which has 63 bits for them, and count on from. A clock at
    /// the end of its range would leave the receiving region none for its own updates. (`rows` may
    /// be anything: what is negative in 63 bits is not known.)
    fn is_plausible(&self) -> bool {
        const MOST: u64 = i64::MAX as u64;
        self.hlc.0 <= MOST - (1 << 56)
            && self.undoes.is_none_or(|seq| seq.0 <= MOST)
            && self.seen.iter().all(|(_, seq)| seq.0 <= MOST)
    }

    /// As it lies in the outbox and travels in datagrams.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // The standard flavour of postcard fails only where serde's derive would: never here.
        postcard::to_extend(self, vec![VERSION]).unwrap_or_default()
    }

    /// Reads what [`Update::encode`] wrote. Parameters that no backend could store (NaN, NUL in a
    /// text, broken JSON) make the whole update malformed.
    ///
    /// # Errors
    /// [`UpdateError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, UpdateError> {
        let (&version, body) = bytes.split_first().ok_or(UpdateError::Malformed)?;
        if version != VERSION {
            return Err(UpdateError::Version(version));
        }
        if bytes.len() > MAX_UPDATE {
            return Err(UpdateError::Malformed);
        }
        let (update, rest) =
            postcard::take_from_bytes::<Self>(body).map_err(|_| UpdateError::Malformed)?;
        let valid = rest.is_empty()
            && update.is_plausible()
            && update.params.iter().all(Value::is_valid)
            && update.old.iter().all(Value::is_valid);
        valid.then_some(update).ok_or(UpdateError::Malformed)
    }
}

/// The bytes are no update of a version that is known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// Written by a newer version of Prism.
    #[error("update format version {0} is not known here; upgrade this node")]
    Version(u8),
    /// Not decodable.
    #[error("update is malformed")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn golden() -> Update {
        Update {
            tag: Tag(0x0102),
            prev_tag: Tag(3),
            statement: Digest([0xAB; 16]),
            params: vec![
                Value::Null,
                Value::Bool(true),
                Value::Int(-2),
                Value::Float(1.5),
                Value::Decimal("1.50".into()),
                Value::Text("ä".into()),
                Value::Bytes(vec![0, 255]),
                Value::Uuid([7; 16]),
                Value::Timestamp(1),
                Value::Json("{}".into()),
            ],
            old: vec![Value::Int(1)],
            hlc: Hlc(1 << 16),
            rows: 1,
            seen: vec![(RegionKey(5), Seq(300))],
            undoes: Some(Seq(9)),
            held: false,
            request_id: Some([1; 16]),
        }
    }

    /// If this fails, updates in outboxes and on the wire have become unreadable: add a version.
    #[test]
    fn the_format_is_the_one_written_before() {
        let hex: String = golden()
            .encode()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            concat!(
                "01",
                "8202",
                "03",
                "abababababababababababababababab",
                "0a",
                "00",
                "0101",
                "0203",
                "03000000000000f83f",
                "0404312e3530",
                "0502c3a4",
                "060200ff",
                "0707070707070707070707070707070707",
                "0802",
                "09027b7d",
                "010202",
                "808004",
                "01",
                "0105ac02",
                "0109",
                "00",
                "0101010101010101010101010101010101",
            )
        );
        assert_eq!(Update::decode(&golden().encode()), Ok(golden()));
    }

    #[test]
    fn foreign_bytes_are_named_or_malformed() {
        let good = golden().encode();
        assert_eq!(Update::decode(&[]), Err(UpdateError::Malformed));
        assert_eq!(Update::decode(&[9, 1]), Err(UpdateError::Version(9)));
        for cut in 1..good.len() {
            assert_eq!(
                Update::decode(&good[..cut]),
                Err(UpdateError::Malformed),
                "{cut}"
            );
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(Update::decode(&long), Err(UpdateError::Malformed));
        let nan = Update {
            params: vec![Value::Float(f64::NAN)],
            ..golden()
        };
        assert_eq!(Update::decode(&nan.encode()), Err(UpdateError::Malformed));
        for implausible in [
            Update {
                hlc: Hlc(i64::MAX as u64),
                ..golden()
            },
            Update {
                seen: vec![(RegionKey(5), Seq(u64::MAX))],
                ..golden()
            },
            Update {
                undoes: Some(Seq(u64::MAX)),
                ..golden()
            },
        ] {
            let bytes = implausible.encode();
            assert_eq!(Update::decode(&bytes), Err(UpdateError::Malformed));
        }
        // A length of 2^63 elements in few bytes.
        let mut greedy = vec![VERSION, 1, 2];
        greedy.extend([0; 16]);
        greedy.extend([0xFF; 9]);
        assert_eq!(Update::decode(&greedy), Err(UpdateError::Malformed));
    }

    #[test]
    fn the_clock_never_stands_still() {
        assert_eq!(Hlc(0).tick(5_000), Hlc(5 << 16));
        assert_eq!(Hlc(9 << 16).tick(5_000), Hlc((9 << 16) + 1));
        assert_eq!(Hlc(7).tick(-1), Hlc(8));
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (-1e300..1e300f64).prop_map(Value::Float),
            "-?[0-9]{1,20}(\\.[0-9]{1,5})?".prop_map(Value::Decimal),
            "[^\0]{0,20}".prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
            any::<[u8; 16]>().prop_map(Value::Uuid),
            (-1_000_000_000_000i64..1_000_000_000_000).prop_map(Value::Timestamp),
            any::<i32>().prop_map(|n| Value::Json(format!("[{n}]"))),
        ]
    }

    proptest! {
        #[test]
        fn every_update_survives(
            tags in any::<(u64, u64)>(),
            statement in any::<[u8; 16]>(),
            params in prop::collection::vec(value(), 0..6),
            old in prop::collection::vec(value(), 0..3),
            hlc in 0..1u64 << 62,
            rows in any::<u64>(),
            seen in prop::collection::vec((any::<u32>(), 0..1u64 << 63), 0..4),
            undoes in prop::option::of(0..1u64 << 63),
            held in any::<bool>(),
            request_id in any::<Option<[u8; 16]>>(),
        ) {
            let update = Update {
                tag: Tag(tags.0),
                prev_tag: Tag(tags.1),
                statement: Digest(statement),
                params,
                old,
                hlc: Hlc(hlc),
                rows,
                seen: seen.into_iter().map(|(k, s)| (RegionKey(k), Seq(s))).collect(),
                undoes: undoes.map(Seq),
                held,
                request_id,
            };
            prop_assert_eq!(Update::decode(&update.encode()), Ok(update));
        }

        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Update::decode(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            let _ = Update::decode(&bytes);
        }
    }
}
