//! Sessions begin, are replaced, and end.

use super::*;

#[test]
fn crossed_initiations_end_in_one_session_that_both_use() {
    // Both call at the same moment: `pair` has them cross.
    let (mut a, mut b) = pair();
    let (from_a, from_b) = (
        data(&mut a, at(1), B, b"hello").unwrap(),
        data(&mut b, at(1), A, b"world").unwrap(),
    );
    assert_eq!(body(&mut b, at(1), &from_a), Ok(b"hello".to_vec()));
    assert_eq!(body(&mut a, at(1), &from_b), Ok(b"world".to_vec()));
    let current = |s: &Sessions, n: usize| s.peers[n].current.as_ref().map(|c| (c.local, c.remote));
    let (local, remote) = current(&a, 1).unwrap();
    assert_eq!(current(&b, 0), Some((remote, local)));
}

#[test]
fn lost_handshakes_are_repeated_until_they_arrive() {
    for lost in 0..12u32 {
        let (mut a, mut b) = (start(&sealed(0, 1)), start(&sealed(1, 2)));
        let mut count = 0;
        let mut now = at(0);
        while !(is_up(&a, B) && is_up(&b, A)) {
            for (from, to) in [(true, false), (false, true)] {
                let packets = outgoing(if from { &mut a } else { &mut b }, now);
                for packet in packets {
                    count += 1;
                    if count > lost {
                        let to = if to { &mut a } else { &mut b };
                        let _ = receive(to, now, address(9), &packet);
                    }
                }
            }
            now = now.after(Duration::from_millis(25));
            assert!(
                now < at(15_000),
                "{lost} lost packets and no session after 15 s"
            );
        }
    }
}

#[test]
fn a_copy_of_an_initiation_does_not_spoil_the_handshake() {
    let (mut a, mut b) = (start(&sealed(0, 1)), start(&sealed(1, 2)));
    let initiation = outgoing(&mut a, at(0)).remove(0);
    b.peers[0].initiate_at = None;
    let mut responses = Vec::new();
    for _ in 0..2 {
        receive(&mut b, at(0), address(0), &initiation).unwrap();
        responses.append(&mut outgoing(&mut b, at(0)));
    }
    assert_eq!(responses[0], responses[1], "one session for one initiation");
    receive(&mut a, at(0), address(1), &responses[0]).unwrap();
    assert_eq!(
        receive(&mut a, at(0), address(1), &responses[1]),
        Err(Drop::UnknownSession)
    );
    let confirm = outgoing(&mut a, at(0)).remove(0);
    assert_eq!(
        receive(&mut b, at(0), address(0), &confirm).unwrap().0,
        Change::Up
    );
    // A copy that comes later still is no reason for anything.
    assert_eq!(
        receive(&mut b, at(5), address(0), &initiation),
        Err(Drop::Replayed)
    );
    assert!(outgoing(&mut b, at(5)).is_empty());
}

#[test]
fn a_restarted_node_is_recognised_and_its_old_packets_are_void() {
    let (mut a, mut b) = pair();
    let old = data(&mut a, at(10), B, b"old").unwrap();
    let mut a = start(&sealed(0, 77));
    let changes = talk(&mut a, &mut b, at(20));
    assert_eq!(changes, (vec![Change::Up], vec![Change::Restarted]));
    assert_eq!(body(&mut b, at(21), &old), Err(Drop::UnknownSession));
    let new = data(&mut a, at(22), B, b"new").unwrap();
    assert_eq!(body(&mut b, at(22), &new), Ok(b"new".to_vec()));
}

#[test]
fn a_second_handshake_of_the_same_process_changes_nothing_and_late_packets_still_count() {
    let (mut a, mut b) = pair();
    let late = data(&mut a, at(3000), B, b"late").unwrap();
    a.connect(at(4000), B);
    let changes = talk(&mut a, &mut b, at(4000));
    assert_eq!(changes, (vec![], vec![]));
    let new = data(&mut a, at(4001), B, b"new").unwrap();
    assert_eq!(body(&mut b, at(4001), &new), Ok(b"new".to_vec()));
    assert_eq!(body(&mut b, at(4002), &late), Ok(b"late".to_vec()));
}

#[test]
fn every_packet_is_taken_once() {
    let (mut a, mut b) = pair();
    let one = data(&mut a, at(1), B, b"1").unwrap();
    let two = data(&mut a, at(1), B, b"2").unwrap();
    assert_eq!(body(&mut b, at(1), &two), Ok(b"2".to_vec()));
    assert_eq!(body(&mut b, at(1), &one), Ok(b"1".to_vec()));
    for packet in [&one, &two] {
        assert_eq!(body(&mut b, at(1), packet), Err(Drop::Replayed));
    }
}

