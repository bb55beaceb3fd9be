//! Two real loops over loopback UDP, with databases made of vectors.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::{Database, Node, Relay, config, free_addresses, open_config, update};
use prism_net::{BindError, Command, Driver, Endpoint, EndpointConfig, Protection, Reload};

/// Two nodes that reach each other directly.
fn pair() -> (Node, Node, Vec<SocketAddr>) {
    let at = free_addresses(2);
    let start = |i: u16| {
        Node::start(
            &config(i, &at, 10 + u64::from(i)),
            at[usize::from(i)],
            Database::new(i, 2),
        )
    };
    (start(0), start(1), at)
}

fn sessions_stand(a: &Node, b: &Node) {
    for (node, other) in [(a, b), (b, a)] {
        node.wait_figures("a session", |f| f.peers[usize::from(other.region.0)].up);
    }
}

/// Every update of `from` is in `to`'s database once, in order, and `from` knows.
fn converges(from: &Node, to: &Node) {
    let (sent, stream) = (from.database().outbox.clone(), usize::from(from.region.0));
    to.wait("all updates", |db| db.applied[stream].len() >= sent.len());
    assert!(
        to.database().applied[stream] == sent,
        "not the same updates"
    );
    let last = sent.len() as u64;
    from.wait("all acknowledgements", |db| {
        db.acked[usize::from(to.region.0)].seq.0 == last
    });
}

#[test]
fn every_update_is_applied_once_and_in_order_both_ways() {
    let (a, b, _) = pair();
    for round in 0..50u64 {
        for node in [&a, &b] {
            let region = node.region.0;
            node.commit((0..40).map(|i| update(region, round * 40 + i, 128)));
        }
    }
    converges(&a, &b);
    converges(&b, &a);
    let snapshot = a.snapshot();
    assert_eq!(snapshot.lanes[1].acked.seq.0, 2000);
    assert_eq!(snapshot.inbox_bytes, 0);
    assert_eq!(snapshot.drops.malformed + snapshot.drops.refused, 0);
}

#[test]
fn updates_of_every_size_arrive() {
    let (a, b, _) = pair();
    for (n, len) in [10, 1100, 1199, 1200, 1201, 5000, 70_000, 256 << 10, 11]
        .iter()
        .enumerate()
    {
        a.commit([update(0, n as u64, *len)]);
    }
    converges(&a, &b);
}

#[test]
fn loss_duplication_and_reordering_lose_nothing() {
    let at = free_addresses(2);
    let relay = Relay::start([at[0], at[1]], 20);
    let a = Node::start(
        &config(0, &[at[0], relay.ends[0]], 1),
        at[0],
        Database::new(0, 2),
    );
    let b = Node::start(
        &config(1, &[relay.ends[1], at[1]], 2),
        at[1],
        Database::new(1, 2),
    );
    for round in 0..40u64 {
        for node in [&a, &b] {
            let region = node.region.0;
            node.commit((0..50).map(|i| update(region, round * 50 + i, 100)));
        }
    }
    converges(&a, &b);
    converges(&b, &a);
    assert!(a.snapshot().lanes[1].retransmits > 0, "nothing was lost?");
}

#[test]
fn a_restarted_receiver_goes_on_where_its_database_is() {
    let (a, b, at) = pair();
    a.commit((0..500).map(|i| update(0, i, 64)));
    b.wait("some updates", |db| db.applied[0].len() > 10);
    let database = b.stop();
    a.commit((500..1000).map(|i| update(0, i, 64)));
    let b = Node::start(&config(1, &at, 99), at[1], database);
    converges(&a, &b);
}

#[test]
fn a_restarted_sender_goes_on_where_the_peer_is() {
    let (a, b, at) = pair();
    a.commit((0..500).map(|i| update(0, i, 64)));
    b.wait("some updates", |db| db.applied[0].len() > 10);
    let mut database = a.stop();
    // Committed by another node, while this one was away.
    drop(database.commit((500..700).map(|i| update(0, i, 64))));
    let a = Node::start(&config(0, &at, 98), at[0], database);
    a.commit((700..1000).map(|i| update(0, i, 64)));
    converges(&a, &b);
}

