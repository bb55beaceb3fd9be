//! A JSON array whose elements are counted before any of them is kept.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// At most `N` elements, each as it is written. Two bytes of a body (`0,`) would be a hundred in
/// memory otherwise.
#[derive(Debug)]
pub(super) struct AtMost<'a, const N: usize>(Option<Vec<&'a RawValue>>);

/// There are more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

impl<const N: usize> Default for AtMost<'_, N> {
    fn default() -> Self {
        Self(Some(Vec::new()))
    }
}

impl<'a, const N: usize> AtMost<'a, N> {
    pub(super) fn get(self) -> Result<Vec<&'a RawValue>, TooMany> {
        self.0.ok_or(TooMany)
    }
}

impl<'de: 'a, 'a, const N: usize> Deserialize<'de> for AtMost<'a, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<const N: usize>;

        impl<'de, const N: usize> Visitor<'de> for Elements<N> {
            type Value = AtMost<'de, N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < N {
                    match seq.next_element()? {
                        Some(element) => kept.push(element),
                        None => return Ok(AtMost(Some(kept))),
                    }
                }
                let mut more = false;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    more = true;
                }
                Ok(AtMost((!more).then_some(kept)))
            }
        }

        deserializer.deserialize_seq(Elements::<N>)
    }
}
