//! Packets that somebody has recorded, damaged, made up or sent to the wrong place.

use super::super::crypto::{TAG, hash};
use super::super::handshake::{self, Hello};
use super::super::wire::{INITIATION, RESPONSE};
use super::*;

/// Sends every packet that differs from `packet` by one bit; none may be taken, or answered.
fn every_bit(s: &mut Sessions, now: Instant, from: SocketAddr, packet: &[u8]) {
    for bit in 0..8 * packet.len() {
        let mut wrong = packet.to_vec();
        wrong[bit / 8] ^= 1 << (bit % 8);
        let refused = receive(s, now, from, &wrong);
        assert!(
            refused.is_err(),
            "bit {bit} of {}: {refused:?}",
            packet.len()
        );
    }
    assert_eq!(outgoing(s, now), [[0u8; 0]; 0], "an answer");
}

/// Both ends, and what was said in their handshake, which A began: initiation, response, first data.
fn recorded() -> (Sessions, Sessions, [Vec<u8>; 3]) {
    let (mut a, mut b) = (start(&sealed(0, 1)), start(&sealed(1, 2)));
    b.peers[0].initiate_at = None;
    let initiation = outgoing(&mut a, at(0)).remove(0);
    receive(&mut b, at(0), address(0), &initiation).unwrap();
    let response = outgoing(&mut b, at(0)).remove(0);
    receive(&mut a, at(0), address(1), &response).unwrap();
    let confirm = outgoing(&mut a, at(0)).remove(0);
    receive(&mut b, at(0), address(0), &confirm).unwrap();
    assert!(is_up(&a, B) && is_up(&b, A));
    (a, b, [initiation, response, confirm])
}

#[test]
fn no_bit_of_any_packet_is_free() {
    let (mut a, mut b) = (start(&sealed(0, 1)), start(&sealed(1, 2)));
    b.peers[0].initiate_at = None;
    let plain = outgoing(&mut a, at(0)).remove(0);
    every_bit(&mut b, at(0), address(0), &plain);
    // An initiation with a cookie, and the cookie.
    cookies::overload(&mut b, at(0));
    assert_eq!(
        receive(&mut b, at(0), address(0), &plain),
        Err(Drop::Overload)
    );
    let cookie = outgoing(&mut b, at(0)).remove(0);
    every_bit(&mut a, at(0), address(1), &cookie);
    receive(&mut a, at(0), address(1), &cookie).unwrap();
    let initiation = outgoing(&mut a, at(0)).remove(0);
    assert_ne!(initiation[INITIATION - TAG..], [0; TAG], "no mac2");
    every_bit(&mut b, at(0), address(0), &initiation);
    receive(&mut b, at(0), address(0), &initiation).unwrap();
    let response = outgoing(&mut b, at(0)).remove(0);
    every_bit(&mut a, at(0), address(1), &response);
    receive(&mut a, at(0), address(1), &response).unwrap();
    let confirm = outgoing(&mut a, at(0)).remove(0);
    every_bit(&mut b, at(0), address(0), &confirm);
    let change = receive(&mut b, at(0), address(0), &confirm).unwrap().0;
    assert_eq!(change, Change::Up);
    let packet = data(&mut b, at(1), A, b"in order").unwrap();
    every_bit(&mut a, at(1), address(1), &packet);
    for len in 0..packet.len() {
        assert!(body(&mut a, at(1), &packet[..len]).is_err(), "{len}");
    }
    assert_eq!(body(&mut a, at(1), &packet), Ok(b"in order".to_vec()));
}

#[test]
fn handshakes_damaged_by_somebody_who_knows_the_clusters_key_change_nothing() {
    let (mut a, mut b) = (start(&sealed(0, 1)), start(&sealed(1, 2)));
    b.peers[0].initiate_at = None;
    let damage = |packet: &[u8], byte: usize, signed_by: &Sessions, of: usize| {
        let mut wrong = packet.to_vec();
        wrong[byte] ^= 0x10;
        signed_by.peers[of].keys[0].macs.sign(&mut wrong, None);
        wrong
    };
    let initiation = outgoing(&mut a, at(0)).remove(0);
    for byte in (8..INITIATION - 2 * TAG).step_by(5) {
        // Not so many at once that cookies are asked for.
        let now = at(byte as u64 * 20);
        let wrong = damage(&initiation, byte, &a, 1);
        let refused = receive(&mut b, now, address(0), &wrong);
        assert_eq!(refused, Err(Drop::WrongHandshake), "byte {byte}");
    }
    receive(&mut b, at(4000), address(0), &initiation).unwrap();
    let response = outgoing(&mut b, at(4000)).remove(0);
    for byte in (12..RESPONSE - 2 * TAG).step_by(5) {
        let wrong = damage(&response, byte, &b, 0);
        let refused = receive(&mut a, at(4000), address(1), &wrong);
        assert_eq!(refused, Err(Drop::WrongHandshake), "byte {byte}");
    }
    let change = receive(&mut a, at(4000), address(1), &response).unwrap().0;
    assert_eq!(change, Change::Up, "the true answer still counts");
}

