//! Doors for the fuzz targets to what reads bytes from outside and is otherwise private. No part of
//! the API.

pub use crate::http::BareHttp;
use crate::runtime::Entry;

/// Reads an entry of the journal and writes it again.
#[must_use]
pub fn entry(bytes: &[u8]) -> Option<Vec<u8>> {
    Entry::decode(bytes).map(|entry| entry.encode())
}
