//! Any JSON as a node's answer about its state, which the command line reads.

use prism_node::http::ErrorBody;
use prism_node::status::Status;

/// See the module.
pub fn run(bytes: &[u8]) {
    if let Ok(status) = serde_json::from_slice::<Status>(bytes) {
        let text = serde_json::to_vec(&status).expect("plain data");
        let again: Status = serde_json::from_slice(&text).expect("own writing is readable");
        assert_eq!(serde_json::to_vec(&again).expect("plain data"), text);
    }
    if let Ok(error) = serde_json::from_slice::<ErrorBody>(bytes) {
        let _ = format!("{error:?}");
    }
}