#[test]
fn the_address_follows_the_newest_packet_only() {
    let (mut a, mut b) = pair();
    let older = data(&mut a, at(1), B, b"1").unwrap();
    let newer = data(&mut a, at(1), B, b"2").unwrap();
    let (home, away) = (address(50), address(51));
    receive(&mut b, at(1), away, &newer).unwrap();
    assert_eq!(b.peers[0].address, away);
    receive(&mut b, at(1), home, &older).unwrap();
    assert_eq!(
        b.peers[0].address, away,
        "a reordered packet must not turn it back"
    );
    let mut forged = newer.clone();
    forged[HEADER + 2] ^= 1;
    assert!(receive(&mut b, at(1), home, &forged).is_err());
    assert_eq!(b.peers[0].address, away);
}

#[test]
fn silence_ends_a_session_and_the_node_is_called_again() {
    let (mut a, _) = pair();
    let mut now = at(0);
    let mut initiations = 0;
    let mut down = None;
    while now < at(60_000) {
        if let Some(node) = a.expire(now) {
            assert_eq!((node, down), (B, None));
            down = Some(now);
        }
        initiations += outgoing(&mut a, now).iter().filter(|p| p[0] == 1).count();
        let deadline = a.deadline().expect("it never gives up");
        assert!(deadline > now, "a busy loop");
        now = deadline;
    }
    assert_eq!(down, Some(at(12_000)));
    assert!(
        (50..=80).contains(&initiations),
        "{initiations} in a minute"
    );
    assert!(data(&mut a, now, B, b"x").is_none());
    let mut b = start(&sealed(1, 3));
    assert_eq!(talk(&mut a, &mut b, now).0, [Change::Up]);
}

#[test]
fn an_idle_session_stays_up() {
    let (mut a, mut b) = pair();
    let mut now = at(0);
    let mut packets = 0;
    while now < at(600_000) {
        assert_eq!((a.expire(now), b.expire(now)), (None, None));
        for packet in outgoing(&mut a, now) {
            packets += 1;
            receive(&mut b, now, address(0), &packet).unwrap();
        }
        for packet in outgoing(&mut b, now) {
            packets += 1;
            receive(&mut a, now, address(1), &packet).unwrap();
        }
        now = a
            .deadline()
            .min(b.deadline())
            .unwrap()
            .max(now.after(Duration::from_millis(1)));
    }
    assert!(packets <= 410, "{packets} keep-alives in ten minutes");
}

#[test]
fn own_initiations_reflected_are_dropped() {
    let mut a = start(&sealed(0, 1));
    let initiation = outgoing(&mut a, at(0)).remove(0);
    assert_eq!(
        receive(&mut a, at(0), address(1), &initiation),
        Err(Drop::WrongMac)
    );
    assert!(outgoing(&mut a, at(1)).is_empty());
}

#[test]
fn nearly_full_packets_have_one_length() {
    let (mut a, mut b) = pair();
    let lengths = [1198, 1180, 1130, 1100, 10].map(|len| {
        let packet = data(&mut a, at(1), B, &vec![7; len]).unwrap();
        assert_eq!(body(&mut b, at(1), &packet), Ok(vec![7; len]));
        packet.len()
    });
    assert_eq!(lengths, [1232, 1232, 1232, 1134, 44]);
}

#[test]
fn without_keys_everything_is_the_same_but_the_two_kinds_never_meet() {
    let (mut a, mut b) = connected(&open(0, 1), &open(1, 2));
    let hello = data(&mut a, at(1), B, b"hello").unwrap();
    assert_eq!(body(&mut b, at(1), &hello), Ok(b"hello".to_vec()));
    assert_eq!(body(&mut b, at(1), &hello), Err(Drop::Replayed));
    assert_eq!(body(&mut a, at(1), &hello), Err(Drop::UnknownSession));
    for (one, other) in [(sealed(0, 3), open(1, 4)), (open(0, 3), sealed(1, 4))] {
        let (mut one, mut other) = (start(&one), start(&other));
        for packet in outgoing(&mut one, at(0)) {
            let refused = receive(&mut other, at(0), address(0), &packet);
            assert_eq!(refused, Err(Drop::WrongMac));
        }
        assert!(talk(&mut one, &mut other, at(5)).0.is_empty());
    }
}
