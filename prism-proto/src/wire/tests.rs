//! The bytes are fixed, what is written is read, and nothing that comes in does harm.

use std::{format, string::String, vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{ApplyCause, Epoch, Position, Refusal, RefusalClass, RegionKey, Seq, Tag};

const HEADER: Header = Header {
    from: 0x0403_0201,
    to: 0x0807_0605,
    pn: 300,
};

fn hex(frame: &Frame<'_>) -> String {
    let mut buffer = [0; 1200];
    let mut writer = Writer::new(&mut buffer, HEADER).expect("room");
    assert!(writer.push(frame));
    let len = writer.written();
    let (header, frames) = decode(&buffer[..len]).expect("valid");
    assert_eq!(header, HEADER);
    assert_eq!(frames.collect::<Vec<_>>(), vec![frame.clone()]);
    // version, from, to, and 300 as a varint
    assert_eq!(buffer[..11], [1, 1, 2, 3, 4, 5, 6, 7, 8, 0xac, 0x02]);
    buffer[11..len].iter().map(|b| format!("{b:02x}")).collect()
}

/// If one of these changes, nodes of the last release no longer understand this one: raise
/// [`VERSION`] then.
#[test]
fn golden_bytes() {
    let position = Position {
        epoch: Epoch(0x80),
        seq: Seq(17),
        tag: Tag(1),
    };
    let credit = Credit {
        updates: 4096,
        bytes: 5,
    };
    let progress = Progress {
        position,
        clean: Seq(16),
        credit,
    };
    let ack = |more: &[(u64, u64)], progress| {
        Frame::Ack(Ack {
            largest: 9,
            delay_us: 200,
            first: 2,
            more: heapless::Vec::from_slice(more).expect("fits"),
            progress,
        })
    };
    let refusal = Refusal {
        epoch: Epoch(0x80),
        seq: Seq(3),
        class: RefusalClass::Constraint,
        sqlstate: *b"23505",
    };
    let golden: &[(Frame<'_>, &str)] = &[
        (Frame::Ping, "00"),
        (
            Frame::Hello {
                token: 7,
                epoch: Epoch(0x80),
                tail: Seq(17),
            },
            "0107800111",
        ),
        (
            Frame::Welcome {
                token: 7,
                position,
                clean: Seq(16),
                credit,
            },
            "02078001110110802005",
        ),
        (ack(&[], None), "0309c801020000"),
        (
            ack(&[(0, 1)], Some(progress)),
            "0309c80102010001018001110110802005",
        ),
        (
            Frame::Nack(Nack::Missing {
                from: Seq(4),
                to: Seq(6),
            }),
            "04000406",
        ),
        (
            Frame::Nack(Nack::Refused(refusal)),
            "0401800103013233353035",
        ),
        (
            Frame::Nack(Nack::Unavailable { retry_ms: 1000 }),
            "0402e807",
        ),
        (Frame::Nack(Nack::Gap { need: Seq(5) }), "040305"),
        (
            Frame::Nack(Nack::Waiting {
                cause: ApplyCause::Dependency,
            }),
            "040402",
        ),
        (
            Frame::RefusedAck {
                epoch: Epoch(0x80),
                seq: Seq(3),
            },
            "05800103",
        ),
        (
            Frame::Updates {
                first: Seq(18),
                run: &[2, 0xaa, 0xbb, 0, 1, 0xcc],
            },
            "06120602aabb0001cc",
        ),
        (
            Frame::Fragment {
                seq: Seq(18),
                total: 5,
                chunk: 3,
                index: 1,
                bytes: &[0xdd, 0xee],
            },
            "071205030102ddee",
        ),
        (Frame::Appended { tail: Seq(17) }, "0811"),
        (
            Frame::Acked {
                region: RegionKey(1),
                seq: Seq(2),
                clean: Seq(1),
            },
            "09010201",
        ),
    ];
    for (frame, bytes) in golden {
        assert_eq!(hex(frame), *bytes, "{frame:?}");
    }
}

#[test]
fn what_is_wrong_is_an_error() {
    assert_eq!(decode(&[]).err(), Some(WireError::Short));
    assert_eq!(decode(&[2, 0, 0]).err(), Some(WireError::Version(2)));
    assert_eq!(decode(&[1; 9]).err(), Some(WireError::Short));
    let datagram = |frames: &[u8]| {
        let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(frames);
        decode(&bytes).map(|_| ()).err()
    };
    assert_eq!(datagram(&[0]), None);
    let bad: &[&[u8]] = &[
        // an unknown frame, alone and after a good one
        &[10],
        &[0, 99],
        // a run that is longer than the datagram, or whose payloads do not fill it
        &[6, 1, 5, 0],
        &[6, 1, 2, 5, 0],
        // seq 0
        &[6, 0, 0],
        // an ACK that runs below zero
        &[3, 1, 0, 2, 0, 0],
        // a piece behind the end, of the wrong length, of length 0
        &[7, 1, 5, 3, 2, 1, 0],
        &[7, 1, 5, 3, 0, 2, 0, 0],
        &[7, 1, 5, 0, 0, 0],
    ];
    for frames in bad {
        assert_eq!(datagram(frames), Some(WireError::Frame), "{frames:?}");
    }
}

#[test]
fn a_run_is_written_in_place() {
    for sizes in [
        vec![],
        vec![0],
        vec![3, 0, 100],
        vec![127],
        vec![128, 300, 1],
        vec![1000],
    ] {
        let payloads: Vec<Vec<u8>> = sizes.iter().map(|n| vec![*n as u8; *n]).collect();
        let mut buffer = [0; 1200];
        let mut run = RunWriter::new(&mut buffer, Seq(9)).expect("room");
        assert!(payloads.iter().all(|p| run.push(p)));
        let len = run.finish();
        // The same bytes as by way of postcard.
        let (frame, rest): (Frame<'_>, _) =
            postcard::take_from_bytes(&buffer[..len]).expect("valid");
        assert!(rest.is_empty());
        let mut again = [0; 1200];
        assert_eq!(
            postcard::to_slice(&frame, &mut again).expect("room"),
            &buffer[..len]
        );
        let Frame::Updates { first: Seq(9), run } = frame else {
            panic!("{frame:?}");
        };
        assert_eq!(Run::new(run).collect::<Vec<_>>(), payloads);
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), plausible: bool) {
        let mut bytes = bytes;
        if plausible && let Some(first) = bytes.first_mut() {
            *first = VERSION;
        }
        if let Ok((_, frames)) = decode(&bytes) {
            for frame in frames {
                if let Frame::Ack(ack) = frame {
                    let ranges = ack.ranges().expect("checked");
                    prop_assert!(ranges.windows(2).all(|w| w[0].end + 1 < w[1].start));
                }
            }
        }
    }

    #[test]
    fn damaged_datagrams_never_panic(flip in 0usize..60, bit in 0u8..8, cut in 0usize..60) {
        let mut buffer = [0; 1200];
        let mut writer = Writer::new(&mut buffer, HEADER).expect("room");
        let frames = [
            Frame::Hello { token: 1, epoch: Epoch(u64::MAX), tail: Seq(3) },
            Frame::Updates { first: Seq(u64::MAX - 2), run: &[1, 2, 0] },
            Frame::Nack(Nack::Gap { need: Seq(1) }),
        ];
        prop_assert!(frames.iter().all(|f| writer.push(f)));
        let len = writer.written();
        let len = len - cut.min(len);
        if let Some(b) = buffer[..len].get_mut(flip) {
            *b ^= 1 << bit;
        }
        if let Ok((_, frames)) = decode(&buffer[..len]) {
            let _all = frames.count();
        }
    }

    #[test]
    fn ranges_survive_the_wire(pns in proptest::collection::btree_set(0u64..60, 1..40)) {
        let mut ranges = crate::ranges::Ranges::new();
        for pn in &pns {
            ranges.insert(*pn);
        }
        let ack = Ack::new(&ranges, 0, None).expect("something");
        let mut back: Vec<_> = ack.ranges().expect("valid").to_vec();
        back.reverse();
        prop_assert_eq!(&back[..], ranges.as_slice());
    }
}
