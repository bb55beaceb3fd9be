//! Sessions are replaced by fresh ones while data flows.

use super::*;

fn with(config: EndpointConfig, change: impl FnOnce(&mut Limits)) -> EndpointConfig {
    let mut config = config;
    change(&mut config.limits);
    config
}

fn local(s: &Sessions, of: NodeId) -> u32 {
    s.peers[usize::from(of.0)].current.as_ref().unwrap().local
}

#[test]
fn whatever_the_wire_delivers_is_taken_while_keys_change_under_loss() {
    for (seed, lost) in [(1, 50), (2, 50), (3, 30), (4, 0), (5, 60)] {
        let short = |limits: &mut Limits| {
            limits.rekey_after = Duration::from_secs(2);
            limits.session_ends = Duration::from_secs(20);
        };
        let a = with(sealed(0, seed), short);
        let b = with(sealed(1, seed + 100), short);
        let (a, b) = connected(&a, &b);
        let mut ends = [a, b];
        let mut rng = Rng::new(seed);
        // (arrival, receiver, packet)
        let mut flying: Vec<(Instant, usize, Vec<u8>)> = Vec::new();
        let mut sessions = std::collections::BTreeSet::new();
        let mut taken = 0;
        for tick in 0..6000u64 {
            let now = at(10 * tick);
            for (i, end) in ends.iter_mut().enumerate() {
                let to = NodeId(1 - i as u16);
                assert_eq!(end.expire(now), None, "the session was lost");
                let mut packets = outgoing(end, now);
                packets.extend(data(end, now, to, b"data"));
                for packet in packets {
                    if rng.next() % 100 >= lost {
                        // Some are overtaken by ten others.
                        let late = if rng.next().is_multiple_of(10) {
                            120
                        } else {
                            15
                        };
                        flying.push((at(10 * tick + late), 1 - i, packet));
                    }
                }
                sessions.insert((i, local(end, to)));
            }
            flying.retain(|(arrival, to, packet)| {
                if *arrival <= now {
                    let from = address(1 - *to as u16);
                    let result = receive(&mut ends[*to], now, from, packet);
                    if packet[0] == 4 {
                        assert!(result.is_ok(), "{lost} % at {now:?}: {result:?}");
                        taken += 1;
                    }
                    assert!(
                        result.is_ok_and(|(change, _)| change == Change::None) || packet[0] != 4
                    );
                }
                *arrival > now
            });
        }
        assert!(
            sessions.len() >= 20,
            "{} sessions in a minute",
            sessions.len()
        );
        assert!(taken > 1000);
    }
}

#[test]
fn after_so_many_packets_there_are_fresh_keys() {
    let few = |limits: &mut Limits| limits.rekey_packets = 100;
    let (mut a, mut b) = connected(&with(sealed(0, 1), few), &with(sealed(1, 2), few));
    let mut before = local(&a, B);
    let mut changes = 0;
    // Later than handshakes can have crossed.
    for n in 3000..4000 {
        let packet = data(&mut a, at(n), B, b"x").unwrap();
        assert!(body(&mut b, at(n), &packet).is_ok());
        if a.deadline().is_some_and(|due| due <= at(n)) {
            talk(&mut a, &mut b, at(n));
        }
        if local(&a, B) != before {
            before = local(&a, B);
            changes += 1;
        }
    }
    assert!((8..=10).contains(&changes), "{changes} new sessions");
}

#[test]
fn a_session_that_cannot_be_replaced_ends() {
    let (mut a, mut b) = pair();
    let mut now = at(0);
    let mut down = None;
    while down.is_none() {
        if let Some(node) = a.expire(now) {
            down = Some((node, now));
        }
        // Handshakes are lost, everything else arrives.
        for packet in outgoing(&mut a, now) {
            if packet[0] == 4 {
                let _ = receive(&mut b, now, address(0), &packet);
            }
        }
        if let Some(packet) = data(&mut b, now, A, b"x") {
            let _ = receive(&mut a, now, address(1), &packet);
        }
        now = now.after(Duration::from_millis(500));
        assert!(now < at(200_000), "keys are used for ever");
    }
    assert_eq!(down, Some((B, at(180_000))));
    assert!(data(&mut a, now, B, b"x").is_none());
    assert!(data(&mut b, now, A, b"x").is_none());
}

#[test]
fn an_hour_needs_few_handshakes() {
    let (a, b) = pair();
    let mut ends = [a, b];
    let (mut now, mut initiations) = (at(0), 0);
    while now < at(3_600_000) {
        for i in 0..2 {
            assert_eq!(ends[i].expire(now), None);
            for packet in outgoing(&mut ends[i], now) {
                initiations += u32::from(packet[0] == 1);
                let from = address(i as u16);
                let (change, _) = receive(&mut ends[1 - i], now, from, &packet).unwrap();
                assert_eq!(change, Change::None);
            }
        }
        let next = ends[0].deadline().min(ends[1].deadline()).unwrap();
        now = next.max(now.after(Duration::from_millis(1)));
    }
    assert!(
        (29..=31).contains(&initiations),
        "{initiations} initiations"
    );
}
