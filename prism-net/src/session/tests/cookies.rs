//! Too many handshakes.

use super::super::cookie::SECRET_FOR;
use super::super::load::Admission;
use super::super::wire::{COOKIE, INITIATION};
use super::*;

/// Makes it ask for cookies.
pub(super) fn overload(s: &mut Sessions, now: Instant) {
    let from = address(0).ip();
    while s.load.admit(now, from, false) == Admission::Accept {}
}

#[test]
fn under_load_a_node_shows_that_it_receives_at_its_address_and_gets_through() {
    let (mut a, mut b) = (start(&sealed(0, 1)), start(&sealed(1, 2)));
    b.peers[0].initiate_at = None;
    overload(&mut b, at(0));
    let plain = outgoing(&mut a, at(0)).remove(0);
    assert_eq!(
        receive(&mut b, at(0), address(0), &plain),
        Err(Drop::Overload)
    );
    let replies = outgoing_to(&mut b, at(0));
    assert_eq!(replies.len(), 1);
    assert_eq!((replies[0].0, replies[0].1.len()), (address(0), COOKIE));
    receive(&mut a, at(0), address(1), &replies[0].1).unwrap();
    let again = receive(&mut a, at(0), address(1), &replies[0].1);
    assert_eq!(again, Err(Drop::UnknownSession), "one cookie per call");
    let with_cookie = outgoing(&mut a, at(0)).remove(0);
    // A cookie is good for the address that it went to only.
    let elsewhere = receive(&mut b, at(0), address(7), &with_cookie);
    assert_eq!(elsewhere, Err(Drop::WrongMac));
    receive(&mut b, at(0), address(0), &with_cookie).unwrap();
    talk(&mut a, &mut b, at(0));
    assert!(is_up(&a, B) && is_up(&b, A));
}

#[test]
fn recorded_handshakes_from_many_addresses_do_not_keep_a_node_out() {
    // Many nodes' worth of recorded initiations, none of which B has seen.
    let recorded: Vec<_> = (0..40u64)
        .map(|i| outgoing(&mut start(&sealed(0, 10 + i)), at(0)).remove(0))
        .collect();
    let (mut c, mut b) = (start(&sealed(2, 1)), start(&sealed(1, 2)));
    for peer in &mut b.peers {
        peer.initiate_at = None;
    }
    c.connect(at(0), B);
    let mut looked_at = 0;
    let mut now = at(0);
    while !(is_up(&b, C) && is_up(&c, B)) {
        assert!(now < at(5000), "the flood keeps it out");
        for (i, packet) in recorded.iter().enumerate() {
            let from = SocketAddr::from(([10, 0, 0, i as u8], 4000));
            match receive(&mut b, now, from, packet) {
                Err(Drop::Overload | Drop::Replayed) => {}
                _ => looked_at += 1,
            }
        }
        for (to, packet) in outgoing_to(&mut b, now) {
            assert!(packet.len() <= INITIATION);
            if to == address(2) {
                let _ = receive(&mut c, now, address(1), &packet);
            }
        }
        for packet in outgoing(&mut c, now) {
            let _ = receive(&mut b, now, address(2), &packet);
        }
        now = now.after(Duration::from_millis(10));
    }
    assert!(
        looked_at <= 100,
        "{looked_at} handshakes of the flood cost work"
    );
}

#[test]
fn a_cookie_grows_old_and_its_loss_does_no_harm() {
    let reach = |wait: Duration| {
        let (mut a, mut b) = (start(&sealed(0, 1)), start(&sealed(1, 2)));
        b.peers[0].initiate_at = None;
        overload(&mut b, at(0));
        let plain = outgoing(&mut a, at(0)).remove(0);
        let _ = receive(&mut b, at(0), address(0), &plain);
        let cookie = outgoing(&mut b, at(0)).remove(0);
        receive(&mut a, at(0), address(1), &cookie).unwrap();
        let with_cookie = outgoing(&mut a, at(0)).remove(0);
        receive(&mut b, at(0).after(wait), address(0), &with_cookie).is_ok()
    };
    assert!(reach(SECRET_FOR / 2));
    assert!(reach(SECRET_FOR * 3 / 2));
    assert!(!reach(SECRET_FOR * 5 / 2));

    // The answer to the cookie is lost: the next call goes without, and is asked again.
    let (mut a, mut b) = (start(&sealed(0, 1)), start(&sealed(1, 2)));
    b.peers[0].initiate_at = None;
    let mut now = at(0);
    let mut lost = 0;
    while !is_up(&b, A) {
        assert!(now < at(10_000));
        overload(&mut b, now);
        for packet in outgoing(&mut a, now) {
            if packet.len() == INITIATION && packet[INITIATION - 1] != 0 && lost < 2 {
                lost += 1;
                continue;
            }
            let _ = receive(&mut b, now, address(0), &packet);
        }
        for packet in outgoing(&mut b, now) {
            let _ = receive(&mut a, now, address(1), &packet);
        }
        now = now.after(Duration::from_millis(20));
    }
    assert_eq!(lost, 2);
}

#[test]
fn a_cookie_goes_back_to_where_it_came_from() {
    let (mut a, mut b) = (start(&sealed(0, 1)), start(&sealed(1, 2)));
    b.peers[0].initiate_at = None;
    // B was elsewhere once, and nobody listens there.
    a.peers[1].address = address(55);
    let mut now = at(0);
    while !is_up(&b, A) {
        assert!(now < at(10_000), "every cookie is lost");
        overload(&mut b, now);
        for (to, packet) in outgoing_to(&mut a, now) {
            if to == address(1) {
                let _ = receive(&mut b, now, address(0), &packet);
            }
        }
        for packet in outgoing(&mut b, now) {
            let _ = receive(&mut a, now, address(1), &packet);
        }
        now = now.after(Duration::from_millis(20));
    }
}

#[test]
fn replies_that_cannot_be_sent_are_not_piled_up() {
    let (mut a, mut b) = (start(&sealed(0, 1)), start(&sealed(1, 2)));
    b.peers[0].initiate_at = None;
    overload(&mut b, at(0));
    let plain = outgoing(&mut a, at(0)).remove(0);
    for _ in 0..1000 {
        let _ = receive(&mut b, at(0), address(0), &plain);
    }
    assert_eq!(outgoing(&mut b, at(0)).len(), REPLIES);
    assert_eq!(b.replies.capacity(), REPLIES);
}
