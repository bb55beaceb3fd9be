//! Keys are exchanged while sessions stand.

use super::*;

fn reload(config: &EndpointConfig) -> Reload {
    Reload {
        protection: config.protection.clone(),
        nodes: config.nodes.clone(),
        catalogue: config.catalogue,
    }
}

fn key(s: &Sessions, of: NodeId) -> [u8; 32] {
    s.peers[usize::from(of.0)].current.as_ref().unwrap().key
}

/// What `a` says arrives at `b`.
fn hears(a: &mut Sessions, b: &mut Sessions, now: Instant) {
    let (to, text) = (b.me, b"hello");
    let packet = data(a, now, to, text).expect("a session");
    assert_eq!(body(b, now, &packet), Ok(text.to_vec()));
}

fn set_private(config: &mut EndpointConfig, private: [u8; 32]) {
    if let Protection::Sealed(keys) = &mut config.protection {
        *keys.private = private;
    }
}

#[test]
fn a_key_is_rotated_without_losing_the_session() {
    let (mut a_config, mut b_config) = (sealed(0, 1), sealed(1, 2));
    let (mut a, mut b) = connected(&a_config, &b_config);
    let new = public_key(&[50; 32]);
    let old = key(&a, B);
    // 1. Everybody accepts B's next key.
    for (config, s) in [(&mut a_config, &mut a), (&mut b_config, &mut b)] {
        config.nodes[1].public_keys.push(new);
        assert!(reload(config).check(s.me, &config.protection).is_ok());
        assert!(s.reload(at(1000), &reload(config)).is_empty());
    }
    assert_eq!(talk(&mut a, &mut b, at(1000)), (vec![], vec![]));
    hears(&mut a, &mut b, at(1001));
    // 2. B takes it; the session goes on until the new one stands.
    set_private(&mut b_config, [50; 32]);
    assert!(b.reload(at(2000), &reload(&b_config)).is_empty());
    hears(&mut b, &mut a, at(2001));
    assert_eq!(talk(&mut a, &mut b, at(2001)), (vec![], vec![]));
    assert_eq!(key(&a, B), new);
    hears(&mut a, &mut b, at(2002));
    // 3. The old key is not accepted any more.
    a_config.nodes[1].public_keys = vec![new];
    assert!(a.reload(at(3000), &reload(&a_config)).is_empty());
    hears(&mut b, &mut a, at(3001));
    // A process that still has it gets nothing.
    let hello = outgoing(&mut start(&sealed(1, 90)), at(3002)).remove(0);
    assert_eq!(
        receive(&mut a, at(3002), address(1), &hello),
        Err(Drop::UnknownNode)
    );
    assert_ne!(old, new);
}

#[test]
fn a_node_is_found_under_either_of_its_keys() {
    for private in [private(1), [50; 32]] {
        let mut a_config = sealed(0, 1);
        a_config.nodes[1].public_keys.push(public_key(&[50; 32]));
        let mut b_config = sealed(1, 2);
        set_private(&mut b_config, private);
        let (mut a, mut b) = (start(&a_config), start(&b_config));
        b.peers[0].initiate_at = None;
        let mut now = at(0);
        while !is_up(&b, A) {
            talk(&mut a, &mut b, now);
            now = now.after(Duration::from_millis(50));
            assert!(now < at(2000), "not found");
        }
        assert_eq!(key(&a, B), public_key(&private));
    }
}

#[test]
fn a_session_whose_key_is_not_accepted_any_more_ends_at_once() {
    let (mut a_config, b_config) = (sealed(0, 1), sealed(1, 2));
    let (mut a, mut b) = connected(&a_config, &b_config);
    a_config.nodes[1].public_keys = vec![public_key(&[50; 32])];
    let packet = data(&mut b, at(1), A, b"x").unwrap();
    assert_eq!(a.reload(at(1), &reload(&a_config)), [B]);
    assert!(!is_up(&a, B));
    assert_eq!(body(&mut a, at(1), &packet), Err(Drop::UnknownSession));
    talk(&mut a, &mut b, at(2));
    assert!(!is_up(&a, B));
}

#[test]
fn whoever_had_a_key_that_is_replaced_leaves_nothing_behind() {
    let (mut a_config, mut b_config) = (sealed(0, 1), sealed(1, 2));
    // The thief has started more often than anybody can.
    b_config.boot = u64::MAX;
    let (mut a, _) = connected(&a_config, &b_config);
    b_config.boot = 7;
    b_config.seed += 1;
    let hello = outgoing(&mut start(&b_config), at(1000)).remove(0);
    assert_eq!(
        receive(&mut a, at(1000), address(1), &hello),
        Err(Drop::Stale)
    );
    let new = public_key(&[50; 32]);
    a_config.nodes[1].public_keys = vec![new];
    b_config.nodes[1].public_keys = vec![new];
    set_private(&mut b_config, [50; 32]);
    assert_eq!(a.reload(at(2000), &reload(&a_config)), [B]);
    let mut b = start(&b_config);
    talk(&mut a, &mut b, at(2000));
    assert_eq!(key(&a, B), new);
    hears(&mut b, &mut a, at(2001));
}

