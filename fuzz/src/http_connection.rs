//! Any bytes as what a client sends over a connection to the HTTP API.

/// See the module.
pub fn run(bytes: &[u8]) {
    for (token, http) in crate::http_body::servers() {
        let answer = http.connection(bytes, true).expect("room");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "that is no HTTP");
        if *token {
            // Nobody knows it, so nothing of the node is told.
            let taken = crate::http_body::taken();
            assert_eq!(taken, 0, "an update without the token");
            let shown = String::from_utf8_lossy(&answer);
            assert!(!shown.contains("\"next_seq\":"), "a status without the token");
        }
    }
}
