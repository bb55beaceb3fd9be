use std::time::{Duration, Instant};

use super::*;

fn socket() -> (Socket, SocketAddr) {
    let socket = Socket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback");
    let address = socket.io.local_addr().expect("bound");
    (socket, address)
}

fn push(socket: &mut Socket, to: SocketAddr, datagram: &[u8]) -> Sent {
    // As much room as the longest one needs, whatever is written then.
    let room = socket.room(datagram.len().max(9000));
    room[..datagram.len()].copy_from_slice(datagram);
    socket.push(to, datagram.len())
}

fn receive(socket: &mut Socket, count: usize) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    let end = Instant::now() + Duration::from_secs(10);
    while got.len() < count {
        socket.receive(|_, datagram| got.push(datagram.to_vec()));
        assert!(Instant::now() < end, "{} of {count} arrived", got.len());
        std::thread::yield_now();
    }
    got
}

fn datagrams() -> Vec<Vec<u8>> {
    // Equal ones, a shorter one in between (it ends a run), a longer one (it begins one).
    (0..150usize)
        .map(|i| vec![i as u8; [1232, 1232, 1232, 900, 1232, 1, 1400][i % 7]])
        .collect()
}

#[test]
fn runs_arrive_as_the_datagrams_they_were() {
    let ((mut a, _), (mut b, to)) = (socket(), socket());
    for datagram in datagrams() {
        assert_eq!(push(&mut a, to, &datagram), Sent::Done);
    }
    assert_eq!(a.flush(), Sent::Done);
    assert_eq!(receive(&mut b, 150), datagrams());
    assert!(a.syscalls < 150, "{} system calls", a.syscalls);
}

#[test]
fn receivers_are_kept_apart() {
    let (mut a, _) = socket();
    let mut others: Vec<_> = (0..OPEN + 2).map(|_| socket()).collect();
    for round in 0..5u8 {
        for (_, to) in &others {
            assert_eq!(push(&mut a, *to, &[round; 100]), Sent::Done);
        }
    }
    assert_eq!(a.flush(), Sent::Done);
    for (other, _) in &mut others {
        let expected: Vec<_> = (0..5u8).map(|round| vec![round; 100]).collect();
        assert_eq!(receive(other, 5), expected);
    }
}

#[test]
fn datagrams_that_alternate_between_receivers_are_not_mixed_up() {
    let (mut a, _) = socket();
    let mut others: Vec<_> = (0..3).map(|_| socket()).collect();
    for (i, datagram) in datagrams().iter().enumerate() {
        // Now one after the other, now in turn, so that runs are continued and left.
        let to = others[if i % 20 < 10 { 0 } else { i % 3 }].1;
        assert_eq!(push(&mut a, to, datagram), Sent::Done);
    }
    assert_eq!(a.flush(), Sent::Done);
    for (n, (other, _)) in others.iter_mut().enumerate() {
        let expected: Vec<_> = (datagrams().into_iter().enumerate())
            .filter(|(i, _)| if i % 20 < 10 { n == 0 } else { i % 3 == n })
            .map(|(_, datagram)| datagram)
            .collect();
        assert_eq!(receive(other, expected.len()), expected);
    }
}

#[test]
fn a_datagram_that_the_kernel_refuses_is_counted_and_the_rest_goes_on() {
    let ((mut a, _), (mut b, to)) = (socket(), socket());
    assert_eq!(push(&mut a, to, &[0; 65_530]), Sent::Done);
    assert_eq!(a.flush(), Sent::Done);
    assert_eq!(a.errors, 1, "EMSGSIZE");
    let v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 9));
    assert_eq!(push(&mut a, v6, &[1]), Sent::Done);
    assert_eq!(a.flush(), Sent::Done);
    assert_eq!(a.errors, 2, "EAFNOSUPPORT");
    // Nobody listens there: the answer (ECONNREFUSED) must not hurt anybody else.
    let nobody = {
        let (gone, address) = socket();
        drop(gone);
        address
    };
    for _ in 0..3 {
        let _ = push(&mut a, nobody, &[1]);
        let _ = a.flush();
        a.receive(|_, _| ());
    }
    assert_eq!(push(&mut a, to, &[5]), Sent::Done);
    assert_eq!(a.flush(), Sent::Done);
    assert_eq!(receive(&mut b, 1), [vec![5]]);
}

#[test]
fn without_offload_everything_still_arrives() {
    let ((mut a, _), (mut b, to)) = (socket(), socket());
    for datagram in datagrams() {
        assert_eq!(push(&mut a, to, &datagram), Sent::Done);
        // As after a refused run.
        if a.runs.first().is_some_and(|run| run.count > 1) {
            a.send_singly(0);
            let run = a.runs.remove(0);
            a.spare.push(run.bytes);
        }
    }
    assert_eq!(a.flush(), Sent::Done);
    assert_eq!(receive(&mut b, 150), datagrams());
}
