//! A node of another region that lies: AS1's keys are in the wrong hands. What it says of its own
//! region's lane can only harm that lane; NA and EU must stay right.

use prism_net::public_key;
use prism_proto::wire::{Credit, Frame, Nack, Progress};
use prism_proto::{
    ApplyCause, Epoch, NodeId, Position, Refusal, RefusalClass, RegionKey, Seq, Tag,
};

use prism_node::demo::cluster::wait_for;

use crate::common::LIMIT;
use crate::common::files::{Files, kills};
use crate::insider::Insider;
use crate::target::{alarms, count_up, log, metric, no_direct, wait_kills};

const NA: NodeId = NodeId(0);
const MAX: u64 = u64::MAX;

/// Three regions; AS has had an update of its own delivered everywhere. Only nodes lead to EU and AS.
fn world() -> Files {
    let mut w = Files::plan(&[("NA", 1), ("EU", 1), ("AS", 1)], "", Some("AS"));
    no_direct(&w, "EU");
    w.start(&["NA1", "EU1", "AS1"]);
    w.submit("AS1", &[kills("alex", 1)]);
    count_up(&w, "NA1", 3);
    for (node, peer) in [("AS1", "NA"), ("AS1", "EU"), ("NA1", "EU"), ("NA1", "AS")] {
        w.wait_acked(node, peer);
    }
    w
}

/// Everything is as if the liar had never been there.
fn recovers(w: &mut Files, steve: usize) {
    w.start(&["AS1"]);
    w.submit("AS1", &[kills("alex", 1)]);
    wait_kills(w, &["NA", "EU", "AS"], steve);
    w.wait("AS1's update is everywhere, once", || {
        w.kills(&["NA", "EU", "AS"], "alex")
            .iter()
            .all(|n| n == "2")
    });
    w.wait("the alarms that told of it are over", || {
        let stand = alarms(w, "NA1");
        !stand.iter().any(|name| {
            ["fork", "stale", "parked", "stream-parked", "worker-died"].contains(&name.as_str())
        })
    });
    assert!(!log(w, "NA1").contains("panicked"));
}

#[test]
fn acks_of_what_was_never_applied_are_the_liars_own_loss_and_nobody_elses() {
    let mut w = world();
    w.kill("EU1");
    w.kill("AS1");
    let mut liar = Insider::new(&w, "AS1");
    liar.meet(NA);
    count_up(&w, "NA1", 20);
    let mut answered = None;
    liar.wait("NA believes that AS has everything", |liar| {
        if let Some((token, epoch, tail)) = liar.hello(NA) {
            let (seq, tag) = (Seq(0), Tag(0));
            let credit = Credit {
                updates: 4096,
                bytes: 4 << 20,
            };
            if answered != Some(token) {
                answered = Some(token);
                let position = Position { epoch, seq, tag };
                liar.say(
                    NA,
                    &[Frame::Welcome {
                        token,
                        position,
                        clean: seq,
                        credit,
                    }],
                );
            }
            let seq = Seq(23).max(tail);
            let position = Position {
                epoch,
                seq,
                tag: Tag(7),
            };
            let ack = liar.ack(
                NA,
                Some(Progress {
                    position,
                    clean: seq,
                    credit,
                }),
            );
            liar.say(NA, &[Frame::Ack(ack)]);
        }
        w.lane("NA1", "AS").acked == 23
    });
    assert_eq!(w.lane("NA1", "EU").acked, 3, "EU has not said so");

    // In EU's name, as if it were a sibling of NA1.
    assert_eq!(
        metric(&w, "NA1", "prism_peer_violations_total{node=\"AS1\"}"),
        0
    );
    let news = Frame::Acked {
        region: RegionKey::of("EU"),
        seq: Seq(23),
        clean: Seq(23),
    };
    assert!(liar.say(NA, &[news]));
    w.wait("NA1 breaks off with AS1", || {
        w.alarm("NA1", "violation").is_some()
    });
    let alarm = w.alarm("NA1", "violation").expect("stands");
    assert!(
        alarm.detail.starts_with("AS1 ") && alarm.remedy.contains("new key"),
        "{alarm:?}"
    );
    w.wait("the session is gone", || {
        metric(&w, "NA1", "prism_peer_up{node=\"AS1\"}") == 0
    });
    assert_eq!(
        metric(&w, "NA1", "prism_peer_violations_total{node=\"AS1\"}"),
        1
    );
    assert_eq!(w.lane("NA1", "EU").acked, 3);
    drop(liar);

    w.start(&["EU1"]);
    wait_kills(&w, &["NA", "EU"], 23);
    // The rows are still there for the region that was lied about.
    recovers(&mut w, 23);
}