#[test]
fn garbage_gets_no_answer_and_does_no_harm() {
    let (a, b, at) = pair();
    sessions_stand(&a, &b);
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let before = a.snapshot();
    let mut count = 0;
    for kind in 0..=5u8 {
        for len in 0..=1300usize {
            let mut datagram = vec![kind.wrapping_mul(37) ^ len as u8; len];
            if let Some(first) = datagram.first_mut() {
                *first = kind;
            }
            if let Some(rest) = datagram.get_mut(1..4) {
                rest.copy_from_slice(if kind == 4 { &[0; 3] } else { &[2, 0, 0] });
            }
            stranger.send_to(&datagram, at[0]).expect("loopback");
            count += 1;
            if count % 100 == 0 {
                // In step with the node, so that the kernel's buffer loses none of it.
                a.snapshot();
            }
        }
    }
    a.wait_figures("all of them counted", |f| {
        f.drops.total() >= before.drops.total() + count
    });
    stranger.set_nonblocking(true).expect("nonblocking");
    let mut buffer = [0; 2000];
    assert!(stranger.recv_from(&mut buffer).is_err(), "it was answered");
    a.commit((0..10).map(|i| update(0, i, 64)));
    converges(&a, &b);
    let after = a.snapshot();
    assert!(after.peers[1].up);
    assert_eq!(after.inbox_bytes, 0);
}

#[test]
fn own_packets_that_come_back_are_dropped() {
    // The peer's address is a mirror.
    let at = free_addresses(1);
    let mirror = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    mirror
        .set_read_timeout(Some(Duration::from_millis(20)))
        .expect("timeout");
    let to = mirror.local_addr().expect("bound");
    let a = Node::start(&config(0, &[at[0], to], 5), at[0], Database::new(0, 2));
    a.commit([update(0, 0, 64)]);
    let mut buffer = [0; 2000];
    let mut reflected = 0;
    while reflected < 5 {
        if let Ok((len, from)) = mirror.recv_from(&mut buffer) {
            mirror.send_to(&buffer[..len], from).expect("loopback");
            reflected += 1;
        }
    }
    a.wait_figures("all of them counted", |f| f.drops.total() >= reflected);
    assert!(!a.snapshot().peers[1].up, "a session with itself");
}

#[test]
fn keys_are_exchanged_while_updates_flow_and_no_session_is_lost() {
    let (a, b, at) = pair();
    sessions_stand(&a, &b);
    let reload = |node: &Node, config: &EndpointConfig| {
        node.handle.send(Command::Reload(Box::new(Reload {
            protection: config.protection.clone(),
            nodes: config.nodes.clone(),
            catalogue: config.catalogue,
        })));
    };
    let fresh = |step: u8| [100 + step; 32];
    let (mut a_config, mut b_config) = (config(0, &at, 10), config(1, &at, 11));
    let mut committed = 0;
    for step in 0..5 {
        let mut commit = || {
            a.commit((committed..committed + 50).map(|i| update(0, i, 128)));
            committed += 50;
        };
        for (node, config) in [(&a, &mut a_config), (&b, &mut b_config)] {
            config.catalogue = 1000 + u64::from(step);
            let keys = &mut config.nodes[1].public_keys;
            keys.push(prism_net::public_key(&fresh(step)));
            *keys = keys.split_off(keys.len() - 2);
            commit();
            reload(node, config);
        }
        if let Protection::Sealed(keys) = &mut b_config.protection {
            *keys.private = fresh(step);
        }
        commit();
        reload(&b, &b_config);
        // Something that is refused changes nothing.
        let mut bad = b_config.clone();
        bad.nodes[1].public_keys.clear();
        reload(&b, &bad);
        commit();
        for (node, other) in [(&a, &b), (&b, &a)] {
            node.wait_figures("the new catalogue", |f| {
                let peer = f.peers[usize::from(other.region.0)];
                peer.up && peer.catalogue == Some(1000 + u64::from(step))
            });
        }
    }
    converges(&a, &b);
    let figures = a.snapshot();
    assert_eq!((figures.peers[1].stale, figures.peers[1].twin), (0, 0));
}

#[test]
fn a_sleeping_node_hears_a_command_at_once() {
    let (a, b, _) = pair();
    sessions_stand(&a, &b);
    let end = std::time::Instant::now() + common::PATIENCE;
    for n in 0..200 {
        a.commit([update(0, n, 64)]);
        converges(&a, &b);
        let late = std::time::Instant::now() > end;
        assert!(!late, "every command waits for the next timer");
    }
}