#[test]
fn what_was_recorded_is_worth_nothing_in_the_same_session_and_from_another_address() {
    let (mut a, mut b, said) = recorded();
    let late = data(&mut a, at(1), B, b"once").unwrap();
    assert_eq!(body(&mut b, at(1), &late), Ok(b"once".to_vec()));
    let home = b.peers[0].address;
    for from in [address(9), address(77)] {
        for packet in said.iter().chain([&late]) {
            for s in [&mut a, &mut b] {
                assert!(receive(s, at(2), from, packet).is_err());
                assert!(outgoing(s, at(2)).is_empty());
            }
        }
    }
    assert_eq!(b.peers[0].address, home, "it has not followed a copy");
    assert_eq!((b.info(A).stale, b.info(A).twin), (0, 0));
}

#[test]
fn what_was_recorded_is_worth_nothing_after_a_restart_of_either_side() {
    // The receiver is a new process that remembers nothing.
    let (_, _, said) = recorded();
    let mut b = start(&sealed(1, 50));
    b.peers[0].initiate_at = None;
    for packet in &said {
        let _ = receive(&mut b, at(0), address(77), packet);
    }
    assert!(!is_up(&b, A));
    let answers = outgoing_to(&mut b, at(0));
    assert!(answers.len() <= 1 && answers.iter().all(|(_, p)| p.len() <= INITIATION));
    assert!(receive(&mut b, at(1), address(77), &said[2]).is_err());
    let mut a = start(&sealed(0, 51));
    talk(&mut a, &mut b, at(10));
    assert!(
        is_up(&b, A) && is_up(&a, B),
        "and it stands in nobody's way"
    );

    // The sender is a new process, and the receiver knows that.
    let (_, mut b, said) = recorded();
    let mut a = start(&sealed(0, 60));
    talk(&mut a, &mut b, at(10));
    let refused = said
        .each_ref()
        .map(|packet| receive(&mut b, at(20), address(77), packet));
    assert_eq!(refused[0], Err(Drop::Stale));
    assert!(refused.iter().all(Result::is_err));
    assert!(outgoing(&mut b, at(20)).is_empty());
    assert_eq!(b.info(A).stale, 1, "it is told");
    let new = data(&mut a, at(21), B, b"new").unwrap();
    assert_eq!(body(&mut b, at(21), &new), Ok(b"new".to_vec()));
}

#[test]
fn counters_up_to_the_last_one() {
    let (mut a, mut b) = pair();
    let craft = |a: &Sessions, counter: u64| {
        let session = a.peers[1].current.as_ref().unwrap();
        let (mut plain, mut packet) = ([7; 100], [0; 200]);
        let len =
            (session.transport).seal((session.remote, counter), &mut plain, (5, 5), &mut packet);
        len.map(|len| packet[..len].to_vec())
    };
    assert!(craft(&a, u64::MAX).is_none(), "that one belongs to Noise");
    let before = craft(&a, 5).unwrap();
    let mut last = craft(&a, u64::MAX - 1).unwrap();
    for forged in [u64::MAX, u64::MAX - 2, 1 << 63, 1 << 32, 6] {
        let mut packet = before.clone();
        packet[8..16].copy_from_slice(&forged.to_le_bytes());
        assert!(body(&mut b, at(1), &packet).is_err(), "{forged}");
    }
    assert!(
        body(&mut b, at(1), &before).is_ok(),
        "forged counters move no window"
    );
    assert!(body(&mut b, at(1), &last).is_ok());
    assert_eq!(body(&mut b, at(1), &last), Err(Drop::Replayed));
    let next = craft(&a, 6).unwrap();
    assert_eq!(body(&mut b, at(1), &next), Err(Drop::Replayed), "too old");
    last[8..16].fill(0xff);
    assert!(body(&mut b, at(1), &last).is_err());
    // Whoever counts properly never gets there: the session is replaced before.
    a.peers[1].current.as_mut().unwrap().counter = 1 << 60;
    assert!(data(&mut a, at(2), B, b"x").is_none());
    assert_eq!(a.expire(at(2)), None, "nothing is due");
    a.due = Some(at(3));
    assert_eq!(a.expire(at(3)), Some(B));
    talk(&mut a, &mut b, at(3));
    assert!(data(&mut a, at(4), B, b"x").is_some());
}