/// What could make a number run over, a range run long, or a wait run for ever.
fn absurd(epoch: Epoch, token: u32) -> Vec<Frame<'static>> {
    let far = |epoch, seq| Position {
        epoch,
        seq: Seq(seq),
        tag: Tag(MAX),
    };
    let all = Credit {
        updates: u32::MAX,
        bytes: u32::MAX,
    };
    let none = Credit {
        updates: 0,
        bytes: 0,
    };
    let welcome = |position: Position, credit| Frame::Welcome {
        token,
        position,
        clean: position.seq,
        credit,
    };
    let refused = |epoch, seq, sqlstate| {
        let class = RefusalClass::Data;
        Frame::Nack(Nack::Refused(Refusal {
            epoch,
            seq: Seq(seq),
            class,
            sqlstate,
        }))
    };
    let mut frames = vec![
        Frame::Hello {
            token: u32::MAX,
            epoch: Epoch(MAX),
            tail: Seq(MAX),
        },
        Frame::Hello {
            token: 0,
            epoch: Epoch(0),
            tail: Seq(0),
        },
        Frame::Hello {
            token: 1,
            epoch,
            tail: Seq(MAX),
        },
        Frame::RefusedAck {
            epoch: Epoch(MAX),
            seq: Seq(MAX),
        },
        Frame::Nack(Nack::Missing {
            from: Seq(0),
            to: Seq(MAX),
        }),
        Frame::Nack(Nack::Missing {
            from: Seq(MAX),
            to: Seq(MAX),
        }),
        Frame::Nack(Nack::Gap { need: Seq(MAX) }),
        Frame::Nack(Nack::Gap { need: Seq(0) }),
        Frame::Nack(Nack::Unavailable { retry_ms: u32::MAX }),
        Frame::Nack(Nack::Unavailable { retry_ms: 0 }),
        Frame::Nack(Nack::Waiting {
            cause: ApplyCause::Forked,
        }),
        refused(epoch, MAX, [0xff; 5]),
        refused(epoch, 0, *b"23505"),
        refused(Epoch(MAX), 1, *b"23505"),
        Frame::Updates {
            first: Seq(MAX - 1),
            run: &[0],
        },
        Frame::Updates {
            first: Seq(1 << 40),
            run: &[1, 7, 1, 7],
        },
        Frame::Fragment {
            seq: Seq(MAX - 1),
            total: u32::MAX,
            chunk: 1,
            index: u16::MAX,
            bytes: &[7],
        },
        Frame::Fragment {
            seq: Seq(2),
            total: u32::MAX,
            chunk: u16::MAX,
            index: u16::MAX - 1,
            bytes: &[],
        },
    ];
    // An inconsistent fragment is refused by the decoder: nothing of it is looked at.
    for (epoch, seq) in [
        (epoch, MAX),
        (epoch, MAX - 1),
        (Epoch(MAX), MAX),
        (Epoch(0), 0),
        (epoch, 1 << 63),
    ] {
        frames.push(welcome(far(epoch, seq), all));
        frames.push(welcome(far(epoch, seq), none));
    }
    frames
}

