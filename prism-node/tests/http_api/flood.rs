//! Clients that take room, or read nothing, while others are served.

use super::*;

fn patient(crowd: Crowd, patience: Patience) -> Node {
    let (mut config, intake, board) = server_config(Some(TOKEN));
    config.crowd = crowd;
    config.patience = patience;
    run(config, intake, board)
}

/// Reads until the server has closed the connection.
fn closed(stream: &mut TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("timeout");
    let mut bytes = [0; 64];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let crowd = Crowd {
        total: 8,
        per_address: 6,
    };
    let node = patient(crowd, Patience::default());
    // Slowly: a line of a header each, never the end of them. Far more than there is room for.
    let mut slow: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(node.address).expect("connect");
            let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nx-slow: 1\r\n");
            stream
        })
        .collect();
    let good = format!("authorization: Bearer {TOKEN}\r\n");
    for _ in 0..20 {
        assert_eq!(node.call("GET", "/v1/status", &good, b"").status, 200);
    }
    // The oldest have gone, long before their time was over.
    for stream in slow.iter_mut().take(30) {
        assert!(closed(stream));
    }
}

#[test]
fn who_works_stays_and_who_only_knocks_goes() {
    let crowd = Crowd {
        total: 4,
        per_address: 4,
    };
    let node = patient(crowd, Patience::default());
    // A request that waits for its answer, on a connection older than all others.
    let (release, held) = oneshot::channel();
    *node.intake.hold.lock().expect("lock") = Some(held);
    let mut working = TcpStream::connect(node.address).expect("connect");
    let request = format!(
        "GET /v1/updates/11111111-2222-4333-8444-555555555555 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
    );
    working.write_all(request.as_bytes()).expect("write");
    wait_until("it has begun", || node.intake.holding());
    // Strangers, with a wrong token, and without a word.
    let mut strangers = Vec::new();
    for i in 0..20 {
        let mut stream = TcpStream::connect(node.address).expect("connect");
        if i % 2 == 0 {
            let _ = stream.write_all(
                b"GET /v1/status HTTP/1.1\r\nauthorization: Bearer wrong-wrong-wrong-1\r\n\r\n",
            );
        }
        strangers.push(stream);
    }
    for stream in strangers.iter_mut().take(15) {
        assert!(closed(stream));
    }
    release.send(Ok(Found::Unknown)).expect("held");
    let mut answer = String::new();
    working.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[test]
fn who_does_not_read_the_answer_is_cut_off() {
    let patience = Patience {
        answer: Duration::from_millis(200),
        ..Patience::default()
    };
    let node = patient(Crowd::default(), patience);
    // More than the kernel keeps for a connection on both sides.
    let size = 64 << 20;
    *node.board.metrics.lock().expect("lock") = "x".repeat(size);
    let ask = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    let mut lazy = TcpStream::connect(node.address).expect("connect");
    lazy.write_all(ask.as_bytes()).expect("write");
    // The server has let go of it when it does not know the connection any more: what is read now
    // is what the kernel still has, and that is not all of it.
    let good = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(node.call("GET", "/v1/status", &good, b"").status, 200);
    wait_until("the server gives up", || peer_gone(&lazy));
    let mut got = 0;
    let mut bytes = vec![0; 1 << 20];
    while let Ok(n @ 1..) = lazy.read(&mut bytes) {
        got += n;
    }
    assert!(got < size, "{got}");
    // Whoever reads gets it all, at whatever pace that is a pace.
    let all = node.call("GET", "/metrics", &good, b"");
    assert_eq!((all.status, all.body.len()), (200, size));
}

/// Whether the other side has closed: a write is answered with a reset then.
fn peer_gone(stream: &TcpStream) -> bool {
    (&mut &*stream).write_all(b"x").is_err()
}

#[test]
fn requests_cannot_be_smuggled_behind_others() {
    let node = start(None);
    let update = r#"{"statement":"add_kills","params":["steve",1]}"#;
    let host = node.address;
    let n = update.len();
    let chunked = format!("{n:x}\r\n{update}\r\n0\r\n\r\n");
    for (why, headers, body) in [
        (
            "two lengths",
            format!("content-length: {n}\r\ncontent-length: {}\r\n", n + 1),
            update.to_owned(),
        ),
        (
            "a list of lengths",
            format!("content-length: {n}, {}\r\n", n + 1),
            update.to_owned(),
        ),
        (
            "chunked is not the last coding",
            "transfer-encoding: chunked, identity\r\n".to_owned(),
            chunked.clone(),
        ),
        (
            "an unknown coding",
            "transfer-encoding: xchunked\r\n".to_owned(),
            chunked.clone(),
        ),
        (
            "a blank before the colon",
            "transfer-encoding : chunked\r\n".to_owned(),
            chunked.clone(),
        ),
        (
            "a length that is none",
            format!("content-length: +{n}\r\n"),
            update.to_owned(),
        ),
        (
            "a chunk larger than any number",
            "transfer-encoding: chunked\r\n".to_owned(),
            format!("fffffffffffffffffff\r\n{update}\r\n0\r\n\r\n"),
        ),
        (
            "less than announced",
            format!("content-length: {}\r\n", n + 10),
            update.to_owned(),
        ),
    ] {
        let request = format!(
            "POST /v1/updates HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n{body}"
        );
        let mut stream = TcpStream::connect(host).expect("connect");
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.starts_with("HTTP/1.1 2"), "{why}: {answer}");
        assert!(node.taken().is_empty(), "{why}");
    }
    // Both a length and chunks: the chunks count (RFC 9112 6.3), and no second request comes out
    // of what the length would leave.
    let behind =
        format!("POST /v1/updates HTTP/1.1\r\nhost: {host}\r\ncontent-length: {n}\r\n\r\n{update}");
    let request = format!(
        "POST /v1/updates HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{behind}"
    );
    let mut stream = TcpStream::connect(host).expect("connect");
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(node.taken().is_empty());
}

#[test]
fn pipelined_requests_are_answered_one_after_the_other() {
    let node = start(None);
    let mut all = String::new();
    for i in 0..20 {
        let close = if i == 19 { "connection: close\r\n" } else { "" };
        all.push_str(&format!(
            "GET /healthz HTTP/1.1\r\nhost: localhost\r\n{close}\r\n"
        ));
    }
    let mut stream = TcpStream::connect(node.address).expect("connect");
    stream.write_all(all.as_bytes()).expect("write");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("answers");
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 20);
}