#[test]
fn a_node_that_was_taken_out_gets_nothing_more() {
    let (mut a_config, b_config) = (sealed(0, 1), sealed(1, 2));
    let (mut a, mut b) = connected(&a_config, &b_config);
    a_config.nodes[1].public_keys.clear();
    let change = reload(&a_config);
    assert!(change.check(A, &a_config.protection).is_ok());
    assert_eq!(a.reload(at(1), &change), [B]);
    b.connect(at(100), A);
    talk(&mut a, &mut b, at(100));
    assert!(!is_up(&a, B));
    // This node itself cannot be taken out while it runs.
    a_config.nodes[0].public_keys.clear();
    assert!(reload(&a_config).check(A, &a_config.protection).is_err());
}

/// A's sessions after somebody with B's key has called with the last of all boot numbers.
fn deceived(a_config: &EndpointConfig) -> Sessions {
    let (mut a, _) = connected(a_config, &sealed(1, 2));
    let mut thief = start(&EndpointConfig {
        boot: u64::MAX,
        ..sealed(1, 66)
    });
    let hello = outgoing(&mut thief, at(10)).remove(0);
    assert!(receive(&mut a, at(10), address(66), &hello).is_ok());
    let hello = outgoing(&mut start(&sealed(1, 3)), at(20)).remove(0);
    let refused = receive(&mut a, at(20), address(1), &hello);
    assert_eq!(refused, Err(Drop::Stale));
    a
}

#[test]
fn who_had_this_nodes_key_cannot_keep_out_others_once_it_has_a_new_one() {
    // With A's key a first message to A can be forged in the name of everybody.
    let (mut a_config, mut b_config) = (sealed(0, 1), sealed(1, 3));
    let mut a = deceived(&a_config);
    for config in [&mut a_config, &mut b_config] {
        config.nodes[0].public_keys = vec![public_key(&[50; 32])];
    }
    set_private(&mut a_config, [50; 32]);
    a.reload(at(1000), &reload(&a_config));
    let mut b = start(&b_config);
    talk(&mut a, &mut b, at(1000));
    assert!(is_up(&a, B) && is_up(&b, A));
}

#[test]
fn a_reload_in_the_middle_of_a_handshake_loses_nothing() {
    let (mut a_config, b_config) = (sealed(0, 1), sealed(1, 2));
    for step in 0..3 {
        let (mut a, mut b) = connected(&a_config, &b_config);
        a_config.catalogue += 1;
        let change = reload(&a_config);
        let again = |a: &mut Sessions, when| {
            if step == when {
                assert!(a.reload(at(5000), &change).is_empty());
            }
        };
        b.connect(at(5000), A);
        for initiation in outgoing(&mut b, at(5000)) {
            receive(&mut a, at(5000), address(1), &initiation).unwrap();
        }
        again(&mut a, 0);
        for response in outgoing(&mut a, at(5000)) {
            let _ = receive(&mut b, at(5000), address(0), &response);
        }
        again(&mut a, 1);
        hears(&mut b, &mut a, at(5001));
        again(&mut a, 2);
        talk(&mut a, &mut b, at(5002));
        hears(&mut b, &mut a, at(5003));
        hears(&mut a, &mut b, at(5003));
        let told = b.info(A).catalogue;
        assert_eq!(told, Some(a_config.catalogue), "step {step}: the news");
    }
}

#[test]
fn a_new_cluster_key_is_taken_by_one_node_after_the_other() {
    let (mut a_config, mut b_config) = (sealed(0, 1), sealed(1, 2));
    let (mut a, mut b) = connected(&a_config, &b_config);
    let set = |config: &mut EndpointConfig| {
        if let Protection::Sealed(keys) = &mut config.protection {
            *keys.psk = [10; 32];
        }
    };
    set(&mut a_config);
    assert!(a.reload(at(1000), &reload(&a_config)).is_empty());
    for ms in 0..100 {
        assert_eq!(talk(&mut a, &mut b, at(1000 + 200 * ms)), (vec![], vec![]));
        hears(&mut a, &mut b, at(1001 + 200 * ms));
        hears(&mut b, &mut a, at(1001 + 200 * ms));
    }
    let before = a.peers[1].current.as_ref().unwrap().local;
    set(&mut b_config);
    assert!(b.reload(at(30_000), &reload(&b_config)).is_empty());
    assert_eq!(talk(&mut a, &mut b, at(30_000)), (vec![], vec![]));
    assert_ne!(a.peers[1].current.as_ref().unwrap().local, before);
    hears(&mut a, &mut b, at(30_001));
}

#[test]
fn a_new_catalogue_and_a_new_address_are_told_without_losing_the_session() {
    let (a_config, mut b_config) = (sealed(0, 1), sealed(1, 2));
    let (mut a, mut b) = connected(&a_config, &b_config);
    assert_eq!(a.info(B).catalogue, Some(101));
    assert_eq!(b.info(A).catalogue, Some(100));
    b_config.catalogue = 555;
    b_config.nodes[0].udp = address(40);
    assert!(b.reload(at(1000), &reload(&b_config)).is_empty());
    let packets = outgoing_to(&mut b, at(1000));
    assert_eq!(packets[0].0, address(40));
    receive(&mut a, at(1000), address(1), &packets[0].1).unwrap();
    assert_eq!(talk(&mut a, &mut b, at(1001)), (vec![], vec![]));
    assert_eq!(a.info(B).catalogue, Some(555));
    hears(&mut b, &mut a, at(1002));
}

#[test]
fn secrets_are_not_printed() {
    let config = sealed(0, 1);
    let text = format!("{config:?} {:?}", reload(&config));
    assert!(!text.contains("9, 9, 9"), "{text}");
    assert!(!text.contains("[1, 1, 1"), "{text}");
    assert!(text.contains("SessionKeys(..)"));
}
