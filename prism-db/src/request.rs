//! What a request asks for, so that an id that is used twice is told from a retry.

use sha2::{Digest as _, Sha256};

use crate::{Digest, ParamType, Value};

/// An id for a request whose caller has given none. It begins with the time (UUID version 7): every
/// region keeps an index of them, and ids that come in order go to the same page of it, instead of
/// each to one of its own, which has to be read and, after a checkpoint, logged as a whole.
#[must_use]
pub fn new_request_id() -> [u8; 16] {
    uuid::Uuid::now_v7().into_bytes()
}

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

/// The value of the parameter `$index+1` of type `gen_uuid`: a function of the request's id. A
/// request that was submitted in two regions is executed from one copy here and from the other
/// there, and must store the same. (A `gen_now` is taken at each of them and may differ then.)
///
/// The first 16 bytes of SHA-256 over `prism gen_uuid 1`, the id and the index (two bytes,
/// big-endian), with version 4 and its variant set.
#[must_use]
pub fn generated_uuid(request_id: &[u8; 16], index: usize) -> [u8; 16] {
    let mut hash = Sha256::new_with_prefix(b"prism gen_uuid 1");
    hash.update(request_id);
    // A statement has 64 parameters at most.
    hash.update((index as u16).to_be_bytes());
    let full = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&full[..16]);
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_submitted_in_two_regions_generates_the_same_uuids() {
        let (one, other) = ([1; 16], [2; 16]);
        assert_eq!(generated_uuid(&one, 0), generated_uuid(&one, 0));
        assert_ne!(generated_uuid(&one, 0), generated_uuid(&one, 1));
        assert_ne!(generated_uuid(&one, 0), generated_uuid(&other, 0));
        let uuid = uuid::Uuid::from_bytes(generated_uuid(&one, 0));
        assert_eq!(uuid.get_version_num(), 4);
    }

    #[test]
    fn ids_of_requests_come_in_order_and_differ() {
        let ids: Vec<_> = (0..10_000).map(|_| new_request_id()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_retry_has_the_same_digest_whatever_was_generated() {
        let types = [ParamType::Int, ParamType::GenUuid];
        let of = |n, uuid| body_digest("s", &types, &[Value::Int(n), Value::Uuid([uuid; 16])]);
        assert_eq!(of(1, 1), of(1, 2));
        assert_ne!(of(1, 1), of(2, 1));
        assert_ne!(of(1, 1), body_digest("t", &types, &[Value::Int(1)]));
    }
}
