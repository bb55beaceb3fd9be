//! What is asked and what is answered.

use super::*;

#[test]
fn one_update_is_committed_and_its_id_given_back() {
    let node = start(None);
    let id = "11111111-2222-4333-8444-555555555555";
    let reply = node.post(
        json!({"statement": "add_kills", "params": ["steve", 1], "mode": "background", "request_id": id, "timeout_ms": 5000})
            .to_string(),
    );
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(
        reply.json(),
        json!({"seq": 1, "outcome": "committed", "request_id": id})
    );
    // An int may be a string; an id is made if there is none.
    let reply = node.post(r#"{"statement":"add_kills","params":["steve","9007199254740993"]}"#);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let made = reply.json()["request_id"].as_str().expect("id").to_owned();
    let taken = node.taken();
    assert_eq!(taken[0].request_id.to_string(), id);
    assert_eq!(taken[1].request_id.to_string(), made);
    assert_eq!(
        taken[1].params,
        [
            Value::Text("steve".into()),
            Value::Int(9_007_199_254_740_993)
        ]
    );
}

#[test]
fn bad_requests_are_explained_and_reach_nobody() {
    let node = start(None);
    let deep = format!(
        r#"{{"statement":"add_kills","params":[{}{}]}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let open = format!(
        r#"{{"statement":"add_kills","params":[{}"#,
        "[".repeat(1_000_000)
    );
    let many = format!(
        r#"{{"statement":"add_kills","params":[{}0]}}"#,
        "0,".repeat(1_000_000)
    );
    let cases: &[(&[u8], &str, &str)] = &[
        (b"", "bad_json", "EOF"),
        (b"{", "bad_json", "EOF"),
        (b"\xff\xfe", "bad_json", ""),
        (b"null", "bad_json", "invalid type: null"),
        (b"[{}", "bad_json", "EOF"),
        (deep.as_bytes(), "bad_json", "recursion limit"),
        (open.as_bytes(), "bad_json", "EOF"),
        (many.as_bytes(), "bad_params", "more than 64 parameters"),
        (
            br#"{"statement":"add_kills","params":["a\ud800",1]}"#,
            "bad_json",
            "hex escape",
        ),
        (
            b"{\"statement\":\"add_kills\",\"params\":[\"a\xff\",1]}",
            "bad_json",
            "",
        ),
        (
            b"{\"statement\":\"add_kills\",\"params\":[\"a\0\",1]}",
            "bad_json",
            "control character",
        ),
        (
            br#"{"statement":"add_kills","params":["a",NaN]}"#,
            "bad_json",
            "expected value",
        ),
        (
            br#"{"statement":"add_kills","params":["a",1e400]}"#,
            "bad_params",
            "parameter 2",
        ),
        (
            br#"{"statement":"add_kills","parms":["steve",1]}"#,
            "bad_json",
            "unknown field `parms`",
        ),
        (
            br#"{"statement":"add_kills","statement":"x"}"#,
            "bad_json",
            "duplicate field",
        ),
        (br#"{"params":[]}"#, "bad_json", "missing field `statement`"),
        (
            br#"{"statement":"add_kills","params":["a",1],"request_id":"7"}"#,
            "bad_json",
            "UUID",
        ),
        (
            br#"{"statement":"add_kills","params":["a",1],"mode":"later"}"#,
            "bad_json",
            "unknown variant `later`",
        ),
        (
            br#"{"statement":"add_kill","params":["a",1]}"#,
            "unknown_statement",
            "the catalogue has add_kills",
        ),
        (
            br#"{"statement":"add_kills","params":["a"]}"#,
            "bad_params",
            "takes 2 parameter(s) (text, int), got 1",
        ),
        (
            br#"{"statement":"add_kills","params":["a",1,2]}"#,
            "bad_params",
            "got 3",
        ),
        (
            br#"{"statement":"add_kills","params":["a",1.5]}"#,
            "bad_params",
            "parameter 2",
        ),
        (
            br#"{"statement":"add_kills","params":["a","many"]}"#,
            "bad_params",
            "parameter 2",
        ),
        (
            br#"{"statement":"add_kills","params":[7,1]}"#,
            "bad_params",
            "parameter 1",
        ),
        (
            br#"{"statement":"add_kills","params":["a\u0000",1]}"#,
            "bad_params",
            "parameter 1",
        ),
        (
            br#"{"statement":"add_kills","params":["a",9223372036854775808]}"#,
            "bad_params",
            "parameter 2",
        ),
    ];
    for (body, code, says) in cases {
        let reply = node.post(body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
        assert_eq!(reply.status, 400, "{shown}: {}", reply.body);
        assert_eq!(reply.code(), *code, "{shown}: {}", reply.body);
        assert!(reply.message().contains(says), "{shown}: {}", reply.body);
    }
    assert!(node.taken().is_empty());
}

#[test]
fn a_parameter_that_would_swell_in_memory_is_refused_before_it_does() {
    let node = start(None);
    let body = format!(
        r#"{{"statement":"add_kills","params":[[{}0],1]}}"#,
        "0,".repeat(500_000)
    );
    for body in [body.clone(), format!("[{body}]")] {
        let reply = node.post(body);
        let json = reply.json();
        let error = if reply.status == 207 {
            &json[0]["error"]
        } else {
            assert_eq!(reply.status, 413);
            &json["error"]
        };
        assert_eq!(error["code"], "too_large", "{json}");
    }
    let reply = node.post(format!("[{}0]", "0,".repeat(1_000_000)));
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_many"));
    assert!(node.taken().is_empty());
}

#[test]
fn every_failure_has_its_status() {
    let node = start(None);
    let cases = [
        (Failure::Refused("CHECK failed".into()), 409, "refused"),
        (
            Failure::TooLarge {
                size: 300_000,
                limit: 262_144,
            },
            413,
            "too_large",
        ),
        (Failure::RequestReused, 422, "request_id_reused"),
        (
            Failure::Unavailable("gone".into()),
            503,
            "database_unavailable",
        ),
        (
            Failure::NotReady("no table".into()),
            503,
            "database_not_ready",
        ),
        (Failure::Busy, 503, "busy"),
        (Failure::Unknown("broke".into()), 503, "outcome_unknown"),
        (Failure::Draining, 503, "draining"),
        (Failure::NeedsUndo("x".into()), 400, "needs_undo"),
        (Failure::Locked("row".into()), 503, "locked"),
        (Failure::NotBegun, 503, "timeout"),
        (Failure::Spooling, 503, "spooling"),
        (Failure::Journal("full".into()), 503, "journal"),
    ];
    for (failure, status, code) in cases {
        *node.intake.mary.lock().expect("lock") = Some(Answer::Failed(failure.clone()));
        let reply = node.post(r#"{"statement":"add_kills","params":["mary",1]}"#);
        assert_eq!((reply.status, reply.code().as_str()), (status, code));
        assert_eq!(reply.message(), failure.to_string());
        assert_eq!(
            reply.head.contains("retry-after: 1"),
            status == 503,
            "{}",
            reply.head
        );
    }
    *node.intake.queue.lock().expect("lock") = Some(Failure::Busy);
    let reply = node.post(r#"{"statement":"add_kills","params":["steve",1]}"#);
    assert_eq!((reply.status, reply.code().as_str()), (503, "busy"));
    let reply = node.post(r#"[{"statement":"add_kills","params":["steve",1]},{"statement":"x"}]"#);
    assert_eq!(reply.status, 207);
    assert_eq!(reply.json()[0]["error"]["code"], "busy");
    assert_eq!(reply.json()[1]["error"]["code"], "unknown_statement");
}

const UPDATE: &str = r#"{"statement":"add_kills","params":["mary",1]}"#;
const AWAITED: &str = r#"{"statement":"add_kills","params":["mary",1],"mode":"await"}"#;

#[test]
fn every_outcome_has_its_status_and_body() {
    let node = start(None);
    let undone = |reason| Answer::Undone {
        seq: Some(Seq(17)),
        reason,
        regions: vec![("EU".into(), true), ("AS".into(), false)],
    };
    let refused = UndoReason::Refused {
        region: "EU".into(),
        sqlstate: "23514".into(),
        message: "CHECK failed".into(),
    };
    let late = UndoReason::Unconfirmed {
        regions: vec!["AS".into()],
    };
    let applied = Answer::Applied {
        seq: Seq(17),
        regions: vec!["EU".into(), "AS".into()],
    };
    let elsewhere = Answer::Elsewhere {
        region: "EU".into(),
        seq: Seq(3),
    };
    let all = json!({"EU": "applied", "AS": "applied"});
    let some = json!({"EU": "applied", "AS": "waiting"});
    for (answer, body, status, said) in [
        (Answer::Spooled, UPDATE, 202, json!({"outcome": "spooled"})),
        (
            elsewhere,
            UPDATE,
            200,
            json!({"seq": 3, "outcome": "committed", "region": "EU"}),
        ),
        (
            applied,
            AWAITED,
            200,
            json!({"seq": 17, "outcome": "applied", "regions": all}),
        ),
        (
            undone(refused.clone()),
            AWAITED,
            409,
            json!({"seq": 17, "outcome": "refused", "region": "EU"}),
        ),
        (
            undone(late),
            AWAITED,
            504,
            json!({"seq": 17, "outcome": "unconfirmed", "regions": some}),
        ),
        (
            undone(refused),
            UPDATE,
            409,
            json!({"seq": 17, "outcome": "undone", "region": "EU"}),
        ),
    ] {
        *node.intake.mary.lock().expect("lock") = Some(answer);
        let reply = node.post(body);
        assert_eq!(reply.status, status, "{}", reply.body);
        let mut got = reply.json();
        let got = got.as_object_mut().expect("an object");
        let id = got.remove("request_id").expect("an id");
        assert!(id.as_str().is_some_and(|id| id.len() == 36), "{id}");
        let error = got.remove("error");
        assert_eq!(error.is_some(), status > 400, "{}", reply.body);
        assert_eq!(json!(got), said);
        let several = node.post(format!("[{body}]"));
        assert_eq!(several.status, if status < 300 { 200 } else { 207 });
        assert_eq!(several.json()[0]["outcome"], said["outcome"]);
    }
}

#[test]
fn what_became_of_a_request_is_told() {
    let node = start(None);
    let id = "11111111-2222-4333-8444-555555555555";
    let path = format!("/v1/updates/{id}");
    let reply = node.get(&path);
    assert_eq!(
        (reply.status, reply.json()),
        (404, json!({"request_id": id, "outcome": "unknown"}))
    );
    assert_eq!(node.get("/v1/updates/xyz").status, 400);
    let row = |state| RequestRow {
        request_id: [0; 16],
        body: prism_db::Digest::default(),
        stream: "NA".into(),
        seq: Some(Seq(17)),
        state,
    };
    let recorded = |state, eu| Found::Recorded {
        row: row(state),
        regions: vec![("EU".into(), eu)],
    };
    let refused = RequestState::Refused {
        sqlstate: "23514".into(),
        message: "CHECK failed".into(),
    };
    let undone = RequestState::Undone(UndoReason::Crashed);
    for (found, outcome, seq) in [
        (Found::Spooled, "spooled", None),
        (Found::Pending, "pending", None),
        (
            recorded(RequestState::Committed, false),
            "committed",
            Some(17),
        ),
        (recorded(RequestState::Committed, true), "applied", Some(17)),
        (recorded(RequestState::Held, true), "pending", Some(17)),
        (recorded(refused, false), "refused", Some(17)),
        (recorded(undone, false), "undone", Some(17)),
    ] {
        *node.intake.found.lock().expect("lock") = Some(found);
        let reply = node.get(&path);
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(reply.json()["outcome"], outcome);
        assert_eq!(reply.json()["seq"].as_u64(), seq, "{}", reply.body);
        assert_eq!(reply.json()["request_id"], id);
    }
}

#[test]
fn an_array_is_answered_element_by_element_in_order() {
    let node = start(None);
    let good = |name: &str| json!({"statement": "add_kills", "params": [name, 1]});
    let reply = node.post(json!([good("a"), good("b")]).to_string());
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()[1]["seq"], 2);

    *node.intake.mary.lock().expect("lock") = Some(Answer::Failed(Failure::Refused("no".into())));
    let mixed = json!([good("c"), {"statement": "nope"}, good("mary"), 7, {"statement": "add_kills", "x": 1}, good("d")]);
    let reply = node.post(format!(" \n{mixed}"));
    assert_eq!(reply.status, 207);
    let body = reply.json();
    assert_eq!(body.as_array().expect("array").len(), 6);
    assert_eq!(body[0]["seq"], 3);
    assert_eq!(body[1]["error"]["code"], "unknown_statement");
    assert_eq!(body[2]["error"]["code"], "refused");
    assert_eq!(body[3]["error"]["code"], "bad_json");
    assert_eq!(body[4]["error"]["code"], "bad_json");
    assert_eq!(body[5]["seq"], 5);
    let id = node.taken()[4].request_id.to_string();
    assert_eq!(body[5]["request_id"], id);

    assert_eq!(node.post("[]").json(), json!([]));
    let many: Vec<_> = (0..1001).map(|_| good("e")).collect();
    let reply = node.post(json!(many).to_string());
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_many"));
    assert_eq!(node.taken().len(), 5);
}

#[test]
fn too_large_bodies_are_refused_announced_or_not() {
    let node = start(None);
    let huge = format!(
        r#"{{"statement":"add_kills","params":["{}",1]}}"#,
        "x".repeat(5 << 20)
    );
    let reply = node.call("POST", "/v1/updates", "expect: 100-continue\r\n", &[]);
    assert_eq!(reply.status, 400, "an empty body");
    let head = format!(
        "POST /v1/updates HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        node.address,
        huge.len()
    );
    let reply = node.raw(head.as_bytes());
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_large"));

    let mut chunked = format!(
        "POST /v1/updates HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n",
        node.address
    );
    // One byte more than fits, and no end: the answer must not wait for it.
    let chunk = 4usize << 20;
    chunked.push_str(&format!("{chunk:x}\r\n{}\r\n1\r\nx\r\n", " ".repeat(chunk)));
    let reply = node.raw(chunked.as_bytes());
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_large"));
}

#[test]
fn status_metrics_and_probes_answer() {
    let node = start(None);
    let status: Status = serde_json::from_str(&node.get("/v1/status").body).expect("status");
    assert_eq!(status, node.board.status());
    let metrics = node.get("/metrics");
    assert!(
        metrics
            .head
            .contains("content-type: text/plain; version=0.0.4")
    );
    assert_eq!(metrics.body, "prism_next_seq 18\n");
    assert_eq!(node.get("/healthz").status, 200);
    assert_eq!(node.get("/readyz").status, 200);
    *node.board.ready.lock().expect("lock") = Err("no database".into());
    let reply = node.get("/readyz");
    assert_eq!((reply.status, reply.code().as_str()), (503, "not_ready"));
    assert_eq!(reply.message(), "no database");
    let page = node.get("/");
    assert_eq!(page.status, 200);
    assert!(
        page.head
            .contains("content-security-policy: default-src 'none'")
    );
    assert!(!page.body.contains("http://") && !page.body.contains("innerHTML"));
}

#[test]
fn wrong_paths_and_methods_are_json_errors() {
    let node = start(None);
    let reply = node.get("/v2/updates");
    assert_eq!((reply.status, reply.code().as_str()), (404, "not_found"));
    let reply = node.get("/v1/updates");
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (405, "method_not_allowed")
    );
    assert!(reply.head.contains("allow: post"), "{}", reply.head);
    let reply = node.call("DELETE", "/v1/status", "", b"");
    assert_eq!(reply.status, 405);
}
