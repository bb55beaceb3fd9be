//! What the fuzz targets do, as plain functions: libFuzzer calls them (`fuzz_targets/`,
//! `fuzz/run.sh`), and so does a test on stable Rust with everything in `corpus/` and
//! `regressions/`.
//!
//! Every function in Prism that reads bytes from outside has a target; `fuzz/decoders.txt` says which,
//! and `.ci/decoders` fails when one is missing there.
#![forbid(unsafe_code)]

mod cluster;
mod disk;
pub mod seeds;
#[path = "../../prism-proto/tests/sim/mod.rs"]
mod sim;

use arbitrary::{Arbitrary, Unstructured};

/// Declares the modules, each named after its target, and the table of them.
macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(pub mod $name;)*

        /// Every target by name.
        pub const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::run)),*];
    };
}

targets![
    catalogue,
    endpoint,
    engine,
    engine_model,
    handshake,
    http_body,
    http_connection,
    journal_damage,
    journal_files,
    prism_toml,
    replay_window,
    roundtrip,
    sealed_body,
    status_json,
    texts,
    update_decode,
    values,
    wire_decode,
];

/// A structured input of a fuzzer's bytes.
fn structured<'a, T: Arbitrary<'a>>(bytes: &'a [u8]) -> Option<T> {
    if bytes.len() < T::size_hint(0).0 {
        return None;
    }
    T::arbitrary_take_rest(Unstructured::new(bytes)).ok()
}

#[cfg(test)]
mod replay;