#[test]
fn an_idle_node_sleeps() {
    let (a, b, _) = pair();
    sessions_stand(&a, &b);
    a.commit([update(0, 0, 64)]);
    converges(&a, &b);
    // The figures come by themselves, about once a second.
    let first = a.snapshot();
    a.database().snapshot = None;
    a.wait("figures", |db| db.snapshot.is_some());
    a.database().snapshot = None;
    a.wait("figures", |db| db.snapshot.is_some());
    let last = a.snapshot();
    let (slept, called) = (last.polls - first.polls, last.syscalls - first.syscalls);
    assert!(
        (1..200).contains(&slept),
        "slept {slept} times in two seconds"
    );
    assert!(called < 400, "{called} system calls in two idle seconds");
}

#[test]
fn commands_beyond_the_queue_are_given_back_and_answers_wait() {
    let at = free_addresses(2);
    let endpoint = Endpoint::new(&config(0, &at, 1)).expect("a good configuration");
    let (driver, handle) = Driver::bind(endpoint, at[0], 2).expect("a free address");
    assert!(handle.try_send(Command::Snapshot).is_ok());
    assert!(handle.try_send(Command::Snapshot).is_ok());
    let full = handle.try_send(Command::Stop);
    assert!(
        matches!(full, Err(prism_net::Full(Command::Stop))),
        "{full:?}"
    );
    let blocked = std::thread::spawn({
        let handle = handle.clone();
        move || handle.send(Command::Stop)
    });
    let (jobs, todo) = std::sync::mpsc::channel();
    driver.run(&mut common::Calls(jobs)).expect("the loop");
    blocked.join().expect("it came through");
    assert!(
        todo.iter()
            .filter(|job| matches!(job, common::Job::Snapshot(_)))
            .count()
            >= 2
    );
    assert!(handle.is_closed());
    handle.send(Command::Snapshot);
    assert!(handle.try_send(Command::Snapshot).is_err());
}

#[test]
fn without_keys_only_loopback() {
    let at = free_addresses(2);
    let everywhere = ["0.0.0.0:0", "[::]:0"];
    for bind in ["192.0.2.1:7101", "[::ffff:192.0.2.1]:1"]
        .iter()
        .chain(&everywhere)
    {
        let endpoint = Endpoint::new(&open_config(0, &at, 1)).expect("a good configuration");
        let error = Driver::bind(endpoint, bind.parse().expect("an address"), 8)
            .expect_err("it must be refused");
        assert!(matches!(error, BindError::NotLoopback(_)), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("127.0.0.1") && text.contains("psk_file") && text.contains("public_key"),
            "{text}"
        );
    }
    let bind = |config: &_, address: &str| {
        let endpoint = Endpoint::new(config).expect("a good configuration");
        Driver::bind(endpoint, address.parse().expect("an address"), 8)
    };
    assert!(bind(&open_config(0, &at, 1), "[::1]:0").is_ok());
    for address in everywhere {
        assert!(bind(&config(0, &at, 1), address).is_ok());
    }
}

#[test]
fn without_keys_everything_arrives_too_but_never_from_a_cluster_with_keys() {
    let at = free_addresses(2);
    let start =
        |config: &EndpointConfig, i: usize| Node::start(config, at[i], Database::new(i as u16, 2));
    let a = start(&open_config(0, &at, 1), 0);
    let b = start(&config(1, &at, 2), 1);
    a.commit((0..100).map(|i| update(0, i, 128)));
    for node in [&a, &b] {
        node.wait_figures("some refused handshakes", |f| f.drops.wrong_mac >= 3);
    }
    assert!(!a.snapshot().peers[1].up && !b.snapshot().peers[0].up);
    let database = b.stop();
    let b = Node::start(&open_config(1, &at, 3), at[1], database);
    converges(&a, &b);
}

#[test]
fn an_address_in_use_names_the_likely_cause() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let at = taken.local_addr().expect("bound");
    let endpoint = Endpoint::new(&config(0, &[at, at], 1)).expect("a good configuration");
    let error = Driver::bind(endpoint, at, 8).expect_err("it is taken");
    assert!(matches!(error, BindError::InUse(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains(&at.to_string()) && text.contains("another node with this name"),
        "{text}"
    );
}
