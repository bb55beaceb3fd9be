//! What a request asks for, so that an id that is used twice is told from a retry.

use sha2::{Digest as _, Sha256};

use crate::{Digest, ParamType, Value};

/// Hash of a statement's name and of the parameters that the caller has given. Those that are
/// generated differ from try to try and do not count.
#[must_use]
pub fn body_digest(name: &str, types: &[ParamType], params: &[Value]) -> Digest {
    let mut hash = Sha256::new_with_prefix(b"prism request 1");
    hash.update((name.len() as u64).to_be_bytes());
    hash.update(name.as_bytes());
    let given = types
        .iter()
        .zip(params)
        .filter(|(ty, _)| !ty.is_generated());
    for (_, value) in given {
        // Never fails: see `Update::encode`.
        let bytes = postcard::to_stdvec(value).unwrap_or_default();
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    }
    let full = hash.finalize();
    let mut digest = [0; 16];
    digest.copy_from_slice(&full[..16]);
    Digest(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_has_the_same_digest_whatever_was_generated() {
        let types = [ParamType::Int, ParamType::GenUuid];
        let of = |n, uuid| body_digest("s", &types, &[Value::Int(n), Value::Uuid([uuid; 16])]);
        assert_eq!(of(1, 1), of(1, 2));
        assert_ne!(of(1, 1), of(2, 1));
        assert_ne!(of(1, 1), body_digest("t", &types, &[Value::Int(1)]));
    }
}
