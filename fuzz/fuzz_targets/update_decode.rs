//! Any bytes as an encoded update: refused or understood, and then the same again after encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prism_db::Update;

fuzz_target!(|bytes: &[u8]| {
    let Ok(update) = Update::decode(bytes) else {
        return;
    };
    let again = update.encode();
    let twice = Update::decode(&again).expect("own writing is readable");
    // NaN is not equal to itself, its encoding is.
    assert_eq!(again, twice.encode());
});
