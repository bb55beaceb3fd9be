//! What stands in the journal for one update. When it was accepted stands in the record around it.

use prism_db::{Digest, Submission, Value};
use prism_proto::canary;
use serde::{Deserialize, Serialize};

/// First byte of an entry. A change to [`Entry`] needs a new one, and the old ones stay readable.
const VERSION: u8 = 1;

/// One update as it was accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Name of its statement, for people.
    pub(super) name: String,
    /// The version of the statement that its caller meant.
    pub(super) statement: Digest,
    /// All parameters, generated ones included.
    pub(super) params: Vec<Value>,
    /// The caller's id.
    pub(super) request_id: [u8; 16],
    /// What tells a retry from another update under the same id.
    pub(super) body: Digest,
}

impl Entry {
    pub(super) fn new(name: &str, submission: &Submission, body: Digest) -> Self {
        Self {
            name: name.to_owned(),
            statement: submission.statement,
            params: submission.params.clone(),
            request_id: submission.request_id.unwrap_or_default(),
            body,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // The standard flavour of postcard fails only where serde's derive would: never here.
        let body = postcard::to_stdvec(self).unwrap_or_default();
        let mut bytes = Vec::with_capacity(body.len() + 1);
        bytes.push(VERSION);
        bytes.extend_from_slice(&body);
        bytes
    }

    /// `None`: written by a newer version, or not by Prism.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&VERSION, body) = bytes.split_first()? else {
            return None;
        };
        let (entry, rest) = postcard::take_from_bytes(body).ok()?;
        rest.is_empty().then_some(entry)
    }

    pub(super) fn submission(&self) -> Submission {
        Submission {
            statement: self.statement,
            params: self.params.clone(),
            request_id: (!canary!(ReplayWithoutId)).then_some(self.request_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, journals written before have become unreadable: add a version.
    #[test]
    fn the_format_is_the_one_written_before() {
        let entry = Entry {
            name: "add".into(),
            statement: Digest([2; 16]),
            params: vec![Value::Int(-1), Value::Text("x".into())],
            request_id: [3; 16],
            body: Digest([4; 16]),
        };
        let hex: String = entry.encode().iter().map(|b| format!("{b:02x}")).collect();
        let (two, three, four) = ("02".repeat(16), "03".repeat(16), "04".repeat(16));
        assert_eq!(
            hex,
            format!("0103616464{two}02020105{}{three}{four}", "0178")
        );
        assert_eq!(Entry::decode(&entry.encode()), Some(entry.clone()));
        for cut in 0..entry.encode().len() {
            assert_eq!(Entry::decode(&entry.encode()[..cut]), None, "{cut}");
        }
        let newer = [&[2], &entry.encode()[1..]].concat();
        assert_eq!(Entry::decode(&newer), None);
    }
}