#[test]
fn absurd_numbers_of_a_node_with_real_keys_harm_nobody() {
    let mut w = world();
    w.kill("AS1");
    let mut liar = Insider::new(&w, "AS1");
    liar.meet(NA);
    liar.wait("NA1 opens its lane", |liar| liar.hello(NA).is_some());
    let (token, epoch, _) = liar.hello(NA).expect("waited for");
    // Counters of packets and of the session at their ends.
    liar.number = MAX - 2_000;
    let lies = absurd(epoch, token);
    for (i, lie) in lies.iter().enumerate() {
        liar.pump();
        liar.say(NA, std::slice::from_ref(lie));
        for (seq, credit) in [(MAX, u32::MAX), (MAX, 0), (3, 0)] {
            let position = Position {
                epoch,
                seq: Seq(seq),
                tag: Tag(MAX),
            };
            let credit = Credit {
                updates: credit,
                bytes: credit,
            };
            let ack = liar.ack(
                NA,
                Some(Progress {
                    position,
                    clean: position.seq,
                    credit,
                }),
            );
            liar.say(NA, &[Frame::Ack(ack), lie.clone()]);
        }
        // Bytes that are no frames at all.
        let noise: Vec<u8> = (0..i * 31 % 1198).map(|n| (n * 37 + i) as u8).collect();
        liar.say_bytes(NA, &noise);
        if i % 6 == 0 {
            count_up(&w, "NA1", 1);
            count_up(&w, "EU1", 1);
        }
    }
    liar.number = MAX - 1;
    for _ in 0..3 {
        liar.say(NA, &[Frame::Ping]);
    }
    let steve = 3 + 2 * lies.len().div_ceil(6);
    wait_kills(&w, &["NA", "EU"], steve);
    assert_eq!(
        w.alarm("NA1", "violation").map(|a| a.detail),
        None,
        "a lie that is no violation"
    );
    // Packets that NA1 has never sent.
    liar.begin_anew();
    liar.meet(NA);
    let mut ack = liar.ack(NA, None);
    ack.largest = MAX;
    ack.first = MAX;
    liar.say(NA, &[Frame::Ack(ack)]);
    w.wait("that is a violation", || {
        w.alarm("NA1", "violation").is_some()
    });
    let before = log(&w, "NA1").len();
    for _ in 0..2000 {
        liar.say(NA, &[Frame::Appended { tail: Seq(MAX) }]);
        liar.pump();
    }
    count_up(&w, "NA1", 1);
    wait_kills(&w, &["NA", "EU"], steve + 1);
    let written = log(&w, "NA1").len() - before;
    let stand = alarms(&w, "NA1");
    assert!(stand.len() < 20, "{} alarms: {stand:?}", stand.len());
    assert!(written < 4096, "{written} bytes of log for 2000 lies");
    drop(liar);
    recovers(&mut w, steve + 1);
}

#[test]
fn the_last_counter_of_a_session_is_the_end_of_that_session_only() {
    let mut w = world();
    w.kill("AS1");
    let mut liar = Insider::new(&w, "AS1");
    liar.meet(NA);
    for counter in [1 << 20, 1 << 62, MAX - 2, MAX - 1, MAX] {
        liar.member.skip_to(NA, counter);
        liar.say(NA, &[Frame::Ping]);
        liar.pump();
    }
    count_up(&w, "NA1", 1);
    count_up(&w, "EU1", 1);
    wait_kills(&w, &["NA", "EU"], 5);
    drop(liar);
    recovers(&mut w, 5);
}

#[test]
fn a_key_is_good_for_its_own_node_only() {
    let mut w = world();
    let stolen = crate::target::key(&w, "AS1");
    let own = crate::target::key(&w, "EU1");
    w.kill("EU1");
    // At its own start already.
    let data = w.cluster.nodes[w.cluster.node("EU1")].data.clone();
    std::fs::copy(
        w.cluster.nodes[w.cluster.node("AS1")].data.join("node.key"),
        data.join("node.key"),
    )
    .expect("copied");
    let eu = w.cluster.node("EU1");
    w.cluster.start(eu).expect("a process");
    wait_for(LIMIT, || !w.cluster.runs(eu)).expect("EU1 refuses to start");
    let said = log(&w, "EU1");
    assert!(said.contains("EU1") && said.contains("key"), "{said}");
    // By force: a process that takes AS1's key for EU1's.
    let before = crate::target::dropped(&w, "NA1", "unknown_node");
    let mut forced = Insider::with(&w, "EU1", &stolen, MAX);
    forced.wait("NA1 drops its calls", |_| {
        crate::target::dropped(&w, "NA1", "unknown_node") > before
    });
    assert!(!forced.member.is_up(NA) && !forced.member.is_up(NodeId(2)));
    assert_ne!(public_key(stolen.bytes()), public_key(own.bytes()));
    drop(forced);
    std::fs::remove_file(data.join("node.key")).expect("removed");
    own.write_new(&data.join("node.key")).expect("written");
    w.start(&["EU1"]);
    count_up(&w, "EU1", 1);
    wait_kills(&w, &["NA", "EU", "AS"], 4);
}