#[test]
fn own_packets_that_come_back_are_refused() {
    let (mut a, mut b, said) = recorded();
    let mut sent = data(&mut a, at(1), B, b"x").unwrap();
    assert_eq!(body(&mut a, at(1), &sent), Err(Drop::UnknownSession));
    // Even under the index that it would have to have.
    let index = a.peers[1].current.as_ref().unwrap().local;
    sent[4..8].copy_from_slice(&index.to_le_bytes());
    assert_eq!(body(&mut a, at(1), &sent), Err(Drop::NotAuthentic));
    assert_eq!(body(&mut a, at(1), &said[0]), Err(Drop::WrongMac));
    assert_eq!(body(&mut b, at(1), &said[1]), Err(Drop::WrongMac));
}

#[test]
fn strangers_are_dropped_without_an_answer() {
    let mut b = start(&sealed(1, 2));
    b.peers[0].initiate_at = None;
    let mut wrong_psk = sealed(0, 3);
    if let Protection::Sealed(keys) = &mut wrong_psk.protection {
        keys.psk[31] ^= 1;
    }
    let wrong_cluster = EndpointConfig {
        cluster: "d".into(),
        ..sealed(0, 3)
    };
    // Knows everything but the private key of a node.
    let mut own_key = sealed(0, 3);
    if let Protection::Sealed(keys) = &mut own_key.protection {
        *keys.private = [77; 32];
    }
    for (config, why) in [
        (wrong_psk, Drop::WrongMac),
        (wrong_cluster, Drop::WrongMac),
        (own_key, Drop::UnknownNode),
    ] {
        let hello = outgoing(&mut start(&config), at(1)).remove(0);
        assert_eq!(receive(&mut b, at(1), address(0), &hello), Err(why));
    }
    assert!(outgoing(&mut b, at(1)).is_empty());
    assert_eq!(b.info(A), PeerInfo::default());
}

#[test]
fn the_key_of_another_node_does_not_do() {
    // C is a member with a good key, but says that it is A.
    let mut config = sealed(0, 3);
    config.protection = sealed(2, 3).protection;
    let mut b = start(&sealed(1, 2));
    b.peers[0].initiate_at = None;
    let hello = outgoing(&mut start(&config), at(1)).remove(0);
    assert_eq!(
        receive(&mut b, at(1), address(0), &hello),
        Err(Drop::UnknownNode)
    );
    // And it does not get B's calls for A.
    let mut b = start(&sealed(1, 2));
    let call = outgoing(&mut b, at(1)).remove(0);
    let refused = receive(&mut start(&config), at(1), address(1), &call);
    assert_eq!(refused, Err(Drop::WrongMac));
    // Even if it knows for whom they are.
    let mut entropy = Entropy::System;
    let own = handshake::Own::new("c", "N2", &sealed(2, 3).protection);
    let Some(Packet::Initiation(call)) = Packet::parse(&call) else {
        panic!("no initiation");
    };
    assert!(handshake::respond(&own, &mut entropy, identity("N0"), call.noise).is_none());
}

#[test]
fn points_of_low_order_give_nothing() {
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    let (mut a, mut b, _) = recorded();
    a.connect(at(100), B);
    let initiation = outgoing(&mut a, at(100)).remove(0);
    for low in [[0; 32], minus_one] {
        let mut packet = initiation.clone();
        packet[8..40].copy_from_slice(&low);
        a.peers[1].keys[0].macs.sign(&mut packet, None);
        assert_eq!(
            receive(&mut b, at(100), address(0), &packet),
            Err(Drop::WrongHandshake)
        );
    }
    receive(&mut b, at(100), address(0), &initiation).unwrap();
    let response = outgoing(&mut b, at(100)).remove(0);
    let mut packet = response.clone();
    packet[12..44].copy_from_slice(&minus_one);
    b.peers[0].keys[0].macs.sign(&mut packet, None);
    assert_eq!(
        receive(&mut a, at(100), address(1), &packet),
        Err(Drop::WrongHandshake)
    );
    receive(&mut a, at(100), address(1), &response).unwrap();

    // A whole handshake with a "node" whose key is such a point: nobody can compute its end.
    let own = handshake::Own::new("c", "N0", &sealed(0, 1).protection);
    let hello = Hello {
        sender: identity("N0"),
        boot: 1,
        incarnation: 1,
        n: 1,
        catalogue: 0,
    };
    let call = handshake::initiate(&own, &mut Entropy::System, &minus_one, 5, &hello);
    assert!(call.is_none());
}

