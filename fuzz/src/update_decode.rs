//! Any bytes as an encoded update and as an entry of the journal: refused or understood, and then
//! the same again after encoding.

use prism_db::Update;
use prism_node::hooks;

/// See the module.
pub fn run(bytes: &[u8]) {
    if let Ok(update) = Update::decode(bytes) {
        let again = update.encode();
        assert!(again.len() <= bytes.len(), "canonical encoding is never longer");
        assert_eq!(Update::decode(&again).as_ref(), Ok(&update));
        let _ = update.notice();
    }
    if let Some(again) = hooks::entry(bytes) {
        assert!(again.len() <= bytes.len(), "canonical encoding is never longer");
        // NaN is not equal to itself, its encoding is.
        assert_eq!(hooks::entry(&again).as_ref(), Some(&again));
    }
}
