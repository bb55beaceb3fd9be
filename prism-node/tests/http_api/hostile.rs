//! Strangers, slow clients, garbage, limits, and the server's own beginning and end.

use super::*;

#[test]
fn a_token_is_asked_of_everybody() {
    let token = "correct-horse-battery";
    let node = start(Some(token));
    let body = br#"{"statement":"add_kills","params":["steve",1]}"#;
    for (header, status) in [
        ("", 401),
        ("authorization: Bearer correct-horse-batterz\r\n", 401),
        ("authorization: Bearer \r\n", 401),
        ("authorization: Basic correct-horse-battery\r\n", 401),
        ("authorization: Bearer correct-horse-batter\r\n", 401),
        ("authorization: Bearer correct-horse-battery1\r\n", 401),
        ("authorization: Bearer correct-horse-battery, x\r\n", 401),
        (
            "authorization: Bearer correct-horse-battery\r\nauthorization: Bearer other\r\n",
            401,
        ),
        ("authorization: Bearer correct-horse-battery\r\n", 200),
    ] {
        let reply = node.call("POST", "/v1/updates", header, body);
        assert_eq!(reply.status, status, "{header}");
        assert_eq!(node.call("GET", "/v1/status", header, b"").status, status);
        assert_eq!(node.call("GET", "/metrics", header, b"").status, status);
    }
    let reply = node.get("/v1/status");
    assert!(
        reply.head.contains("www-authenticate: bearer"),
        "{}",
        reply.head
    );
    assert_eq!(reply.code(), "unauthorized");
    // Probes and the page, which holds no data, are open.
    for path in ["/healthz", "/readyz", "/"] {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    assert_eq!(node.taken().len(), 1);
}

#[test]
fn web_pages_of_others_cannot_use_a_node_without_token() {
    let node = start(None);
    let body = br#"{"statement":"add_kills","params":["steve",1]}"#;
    for header in [
        "origin: http://evil.example\r\n",
        "origin: null\r\n",
        "origin: https://127.0.0.1\r\n",
    ] {
        let reply = node.call("POST", "/v1/updates", header, body);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (403, "foreign_origin")
        );
    }
    for (header, status) in [
        ("sec-fetch-site: cross-site\r\n", 403),
        ("sec-fetch-site: same-site\r\n", 403),
        ("content-type: text/plain\r\n", 415),
        ("content-type: TEXT/plain; charset=utf-8\r\n", 415),
        ("content-type: multipart/form-data; boundary=x\r\n", 415),
        ("host: localhost\r\n", 403),
    ] {
        let reply = node.call("POST", "/v1/updates", header, body);
        assert_eq!(reply.status, status, "{header}{}", reply.body);
    }
    assert!(node.taken().is_empty());
    let rebound = "GET /v1/status HTTP/1.1\r\nhost: evil.example:8101\r\nconnection: close\r\n\r\n";
    assert_eq!(node.raw(rebound.as_bytes()).status, 403);
    let local = "GET /v1/status HTTP/1.1\r\nhost: localhost:8101\r\nconnection: close\r\n\r\n";
    assert_eq!(node.raw(local.as_bytes()).status, 200);
    let own = format!("origin: http://{}\r\n", node.address);
    assert_eq!(node.call("POST", "/v1/updates", &own, body).status, 200);
    let page = format!("{own}sec-fetch-site: same-origin\r\ncontent-type: application/json\r\n");
    assert_eq!(node.call("POST", "/v1/updates", &page, body).status, 200);
}

#[test]
fn a_request_for_another_node_is_misdirected() {
    let node = start(None);
    let reply = node.call("GET", "/v1/status", "prism-node: EU1\r\n", b"");
    assert_eq!((reply.status, reply.code().as_str()), (421, "wrong_node"));
    assert_eq!(
        node.call("GET", "/v1/status", "prism-node: NA1\r\n", b"")
            .status,
        200
    );
}