#[test]
fn a_second_process_with_the_same_identity_is_told_and_does_not_take_over() {
    let (mut a, mut b) = pair();
    // A copy of the data directory: the same boot number, another process.
    let mut twin = start(&EndpointConfig {
        seed: 99,
        ..sealed(0, 1)
    });
    let hello = outgoing(&mut twin, at(10)).remove(0);
    assert_eq!(
        receive(&mut b, at(10), address(5), &hello),
        Err(Drop::Stale)
    );
    assert!(b.info(A).twin > 0);
    let packet = data(&mut a, at(11), B, b"still here").unwrap();
    assert_eq!(body(&mut b, at(11), &packet), Ok(b"still here".to_vec()));
}

#[test]
fn a_packet_of_a_dead_process_that_was_held_back_does_not_end_its_successors_session() {
    let (mut a, mut b) = (start(&sealed(0, 1)), start(&sealed(1, 2)));
    b.peers[0].initiate_at = None;
    let initiation = outgoing(&mut a, at(0)).remove(0);
    receive(&mut b, at(0), address(0), &initiation).unwrap();
    let response = outgoing(&mut b, at(0)).remove(0);
    receive(&mut a, at(0), address(1), &response).unwrap();
    let held = outgoing(&mut a, at(0)).remove(0);
    // A is started again, and it is B that calls.
    let mut a = start(&sealed(0, 3));
    a.peers[1].initiate_at = None;
    b.connect(at(1000), A);
    talk(&mut a, &mut b, at(1000));
    assert!(is_up(&a, B) && is_up(&b, A));
    assert!(receive(&mut b, at(1001), address(0), &held).is_err());
    let packet = data(&mut a, at(1002), B, b"x").unwrap();
    assert_eq!(body(&mut b, at(1002), &packet), Ok(b"x".to_vec()));
    let packet = data(&mut b, at(1002), A, b"y").unwrap();
    assert_eq!(body(&mut a, at(1002), &packet), Ok(b"y".to_vec()));
}

#[test]
fn recorded_handshakes_do_not_pass_for_a_second_process() {
    let mut old = start(&sealed(0, 1));
    let mut recorded = Vec::new();
    for n in 0..6 {
        old.connect(at(6000 * n), B);
        recorded.push(outgoing(&mut old, at(6000 * n)).remove(0));
    }
    // B is started again, and hears an old story before it hears the truth.
    let mut b = start(&sealed(1, 50));
    b.peers[0].initiate_at = None;
    receive(&mut b, at(0), address(77), &recorded[0]).unwrap();
    let mut a = start(&sealed(0, 2));
    talk(&mut a, &mut b, at(10));
    assert!(is_up(&b, A));
    for packet in &recorded[1..] {
        let refused = receive(&mut b, at(20), address(77), packet);
        assert_eq!(refused, Err(Drop::Stale));
    }
    assert_eq!((b.info(A).stale, b.info(A).twin), (5, 0));
}

#[test]
fn a_node_that_breaks_the_rules_is_refused_for_longer_and_longer() {
    let (mut a, mut b) = pair();
    let mut now = at(1000);
    for seconds in [5, 10, 20, 40, 60, 60] {
        assert!(is_up(&b, A));
        assert!(b.shut_out(now, A));
        assert!(!b.shut_out(now, NodeId(99)));
        assert!(data(&mut b, now, A, b"x").is_none());
        let end = now.after(Duration::from_secs(seconds));
        let almost = now.after(Duration::from_millis(1000 * seconds - 1));
        let soon = now.after(Duration::from_millis(100));
        a.connect(soon, B);
        b.connect(soon, A);
        let hello = outgoing(&mut a, soon).remove(0);
        let refused = receive(&mut b, soon, address(0), &hello);
        assert_eq!(refused, Err(Drop::ShutOut));
        assert!(outgoing(&mut b, almost).is_empty(), "it calls the culprit");
        talk(&mut a, &mut b, end);
        now = end;
    }
    assert_eq!(b.info(A).violations, 6);
    // Long afterwards it is forgiven.
    now = now.after(Duration::from_secs(3600));
    while b.expire(now).is_some() || a.expire(now).is_some() {}
    talk(&mut a, &mut b, now);
    assert!(b.shut_out(now, A));
    talk(&mut a, &mut b, now.after(Duration::from_secs(5)));
    assert!(is_up(&b, A));
}

#[test]
fn keys_differ_in_everything_that_they_are_made_from() {
    let parts: [&[&[u8]]; 4] = [&[b"ab", b"c"], &[b"a", b"bc"], &[b"abc"], &[b"abc", b""]];
    let mut keys = parts.map(|parts| *hash(parts)).to_vec();
    keys.dedup();
    assert_eq!(keys.len(), parts.len());
}
