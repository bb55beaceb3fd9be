//! The primitives that `snow` is given here make the same bytes as everybody else's.

use snow::Builder;

use super::super::crypto::{Primitives, hash, mac};
use super::*;

fn hex<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    assert_eq!(text.len(), 2 * N);
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    }
    bytes
}

/// `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` of the test vectors of cacophony
/// (<https://github.com/haskell-cryptography/cacophony>).
#[test]
fn a_handshake_of_another_implementation() {
    let psk: [u8; 32] = hex("54686973206973206d7920417573747269616e20706572737065637469766521");
    let initiator: [u8; 32] =
        hex("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1");
    let initiator_e: [u8; 32] =
        hex("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a");
    let responder: [u8; 32] =
        hex("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893");
    let responder_e: [u8; 32] =
        hex("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b");
    let responder_public: [u8; 32] =
        hex("31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62");
    assert_eq!(public_key(&responder), responder_public);

    let mut entropy = Entropy::System;
    let mut builder = |own, own_e| {
        let params = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
        Builder::with_resolver(params, Primitives::new(&mut entropy))
            .fixed_ephemeral_key_for_testing_only(own_e)
            .local_private_key(own)
            .and_then(|b| b.psk(2, &psk))
            .and_then(|b| b.prologue(b"John Galt"))
            .unwrap()
    };
    let mut i = builder(&initiator, &initiator_e)
        .remote_public_key(&responder_public)
        .unwrap()
        .build_initiator()
        .unwrap();
    let mut r = builder(&responder, &responder_e).build_responder().unwrap();
    let (mut sealed, mut plain) = ([0; 200], [0; 200]);

    let first: [u8; 112] = hex(concat!(
        "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944",
        "001e21de9f98ddd8e2ad57527207feb56253c9c94a9e496782ecfcb2a75fbcaf",
        "1b52948cc48daefe660c62119ab5000980c84831215f2441eba616548e832985",
        "464cf17e51ee93109008399a21f7e13f"
    ));
    let len = i.write_message(b"Ludwig von Mises", &mut sealed).unwrap();
    assert_eq!(sealed[..len], first);
    let len = r.read_message(&first, &mut plain).unwrap();
    assert_eq!(plain[..len], *b"Ludwig von Mises");

    let second: [u8; 63] = hex(concat!(
        "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843",
        "cb765f2caef0751b8f007572dab0322217755c0632f365717edbf34d33e87a"
    ));
    let len = r.write_message(b"Murray Rothbard", &mut sealed).unwrap();
    assert_eq!(sealed[..len], second);
    let len = i.read_message(&second, &mut plain).unwrap();
    assert_eq!(plain[..len], *b"Murray Rothbard");
    let agreed: [u8; 32] = hex("f5191b875290abcd41347ac3622d9679688a7e980229cb937ef748336cfde0e5");
    assert_eq!(i.get_handshake_hash(), agreed);

    let i = i.into_stateless_transport_mode().unwrap();
    let r = r.into_stateless_transport_mode().unwrap();
    let third: [u8; 27] = hex("8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7");
    let len = i.write_message(0, b"F. A. Hayek", &mut sealed).unwrap();
    assert_eq!(sealed[..len], third);
    let len = r.read_message(0, &third, &mut plain).unwrap();
    assert_eq!(plain[..len], *b"F. A. Hayek");
    let fifth: [u8; 33] = hex("6ab1467c0448cc78394494abaaf23afce0e234315d6e2624dcbfa8a21c1c4d073d");
    let len = i.write_message(1, b"Jean-Baptiste Say", &mut sealed);
    assert_eq!(sealed[..len.unwrap()], fifth);
}

/// As Python's hashlib computes them.
#[test]
fn hashes_and_macs_of_another_implementation() {
    assert_eq!(
        *hash(&[b"prism", b"2"]),
        hex("5aac3228bb6b9d464a3d4a06d9ec52b36265af3505536f8152382d83cd82634e")
    );
    assert_eq!(
        mac(&hash(&[b"key"]), b"message"),
        hex("0bdd946e82029f2ac3ecc0ed6d848e5d")
    );
}