#[test]
fn garbage_is_cut_off_and_the_node_lives_on() {
    let node = start(None);
    for garbage in [
        &b"\x00\x01\x02\x03\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/updates HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/updates HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ] {
        let mut stream = TcpStream::connect(node.address).expect("connect");
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("timeout");
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let mut headers = String::from("GET / HTTP/1.1\r\nhost: localhost\r\n");
    for i in 0..5_000 {
        headers.push_str(&format!("x-{i}: {}\r\n", "y".repeat(50)));
    }
    let reply = node.raw(headers.as_bytes());
    assert_eq!(reply.status, 431);
    assert_eq!(node.get("/healthz").status, 200);
}

#[test]
fn slow_clients_are_cut_off() {
    let (mut config, intake, board) = server_config(None);
    config.patience = Patience {
        headers: Duration::from_millis(100),
        body: Duration::from_millis(100),
        ..Patience::default()
    };
    let server = Server::start(config).expect("server");
    let node = Node {
        address: server.address(),
        server: Some(server),
        intake,
        board,
    };
    // Silent, in the middle of the headers, idle after an answer: the end of the connection.
    for request in [
        "",
        "GET /healthz HTT",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(node.address).expect("connect");
        stream.write_all(request.as_bytes()).expect("write");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("timeout");
        stream
            .read_to_end(&mut Vec::new())
            .expect("the server closes it");
    }
    let body = format!(
        "POST /v1/updates HTTP/1.1\r\nhost: {}\r\ncontent-length: 100\r\n\r\n{{",
        node.address
    );
    let reply = node.raw(body.as_bytes());
    assert_eq!((reply.status, reply.code().as_str()), (408, "slow_body"));
    assert!(node.taken().is_empty());
}

#[test]
fn bodies_of_all_clients_together_are_bounded() {
    let node = start(None);
    let announce = |bytes: usize| {
        let head = format!(
            "POST /v1/updates HTTP/1.1\r\nhost: {}\r\ncontent-length: {bytes}\r\n\r\n",
            node.address
        );
        let mut stream = TcpStream::connect(node.address).expect("connect");
        stream.write_all(head.as_bytes()).expect("write");
        stream
    };
    // 64 MiB in all, 4 MiB each; these send nothing, so they hold their room.
    let mut hogs: Vec<_> = (0..16).map(|_| announce(4 << 20)).collect();
    let body = r#"{"statement":"add_kills","params":["steve",1]}"#;
    let started = std::time::Instant::now();
    loop {
        let reply = node.post(body);
        if reply.status == 503 {
            assert_eq!(reply.code(), "busy");
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "room for all");
        // The last of them may have been refused because of this very request.
        hogs.push(announce(4 << 20));
    }
    drop(hogs);
    while node.post(body).status != 200 {
        assert!(started.elapsed() < Duration::from_secs(10), "room again");
    }
}

#[test]
fn a_small_body_of_unknown_length_takes_little_room_until_its_answer() {
    let node = start(None);
    let body = r#"{"statement":"add_kills","params":["waits",1]}"#;
    let chunked = format!(
        "POST /v1/updates HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        node.address,
        body.len()
    );
    // One after the other, more than 64 MiB of room at 4 MiB each.
    let mut waiting = Vec::new();
    for n in 1..=20 {
        let mut stream = TcpStream::connect(node.address).expect("connect");
        stream.write_all(chunked.as_bytes()).expect("write");
        waiting.push(stream);
        wait_until("it is taken, and waits", || {
            node.intake.waiting.lock().expect("lock").len() == n
        });
    }
    let reply = node.post(r#"{"statement":"add_kills","params":["steve",1]}"#);
    assert_eq!(reply.status, 200, "{}", reply.body);
    node.intake.waiting.lock().expect("lock").clear();
}

#[test]
fn a_server_says_why_it_cannot_start() {
    let node = start(None);
    let (mut config, ..) = server_config(None);
    config.address = node.address;
    let Err(e) = Server::start(config) else {
        panic!("two servers on one port");
    };
    assert!(
        e.to_string().contains("is this node running already?"),
        "{e}"
    );
    let (mut config, ..) = server_config(None);
    config.address = "0.0.0.0:0".parse().expect("address");
    assert!(matches!(
        Server::start(config),
        Err(ServerError::NoToken(_))
    ));
}

#[test]
fn stop_lets_go_of_the_port_although_a_client_hangs() {
    let mut node = start(None);
    let mut hanging = TcpStream::connect(node.address).expect("connect");
    hanging
        .write_all(b"GET /healthz HTTP/1.1\r\n")
        .expect("write");
    node.server.take().expect("running").stop();
    std::net::TcpListener::bind(node.address).expect("the port is free");
}
